"""The prediction head and its attributions."""

from __future__ import annotations

import copy

import pytest
import torch

from tmcr.attribution import Attribution
from tmcr.errors import ConfigError
from tmcr.network import (
    DimensionTransform,
    HeadConfig,
    PredictionHead,
    Projector,
    averaged,
    expected_score,
    score_std,
)


def make_head(**changes: object) -> PredictionHead:
    torch.manual_seed(0)
    config = HeadConfig(**({"n_semantic": 5, "n_attribute": 4, "level_width": 6, "n_bins": 10, "hidden": 8} | changes))
    head = PredictionHead(config)
    for module in head.modules():  # as after training: nothing is at its neutral starting value
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    if config.uses_tags:
        head.tag_scale.set(torch.randn(config.n_tags), torch.rand(config.n_tags) + 0.1)
    if config.uses_levels:
        head.level_scale.set(torch.randn(6), torch.rand(6) + 0.1)
    return head.eval()


SCORES = torch.arange(1.0, 11.0)
ABLATIONS = [
    {"branches": branches, "score_head": score_head, "semantic_only": semantic_only}
    for branches in ("tm", "cr", "tm+cr")
    for score_head in ("mlp", "linear")
    for semantic_only in (False, True)
]


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda each: "-".join(map(str, each.values())))
def test_contributions_add_up_to_the_difference_from_the_reference(ablation: dict[str, object]) -> None:
    head = make_head(**ablation)
    similarities, features = torch.randn(7, 9), torch.randn(7, 6)
    explained = Attribution(head, SCORES)(similarities, features)
    difference = explained.score - explained.reference_score
    torch.testing.assert_close(explained.tags.sum(1) + explained.encoder, difference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ablation", ABLATIONS[:2], ids=["mlp", "linear"])
def test_contributions_see_the_score_that_the_head_gives(ablation: dict[str, object]) -> None:
    head = make_head(**ablation)
    similarities, features = torch.randn(7, 9), torch.randn(7, 6)
    explained = Attribution(head, SCORES)(similarities, features)
    expected = head(similarities, features).softmax(1)
    torch.testing.assert_close(explained.distribution.float(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(explained.score.float(), expected_score(expected, SCORES), atol=1e-4, rtol=0)


def test_the_mean_photo_is_the_reference_and_nothing_moves_its_score() -> None:
    head = make_head()
    explained = Attribution(head, SCORES)(head.tag_scale.mean[None], head.level_scale.mean[None])
    assert explained.tags.abs().max() < 1e-6
    assert explained.encoder.abs().max() < 1e-6


def test_an_unused_tag_contributes_nothing() -> None:
    explained = Attribution(make_head(semantic_only=True), SCORES)(torch.randn(3, 9), torch.randn(3, 6))
    assert torch.count_nonzero(explained.tags[:, 5:]) == 0


def test_a_linear_head_attributes_as_a_linear_model_does() -> None:
    """With ReLU always on and two bins, score differences follow the weights exactly in sign and proportion."""
    head = make_head(branches="tm", score_head="linear", n_bins=2)
    torch.nn.init.constant_(head.tag_transform.norm.bias, 1000.0)  # far from the kink
    similarities = torch.randn(4, 9)
    explained = Attribution(head, torch.tensor([1.0, 10.0]))(similarities, None)
    weight, _ = head.tag_transform.folded()
    logit_weight = (head.output.weight @ weight)[1] - (head.output.weight @ weight)[0]
    linear = (logit_weight * head.tag_scale(similarities)).double()
    # one common factor for each photo: the mean slope of the logistic function along the path
    factor = explained.tags.sum(1) / linear.sum(1)
    torch.testing.assert_close(explained.tags, linear * factor[:, None], atol=1e-4, rtol=1e-3)


def test_folding_batch_normalisation_changes_nothing() -> None:
    layer = make_head().level_transform
    assert isinstance(layer, DimensionTransform)
    x = torch.randn(3, 6)
    weight, bias = layer.folded()
    torch.testing.assert_close((x @ weight.T + bias).relu(), layer(x))


def test_mean_and_spread_of_a_distribution() -> None:
    distribution = torch.tensor([[0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5], [0, 0, 1.0, 0, 0, 0, 0, 0, 0, 0]])
    assert expected_score(distribution, SCORES).tolist() == [5.5, 3.0]
    assert score_std(distribution, SCORES).tolist() == [4.5, 0.0]


def test_the_untrained_head_answers_with_the_mean_distribution() -> None:
    head = PredictionHead(HeadConfig(5, 4, 6, 10, hidden=8))
    mean = torch.softmax(torch.randn(10), 0)
    head.start_from(mean)
    torch.nn.init.zeros_(head.output.weight)
    torch.testing.assert_close(head.eval()(torch.randn(2, 9), torch.randn(2, 6)).softmax(1)[0], mean)


def test_projections_have_unit_length() -> None:
    torch.testing.assert_close(Projector(6, 16)(torch.randn(5, 6)).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("branches", ["tm", "cr", "tm+cr"])
def test_averaged_heads_answer_with_the_mean_of_their_logits(branches: str) -> None:
    first = make_head(branches=branches, score_head="linear")
    heads = [first]
    for _ in range(2):
        other = copy.deepcopy(first)
        for name, value in other.state_dict().items():
            if "_scale" not in name and value.dim():
                value.copy_(torch.rand_like(value) + 0.1)
        heads.append(other)
    one = averaged(heads)
    similarities, features = torch.randn(7, 9), torch.randn(7, 6)
    wanted = torch.stack([head(similarities, features) for head in heads]).mean(0)
    torch.testing.assert_close(one(similarities, features), wanted)
    assert not torch.allclose(wanted, first(similarities, features), atol=0.1)
    assert one.config.hidden == 24
    assert averaged([first]) is first


def test_heads_with_an_mlp_cannot_be_averaged() -> None:
    with pytest.raises(ConfigError, match="score_head=linear"):
        averaged([make_head(), make_head()])
