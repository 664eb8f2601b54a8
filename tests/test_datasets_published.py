"""AVA, AADB, PARA, TAD66K and EVA, exactly as they are published."""

from __future__ import annotations

import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from published_formats import (
    votes,
    write_aadb,
    write_ava,
    write_eva,
    write_para,
    write_tad66k,
    write_tanet_list,
)

from tmcr.datasets import Manifest, load_manifest
from tmcr.errors import DataError, LeakageError

IDS = range(100, 112)


@pytest.fixture
def ava(tmp_path: Path) -> Path:
    return write_ava(tmp_path / "ava", IDS, official=[100, 101, 102, 999], tanet_val=[110], tanet_test=[102, 103, 111])


def splits(manifest: Manifest) -> dict[str, str]:
    return dict(zip(manifest.ids, manifest.splits, strict=True))


# --- AVA ---


def test_ava_under_its_official_split(ava: Path) -> None:
    manifest = load_manifest(f"ava:official@{ava}")
    assert {photo for photo, split in splits(manifest).items() if split == "test"} == {"100", "101", "102"}
    assert Counter(manifest.splits) == {"train": 9, "test": 3}
    assert (manifest.source, manifest.namespace) == ("ava:official", "ava")
    assert "1 listed ids have no votes" in manifest.description
    assert all(path.is_file() for path in manifest.paths)
    row = manifest.ids.index("105")
    counts = np.array(votes(105))
    np.testing.assert_allclose(manifest.distributions[row], counts / counts.sum())
    np.testing.assert_allclose(manifest.score_values, range(1, 11))
    assert manifest.votes is not None
    assert manifest.votes[row] == counts.sum()
    assert manifest.groups is not None
    assert manifest.groups[row] == "challenge 901"
    assert manifest.attributes["challenge"][row] == "Blue"
    assert manifest.attributes["tags"][row] == ""
    assert manifest.attributes["tags"][manifest.ids.index("101")] == "Still Life"


def test_ava_under_tanets_split_with_and_without_the_votes_file(ava: Path) -> None:
    manifest = load_manifest(f"ava:tanet@{ava}")
    assert Counter(manifest.splits) == {"train": 8, "val": 1, "test": 3}
    assert {photo for photo, split in splits(manifest).items() if split == "test"} == {"102", "103", "111"}
    (ava / "AVA.txt").unlink()
    lists = load_manifest(f"ava:tanet@{ava}")
    assert Counter(lists.splits) == {"val": 1, "test": 3}
    for name in lists.ids:  # score2 … score11 are the votes for 1 … 10
        one, other = manifest.ids.index(name), lists.ids.index(name)
        np.testing.assert_array_equal(manifest.distributions[one], lists.distributions[other])
        assert manifest.attributes["challenge"][one] == lists.attributes["challenge"][other]
    write_tanet_list(ava / "train.csv", {104: (votes(104), (1, 2), 900), 105: (votes(105), (0, 0), 0)})
    with_training = load_manifest(f"ava:tanet@{ava}")
    assert Counter(with_training.splits) == {"train": 2, "val": 1, "test": 3}
    assert with_training.attributes["tags"][with_training.ids.index("104")] == "Abstract, Still Life"
    assert with_training.groups is not None
    assert with_training.groups[with_training.ids.index("105")] == "photo 105"


def test_ava_is_found_where_downloads_put_it(ava: Path) -> None:
    (ava / "AVA_dataset").mkdir()
    for name in ("AVA.txt", "aesthetics_image_lists"):
        (ava / name).rename(ava / "AVA_dataset" / name)
    (ava / "images").rename(ava / "AVA_dataset" / "image")
    manifest = load_manifest(f"ava:official@{ava}")
    assert all(path.is_file() for path in manifest.paths)
    (ava / "elsewhere").mkdir()
    moved = load_manifest(f"ava:official@{ava}?images=elsewhere")
    assert moved.paths[0] == ava / "elsewhere" / "100.jpg"


def test_labels_are_of_use_without_photos(tmp_path: Path) -> None:
    manifest = load_manifest(f"ava:official@{write_ava(tmp_path, IDS, official=[100], photos=None)}")
    assert manifest.paths[0] == tmp_path / "images" / "100.jpg"


def test_avas_splits_are_never_a_default(ava: Path) -> None:
    for spec in (f"ava@{ava}", f"ava:random@{ava}"):
        with pytest.raises(DataError, match="two splits that must not be mixed"):
            load_manifest(spec)


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda ava: (ava / "AVA.txt").unlink(), r"has no AVA\.txt .*looked for AVA\.txt.*AVA release"),
        (lambda ava: shutil.rmtree(ava / "aesthetics_image_lists"), "no list of the official test photos"),
        (lambda ava: shutil.rmtree(ava), "no such folder"),
        (lambda ava: append(ava / "AVA.txt", "13 100 1 1 1 1 1 1 1 1 1 1 0 0 1\n"), "100 stands there twice"),
        (lambda ava: append(ava / "AVA.txt", "13 500 0 0 0 0 0 0 0 0 0 0 0 0 1\n"), "row 13: votes are"),
        (lambda ava: append(ava / "AVA.txt", "13 500 1 1 -1 1 0 0 0 0 0 0 0 0 1\n"), "row 13: votes are"),
        (lambda ava: append(ava / "AVA.txt", "13 500 1 1\n"), "not as published"),
        (lambda ava: (ava / "AVA.txt").write_text("1 2 3\n"), "3 columns instead of 15"),
        (lambda ava: (ava / "AVA.txt").write_bytes(b"\xff\xfe\0"), "not as published"),
    ],
)
def test_a_broken_ava_download_is_one_line_that_teaches(
    break_it: Callable[[Path], object], says: str, ava: Path
) -> None:
    break_it(ava)
    with pytest.raises(DataError, match=says) as caught:
        load_manifest(f"ava:official@{ava}")
    assert "\n" not in str(caught.value)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def test_broken_tanet_lists_are_refused(ava: Path) -> None:
    both = {102: (votes(102), (0, 0), 1)}
    write_tanet_list(ava / "tanet_val.csv", both)
    with pytest.raises(DataError, match=r"1 photos are also in .*tanet_test\.csv"):
        load_manifest(f"ava:tanet@{ava}")
    (ava / "tanet_val.csv").unlink()
    with pytest.raises(DataError, match=r"has no tanet_val\.csv or val\.csv"):
        load_manifest(f"ava:tanet@{ava}")
    (ava / "val.csv").write_text("image,score\na.jpg,3\n")
    with pytest.raises(DataError, match=r"no column 'image_id'"):
        load_manifest(f"ava:tanet@{ava}")


def test_the_real_tanet_lists_and_the_balanced_list(shared_data: Path) -> None:
    folder = shared_data / "ava_labels"
    manifest = load_manifest(f"ava:tanet@{folder}")
    assert Counter(manifest.splits) == {"val": 12_775, "test": 12_776}
    assert manifest.votes is not None
    assert (manifest.votes.min(), manifest.votes.max()) == (80, 549)
    assert manifest.attributes["tags"][manifest.ids.index("687050")]
    balanced = load_manifest(f"ava:tanet@{folder}?subset=tmcr_test_balanced.csv").part("test")
    assert Counter(balanced.attributes["region"]) == {"few": 348, "med": 510, "many": 513}
    listed = (folder / "tmcr_test_balanced.csv").read_text().splitlines()[1:]
    assert balanced.ids == tuple(line.split(",")[0] for line in listed)
    means = [float(line.split(",")[-2]) for line in listed]
    np.testing.assert_allclose(balanced.scores, means, atol=1e-8)
    few = balanced.scores[balanced.attributes["region"] == "few"]
    assert ((few < 3.85) | (few >= 6.90)).all()
    with pytest.raises(DataError, match=r"has no AVA\.txt"):
        load_manifest(f"ava:official@{folder}")


# --- lists ---


def test_a_list_chooses_the_test_photos_in_its_order(ava: Path) -> None:
    (ava / "hard.csv").write_text("image_id,Shot\n111,Few\n102,Many\n")
    manifest = load_manifest(f"ava:tanet@{ava}?subset=hard.csv")
    assert manifest.part("test").ids == ("111", "102")
    assert manifest.part("test").attributes["region"].tolist() == ["few", "many"]
    assert Counter(manifest.splits) == {"train": 8, "val": 1, "test": 2}
    assert "tested on the 2 of hard.csv" in manifest.description
    (ava / "hard.csv").write_text("image_id\n104\n")
    with pytest.raises(LeakageError, match="1 of 1 listed photos are in a training part of ava:tanet"):
        load_manifest(f"ava:tanet@{ava}?subset=hard.csv")
    (ava / "hard.csv").write_text("image_id\n77\n")
    with pytest.raises(DataError, match="is it a list of another set"):
        load_manifest(f"ava:tanet@{ava}?subset=hard.csv")


def test_a_list_leaves_photos_out(ava: Path) -> None:
    (ava / "bad.txt").write_text("104\n102\n5\n")
    manifest = load_manifest(f"ava:tanet@{ava}?exclude=bad.txt")
    assert Counter(manifest.splits) == {"train": 7, "val": 1, "test": 2}
    assert "without 2 of bad.txt" in manifest.description


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("l.csv", "a,b\n1,2\n", "which column has the ids"),
        ("l.csv", "id,shot\n102,rare\n", "other values than many, med and few"),
        ("l.txt", "\n", "lists no photo"),
        ("l.txt", "102\n102\n", "102 stands there twice"),
    ],
)
def test_odd_lists_are_refused(name: str, text: str, says: str, ava: Path) -> None:
    (ava / name).write_text(text)
    with pytest.raises(DataError, match=says):
        load_manifest(f"ava:tanet@{ava}?subset={name}")
    with pytest.raises(DataError, match="cannot be read as a list"):
        load_manifest(f"ava:tanet@{ava}?subset=nowhere.txt")


# --- AADB ---


def test_aadb_lists_means_and_attributes(tmp_path: Path) -> None:
    parts = {"train": {"a 1.jpg": 0.2, "b.jpg": 0.9}, "val": {"c.jpg": 0.5}, "test": {"d.jpg": 1.0}}
    manifest = load_manifest(f"aadb@{write_aadb(tmp_path, parts)}")
    assert manifest.ids == ("a 1.jpg", "b.jpg", "c.jpg", "d.jpg")
    assert manifest.splits == ("train", "train", "val", "test")
    np.testing.assert_allclose(manifest.scores, [2.8, 9.1, 5.5, 10], atol=1e-6)
    assert manifest.votes is None
    assert all(path.is_file() for path in manifest.paths)
    assert manifest.paths[-1].parent.name == "AADB_newtest_originalSize"
    np.testing.assert_allclose(manifest.attributes["Light"], [-0.6, 0.8, 0, 1])
    narrow = load_manifest(f"aadb@{tmp_path}?std=0.5")
    assert narrow.distributions.max() > manifest.distributions.max(1)[2]
    np.testing.assert_allclose(narrow.scores, manifest.scores, atol=1e-6)


def test_aadbs_matlab_file_will_do(shared_data: Path) -> None:
    manifest = load_manifest(f"aadb@{shared_data / 'aadb_labels'}")
    assert Counter(manifest.splits) == {"train": 8_458, "test": 1_000}
    assert manifest.ids[0] == "farm1_333_19438364933_087c8abc60_b.jpg"
    assert manifest.scores[0] == pytest.approx(1 + 9 * 0.3)
    assert manifest.scores.max() <= 10 + 1e-9


def test_a_broken_aadb_download_is_one_line_that_teaches(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has neither imgListTrainRegression_score\.txt nor AADBinfo\.mat"):
        load_manifest(f"aadb@{tmp_path}")
    (tmp_path / "AADBinfo.mat").write_bytes(b"no matlab file")
    with pytest.raises(DataError, match="not as published"):
        load_manifest(f"aadb@{tmp_path}")
    folder = write_aadb(tmp_path / "lists", {"train": {"a.jpg": 0.2}, "val": {"b.jpg": 0.2}, "test": {"c.jpg": 0.3}})
    train = folder / "imgListFiles_label" / "imgListTrainRegression_score.txt"
    for text, says in (
        ("a.jpg\n", "row 1: .* is not 'name value'"),
        ("a.jpg nan\n", "row 1"),
        ("", "is empty"),
        ("a.jpg 3\n", r"instead of 0\.\.1"),
        ("c.jpg 0.5\n", r"c\.jpg stands there twice"),
    ):
        train.write_text(text)
        with pytest.raises(DataError, match=says):
            load_manifest(f"aadb@{folder}")


# --- PARA ---


def test_para_is_read_by_column_names(tmp_path: Path) -> None:
    manifest = load_manifest(f"para@{write_para(tmp_path, train=5, test=2)}")
    assert Counter(manifest.splits) == {"train": 5, "test": 2}
    assert manifest.ids[4] == "session3/iaa_pub4_.jpg"
    assert all(path.is_file() for path in manifest.paths)
    np.testing.assert_allclose(manifest.score_values, 1 + 9 * (np.arange(1, 5.1, 0.5) - 1) / 4)
    counts = np.array(votes(4, 9))
    mean = np.average(np.arange(1, 5.1, 0.5), weights=counts)
    assert manifest.scores[4] == pytest.approx(1 + 9 * (mean - 1) / 4)
    assert manifest.votes is not None
    assert manifest.votes[4] == counts.sum()
    assert manifest.attributes["qualityScore"][4] == pytest.approx(mean / 2)
    assert manifest.attributes["semantic"][4] == "scene"
    path = tmp_path / "annotation" / "PARA-GiaaTest.csv"
    path.write_text(path.read_text().replace("aestheticScore_3.5", "something"))
    with pytest.raises(DataError, match=r"no column 'aestheticScore_3\.5'"):
        load_manifest(f"para@{tmp_path}")
    path.unlink()
    with pytest.raises(DataError, match=r"has no PARA-GiaaTest\.csv"):
        load_manifest(f"para@{tmp_path}")


# --- TAD66K ---


def test_tad66k_is_the_merged_split(tmp_path: Path) -> None:
    write_tad66k(tmp_path, {"a.jpg": 2.5, "b.jpg": 10}, {"c.jpg": 0})
    manifest = load_manifest(f"tad66k:merge@{tmp_path}")
    assert manifest.splits == ("train", "train", "test")
    np.testing.assert_allclose(manifest.scores, [3.25, 10, 1], atol=1e-6)
    assert all(path.is_file() for path in manifest.paths)
    assert manifest.attributes["theme"].tolist() == ["art"] * 3
    with pytest.raises(DataError, match="write tad66k:merge@FOLDER"):
        load_manifest(f"tad66k@{tmp_path}")
    (tmp_path / "merge" / "test.csv").write_text("image,score\na.jpg,1\n")
    with pytest.raises(DataError, match=r"a\.jpg stands there twice"):
        load_manifest(f"tad66k:merge@{tmp_path}")
    (tmp_path / "merge" / "test.csv").write_text("image,score\nc.jpg,11\n")
    with pytest.raises(DataError, match=r"instead of 0\.\.10"):
        load_manifest(f"tad66k:merge@{tmp_path}")
    shutil.rmtree(tmp_path / "merge")
    with pytest.raises(DataError, match=r"no merge/train\.csv"):
        load_manifest(f"tad66k:merge@{tmp_path}")


def test_the_real_tad66k_lists(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "tad66k_labels" / "dataset.zip") as archive:
        for part in ("train", "test"):
            archive.extract(f"dataset/merge/{part}.csv", tmp_path)
    manifest = load_manifest(f"tad66k:merge@{tmp_path}")
    assert Counter(manifest.splits) == {"train": 52_248, "test": 14_079}
    row = manifest.ids.index("lanphere54810922.jpg")
    assert manifest.scores[row] == pytest.approx(1 + 9 * 2.85 / 10, abs=1e-6)


# --- EVA ---


def test_evas_votes_are_gathered_by_photo(tmp_path: Path) -> None:
    scores = {number: [number % 11, 10, 0, 5] for number in range(40)}
    manifest = load_manifest(f"eva@{write_eva(tmp_path, scores)}")
    assert Counter(manifest.splits) == {"train": 32, "test": 8}
    assert load_manifest(f"eva@{tmp_path}").splits == manifest.splits
    row = manifest.ids.index("7")
    np.testing.assert_allclose(manifest.distributions[row], np.bincount([7, 10, 0, 5], minlength=11) / 4)
    assert manifest.scores[row] == pytest.approx(1 + 9 * 5.5 / 10)
    assert manifest.votes is not None
    assert manifest.votes.tolist() == [4] * 40
    assert manifest.namespace == "ava"
    assert manifest.attributes["visual"].tolist() == [3.0] * 40
    assert manifest.attributes["kind"][manifest.ids.index("1")] == "architecture and cities"
    assert all(path.is_file() for path in manifest.paths)
    path = tmp_path / "data" / "votes_filtered.csv"
    whole = path.read_text()
    for broken, says in (
        (whole.replace("7=1=10=", "7=1=12=", 1), r"row 31: the score 12 is none of 0, 1, …, 10"),
        (whole.replace("7=1=10=", "7=1=4.5=", 1), "the score 4.5"),
        (whole.replace("score", "points", 1), "no column 'score'"),
        (whole.replace("=", ",").replace("image_id,", "image_id;", 1), "no column|cannot be read"),
    ):
        path.write_text(broken)
        with pytest.raises(DataError, match=says):
            load_manifest(f"eva@{tmp_path}")


# --- specs ---


def test_odd_specs_say_what_there_is(ava: Path, tmp_path: Path) -> None:
    for spec, says in (
        ("flickr@data", r"none of ava:official@FOLDER.*csv:FILE"),
        ("ava:tanet", "none of"),
        (f"ava:tanet@{ava}?std=1", "no option 'std' for ava; there are images, subset, exclude"),
        (f"aadb:new@{tmp_path}", "aadb has no named splits: write aadb@FOLDER"),
        (f"aadb@{tmp_path}?std=wide", "std=wide: write the spread"),
        (f"aadb@{tmp_path}?std=-1", "std=-1"),
    ):
        with pytest.raises(DataError, match=says):
            load_manifest(spec)


def test_a_manifest_keeps_attributes_and_where_it_comes_from(ava: Path, tmp_path: Path) -> None:
    manifest = load_manifest(f"ava:tanet@{ava}")
    manifest.save(tmp_path / "m.parquet")
    again = Manifest.load(tmp_path / "m.parquet")
    assert again.fingerprint == manifest.fingerprint
    assert (again.source, again.namespace) == ("ava:tanet", "ava")
    assert {name: values.tolist() for name, values in again.attributes.items()} == {
        name: values.tolist() for name, values in manifest.attributes.items()
    }
