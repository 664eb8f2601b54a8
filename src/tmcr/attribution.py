"""How much each tag, and the image encoder, raised or lowered a score: contributions that add up exactly.

The reference is the mean training photo, the photo whose every tag similarity and encoder feature is the
training mean. A contribution is the share of `score − reference score` that flows through one input.
It is found layer by layer from the output back, each layer passing on exactly what it received:

- softmax and mean rating: the gradient averaged over the straight path between the reference's logits and
  the photo's (integrated gradients, Sundararajan et al. 2017; ten smooth variables, so 32 Gauss–Legendre
  nodes integrate it to rounding);
- a linear layer (with its batch normalisation folded in): weight times multiplier;
- ReLU: the slope of the chord between reference and photo (the rescale rule of DeepLIFT, Shrikumar et
  al. 2017).

The sum over all inputs therefore equals the difference of the scores, not just nearly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tmcr.network import DimensionTransform, PredictionHead, expected_score

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


@dataclass(frozen=True)
class Contributions:
    """Contributions in score points.

    Attributes:
        tags: (B, M+N), zero for tags that the head does not use.
        encoder: (B,), the encoder branch as a whole.
        score, reference_score: (B,) and (), so that tags.sum(1) + encoder = score − reference_score.
    """

    tags: Tensor
    encoder: Tensor
    score: Tensor
    reference_score: Tensor


@torch.no_grad()
def contributions(
    head: PredictionHead, similarities: Tensor | None, level_features: Tensor | None, score_values: Tensor
) -> Contributions:
    """Attribute the scores of B photos, from similarities (B, M+N), level features (B, W), score values (D,)."""
    config = head.config
    # In double precision: the contributions of thousands of tags are summed, and must add up.
    inputs: list[Tensor] = []
    if config.uses_tags and similarities is not None:
        inputs.append(head.tag_scale(similarities[:, : config.n_tags]).double())
    if config.uses_levels and level_features is not None:
        inputs.append(head.level_scale(level_features).double())
    batch = inputs[0].shape[0]
    transforms = ([head.tag_transform] if config.uses_tags else []) + (
        [head.level_transform] if config.uses_levels else []
    )

    # Forward, photo and reference side by side; the reference's standardised inputs are all zero.
    branches = [_Rectified(layer, x, x.new_zeros(1, x.shape[1])) for layer, x in zip(transforms, inputs, strict=True)]
    fused = torch.cat([branch.output for branch in branches], 1)
    fused_reference = torch.cat([branch.output_reference for branch in branches], 1)
    score_layer = None
    if head.score_transform is not None:
        score_layer = _Rectified(head.score_transform, fused, fused_reference)
        fused, fused_reference = score_layer.output, score_layer.output_reference
    weight, bias = head.output.weight.double(), head.output.bias.double()
    logits, logits_reference = fused @ weight.T + bias, fused_reference @ weight.T + bias
    values = score_values.double()

    # Backward, multipliers instead of gradients.
    multiplier = _mean_score_gradient(logits_reference, logits, values) @ weight
    if score_layer is not None:
        multiplier = score_layer.back(multiplier)
    shares = [
        branch.back(part) * x
        for branch, part, x in zip(branches, multiplier.split(config.hidden, dim=1), inputs, strict=True)
    ]

    tags = values.new_zeros(batch, config.n_semantic + config.n_attribute)
    encoder = values.new_zeros(batch)
    if config.uses_tags:
        tags[:, : config.n_tags] = shares[0]
    if config.uses_levels:
        encoder = shares[-1].sum(1)
    return Contributions(
        tags,
        encoder,
        expected_score(logits.softmax(1), values),
        expected_score(logits_reference.softmax(1), values).squeeze(0),
    )


class _Rectified:
    """One Linear–BatchNorm–ReLU seen from the photo and from the reference."""

    def __init__(self, layer: DimensionTransform, inputs: Tensor, reference: Tensor) -> None:
        weight, bias = (part.double() for part in layer.folded())
        before, before_reference = inputs @ weight.T + bias, reference @ weight.T + bias
        self.weight = weight
        self.output, self.output_reference = before.relu(), before_reference.relu()
        change = before - before_reference
        # Where photo and reference coincide the chord has no slope of its own; nothing flows there either.
        self.slope = torch.where(
            change.abs() > 1e-12, (self.output - self.output_reference) / change, torch.zeros_like(change)
        )

    def back(self, multiplier: Tensor) -> Tensor:
        """Multipliers of the outputs (B, hidden) → multipliers of the inputs (B, width)."""
        return (multiplier * self.slope) @ self.weight


def _mean_score_gradient(start: Tensor, end: Tensor, values: Tensor) -> Tensor:
    """d(mean rating)/d(logits), averaged over the straight path from start (1, D) to end (B, D): (B, D)."""
    total = torch.zeros_like(end)
    for node, weight in zip((_NODES + 1) / 2, _WEIGHTS / 2, strict=True):
        share = (start + node * (end - start)).softmax(1)
        total += weight * share * (values - expected_score(share, values)[:, None])
    # What the quadrature leaves (visible only where logits are tens apart) is spread along the path itself.
    change = end - start
    gap = expected_score(end.softmax(1), values) - expected_score(start.softmax(1), values)
    left = gap - (total * change).sum(1)
    return total + (left / (change**2).sum(1).clamp_min(1e-12))[:, None] * change
