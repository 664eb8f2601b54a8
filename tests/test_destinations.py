"""No command writes over what it reads, over another's files, or finds out after the work that it cannot write."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
from hostile_photos import scene
from PIL import Image

from tests.rated_photos import write_rated_photos
from tmcr.cli.main import run as command_line
from tmcr.destinations import check_file, check_folder, check_model_folder, check_run_folder
from tmcr.errors import ConfigError
from tmcr.modelfolder import STARTER
from tmcr.scoring.run import check_out


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos, their ratings, a model, and other people's files; commands run in it."""
    write_rated_photos(tmp_path / "rated", 4)
    (tmp_path / "photos").mkdir()
    scene(60, 40).save(tmp_path / "photos" / "a.jpg")
    shutil.copytree(STARTER, tmp_path / "model")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text('{"mine": 1}')
    (tmp_path / "project" / "thesis.txt").write_text("precious")
    (tmp_path / "list.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


IMPORT = "import list.txt --semantic-tags list.txt --attribute-tags list.txt --image-text model/image_text"
REFUSED = {
    f"{IMPORT} --out project": "is there already and is no model folder",
    f"{IMPORT} --out photos": "is there already and is no model folder",
    "import gone.pt --semantic-tags list.txt --attribute-tags list.txt --out new": "gone.pt: no such file",
    "train --data csv:rated/ratings.csv --out model": "is a model folder",
    "train --data csv:rated/ratings.csv --out photos": "holds a.jpg and is no run folder",
    "train --data csv:rated/ratings.csv --out project": "holds config.json and is no run folder",
    "train --data csv:rated/ratings.csv --out rated/ratings.csv": "is a file",
    "train --data csv:rated/ratings.csv --out /proc/run": "cannot be written to",
    "train --data csv:rated/ratings.csv --out run --seed -1": "seed",
    "train --data csv:rated/ratings.csv --out run --set cluster.k=0": "cluster.k",
    "score photos/a.jpg --gallery photos/a.jpg": "a gallery is written as .html",
    "score photos/a.jpg --gallery /proc/g.html": "cannot be written there",
    "score photos table.parquet --out table.parquet": "would be written over",
    "score photos --exported x.onnx": "for the onnx and openvino backends",
    "score photos --model run": "run: is a run folder; its model is run/model",
    "score photos --model model/modle": "no such folder",
    "score photos --model photos/a.jpg": "is a file",
    "evaluate --data csv:rated/ratings.csv --out rated/ratings.csv": "a report is written as .json",
    "evaluate --data csv:rated/ratings.csv --out model/config.json": "lies in a model folder",
    "evaluate --data csv:rated/ratings.csv --figure /proc/f.png": "cannot be written there",
    "judge --data csv:rated/ratings.csv --out rated/ratings.csv": "is a file",
    "judge --data csv:rated/ratings.csv --out judged --part train --captions gone.csv": "gone.csv: cannot be read",
    "ablate --data csv:rated/ratings.csv --out /proc/a": "cannot be written to",
    "reproduce table4 --data csv:rated/ratings.csv --out list.txt": "is a file",
    "export --out /proc/x.onnx": "cannot be written there",
    "demo --out list.txt": "is a file",
    "demo gone.jpg --out demo": None,  # the photo has a row that says so
}  # fmt: skip


@pytest.mark.parametrize("command", REFUSED)
def test_a_destination_that_would_lose_something_is_refused_in_one_line(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run" / "model").mkdir(parents=True)
    (here / "run" / "config.json").write_text('{"preset": "small"}')
    (here / "run" / "model" / "config.json").write_text("{}")
    before = snapshot(here)
    monkeypatch.setattr(sys, "argv", ["tmcr", *command.split()])
    with pytest.raises(SystemExit) as end:
        command_line()
    assert end.value.code == 2
    says = REFUSED[command]
    if says is not None:
        message = capsys.readouterr().err
        assert says in " ".join(message.replace("│", " ").split())
        assert "Traceback" not in message
    after = snapshot(here)
    assert {name: after.get(name) for name in before} == before


def test_a_source_that_a_glob_or_a_list_names_is_not_written_over(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "old.parquet").write_bytes(b"old results")
    monkeypatch.setattr(sys, "argv", ["tmcr", "score", "*.parquet", "--out", "./old.parquet"])
    with pytest.raises(SystemExit) as end:
        command_line()
    assert end.value.code == 2
    assert "would be written over this photo or shard" in capsys.readouterr().err
    assert (here / "old.parquet").read_bytes() == b"old results"


def test_a_full_disk_behind_the_output_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "argv", ["tmcr", "tags", "show", "blur"])
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as end:
        command_line()
    assert end.value.code == 2
    assert "No space left on device" in capsys.readouterr().err


def test_training_that_is_refused_leaves_no_folder_behind(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = here / "one.csv"
    one.write_text("file,score\nphotos/a.jpg,5\n")
    (here / "mine").mkdir()
    for out in ("new", "mine"):
        monkeypatch.setattr(sys, "argv", ["tmcr", "train", "--data", f"csv:{one}", "--out", out])
        with pytest.raises(SystemExit) as stopped:
            command_line()
        assert stopped.value.code == 2
    assert "photo" in capsys.readouterr().err
    assert not (here / "new").exists()
    assert (here / "mine").exists()


def test_a_date_or_version_at_the_end_of_a_folder_s_name_is_no_suffix(tmp_path: Path) -> None:
    check_out(tmp_path / "many-5.5")
    check_out(tmp_path / "2026.11")
    with pytest.raises(ConfigError, match="results are written as"):
        check_out(tmp_path / "many.xlsx")


def test_what_is_one_s_own_may_be_written_again(here: Path) -> None:
    check_model_folder(here / "model")
    check_model_folder(here / "new" / "model")
    (here / "empty").mkdir()
    check_model_folder(here / "empty")
    (here / "run").mkdir()
    (here / "run" / "config.json").write_text(json.dumps({"preset": "small"}))
    (here / "run" / "stages").mkdir()
    check_run_folder(here / "run")
    check_run_folder(here / "another")
    check_folder(here / "photos")
    check_file(here / "report.json", (".json",), "a report", never=[here / "other.json"])
    Image.new("RGB", (9, 9)).save(here / "link.png")
    (here / "same").symlink_to(here)
    with pytest.raises(ConfigError, match="would be written over"):
        check_file(here / "same" / "link.png", (".png",), "a figure", never=[here / "link.png"])
