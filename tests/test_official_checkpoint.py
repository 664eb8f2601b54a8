"""The authors' checkpoint: the same numbers once converted, nothing pickled is run, wrong tags are noticed."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from published_formats import photo
from safetensors.torch import load_file
from torch import Tensor, nn

from tmcr.assessor import load
from tmcr.cli.main import run
from tmcr.encoders import load_image_text_encoder
from tmcr.errors import ModelError, TagError, TmcrError
from tmcr.hardware import pick_hardware
from tmcr.matching import text_matrix
from tmcr.modelfolder import load_model
from tmcr.official.checkpoint import read_checkpoint
from tmcr.official.head import convert_head, mean_embedding, mean_level
from tmcr.official.importing import import_checkpoint
from tmcr.official.swin import convert_encoder, swin_config
from tmcr.official.tags import read_official_tags
from tmcr.preprocess import IMAGENET_MEAN, IMAGENET_STD

SEMANTIC = ["cat", "dog", "lake", "a photo of a cat", "a dog of a lake"]
ATTRIBUTE = ["soft light", "blurred", "golden hour", "light", "a soft lake", "golden light", "soft"]
TAGS = len(SEMANTIC) + len(ATTRIBUTE)
HIDDEN, WIDTH, DEPTHS, HEADS, WINDOW = 32, 8, (1, 1, 2, 1), (1, 1, 2, 2), 7


def official_tensors(seed: int = 0, n_tags: int = TAGS) -> dict[str, Tensor]:
    """Random tensors under the released names, the Swin Transformer smaller."""
    torch.manual_seed(seed)
    tensors: dict[str, Tensor] = {"AL.features.0.0.weight": torch.randn(WIDTH, 3, 4, 4)}
    tensors["AL.features.0.0.bias"] = torch.randn(WIDTH)

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + 0.1 * torch.randn(width), 0.1 * torch.randn(width)

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
        tensors[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    norm("AL.features.0.2", WIDTH)
    positions = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
    apart = (positions[:, :, None] - positions[:, None, :]) + WINDOW - 1
    for stage, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        width = WIDTH * 2**stage
        for number in range(depth):
            block = f"AL.features.{2 * stage + 1}.{number}"
            norm(f"{block}.norm1", width)
            norm(f"{block}.norm2", width)
            linear(f"{block}.attn.qkv", 3 * width, width)
            linear(f"{block}.attn.proj", width, width)
            linear(f"{block}.mlp.0", 4 * width, width)
            linear(f"{block}.mlp.3", width, 4 * width)
            tensors[f"{block}.attn.relative_position_bias_table"] = torch.randn((2 * WINDOW - 1) ** 2, heads)
            tensors[f"{block}.attn.relative_position_index"] = (apart[0] * (2 * WINDOW - 1) + apart[1]).flatten()
        if stage < len(DEPTHS) - 1:
            tensors[f"AL.features.{2 * stage + 2}.reduction.weight"] = torch.randn(2 * width, 4 * width) / width
            norm(f"AL.features.{2 * stage + 2}.norm", 4 * width)
    norm("AL.norm", width)
    for part, inputs in (("TF_Fea_shift", n_tags), ("AL_Fea_shift", width)):
        linear(f"{part}.0", HIDDEN, inputs)
        norm(f"{part}.1", HIDDEN)
        tensors[f"{part}.1.running_mean"], tensors[f"{part}.1.running_var"] = torch.randn(HIDDEN), torch.ones(HIDDEN)
        tensors[f"{part}.1.num_batches_tracked"] = torch.tensor(9)
    linear("regression.0", 10, 2 * HIDDEN)
    return tensors


def official_head(tensors: dict[str, Tensor], similarities: Tensor, levels: Tensor) -> Tensor:
    """What the checkpoint's own structure makes of 100 × cosines and level features, written out."""
    views = []
    for part, x in (("TF_Fea_shift", similarities), ("AL_Fea_shift", levels)):
        x = x @ tensors[f"{part}.0.weight"].T + tensors[f"{part}.0.bias"]
        x = (x - tensors[f"{part}.1.running_mean"]) / torch.sqrt(tensors[f"{part}.1.running_var"] + 1e-5)
        views.append(torch.relu(x * tensors[f"{part}.1.weight"] + tensors[f"{part}.1.bias"]))
    return (torch.cat(views, 1) @ tensors["regression.0.weight"].T + tensors["regression.0.bias"]).softmax(1)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A checkpoint, its two tag files and an image–text encoder."""
    torch.save(official_tensors(), tmp_path / "TMCR_AVA.pt")
    (tmp_path / "semantic.txt").write_text("\n".join(SEMANTIC) + "\n")
    (tmp_path / "attribute.txt").write_text("\n".join(ATTRIBUTE) + "\n")
    return {
        "checkpoint": tmp_path / "TMCR_AVA.pt",
        "semantic": tmp_path / "semantic.txt",
        "attribute": tmp_path / "attribute.txt",
        "image_text": tiny_models.clip(tmp_path / "clip"),
    }


def imported(files: dict[str, Path], **options: Any) -> Any:
    encoder = load_image_text_encoder(str(files["image_text"]))
    hardware = pick_hardware("cpu", "fp32", 0)
    return import_checkpoint(
        files["checkpoint"], files["semantic"], files["attribute"], encoder, hardware=hardware, **options
    )


# --- the same numbers ---


def test_the_toy_twin_gives_the_level_features_and_distributions_of_the_original(shared_data: Path) -> None:
    folder = shared_data / "official_checkpoint"
    expected = load_file(folder / "tiny_io.safetensors")
    tensors = read_checkpoint(folder / "tiny_TMCR.pt")
    encoder = convert_encoder(tensors)
    for similarity_mean, level_mean in (  # the reference that explanations start from changes no score
        (torch.zeros(12), torch.zeros(128)),
        (torch.full((12,), 0.2), torch.randn(128)),
    ):
        head = convert_head(tensors, 7, similarity_mean, level_mean)
        with torch.inference_mode():
            levels = encoder(expected["pixel_values"].float())
            distribution = head(expected["tag_similarities"] / 100, levels).softmax(1)
        torch.testing.assert_close(levels, expected["level_feature"], atol=1e-5, rtol=0)
        torch.testing.assert_close(distribution, expected["distribution"], atol=1e-5, rtol=0)


def test_every_released_tensor_has_its_place_in_the_full_size_model(shared_data: Path) -> None:
    from transformers import SwinConfig, SwinModel

    from tmcr.official.swin import _relative_position_index, _swin_state

    shapes = json.loads((shared_data / "official_checkpoint" / "released_keys.json").read_text())
    config = swin_config(shapes)
    assert (config["embed_dim"], config["depths"], config["num_heads"]) == (128, [2, 2, 18, 2], [4, 8, 16, 32])
    assert (config["patch_size"], config["window_size"], config["mlp_ratio"]) == (4, 7, 4)
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
        model = SwinModel(SwinConfig(**config))
        small = {name: tensor for name, tensor in tensors.items() if not name.startswith("AL.")}
    for name in tensors:
        if name.endswith("relative_position_index"):
            tensors[name] = _relative_position_index(7)
    state = _swin_state(tensors, 7)
    assert len({name for name, _ in state}) == len(state)
    ours = sorted(tuple(parameter.shape) for parameter in model.parameters())
    assert sorted(tuple(tensor.shape) for _, tensor in state) == ours
    assert tuple(small["TF_Fea_shift.0.weight"].shape) == (1024, 2145 + 1659)
    assert tuple(small["regression.0.weight"].shape) == (10, 2048)


def test_the_head_equals_the_original_structure_written_out() -> None:
    tensors = official_tensors()
    cosines, levels = 0.3 * torch.rand(6, TAGS), torch.randn(6, WIDTH * 8)
    head = convert_head(tensors, len(SEMANTIC), 0.1 * torch.rand(TAGS), torch.randn(WIDTH * 8))
    with torch.inference_mode():
        ours = head(cosines, levels).softmax(1)
    torch.testing.assert_close(ours, official_head(tensors, 100 * cosines, levels), atol=2e-6, rtol=0)


def test_a_saved_model_scores_photos_like_the_original_structure(files: dict[str, Path], tmp_path: Path) -> None:
    photos = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(photos):
        photo(path, number)
    out = tmp_path / "model"
    assert command(files, out, "--reference", str(tmp_path / "*.jpg")) == 0
    assessor = load(out, device="cpu")
    verdicts = list(assessor.assess_many(photos))
    spec = assessor.model.image_text.preprocess
    assert (spec.size, spec.resize, spec.mean, spec.std) == (16, "squash", IMAGENET_MEAN, IMAGENET_STD)
    assert assessor.model.encoder is not None
    levels_spec = assessor.model.encoder.preprocess
    assert (levels_spec.size, levels_spec.resize, levels_spec.resize_to) == (224, "squash", 256)
    prepared = [assessor.prepare(path) for path in photos]
    embeddings, levels = assessor.features(prepared)
    assert levels is not None
    expected = official_head(official_tensors(), 100 * embeddings @ assessor.model.text.T, levels.detach())
    ours = torch.tensor([verdict.distribution for verdict in verdicts])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    for verdict in verdicts:
        assert verdict.ok
        assert verdict.percentile is not None
        assert verdict.cluster is not None
        total = verdict.semantic_contribution + verdict.attribute_contribution + verdict.encoder_contribution
        assert total == pytest.approx(verdict.score - verdict.reference_score, abs=1e-5)


# --- what the checkpoint remembers of its training photos ---


def test_the_mean_training_photo_is_recovered_and_wrong_tags_are_noticed() -> None:
    """A layer that has seen photos: its statistics tell their mean, if and only if the tags are the right ones."""
    generator = torch.Generator().manual_seed(0)
    width, hidden, n_tags = 24, 40, 60
    text = nn.functional.normalize(torch.randn(n_tags, width, generator=generator), dim=1)
    centre = torch.randn(width, generator=generator)
    photos = nn.functional.normalize(centre + torch.randn(2048, width, generator=generator), dim=1)
    layer, norm = nn.Linear(n_tags, hidden), nn.BatchNorm1d(hidden)
    with torch.no_grad():
        for batch in photos.split(64):
            norm(layer(100 * batch @ text.T))
    tensors = {f"TF_Fea_shift.0.{name}": value.detach() for name, value in layer.named_parameters()}
    tensors |= {"TF_Fea_shift.1.running_mean": norm.running_mean, "TF_Fea_shift.1.running_var": norm.running_var}
    embedding, misfit, spread = mean_embedding(tensors, text)
    assert misfit < 0.05
    # Known to what the last twenty batches of 64 leave to chance.
    np.testing.assert_allclose(embedding, photos.mean(0), atol=4 * float(photos.std()) / (19 * 64) ** 0.5)
    assert spread == pytest.approx(float(photos.std(0).mean()), rel=0.15)
    for wrong in (text.roll(1, 0), text.flip(0), torch.cat([text[30:], text[:30]])):
        assert mean_embedding(tensors, wrong)[1] > 0.2


def test_the_mean_level_feature_explains_what_its_layer_remembers() -> None:
    tensors = official_tensors()
    level = torch.randn(WIDTH * 8) * 0.5
    tensors["AL_Fea_shift.1.running_mean"] = tensors["AL_Fea_shift.0.weight"] @ level + tensors["AL_Fea_shift.0.bias"]
    found = mean_level(tensors)
    behind = tensors["AL_Fea_shift.0.weight"] @ found + tensors["AL_Fea_shift.0.bias"]
    torch.testing.assert_close(behind, tensors["AL_Fea_shift.1.running_mean"], atol=1e-3, rtol=0)


# --- reading ---


class Trap:
    """Unpickling this leaves a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.trace, "w")


def test_a_pickled_model_is_refused_and_nothing_in_it_is_run(files: dict[str, Path], tmp_path: Path) -> None:
    trace = tmp_path / "was run"
    for content in (nn.Linear(2, 2), {"model": Trap(str(trace))}, official_tensors() | {"AL.extra": Trap(str(trace))}):
        torch.save(content, files["checkpoint"])
        with pytest.raises(ModelError, match=r"TMCR_AVA\.pt holds a whole pickled model.*refused.*state dict"):
            read_checkpoint(files["checkpoint"])
    assert not trace.exists()


def test_wrappers_around_the_state_dict_are_taken_off(tmp_path: Path) -> None:
    tensors = official_tensors()
    path = tmp_path / "wrapped.pt"
    for content in ({"state_dict": tensors, "epoch": 3}, {f"module.{name}": value for name, value in tensors.items()}):
        torch.save(content, path)
        assert set(read_checkpoint(path)) == set(tensors)


def test_what_is_no_such_checkpoint_is_one_clear_line(tmp_path: Path) -> None:
    tensors = official_tensors()
    path = tmp_path / "odd.pt"

    def says(content: object) -> str:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(ModelError) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "download" in says(b"hello")
    torch.save(tensors, path)
    whole = path.read_bytes()
    assert "download" in says(whole[: len(whole) // 2])
    assert "holds no state dict" in says([1, 2])
    assert "holds no state dict" in says({"AL": 3})
    assert "has no TF_Fea_shift.*" in says({name: value for name, value in tensors.items() if name.startswith("AL.")})
    assert "has projector.*" in says(tensors | {"projector.0.weight": torch.ones(2)})
    assert "not finite" in says(tensors | {"AL.norm.bias": torch.full((64,), torch.nan)})
    with pytest.raises(ModelError, match="no such file"):
        read_checkpoint(tmp_path / "missing.pt")


def test_another_encoder_or_odd_shapes_are_refused() -> None:
    tensors = official_tensors()
    missing = {name: value for name, value in tensors.items() if name != "AL.features.3.0.mlp.0.bias"}
    for odd in (
        missing,
        tensors | {"AL.features.3.0.norm1.weight": torch.ones(5)},
        tensors | {"AL.features.1.0.attn.relative_position_index": torch.zeros(WINDOW**4, dtype=torch.int64)},
        tensors | {"AL.features.1.0.odd.weight": torch.ones(5)},
        {"AL.layer1.weight": torch.ones(3)},
    ):
        with pytest.raises(ModelError, match=r"AL\.\*"):
            convert_encoder(odd)
    with pytest.raises(ModelError, match="do not fit each other"):
        convert_head(tensors | {"regression.0.weight": torch.ones(10, 3)}, 5, torch.zeros(TAGS), torch.zeros(WIDTH * 8))


# --- tags ---


def test_tags_are_read_as_written_and_shown_once_each(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("\ufeffcat\r\n\r\nlake\r\ncat\r\n#sunset\r\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("soft\nlake\n")
    libraries, written = read_official_tags(tmp_path / "s.txt", tmp_path / "a.txt", 6)
    assert written == ("cat", "lake", "cat", "#sunset", "soft", "lake")
    assert libraries.names == ("cat", "lake", "cat (2)", "sunset", "soft", "lake (2)")
    assert libraries.n_semantic == 4
    libraries.save(tmp_path / "tags")
    assert type(libraries).load(tmp_path / "tags").hash == libraries.hash
    with pytest.raises(TagError, match=r"s\.txt has 4 tags and a\.txt 2, but the checkpoint was trained with 3,804"):
        read_official_tags(tmp_path / "s.txt", tmp_path / "a.txt", 3804)
    with pytest.raises(TagError, match="cannot be read as tags"):
        read_official_tags(tmp_path / "none.txt", tmp_path / "a.txt", 6)


# --- the command ---


def command(files: dict[str, Path], out: Path, *options: str) -> int:
    arguments = ["tmcr", "import", str(files["checkpoint"]), "--semantic-tags", str(files["semantic"])]
    arguments += ["--attribute-tags", str(files["attribute"]), "--image-text", str(files["image_text"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*arguments, "--out", str(out), "--device", "cpu", *options])
        try:
            run()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def test_the_command_leaves_a_model_that_says_where_it_comes_from(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert command(files, out, "--copy-encoder") == 0
    said = capsys.readouterr().out
    assert "5 semantic and 7 attribute tags" in said
    assert "warning" in said  # random statistics fit no tags
    assert "never test it on ava:official" in said
    model = load_model(out)
    assert model.training["data"] == "ava:tanet"
    assert model.image_text.source == "image_text"
    assert len(model.clusters.centroids) == 0
    assert model.text.shape == (TAGS, 12)
    expected = text_matrix(load_image_text_encoder(str(files["image_text"])), SEMANTIC + ATTRIBUTE)
    torch.testing.assert_close(model.text, expected)
    card = (out / "README.md").read_text()
    assert "ava:tanet" in card
    assert "never test it on `ava:official`" in card


def test_mistakes_on_the_command_line_are_one_line_and_exit_code_2(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    for out, options, says in (
        (tmp_path / "taken", (), "is no model folder"),
        (tmp_path / "m", ("--reference", str(tmp_path / "nothing.jpg")), "fewer than two"),
        (tmp_path / "m", ("--reference", "csv:nothing.csv"), "no such ratings file"),
    ):
        assert command(files, out, *options) == 2
        error = capsys.readouterr().err.strip()
        assert says in error
        assert len(error.splitlines()) == 1
    torch.save(nn.Linear(2, 2), files["checkpoint"])
    assert command(files, tmp_path / "m") == 2
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


def test_reference_photos_may_come_from_a_rated_set_and_give_kinds(files: dict[str, Path], tmp_path: Path) -> None:
    rows = ["file,mean"]
    for number in range(45):
        photo(tmp_path / "set" / f"{number}.jpg", number)
        rows.append(f"{number}.jpg,{1 + number / 10}")
    (tmp_path / "set" / "ratings.csv").write_text("\n".join(rows))
    out = tmp_path / "model"
    assert command(files, out, "--reference", f"csv:{tmp_path / 'set' / 'ratings.csv'}") == 0
    model = load_model(out)
    assert model.clusters.quantiles.shape == (1, 101)  # 36 training photos: one kind
    assert "36 reference photos" in model.training["reference"]
    assert all(low <= high for low, high in itertools.pairwise(model.clusters.quantiles[0]))


def test_errors_of_the_importer_are_the_users(files: dict[str, Path]) -> None:
    tensors = official_tensors()
    del tensors["AL_Fea_shift.1.running_var"]
    torch.save(tensors, files["checkpoint"])
    with pytest.raises(TmcrError, match=r"lacks the tensor 'AL_Fea_shift\.1\.running_var'"):
        imported(files)


def test_without_reference_photos_everything_but_kind_and_percentile_is_said(
    files: dict[str, Path], tmp_path: Path
) -> None:
    photo(tmp_path / "a.jpg", 1)
    assert command(files, tmp_path / "model", "--copy-encoder") == 0
    verdict = load(tmp_path / "model", device="cpu").assess(tmp_path / "a.jpg")
    assert verdict.score is not None
    assert (verdict.percentile, verdict.cluster) == (None, None)
    assert len(verdict.reasons) > 0
    parts = (verdict.semantic_contribution, verdict.attribute_contribution, verdict.encoder_contribution)
    assert sum(part or 0 for part in parts) == pytest.approx(verdict.score - (verdict.reference_score or 0), abs=1e-4)
