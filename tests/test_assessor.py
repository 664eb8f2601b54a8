"""Verdicts of the model that ships: exact sums, streaming, one row for every photo."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tmcr
from tmcr.assessor import Assessor, load
from tmcr.encoders import load_image_text_encoder
from tmcr.errors import ConfigError, ImageError, ModelError
from tmcr.images import decode
from tmcr.matching import match
from tmcr.modelfolder import STARTER, load_model
from tmcr.shown_tags import nameable
from tmcr.training.clusters import percentile


@pytest.fixture(scope="module")
def model() -> Assessor:
    return load("starter", device="cpu", workers=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(7):
        rough = rng.integers(0, 256, (4 + number, 6, 3), dtype=np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(rough).resize((160 + 30 * number, 140)).save(path)
        paths.append(path)
    return paths


def test_a_verdict_is_complete_and_its_parts_agree(model: Assessor, photos: list[Path]) -> None:
    verdict = model.assess(photos[0])
    distribution, values = np.array(verdict.distribution), np.array(verdict.score_values)
    assert verdict.ok
    assert distribution.sum() == pytest.approx(1, abs=1e-5)
    assert verdict.score == pytest.approx(float(distribution @ values), abs=1e-4)
    assert verdict.std == pytest.approx(float(np.sqrt(distribution @ (values - verdict.score) ** 2)), abs=1e-4)
    assert 0 <= verdict.percentile <= 100
    assert len(verdict.semantic_tags) <= 8  # only those that the model is sure of
    assert len(verdict.attribute_tags) <= 8
    assert (verdict.width, verdict.height) == (160, 140)
    assert verdict.model_hash == model.model.hash


def test_contributions_add_up_to_the_score(model: Assessor, photos: list[Path]) -> None:
    for verdict in model.assess_many(photos):
        tags = verdict.semantic_contribution + verdict.attribute_contribution
        assert verdict.reference_score + tags + verdict.encoder_contribution == pytest.approx(verdict.score, abs=1e-4)
        assert sum(facet.contribution for facet in verdict.facets) == pytest.approx(tags, abs=1e-6)
        for library in ("semantic", "attribute"):
            named = sum(facet.contribution for facet in verdict.facets if facet.library == library)
            assert named == pytest.approx(getattr(verdict, f"{library}_contribution"), abs=1e-6)


def test_facets_name_tags_that_fit_the_photo_and_push_their_way(model: Assessor, photos: list[Path]) -> None:
    verdict = model.assess(photos[1])
    order = [(facet.name.startswith("other "), -abs(facet.contribution)) for facet in verdict.facets]
    assert order == sorted(order)
    facet_of = dict(zip(model.model.libraries.names, model.model.libraries.facets, strict=True))
    reasons = {reason.tag: reason.contribution for reason in verdict.reasons}
    for facet in verdict.facets:
        tags = [tag.removeprefix("less ") for tag in facet.tags]
        assert all(facet_of[tag] == facet.name for tag in tags)
        assert all(reasons[tag] * facet.contribution > 0 for tag in tags if tag in reasons)


def test_tags_percentile_and_kind_are_what_the_plain_reading_gives(model: Assessor, photos: list[Path]) -> None:
    trained = load_model(STARTER)
    encoder = load_image_text_encoder(str(STARTER / "image_text"), preprocess=trained.image_text.preprocess)
    pixels = trained.image_text.preprocess(decode(photos[2], target_side=trained.image_text.preprocess.target_side))
    similarities = match(encoder.encode_images(_batch(pixels)), trained.text)[0].numpy()
    n = trained.libraries.n_semantic
    z = (similarities - trained.similarity_mean.numpy()) / trained.similarity_std.numpy()
    trained.tag_minimum = None  # shows the best, however well they fit
    verdict = Assessor(trained, model.image_text, model.hardware).assess(photos[2])
    z = np.where(nameable(trained), z, -np.inf)
    assert verdict.semantic_tags[0].name == trained.libraries.semantic.tags[int(z[:n].argmax())]
    assert verdict.attribute_tags[0].name == trained.libraries.attribute.tags[int(z[n:].argmax())]
    assert verdict.semantic_tags[0].similarity == pytest.approx(similarities[:n][z[:n].argmax()], abs=1e-4)
    kind = int(((trained.clusters.centroids - similarities[:n]) ** 2).sum(1).argmin())
    assert verdict.cluster.index == kind
    assert verdict.percentile == pytest.approx(percentile(verdict.score, trained.clusters.quantiles[kind]))


def test_of_two_contrary_tags_the_better_one_is_shown(model: Assessor, photos: list[Path]) -> None:
    trained = replace(model.model, tag_minimum=None)
    plain = Assessor(trained, model.image_text, model.hardware).assess(photos[2])
    first, second, third = (tag.name for tag in plain.attribute_tags[:3])
    contrary = {second: third, third: second}
    library = trained.libraries.attribute
    opposites = tuple(contrary.get(tag, "") for tag in library.tags)
    libraries = replace(trained.libraries, attribute=replace(library, opposites=opposites))
    verdict = Assessor(replace(trained, libraries=libraries), model.image_text, model.hardware).assess(photos[2])
    assert [tag.name for tag in verdict.attribute_tags[:2]] == [first, second]
    assert third not in {tag.name for tag in verdict.attribute_tags}
    assert not any({second, third} <= set(facet.tags) for facet in verdict.facets)


def _batch(pixels: np.ndarray) -> object:
    import torch

    return torch.from_numpy(pixels)[None]


def test_scores_do_not_depend_on_batch_size_order_or_how_the_photo_is_given(
    model: Assessor, photos: list[Path]
) -> None:
    alone = [model.assess(photo).score for photo in photos]
    for size in (1, 3, 32):
        together = [verdict.score for verdict in model.assess_many(photos, batch_size=size)]
        np.testing.assert_allclose(together, alone, atol=1e-4)
    back = [verdict.score for verdict in model.assess_many(photos[::-1])]
    np.testing.assert_allclose(back[::-1], alone, atol=1e-4)
    data = photos[0].read_bytes()
    image = Image.open(photos[0])
    ways = [str(photos[0]), data, io.BytesIO(data), image, np.asarray(image)]
    for verdict in model.assess_many(ways):
        assert verdict.score == pytest.approx(alone[0], abs=1e-4)


def test_a_photo_that_cannot_be_read_is_a_row_of_its_own(model: Assessor, photos: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 nothing follows")
    verdicts = list(model.assess_many([photos[0], broken, tmp_path / "gone.png", photos[1]], batch_size=2))
    assert [verdict.ok for verdict in verdicts] == [True, False, False, True]
    assert verdicts[2].error_reason == "missing"
    assert verdicts[1].score is None
    assert verdicts[1].photo == str(broken)
    with pytest.raises(ImageError):
        model.assess(broken)


def test_photos_are_taken_as_they_are_needed(model: Assessor, photos: list[Path]) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[taken % len(photos)]

    stream = model.assess_many(endless(), batch_size=4)
    for _ in range(20):
        next(stream)
    assert taken <= 20 + 4 + 2 * 4 + 4
    before = threading.active_count()
    stream.close()
    assert threading.active_count() <= before


def test_unknown_models_devices_and_precisions_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="cannot be used"):
        load("starter", device="cuda:77")
    with pytest.raises(ConfigError, match="precision must be"):
        load("starter", precision="int3")


def test_a_model_refuses_an_encoder_that_it_was_not_trained_with() -> None:
    trained = load_model(STARTER)
    encoder = load_image_text_encoder(str(STARTER / "image_text"))
    encoder.fingerprint = "0" * 64
    with pytest.raises(ModelError, match="is not the one that starter was trained with"):
        Assessor(trained, encoder)


def test_the_package_loads_by_name() -> None:
    assert tmcr.load is load
    assert tmcr.Assessor is Assessor
    with pytest.raises(AttributeError):
        _ = tmcr.nothing_of_the_kind
