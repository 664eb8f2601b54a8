"""Time the vectorised traversal loss against the plain loops: forward and backward, same inputs, same process.

python -m benchmarks.traversal --levels 7 --photos 9 --width 1024
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.plain import traversal_official, traversal_paper
from tmcr.losses import traversal_loss


def seconds(step: Callable[[], Tensor], *, repeats: int) -> tuple[float, float]:
    """Best time of `repeats` forward and backward passes, and the loss."""
    best, loss = float("inf"), torch.tensor(0.0)
    for _ in range(repeats):
        start = time.perf_counter()
        loss = step()
        loss.backward()
        best = min(best, time.perf_counter() - start)
    return best, float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, default=7)
    parser.add_argument("--photos", type=int, default=9, help="photos of each level")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(options.seed)
    raw = torch.randn(options.levels * options.photos, options.width, generator=generator, dtype=torch.float64)
    features = torch.nn.functional.normalize(raw, dim=1).float().requires_grad_()
    levels = torch.arange(options.levels).repeat_interleave(options.photos)
    print(
        f"{options.levels} levels × {options.photos} photos × {options.width}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, seed {options.seed}"
    )
    for form, plain in (("paper", traversal_paper), ("official", traversal_official)):
        fast, loss = seconds(lambda form=form: traversal_loss(features, levels, form=form), repeats=20)  # type: ignore[misc]
        slow, expected = seconds(lambda plain=plain: plain(features, levels, 0.07), repeats=1)  # type: ignore[misc]
        print(
            f"{form:>9}: loops {slow * 1e3:9.1f} ms   vectorised {fast * 1e3:6.2f} ms   ratio {slow / fast:7.0f}   "
            f"losses {expected:.4f} and {loss:.4f}"
        )


if __name__ == "__main__":
    main()
