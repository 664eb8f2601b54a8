"""`tmcr score` on everything but plain files: shards, folders of parts, Ctrl-C, restarts, galleries."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_photos import scene

from tmcr.cli import score as command
from tmcr.cli.main import run
from tmcr.results import read_results

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `tmcr score` in this process: exit code, standard output, standard error."""

    def score(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tmcr", "score", *map(str, arguments)])
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return score


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Six photos, one of them damaged, in a tar."""
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number in range(6):
            path = tmp_path / f"{number}.jpg"
            if number == 4:
                path.write_bytes(b"damaged")
            else:
                scene(300, 200, seed=number).save(path)
            archive.add(path, f"trip/{path.name}")
            path.unlink()
    return tmp_path / "shard.tar"


def test_a_shard_becomes_results_a_ranking_and_a_gallery(score: Command, shard: Path, tmp_path: Path) -> None:
    code, out, _ = score(shard, "--out", tmp_path / "r", "--gallery", tmp_path / "g.html", "--batch-size", "3")
    assert code == 0
    assert re.search(r"starter on cpu, .*\d photo workers, batches of 3", out)
    assert "✗ 4.jpg: no decoder" in out
    verdicts = list(read_results(tmp_path / "r"))
    assert [verdict.photo for verdict in verdicts] == [f"{shard}#trip/{number}.jpg" for number in range(6)]
    embedded = re.findall(r'class="photo">(.*?)</script>', (tmp_path / "g.html").read_text())
    shown = {photo["photo"]: photo for photo in map(json.loads, embedded)}
    assert set(shown) == {verdict.photo for verdict in verdicts}
    assert [bool(shown[verdict.photo].get("thumbnail")) for verdict in verdicts] == [verdict.ok for verdict in verdicts]
    thumbnails = {photo["thumbnail"] for photo in shown.values() if photo.get("thumbnail")}
    assert len(thumbnails) == 5  # each its own picture

    (tmp_path / "g.html").unlink()
    code, out, _ = score(shard, "--out", tmp_path / "r", "--gallery", tmp_path / "g.html")
    assert code == 0
    assert "is complete" in out
    assert (tmp_path / "g.html").exists()


def test_of_a_big_run_the_best_are_shown(
    score: Command, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MOST_SHOWN", 2)
    code, out, _ = score(shard, "--out", tmp_path / "r.csv", "--gallery", tmp_path / "g.html", "--unordered")
    assert code == 0
    assert "these are the best of 6 photos; 1 could not be read" in out
    assert "(the best 3 photos)" in out
    rows = list(csv.DictReader((tmp_path / "r.csv").open(encoding="utf-8-sig")))
    assert len(rows) == 6
    best = sorted((float(row["score"]) for row in rows if row["score"]), reverse=True)[:2]
    embedded = [
        json.loads(each) for each in re.findall(r'class="photo">(.*?)</script>', (tmp_path / "g.html").read_text())
    ]
    assert sorted((photo["score"] for photo in embedded if "score" in photo), reverse=True) == pytest.approx(
        best, abs=1e-3
    )


def test_without_out_the_ranking_is_all(score: Command, shard: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    code, out, _ = score(shard, "--top", "2", "--isolate", "--max-errors", "1")
    assert code == 0
    assert "3 more" in out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{shard}", "--max-errors", "0"], "1 photo cannot be read, more than --max-errors 0; nothing is kept"),
        (["{shard}", "--out", "{folder}"], "is no results folder"),
        (["{shard}", "--out", "r.xlsx"], "or, without a suffix, to a folder"),
        (["carrierpigeon://coop/1.jpg"], "install fsspec's plug-in"),
        (["@nowhere.txt"], "the list cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, score: Command, shard: Path, tmp_path: Path) -> None:
    code, _, err = score(*(each.format(shard=shard, folder=tmp_path) for each in arguments))
    assert code == 2
    assert err.startswith("tmcr: ")
    assert says in err
    assert err.count("\n") == 1


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(score: Command, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(60):
        scene(160, 120, seed=number % 5).save(folder / f"{number:03d}.bmp")
        (folder / f"{number:03d}.bmp").open("ab").write(bytes([number]))  # no repeats
    arguments = [str(folder), "--out", str(tmp_path / "results.csv"), "--batch-size", "1", "--top", "1"]
    parts = tmp_path / "results.csv.parts"
    process = subprocess.Popen(
        [sys.executable, "-c", "from tmcr.cli.main import run; run()", "score", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list(parts.glob("*.parquet.part")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = err.strip().splitlines()
    done = re.fullmatch(
        rf"tmcr: stopped: (\d+) of 60 photos are scored and kept in {parts}; the same command goes on from there", line
    )
    assert done is not None
    assert 1 <= int(done[1]) < 60
    assert len(list(read_results(parts))) == int(done[1])
    assert not (tmp_path / "results.csv").exists()

    code, text, err = score(*arguments)
    assert (code, err) == (0, "")
    assert f"going on after {done[1]} photos" in text
    rows = csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8-sig"))
    assert [row["photo"] for row in rows] == [str(path) for path in sorted(folder.iterdir())]
    assert not parts.exists()
