"""Stages: skipped when unchanged, resumed after a kill, started anew when their inputs change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tmcr.disk import write_whole
from tmcr.training.stage import MetricsLog, Stage


def test_a_done_stage_is_skipped_and_keeps_its_summary(tmp_path: Path) -> None:
    runs = []
    for _ in range(2):
        Stage(tmp_path, "fit", {"seed": 1}).run(lambda folder: runs.append(folder) or {"loss": 0.5})
    assert len(runs) == 1
    assert Stage(tmp_path, "fit", {"seed": 1}).summary == {"loss": 0.5}


def test_an_interrupted_stage_finds_what_it_left(tmp_path: Path) -> None:
    def killed(folder: Path) -> dict[str, object]:
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stage(tmp_path, "fit", {"seed": 1}).run(killed)
    assert not Stage(tmp_path, "fit", {"seed": 1}).complete()
    Stage(tmp_path, "fit", {"seed": 1}).run(lambda folder: {"found": (folder / "checkpoint").read_text()})
    assert Stage(tmp_path, "fit", {"seed": 1}).summary == {"found": "half"}


def test_changed_inputs_start_from_an_empty_folder(tmp_path: Path) -> None:
    Stage(tmp_path, "fit", {"seed": 1}).run(lambda folder: {"n": (folder / "old").write_text("x")})
    Stage(tmp_path, "fit", {"seed": 2}).run(lambda folder: {"old": (folder / "old").exists()})
    assert Stage(tmp_path, "fit", {"seed": 2}).summary == {"old": False}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_whole(path, "old")

    def fail(part: Path) -> None:
        part.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert path.read_text() == "old"


def test_the_log_drops_what_a_resumed_stage_is_about_to_repeat_and_nothing_else(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.rewind("rank", 0)  # nothing there yet
    log.add("rank", step=1, loss=0.123456789)
    log.add("rank", step=2, loss=0.1)
    log.add("fit", epoch=0)
    with log.path.open("a") as file:
        file.write('{"stage": "rank", "st')  # what a kill leaves
    log.rewind("rank", 1)
    assert rows(log.path) == [{"stage": "rank", "step": 1, "loss": 0.123457}, {"stage": "fit", "epoch": 0}]
    log.rewind("rank", 0)
    assert rows(log.path) == [{"stage": "fit", "epoch": 0}]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
