"""Time the vectorised traversal loss against the plain loops: forward and backward, same inputs, same process.

python -m benchmarks.traversal --levels 7 --photos 9 --width 1024
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.plain import traversal_official, traversal_paper
from benchmarks.record import Result, result
from benchmarks.timing import alternated
from tmcr.losses import traversal_loss

TEMPERATURE = 0.07
STEPS = 20  # fast passes that are timed together


def measure(quick: bool) -> Iterator[Result]:
    rounds = 1 if quick else 3
    yield from compared(levels=4 if quick else 7, photos=4 if quick else 9, width=1024, seed=0, rounds=rounds)


def compared(*, levels: int, photos: int, width: int, seed: int, rounds: int) -> Iterator[Result]:
    """Milliseconds of a pass by either form of the loss, and how many times as long the loops take."""
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(levels * photos, width, generator=generator, dtype=torch.float64)
    features = torch.nn.functional.normalize(raw, dim=1).float().requires_grad_()
    labels = torch.arange(levels).repeat_interleave(photos)
    losses: dict[str, float] = {}

    def passes(name: str, loss: Callable[[], Tensor], times: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(times):
                value = loss()
                value.backward()
                losses[name] = float(value.detach())

        return run

    forms: dict[Literal["paper", "official"], Callable[..., Tensor]] = {
        "paper": traversal_paper,
        "official": traversal_official,
    }
    for form, plain in forms.items():
        ways = {
            "loops": passes("loops", partial(plain, features, labels, TEMPERATURE), 1),
            "fast": passes("fast", partial(traversal_loss, features, labels, form=form), STEPS),
        }
        seconds = alternated(ways, rounds=rounds)
        fast = seconds["fast"].map(lambda each: each / STEPS)
        yield result(
            f"{form} form", fast.map(lambda each: each * 1e3), "ms", ratio=seconds["loops"].over(fast),
            to="plain loops (their seconds divided by ours)", photos=levels * photos, threads=torch.get_num_threads(),
            note=f"{levels} levels × {photos} photos × {width}, forward and backward; losses {losses['fast']:.4f} and "
            f"{losses['loops']:.4f}",
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", type=int, default=7)
    parser.add_argument("--photos", type=int, default=9, help="photos of each level")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    for each in compared(**vars(options)):
        print(f"{each.name}: {each.value:.2f} {each.unit}, loops take {each.ratio:.0f} times as long; {each.note}")


if __name__ == "__main__":
    main()
