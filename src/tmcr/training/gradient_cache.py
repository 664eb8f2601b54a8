"""Exact gradients of a loss over a large batch, with activations of only a few photos in memory.

The encoder runs over chunks without recording; the loss and its gradient with respect to all features are
found at once; the encoder runs again, chunk by chunk, to carry that gradient on to its weights (Gao et al.
2021). Equal to the plain gradient as long as the encoder treats photos independently, i.e. without batch
normalisation in training mode. What must see the whole batch (a projector) belongs into the loss.

The same splits a batch over processes: each encodes its share, the features of all meet in the loss, and each
carries its own rows of the gradient on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tmcr.errors import ConfigError
from tmcr.training.processes import ALONE, Processes


def backward_in_chunks(
    encoder: nn.Module,
    loss_of_features: Callable[[Tensor], Tensor],
    inputs: Tensor,
    chunk: int,
    autocast: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    *,
    processes: Processes = ALONE,
    batch: int | None = None,
    draws: Sequence[int] = (),
) -> float:
    """Add the gradient of `loss_of_features(encoder(inputs))` to all parameters; returns the loss.

    With several processes every one gets the loss of the whole batch and its full gradient for parameters inside
    the loss, but for the encoder's the part that comes from its own photos: `Processes.sum_gradients` makes it whole.

    Args:
        inputs: (B, …); at most `chunk` of them are in the encoder at a time. Of several processes each gives its
            share of the batch, which may be empty.
        autocast: context in which the encoder runs; the loss sees to its own.
        batch: B, where `inputs` is a share.
        draws: what the random numbers of a share's encoder depend on, beside the process. The loss draws from
            torch's present state, the same on all processes.

    Raises:
        ConfigError: a share does not have the statistics of the batch that a batch normalisation wants to learn.
    """
    if processes.count == 1 and len(inputs) <= chunk:
        with autocast():
            features = encoder(inputs)
        loss = loss_of_features(features)
        loss.backward()
        return loss.item()
    if processes.count > 1 and any(isinstance(part, _BatchNorm) and part.training for part in encoder.modules()):
        raise ConfigError(
            "several processes cannot learn the statistics of the encoder's batch normalisation; "
            "set rank.freeze_batch_norm=true, or start one process"
        )
    batch = len(inputs) if batch is None else batch
    parts = inputs.split(chunk) if len(inputs) else ()
    fits = len(parts) == 1  # recorded at once, there is no need to run again
    states = []
    encoded = []
    with processes.own_draws(inputs.device, draws), torch.set_grad_enabled(fits), autocast():
        for part in parts:
            states.append(_random_state(inputs.device))
            encoded.append(encoder(part))
    everything = _gathered(encoded, encoder, processes, batch, inputs.device).requires_grad_()
    loss = loss_of_features(everything)
    loss.backward()
    if everything.grad is None:
        raise ValueError("the loss does not depend on the features")
    mine = everything.grad[processes.share(batch)]
    gradients = mine.split(chunk) if parts else ()
    after = _random_state(inputs.device)
    for part, state, features, gradient in zip(parts, states, encoded, gradients, strict=True):
        if fits:
            again = features
        else:
            _set_random_state(state, inputs.device)  # dropout drops the same units again
            with autocast():
                again = encoder(part)
        again.backward(gradient.to(again.dtype))
    _set_random_state(after, inputs.device)
    return loss.item()


def _gathered(
    encoded: list[Tensor], encoder: nn.Module, processes: Processes, batch: int, device: torch.device
) -> Tensor:
    """The features (B, W) of the whole batch, without their history."""
    if processes.count == 1:
        return torch.cat(encoded).detach()
    # Under autocast, photos may come out in half precision; who has no photo could not tell.
    dtype = next(encoder.parameters()).dtype
    return processes.gather([part.detach().to(dtype) for part in encoded], batch, device=device)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
