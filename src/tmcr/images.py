"""The one decoder: any photo in, an upright sRGB image out, or an `ImageError` that says why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from tmcr.errors import ImageError
from tmcr.streaming import sorted_names


@dataclass(frozen=True)
class PhotoBytes:
    """An encoded photo in memory, under the name that results and messages call it by."""

    name: str
    data: bytes = field(repr=False)


Source = str | os.PathLike[str] | bytes | BinaryIO | PhotoBytes | Image.Image | NDArray[np.generic]

HEIC_SUFFIXES = frozenset({".heic", ".heif"})
RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2"})
IMAGE_SUFFIXES = (
    frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".jp2", ".mpo"})
    | HEIC_SUFFIXES
    | RAW_SUFFIXES
)

_FULL_SIZE = "tmcr_full_size"  # in an image's info

# A JPEG may be decoded at a fraction of its size as long as its shorter side stays this many times the
# side that is needed: the frequencies that this leaves out are those that the resize after it would take away.
DRAFT_MARGIN = 1.1

# What Pillow's decoders raise on damaged data. Anything they find wrong, they say in one of these.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, EOFError,
    MemoryError, AssertionError, ZeroDivisionError, NotImplementedError, RuntimeError, struct.error, zlib.error,
    Warning,  # where the program that uses this library makes them errors
)  # fmt: skip


@dataclass(frozen=True)
class ImageLimits:
    """What is refused before it is decoded.

    Attributes:
        max_pixels: width × height, at most.
        max_bytes: size of the file, at most.
        min_side: shorter side in pixels, at least.
    """

    max_pixels: int = 200_000_000
    max_bytes: int = 512 * 2**20
    min_side: int = 8


def decode(
    source: Source,
    *,
    target_side: int | None = None,
    limits: ImageLimits | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> Image.Image:
    """Decode a photo to an upright RGB image in sRGB; the source is left as it was.

    Args:
        source: path, bytes (with or without a name), binary file object, PIL image, or array (H, W),
            (H, W, 1|3|4) of uint8, uint16 or floats in 0..1.
        target_side: shorter side that is needed. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where its
            shorter side stays at least `DRAFT_MARGIN` times this.
        limits: what to refuse.
        background: what shows through transparency; white, as on most pages a photo is seen on.

    Raises:
        ImageError: with the reason; nothing else.
    """
    limits = limits or ImageLimits()
    name = source_name(source)
    _let_pass(limits.max_pixels)
    if isinstance(source, np.ndarray):
        return _upright_rgb(_from_array(source, name), name, limits, background)
    if isinstance(source, Image.Image):
        try:
            return _upright_rgb(source.copy(), name, limits, background)
        except _DAMAGE as error:
            raise ImageError("truncated", f"the image cannot be decoded ({_brief(error)})", name) from None
    data = read_bytes(source, limits)
    suffix = Path(name).suffix.lower()
    if suffix in RAW_SUFFIXES and not data.startswith(b"\xff\xd8"):
        return _upright_rgb(_from_raw(data, name, limits), name, limits, background)
    try:
        image = _open(data, suffix, name, limits)
        full = image.size
        _check_size(full, name, limits)
        if target_side is not None and image.format in ("JPEG", "MPO"):
            image.draft("RGB", _draft_size(image.size, DRAFT_MARGIN * target_side))
        image.load()
        decoded = image.size
        upright = _upright_rgb(image, name, limits, background)
        upright.info[_FULL_SIZE] = full if upright.size == decoded else full[::-1]
        return upright
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not_an_image", "no decoder recognizes this file as an image", name) from None
    except Image.DecompressionBombError:
        raise ImageError("too_large", "the header claims far too many pixels", name) from None
    except _DAMAGE as error:
        raise ImageError("truncated", f"the file is damaged or cut short ({_brief(error)})", name) from None


def _let_pass(pixels: int) -> None:
    """Raise Pillow's own limit to ours, where it has one: sizes are checked before pixels are decoded."""
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = pixels


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of the upright photo that `decode` made an image of, at a fraction of its size or not."""
    return image.info.get(_FULL_SIZE, image.size)


def content_hash(source: Source) -> str:
    """Hex digest of a file's bytes, or of the decoded pixels of an image or array.

    Raises:
        ImageError: the source cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(source, np.ndarray | Image.Image):
        array = np.asarray(source)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    elif isinstance(source, PhotoBytes):
        digest.update(source.data)
    else:
        digest.update(read_bytes(source))
    return digest.hexdigest()


def source_name(source: Source) -> str:
    """How a source is called in results and messages."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "<image>")
    if isinstance(source, PhotoBytes):
        return source.name
    name = getattr(source, "name", "")
    return name if isinstance(name, str) and name else "<file>"


def find_photos(patterns: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Files named by files, folders (searched to the bottom, sorted, hidden names left out) and globs.

    What does not exist is yielded as it is, so that it becomes a row with an error instead of vanishing.
    """
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            yield from _photos_below(path)
        elif path.exists() or not any(mark in str(pattern) for mark in "*?["):
            yield path
        else:
            import glob

            found = sorted(glob.glob(str(pattern), recursive=True))
            yield from (Path(name) for name in found if not Path(name).is_dir())


def _photos_below(folder: Path) -> Iterator[Path]:
    """Photos in a folder, then in the folders in it; memory does not grow with their number."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        below: list[str] = []
        lost: list[Path] = []
        for name in sorted_names(_scan(here, below, lost)):
            yield here / name
        yield from lost  # become rows that say why they cannot be read
        waiting += [here / name for name in sorted(below, reverse=True)]


def _scan(folder: Path, below: list[str], lost: list[Path]) -> Iterator[str]:
    """Names of the photos in a folder as the system lists them.

    Its folders are added to `below`, and itself to `lost` where it cannot be read, or not to its end.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                elif Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not _links_to_folder(entry):
                    yield entry.name
    except OSError:
        lost.append(folder)


def _links_to_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link that leads to a folder, which is not followed: links could run in circles."""
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or to where nobody may look: a row that says so
        return False


def read_bytes(
    source: str | os.PathLike[str] | bytes | BinaryIO | PhotoBytes, limits: ImageLimits | None = None
) -> bytes:
    """The bytes of a path, file object or bytes, none more than the limit.

    Raises:
        ImageError: they cannot be had, are none, or are too many.
    """
    limits = limits or ImageLimits()
    name = source_name(source)
    if isinstance(source, PhotoBytes):
        data = source.data
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        try:
            with open(source, "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ImageError("unreadable", "this is no regular file", name)
                if status.st_size > limits.max_bytes:
                    raise _too_many_bytes(status.st_size, name, limits)
                data = file.read(limits.max_bytes + 1)
        except FileNotFoundError:
            raise ImageError("missing", "no such file", name) from None
        except IsADirectoryError:
            raise ImageError("unreadable", "this is a folder", name) from None
        except (OSError, ValueError) as error:
            raise ImageError("unreadable", f"cannot be read ({_brief(error)})", name) from None
    else:
        try:
            data = source.read(limits.max_bytes + 1)
        except (OSError, ValueError) as error:
            raise ImageError("unreadable", f"cannot be read ({_brief(error)})", name) from None
    if not data:
        raise ImageError("empty", "the file has no content", name)
    if len(data) > limits.max_bytes:
        raise _too_many_bytes(len(data), name, limits)
    return data


def _open_at_once(path: str, flags: int) -> int:
    """Open for reading, also a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open(data: bytes, suffix: str, name: str, limits: ImageLimits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc") or suffix in HEIC_SUFFIXES:
            return _from_heic(data, name, limits)
        raise


def _from_heic(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError("unsupported", "HEIC needs an extra: pip install 'tmcr[raw]'", name) from None
    container = pillow_heif.open_heif(io.BytesIO(data))
    _check_size(container.size, name, limits)  # nothing is decoded yet
    image: Image.Image = container.to_pillow()
    return image


def _from_raw(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    try:
        import rawpy
    except ImportError:
        raise ImageError("unsupported", "RAW needs an extra: pip install 'tmcr[raw]'", name) from None
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            _check_size((raw.sizes.raw_width, raw.sizes.raw_height), name, limits)
            return Image.fromarray(raw.postprocess(use_camera_wb=True, half_size=True))
    except (rawpy.LibRawError, *_DAMAGE) as error:
        raise ImageError("truncated", f"the RAW file is damaged ({_brief(error)})", name) from None


def _from_array(array: NDArray[np.generic], name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        shape = "×".join(map(str, array.shape))
        raise ImageError("unsupported", f"an array must be (H, W), (H, W, 3) or (H, W, 4), not {shape}", name)
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) * 255 + 32767) // 65535
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        values = array.astype(np.float64)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ImageError("unsupported", "a float array must hold numbers in 0..1, none missing", name)
        array = np.rint(values * 255)
    elif array.dtype != np.uint8:
        raise ImageError("unsupported", f"an array must be uint8, uint16 or float, not {array.dtype}", name)
    return Image.fromarray(np.ascontiguousarray(array.astype(np.uint8)))


def _upright_rgb(image: Image.Image, name: str, limits: ImageLimits, background: tuple[int, int, int]) -> Image.Image:
    _check_size(image.size, name, limits)
    # Broken metadata is no reason to refuse the pixels: without it the photo is shown as stored.
    with contextlib.suppress(*_DAMAGE):
        ImageOps.exif_transpose(image, in_place=True)
    profile = image.info.get("icc_profile")
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        image = _eight_bit(image)
    elif image.mode in ("P", "PA") or (image.mode in ("L", "1", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        image = image.convert("RGBA")
        below = Image.new("RGBA", image.size, (*background, 255))
        below.alpha_composite(image)
        image = below.convert("RGB")
    if profile:
        image = _to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale deep grey to 8 bits; Pillow's own conversion would clip it."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode == "F" and values.max() <= 1:
        scale = 255.0
    else:
        scale = 1.0 if values.max() <= 255 and image.mode in ("I", "F") else 255 / 65535
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


_SRGB = ImageCms.createProfile("sRGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert by the embedded profile; a broken or ill-fitting one is ignored."""
    try:
        transform = _transform_to_srgb(profile, image.mode, threading.get_ident())
        converted = ImageCms.applyTransform(image, transform) if transform is not None else None
    except (ImageCms.PyCMSError, *_DAMAGE):
        return image
    return converted if converted is not None else image


@lru_cache(maxsize=32)
def _transform_to_srgb(profile: bytes, mode: str, thread: int) -> ImageCms.ImageCmsTransform | None:
    """What brings pixels of a profile to sRGB, None where they are that already; one for each thread that asks.

    A camera writes the same profile into all its photos, and to build the transform takes longer than to use it.
    """
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "sRGB" in ImageCms.getProfileDescription(own):
        return None
    return ImageCms.buildTransform(own, _SRGB, mode, "RGB")


def _draft_size(size: tuple[int, int], side: float) -> tuple[int, int]:
    shorter = min(size)
    if shorter <= side:
        return size
    return math.ceil(size[0] * side / shorter), math.ceil(size[1] * side / shorter)


def _check_size(size: tuple[int, int], name: str, limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError("too_large", f"{width}×{height} pixels, more than the {limits.max_pixels:,} allowed", name)
    if min(width, height) < limits.min_side:
        raise ImageError("too_small", f"{width}×{height} pixels; each side needs {limits.min_side}", name)


def _too_many_bytes(size: int, name: str, limits: ImageLimits) -> ImageError:
    return ImageError(
        "too_large", f"{size / 2**20:,.0f} MiB, more than the {limits.max_bytes / 2**20:,.0f} allowed", name
    )


def _brief(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0][:120] if text else type(error).__name__
