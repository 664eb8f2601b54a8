"""A run that is killed at any moment and started again ends with the rows of an undisturbed one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from scoring_stand_in import StandIn

from tmcr.results import read_results
from tmcr.scoring.run import Plan, open_run

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def grey(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 10), (value % 256, value // 2 % 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Photos with repeats near and far, damaged ones among them, in a folder and in two shards."""
    here = tmp_path_factory.mktemp("photos")
    folder = here / "folder"
    folder.mkdir()
    for number in range(120):
        data = b"broken" if number % 17 == 3 else grey(number if number % 5 else number // 20)
        (folder / f"{number:03d}.png").write_bytes(data)
    for shard in range(2):
        with tarfile.open(here / f"{shard}.tar", "w") as archive:
            for number in range(40):
                member = tarfile.TarInfo(f"{number:03d}.png")
                data = grey(7 * number + shard)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return [str(here / "0.tar"), str(folder), str(here / "1.tar"), str(here / "gone.png")]


@pytest.fixture(scope="module")
def killed(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of runs that were killed ten times each."""
    out = tmp_path_factory.mktemp("killed")
    program = [sys.executable, HERE / "scoring_stand_in.py", out, *sources]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = subprocess.run(program, check=True, capture_output=True, text=True, timeout=120, env=environment).stdout
    assert said.count("ended with 0 kills left") == 3
    return out


@pytest.mark.parametrize("name", ["ordered", "unordered", "one.jsonl"])
def test_nothing_is_missing_and_nothing_twice(name: str, sources: list[str], killed: Path, tmp_path: Path) -> None:
    with open_run(StandIn(), Plan(sources, tmp_path / name, batch_size=4)) as run:
        run.complete()
    undisturbed, found = list(read_results(tmp_path / name)), list(read_results(killed / name))
    assert len(undisturbed) == 201
    if name == "unordered":
        assert Counter(found) == Counter(undisturbed)
    else:
        assert found == undisturbed
    assert not list(killed.rglob("*.part")) + list(killed.rglob("*.parts"))
