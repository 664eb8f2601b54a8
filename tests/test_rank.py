"""The ranking stage on a toy encoder: it learns, and a run taken up in the middle ends as an undisturbed one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tmcr.encoders import ImageEncoder
from tmcr.hardware import pick_hardware
from tmcr.training.config import RankConfig
from tmcr.training.levels import BalancedBatches
from tmcr.training.photos import PhotoViews
from tmcr.training.processes import ALONE, Processes
from tmcr.training.rank import rank
from tmcr.training.stage import MetricsLog, Silent

LEVELS = np.repeat(np.arange(4), 6)


class ToyEncoder(nn.Module):
    """Pixels are numbers already; dropout stands for the stochastic depth of a Swin."""

    width = 8

    def __init__(self, dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


class ToyViews:
    """Five numbers a photo, of which the first tells its level."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def random(self, batches: list[np.ndarray], epoch: int, first: int = 0) -> Iterator[Tensor]:
        for step, batch in enumerate(batches[first:], start=first):
            rng = np.random.default_rng((epoch, step))
            pixels = rng.normal(0, 1, (len(batch), 5))
            pixels[:, 0] = LEVELS[batch] + rng.normal(0, 0.1, len(batch))
            yield torch.from_numpy(pixels[self.processes.share(len(batch))]).float()


class StoppedAfter(Silent):
    def __init__(self, updates: int) -> None:
        self.left = updates

    def step(self, amount: int = 1, **values: float) -> None:
        self.left -= amount
        if self.left == 0:
            raise KeyboardInterrupt


def run(
    folder: Path, progress: Silent, *, processes: Processes = ALONE, dropout: float = 0.3, **settings: Any
) -> tuple[ToyEncoder, float]:
    folder.mkdir(exist_ok=True)
    encoder = ToyEncoder(dropout)
    batches = BalancedBatches(np.zeros(len(LEVELS), dtype=np.int64), LEVELS, frequency=4, seed=0)
    loss = rank(
        cast(ImageEncoder, encoder),
        cast(PhotoViews, ToyViews(processes)),
        batches,
        torch.from_numpy(LEVELS),
        torch.from_numpy(LEVELS + 1.5).float(),
        config=RankConfig(epochs=3, learning_rate=1e-2, projector=16, **settings),
        hardware=pick_hardware("cpu"),
        seed=0,
        checkpoint=folder / "checkpoint.pt",
        checkpoint_every=1,
        log=MetricsLog(folder / "metrics.jsonl" if processes.first else None),
        progress=progress,
    )
    return encoder, loss


@pytest.mark.parametrize("settings", [{}, {"chunk": 5}, {"batches_per_update": 2}], ids=str)
def test_a_run_taken_up_in_the_middle_drops_what_an_undisturbed_one_drops(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    straight, loss = run(tmp_path / "straight", Silent(), **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", StoppedAfter(3), **settings)
    torch.randn(7)  # another process starts with another state of the random numbers
    resumed, again = run(tmp_path / "stopped", Silent(), **settings)
    assert again == loss
    for key, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key])


def test_levels_come_apart_in_order(tmp_path: Path) -> None:
    encoder, _ = run(tmp_path, Silent())
    pixels = torch.zeros(4, 5)
    pixels[:, 0] = torch.arange(4.0)
    with torch.no_grad():
        features = nn.functional.normalize(encoder.eval()(pixels), dim=1)
    similar = features @ features.T
    assert similar[0, 1] > similar[0, 2] > similar[0, 3]
    assert similar[3, 2] > similar[3, 1] > similar[3, 0]
