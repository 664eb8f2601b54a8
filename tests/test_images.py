"""The decoder against known pixels: what a photo looks like must not depend on how it is stored."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hostile_photos import EXIF_ORIENTATION, raw_photo, scene, to_bytes, write_hostile_photos
from PIL import Image, ImageCms

from tmcr.errors import ImageError
from tmcr.images import ImageLimits, _transform_to_srgb, content_hash, decode, find_photos, full_size

# What each EXIF orientation says about stored pixels: how to see them upright.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
# How far, on average, a channel may be off by the way the photo is stored.
EXACT = ("plain png", "plain tif", "plain bmp", "16 bit colour png", "animated png")
GREY = ("grey", "16 bit grey png", "16 bit grey tiff", "float tiff")
OTHER = ("alpha", "alpha webp", "palette with alpha", "black and white", "large", "panorama", "profile of another kind")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict[str, tuple[Path, str]]]:
    return write_hostile_photos(tmp_path_factory.mktemp("hostile"))


def apart(image: Image.Image, other: np.ndarray | Image.Image) -> float:
    return float(np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean())


def test_unusual_photos_look_as_they_should(photos: tuple[dict[str, Path], dict[str, tuple[Path, str]]]) -> None:
    for kind, path in photos[0].items():
        image = decode(path)
        assert image.mode == "RGB", kind
        if kind in EXACT:
            assert apart(image, scene()) == 0, kind
        elif kind in GREY:
            assert apart(image, scene().convert("L").convert("RGB")) < 4, kind
        elif kind not in OTHER and not kind.startswith("orientation"):
            assert apart(image, scene()) < 11, kind


def test_broken_photos_are_refused_for_their_reason(
    photos: tuple[dict[str, Path], dict[str, tuple[Path, str]]],
) -> None:
    for kind, (path, reason) in photos[1].items():
        with pytest.raises(ImageError) as caught:
            decode(path)
        assert caught.value.reason == reason, kind
        assert "\n" not in caught.value.detail, kind
        assert caught.value.source == str(path), kind


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_all_eight_orientations_are_turned_upright(orientation: int, kind: str) -> None:
    stored = np.asarray(scene(24, 16))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image = decode(to_bytes(Image.fromarray(stored), kind, exif=exif))
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT[orientation](stored))


def test_a_phone_jpeg_is_upright_at_any_size_it_is_decoded_for() -> None:
    picture = scene(1600, 1200)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    data = to_bytes(picture, "JPEG", exif=exif, quality=95)
    upright = Image.fromarray(np.ascontiguousarray(UPRIGHT[6](np.asarray(picture))))
    for side in (None, 100):
        decoded = decode(data, target_side=side)
        assert full_size(decoded) == (1200, 1600)
        image = decoded.resize((60, 80), Image.Resampling.BOX)
        assert apart(image, upright.resize((60, 80), Image.Resampling.BOX)) < 3


def test_transparency_shows_the_stated_background() -> None:
    clear = scene(16, 16)
    clear.putalpha(Image.new("L", clear.size, 0))
    half = scene(16, 16)
    half.putalpha(Image.new("L", half.size, 51))
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        assert set(np.asarray(decode(to_bytes(clear, kind, **options))).ravel()) == {255}
        black = decode(to_bytes(clear, kind, **options), background=(0, 0, 0))
        assert set(np.asarray(black).ravel()) == {0}
    mixed = decode(to_bytes(half, "PNG"), background=(10, 20, 30))
    assert apart(mixed, np.asarray(scene(16, 16)) * 0.2 + np.array([10, 20, 30]) * 0.8) < 1
    keyed = Image.new("P", (16, 16), 3)
    keyed.putpalette([0, 0, 0, 9, 9, 9, 0, 0, 0, 200, 0, 0])
    assert decode(to_bytes(keyed, "PNG", transparency=3), background=(1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


def test_the_first_frame_of_an_animation_counts() -> None:
    first, second = Image.new("RGB", (20, 20), (200, 30, 30)), Image.new("RGB", (20, 20), (0, 0, 250))
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = to_bytes(first, kind, save_all=True, append_images=[second])
        red, _, blue = decode(data).getpixel((10, 10))
        assert red > 150 > blue, kind


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 256, 257, 32768, 65280, 65535] * 2] * 8, dtype=np.uint16)
    for data in (to_bytes(Image.fromarray(values), kind) for kind in ("PNG", "TIFF")):
        grey = np.asarray(decode(data))[0, :6, 0]
        np.testing.assert_array_equal(grey, [0, 1, 1, 128, 254, 255])


def test_colours_are_converted_to_srgb() -> None:
    # A flat patch in Lab, declared by a profile, has one right colour in sRGB.
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.createProfile("sRGB")
    patch = Image.new("RGB", (16, 16), (180, 90, 40))
    as_lab = ImageCms.profileToProfile(patch, srgb, lab, outputMode="LAB")
    data = to_bytes(as_lab, "TIFF", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    assert apart(decode(data), patch) < 2
    # The same numbers mean another colour under a linear profile with sRGB's primaries.
    linear = to_bytes(patch, "PNG", icc_profile=gamma_one_profile())
    red, green, blue = decode(linear).getpixel((8, 8))
    expected = [255 * srgb_curve(value / 255) for value in (180, 90, 40)]
    np.testing.assert_allclose([red, green, blue], expected, atol=3)


def test_a_profile_that_many_photos_share_is_read_once_and_gives_each_the_same_colours() -> None:
    _transform_to_srgb.cache_clear()
    patches = [Image.new("RGB", (16, 16), (level, 90, 40)) for level in (20, 120, 220)]
    profile = ImageCms.ImageCmsProfile(io.BytesIO(gamma_one_profile()))
    files = [to_bytes(patch, "PNG", icc_profile=profile.tobytes()) for patch in patches]
    for _ in range(2):
        for patch, file in zip(patches, files, strict=True):
            plainly = ImageCms.profileToProfile(patch, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            np.testing.assert_array_equal(np.asarray(decode(file)), np.asarray(plainly))
    assert _transform_to_srgb.cache_info().misses == 1
    with ThreadPoolExecutor(2) as pool:
        assert len({image.getpixel((0, 0)) for image in pool.map(decode, files[1:2] * 8)}) == 1


def srgb_curve(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def gamma_one_profile() -> bytes:
    """The sRGB profile with its three tone curves replaced by the identity, same length."""
    import struct

    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (tags,) = struct.unpack_from(">I", data, 128)
    for entry in range(tags):
        signature, offset, size = struct.unpack_from(">4sII", data, 132 + 12 * entry)
        if signature in (b"rTRC", b"gTRC", b"bTRC"):
            data[offset : offset + size] = (b"curv" + bytes(8)).ljust(size, b"\0")[:size]
        if signature == b"desc":  # must not be taken for sRGB by its name
            data[offset + 12 : offset + size] = (
                bytes(data[offset + 12 : offset + size]).replace(b"s\0R\0G\0B", b"l\0i\0n\0r").replace(b"sRGB", b"linr")
            )
    return bytes(data)


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size() -> None:
    picture = scene(4000, 3000)
    data = to_bytes(picture, "JPEG", quality=90)
    small = decode(data, target_side=224)
    assert small.size == (500, 375)  # the smallest that leaves DRAFT_MARGIN times the pixels needed
    assert decode(data, target_side=350).size == (1000, 750)
    full = decode(data)
    assert full.size == (4000, 3000)
    side = (224, 168)
    assert apart(small.resize(side, Image.Resampling.BICUBIC), full.resize(side, Image.Resampling.BICUBIC)) < 1.5


def test_limits_on_pixels_bytes_and_sides() -> None:
    data = to_bytes(scene(100, 50), "PNG")
    for limits, reason in (
        (ImageLimits(max_pixels=4999), "too_large"),
        (ImageLimits(max_bytes=len(data) - 1), "too_large"),
        (ImageLimits(min_side=51), "too_small"),
    ):
        with pytest.raises(ImageError) as caught:
            decode(data, limits=limits)
        assert caught.value.reason == reason
    exactly = ImageLimits(max_pixels=5000, max_bytes=len(data), min_side=50)
    assert decode(data, limits=exactly).size == (100, 50)


def test_pillows_own_limit_does_not_refuse_what_ours_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # it refuses twice as many
    assert decode(to_bytes(scene(100, 50), "PNG")).size == (100, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(to_bytes(scene(100, 50), "PNG")).size == (100, 50)
    assert Image.MAX_IMAGE_PIXELS is None


def test_where_warnings_are_errors_one_of_a_decoder_is_an_image_error() -> None:
    exif = b"II*\0" + bytes([8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 9, 0, 0, 0, 0xFF, 0xFF, 0, 0])  # counts past its end
    data = to_bytes(scene(32, 24), "JPEG", exif=b"Exif\0\0" + exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError):
            decode(data)
        warnings.simplefilter("ignore")
        assert decode(data).size == (32, 24)


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    picture = scene(40, 30)
    path = tmp_path / "photo.png"
    picture.save(path)
    data = path.read_bytes()
    pixels = np.asarray(picture)
    deep = pixels.astype(np.uint16) * 257
    for source in (str(path), path, data, io.BytesIO(data), picture, pixels, deep, pixels / 255.0):
        np.testing.assert_array_equal(np.asarray(decode(source)), pixels)
    grey = decode(pixels[:, :, 0])
    np.testing.assert_array_equal(np.asarray(grey)[:, :, 2], pixels[:, :, 0])
    for odd in (np.zeros((3, 40, 30, 3)), np.zeros((30, 40, 2)), np.zeros((20, 20), dtype=complex), np.zeros((0, 9))):
        with pytest.raises(ImageError):
            decode(odd)


def test_the_source_is_left_as_it_was() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    image = Image.open(io.BytesIO(to_bytes(scene(), "JPEG", exif=exif)))
    decode(image)
    assert image.size == (120, 80)
    stream = io.BytesIO(to_bytes(scene(), "PNG"))
    decode(stream)
    assert not stream.closed


def test_damage_anywhere_in_a_file_is_an_image_error_or_a_picture_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = to_bytes(scene(48, 32), kind)
        for _ in range(60):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), 8):
                data[place] = rng.integers(0, 256)
            with contextlib.suppress(ImageError):
                assert decode(bytes(data[: rng.integers(1, len(data) + 1)])).mode == "RGB"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (("pipe.jpg", "unreadable"), ("folder.jpg", "unreadable"), ("gone.jpg", "missing")):
        with pytest.raises(ImageError) as caught:
            decode(tmp_path / name)
        assert caught.value.reason == reason
    with pytest.raises(ImageError) as caught:
        decode("nul\0byte.jpg")
    assert caught.value.reason in ("missing", "unreadable")


@pytest.mark.parametrize(("name", "package"), [("raw.nef", "rawpy"), ("phone.heic", "pillow_heif")])
def test_formats_whose_decoder_is_an_extra_say_how_to_get_it(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(ImageError, match=r"tmcr\[raw\]") as caught:
        decode(tmp_path / name)
    assert caught.value.reason == "unsupported"


def test_heic_is_decoded_upright_and_a_damaged_one_refused(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    buffer = io.BytesIO()
    picture = scene(160, 96)
    pillow_heif.from_pillow(picture).save(buffer, quality=90, exif=exif.tobytes())
    (tmp_path / "phone.heic").write_bytes(buffer.getvalue())
    shown = decode(tmp_path / "phone.heic")
    assert shown.size == (96, 160)
    upright = np.asarray(picture.transpose(Image.Transpose.ROTATE_270), dtype=np.float64)
    assert np.abs(np.asarray(shown, dtype=np.float64) - upright).mean() < 8
    with pytest.raises(ImageError) as caught:
        decode(buffer.getvalue()[:900] + bytes(400))
    assert caught.value.reason in ("truncated", "not_an_image")
    with pytest.raises(ImageError) as caught:
        decode(tmp_path / "phone.heic", limits=ImageLimits(max_pixels=1000))
    assert caught.value.reason == "too_large"


def test_raw_is_developed_and_a_damaged_one_refused(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    picture = Image.new("RGB", (160, 96), (200, 60, 40))
    picture.paste((40, 80, 200), (80, 0, 160, 96))
    whole = raw_photo(picture)
    (tmp_path / "camera.dng").write_bytes(whole)
    shown = np.asarray(decode(tmp_path / "camera.dng"), dtype=np.int64)
    assert shown.shape == (48, 80, 3)  # half the size: one pixel a mosaic cell
    left, right = shown[24, 20], shown[24, 60]
    assert left[0] > left[1] + 50 > left[2]
    assert right[2] > right[0] + 50
    (tmp_path / "cut.dng").write_bytes(whole[:300])
    with pytest.raises(ImageError) as caught:
        decode(tmp_path / "cut.dng")
    assert caught.value.reason == "truncated"
    with pytest.raises(ImageError) as caught:
        decode(tmp_path / "camera.dng", limits=ImageLimits(max_pixels=1000))
    assert caught.value.reason == "too_large"


def test_photos_are_found_by_file_folder_and_glob(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "deep/er/c.webp", ".cache/d.jpg", "odd [1].jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found = [str(path.relative_to(tmp_path)) for path in find_photos([tmp_path])]
    assert found == ["a.PNG", "b.jpg", "odd [1].jpg", "deep/er/c.webp"]
    assert [path.name for path in find_photos([tmp_path / "*.jpg"])] == ["b.jpg", "odd [1].jpg"]
    assert [path.name for path in find_photos([tmp_path / "odd [1].jpg"])] == ["odd [1].jpg"]
    assert [path.name for path in find_photos([f"{tmp_path}/**/*.webp"])] == ["c.webp"]
    assert [path.name for path in find_photos([tmp_path / "gone.jpg", tmp_path / "*.none"])] == ["gone.jpg"]


def test_a_link_that_leads_nowhere_costs_its_own_row_and_not_its_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "z.jpg", "below/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "up.jpg").symlink_to(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in find_photos([tmp_path])]
    assert found == ["a.jpg", "loop.jpg", "z.jpg", "below/c.jpg"]


def test_the_content_hash_is_of_the_content() -> None:
    data = to_bytes(scene(), "PNG")
    assert content_hash(data) == content_hash(io.BytesIO(data))
    assert content_hash(data) != content_hash(data + b"\0")
    assert content_hash(scene()) == content_hash(np.asarray(scene())) != content_hash(scene(seed=1))
