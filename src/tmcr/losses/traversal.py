"""Traversal contrastive loss (eq. 9, 10): levels of one kind of photo are pulled together and kept in order.

For every anchor level A the other levels are walked through. In round one A's own photos are the positives;
then, on either side, the next level out is the positive one P and the levels beyond it are the negatives N,
until no level lies beyond. Levels are integers; only those that occur in the batch count.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Form = Literal["paper", "official"]


def traversal_loss(features: Tensor, levels: Tensor, *, temperature: float = 0.07, form: Form = "paper") -> Tensor:
    """Loss () of L2-normalised features (B, d) at levels (B,).

    `form="paper"`: one round's loss is the mean over i ∈ A, j ∈ P (j ≠ i) of
    `−log( e(i,j) / (e(i,j) + Σ_{k∈N} e(i,k)) )` with `e(i,j) = exp(f_i·f_j/τ)`. Round one (P = A) comes once for
    each anchor, with all other levels as N; it is left out where A holds one photo or there is no other level.
    The rounds of all anchors are summed.

    `form="official"`: each round, round one included, is taken once for each side and is a two-class supervised
    contrastive loss: anchor ∪ positive level are one class, the levels beyond on that side the other (so that
    these are positives of each other). In round one the anchor level counts twice. For every member the mean
    over its positives of the negative log-softmax over all others is taken, then the mean over members; rounds
    are summed. A round without levels beyond is left out.

    Computed in float32 or better whatever the autocast state; zero (with gradient) when no round exists.

    Args:
        temperature: τ > 0.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features if features.dtype == torch.float64 else features.float()
        logits = features @ features.T / temperature
        return _paper(logits, levels) if form == "paper" else _official(logits, levels)


def _paper(logits: Tensor, levels: Tensor) -> Tensor:
    count, own = _levels(levels)  # number of levels L; for each photo the place of its level, 0..L−1
    size = torch.bincount(own, minlength=count).to(logits.dtype)
    # Each row's log-sum-exp over the photos of one level (B, L), then over all levels above / below a level.
    by_level = _logsumexp_by_level(logits, own, count)
    nothing = logits.new_full((len(own), 1), -torch.inf)
    above = torch.cat([by_level.flip(1).logcumsumexp(1).flip(1)[:, 1:], nothing], 1)
    below = torch.cat([nothing, by_level.logcumsumexp(1)[:, :-1]], 1)

    mine, theirs = own[:, None], own[None, :]
    place = theirs.expand(len(own), -1)
    outward = torch.where(theirs > mine, above.gather(1, place), below.gather(1, place))
    others = _logaddexp(above.gather(1, mine), below.gather(1, mine))  # all levels but the anchor's own
    negatives = torch.where(theirs == mine, others, outward)

    itself = torch.eye(len(own), dtype=torch.bool, device=logits.device)
    valid = torch.isfinite(negatives) & ~itself
    # log(1 + Σ_N e / e_ij), the round's term, is a softplus; masked entries get a harmless argument.
    terms = torch.nn.functional.softplus(torch.where(valid, negatives - logits, torch.zeros_like(logits)))
    pairs = size[mine] * (size[theirs] - (theirs == mine).to(logits.dtype))
    return (terms * valid / pairs.clamp_min(1)).sum()


def _official(logits: Tensor, levels: Tensor) -> Tensor:
    count, own = _levels(levels)
    total = logits.sum() * 0
    signed = torch.arange(count, device=logits.device)
    for anchor in range(count):
        for positive in range(count):
            for side in (1, -1) if positive == anchor else ((1,) if positive > anchor else (-1,)):
                beyond = (signed > positive) if side > 0 else (signed < positive)
                if bool(beyond.any()):
                    total = total + _two_class(logits, own, anchor, positive, beyond)
    return total


def _two_class(logits: Tensor, own: Tensor, anchor: int, positive: int, beyond: Tensor) -> Tensor:
    """One round: supervised contrastive loss of anchor ∪ positive against the levels beyond."""
    first = torch.cat([torch.nonzero(own == anchor)[:, 0], torch.nonzero(own == positive)[:, 0]])
    second = torch.nonzero(beyond[own])[:, 0]
    members = torch.cat([first, second])
    label = torch.arange(len(members), device=logits.device) < len(first)
    block = logits[members[:, None], members[None, :]]
    itself = torch.eye(len(members), dtype=torch.bool, device=logits.device)
    log_share = block - block.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    same = (label[:, None] == label[None, :]) & ~itself
    has_positive = same.any(1)
    per_member = -(log_share * same).sum(1) / same.sum(1).clamp_min(1)
    return per_member[has_positive].mean()


def _levels(levels: Tensor) -> tuple[int, Tensor]:
    present, own = torch.unique(levels, return_inverse=True)
    return len(present), own


def _logsumexp_by_level(logits: Tensor, own: Tensor, count: int) -> Tensor:
    """(B, L): log Σ_{k at level l} exp(logits[i, k])."""
    columns = [logits[:, own == level].logsumexp(1) for level in range(count)]  # at most nine levels
    return torch.stack(columns, 1)


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """log(e^a + e^b) whose gradient stays finite where both are −∞."""
    both = torch.isinf(a) & torch.isinf(b)
    safe = torch.logaddexp(a.masked_fill(both, 0.0), b.masked_fill(both, 0.0))
    return safe.masked_fill(both, -torch.inf)
