"""Both vision towers of the starter, from random initialisation: minutes on a GPU, a day or two on two processors.

    python recipes/starter/towers.py --data ../shared/data --out runs/starter [--device cuda]

The first learns from two teachers what is in photos and how they look; the second, begun as a copy of it, to tell
photos from their damaged copies. Its last lesson shows it the rated photos too, though not their ratings; so there is
one such tower for each fold of the cross-validations beside the one that ships. All is kept in OUT/work, and `make.py`,
`choose.py` and `measure.py` go on from what they find there: only this script wants a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from damaged import PairFiles, make_pairs, pair_pool
from photos import Photos, build_photos, trainable_files
from quality import FIRST, LAST, Lesson, Pairs, School, write_tower
from student import Distilled, distil
from teacher import Teachers, load_teachers

from tmcr.datasets import load_manifest
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import group_folds
from tmcr.hardware import pick_hardware

STEPS = 4000
SMALL_PAIRS, LARGE_PAIRS = 40_000, 10_000
FOLDS, CHOICE_FOLDS = 5, 4


@dataclass(frozen=True)
class Plan:
    """How long each tower is taught: steps of the student, and the lessons of the tower that ranks."""

    steps: int = STEPS
    first: Lesson = FIRST
    last: Lesson = LAST
    small_pairs: int = SMALL_PAIRS
    large_pairs: int = LARGE_PAIRS


class Towers:
    """Teaches what is asked for and not there yet."""

    def __init__(self, data: Path, out: Path, device: torch.device, plan: Plan | None = None, seed: int = 0) -> None:
        self.data, self.work, self.device, self.seed = data, out / "work", device, seed
        self.plan = plan or Plan()
        self.work.mkdir(parents=True, exist_ok=True)
        self.manifest: Manifest = load_manifest(f"oasis@{data / 'oasis'}")
        self._pool: ProcessPoolExecutor | None = None

    @cached_property
    def photos(self) -> Photos:
        return build_photos(self.data, self.work)

    @cached_property
    def teachers(self) -> Teachers:
        return load_teachers(self.data, self.work)

    @cached_property
    def distilled(self) -> Distilled:
        return distil(self.photos, self.teachers, self.work, self.device, steps=self.plan.steps, seed=self.seed)

    @cached_property
    def first_lesson(self) -> Path:
        return self._school.first_lesson(self.plan.first, lambda: self._small_pairs)

    def last_lesson(self, rated: Manifest) -> Path:
        """With photos that will be ranked; their ratings are not looked at. Returns the tower's file."""
        names = [path.name for path in self.manifest.paths]
        chosen = [path.name for path in rated.paths]
        return self._school.last_lesson(
            self.plan.last, self.first_lesson, chosen, names, lambda: (self._small_pairs, self._large_pairs)
        )

    def for_ranking(self, rated: Manifest, folder: Path) -> Path:
        """The tower that ranking begins with, in `folder` as transformers reads it."""
        return write_tower(self.last_lesson(rated), folder)

    def begin_pairs(self) -> None:
        """Let the processors make the pairs while the device distils."""
        _ = self._small_files, self._large_files

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    @cached_property
    def _school(self) -> School:
        return School(self.distilled, self.teachers, self.work, self.device, self.seed)

    @cached_property
    def _small_files(self) -> PairFiles:
        files = trainable_files(self.data / "photos", self.photos)
        return self._made(files, self.plan.small_pairs, large=False)

    @cached_property
    def _large_files(self) -> PairFiles:
        return self._made([path.read_bytes() for path in self.manifest.paths], self.plan.large_pairs, large=True)

    @cached_property
    def _small_pairs(self) -> Pairs:
        return Pairs.of(self._small_files, self.device)

    @cached_property
    def _large_pairs(self) -> Pairs:
        return Pairs.of(self._large_files, self.device)

    def _made(self, photos: Sequence[bytes], pairs: int, *, large: bool) -> PairFiles:
        if self._pool is None:
            self._pool = pair_pool()
        return make_pairs(self.work, self._pool, photos, pairs, self.seed, large=large)


def rated_parts(manifest: Manifest) -> list[tuple[str, Manifest]]:
    """Whose photos each last lesson shows, by what it is for: what ships, choosing settings, cross-validation."""
    known = not_test(manifest)
    parts = [("ships", known)]
    parts += [(f"choice {number}", part) for number, part in enumerate(outside_folds(known, CHOICE_FOLDS, seed=1))]
    parts += [(f"fold {number}", part) for number, part in enumerate(outside_folds(manifest, FOLDS, seed=0))]
    return parts


def not_test(manifest: Manifest) -> Manifest:
    return manifest.take(np.flatnonzero(np.array(manifest.splits) != "test"))


def outside_folds(manifest: Manifest, folds: int, *, seed: int) -> list[Manifest]:
    """For each fold over themes, the photos that are not in it."""
    fold = group_folds(list(manifest.groups or manifest.ids), folds, seed=seed)
    return [manifest.take(np.flatnonzero(fold != number)) for number in range(folds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of distillation, {STEPS} unless told otherwise")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    device = pick_hardware(options.device).device
    towers = Towers(options.data, options.out, device, Plan(steps=options.steps), options.seed)
    towers.begin_pairs()
    for name, part in rated_parts(towers.manifest):
        print(f"{name}: {towers.last_lesson(part).name}, {len(part)} rated photos", flush=True)
    towers.close()


if __name__ == "__main__":
    main()
