"""The model that ships: its scores on generated pictures do not drift.

python tests/test_starter.py        writes golden/starter.json anew, for a newly trained starter
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tmcr

GOLDEN = Path(__file__).parent / "golden" / "starter.json"


def pictures() -> dict[str, Image.Image]:
    """Pictures made by integer arithmetic, so that they are the same to the last bit everywhere."""
    y, x = np.mgrid[0:96, 0:128].astype(np.int64)
    made = {
        "ramp": np.stack([2 * x, 2 * y, 255 - 2 * x], 2),
        "checks": np.stack([((x // 8 + y // 8) % 2) * 200] * 3, 2),
        "disc": np.stack([((x - 50) ** 2 + (y - 40) ** 2 < 900) * 230, x, y], 2),
        "texture": np.stack([(x * y * (channel + 3)) % 251 for channel in range(3)], 2),
        "dark": np.stack([x // 8, y // 8, x // 16], 2),
        "sky": np.stack([80 + y, 120 + y, 255 - 0 * y], 2) * (y < 60)[..., None] + 40,
    }
    return {name: Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)) for name, pixels in made.items()}


def assess() -> dict[str, dict[str, object]]:
    model = tmcr.load("starter", device="cpu", precision="fp32")
    verdicts = {}
    for name, picture in pictures().items():
        verdict = model.assess(picture)
        verdicts[name] = {
            "score": round(verdict.score, 5),
            "std": round(verdict.std, 5),
            "distribution": [round(share, 5) for share in verdict.distribution],
            "cluster": verdict.cluster.index,
            "tags": [[tag.name for tag in tags[:1]] for tags in (verdict.semantic_tags, verdict.attribute_tags)],
        }
    return verdicts


def test_scores_of_generated_pictures_are_the_recorded_ones() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert tmcr.load("starter").model.hash == golden["model"], "another starter: record its scores"
    found = assess()
    for name, expected in golden["verdicts"].items():
        assert found[name]["score"] == pytest.approx(expected["score"], abs=1e-3), name
        assert found[name]["std"] == pytest.approx(expected["std"], abs=1e-3), name
        assert found[name]["distribution"] == pytest.approx(expected["distribution"], abs=1e-3), name
        assert found[name]["cluster"] == expected["cluster"], name
        assert found[name]["tags"] == expected["tags"], name


def test_attribute_tags_that_can_be_shown_say_different_things() -> None:
    model = tmcr.load("starter").model
    n_semantic = model.libraries.n_semantic
    shown = np.flatnonzero(np.isfinite(model.tag_minimum[n_semantic:].numpy()))
    assert len(shown) >= 20
    text = model.text[n_semantic:][shown].double().numpy()
    covariance = text @ model.embedding_covariance.double().numpy() @ text.T
    std = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(std, std)
    assert np.triu(correlation, 1).max() < 0.99


def test_the_pictures_are_told_apart() -> None:
    scores = [verdict["score"] for verdict in json.loads(GOLDEN.read_text())["verdicts"].values()]
    assert len(set(scores)) == len(scores)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    record = {"model": tmcr.load("starter").model.hash, "verdicts": assess()}
    GOLDEN.write_text(json.dumps(record, indent=2) + "\n")
