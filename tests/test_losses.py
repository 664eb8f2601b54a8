"""The vectorised losses against plain loops, their gradients, and what must hold on any batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import plain
from tmcr.losses import emd_loss, rank_n_contrast_loss, supcon_loss, traversal_loss

PLAIN = {"paper": plain.traversal_paper, "official": plain.traversal_official}
LEVELS = st.lists(st.integers(0, 8), min_size=1, max_size=14)
FORMS = pytest.mark.parametrize("form", ["paper", "official"])


def features_of(levels: list[int] | Tensor, width: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(len(levels), width, generator=generator, dtype=torch.float64), dim=1)


def test_a_traversal_computed_by_hand() -> None:
    # Levels 0, 1, 2 with one photo each; f1·f2 and so on are chosen, τ = 1.
    f = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    near, far = math.exp(0.6), math.exp(0.0)  # 0–1, and 0–2
    other = math.exp(0.8)  # 1–2
    # Anchor 0 goes up to 1 with 2 beyond; anchor 2 goes down to 1 with 0 beyond. One photo a level: no round one.
    expected = -math.log(near / (near + far)) - math.log(other / (other + far))
    assert traversal_loss(f, torch.tensor([0, 1, 2]), temperature=1.0).item() == pytest.approx(expected, abs=1e-12)
    assert plain.traversal_paper(f, torch.tensor([0, 1, 2]), 1.0).item() == pytest.approx(expected, abs=1e-12)


def test_round_one_pulls_a_level_together_against_all_others() -> None:
    f = features_of([3, 3, 5])
    levels = torch.tensor([3, 3, 5])
    e = torch.exp(f @ f.T / 0.5)
    # Two levels: only anchor 3 has a partner; 5 is alone, and no level lies beyond either.
    expected = -(torch.log(e[0, 1] / (e[0, 1] + e[0, 2])) + torch.log(e[1, 0] / (e[1, 0] + e[1, 2]))) / 2
    assert traversal_loss(f, levels, temperature=0.5).item() == pytest.approx(expected.item(), abs=1e-12)


@FORMS
@settings(max_examples=60, deadline=None)
@given(levels=LEVELS, seed=st.integers(0, 100))
def test_traversal_equals_the_plain_loops_on_any_batch(form: str, levels: list[int], seed: int) -> None:
    f, own = features_of(levels, seed=seed), torch.tensor(levels)
    fast = traversal_loss(f, own, temperature=0.3, form=form)  # type: ignore[arg-type]
    assert fast.item() == pytest.approx(PLAIN[form](f, own, 0.3).item(), rel=1e-9, abs=1e-9)


@FORMS
@pytest.mark.parametrize("levels", [[0, 0, 1, 1, 2, 2], [4, 1, 1, 7, 4, 1, 8], [2, 2, 2, 5], [0, 1, 2, 3, 4]])
def test_traversal_gradients(form: str, levels: list[int]) -> None:
    own = torch.tensor(levels)
    f = features_of(levels, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: traversal_loss(x, own, temperature=0.4, form=form), f)  # type: ignore[arg-type]
    (fast,) = torch.autograd.grad(traversal_loss(f, own, temperature=0.4, form=form), f)  # type: ignore[arg-type]
    (slow,) = torch.autograd.grad(PLAIN[form](f, own, 0.4), f)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)


@FORMS
@pytest.mark.parametrize("levels", [[3], [3, 3, 3], [1, 2]])
def test_without_a_round_the_loss_is_zero_and_has_a_gradient(form: str, levels: list[int]) -> None:
    f = features_of(levels).requires_grad_()
    loss = traversal_loss(f, torch.tensor(levels), form=form)  # type: ignore[arg-type]
    loss.backward()
    if form == "paper" or len(set(levels)) == 1:
        assert loss.item() == 0
        assert torch.equal(f.grad, torch.zeros_like(f))
    assert torch.isfinite(f.grad).all()


@FORMS
def test_the_order_of_photos_and_the_names_of_levels_do_not_matter(form: str) -> None:
    levels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    f = features_of(levels)
    shuffled = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    loss = traversal_loss(f, levels, form=form)  # type: ignore[arg-type]
    torch.testing.assert_close(traversal_loss(f[shuffled], levels[shuffled], form=form), loss)  # type: ignore[arg-type]
    torch.testing.assert_close(traversal_loss(f, levels * 2 + 1, form=form), loss)  # type: ignore[arg-type]
    assert traversal_loss(f, levels[shuffled], form=form).item() != pytest.approx(loss.item())  # type: ignore[arg-type]


@FORMS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_features_lose_no_more_than_their_own_rounding(form: str, dtype: torch.dtype) -> None:
    levels = torch.arange(7).repeat_interleave(9)
    f = features_of(levels, 64).to(dtype)
    exact = traversal_loss(f.double(), levels, form=form)  # type: ignore[arg-type]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = traversal_loss(f, levels, form=form)  # type: ignore[arg-type]
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=1e-5)


@FORMS
@pytest.mark.parametrize("temperature", [0.07, 1e-3])
def test_extreme_similarities_stay_finite(form: str, temperature: float) -> None:
    levels = torch.arange(5).repeat_interleave(3)
    same = torch.ones(15, 8) / math.sqrt(8)
    opposite = same * torch.where(levels % 2 == 0, 1.0, -1.0)[:, None]
    for raw in (same, opposite):
        f = raw.bfloat16().float().requires_grad_()
        loss = traversal_loss(f, levels, temperature=temperature, form=form)  # type: ignore[arg-type]
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(f.grad).all()


@settings(max_examples=40, deadline=None)
@given(levels=st.lists(st.integers(0, 4), min_size=2, max_size=10), seed=st.integers(0, 50))
def test_supcon_and_rank_n_contrast_equal_the_plain_loops(levels: list[int], seed: int) -> None:
    f, own = features_of(levels, seed=seed), torch.tensor(levels)
    if len(set(levels)) < len(levels):
        expected = plain.supcon(f, own, 0.2).item()
        assert supcon_loss(f, own, temperature=0.2).item() == pytest.approx(expected, rel=1e-9)
    scores = own.double() + torch.rand(len(levels), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for values in (scores, own.double()):  # without and with ties
        expected = plain.rank_n_contrast(f, values, 2.0).item()
        assert rank_n_contrast_loss(f, values).item() == pytest.approx(expected, rel=1e-6)


def test_supcon_and_rank_n_contrast_gradients() -> None:
    own = torch.tensor([0, 0, 1, 2, 2, 2])
    f = features_of(own, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: supcon_loss(x, own, temperature=0.3), f)
    assert torch.autograd.gradcheck(lambda x: rank_n_contrast_loss(x, own.double() * 1.3), f)
    alone = torch.tensor([0, 1, 2, 3, 4, 5])
    assert supcon_loss(f, alone).item() == 0


@pytest.mark.parametrize("r", [1.0, 2.0, 3.0])
def test_emd_equals_the_plain_loop_and_has_its_gradient(r: float) -> None:
    rng = np.random.default_rng(0)
    predicted, target = (torch.from_numpy(rng.dirichlet(np.ones(7), 5)) for _ in range(2))
    torch.testing.assert_close(emd_loss(predicted, target, r=r), plain.emd(predicted, target, r))
    logits = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: emd_loss(x.softmax(1), target[:4], r=r), logits)


def test_emd_with_r_1_is_scipys_wasserstein_distance_over_the_number_of_bins() -> None:
    rng = np.random.default_rng(1)
    predicted, target = rng.dirichlet(np.ones(10), 6), rng.dirichlet(np.ones(10), 6)
    bins = np.arange(10)
    expected = [wasserstein_distance(bins, bins, p, t) / 10 for p, t in zip(predicted, target, strict=True)]
    found = emd_loss(torch.from_numpy(predicted), torch.from_numpy(target), r=1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_emd_is_zero_with_a_finite_gradient_where_prediction_and_truth_agree() -> None:
    target = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]])
    predicted = torch.stack([target[0], torch.tensor([0.8, 0.1, 0.1])]).requires_grad_()
    loss = emd_loss(predicted, target)
    loss.sum().backward()
    assert loss[0].item() == 0
    assert torch.isfinite(predicted.grad).all()
    assert predicted.grad[1].abs().sum() > 0
