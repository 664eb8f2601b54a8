"""TMCR and its ablations as one module: tag similarities and level features in, a rating distribution out.

    similarities (B, M+N) ── standardise ── Linear–BatchNorm–ReLU ──┐
                                                                    ├ concat ── score MLP ── softmax (B, D)
    level features (B, W) ── standardise ── Linear–BatchNorm–ReLU ──┘

Equations 12 and 13 of the paper. Dropping a branch gives the ablations TM-Net and CR-Net of Table 4;
dropping the attribute tags gives Table 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tmcr.errors import ConfigError

Branches = Literal["tm", "cr", "tm+cr"]
ScoreHead = Literal["mlp", "linear"]


@dataclass(frozen=True)
class HeadConfig:
    """Shape of the prediction head.

    Attributes:
        n_semantic, n_attribute: sizes of the two tag libraries, M and N.
        level_width: width W of the image encoder's pooled feature.
        n_bins: number of score bins, D.
        hidden: width of the dimension transforms and of the score MLP.
        branches: "tm+cr", or one branch alone.
        semantic_only: leave the attribute tags out of the tag branch.
        score_head: "mlp" as in the paper's Figure 2 (Linear–BatchNorm–ReLU–Linear) or "linear" as in the
            released code.
        dropout: share of hidden units dropped in training, 0..1.
    """

    n_semantic: int
    n_attribute: int
    level_width: int
    n_bins: int
    hidden: int = 1024
    branches: Branches = "tm+cr"
    semantic_only: bool = False
    score_head: ScoreHead = "mlp"
    dropout: float = 0.0

    @property
    def uses_tags(self) -> bool:
        return "tm" in self.branches

    @property
    def uses_levels(self) -> bool:
        return "cr" in self.branches

    @property
    def n_tags(self) -> int:
        """Number of tags that enter the tag branch."""
        return self.n_semantic + (0 if self.semantic_only else self.n_attribute)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Standardize(nn.Module):
    """(x − mean) / std with the statistics of the training photos, so that the reference photo is at zero."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, features: Tensor) -> None:
        """Take the statistics of (B, width) features; a constant feature keeps std 1."""
        self.set(features.mean(0), features.std(0, correction=0))

    def set(self, mean: Tensor, std: Tensor) -> None:
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


class DimensionTransform(nn.Module):
    """Linear–BatchNorm–ReLU, (B, width) → (B, hidden)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        return self.dropout(torch.relu(self.norm(self.linear(features))))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (hidden, width) and bias (hidden,) of the affine map before the ReLU, as at inference."""
        if self.norm.running_mean is None or self.norm.running_var is None:  # BatchNorm1d's own default keeps both
            raise AssertionError("batch normalisation without running statistics")
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        bias = (self.linear.bias - self.norm.running_mean) * scale + self.norm.bias
        return self.linear.weight * scale[:, None], bias


class PredictionHead(nn.Module):
    """Equations 12 and 13: two views of the photo in, logits over the score bins out."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        if not (config.uses_tags or config.uses_levels):
            raise ConfigError(f"branches must be 'tm', 'cr' or 'tm+cr', not {config.branches!r}")
        self.config = config
        width = 0
        if config.uses_tags:
            self.tag_scale = Standardize(config.n_tags)
            self.tag_transform = DimensionTransform(config.n_tags, config.hidden, config.dropout)
            width += config.hidden
        if config.uses_levels:
            self.level_scale = Standardize(config.level_width)
            self.level_transform = DimensionTransform(config.level_width, config.hidden, config.dropout)
            width += config.hidden
        self.score_transform = (
            DimensionTransform(width, config.hidden, config.dropout) if config.score_head == "mlp" else None
        )
        self.output = nn.Linear(config.hidden if self.score_transform else width, config.n_bins)

    def forward(self, similarities: Tensor | None, level_features: Tensor | None) -> Tensor:
        """Logits (B, D) from similarities (B, M+N) and level features (B, W); an unused branch may be None."""
        views = []
        if self.config.uses_tags:
            if similarities is None:
                raise ValueError("this head needs tag similarities")
            views.append(self.tag_transform(self.tag_scale(similarities[:, : self.config.n_tags])))
        if self.config.uses_levels:
            if level_features is None:
                raise ValueError("this head needs level features")
            views.append(self.level_transform(self.level_scale(level_features)))
        fused = torch.cat(views, dim=1)  # eq. 12
        if self.score_transform is not None:
            fused = self.score_transform(fused)
        return self.output(fused)  # eq. 13 up to the softmax

    def start_from(self, mean_distribution: Tensor) -> None:
        """Let the untrained head answer with the mean training distribution (D,)."""
        with torch.no_grad():
            self.output.bias.copy_(mean_distribution.clamp_min(1e-4).log())
            self.output.weight.mul_(0.1)


@torch.no_grad()
def averaged(heads: Sequence[PredictionHead]) -> PredictionHead:
    """One head, as many times as wide, whose logits are the mean of those of `heads` in evaluation.

    Heads of one recipe differ by chance, the more so the fewer photos they have seen, and their mean is better than
    most of them. Under a linear score head the mean is itself a head: hidden units side by side.

    Args:
        heads: alike in shape and in the statistics of their inputs.

    Raises:
        ConfigError: they have an MLP for a score head.
    """
    first = heads[0]
    if len(heads) == 1:
        return first
    if first.score_transform is not None:
        raise ConfigError("only heads with a linear score head can be averaged: set fit.score_head=linear")
    wide = PredictionHead(replace(first.config, hidden=sum(head.config.hidden for head in heads)))
    state = wide.state_dict()
    own = [head.state_dict() for head in heads]
    for name, value in own[0].items():
        if "_transform." in name and value.dim():
            state[name] = torch.cat([part[name] for part in own])
        elif name == "output.weight":  # its columns are the branches one after the other
            branches = zip(*(part[name].split(first.config.hidden, dim=1) for part in own), strict=True)
            state[name] = torch.cat([column for branch in branches for column in branch], dim=1) / len(heads)
        elif name == "output.bias":
            state[name] = torch.stack([part[name] for part in own]).mean(0)
        else:
            state[name] = value
    wide.load_state_dict(state)
    return wide.to(first.output.weight.device).eval()


class Projector(nn.Module):
    """Linear–BatchNorm–ReLU–Linear on the encoder's feature, used by contrastive ranking only and then dropped."""

    def __init__(self, width: int, hidden: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, width) → (B, hidden), L2-normalised."""
        return nn.functional.normalize(self.layers(features), dim=1)


def expected_score(distribution: Tensor, score_values: Tensor) -> Tensor:
    """Mean rating (B,) of distributions (B, D) over score values (D,)."""
    return distribution @ score_values


def score_std(distribution: Tensor, score_values: Tensor) -> Tensor:
    """Standard deviation (B,) of the ratings under distributions (B, D)."""
    mean = expected_score(distribution, score_values)
    return (distribution * (score_values - mean[:, None]) ** 2).sum(1).sqrt()
