"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_photos import scene
from test_starter import GOLDEN, pictures

import tmcr
from tmcr.assessor import Assessor
from tmcr.backends import TOLERANCES
from tmcr.results import read_results
from tmcr.scoring.run import Plan, open_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
WAYS = [("torch", "fp32"), ("torch", "bf16"), ("compile", "fp32"), ("compile", "bf16")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(96):
        scene(300 + 4 * number, 240, seed=number).save(folder / f"{number:02d}.jpg")
    return folder


def scored(assessor: Assessor, photos: Path, out: Path, *, batch_size: int) -> tuple[np.ndarray, list[str]]:
    """Scores in the order of the photos, and what the user was told."""
    notes: list[str] = []
    with open_run(assessor, Plan([str(photos)], out, batch_size=batch_size), note=notes.append) as run:
        run.complete()
        assert run.finished
        assert run.errors == 0
    return np.array([verdict.score for verdict in read_results(out)]), notes


@pytest.mark.parametrize(("backend", "precision"), WAYS)
def test_a_gpu_answers_as_the_golden_scores_say(backend: str, precision: str) -> None:
    assessor = tmcr.load("starter", device="cuda", precision=precision, backend=backend)
    verdicts = list(assessor.assess_many(list(pictures().values()), batch_size=4))  # the last batch is not full
    golden = json.loads(GOLDEN.read_text())["verdicts"]
    change = np.array([verdict.score for verdict in verdicts]) - [golden[name]["score"] for name in pictures()]
    assert np.abs(change).max() < TOLERANCES["torch", precision]


@pytest.mark.parametrize("backend", ["torch", "compile"])
def test_a_run_on_a_gpu_gives_what_a_cpu_gives(backend: str, photos: Path, tmp_path: Path) -> None:
    on_cpu = tmcr.load("starter", device="cpu", precision="fp32")
    on_gpu = tmcr.load("starter", device="cuda", precision="fp32", backend=backend)
    wanted, _ = scored(on_cpu, photos, tmp_path / "cpu", batch_size=32)
    for out in ("first", "again"):  # each run encodes in a thread of its own
        found, notes = scored(on_gpu, photos, tmp_path / out, batch_size=40)
        assert not notes
        assert np.abs(found - wanted).max() < TOLERANCES["torch", "fp32"]


def test_when_a_gpu_runs_out_of_memory_the_batch_is_halved_and_nothing_is_lost(photos: Path, tmp_path: Path) -> None:
    assessor = tmcr.load("starter", device="cuda", precision="fp32")
    wanted, _ = scored(assessor, photos, tmp_path / "much", batch_size=96)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    try:
        found, notes = scored(assessor, photos, tmp_path / "little", batch_size=96)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("ran out of memory" in note for note in notes)
    assert np.abs(found - wanted).max() < TOLERANCES["torch", "fp32"]
