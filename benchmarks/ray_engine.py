"""What Ray costs on one machine: `tmcr score --engine ray` against the same command without it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.photos import SMALL, origin, write_photos
from benchmarks.record import Result, Skipped, result
from benchmarks.start_up import COMMAND_LINE
from benchmarks.timing import alternated, samples


def measure(quick: bool) -> Iterator[Result]:
    if "--engine" not in _tmcr("score", "--help"):
        raise Skipped("this version of tmcr has no --engine")
    if importlib.util.find_spec("ray") is None:
        raise Skipped("Ray is not installed: pip install 'tmcr[ray]'")
    few, many = (16, 48) if quick else (64, 1088)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (few, many):
            write_photos(folder / f"photos-{count}", count, SMALL, different=256)

        def scored(engine: str, count: int) -> None:
            options = ["--engine", engine] if engine == "ray" else []
            out = str(folder / f"{engine}-{count}")
            _tmcr("score", str(folder / f"photos-{count}"), "--out", out, "--restart", *options)

        ways = {
            f"{engine} {count}": lambda engine=engine, count=count: scored(engine, count)
            for engine in ("local", "ray")
            for count in (few, many)
        }
        seconds = alternated(ways, rounds=1 if quick else 3, warm_up=False)
    whole = {engine: seconds[f"{engine} {many}"] for engine in ("local", "ray")}
    note = f"{SMALL[0]}×{SMALL[1]} JPEGs, {origin()}, bundled model, as commands"
    yield result(
        "whole command", whole["ray"], "s", ratio=whole["ray"].over(whole["local"]), to="local engine",
        photos=many, note=f"{note}, start-up included; local {whole['local'].median:.1f} s",
    )  # fmt: skip
    each = {
        engine: samples([
            (longer - shorter) / (many - few)
            for shorter, longer in zip(seconds[f"{engine} {few}"].values, whole[engine].values, strict=True)
        ])
        for engine in whole
    }  # fmt: skip
    yield result(
        "each further photo", each["ray"].map(lambda taken: taken * 1e3), "ms",
        ratio=each["ray"].over(each["local"]), to="local engine", photos=many - few,
        note=f"{note}: seconds of {many:,} photos less those of {few}",
    )  # fmt: skip


def _tmcr(*arguments: str) -> str:
    """What a command prints.

    Raises:
        Skipped: it fails with the engine that is measured; with its last line.
        RuntimeError: it fails without.
    """
    command = [sys.executable, "-c", COMMAND_LINE, *arguments]
    wide = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=wide, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:160]
        raise (Skipped if "--engine" in arguments else RuntimeError)(f"tmcr {arguments[0]} fails: {last}")
    return done.stdout
