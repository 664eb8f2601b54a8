"""A stand-in for a model that scores a photo by its mean brightness: fast, exact, and without a network of its own.

Run as a program, it scores a folder again and again and kills itself at random moments; see `test_scoring_kill`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from killed_runs import kill_until_done

from tmcr.assessment import Assessment, Tag
from tmcr.hardware import Hardware
from tmcr.images import ImageLimits
from tmcr.preparation import Preparation, Prepared
from tmcr.preprocess import PreprocessSpec
from tmcr.scoring.run import Plan, open_run


class StandIn:
    """What `tmcr.scoring` asks of an Assessor.

    Attributes:
        batches: sizes of the batches that were encoded.
        prepared: names of the photos that were decoded.
    """

    name = "stand-in"

    def __init__(
        self,
        *,
        workers: int = 2,
        memory: int | None = None,
        seconds: float = 0.0,
        at_once: int = 2,
        after_batch: Callable[[], None] = lambda: None,
    ) -> None:
        """Encode at most `memory` photos in a batch, each in so many `seconds`, and `at_once` batches side by side.

        `after_batch` is called after each batch.
        """
        self.backend = SimpleNamespace(own_threads=True, at_once=at_once)
        self.hardware = Hardware(torch.device("cpu"), bf16=False, photo_workers=workers)
        self.limits = ImageLimits()
        self.model = SimpleNamespace(name=self.name, hash="0123456789abcdef")
        self.batches: list[int] = []
        self.prepared: list[str] = []
        self._memory = memory
        self._seconds = seconds
        self._after_batch = after_batch
        self._prepare = Preparation(PreprocessSpec(size=8, mean=(0, 0, 0), std=(1, 1, 1)), None, self.limits)

    @property
    def prepare(self) -> Preparation:
        return self._prepare

    def features(self, batch: Sequence[Prepared]) -> tuple[torch.Tensor, None]:
        if self._memory is not None and len(batch) > self._memory:
            raise torch.OutOfMemoryError("out of memory")
        time.sleep(self._seconds * len(batch))
        self.batches.append(len(batch))
        self.prepared += [photo.name for photo in batch]
        self._after_batch()
        return torch.tensor([[float(photo.for_tags.mean()) / 255] for photo in batch]), None

    def verdicts(self, batch: Sequence[Prepared], similarities: torch.Tensor, features: None) -> list[Assessment]:
        return [
            Assessment(
                photo.name,
                score=1 + 9 * brightness,
                std=1.0,
                semantic_tags=(Tag("bright", brightness, brightness),),
                model=self.model.name,
                model_hash=self.model.hash,
                width=photo.size[0],
                height=photo.size[1],
            )
            for photo, (brightness,) in zip(batch, similarities.tolist(), strict=True)
        ]

    def failure(self, photo: Prepared) -> Assessment:
        return Assessment(
            photo.name,
            model=self.model.name,
            model_hash=self.model.hash,
            error=photo.error.detail,
            error_reason=photo.error.reason,
        )


def killed_again_and_again(sources: list[str], out: Path, *, ordered: bool, kills: int, seed: int) -> None:
    """Begin a run, kill it with SIGKILL, take it up, kill it, …, and let the last one come to its end."""

    def work(after_batch: Callable[[], None]) -> None:
        plan = Plan(sources, out, batch_size=4, ordered=ordered, part_rows=12)
        with open_run(StandIn(seconds=0.004, after_batch=after_batch), plan) as run:
            run.complete()

    left = kill_until_done(work, kills=kills, moments=random.Random(seed))
    print(f"{out.name}: ended with {left} kills left")


if __name__ == "__main__":
    # One process that has loaded everything, and a fork of it for each run: a kill costs milliseconds.
    import tmcr.scoring.isolated
    import tmcr.scoring.pipeline
    import tmcr.scoring.repeats  # noqa: F401

    for seed, name in enumerate(("ordered", "unordered", "one.jsonl")):
        killed_again_and_again(sys.argv[2:], Path(sys.argv[1]) / name, ordered=name != "unordered", kills=10, seed=seed)
