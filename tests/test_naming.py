"""What a newly trained model takes over from its encoder's own model, and what it calls the kinds of photos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tmcr.modelfolder import STARTER, TrainedModel, load_model
from tmcr.shown_tags import nameable
from tmcr.tags import TagLibraries, TagLibrary
from tmcr.training.naming import inherited_minimum, kind_names


@pytest.fixture(scope="module")
def starter() -> TrainedModel:
    return load_model(STARTER)


def test_a_bar_is_the_same_similarity_whatever_is_usual(starter: TrainedModel) -> None:
    other = replace(
        starter,
        similarity_mean=starter.similarity_mean + 0.1,
        similarity_std=2 * starter.similarity_std,
        tag_minimum=None,
    )
    taken = inherited_minimum(other, STARTER / "image_text")
    theirs, ours = (
        mean + minimum * std
        for mean, minimum, std in (
            (starter.similarity_mean, starter.tag_minimum, starter.similarity_std),
            (other.similarity_mean, taken, other.similarity_std),
        )
    )
    shown = torch.isfinite(theirs)
    assert torch.equal(shown, torch.isfinite(ours))
    assert 0 < shown.sum() < len(shown)
    assert torch.allclose(theirs[shown], ours[shown], atol=1e-5)


def test_nothing_is_taken_over_from_another_encoder_or_for_other_tags(starter: TrainedModel, tmp_path: Path) -> None:
    folder = STARTER / "image_text"
    fewer = TagLibraries(TagLibrary("semantic", ("dog", "cat")), TagLibrary("attribute", ("sharp", "blurry")))
    assert inherited_minimum(replace(starter, libraries=fewer), folder) is None
    other = replace(starter.image_text, fingerprint="another")
    assert inherited_minimum(replace(starter, image_text=other), folder) is None
    assert inherited_minimum(starter, tmp_path / "encoder") is None
    for name in ("config.json", "model.safetensors"):  # an encoder inside a folder of somebody else's
        (tmp_path / name).write_text("{}")
    assert inherited_minimum(starter, tmp_path / "encoder") is None
    assert inherited_minimum(starter, folder) is not None


def test_a_kind_is_named_by_tags_that_are_shown_of_its_photos(starter: TrainedModel) -> None:
    rng = np.random.default_rng(0)
    labels = np.append(np.arange(9000) % 3, 3)
    mean, std, minimum = (
        each[: starter.libraries.n_semantic].numpy()
        for each in (starter.similarity_mean, starter.similarity_std, starter.tag_minimum)
    )
    z = rng.normal(0, 0.1, (len(labels), len(mean))).astype(np.float32)
    shown = np.flatnonzero(nameable(starter)[: len(mean)])
    named = [shown[10 * kind : 10 * kind + 3] for kind in range(3)]
    for kind, tags in enumerate(named):
        for place, tag in enumerate(tags):
            z[labels == kind, tag] = minimum[tag] + 1 - place / 4
    z[labels == 0, shown[40]] = 99  # told of two kinds alike
    z[labels == 1, shown[40]] = 99
    never = int(np.flatnonzero(np.isinf(minimum))[0])
    z[labels == 0, never] = 9
    clusters = replace(
        starter.clusters, centroids=np.zeros((4, len(mean)), np.float32), tags=(("a",), ("b",), ("c",), ("d",))
    )
    z[-1] = -99  # a kind that nothing tells from the others
    names = kind_names(replace(starter, clusters=clusters), (z * std + mean).astype(np.float32), labels)
    assert names[:3] == tuple(tuple(starter.libraries.semantic.tags[tag] for tag in tags) for tags in named)
    assert names[3] == ("d",)
