"""Exact gradients of a loss over a large batch, with activations of only a few photos in memory.

The encoder runs over chunks without recording; the loss and its gradient with respect to all features are
found at once; the encoder runs again, chunk by chunk, to carry that gradient on to its weights (Gao et al.
2021). Equal to the plain gradient as long as the encoder treats photos independently, i.e. without batch
normalisation in training mode. What must see the whole batch (a projector) belongs into the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def backward_in_chunks(
    encoder: nn.Module,
    loss_of_features: Callable[[Tensor], Tensor],
    inputs: Tensor,
    chunk: int,
    autocast: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> float:
    """Add the gradient of `loss_of_features(encoder(inputs))` to all parameters; returns the loss.

    Args:
        inputs: (B, …); at most `chunk` of them are in the encoder at a time.
        autocast: context in which encoder and loss run.
    """
    if len(inputs) <= chunk:
        with autocast():
            loss = loss_of_features(encoder(inputs))
        loss.backward()
        return loss.item()
    parts = inputs.split(chunk)
    states = []
    features = []
    with torch.no_grad(), autocast():
        for part in parts:
            states.append(_random_state(inputs.device))
            features.append(encoder(part))
    everything = torch.cat(features).detach().requires_grad_()
    with autocast():
        loss = loss_of_features(everything)
    loss.backward()
    if everything.grad is None:
        raise ValueError("the loss does not depend on the features")
    after = _random_state(inputs.device)
    for part, state, gradient in zip(parts, states, everything.grad.split(chunk), strict=True):
        _set_random_state(state, inputs.device)  # dropout drops the same units again
        with autocast():
            again = encoder(part)
        again.backward(gradient.to(again.dtype))
    _set_random_state(after, inputs.device)
    return loss.item()


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
