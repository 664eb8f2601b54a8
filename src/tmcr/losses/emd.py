"""Earth mover's distance between rating distributions (eq. 14)."""

from __future__ import annotations

import torch
from torch import Tensor


def emd_loss(predicted: Tensor, target: Tensor, *, r: float = 2.0) -> Tensor:
    """`((1/D) Σ_d |CDF_predicted(d) − CDF_target(d)|^r)^(1/r)` (B,) of distributions (B, D).

    Where prediction and target agree the root has no gradient; it is then zero, as for |x| at 0.
    """
    gap = (predicted - target).cumsum(1).abs()
    mean = gap.pow(r).mean(1)
    if r == 1:
        return mean
    positive = mean > 0
    return torch.where(positive, torch.where(positive, mean, torch.ones_like(mean)).pow(1 / r), mean)
