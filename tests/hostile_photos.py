"""A folder with every kind of photo that breaks things: most are fine and unusual, some are broken."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

EXIF_ORIENTATION = 0x0112


def scene(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    """A photo-like RGB picture without symmetry: a ramp, a bright disc off the centre and some texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x / width, y / height, 1 - x / width], 2) * 200
    pixels[(x - width * 0.3) ** 2 + (y - height * 0.35) ** 2 < (height / 5) ** 2] = (250, 220, 60)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8))


def write_hostile_photos(folder: Path) -> tuple[dict[str, Path], dict[str, tuple[Path, str]]]:
    """Unusual photos by kind, and broken ones by kind with the reason that they must be refused for."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = scene()
    good: dict[str, Path] = {}
    bad: dict[str, tuple[Path, str]] = {}

    def put(kind: str, name: str, data: bytes | None = None) -> Path:
        good[kind] = folder / name
        if data is not None:
            good[kind].write_bytes(data)
        return good[kind]

    def spoil(kind: str, name: str, reason: str, data: bytes) -> None:
        (folder / name).write_bytes(data)
        bad[kind] = (folder / name, reason)

    for suffix in ("jpg", "png", "webp", "avif", "tif", "bmp", "gif", "jp2"):
        picture.save(put(f"plain {suffix}", f"plain.{suffix}"))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        picture.save(put(f"orientation {orientation}", f"turned {orientation}.jpg"), exif=exif)
    picture.convert("CMYK").save(put("cmyk", "cmyk.jpg"))
    picture.convert("CMYK").save(put("cmyk tiff", "cmyk.tif"))
    picture.convert("L").save(put("grey", "grey.jpg"))
    picture.convert("1").save(put("black and white", "bilevel.png"))
    deep = (np.asarray(picture.convert("L"), dtype=np.uint16) * 257).astype(np.uint16)
    Image.fromarray(deep).save(put("16 bit grey png", "deep.png"))
    Image.fromarray(deep).save(put("16 bit grey tiff", "deep.tif"))
    put("16 bit colour png", "deep colour.png", sixteen_bit_png(np.asarray(picture, dtype=np.uint16) * 257))
    Image.fromarray(np.asarray(picture.convert("L"), dtype=np.float32)).save(put("float tiff", "float.tif"))
    picture.quantize(32).save(put("palette", "palette.png"))
    picture.convert("LAB").save(put("lab tiff", "lab.tif"))
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    clear.save(put("alpha", "alpha.png"))
    clear.save(put("alpha webp", "alpha.webp"))
    clear.quantize(32).save(put("palette with alpha", "palette alpha.png"))
    frames = [scene(seed=seed) for seed in (0, 1)] + [Image.new("RGB", picture.size, "red")]
    for suffix in ("gif", "webp", "png"):
        path = put(f"animated {suffix}", f"moving.{suffix}")
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    picture.save(put("profile of another kind", "lab profile.jpg"), icc_profile=profile)
    picture.save(put("broken profile", "broken profile.jpg"), icc_profile=b"no profile at all")
    picture.save(put("progressive", "progressive.jpg"), progressive=True)
    scene(3000, 2000).save(put("large", "large.jpg"), quality=70)
    picture.resize((2000, 9)).save(put("panorama", "panorama.png"))
    picture.save(put("wrong suffix", "really a jpeg.png"), format="JPEG")
    for kind, name in (
        ("spaces", "  two  spaces .jpg"),
        ("unicode", "Straße 写真 📷.jpg"),
        ("newline", "line\nbreak.jpg"),
        ("dash", "-o.jpg"),
        ("markup", "<b>[red]&amp;.jpg"),
        ("formula", "=1+1.jpg"),
        ("not utf-8", os.fsdecode(b"caf\xe9.jpg")),
    ):
        picture.save(put(kind, name))

    whole = (folder / "plain.jpg").read_bytes()
    spoil("empty", "empty.jpg", "empty", b"")
    spoil("text", "text.jpg", "not_an_image", b"this is no photo")
    spoil("cut jpeg", "cut.jpg", "truncated", whole[: len(whole) // 2])
    spoil("cut png", "cut.png", "truncated", (folder / "plain.png").read_bytes()[:900])
    spoil("header only", "header.png", "not_an_image", (folder / "plain.png").read_bytes()[:40])
    spoil("bomb", "bomb.png", "too_large", png_header(60_000, 60_000))
    spoil("tiny", "tiny.png", "too_small", to_bytes(picture.resize((3, 2)), "PNG"))
    os.symlink(folder / "nowhere.jpg", folder / "dangling.jpg")
    bad["dangling link"] = (folder / "dangling.jpg", "missing")
    return good, bad


def raw_photo(picture: Image.Image) -> bytes:
    """A DNG as a camera would leave it: one linear 16-bit value a pixel behind a red–green–green–blue mosaic."""
    linear = (np.asarray(picture, dtype=np.float64) / 255) ** 2.2 * 60_000
    mosaic = np.empty(linear.shape[:2], dtype=np.uint16)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = linear[row::2, column::2, channel]
    xyz_to_camera = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)  # an sRGB sensor
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in (
        (271, 2, "Maker"), (272, 2, "Model"), (33421, 3, (2, 2)), (33422, 1, bytes([0, 1, 1, 2])),
        (50706, 1, bytes([1, 4, 0, 0])), (50708, 2, "Maker Model"), (50717, 4, 65_535),
        (50721, 10, tuple(TiffImagePlugin.IFDRational(round(10_000 * value), 10_000) for value in xyz_to_camera)),
        (50728, 5, (TiffImagePlugin.IFDRational(1, 1),) * 3),
    ):  # fmt: skip
        tags.tagtype[tag] = kind
        tags[tag] = value
    data = bytearray(to_bytes(Image.fromarray(mosaic), "TIFF", tiffinfo=tags))
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    for entry in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry)[0] == 262:  # Pillow says grey; a mosaic is 32803
            struct.pack_into("<H", data, entry + 8, 32_803)
    return bytes(data)


def to_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(1000)))


def sixteen_bit_png(pixels: np.ndarray) -> bytes:
    """An RGB PNG of 16 bits a channel, which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
