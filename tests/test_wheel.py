"""The built wheel, installed into an environment of its own, scores a photo from any folder without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hostile_photos import scene


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # hatchling is among the development requirements, so nothing is fetched to build.
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_is_small_and_holds_model_tags_and_page(wheel: Path) -> None:
    assert wheel.stat().st_size < 25e6
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "tmcr/models/starter/model.safetensors",
        "tmcr/models/starter/image_text/model.safetensors",
        "tmcr/models/starter/README.md",
        "tmcr/tags/data/semantic.txt",
        "tmcr/report/gallery.html",
        "tmcr/py.typed",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith("tests") or name.endswith((".pt", ".pyc", ".npy"))]


def test_an_installed_wheel_scores_a_photo_from_any_folder_offline(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/python*/site-packages")
    # The dependencies are borrowed from here, without this project, which is installed there in editable form.
    for path in Path(next(each for each in sys.path if each.endswith("site-packages"))).iterdir():
        if "tmcr" not in path.name and not path.name.endswith(".pth"):
            (site / path.name).symlink_to(path)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(install, check=True, timeout=300)

    elsewhere = tmp_path / "any folder"
    elsewhere.mkdir()
    scene(400, 300).save(elsewhere / "photo.jpg")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "TMCR_"))}
    no_network = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [python, "-c", "from tmcr.cli.main import run; run()", "score", "photo.jpg", "--out", "scores.jsonl"]
    done = subprocess.run(command, cwd=elsewhere, env=clean | no_network, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    verdict = json.loads((elsewhere / "scores.jsonl").read_text())
    assert 1 <= verdict["score"] <= 10
    where = subprocess.run(
        [python, "-c", "import tmcr; print(tmcr.__file__)"], cwd=elsewhere, env=clean, capture_output=True, text=True
    )
    assert Path(where.stdout.strip()).is_relative_to(environment)
