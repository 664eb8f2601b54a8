"""`tmcr data check`: what spoils numbers is found, what does not is let through."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from published_formats import write_ava, write_eva

from tmcr.cli.main import run
from tmcr.datasets import load_manifest
from tmcr.datasets.audit import Audit, Finding, audit, read_sets
from tmcr.datasets.leakage import Learnt, check_unseen
from tmcr.datasets.manifest import Manifest
from tmcr.errors import DataError, LeakageError, ModelError
from tmcr.images import content_hash

IDS = range(100, 130)


@pytest.fixture
def ava(tmp_path: Path) -> Path:
    """30 photos; official test 100–105, TANet's test 104–109 and validation 110–112."""
    return write_ava(
        tmp_path / "ava", IDS, official=range(100, 106), tanet_val=range(110, 113), tanet_test=range(104, 110)
    )


@pytest.fixture
def rated(ava: Path) -> str:
    """The same photos as a set of one's own, whose counts nobody published; the last four for testing."""
    rows = ["file,v1,v2,v3,split"]
    rows += [f"{number}.jpg,{number % 7},10,{number % 5},{'test' if number > 125 else 'train'}" for number in IDS]
    (ava / "images" / "ratings.csv").write_text("\n".join(rows))
    return f"csv:{ava / 'images' / 'ratings.csv'}"


def check(*specs: str, photos: bool = True) -> Audit:
    return audit(read_sets(specs), photos=photos, workers=2)


def findings(result: Audit, kind: str) -> list[Finding]:
    return [finding for _, finding in result.all_findings if finding.kind == kind]


# --- one set ---


def test_a_sound_set_passes(rated: str) -> None:
    result = check(rated)
    assert result.ok
    assert result.sets[0].photos == {"read": 30, "missing": 0, "unreadable": 0, "repeated": 0}
    assert result.sets[0].counts == {"train": 26, "val": 0, "test": 4}
    assert result.all_findings == []


def test_counts_are_held_against_the_published_ones(ava: Path, shared_data: Path) -> None:
    result = check(f"ava:official@{ava}", photos=False)
    assert not result.ok
    assert "test: 6 photos instead of the 19,930 published" in findings(result, "counts")[1].message
    real = check(f"ava:tanet@{shared_data / 'ava_labels'}", photos=False)
    assert [finding.message.partition(":")[0] for finding in findings(real, "counts")] == ["train"]
    (ava / "l.txt").write_text("104\n")
    assert not findings(check(f"ava:tanet@{ava}?subset=l.txt", photos=False), "counts")


def test_a_few_photos_missing_are_a_warning_and_many_a_problem(ava: Path, rated: str) -> None:
    images = ava / "images"
    (images / "101.jpg").unlink()
    (images / "102.jpg").write_bytes((images / "102.jpg").read_bytes()[:300])
    result = check(rated)
    assert result.sets[0].photos == {"read": 28, "missing": 1, "unreadable": 1, "repeated": 0}
    assert findings(result, "missing")[0].level == "problem"  # one of 26 is more than can be passed over
    assert findings(result, "missing")[0].photos == ("101.jpg",)
    assert "102.jpg: the file is damaged or cut short" in findings(result, "unreadable")[0].message
    many = Manifest(
        ids=tuple(str(number) for number in range(400)),
        paths=tuple(images / ("nowhere.jpg" if number == 7 else "103.jpg") for number in range(400)),
        distributions=np.tile([0.5, 0.5], (400, 1)),
        score_values=np.array([1.0, 10.0]),
        splits=("train",) * 400,
    )
    finding = findings(audit({"mine": many}), "missing")[0]
    assert (finding.level, finding.photos) == ("warning", ("7",))
    assert "1 of 400 train" in finding.message


def test_a_folder_without_photos_says_where_they_should_be(ava: Path) -> None:
    shutil.rmtree(ava / "images")
    finding = findings(check(f"ava:tanet@{ava}"), "missing")[0]
    assert f"no photo is where it should be (the first: {ava / 'images' / '100.jpg'})" in finding.message
    assert "?images=FOLDER" in finding.message


def test_copies_are_found_by_content_whatever_their_name(ava: Path, rated: str) -> None:
    images = ava / "images"
    shutil.copyfile(images / "100.jpg", images / "101.jpg")  # both for training
    result = check(rated)
    assert result.ok
    assert findings(result, "duplicates")[0].photos == ("100.jpg = 101.jpg",)
    shutil.copyfile(images / "127.jpg", images / "105.jpg")  # a test photo in the training part
    result = check(rated)
    assert not result.ok
    assert result.sets[0].leaks == [("105.jpg", "127.jpg")]
    assert findings(result, "leakage")[0].photos == ("105.jpg = 127.jpg",)


def test_labels_that_no_reader_would_let_through_are_found_too(rated: str) -> None:
    sound = load_manifest(rated)
    shares = sound.distributions.copy()
    shares[3] = np.nan
    broken = replace(sound, distributions=shares, ids=("twice", "twice", *sound.ids[2:]))
    messages = [finding.message for finding in findings(audit({"mine": broken}, photos=False), "labels")]
    assert "photos without a distribution of ratings: 1" in messages
    assert "ids that stand more than once: 1" in messages
    beyond = replace(sound, score_values=np.array([-3.0, 2.0, 12.0]))
    assert any(
        "scores outside 1..10: " in each.message for each in findings(audit({"mine": beyond}, photos=False), "labels")
    )
    flat = replace(sound, distributions=np.tile([0.2, 0.3, 0.5], (30, 1)), votes=np.full(30, 3))
    kinds = {finding.message: finding.level for finding in findings(audit({"mine": flat}, photos=False), "labels")}
    assert kinds == {
        "all photos have the same score": "problem",
        "photos with fewer than 10 votes: 30": "warning",
    }


def test_groups_of_the_test_part_are_looked_for_in_each_other_part(rated: str) -> None:
    sound = load_manifest(rated)
    for splits, says in (
        (("train", "val", "test"), "training or validation: 2 of 2"),
        (("val", "val", "test"), "validation: 2 of 2"),
        (("train", "train", "test"), "training: 2 of 2"),
    ):
        torn = replace(sound, groups=tuple("xy" * 15), splits=splits * 10)
        message = findings(audit({"mine": torn}, photos=False), "parts")[-1].message
        assert message == f"groups of the test part that are also in {says}"


# --- sets against each other ---


def test_what_two_sets_share_is_counted_part_by_part(ava: Path, tmp_path: Path) -> None:
    eva = write_eva(tmp_path / "eva", {number: [5, 6, 7] for number in range(120, 140)}, photos=False)
    (ava / "three.txt").write_text("106\n107\n108\n")
    official, tanet = f"ava:official@{ava}", f"ava:tanet@{ava}?subset=three.txt"
    result = check(official, tanet, f"eva@{eva}", photos=False)
    first = result.overlaps[0]
    assert (first.first, first.second) == (official, tanet)
    assert first.by_id == {
        ("train", "train"): 17, ("train", "val"): 3, ("train", "test"): 3,
        ("test", "train"): 4, ("test", "val"): 0, ("test", "test"): 0,
    }  # fmt: skip
    assert first.by_content is None
    with_eva = result.overlaps[1].by_id
    assert with_eva is not None
    assert sum(with_eva.values()) == 10  # of EVA's 20, ten are among these 30
    messages = [finding.message for finding in findings(result, "leakage")]
    assert messages[0] == (
        f"a model trained on {official} has seen 3 of the 3 test photos (100.0 %) of {tanet}: never test it there"
    )
    assert messages[1] == (
        f"a model trained on {tanet} has seen 4 of the 6 test photos (66.7 %) of {official}: never test it there"
    )
    assert any(f"of eva@{eva}" in message for message in messages)


def test_sets_with_ids_of_their_own_are_compared_by_content(ava: Path, rated: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(ava / "images" / "127.jpg", other / "holiday.jpg")
    shutil.copyfile(ava / "images" / "100.jpg", other / "127.jpg")  # the same name means nothing
    (other / "r.csv").write_text("file,mean,split\nholiday.jpg,3,train\n127.jpg,4,test\n")
    spec = f"csv:{other / 'r.csv'}"
    overlap = check(rated, spec).overlaps[0]
    assert overlap.by_id is None
    assert overlap.by_content == {
        ("train", "train"): 0, ("train", "test"): 1, ("test", "train"): 1, ("test", "test"): 0,
    }  # fmt: skip
    assert check(rated, spec, photos=False).overlaps == []


# --- the command ---


def command(*arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tmcr", "data", "check", *map(str, arguments)])
        try:
            run()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def test_the_command_reports_and_its_exit_code_says_whether_to_go_on(
    ava: Path, rated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(rated, "--out", tmp_path / "report.json") == 0
    assert "nothing found that would spoil numbers" in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ok"] is True
    assert report["sets"][0]["photos"]["read"] == 30
    shutil.copyfile(ava / "images" / "127.jpg", ava / "images" / "105.jpg")
    assert command(rated, "--exclusions", tmp_path / "leaks.txt") == 1
    out = capsys.readouterr().out
    assert "problem test photos that are, byte for byte, also in a training part: 1;" in out
    assert "not fit for use" in out
    assert (tmp_path / "leaks.txt").read_text() == "105.jpg\n"
    assert command(f"ava:tanet@{ava}", f"ava:official@{ava}", "--no-photos", "--out", tmp_path / "two.json") == 1
    out = capsys.readouterr().out
    assert "shared by id" in out
    assert json.loads((tmp_path / "two.json").read_text())["overlaps"][0]["by_id"]["train/test"] == 4


def test_mistakes_on_the_command_line_are_one_line(
    rated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in (
        ((rated, rated), "given twice"),
        ((rated, "--no-photos", "--exclusions", tmp_path / "x"), "works on one SPEC, with its photos"),
        ((rated, "--out", "/proc/x.json"), "cannot be written"),
        ((rated, "--out", tmp_path / "x.txt"), "a report is written as .json"),
        ((f"{rated}?sep=,", "--out", rated.removeprefix("csv:")), "is the ratings file itself"),
        ((rated, "--exclusions", rated.removeprefix("csv:")), "is the ratings file itself"),
        (("foo",), "data SPEC 'foo' is none of"),
        ((rated, f"csv:{tmp_path / 'none.csv'}"), "no such ratings file"),
        ((f"ava:tanet@{tmp_path}",), "tanet_test.csv"),
    ):
        assert command(*arguments) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert says in output.err
        assert output.err.count("\n") == 1
    assert load_manifest(rated)  # is as it was


# --- what a model has learnt from ---


def hashes(manifest: Manifest) -> list[str]:
    return [content_hash(path) for path in manifest.paths]


def test_a_model_remembers_its_photos_by_content_and_by_id(ava: Path, tmp_path: Path) -> None:
    official = load_manifest(f"ava:official@{ava}")
    Learnt.from_manifest(official, hashes(official)).save(tmp_path / "learnt.safetensors")
    learnt = Learnt.load(tmp_path / "learnt.safetensors")
    assert (learnt.source, learnt.namespace) == ("ava:official", "ava")
    assert len(learnt.contents) == len(learnt.ids) == 24
    assert check_unseen(official.part("test"), hashes(official.part("test")), learnt, "ava:official") == 0
    tanet = load_manifest(f"ava:tanet@{ava}").part("test")
    seen = learnt.seen(tanet, [None] * len(tanet))  # 104 and 105 are official test photos
    assert dict(zip(tanet.ids, seen.tolist(), strict=True)) == {
        "104": False, "105": False, "106": True, "107": True, "108": True, "109": True,
    }  # fmt: skip
    with pytest.raises(LeakageError, match=r"learnt from 4 of these 6 test photos \(106, …\).*ava:official"):
        check_unseen(tanet, [None] * 6, learnt, "ava:official")
    assert check_unseen(tanet, [None] * 6, learnt, "ava:official", allow=True) == 4


def test_a_copy_under_another_name_is_known_by_its_content(ava: Path, rated: str) -> None:
    own = load_manifest(rated)
    learnt = Learnt.from_manifest(own, hashes(own))
    assert len(learnt.ids) == 0  # names of one's own mean nothing elsewhere
    manifest = load_manifest(f"ava:official@{ava}")
    seen = learnt.seen(manifest, hashes(manifest))
    assert {photo for photo, each in zip(manifest.ids, seen, strict=True) if not each} == {"126", "127", "128", "129"}


def test_evas_photos_are_avas_though_their_files_differ(ava: Path, tmp_path: Path) -> None:
    official = load_manifest(f"ava:official@{ava}")
    learnt = Learnt.from_manifest(official, hashes(official))
    eva = load_manifest(f"eva@{write_eva(tmp_path / 'eva', {number: [5] for number in range(100, 140)})}")
    seen = learnt.seen(eva, [None] * len(eva))
    assert {photo for photo, each in zip(eva.ids, seen, strict=True) if each} == {str(n) for n in range(106, 130)}


def test_a_model_without_a_record_is_held_to_the_split_it_names(ava: Path, tmp_path: Path) -> None:
    tanet, official = (load_manifest(f"ava:{split}@{ava}").part("test") for split in ("tanet", "official"))
    eva = load_manifest(f"eva@{write_eva(tmp_path / 'eva', {number: [5] for number in range(9)}, photos=False)}")
    assert check_unseen(tanet, [None] * len(tanet), None, "ava:tanet") == 0
    for other in (official, eva):
        with pytest.raises(LeakageError, match=r"trained on ava:tanet.*--allow-leakage"):
            check_unseen(other, [None] * len(other), None, "ava:tanet")
        assert check_unseen(other, [None] * len(other), None, "ava:tanet", allow=True) == len(other)
    assert check_unseen(tanet, [None] * len(tanet), None, "") == 0


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "learnt.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(ModelError, match="record of training photos is damaged"):
        Learnt.load(tmp_path / "learnt.safetensors")
    assert issubclass(LeakageError, DataError)
