"""What a rehearsal of AVA feeds to the pipeline: labels by the stated rule, photos that are all different."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.ava.labels import write_labels
from recipes.ava.photos import write_photos
from tmcr.datasets import load_manifest

PHOTOS = 3000


def test_real_rows_stand_first_and_the_others_have_real_votes(shared_data: Path, tmp_path: Path) -> None:
    labels = shared_data / "ava_labels"
    write_labels(labels, tmp_path, PHOTOS)
    listed = {}
    for part in ("test", "val"):
        with (labels / f"tanet_{part}.csv").open(newline="") as file:
            listed |= {row[0]: row[1:] for row in csv.reader(file) if row}
    rows = [line.split()[1:] for line in (tmp_path / "AVA.txt").read_text().splitlines()]
    assert len({row[0] for row in rows}) == PHOTOS
    assert [row[0] in listed for row in rows] == [True] * 300 + [False] * (PHOTOS - 300)
    assert all(listed[row[0]] == row[1:] for row in rows[:300])
    votes = {tuple(row) for row in listed.values()}
    assert all(tuple(row[1:]) in votes for row in rows)


@pytest.mark.parametrize(("split", "tested"), [("tanet", 150), ("official", 150)])
def test_made_up_labels_are_read_under_both_splits(split: str, tested: int, tmp_path: Path) -> None:
    write_labels(None, tmp_path, PHOTOS)
    manifest = load_manifest(f"ava:{split}@{tmp_path}")
    assert len(manifest) == PHOTOS
    assert manifest.splits.count("test") == tested
    assert 5.2 < manifest.scores.mean() < 5.6


def test_photos_differ_and_show_their_score(tmp_path: Path) -> None:
    scores = np.linspace(3, 8, 400)
    paths = [tmp_path / "images" / f"{number}.jpg" for number in range(400)]
    write_photos(paths, scores)
    assert len({path.read_bytes() for path in paths}) == 400
    pixels = np.stack([np.asarray(Image.open(path).convert("L"), dtype=float) for path in paths])
    ramp = pixels[:, :, 12:].mean((1, 2)) - pixels[:, :, :12].mean((1, 2))
    assert np.corrcoef(ramp, scores)[0, 1] > 0.7
    kept = paths[0].stat().st_mtime_ns
    write_photos(paths, scores)  # there already
    assert paths[0].stat().st_mtime_ns == kept
    write_photos(paths, scores + 0.5)
    assert paths[0].stat().st_mtime_ns != kept
