"""Chunked gradients equal the plain ones, and the encoder never holds more than a chunk."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tmcr.losses import traversal_loss
from tmcr.training.gradient_cache import backward_in_chunks

LEVELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4])


class Encoder(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.largest = 0

    def forward(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, len(x))
        return self.layers(x)


def setting(dropout: float = 0.0) -> tuple[Encoder, nn.Module, Tensor]:
    torch.manual_seed(0)
    encoder = Encoder(dropout).double()
    projector = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).double()
    return encoder, projector, torch.randn(len(LEVELS), 5, dtype=torch.float64)


def loss_through(projector: nn.Module):  # type: ignore[no-untyped-def]
    return lambda features: traversal_loss(nn.functional.normalize(projector(features), dim=1), LEVELS)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 10, 11, 64])
def test_gradients_equal_the_plain_ones_to_rounding(chunk: int) -> None:
    encoder, projector, inputs = setting()
    reference, reference_projector = copy.deepcopy(encoder), copy.deepcopy(projector)
    expected = loss_through(reference_projector)(reference(inputs))
    expected.backward()
    loss = backward_in_chunks(encoder, loss_through(projector), inputs, chunk)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for module, plain in ((encoder, reference), (projector, reference_projector)):
        for parameter, other in zip(module.parameters(), plain.parameters(), strict=True):
            # A bias before batch normalisation has gradient zero, but for rounding, which differs among processors.
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-10, atol=1e-12)
    assert encoder.largest == min(chunk, len(LEVELS))
    # The projector's batch normalisation has seen the whole batch once, as it would have without chunks.
    torch.testing.assert_close(projector[1].running_mean, reference_projector[1].running_mean)


def test_dropout_drops_the_same_units_in_both_passes() -> None:
    encoder, projector, inputs = setting(dropout=0.5)
    kept: list[Tensor] = []
    encoder.layers[2].register_forward_hook(lambda module, args, out: kept.append(out == 0))
    backward_in_chunks(encoder, loss_through(projector), inputs, 4)
    first, second = kept[:3], kept[3:]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])  # another mask for another chunk


def test_the_random_state_moves_on_as_if_there_had_been_one_pass() -> None:
    encoder, projector, inputs = setting(dropout=0.5)
    torch.manual_seed(3)
    for part in inputs.split(4):
        encoder(part)
    expected = torch.rand(1)
    torch.manual_seed(3)
    backward_in_chunks(encoder, loss_through(projector), inputs, 4)
    assert torch.equal(torch.rand(1), expected)


def test_gradients_add_up_over_calls() -> None:
    encoder, projector, inputs = setting()
    backward_in_chunks(encoder, loss_through(projector), inputs, 4)
    once = [parameter.grad.clone() for parameter in encoder.parameters()]
    projector_state = copy.deepcopy(projector)
    backward_in_chunks(encoder, loss_through(projector_state), inputs, 4)
    for parameter, gradient in zip(encoder.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_a_loss_that_ignores_the_features_is_a_mistake() -> None:
    encoder, _, inputs = setting()
    with pytest.raises(ValueError, match="does not depend"):
        backward_in_chunks(encoder, lambda features: torch.ones(1, requires_grad=True).sum(), inputs, 4)
