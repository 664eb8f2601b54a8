"""Contrastive losses to compare the traversal loss with."""

from __future__ import annotations

import torch
from torch import Tensor


def supcon_loss(features: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Supervised contrastive loss, L_out of Khosla et al. 2020, of L2-normalised features (B, d) with labels (B,).

    The mean over photos that have a positive of −1/|P(i)| Σ_{p∈P(i)} log softmax over all others.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features if features.dtype == torch.float64 else features.float()
        logits = features @ features.T / temperature
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        log_share = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
        positive = (labels[:, None] == labels[None, :]) & ~itself
        per_photo = -(log_share * positive).sum(1) / positive.sum(1).clamp_min(1)
        counted = positive.any(1)
        return (per_photo * counted).sum() / counted.sum().clamp_min(1)


def rank_n_contrast_loss(features: Tensor, scores: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Rank-N-Contrast, Zha et al. 2023: features (B, d) ordered by the distance of their scores (B,).

    For every ordered pair (i, j) the candidates are all k ≠ i at least as far from i in score as j is;
    similarity is the negative Euclidean distance. The mean over all pairs of −log softmax.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features if features.dtype == torch.float64 else features.float()
        count = len(features)
        squared = (features[:, None] - features[None, :]).square().sum(2)
        logits = -(squared + 1e-12).sqrt() / temperature
        apart = (scores[:, None] - scores[None, :]).abs()
        itself = torch.eye(count, dtype=torch.bool, device=features.device)
        candidates = (apart[:, None, :] >= apart[:, :, None]) & ~itself[:, None, :]  # (i, j, k)
        spread = logits[:, None, :].expand(-1, count, -1).masked_fill(~candidates, -torch.inf)
        terms = (spread.logsumexp(2) - logits).masked_fill(itself, 0.0)
        return terms.sum() / (count * (count - 1))
