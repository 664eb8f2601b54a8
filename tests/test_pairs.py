"""Photos above their damaged copies, as a term beside the ratings."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rated_photos import picture, write_rated_photos
from tmcr.damage import KINDS
from tmcr.errors import ConfigError
from tmcr.metrics import srcc
from tmcr.training.config import preset
from tmcr.training.pairs import (
    LEVEL_WEIGHT,
    SOFTNESS,
    WEAKEST,
    Pairs,
    damaged_copies,
    joined,
    load_pairs,
    pair_loss,
    save_pairs,
    unlabelled_photos,
)
from tmcr.training.pipeline import Run


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_penalty_is_the_plain_formula() -> None:
    better, worse, strength = tensor(5, 5, 5), tensor(4, 5.2, 5.03), tensor(0.5, 1, 0)
    expected = [
        SOFTNESS * math.log1p(math.exp((0.4 * 0.5 - 1.0) / SOFTNESS)),
        SOFTNESS * math.log1p(math.exp((0.4 + 0.2) / SOFTNESS)),
        LEVEL_WEIGHT * 0.5 * 0.03**2,
    ]
    assert pair_loss(better, worse, strength, 0.4).item() == pytest.approx(sum(expected) / 3, rel=1e-9)


def test_the_penalty_drives_the_copy_down_and_a_level_pair_together() -> None:
    worse = tensor(5, 5.5).requires_grad_()
    pair_loss(tensor(5, 5), worse, tensor(1, 0), 0.5).backward()
    assert (worse.grad > 0).all()
    assert torch.autograd.gradcheck(
        lambda a, b: pair_loss(a, b, tensor(1, 0), 0.5),
        (tensor(5, 5.04).requires_grad_(), tensor(5.3, 5).requires_grad_()),
    )


def test_copies_are_of_different_kinds_reproducible_and_end_with_two_that_are_level() -> None:
    image = picture(0.6, np.random.default_rng(1))
    once = list(damaged_copies(image, len(KINDS), (3, 7)))
    again = list(damaged_copies(image, len(KINDS), (3, 7)))
    strengths = [strength for _, strength in once]
    assert [np.asarray(a).tobytes() for a, _ in once] == [np.asarray(b).tobytes() for b, _ in again]
    assert all(WEAKEST <= strength <= 1 for strength in strengths[:-2])
    assert strengths[-2:] == [0, 0]
    assert len({np.asarray(copy).tobytes() for copy, _ in once}) == len(once)
    mirrored = np.asarray(image)[:, ::-1]
    assert np.array_equal(np.asarray(once[-2][0]), mirrored)


def some_pairs(photos: int, seed: int) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    return Pairs(
        torch.randn(2 * photos, 3, generator=generator),
        torch.randn(2 * photos, 2, generator=generator),
        torch.arange(0, 2 * photos, 2),
        torch.arange(1, 2 * photos, 2),
        torch.rand(photos, generator=generator),
    )


def test_joined_pairs_still_point_to_their_own_photos(tmp_path: Path) -> None:
    first, second = some_pairs(2, 0), some_pairs(3, 1)
    both = joined([first, second])
    assert torch.equal(both.embeddings[both.copy[2:]], second.embeddings[second.copy])
    assert torch.equal(both.features[both.original[:2]], first.features[first.original])
    save_pairs(both, tmp_path / "pairs.safetensors")
    kept = load_pairs(tmp_path / "pairs.safetensors")
    assert all(torch.equal(getattr(kept, name), value) for name, value in vars(both).items())


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    with pytest.raises(ConfigError, match="no photo in"):
        unlabelled_photos(tmp_path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("pairs")
    tags = folder / "tags"
    tags.mkdir()
    (tags / "semantic.txt").write_text("beach\nforest\ncat\n")
    (tags / "attribute.txt").write_text("sharp\nblurry\ndark\n")
    photos = folder / "unlabelled"
    photos.mkdir()
    for number in range(3):
        picture(0.3 * number + 0.2, np.random.default_rng(number)).save(photos / f"{number}.png")
    return {
        "data": f"csv:{write_rated_photos(folder, 30)}",
        "tags": str(tags),
        "cache": str(folder / "cache"),
        "fit.mode": "lp",
        "fit.epochs": 30,
        "fit.patience": 30,
        "fit.learning_rate": 1e-2,
        "rank.loss": "none",
        "fit.pair_photos": str(photos),
        "fit.pair_copies": 4,
        "fit.refit": False,
        "device": "cpu",
    }


def share_in_order(changes: dict[str, object], folder: Path) -> float:
    """Share of the pairs that a head scores in the right order."""
    config = preset("small").with_overrides(changes)
    run = Run(config, folder)
    fitted = run.fit()
    pairs = run._pairs(config.fit.model_copy(update={"pair_weight": 1.0}), run.ranked_encoder())
    with torch.inference_mode():
        similarities = pairs.embeddings @ run.matched.text.T
        distributions = fitted.head(similarities, pairs.features).softmax(1)
        scores = distributions @ torch.from_numpy(run.manifest.score_values).float()
    damaged = pairs.strength > 0
    return float((scores[pairs.original] > scores[pairs.copy])[damaged].float().mean())


def test_pairs_teach_what_the_ratings_do_not(settings: dict[str, object], tmp_path: Path) -> None:
    without, with_pairs = (
        share_in_order(settings | {"fit.pair_weight": weight}, tmp_path / f"{weight}") for weight in (0.0, 5.0)
    )
    assert with_pairs > max(0.8, without)


def test_pairs_alone_teach_before_the_first_rating(settings: dict[str, object], tmp_path: Path) -> None:
    few = settings | {"fit.pair_weight": 0.1, "fit.epochs": 1}
    at_once, first_alone = (
        share_in_order(few | {"fit.pair_epochs": passes}, tmp_path / f"{passes}") for passes in (0, 40)
    )
    assert first_alone > max(0.8, at_once)


def test_no_more_photos_than_the_limit_give_pairs(settings: dict[str, object], tmp_path: Path) -> None:
    def originals(limit: int) -> int:
        config = preset("small").with_overrides(settings | {"fit.pair_weight": 1.0, "fit.pair_limit": limit})
        run = Run(config, tmp_path / "run")
        pairs = run._pairs(config.fit, run.ranked_encoder())
        return len(pairs.original.unique())

    unlabelled = 3
    assert originals(4) == unlabelled + 4
    assert originals(1000) == unlabelled + len(
        Run(preset("small").with_overrides(settings), tmp_path / "run").part("train")
    )


def test_pairs_and_fine_tuning_exclude_each_other(settings: dict[str, object], tmp_path: Path) -> None:
    config = preset("small").with_overrides(settings | {"fit.pair_weight": 1.0, "fit.mode": "ft"})
    with pytest.raises(ConfigError, match=r"fit\.mode=lp"):
        Run(config, tmp_path / "ft").fit()


def test_the_spread_is_what_was_asked_for_and_the_order_nearly_stays(
    settings: dict[str, object], tmp_path: Path
) -> None:
    few = settings | {"fit.epochs": 3}
    plain = Run(preset("small").with_overrides(few), tmp_path / "plain")
    wide = Run(preset("small").with_overrides(few | {"fit.spread": 0.9}), tmp_path / "wide")
    everything = np.arange(len(plain.manifest))
    validation = plain.part("val")
    before, after = (run.predict(run.fit(), everything) @ run.manifest.score_values for run in (plain, wide))
    true = plain.manifest.scores[validation].std()
    assert before[validation].std() < 0.9 * true
    assert after[validation].std() == pytest.approx(0.9 * true, rel=0.05)
    assert srcc(before, after) > 0.9


def test_images_are_not_changed_by_damaging_copies_of_them() -> None:
    image = picture(0.5, np.random.default_rng(2))
    before = np.asarray(image).copy()
    list(damaged_copies(image, 8, (0, 0)))
    assert np.array_equal(np.asarray(image), before)
    assert isinstance(image, Image.Image)
