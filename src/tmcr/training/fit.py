"""Stage 4, fit: the prediction head, alone (LP) or together with the image encoder (FT), under EMD (eq. 12–15)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tmcr.encoders import ImageEncoder
from tmcr.hardware import Hardware
from tmcr.losses import emd_loss
from tmcr.matching import match
from tmcr.network import PredictionHead, expected_score
from tmcr.training.config import FitConfig
from tmcr.training.gradient_cache import backward_in_chunks
from tmcr.training.match import Matched
from tmcr.training.pairs import Pairs, pair_loss
from tmcr.training.photos import PhotoViews
from tmcr.training.processes import ALONE
from tmcr.training.rank import seed_dropout, train_mode
from tmcr.training.stage import MetricsLog, Progress, save_checkpoint


@dataclass(frozen=True)
class FitData:
    """What the head learns from. Indices count the readable photos.

    Attributes:
        matched: tag similarities.
        photos: pixels for the image encoder, and the processes that share the work.
        distributions: (n, D) rating distributions.
        score_values: (D,).
        train, validation: indices of the two parts.
        level_features: (n, W) features of the frozen encoder, or None where no branch needs them.
        pairs: photos and their damaged copies, or None.
    """

    matched: Matched
    photos: PhotoViews
    distributions: Tensor
    score_values: Tensor
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    level_features: Tensor | None
    pairs: Pairs | None = None


def fit(
    head: PredictionHead,
    encoder: ImageEncoder | None,
    data: FitData,
    *,
    config: FitConfig,
    hardware: Hardware,
    seed: int,
    checkpoint: Path,
    log: MetricsLog,
    progress: Progress,
    stage: str = "fit",
    fixed_epochs: int | None = None,
) -> dict[str, float]:
    """Train `head`, and `encoder` too where it is given (FT), in place; both end as they were at the best epoch.

    The best epoch is the one with the lowest EMD on the validation part (with pairs: EMD and the weighted penalty of
    pairs); the test part is never looked at.

    Of several processes each encodes its share of a batch; the head sees whole batches on all of them.

    Args:
        fixed_epochs: train for that many epochs and keep what the last one left, without looking at validation.

    Returns:
        How many epochs led to the best one (0: none was better than the start), and its validation EMD and SRCC;
        nothing after `fixed_epochs`.
    """
    processes = data.photos.processes
    head.to(hardware.device)
    groups: list[dict[str, Any]] = [{"params": list(head.parameters()), "lr": config.learning_rate}]
    if encoder is not None:
        encoder.to(hardware.device)
        lr = config.encoder_learning_rate or config.learning_rate
        groups.append({"params": list(encoder.parameters()), "lr": lr})
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.decay)
    parts = {"head": head} if encoder is None else {"head": head, "encoder": encoder}

    epoch = 0
    best: dict[str, Any] = {"objective": float("inf"), "epoch": -1}
    resumed = processes.agree(checkpoint.exists())
    if resumed:
        state = torch.load(checkpoint, map_location=hardware.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        epoch, best = state["epoch"], state["best"]
    elif data.pairs is not None:
        _learn_pairs_alone(head, data, data.pairs, config, hardware, seed)
    for part in parts.values():
        processes.same_state(part)
    if not resumed and fixed_epochs is None:
        best = _score_epoch(head, encoder, data, config, hardware) | {"epoch": -1, "state": _states(parts)}
    processes.wait()  # until all have looked for the checkpoint, before the first writes another
    log.rewind(stage, epoch)
    steps = -(-len(data.train) // config.batch_size)
    epochs = config.epochs if fixed_epochs is None else fixed_epochs
    progress.start(stage, epochs * steps, epoch * steps)

    while epoch < epochs and (fixed_epochs is not None or epoch - best["epoch"] <= config.patience):
        loss = _train_epoch(head, encoder, data, config, hardware, optimizer, seed, epoch, progress)
        lr = float(optimizer.param_groups[0]["lr"])
        schedule.step()
        if fixed_epochs is None:
            now = _score_epoch(head, encoder, data, config, hardware)
            log.add(stage, epoch=epoch, loss=loss, lr=lr, val_emd=now["emd"], val_srcc=now["srcc"])
            if now["objective"] < best["objective"]:
                best = now | {"epoch": epoch, "state": _states(parts)}
        else:
            log.add(stage, epoch=epoch, loss=loss, lr=lr)
        epoch += 1
        if processes.first:
            state = {name: part.state_dict() for name, part in parts.items()} | {
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch,
                "best": best,
            }
            save_checkpoint(state, checkpoint)

    if fixed_epochs is not None:
        for part in parts.values():
            part.eval()
        return {}
    for name, part in parts.items():
        part.load_state_dict(best["state"][name])
        part.eval()
    return {"epochs": best["epoch"] + 1, "val_emd": best["emd"], "val_srcc": best["srcc"]}


def _learn_pairs_alone(
    head: PredictionHead, data: FitData, pairs: Pairs, config: FitConfig, hardware: Hardware, seed: int
) -> None:
    """`pair_epochs` passes over the pairs: few ratings are learnt in fewer steps than damage needs."""
    rng = np.random.default_rng((seed, 2))
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    for _ in range(config.pair_epochs * -(-len(pairs) // config.pair_batch)):
        head.train()
        rated = rng.choice(data.train, min(config.batch_size, len(data.train)), replace=False)
        with torch.no_grad():  # so that batch normalisation knows the photos
            head(data.matched.similarities(rated).to(hardware.device), _rows(data.level_features, rated, hardware))
        optimizer.zero_grad(set_to_none=True)
        _pair_term(head, data, pairs, config, hardware, rng).backward()
        optimizer.step()


def _train_epoch(
    head: PredictionHead,
    encoder: ImageEncoder | None,
    data: FitData,
    config: FitConfig,
    hardware: Hardware,
    optimizer: torch.optim.Optimizer,
    seed: int,
    epoch: int,
    progress: Progress,
) -> float:
    seed_dropout(seed, epoch)
    order = np.random.default_rng((seed, epoch)).permutation(data.train)
    batches = [order[start : start + config.batch_size] for start in range(0, len(order), config.batch_size)]
    if len(batches) > 1 and len(batches[-1]) < 2:  # batch normalisation needs two
        batches[-2:] = [np.concatenate(batches[-2:])]
    views = data.photos.random(batches, epoch) if encoder is not None else None
    pair_rng = np.random.default_rng((seed, epoch, 1))
    head.train()
    if encoder is not None:
        train_mode(encoder, freeze_batch_norm=True)
    processes = data.photos.processes
    total = 0.0
    for step, batch in enumerate(batches):
        optimizer.zero_grad(set_to_none=True)

        def loss_of_features(features: Tensor | None, batch: NDArray[np.int64] = batch) -> Tensor:
            return _loss(head, features, data, batch, config, hardware, pair_rng)

        if encoder is not None and views is not None:
            value = backward_in_chunks(
                encoder,
                loss_of_features,
                next(views).to(hardware.device),
                len(batch),
                hardware.autocast,
                processes=processes,
                batch=len(batch),
                draws=(seed, epoch, step),
            )
            processes.sum_gradients(encoder.parameters())
        else:
            loss = loss_of_features(_rows(data.level_features, batch, hardware))
            loss.backward()
            value = loss.item()
        processes.same_gradients(head.parameters())
        optimizer.step()
        total += value * len(batch)
        progress.step(1, loss=value, lr=optimizer.param_groups[0]["lr"])
    return total / len(order)


def _loss(
    head: PredictionHead,
    features: Tensor | None,
    data: FitData,
    batch: NDArray[np.int64],
    config: FitConfig,
    hardware: Hardware,
    pair_rng: np.random.Generator,
) -> Tensor:
    """Mean EMD of a batch of photos with these level features, and the penalty of some pairs where there are pairs."""
    similarities = data.matched.similarities(batch).to(hardware.device)
    with hardware.autocast():
        logits = head(similarities, features)
    target = _rows(data.distributions, batch, hardware)
    loss = emd_loss(logits.float().softmax(1), target, r=config.r).mean()
    if data.pairs is not None and config.pair_weight > 0:
        loss = loss + config.pair_weight * _pair_term(head, data, data.pairs, config, hardware, pair_rng)
    return loss


def _pair_term(
    head: PredictionHead,
    data: FitData,
    pairs: Pairs,
    config: FitConfig,
    hardware: Hardware,
    rng: np.random.Generator,
) -> Tensor:
    """The penalty of a random batch of pairs."""
    chosen = torch.from_numpy(rng.integers(0, len(pairs), config.pair_batch))
    original, copy = pairs.original[chosen], pairs.copy[chosen]
    rows = torch.cat([original, copy])
    similarities = match(pairs.embeddings[rows], data.matched.text).to(hardware.device)
    features = pairs.features[rows].to(hardware.device) if pairs.features is not None else None
    # Without dropout, because its noise would drown the difference between a photo and its copy, and with the
    # statistics of the rated photos in batch normalisation.
    kinds = (nn.BatchNorm1d, nn.Dropout)
    quiet = [module for module in head.modules() if isinstance(module, kinds) and module.training]
    for module in quiet:
        module.eval()
    with hardware.autocast():
        logits = head(similarities, features)
    for module in quiet:
        module.train()
    better, worse = expected_score(logits.float().softmax(1), data.score_values.to(hardware.device)).chunk(2)
    return pair_loss(better, worse, pairs.strength[chosen].to(hardware.device), config.pair_margin)


@torch.no_grad()
def _score_epoch(
    head: PredictionHead, encoder: ImageEncoder | None, data: FitData, config: FitConfig, hardware: Hardware
) -> dict[str, Any]:
    """EMD and SRCC on the validation part, and what early stopping goes by: the EMD and the penalty of pairs."""
    from scipy.stats import spearmanr

    predicted = predict(head, encoder, data, data.validation, hardware, config.batch_size)
    target = data.distributions[torch.from_numpy(data.validation)]
    emd = emd_loss(predicted, target, r=config.r).mean().item()
    guess, truth = expected_score(predicted, data.score_values), expected_score(target, data.score_values)
    constant = bool((guess.max() - guess.min()) < 1e-9)
    objective = emd
    if data.pairs is not None and config.pair_weight > 0:
        fixed = np.random.default_rng(0)
        penalty = np.mean([_pair_term(head, data, data.pairs, config, hardware, fixed).item() for _ in range(4)])
        objective += config.pair_weight * float(penalty)
    srcc = 0.0 if constant else float(spearmanr(guess, truth).statistic)
    return data.photos.processes.agree({"emd": emd, "srcc": srcc, "objective": objective})


@torch.no_grad()
def predict(
    head: PredictionHead,
    encoder: ImageEncoder | None,
    data: FitData,
    rows: NDArray[np.int64],
    hardware: Hardware,
    batch_size: int,
) -> Tensor:
    """Predicted distributions (B, D) of the photos at `rows`, with the encoder's present weights if it is given.

    Several processes split what goes through the encoder by whole batches, so that each photo's batch stays the same.
    """
    head.eval()
    if encoder is not None:
        encoder.eval()
    processes = data.photos.processes if encoder is not None else ALONE
    mine = rows[processes.share(len(rows), batch_size)]
    out = []
    pixels = data.photos.scored(mine.tolist(), batch_size) if encoder is not None else None
    for start in range(0, len(mine), batch_size):
        batch = mine[start : start + batch_size]
        with hardware.autocast():
            if encoder is not None and pixels is not None:
                features: Tensor | None = encoder(next(pixels).to(hardware.device))
            else:
                features = _rows(data.level_features, batch, hardware)
            logits = head(data.matched.similarities(batch).to(hardware.device), features)
        out.append(logits.float().softmax(1).cpu())
    return processes.gather(out, len(rows), device=torch.device("cpu"), block=batch_size)


@torch.no_grad()
def level_features(
    encoder: ImageEncoder, photos: PhotoViews, count: int, hardware: Hardware, batch_size: int
) -> Tensor:
    """F_level (count, W) of all photos under the frozen encoder, prepared as for scoring; split as in `predict`."""
    encoder.to(hardware.device).eval()
    mine = range(count)[photos.processes.share(count, batch_size)]
    out = []
    for pixels in photos.scored(mine, batch_size):
        with hardware.autocast():
            out.append(encoder(pixels.to(hardware.device)).float().cpu())
    return photos.processes.gather(out, count, device=torch.device("cpu"), block=batch_size)


def _rows(values: Tensor | None, batch: NDArray[np.int64], hardware: Hardware) -> Any:
    return None if values is None else values[torch.from_numpy(batch)].to(hardware.device)


def _states(parts: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
