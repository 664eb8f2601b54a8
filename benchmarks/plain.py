"""The losses as one would read them aloud: loops over anchors, rounds, photos and pairs.

Slow on purpose. Tests hold the vectorised losses against these, and `benchmarks/traversal.py` times both.
"""

from __future__ import annotations

import torch
from torch import Tensor


def traversal_paper(features: Tensor, levels: Tensor, temperature: float) -> Tensor:
    """Eq. 9 and 10: every anchor level, every round, every pair."""
    groups = group_by_level(levels)
    total = features.sum() * 0
    for a, anchor in enumerate(groups):
        others = [k for g, group in enumerate(groups) if g != a for k in group]
        if len(anchor) > 1 and others:
            total = total + round_mean(features, anchor, anchor, others, temperature)
        for p in range(a + 1, len(groups) - 1):  # upwards, as long as a level lies beyond
            beyond = [k for group in groups[p + 1 :] for k in group]
            total = total + round_mean(features, anchor, groups[p], beyond, temperature)
        for p in range(a - 1, 0, -1):  # downwards
            beyond = [k for group in groups[:p] for k in group]
            total = total + round_mean(features, anchor, groups[p], beyond, temperature)
    return total


def round_mean(
    features: Tensor, anchor: list[int], positives: list[int], negatives: list[int], temperature: float
) -> Tensor:
    """The mean over i ∈ A, j ∈ P, j ≠ i of −log( e(i,j) / (e(i,j) + Σ_k e(i,k)) )."""
    terms = []
    for i in anchor:
        away = sum(torch.exp(features[i] @ features[k] / temperature) for k in negatives)
        for j in positives:
            if j != i:
                near = torch.exp(features[i] @ features[j] / temperature)
                terms.append(-torch.log(near / (near + away)))
    return torch.stack(terms).mean()


def traversal_official(features: Tensor, levels: Tensor, temperature: float) -> Tensor:
    """Every round, once for each side, as a supervised contrastive loss of two classes."""
    groups = group_by_level(levels)
    total = features.sum() * 0
    for a, anchor in enumerate(groups):
        for p in range(a, len(groups) - 1):
            beyond = [k for group in groups[p + 1 :] for k in group]
            total = total + two_class_supcon(features, anchor + groups[p], beyond, temperature)
        for p in range(a, 0, -1):
            beyond = [k for group in groups[:p] for k in group]
            total = total + two_class_supcon(features, anchor + groups[p], beyond, temperature)
    return total


def two_class_supcon(features: Tensor, first: list[int], second: list[int], temperature: float) -> Tensor:
    members = [(photo, 0) for photo in first] + [(photo, 1) for photo in second]
    terms = []
    for x, (i, label) in enumerate(members):
        everyone = sum(torch.exp(features[i] @ features[k] / temperature) for y, (k, _) in enumerate(members) if y != x)
        own = [
            -torch.log(torch.exp(features[i] @ features[k] / temperature) / everyone)
            for y, (k, other) in enumerate(members)
            if other == label and y != x
        ]
        if own:
            terms.append(torch.stack(own).mean())
    return torch.stack(terms).mean()


def supcon(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Khosla et al. 2020, L_out."""
    terms = []
    for i in range(len(features)):
        everyone = sum(torch.exp(features[i] @ features[k] / temperature) for k in range(len(features)) if k != i)
        own = [
            -torch.log(torch.exp(features[i] @ features[p] / temperature) / everyone)
            for p in range(len(features))
            if p != i and labels[p] == labels[i]
        ]
        if own:
            terms.append(torch.stack(own).mean())
    return torch.stack(terms).mean()


def rank_n_contrast(features: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Zha et al. 2023, with the negative Euclidean distance as similarity."""
    count = len(features)
    terms = []
    for i in range(count):
        for j in range(count):
            if j == i:
                continue
            farther = [k for k in range(count) if k != i and abs(scores[i] - scores[k]) >= abs(scores[i] - scores[j])]
            near = torch.exp(-(features[i] - features[j]).norm() / temperature)
            everyone = sum(torch.exp(-(features[i] - features[k]).norm() / temperature) for k in farther)
            terms.append(-torch.log(near / everyone))
    return torch.stack(terms).mean()


def emd(predicted: Tensor, target: Tensor, r: float) -> Tensor:
    """Eq. 14, one photo and one bin after the other."""
    per_photo = []
    for p, t in zip(predicted, target, strict=True):
        gaps = [(p[: d + 1].sum() - t[: d + 1].sum()).abs() ** r for d in range(len(p))]
        per_photo.append((sum(gaps) / len(gaps)) ** (1 / r))
    return torch.stack(per_photo)


def group_by_level(levels: Tensor) -> list[list[int]]:
    return [torch.nonzero(levels == level)[:, 0].tolist() for level in sorted(set(levels.tolist()))]
