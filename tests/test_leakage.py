"""No model is tested on photos it has learnt from, from training to `tmcr evaluate`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from published_formats import write_ava

from tmcr.assessor import Assessor, load
from tmcr.cli.main import run
from tmcr.datasets import load_manifest
from tmcr.datasets.leakage import Learnt
from tmcr.errors import LeakageError
from tmcr.evaluation import evaluate_assessor
from tmcr.images import content_hash
from tmcr.modelfolder import STARTER, load_model, save_model

IDS = range(100, 130)


@pytest.fixture
def ava(tmp_path: Path) -> Path:
    return write_ava(
        tmp_path / "ava", IDS, official=range(100, 110), tanet_val=range(110, 113), tanet_test=range(104, 110)
    )


@pytest.fixture
def model(ava: Path, tmp_path: Path) -> Path:
    """The starter, said to be trained on AVA's official split."""
    trained = load_model(STARTER)
    manifest = load_manifest(f"ava:official@{ava}")
    trained.learnt = Learnt.from_manifest(manifest, [content_hash(path) for path in manifest.paths])
    trained.training = {**trained.training, "source": manifest.source}
    save_model(trained, tmp_path / "model", card="", image_text_folder=STARTER / "image_text")
    return tmp_path / "model"


def assessor(folder: Path) -> Assessor:
    return load(folder, device="cpu", workers=0)


def test_the_record_travels_with_the_model_and_changes_no_verdict(model: Path) -> None:
    loaded = load_model(model)
    assert loaded.learnt is not None
    assert len(loaded.learnt.contents) == 20
    before = loaded.hash
    (model / "training_photos.safetensors").unlink()
    assert load_model(model).hash == before
    assert load_model(model).learnt is None


def test_the_other_split_of_ava_is_refused_before_a_photo_is_read(model: Path, ava: Path) -> None:
    shutil.rmtree(ava / "images")
    tanet = load_manifest(f"ava:tanet@{ava}")
    official = load_manifest(f"ava:official@{ava}")
    with pytest.raises(LeakageError, match=r"learnt from 20 of these 20 .* trained on ava:official"):
        evaluate_assessor(assessor(model), official.with_splits(["train"] * 10 + ["test"] * 20), resamples=0)
    mixed = tanet.with_splits(["test" if 104 <= int(name) <= 112 else "train" for name in tanet.ids])
    with pytest.raises(LeakageError, match=r"learnt from 3 of these 9 test photos \(110, …\)"):
        evaluate_assessor(assessor(model), mixed, resamples=0)


def test_its_own_test_part_is_let_through_and_overriding_is_flagged(model: Path, ava: Path) -> None:
    judge = assessor(model)
    official = load_manifest(f"ava:official@{ava}")
    assert evaluate_assessor(judge, official, resamples=0).seen == 0
    assert evaluate_assessor(judge, official, "train", resamples=0).seen == 20  # named on purpose
    wrong = official.with_splits(["test"] * 30)
    evaluation = evaluate_assessor(judge, wrong, resamples=0, allow_leakage=True)
    assert evaluation.seen == 20
    assert evaluation.to_dict()["seen_in_training"] == 20


def test_a_copy_under_another_name_is_refused(model: Path, ava: Path) -> None:
    folder = ava / "mine"
    folder.mkdir()
    shutil.copyfile(ava / "images" / "120.jpg", folder / "holiday.jpg")
    (folder / "r.csv").write_text("file,mean,split\nholiday.jpg,5,test\n")
    with pytest.raises(LeakageError, match=r"1 of these 1 test photos \(holiday\.jpg"):
        evaluate_assessor(assessor(model), load_manifest(f"csv:{folder / 'r.csv'}"), resamples=0)


def test_the_command_refuses_and_flags(model: Path, ava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ava / "tanet_test.csv").write_text((ava / "tanet_test.csv").read_text().replace("\n104,", "\n115,"))
    arguments = ["tmcr", "evaluate", "--data", f"ava:tanet@{ava}", "--model", str(model), "--device", "cpu"]
    out = ava / "report.json"
    for options, code in (([], 2), (["--allow-leakage", "--out", str(out)], 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [*arguments, *options])
            try:
                run()
                ended = 0
            except SystemExit as stop:
                ended = int(stop.code or 0)
        captured = capsys.readouterr()
        assert ended == code
        if code:
            assert "learnt from 1 of these 6 test photos (115, …)" in captured.err
            assert len(captured.err.strip().splitlines()) == 1
        else:
            assert "learnt from 1 of these photos: quote none of these numbers" in captured.out
    assert json.loads(out.read_text())["seen_in_training"] == 1


def test_the_regions_of_a_published_list_are_used_as_they_are(model: Path, ava: Path) -> None:
    (ava / "hard.csv").write_text("image_id,Shot\n104,Few\n105,Few\n106,Med\n107,Many\n108,Many\n109,Many\n")
    manifest = load_manifest(f"ava:official@{ava}?subset=hard.csv")
    tail = evaluate_assessor(assessor(model), manifest, resamples=0).report.long_tail
    assert tail is not None
    assert tail.counts == {"many": 3, "med": 1, "few": 2}
    assert np.isfinite(list(tail.mse.values())).all()
