"""What a model is not sure of is not shown, nor what another tag says better; without bars its best tags are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tmcr.assessor import Assessor, load
from tmcr.modelfolder import STARTER, TrainedModel, load_model, save_model
from tmcr.shown_tags import SAME, TOP_TAGS, contradicted, nameable


@pytest.fixture(scope="module")
def starter() -> Assessor:
    return load("starter", device="cpu", workers=0)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    rough = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((200, 150))


def with_minimum(starter: Assessor, minimum: torch.Tensor | None) -> Assessor:
    return Assessor(replace(starter.model, tag_minimum=minimum), starter.image_text, starter.hardware)


def everywhere(starter: Assessor, value: float) -> torch.Tensor:
    return torch.full((len(starter.model.libraries.names),), value)


def test_without_thresholds_the_best_tags_are_shown_by_z(starter: Assessor, photo: Image.Image) -> None:
    verdict = with_minimum(starter, None).assess(photo)
    for tags in (verdict.semantic_tags, verdict.attribute_tags):
        assert len(tags) == TOP_TAGS
        assert [tag.z for tag in tags] == sorted((tag.z for tag in tags), reverse=True)


def test_one_bar_for_all_cuts_the_same_list_short(starter: Assessor, photo: Image.Image) -> None:
    every = with_minimum(starter, None).assess(photo).semantic_tags
    bar = (every[2].z + every[3].z) / 2
    assert with_minimum(starter, everywhere(starter, bar)).assess(photo).semantic_tags == every[:3]


def test_nothing_is_shown_where_nothing_clears_its_bar(starter: Assessor, photo: Image.Image) -> None:
    verdict = with_minimum(starter, everywhere(starter, float("inf"))).assess(photo)
    assert verdict.semantic_tags == verdict.attribute_tags == ()
    assert verdict.ok


def test_a_tag_with_a_lower_bar_comes_first(starter: Assessor, photo: Image.Image) -> None:
    best = with_minimum(starter, None).assess(photo).semantic_tags
    lowered = everywhere(starter, best[4].z)
    lowered[starter.model.libraries.names.index(best[4].name)] -= 50
    assert with_minimum(starter, lowered).assess(photo).semantic_tags[0] == best[4]


def test_the_score_does_not_depend_on_what_is_shown(starter: Assessor, photo: Image.Image) -> None:
    hidden = with_minimum(starter, everywhere(starter, float("inf"))).assess(photo)
    shown = with_minimum(starter, None).assess(photo)
    for part in ("score", "semantic_contribution", "attribute_contribution", "encoder_contribution"):
        assert getattr(hidden, part) == getattr(shown, part)


def test_what_is_never_shown_is_no_reason_either(starter: Assessor, photo: Image.Image) -> None:
    shown = with_minimum(starter, everywhere(starter, 9.0)).assess(photo).reasons
    minimum = everywhere(starter, 9.0)
    minimum[starter.model.libraries.names.index(shown[0].tag)] = float("inf")
    assert with_minimum(starter, minimum).assess(photo).reasons[: len(shown) - 1] == shown[1:]


def test_facets_of_which_nothing_is_ever_shown_are_counted_together(starter: Assessor, photo: Image.Image) -> None:
    libraries = starter.model.libraries
    minimum = everywhere(starter, float("inf"))
    minimum[[index for index, facet in enumerate(libraries.facets) if facet in ("water", "light")]] = 9.0
    every = with_minimum(starter, everywhere(starter, 9.0)).assess(photo).facets
    some = with_minimum(starter, minimum).assess(photo).facets
    assert {facet.name for facet in some[:-2]} == {"water", "light"}
    assert {facet.name for facet in some[-2:]} == {"other semantic tags", "other attribute tags"}
    for library in ("semantic", "attribute"):
        sums = [sum(facet.contribution for facet in facets if facet.library == library) for facets in (every, some)]
        assert sums[0] == pytest.approx(sums[1], abs=1e-9)


def test_a_facet_is_told_by_what_the_photo_has_and_by_looks_that_it_lacks(starter: Assessor) -> None:
    grey = Image.new("RGB", (160, 120), (120, 120, 120))
    model = starter.model
    told = {tag for facet in starter.assess(grey).facets for tag in facet.tags}
    lacking = {tag.removeprefix("less ") for tag in told if tag.startswith("less ")}
    assert lacking
    prepared = [starter.prepare(grey)]
    similarity = (starter.features(prepared)[0] @ model.text.T)[0]
    z = (similarity - model.similarity_mean) / model.similarity_std
    for tag in lacking:
        place = model.libraries.names.index(tag)
        assert tag in model.libraries.attribute.tags
        assert z[place] <= -model.tag_minimum[place] + 1e-4


def test_thresholds_are_stored_and_may_be_absent(starter: Assessor, tmp_path: Path) -> None:
    for name, minimum in (("some", everywhere(starter, 1.5)), ("none", None)):
        model = replace(load_model(STARTER), tag_minimum=minimum)
        save_model(model, tmp_path / name, card="", storage="float16")
        kept = load_model(tmp_path / name).tag_minimum
        assert (kept is None) == (minimum is None)
        if minimum is not None and kept is not None:
            assert torch.equal(kept, minimum)


def test_contradictions_of_many_are_those_read_aloud() -> None:
    rng = np.random.default_rng(0)
    opposite = np.array([1, 0, -1, 4, 3, -1, 7, 6])
    tags = np.stack([rng.permutation(8)[:5] for _ in range(200)])
    said = [[any(row[i] == opposite[tag] for i in range(place)) for place, tag in enumerate(row)] for row in tags]
    assert contradicted(tags, opposite).tolist() == said
    assert contradicted(tags[:1, :0], opposite).shape == (1, 0)


def twins(model: TrainedModel, first: int, second: int, frequencies: tuple[int, int]) -> TrainedModel:
    """The model with two tags of one library that it cannot tell apart, used so many times."""
    text = model.text.clone()
    text[second] = text[first]
    semantic = max(first, second) < model.libraries.n_semantic
    library, start = (
        (model.libraries.semantic, 0) if semantic else (model.libraries.attribute, model.libraries.n_semantic)
    )
    used = list(library.frequencies)
    used[first - start], used[second - start] = frequencies
    library = replace(library, frequencies=tuple(used))
    libraries = replace(model.libraries, **{"semantic" if semantic else "attribute": library})
    return replace(model, text=text, libraries=libraries)


MANY = 10**6  # more than any tag is used, so that no third tag has a say


def test_of_two_tags_that_say_the_same_the_one_used_more_often_is_shown(starter: Assessor) -> None:
    for minimum in (None, everywhere(starter, 1.5)):
        model = replace(starter.model, tag_minimum=minimum)
        assert nameable(twins(model, 3, 8, (MANY, MANY + 1)))[[3, 8]].tolist() == [False, True]
        assert nameable(twins(model, 3, 8, (MANY, MANY)))[[3, 8]].tolist() == [True, False]


def test_a_tag_stays_where_the_one_used_more_often_has_a_higher_bar(starter: Assessor) -> None:
    minimum = everywhere(starter, 1.5)
    minimum[8] = 2
    model = replace(starter.model, tag_minimum=minimum)
    assert nameable(twins(model, 3, 8, (MANY, MANY + 1)))[[3, 8]].tolist() == [True, True]
    minimum[8] = float("inf")
    assert nameable(twins(model, 3, 8, (MANY, MANY + 1)))[[3, 8]].tolist() == [True, False]


def test_looks_with_bars_may_differ_in_degree_alone(starter: Assessor) -> None:
    place = starter.model.libraries.n_semantic
    for minimum, shown in ((everywhere(starter, 1.5), [True, True]), (None, [False, True])):
        model = twins(replace(starter.model, tag_minimum=minimum), place, place + 1, (MANY, MANY + 1))
        assert nameable(model)[[place, place + 1]].tolist() == shown


def test_no_two_semantic_tags_that_say_the_same_are_shown_as_often(starter: Assessor) -> None:
    model = starter.model
    assert model.embedding_covariance is not None
    assert model.tag_minimum is not None
    root = np.linalg.cholesky(model.embedding_covariance.double().numpy() + 1e-12 * np.eye(model.text.shape[1]))
    drawn = np.concatenate([root.T, -root.T])  # embeddings that go up and down together as those of the photos do
    places = np.flatnonzero(nameable(model)[: model.libraries.n_semantic])
    together = np.corrcoef(drawn @ model.text[places].numpy().T, rowvar=False)
    bar, used = model.tag_minimum[places].numpy(), np.array(model.libraries.frequencies)[places]
    better = (used[:, None] >= used) & (bar[:, None] <= bar) & ~np.eye(len(places), dtype=bool)
    assert together[better].max() < SAME + 1e-4
    assert together[~np.eye(len(places), dtype=bool)].max() > SAME  # bars keep some beside what says the same


def test_what_says_the_same_is_in_no_verdict_and_in_no_facet(starter: Assessor, photo: Image.Image) -> None:
    plain = with_minimum(starter, None).assess(photo)
    place = starter.model.libraries.names.index(plain.semantic_tags[0].name)
    other = 0 if place else 1
    model = twins(replace(starter.model, tag_minimum=None), place, other, (MANY, MANY + 1))
    model = replace(model, similarity_mean=model.similarity_mean.clone(), similarity_std=model.similarity_std.clone())
    for usual in (model.similarity_mean, model.similarity_std):
        usual[other] = usual[place]
    verdict = Assessor(model, starter.image_text, starter.hardware).assess(photo)
    assert verdict.semantic_tags[0].name == model.libraries.names[other]
    told = {tag for facet in verdict.facets for tag in facet.tags} | {reason.tag for reason in verdict.reasons}
    assert plain.semantic_tags[0].name not in told | {tag.name for tag in verdict.semantic_tags}
