"""Encoders against transformers' own code, through the path that a Hub id takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VISION_KINDS
from torch.nn.functional import normalize

from tmcr.encoders import (
    PixelConvolution,
    image_encoder_from_config,
    load_image_encoder,
    load_image_text_encoder,
    resolve_source,
)
from tmcr.errors import ModelError, TagError
from tmcr.modelfolder import STARTER

TEXTS = ["a photo of a cat", "golden hour", "light"]
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def pooled(output: object) -> torch.Tensor:
    """What `get_image_features` gives: a tensor, or since transformers 5 an output with a pooled tensor."""
    return output if isinstance(output, torch.Tensor) else output.pooler_output  # type: ignore[attr-defined]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_embeddings_are_those_of_transformers(activation: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    folder = tiny_models.clip(tmp_path / "clip", activation=activation)
    theirs = CLIPModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    encoder = load_image_text_encoder(str(folder))
    with torch.no_grad():
        images = normalize(pooled(theirs.get_image_features(pixel_values=PIXELS)), dim=1)
        arguments = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        texts = normalize(pooled(theirs.get_text_features(**arguments)), dim=1)
        logits = theirs(pixel_values=PIXELS, **arguments).logits_per_image
    torch.testing.assert_close(encoder.encode_images(PIXELS), images)
    torch.testing.assert_close(encoder.encode_texts(TEXTS), texts)
    ours = encoder.logit_scale * encoder.encode_images(PIXELS) @ encoder.encode_texts(TEXTS).T
    torch.testing.assert_close(ours, logits)
    assert encoder.dim == 12


def test_quick_gelu_is_not_gelu(tmp_path: Path) -> None:
    quick = load_image_text_encoder(str(tiny_models.clip(tmp_path / "quick", activation="quick_gelu")))
    plain = load_image_text_encoder(str(tiny_models.clip(tmp_path / "plain", activation="gelu")))
    assert (quick.encode_images(PIXELS) - plain.encode_images(PIXELS)).abs().max() > 1e-4


def test_siglip_embeddings_are_those_of_transformers_with_texts_padded_to_full_length(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, SiglipModel

    folder = tiny_models.siglip(tmp_path / "siglip")
    theirs = SiglipModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXTS, padding="max_length", max_length=12, return_tensors="pt")
    encoder = load_image_text_encoder(str(folder))
    with torch.no_grad():
        images = normalize(pooled(theirs.get_image_features(pixel_values=PIXELS)), dim=1)
        texts = normalize(pooled(theirs.get_text_features(input_ids=tokens["input_ids"])), dim=1)
    torch.testing.assert_close(encoder.encode_images(PIXELS), images)
    torch.testing.assert_close(encoder.encode_texts(TEXTS), texts)


def test_dual_encoder_embeddings_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, VisionTextDualEncoderModel

    folder = tiny_models.dual(tmp_path / "dual")
    theirs = VisionTextDualEncoderModel.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    encoder = load_image_text_encoder(str(folder))
    with torch.no_grad():
        images = normalize(pooled(theirs.get_image_features(pixel_values=PIXELS)), dim=1)
        texts = normalize(
            pooled(theirs.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])),
            dim=1,
        )
    torch.testing.assert_close(encoder.encode_images(PIXELS), images)
    torch.testing.assert_close(encoder.encode_texts(TEXTS), texts)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dual"])
def test_a_text_is_embedded_the_same_alone_and_in_company(kind: str, tmp_path: Path) -> None:
    encoder = load_image_text_encoder(str(getattr(tiny_models, kind)(tmp_path / kind)))
    together = encoder.encode_texts(TEXTS)
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(encoder.encode_texts([text])[0], together[row], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


def test_a_text_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    encoder = load_image_text_encoder(str(tiny_models.clip(tmp_path / "clip")))
    with pytest.raises(TagError, match="is too long"):
        encoder.encode_texts(["cat", "photo of a " * 5])


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_image_features_are_the_pooled_ones_of_transformers(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tiny_models.vision(kind, tmp_path / kind)
    encoder = load_image_encoder(str(folder)).eval()
    theirs = AutoModel.from_pretrained(folder).eval()
    side = encoder.preprocess.size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        outputs = getattr(theirs, "vision_model", theirs)(pixel_values=pixels)
        expected = outputs.last_hidden_state[:, 0] if kind == "vit" else outputs.pooler_output.flatten(1)
        found = encoder(pixels)
    assert found.shape == (2, encoder.width)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_an_image_encoder_is_rebuilt_from_plain_values(kind: str, tmp_path: Path) -> None:
    encoder = load_image_encoder(str(tiny_models.vision(kind, tmp_path / kind))).eval()
    twin = image_encoder_from_config(json.loads(json.dumps(encoder.config))).eval()
    twin.load_state_dict(encoder.state_dict())
    side = encoder.preprocess.size
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(twin(pixels), encoder(pixels))
    assert twin.preprocess == encoder.preprocess
    assert twin.width == encoder.width


def test_a_mirrored_encoder_takes_the_mean_of_the_photo_and_its_mirror_image(tmp_path: Path) -> None:
    image = load_image_encoder(str(tiny_models.vision("resnet", tmp_path / "resnet"))).eval()
    image_text = load_image_text_encoder(str(tiny_models.clip(tmp_path / "clip")))
    with torch.no_grad():
        plain, flipped = image(PIXELS), image(PIXELS.flip(3))
        before = image_text.encode_images(PIXELS)
        for encoder in (image, image_text):
            encoder.preprocess = replace(encoder.preprocess, mirrored=True)
        torch.testing.assert_close(image(PIXELS), (plain + flipped) / 2)
        torch.testing.assert_close(image(PIXELS), image(PIXELS.flip(3)))
        assert not torch.allclose(plain, flipped, atol=1e-5)
        torch.testing.assert_close(image_text.encode_images(PIXELS), image_text.encode_images(PIXELS.flip(3)))
        assert not torch.allclose(image_text.encode_images(PIXELS), before, atol=1e-5)


@pytest.mark.parametrize("kind", VISION_KINDS)
def test_pixels_are_read_in_fp32_under_bf16_autocast_and_the_rest_in_bf16(kind: str, tmp_path: Path) -> None:
    encoder = load_image_encoder(str(tiny_models.vision(kind, tmp_path / kind))).eval()
    side = encoder.preprocess.size
    photos = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    first = next(module for module in encoder.modules() if isinstance(module, PixelConvolution))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    first.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = encoder(photos)
    with torch.no_grad():
        exact = encoder(photos)
    (pixels, under_autocast), (_, without) = seen
    assert under_autocast.dtype == pixels.dtype == torch.float32
    torch.testing.assert_close(under_autocast, without, atol=0, rtol=0)
    assert not torch.equal(rounded.float(), exact)


def test_an_image_text_encoder_reads_pixels_in_fp32_too(tmp_path: Path) -> None:
    tower = load_image_text_encoder(str(tiny_models.clip(tmp_path / "clip"))).image_tower
    assert sum(isinstance(module, PixelConvolution) for module in tower.modules()) == 1


def test_random_weights_follow_the_seed_and_are_not_the_pretrained_ones(tmp_path: Path) -> None:
    folder = str(tiny_models.vision("resnet", tmp_path / "resnet"))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(
            load_image_encoder(folder, pretrained=False).state_dict()["tower.embedder.embedder.convolution.weight"]
        )
    pretrained = load_image_encoder(folder).state_dict()["tower.embedder.embedder.convolution.weight"]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], pretrained)


def test_a_hub_id_is_read_from_the_cache_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny-clip"
    tiny_models.clip(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    here = load_image_text_encoder(str(repository / "snapshots" / revision))
    for arguments in ({}, {"revision": revision}):
        encoder = load_image_text_encoder("someone/tiny-clip", offline=True, **arguments)
        torch.testing.assert_close(encoder.encode_images(PIXELS), here.encode_images(PIXELS))
        assert encoder.fingerprint == here.fingerprint
        assert encoder.name == "someone/tiny-clip"
    with pytest.raises(ModelError, match="someone/other-clip cannot be had") as caught:
        load_image_text_encoder("someone/other-clip", offline=True)
    assert "local folder" in str(caught.value)
    assert "HF_ENDPOINT" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_follows_weights_and_tokenizer_but_not_the_place(tmp_path: Path) -> None:
    first = tiny_models.clip(tmp_path / "first")
    shutil.copytree(first, tmp_path / "second")
    print_of = {name: load_image_text_encoder(str(tmp_path / name)).fingerprint for name in ("first", "second")}
    assert print_of["first"] == print_of["second"]
    weights = load_file(first / "model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, first / "model.safetensors", metadata={"format": "pt"})
    assert load_image_text_encoder(str(first)).fingerprint != print_of["first"]


def test_what_is_no_encoder_or_is_damaged_says_so_in_one_line(tmp_path: Path) -> None:
    vit = tiny_models.vision("vit", tmp_path / "vit")
    with pytest.raises(ModelError, match="without a text tower"):
        load_image_text_encoder(str(vit))
    clip = tiny_models.clip(tmp_path / "clip")
    weights = load_file(clip / "model.safetensors")
    lost = {key: value for key, value in weights.items() if "visual_projection" not in key}
    save_file(lost, clip / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights lack visual_projection\.weight"):
        load_image_text_encoder(str(clip))
    (clip / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        load_image_text_encoder(str(clip))
    assert "\n" not in str(caught.value)
    (clip / "model.safetensors").rename(clip / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no safetensors weights"):
        load_image_text_encoder(str(clip))
    (clip / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json"):
        load_image_text_encoder(str(clip))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_image_encoder(str(tmp_path / "empty"))


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "not-an-id", "~/nothing"])
def test_folders_that_are_not_there_are_never_looked_for_on_the_hub(source: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_source(source)


def test_the_shipped_encoder_tells_photos_and_texts_apart() -> None:
    encoder = load_image_text_encoder(str(STARTER / "image_text"))
    a, b, c = encoder.encode_texts(["a red car", "a red automobile", "snow on a mountain"])
    assert float(a @ b) > float(a @ c)
