"""The examination: a model that does well by construction is told from one that does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tests.rated_photos import picture, write_rated_photos
from tmcr.assessor import Assessor, load
from tmcr.cli.main import app
from tmcr.damage import KINDS
from tmcr.datasets import load_manifest
from tmcr.errors import DataError
from tmcr.experiments.captions import read_captions, with_synonyms, words_of
from tmcr.experiments.judge import FAMILIES, judge
from tmcr.experiments.verdicts import MODEL, RIDGE, Verdicts


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rated_photos(tmp_path_factory.mktemp("rated"), 40)


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    lines = ["file,captions"]
    for number in range(4):
        picture(0.5, np.random.default_rng(number)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,A photo of the sky. | Clouds over a field.")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder / "captions.csv"


@pytest.fixture(scope="module")
def model() -> Assessor:
    return load("starter", device="cpu", workers=2)


@pytest.fixture(scope="module")
def verdicts(model: Assessor, data: Path, captions: Path) -> Verdicts:
    return judge(model, load_manifest(f"csv:{data}"), captions=captions)


def test_every_part_is_there_and_within_its_range(verdicts: Verdicts) -> None:
    assert list(verdicts.reports)[:2] == [MODEL, RIDGE]
    assert set(verdicts.order) == {(kind, level) for kind in KINDS for level in ("mild", "strong")}
    assert set(verdicts.families) == set(FAMILIES)
    assert set(verdicts.named) == set(FAMILIES)
    named = [share for both in verdicts.named.values() for share in both]
    for share in (*verdicts.order.values(), *verdicts.families.values(), *named, *verdicts.captions.values()):
        assert 0 <= share.low <= share.value <= share.high <= 1
    assert all(each.value >= 0 for each in verdicts.sameness.values())
    assert verdicts.spread.value > 0
    assert 0 <= verdicts.tags_shown <= 5
    assert verdicts.cost["size on disk, MB"] < 15
    assert verdicts.cost["photos a second"] > 0


def test_the_report_survives_json_and_markdown_names_everything(verdicts: Verdicts) -> None:
    assert json.loads(json.dumps(verdicts.to_dict()))["accuracy"][MODEL]["n"] == 8
    text = verdicts.to_markdown()
    for word in (*verdicts.reports, *FAMILIES, "Spread", "peak memory", "mirrored"):
        assert word in text


def test_a_tag_counts_as_shown_where_the_model_shows_it(model: Assessor, data: Path) -> None:
    tags = model.model.libraries.names
    minimum = torch.full((len(tags),), float("inf"))
    minimum[tags.index("noise")] = -1e6
    only_noise = Assessor(replace(model.model, tag_minimum=minimum), model.image_text, model.hardware)
    named = judge(only_noise, load_manifest(f"csv:{data}")).named
    for family, (_, tags_of_it, _) in FAMILIES.items():
        shown = float("noise" in tags_of_it)
        assert [share.value for share in named[family]] == [shown, shown], family


def test_a_part_that_is_not_there_is_one_clear_line(model: Assessor, data: Path) -> None:
    manifest = load_manifest(f"csv:{data}")
    without = replace(manifest, splits=tuple("train" for _ in manifest.splits))
    with pytest.raises(DataError, match="no photo is marked 'test'"):
        judge(model, without)


def test_words_know_plurals_and_close_synonyms() -> None:
    assert words_of("Two puppies on the beaches, and a glass box") == {"puppy", "beach", "glass", "box"}
    assert "dog" in with_synonyms(words_of("puppies"))
    assert "dog" not in with_synonyms(words_of("kitten"))


@pytest.mark.parametrize("text", ["", "file\n0.png\n", "file,captions\n"])
def test_an_unusable_caption_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text(text)
    with pytest.raises(DataError, match="captions"):
        read_captions(tmp_path / "captions.csv")


def test_the_command_writes_both_reports_and_sheets(data: Path, tmp_path: Path) -> None:
    sheets = tmp_path / "sheets"
    result = CliRunner().invoke(
        app, ["judge", "--data", f"csv:{data}", "--out", str(tmp_path), "--sheets", str(sheets), "--offline"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "judge.json").read_text())["accuracy"][MODEL]["n"] == 8
    assert "# " in (tmp_path / "judge.md").read_text()
    for name in ("best", "worst", "over-rated", "under-rated", "semantic-tags", "attribute-tags"):
        with Image.open(sheets / f"{name}.png") as sheet:
            assert sheet.width == 1200
