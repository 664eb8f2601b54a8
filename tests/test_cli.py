"""The commands as people type them: what they print, what they leave, how they fail."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_photos import scene, write_hostile_photos
from rated_photos import write_rated_photos
from typer.main import get_command

from tmcr.cli.main import app, run
from tmcr.results import read_results

TMCR = [sys.executable, "-c", "from tmcr.cli.main import run; run()"]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def tmcr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process: exit code, standard output, standard error."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tmcr", *map(str, arguments)])
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return command


def test_the_demo_ranks_damaged_copies_and_leaves_results_and_gallery(tmcr: Command, tmp_path: Path) -> None:
    code, out, _ = tmcr("demo", "--out", tmp_path / "demo")
    assert code == 0
    rows = list(csv.DictReader((tmp_path / "demo" / "results.csv").open(encoding="utf-8-sig")))
    assert len(rows) == 18
    assert {Path(row["photo"]).stem.split("-", 1)[1] for row in rows} >= {"original", "blurred", "tilted", "washed-out"}
    assert all(1 <= float(row["score"]) <= 10 for row in rows)
    best = max(rows, key=lambda row: float(row["score"]))
    first = next(line for line in out.splitlines() if line.lstrip().startswith("1 "))
    assert f"{float(best['score']):.2f}" in first
    assert Path(best["photo"]).name in first
    assert (tmp_path / "demo" / "gallery.html").stat().st_size > 50_000


def test_a_folder_with_every_kind_of_bad_file_costs_no_row(tmcr: Command, tmp_path: Path) -> None:
    good, bad = write_hostile_photos(tmp_path / "photos")
    paths = [*good.values(), *(path for path, _ in bad.values()), tmp_path / "not there.jpg"]
    out = tmp_path / "results.jsonl"
    code, text, _ = tmcr("score", "--out", out, "--gallery", tmp_path / "g.html", "--", *paths)
    assert code == 0
    verdicts = list(read_results(out))
    assert [verdict.photo for verdict in verdicts] == [str(path) for path in paths]
    assert sum(verdict.ok for verdict in verdicts) == len(good)
    reasons = {verdict.photo: verdict.error_reason for verdict in verdicts if not verdict.ok}
    assert reasons == {str(path): reason for path, reason in bad.values()} | {str(paths[-1]): "missing"}
    assert text.count("✗") == len(bad) + 1
    for suffix in (".csv", ".parquet"):
        assert tmcr("score", "--out", tmp_path / f"results{suffix}", tmp_path / "photos")[0] == 0
        assert (tmp_path / f"results{suffix}").exists()


def test_photos_that_all_fail_are_an_exit_code(tmcr: Command, tmp_path: Path) -> None:
    code, out, _ = tmcr("score", tmp_path / "gone.jpg")
    assert code == 2
    assert "no such file" in out


def test_explain_prints_everything_or_json(tmcr: Command, tmp_path: Path) -> None:
    scene(300, 200).save(tmp_path / "photo.jpg")
    code, out, _ = tmcr("explain", tmp_path / "photo.jpg")
    assert code == 0
    assert "the mean training photo" in out
    assert "what the image encoder sees" in out
    code, out, _ = tmcr("explain", tmp_path / "photo.jpg", "--json")
    verdict = json.loads(out)
    assert verdict["score"] == pytest.approx(sum(
        share * value for share, value in zip(verdict["distribution"], verdict["score_values"], strict=True)
    ), abs=1e-3)  # fmt: skip


def test_train_and_evaluate_from_a_table_of_votes(tmcr: Command, tmp_path: Path) -> None:
    ratings = write_rated_photos(tmp_path / "photos")
    quick = ["--set", "fit.epochs=1", "--set", "rank.epochs=1", "--set", "rank.frequency=1", "--set", "cluster.k=2"]
    code, out, _ = tmcr("train", "--data", f"csv:{ratings}", "--out", tmp_path / "run", *quick)
    assert code == 0
    assert "✓ rank" in out
    for name in ("config.json", "metrics.jsonl", "curves.png", "report.json", "model/README.md"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    measured = json.loads((tmp_path / "run" / "report.json").read_text())
    code, out, _ = tmcr(
        "evaluate", "--model", tmp_path / "run" / "model", "--data", f"csv:{ratings}",
        "--out", tmp_path / "again.json", "--figure", tmp_path / "again.png",
    )  # fmt: skip
    assert code == 0
    assert "kind of photo" in out
    assert (tmp_path / "again.png").read_bytes().startswith(b"\x89PNG")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["mse"] == pytest.approx(measured["mse"], abs=1e-3)
    assert again["n"] == measured["n"] == 8
    assert sum(kind["n"] for kind in again["kinds"].values()) == 8
    assert sum(again["long_tail"]["counts"].values()) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "nothing-*.jpg"], "no photo found"),
        (["score", "a.jpg", "--out", "a.xlsx"], ".parquet, .csv, .jsonl"),
        (["score", "a.jpg", "--model", "./nowhere"], "no such folder"),
        (["score", "a.jpg", "--device", "warp"], "cannot be used"),
        (["score", "a.jpg", "--precision", "int1"], "precision must be"),
        (["explain", "gone.jpg"], "no such file"),
        (["train", "--data", "csv:none.csv", "--out", "run"], "no such ratings file"),
        (["train", "--data", "martian:x", "--out", "run"], "martian"),
        (["train", "--data", "csv:none.csv", "--out", "run", "--preset", "giant"], "paper, official, small"),
        (["train", "--data", "csv:none.csv", "--out", "run", "--set", "rank.epoch=1"], "no setting 'rank.epoch'"),
        (["train", "--data", "csv:none.csv", "--out", "run", "--set", "fit.dropout=2"], "setting fit.dropout"),
        (["train", "--data", "csv:none.csv", "--out", "run", "--set", "fit.dropout"], "section.name=value"),
        (["evaluate", "--data", "csv:none.csv"], "no such ratings file"),
        (["evaluate", "--data", "csv:none.csv", "--figure", "a.bmp"], ".png, .svg, .pdf"),
        (["ablate", "--data", "csv:none.csv", "--out", "run", "--system", "magic"], "no system 'magic'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    arguments: list[str], says: str, tmcr: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = tmcr(*arguments)
    assert code == 2
    assert err.startswith("tmcr: ")
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_unknown_options_and_commands_exit_with_2(tmcr: Command) -> None:
    for arguments in (["score"], ["scoer", "a.jpg"], ["score", "a.jpg", "--frobnicate"], ["score", "a", "--top", "0"]):
        code, _, err = tmcr(*arguments)
        assert code == 2
        assert "Traceback" not in err


def commands(group: Any, *before: str) -> Iterator[tuple[str, ...]]:
    """Every command that can be typed: ("score",), …, ("data", "check"), …"""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield (*before, name)


COMMANDS = list(commands(get_command(app)))


def test_the_list_of_commands_shows_them_all(tmcr: Command) -> None:
    assert {("score",), ("reproduce",), ("data", "check"), ("tags", "build")} <= set(COMMANDS)
    for group in sorted({path[:-1] for path in COMMANDS}):
        code, out, _ = tmcr(*group, "--help")
        assert code == 0
        for path in COMMANDS:
            if path[: len(group)] == group:
                assert re.search(rf"^\W*{path[len(group)]}\b", out, re.MULTILINE), path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: tuple[str, ...], tmcr: Command) -> None:
    code, text, _ = tmcr(*command, "--help")
    assert code == 0
    if command != ("doctor",):  # takes nothing
        assert f"tmcr {' '.join(command)} " in text.split("Example", 1)[1]


def test_doctor_finds_the_installation_healthy(tmcr: Command) -> None:
    code, out, _ = tmcr("doctor")
    assert code == 0
    assert "scores a test pattern" in out


def test_importing_the_package_and_asking_for_help_load_nothing_heavy() -> None:
    for code in ("import tmcr", "import tmcr.cli.main"):
        loaded = subprocess.run(
            [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert not set(loaded) & {"torch", "transformers", "numpy", "scipy", "sklearn", "pyarrow", "PIL", "matplotlib"}


def test_ctrl_c_ends_a_run_in_one_line_and_leaves_no_half_result(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(300):
        scene(400, 300, seed=number % 5).save(folder / f"{number}.png")
    process = subprocess.Popen(
        [*TMCR, "score", str(folder), "--out", str(tmp_path / "out.csv"), "--batch-size", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 60
    while not (tmp_path / "out.csv.parts" / "manifest.json").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1].startswith("tmcr: stopped")
    assert "Traceback" not in err
    assert not (tmp_path / "out.csv").exists()
