"""Tags below the confidence that a model knows of are not shown; a model that knows none shows its best tags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tmcr.assessor import TOP_TAGS, Assessor, load
from tmcr.modelfolder import STARTER, load_model, save_model


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
    shown = with_minimum(starter, None).assess(photo).reasons
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
