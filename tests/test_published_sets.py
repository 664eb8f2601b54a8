"""Rated sets in their published formats, written small and read back; the real labels where they are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from published_formats import PARA_SCORES, votes, write_aadb, write_ava, write_eva, write_para, write_tad66k

from tmcr.datasets import load_manifest
from tmcr.datasets.audit import audit, read_sets
from tmcr.errors import DataError


@pytest.fixture
def ava(tmp_path: Path) -> Path:
    ids = range(100, 120)
    return write_ava(tmp_path / "ava", ids, official=ids[:3], tanet_val=ids[3:4], tanet_test=ids[4:6])


def test_ava_has_two_splits_and_its_votes_are_the_distribution(ava: Path) -> None:
    official, tanet = (load_manifest(f"ava:{split}@{ava}") for split in ("official", "tanet"))
    assert sorted(official.part("test").ids) == ["100", "101", "102"]
    assert sorted(tanet.part("test").ids) == ["104", "105"]
    assert tanet.part("val").ids == ("103",)
    assert len(official.part("train")) + len(official.part("val")) == 17
    row = official.ids.index("110")
    counts = np.array(votes(110), dtype=float)
    assert official.distributions[row] == pytest.approx(counts / counts.sum())
    assert official.score_values.tolist() == list(range(1, 11))
    assert official.paths[row].is_file()
    with pytest.raises(DataError, match=r"official|tanet"):
        load_manifest(f"ava:mine@{ava}")


def test_aadb_scores_are_stretched_and_keep_their_parts(tmp_path: Path) -> None:
    parts = {"train": {"a.jpg": 0.0, "b.jpg": 0.5}, "val": {"c.jpg": 0.25}, "test": {"d.jpg": 1.0}}
    manifest = load_manifest(f"aadb@{write_aadb(tmp_path / 'aadb', parts)}")
    scores = dict(zip(manifest.ids, manifest.scores, strict=True))
    assert dict(zip(manifest.ids, manifest.splits, strict=True)) == {
        "a.jpg": "train", "b.jpg": "train", "c.jpg": "val", "d.jpg": "test",
    }  # fmt: skip
    for name, value in {"a.jpg": 1.0, "b.jpg": 5.5, "c.jpg": 3.25, "d.jpg": 10.0}.items():
        assert scores[name] == pytest.approx(value, abs=1e-3)
    assert all(path.is_file() for path in manifest.paths)


def test_para_keeps_its_nine_bins(tmp_path: Path) -> None:
    manifest = load_manifest(f"para@{write_para(tmp_path / 'para', 5, 3)}")
    assert len(manifest.part("test")) == 3
    assert manifest.score_values == pytest.approx([1 + 9 * (score - 1) / 4 for score in PARA_SCORES])
    counts = np.array(votes(0, 9), dtype=float)
    assert manifest.distributions[0] == pytest.approx(counts / counts.sum())
    assert all(path.is_file() for path in manifest.paths)


def test_tad66k_and_eva_are_read(tmp_path: Path) -> None:
    tad = load_manifest(f"tad66k:merge@{write_tad66k(tmp_path / 'tad', {'a.jpg': 0.0, 'b.jpg': 10.0}, {'c.jpg': 5.0})}")
    assert tad.part("test").ids == ("c.jpg",)
    assert sorted(tad.scores) == pytest.approx([1.0, 5.5, 10.0], abs=1e-3)
    eva = load_manifest(f"eva@{write_eva(tmp_path / 'eva', {7: [0, 10, 10], 8: [5, 5, 5]})}")
    assert eva.scores == pytest.approx([1 + 9 * 20 / 30, 5.5], abs=1e-6)
    assert eva.votes is not None
    assert eva.votes.tolist() == [3, 3]


@pytest.mark.parametrize("spec", ["ava:official@", "ava:tanet@", "aadb@", "para@", "tad66k:merge@", "eva@"])
def test_an_empty_folder_says_what_is_missing(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_manifest(spec + str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_audit_finds_what_would_spoil_numbers(ava: Path) -> None:
    clean = audit(read_sets([f"ava:tanet@{ava}"]), photos=True, workers=1)
    (ava / "images" / "110.jpg").write_bytes((ava / "images" / "104.jpg").read_bytes())  # a test photo learnt from
    (ava / "images" / "111.jpg").unlink()
    spoilt = audit(read_sets([f"ava:tanet@{ava}"]), photos=True, workers=1)
    assert not spoilt.ok
    assert ("110", "104") in [tuple(pair) for pair in spoilt.sets[0].leaks]
    assert "111" in str(spoilt.to_dict())
    assert not clean.sets[0].leaks
    both = audit(read_sets([f"ava:official@{ava}", f"ava:tanet@{ava}"]), photos=False, workers=1)
    assert both.to_dict() != clean.to_dict()


def test_the_real_lists_have_their_published_counts(shared_data: Path) -> None:
    aadb = load_manifest(f"aadb@{shared_data / 'aadb_labels'}")
    assert [len(aadb.part(part)) for part in ("train", "val", "test")] == [8458, 0, 1000]  # the .mat has no validation
