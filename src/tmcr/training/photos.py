"""Rated photos as pixels for the trainable encoder: decoded by threads, reproducible view by view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.images import decode
from tmcr.preprocess import PreprocessSpec
from tmcr.streaming import batched, ordered_map
from tmcr.training.processes import ALONE, Processes


class PhotoViews:
    """Pixels of a fixed list of photos, either as scored or as a random training view.

    A random view depends on (seed, epoch, position in the epoch, photo) and nothing else, so a run that
    is taken up in the middle sees the very pixels that an undisturbed one sees, and several processes together
    see those that one would.

    Attributes:
        processes: those that share each training batch; a process reads the photos of its share alone.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocess: PreprocessSpec,
        *,
        seed: int,
        workers: int,
        flip: bool,
        processes: Processes = ALONE,
    ) -> None:
        self.paths = paths
        self.preprocess = preprocess
        self.seed = seed
        self.workers = workers
        self.flip = flip
        self.processes = processes

    def scored(self, indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
        """Batches (B, 3, H, W) of the photos at `indices`, prepared as for scoring."""
        for batch in batched(
            ordered_map(self._scored, indices, workers=self.workers, ahead=2 * batch_size), batch_size
        ):
            yield torch.from_numpy(np.stack(batch))

    def random(self, batches: Sequence[NDArray[np.int64]], epoch: int, first: int = 0) -> Iterator[Tensor]:
        """One tensor (B, 3, H, W) of random views for each batch of indices, from batch `first` on.

        Of several processes each gets the rows of its `Processes.share`, which may be none.
        """
        slots = [range(len(batch))[self.processes.share(len(batch))] for batch in batches]
        jobs = (
            (epoch, step, slot, int(batches[step][slot])) for step in range(first, len(batches)) for slot in slots[step]
        )
        ahead = 2 * max(map(len, slots), default=1)
        views = ordered_map(self._random, jobs, workers=self.workers, ahead=ahead)
        for mine in slots[first:]:
            pixels = [next(views) for _ in mine]
            yield torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0)

    def _scored(self, index: int) -> NDArray[np.float32]:
        return self.preprocess(decode(self.paths[index], target_side=self.preprocess.target_side))

    def _random(self, job: tuple[int, int, int, int]) -> NDArray[np.float32]:
        epoch, step, slot, index = job
        rng = np.random.default_rng((self.seed, epoch, step, slot, index))
        image = decode(self.paths[index], target_side=self.preprocess.target_side)
        return self.preprocess.random_view(image, rng, flip=self.flip)
