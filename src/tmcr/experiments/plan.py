"""Which photos are held out when, and under which seeds: the passes of an experiment.

One *pass* holds every test photo out once and answers for it: the data's own test part under one seed, or all
photos by folds of whole groups. Several passes show how much of a result is the luck of a seed or of a split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import carve_validation, group_folds
from tmcr.errors import ConfigError, DataError

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Cell:
    """One training: `manifest` says who learns, who stops early and who is held out."""

    name: str
    seed: int
    manifest: Manifest


@dataclass(frozen=True)
class Plan:
    """Seeds × splits.

    Attributes:
        seeds: of everything random in training, the choice of the photos for early stopping included.
        folds: folds of whole groups; None takes the data's own test part.
        repeats: seeds of the assignment of groups to folds; one repeat after the other.
    """

    seeds: tuple[int, ...] = (0,)
    folds: int | None = None
    repeats: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise ConfigError(f"cross-validation needs at least 2 folds, not {self.folds}")
        if self.folds is None and len(self.repeats) > 1:
            raise ConfigError("repeats are of folds: give --folds 5 too, or --seeds instead")

    def passes(self, photos: Manifest, validation: float) -> Iterator[list[Cell]]:
        """The cells of each pass; `validation` is the share of training groups kept for early stopping.

        Raises:
            DataError: there are no folds and no photo is marked "test".
        """
        for repeat in self.repeats:
            for seed in self.seeds:
                yield [
                    Cell(name, seed, carve_validation(manifest, validation, seed=seed))
                    for name, manifest in self._splits(photos, repeat)
                ]

    def describe(self) -> str:
        """ "5 folds × 2 repeats × 3 seeds, groups kept whole" """
        parts = [] if self.folds is None else [f"{self.folds} folds"]
        if len(self.repeats) > 1 or self.repeats != (0,):
            parts.append(_named("repeat", self.repeats))
        parts.append(_named("seed", self.seeds))
        return ("the data's own test part, " if self.folds is None else "") + " × ".join(parts) + ", groups kept whole"

    def _splits(self, photos: Manifest, repeat: int) -> Iterator[tuple[str, Manifest]]:
        if self.folds is None:
            if "test" not in photos.splits:
                raise DataError(f"{photos.description}: no photo is marked 'test'; cross-validate with --folds 5")
            yield "test", photos
            return
        groups = photos.groups or photos.ids
        if self.folds > len(set(groups)):
            raise ConfigError(f"{self.folds} folds, but the photos fall into {len(set(groups))} groups; take fewer")
        fold = group_folds(groups, self.folds, seed=repeat)
        for number in range(self.folds):
            splits = ["test" if own == number else "train" for own in fold]
            yield f"repeat-{repeat}-fold-{number}-of-{self.folds}", photos.with_splits(splits)


def number_range(text: str, what: str) -> tuple[int, ...]:
    """ "3" is (0, 1, 2); "3-4" is (3, 4), so that several machines can share the work.

    Raises:
        ConfigError: it is neither.
    """
    found = _RANGE.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"--{what} wants a number or FROM-TO, not {text!r}")
    first, last = (0, int(found[1]) - 1) if found[2] is None else (int(found[1]), int(found[2]))
    if last < first:
        raise ConfigError(f"--{what} {text}: there must be at least one")
    return tuple(range(first, last + 1))


def _named(what: str, numbers: tuple[int, ...]) -> str:
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    return f"{len(numbers)} {what}s ({numbers[0]}…{numbers[-1]})"
