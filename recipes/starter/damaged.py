"""Pairs of a photo and its damaged copy as the tower sees them, made once by all processors and kept on disk.

The damage is that of `tmcr.damage`, done to photos of a user's size: small ones are enlarged first. What a pair shows
depends on its number, the seed and the photos alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reframing import cropped_frames, enlarged, seen_alike, softened, tilted_frames
from student import INPUT

from tmcr.damage import KINDS
from tmcr.hardware import processors
from tmcr.images import decode

CHUNK = 256  # pairs in a file
WEAKEST = 0.2  # strengths are drawn from here to 1
OFTEN = {"tilted": 3.0, "badly_cropped": 2.5, "compressed": 2.5, "overexposed": 2.0}  # the hard kinds
REFRAMED = "tilted", "badly_cropped"
TILT, CUT = 14, 0.55  # degrees and share of the sides at strength 1, as in `tmcr.damage`
OFF_CENTRE = 0.3, 0.7  # where a whole photo's frame lies between one rim and the other
FRAMED, SMALLEST_FRAME = 0.7, 0.75  # share of large photos of which a part is taken; of its sides
LONGEST = 640  # pixels, to which larger photos are reduced before they are damaged


@dataclass(frozen=True)
class PairTable:
    """Which photo (N,), which kind of damage (N,) of `KINDS` and how much of it (N,) each pair is of."""

    photos: np.ndarray
    kinds: np.ndarray
    amounts: np.ndarray

    @classmethod
    def drawn(cls, photos: int, pairs: int, seed: int) -> PairTable:
        """Every photo about equally often; whole chunks."""
        rng = np.random.default_rng([seed, 4, photos])
        pairs = -(-pairs // CHUNK) * CHUNK
        chances = np.array([OFTEN.get(kind, 1.0) for kind in KINDS])
        order = np.concatenate([rng.permutation(photos) for _ in range(-(-pairs // photos))])[:pairs]
        kinds = rng.choice(len(KINDS), pairs, p=chances / chances.sum())
        return cls(order, kinds, rng.uniform(WEAKEST, 1, pairs))

    @property
    def strengths(self) -> torch.Tensor:
        """(N, kinds), zero but for one kind each."""
        strengths = torch.zeros(len(self.kinds), len(KINDS))
        strengths[torch.arange(len(self.kinds)), torch.from_numpy(self.kinds)] = torch.from_numpy(self.amounts).float()
        return strengths


class PairFiles:
    """Pairs being made, or made already."""

    def __init__(self, table: PairTable, files: list[Path], making: Sequence[Future[None]]) -> None:
        self.table, self._files, self._making = table, files, making

    def pixels(self, device: torch.device) -> Callable[[np.ndarray], torch.Tensor]:
        """Waits until all are made. Then rows (B,) → uint8 (B, 2, INPUT, INPUT, 3), photo and copy, on the device: out
        of its memory, or for a CPU from disk.
        """
        for job in self._making:
            job.result()
        chunks = [np.load(file, mmap_mode="r") for file in self._files]
        if device.type == "cpu":
            return lambda rows: torch.from_numpy(np.stack([chunks[row // CHUNK][row % CHUNK] for row in rows]))
        stored = torch.cat([torch.from_numpy(np.array(chunk)).to(device) for chunk in chunks])
        return lambda rows: stored[torch.from_numpy(rows).to(device)]


def make_pairs(
    work: Path, pool: ProcessPoolExecutor, photos: Sequence[bytes], pairs: int, seed: int, *, large: bool
) -> PairFiles:
    """Have the pool make about `pairs` pairs of the photos, less what is there already.

    Args:
        photos: as they are in their files.
        large: of a user's size; others are enlarged, and softened before they are framed anew.
    """
    table = PairTable.drawn(len(photos), pairs, seed)
    digest = hashlib.sha256(f"{seed} {len(table.photos)} {large}".encode())
    for source in ("damaged.py", "reframing.py"):
        digest.update((Path(__file__).parent / source).read_bytes())
    for photo in photos:
        digest.update(hashlib.sha256(photo).digest())
    folder = work / f"pairs-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    files, making = [], []
    for start in range(0, len(table.photos), CHUNK):
        files.append(folder / f"{start:07d}.npy")
        if not files[-1].exists():
            part = slice(start, start + CHUNK)
            asked = [photos[row] for row in table.photos[part]]
            making.append(
                pool.submit(
                    _make_chunk, files[-1], asked, table.kinds[part], table.amounts[part], [seed, 5, start], large
                )
            )
    return PairFiles(table, files, making)


def pair_pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(processors(), mp_context=get_context("spawn"), initializer=_quietly)


def _quietly() -> None:
    os.nice(10)  # what feeds the device goes first
    torch.set_num_threads(1)


def _make_chunk(
    file: Path, photos: Sequence[bytes], kinds: np.ndarray, amounts: np.ndarray, key: list[int], large: bool
) -> None:
    pixels = np.empty((len(photos), 2, INPUT, INPUT, 3), np.uint8)
    for place, photo in enumerate(photos):
        rng = np.random.default_rng([*key, place])
        image = decode(photo)
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
        pixels[place] = damaged_pair(image, list(KINDS)[kinds[place]], float(amounts[place]), rng, large=large)
    unfinished = file.with_suffix(f".{os.getpid()}.part")
    with unfinished.open("wb") as opened:
        np.save(opened, pixels)
    unfinished.rename(file)


def damaged_pair(
    photo: Image.Image, kind: str, strength: float, rng: np.random.Generator, *, large: bool
) -> np.ndarray:
    """A photo and its damaged copy, each mirrored or not, as the tower sees them: uint8 (2, INPUT, INPUT, 3)."""
    if kind in REFRAMED:
        views = _reframed(photo if large else softened(photo, rng), kind, strength, rng)
    else:
        whole = _framed(photo, rng) if large else enlarged(photo, rng)
        views = whole, KINDS[kind](whole, strength)
    seen = (np.asarray(view.resize((INPUT, INPUT), Image.Resampling.BICUBIC)) for view in views)
    return np.stack([view[:, ::-1] if rng.random() < 0.5 else view for view in seen])


def _framed(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """All of a photo, or most of it."""
    if rng.random() >= FRAMED:
        return photo
    share = rng.uniform(SMALLEST_FRAME, 1)
    left, top = rng.uniform(0, 1 - share, 2) * photo.size
    return photo.crop((int(left), int(top), int(left + share * photo.width), int(top + share * photo.height)))


def _reframed(
    photo: Image.Image, kind: str, strength: float, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A photo and its tilted or badly cropped copy, as two views of one photo."""
    if kind == "tilted":
        frames = tilted_frames(photo, TILT * strength, rng)
    else:
        share = 1 - CUT * strength
        most = rng.uniform(share, 1)  # the better frame shows the middle, or all
        middle = most / 2 + rng.uniform(*OFF_CENTRE, 2) * (1 - most)
        frames = cropped_frames(photo, share, (share / 2, share / 2), most, tuple(middle))
    better, worse = seen_alike(frames, rng)
    return better, worse
