"""Model folders: what is written is read back, and a damaged one says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tmcr.errors import ModelError, TmcrError
from tmcr.modelfolder import STARTER, content_hash_of, load_model, save_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(STARTER, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_what_is_saved_is_read_back(storage: str, tmp_path: Path) -> None:
    model = load_model(STARTER)
    digest = save_model(model, tmp_path / "copy", card="# card\n", storage=storage)
    copy = load_model(tmp_path / "copy")
    assert copy.hash == digest == content_hash_of(tmp_path / "copy")
    for key, value in model.head.state_dict().items():
        assert torch.equal(copy.head.state_dict()[key], value), key  # the starter itself is stored in float16
    assert torch.equal(copy.text, model.text)
    assert copy.clusters.tags == model.clusters.tags
    assert copy.training == model.training
    assert (copy.encoder is None) == (model.encoder is None)
    assert (tmp_path / "copy" / "README.md").read_text() == "# card\n"


def test_only_what_an_encoder_is_read_from_is_copied_along(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(STARTER / "image_text", encoder)
    (encoder / "optimizer.pt").write_bytes(b"huge")
    (encoder / "work").mkdir()
    save_model(load_model(STARTER), tmp_path / "model", card="", image_text_folder=encoder)
    copied = {path.name for path in (tmp_path / "model" / "image_text").iterdir()}
    assert copied == {path.name for path in (STARTER / "image_text").iterdir()}


def test_saving_replaces_an_older_model_and_leaves_nothing_half_done(folder: Path) -> None:
    (folder / "left over.txt").write_text("old")
    save_model(load_model(STARTER), folder, card="new")
    assert not (folder / "left over.txt").exists()
    assert (folder / "README.md").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_the_hash_changes_with_everything_that_changes_a_verdict(folder: Path) -> None:
    before = content_hash_of(folder)
    (folder / "README.md").write_text("another card")
    assert content_hash_of(folder) == before
    tensors = load_file(folder / "model.safetensors")
    tensors["similarity_mean"][0] += 1
    save_file(tensors, folder / "model.safetensors")
    assert content_hash_of(folder) != before


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "text_features.safetensors", "clusters.safetensors"]
)
def test_a_missing_or_cut_file_is_one_clear_line(name: str, folder: Path) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="damaged") as cut:
        load_model(folder)
    assert "\n" not in str(cut.value)
    path.unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_model(folder)


def test_other_formats_foreign_tags_and_wrong_shapes_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"head": config["head"] | {"hidden": 7}}))
    with pytest.raises(ModelError, match="damaged"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    tags = folder / "tags" / "semantic.txt"
    tags.write_text(tags.read_text() + "one more tag\n")
    with pytest.raises(TmcrError, match="tag"):
        load_model(folder)


def test_the_starter_is_small_and_never_pickled() -> None:
    files = [path for path in STARTER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".tsv", ".md"}
