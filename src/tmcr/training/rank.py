"""Stage 3, rank: the image encoder learns to separate and order the levels of photos of one kind (eq. 8–11)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tmcr.encoders import ImageEncoder
from tmcr.hardware import Hardware
from tmcr.losses import rank_n_contrast_loss, supcon_loss, traversal_loss
from tmcr.network import Projector
from tmcr.training.config import RankConfig
from tmcr.training.gradient_cache import backward_in_chunks
from tmcr.training.levels import BalancedBatches
from tmcr.training.photos import PhotoViews
from tmcr.training.stage import MetricsLog, Progress, save_checkpoint


def ranking_loss(config: RankConfig) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of (L2-normalised projections (B, d), levels (B,), scores (B,)) that the configuration names."""
    match config.loss:
        case "traversal":
            return lambda z, levels, scores: traversal_loss(z, levels, temperature=config.temperature, form=config.form)
        case "supcon":
            return lambda z, levels, scores: supcon_loss(z, levels, temperature=config.temperature)
        case "rank-n-contrast":
            return lambda z, levels, scores: rank_n_contrast_loss(z, scores, temperature=config.temperature)
        case "none":
            raise ValueError("ranking is switched off")


def rank(
    encoder: ImageEncoder,
    photos: PhotoViews,
    batches: BalancedBatches,
    levels: Tensor,
    scores: Tensor,
    *,
    config: RankConfig,
    hardware: Hardware,
    seed: int,
    checkpoint: Path,
    checkpoint_every: int,
    log: MetricsLog,
    progress: Progress,
) -> float:
    """Train `encoder` in place; returns the mean loss of the last epoch.

    Args:
        photos: the training photos, and the processes that share each batch of them; `batches` indexes into them,
            as do levels (n,) and scores (n,). The loss is the whole batch's on every process, and so are the weights.
        checkpoint: file to save to every `checkpoint_every` updates and to take up again from.
    """
    loss_of = ranking_loss(config)
    processes = photos.processes
    torch.manual_seed(seed)
    projector = Projector(encoder.width, config.projector).to(hardware.device)
    encoder.to(hardware.device)
    model = nn.ModuleDict({"encoder": encoder, "projector": projector})
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)

    per_epoch = len(batches)
    updates = -(-per_epoch // config.batches_per_update)
    update = 0  # updates taken so far, over all epochs
    epoch_losses: list[float] = []
    if processes.agree(checkpoint.exists()):
        state = torch.load(checkpoint, map_location=hardware.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        update, epoch_losses = state["update"], state["epoch_losses"]
    processes.same_state(model)
    processes.wait()  # until all have looked for the checkpoint, before the first writes another
    log.rewind("rank", update)
    progress.start("rank", config.epochs * updates, update)

    while update < config.epochs * updates:
        epoch, first_update = divmod(update, updates)
        if first_update == 0:
            epoch_losses = []
        indices = [batches.batch(epoch, step) for step in range(per_epoch)]
        views = photos.random(indices, epoch, first=first_update * config.batches_per_update)
        for group_start in range(first_update * config.batches_per_update, per_epoch, config.batches_per_update):
            group = indices[group_start : group_start + config.batches_per_update]
            seed_dropout(seed, update)
            train_mode(model, config.freeze_batch_norm)
            optimizer.zero_grad(set_to_none=True)
            losses = []
            for place, index in enumerate(group):
                pixels = next(views).to(hardware.device)
                rows = torch.from_numpy(index)

                def loss_of_features(features: Tensor, rows: Tensor = rows) -> Tensor:
                    with hardware.autocast():
                        z = projector(features)
                        loss = loss_of(z, levels[rows].to(z.device), scores[rows].to(z.device))
                        return loss / len(group)  # noqa: B023  # eq. 11: the mean gradient over the batches

                part = backward_in_chunks(
                    encoder,
                    loss_of_features,
                    pixels,
                    config.chunk,
                    hardware.autocast,
                    processes=processes,
                    batch=len(index),
                    draws=(seed, update, place),
                )
                losses.append(len(group) * part)
            processes.sum_gradients(encoder.parameters())
            processes.same_gradients(projector.parameters())
            optimizer.step()
            update += 1
            loss = sum(losses) / len(losses)
            epoch_losses.append(loss)
            log.add("rank", epoch=epoch, step=update, loss=loss, lr=config.learning_rate)
            progress.step(1, loss=loss, lr=config.learning_rate)
            if processes.first and update % checkpoint_every == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "update": update,
                    "epoch_losses": epoch_losses,
                }
                save_checkpoint(state, checkpoint)
    encoder.eval()
    return sum(epoch_losses) / max(1, len(epoch_losses))


def seed_dropout(seed: int, step: int) -> None:
    """Let what dropout and stochastic depth drop depend on (seed, step) alone, on every device.

    A run that is taken up in the middle then drops what an undisturbed one drops. (Of several processes each drops
    units of its own inside the encoder, by `Processes.own_draws`.)
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def train_mode(model: nn.Module, freeze_batch_norm: bool) -> None:
    """Training mode, except that convolutional batch normalisation keeps its learnt statistics if so wished."""
    model.train()
    if freeze_batch_norm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
