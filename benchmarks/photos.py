"""Photos to measure with: real ones where they are at hand, generated ones elsewhere; of any size, all different."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

REPOSITORY = Path(__file__).resolve().parent.parent
LARGE = (4000, 3000)  # 12 megapixels
SMALL = (500, 375)
_GRAIN = 6.0  # standard deviation of the noise that enlarged photos get: without it they would be far too smooth
_QUALITY = 93


def real_photos() -> list[Path]:
    """The photos of ../shared/data/oasis (or $TMCR_SHARED_DATA/oasis) in a fixed random order; none elsewhere."""
    data = Path(os.environ.get("TMCR_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    found = sorted((data / "oasis" / "images").glob("*.jpg"))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def origin() -> str:
    """Where the photos come from, for a note."""
    return "photos of OASIS" if real_photos() else "generated pictures"


def pictures(count: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """`count` pictures of a size, landscape; beyond the number of real photos, mirrored and shifted copies."""
    real = real_photos()
    for number in range(count):
        rng = np.random.default_rng(number)
        if real:
            with Image.open(real[number % len(real)]) as file:
                source = file.convert("RGB")
            if number >= len(real):
                left, top = (int(value) for value in rng.integers(1, 40, 2))
                source = source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                source = source.crop((left, top, source.width, source.height))
        else:
            source = _generated(rng)
        yield source.resize(size, Image.Resampling.BICUBIC)


def write_photos(folder: Path, count: int, size: tuple[int, int], *, different: int | None = None) -> list[Path]:
    """Write `count` JPEGs, all different to the scorer.

    Args:
        different: so many pictures are made; the others have the same pixels in a file of other bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    grain = None
    if size[0] * size[1] > 2_000_000:
        noise = np.random.default_rng(0).normal(0, _GRAIN, (size[1], size[0], 3))
        grain = noise.astype(np.int8)
    files: list[bytes] = []
    for picture in pictures(min(count, different or count), size):
        if grain is not None:
            noisy = np.asarray(picture, dtype=np.int16) + np.roll(grain, 97 * len(files), axis=(0, 1))
            picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        files.append(jpeg(picture))
    paths = []
    for number in range(count):
        paths.append(folder / f"{number:06d}.jpg")
        paths[-1].write_bytes(numbered(files[number % len(files)], number))
    return paths


def write_shard(path: Path, count: int, size: tuple[int, int], *, different: int = 64, seed: int = 0) -> None:
    """Write a tar of `count` JPEGs of noise; `different` of them differ in their pixels, all in their bytes."""
    rng = np.random.default_rng(seed)
    files = [
        jpeg(Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)))
        for _ in range(min(count, different))
    ]
    with tarfile.open(path, "w") as archive:
        for number in range(count):
            data = numbered(files[number % len(files)], number)
            member = tarfile.TarInfo(f"{number:08d}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            archive.members = []  # type: ignore[attr-defined]  # it would keep every header


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def numbered(data: bytes, number: int) -> bytes:
    """The same JPEG with a number in a comment segment: other bytes, so that it is not taken for a repeat."""
    comment = f"{number:010d}".encode()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def _generated(rng: np.random.Generator) -> Image.Image:
    """Soft clouds of color with some hard edges."""
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    picture = Image.fromarray(small).resize(SMALL, Image.Resampling.BICUBIC)
    for _ in range(6):
        left, top = int(rng.integers(0, 400)), int(rng.integers(0, 300))
        side = int(rng.integers(20, 120))
        picture.paste(tuple(int(value) for value in rng.integers(0, 256, 3)), (left, top, left + side, top + side))
    return picture.filter(ImageFilter.SHARPEN)
