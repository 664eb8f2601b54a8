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
        distribution: (B, D), what the head predicts.
        score, reference_score: (B,) and (), so that tags.sum(1) + encoder = score − reference_score.
    """

    tags: Tensor
    encoder: Tensor
    distribution: Tensor
    score: Tensor
    reference_score: Tensor


class Attribution:
    """Predicts with a head, and attributes the scores to its inputs. The head must not change any more.

    In double precision: the contributions of thousands of tags are summed, and must add up.
    """

    def __init__(self, head: PredictionHead, score_values: Tensor) -> None:
        """Take the layers of `head` as they are, and the scores (D,) of its bins; both on one device."""
        self._config = head.config
        self._values = score_values.double()
        self._scales = ([head.tag_scale] if head.config.uses_tags else []) + (
            [head.level_scale] if head.config.uses_levels else []
        )
        transforms = ([head.tag_transform] if head.config.uses_tags else []) + (
            [head.level_transform] if head.config.uses_levels else []
        )
        with torch.no_grad():
            self._branches = [_Rectified(layer) for layer in transforms]
            self._score_layer = _Rectified(head.score_transform) if head.score_transform is not None else None
            self._weight, self._bias = head.output.weight.double(), head.output.bias.double()

    @torch.no_grad()
    def __call__(self, similarities: Tensor | None, level_features: Tensor | None) -> Contributions:
        """Attribute the scores of B photos, from similarities (B, M+N) and level features (B, W)."""
        config, values = self._config, self._values
        given = ([similarities] if config.uses_tags else []) + ([level_features] if config.uses_levels else [])
        inputs = [
            scale(each[:, : len(scale.mean)]).double()
            for scale, each in zip(self._scales, given, strict=True)
            if each is not None
        ]

        # Forward, photo and reference side by side; the reference's standardised inputs are all zero.
        passes = [branch(x, x.new_zeros(1, x.shape[1])) for branch, x in zip(self._branches, inputs, strict=True)]
        fused, fused_reference = (
            torch.cat(each, 1) for each in zip(*((p.output, p.reference) for p in passes), strict=True)
        )
        score_pass = None
        if self._score_layer is not None:
            score_pass = self._score_layer(fused, fused_reference)
            fused, fused_reference = score_pass.output, score_pass.reference
        logits, logits_reference = (each @ self._weight.T + self._bias for each in (fused, fused_reference))

        # Backward, multipliers instead of gradients.
        multiplier = _mean_score_gradient(logits_reference, logits, values) @ self._weight
        if score_pass is not None:
            multiplier = score_pass.back(multiplier)
        shares = [
            each.back(part) * x
            for each, part, x in zip(passes, multiplier.split(config.hidden, dim=1), inputs, strict=True)
        ]

        batch = len(fused)
        tags = values.new_zeros(batch, config.n_semantic + config.n_attribute)
        if config.uses_tags:
            tags[:, : config.n_tags] = shares[0]
        distribution = logits.softmax(1)
        return Contributions(
            tags,
            shares[-1].sum(1) if config.uses_levels else values.new_zeros(batch),
            distribution,
            expected_score(distribution, values),
            expected_score(logits_reference.softmax(1), values).squeeze(0),
        )


class _Rectified:
    """One Linear–BatchNorm–ReLU."""

    def __init__(self, layer: DimensionTransform) -> None:
        self._weight, self._bias = (part.double() for part in layer.folded())

    def __call__(self, inputs: Tensor, reference: Tensor) -> _Pass:
        """Take the photos' inputs (B, width) and the reference's (1, width) through it."""
        before, before_reference = (each @ self._weight.T + self._bias for each in (inputs, reference))
        output, output_reference = before.relu(), before_reference.relu()
        change = before - before_reference
        # Where photo and reference coincide the chord has no slope of its own; nothing flows there either.
        slope = torch.where(change.abs() > 1e-12, (output - output_reference) / change, torch.zeros_like(change))
        return _Pass(output, output_reference, slope, self._weight)


@dataclass(frozen=True)
class _Pass:
    """What one layer made of photo and reference, (B, hidden) and (1, hidden), and the slopes of the chords."""

    output: Tensor
    reference: Tensor
    slope: Tensor
    weight: Tensor

    def back(self, multiplier: Tensor) -> Tensor:
        """Multipliers of the outputs (B, hidden) → multipliers of the inputs (B, width)."""
        return (multiplier * self.slope) @ self.weight


def _mean_score_gradient(start: Tensor, end: Tensor, values: Tensor) -> Tensor:
    """d(mean rating)/d(logits), averaged over the straight path from start (1, D) to end (B, D): (B, D)."""
    nodes, weights = (values.new_tensor(each / 2)[:, None, None] for each in (_NODES + 1, _WEIGHTS))
    shares = (start + nodes * (end - start)).softmax(2)  # at all nodes at once: (32, B, D)
    total = (weights * shares * (values - expected_score(shares, values)[..., None])).sum(0)
    # What the quadrature leaves (visible only where logits are tens apart) is spread along the path itself.
    change = end - start
    gap = expected_score(end.softmax(1), values) - expected_score(start.softmax(1), values)
    left = gap - (total * change).sum(1)
    return total + (left / (change**2).sum(1).clamp_min(1e-12))[:, None] * change
