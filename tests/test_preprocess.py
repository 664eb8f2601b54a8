"""Pixel values against transformers' own image processors, and the shapes that photos come in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hostile_photos import scene
from PIL import Image

from tmcr.encoders import pixel_values
from tmcr.errors import ModelError
from tmcr.preprocess import PreprocessSpec, official_image, official_image_text

CLIP = {
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIGLIP = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (33, 77), (32, 32), (20, 25), (301, 40)])
def test_pixel_values_equal_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.clip import image_processing_pil_clip as clip
    from transformers.models.siglip import image_processing_pil_siglip as siglip

    image = scene(*size)
    for config, module, name in (
        (CLIP, clip, "CLIPImageProcessorPil"),
        (SIGLIP, siglip, "SiglipImageProcessorPil"),
    ):
        theirs = getattr(module, name)(**config)(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(PreprocessSpec.from_transformers(config)(image), theirs, atol=2e-6)


def test_squash_keeps_the_whole_frame_crop_its_centre_letterbox_its_shape() -> None:
    thirds = Image.new("RGB", (90, 30))
    for place, colour in enumerate(["red", "lime", "blue"]):
        thirds.paste(colour, (30 * place, 0, 30 * place + 30, 30))
    plain = {"size": 30, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    squashed = PreprocessSpec(resize="squash", **plain)(thirds)
    assert [int(squashed[:, 15, x].argmax()) for x in (3, 15, 26)] == [0, 1, 2]
    cropped = PreprocessSpec(resize="crop", **plain)(thirds)
    assert [int(cropped[:, 15, x].argmax()) for x in (3, 15, 26)] == [1, 1, 1]
    boxed = PreprocessSpec(**plain | {"resize": "letterbox", "mean": (0.5, 0.5, 0.5)})(thirds)
    assert [int(boxed[:, 15, x].argmax()) for x in (3, 15, 26)] == [0, 1, 2]
    np.testing.assert_allclose(boxed[:, :8], 0, atol=0.003)  # the bars are the mean


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(8, 5000), (100_000, 8), (8, 8), (9, 64)])
def test_strips_and_specks_fit_in(resize: str, size: tuple[int, int]) -> None:
    spec = PreprocessSpec(size=24, resize=resize, resize_to=28)  # type: ignore[arg-type]
    image = Image.new("RGB", size, (10, 200, 30))
    assert spec(image).shape == (3, 24, 24)
    assert spec.random_view(image, np.random.default_rng(0)).shape == (3, 24, 24)


def test_random_views_are_crops_of_the_resized_photo() -> None:
    spec = PreprocessSpec(size=16, resize="squash", resize_to=20, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = scene(40, 40)
    whole = np.asarray(image.resize((20, 20), Image.Resampling.BICUBIC), dtype=np.float32).transpose(2, 0, 1) / 255
    crops = [whole[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    crops += [crop[:, :, ::-1] for crop in crops]
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        view = spec.random_view(image, rng)
        seen.add(int(np.argmin([np.abs(view - crop).max() for crop in crops])))
        assert min(np.abs(view - crop).max() for crop in crops) < 1e-6
    assert len(seen) > 40  # of fifty
    views = [spec.random_view(image, rng, flip=False) for _ in range(60)]
    unflipped = {int(np.argmin([np.abs(view - crop).max() for crop in crops])) for view in views}
    assert max(unflipped) < 25


def test_a_specification_survives_the_journey_through_json() -> None:
    for spec in (
        PreprocessSpec(48, "letterbox", 50, "lanczos", mirrored=True),
        official_image(224),
        official_image_text(336),
    ):
        assert PreprocessSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_transformers_configurations_are_understood() -> None:
    convnext = {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3}
    assert PreprocessSpec.from_transformers(convnext) == PreprocessSpec(224, "crop", 256)
    assert PreprocessSpec.from_transformers(convnext | {"size": {"shortest_edge": 384}}).resize == "squash"
    vit = PreprocessSpec.from_transformers(
        {"size": 224, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    )
    assert (vit.resize, vit.size, vit.interpolation) == ("squash", 224, "bilinear")
    raw = PreprocessSpec.from_transformers({"size": 8, "do_normalize": False})
    assert raw(Image.new("RGB", (8, 8), (255, 0, 51)))[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])
    with pytest.raises(ModelError, match="square"):
        PreprocessSpec.from_transformers({"size": {"height": 8, "width": 9}})


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 8, "resize_to": 7}, {"size": 8, "resize": "stretch"}])
def test_impossible_specifications_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="preprocessing"):
        PreprocessSpec(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_an_encoders_input_of_what_it_sees_is_that_of_preprocessing_to_the_last_bit(resize: str) -> None:
    spec = PreprocessSpec(24, resize, 28, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))
    images = [scene(70, 50, seed=seed) for seed in range(3)]
    seen = torch.from_numpy(np.stack([spec.pixels(image) for image in images]))
    assert seen.dtype == torch.uint8
    assert seen.shape == (3, 24, 24, 3)
    values = pixel_values(seen, spec)
    assert torch.equal(values, torch.from_numpy(np.stack([spec(image) for image in images])))
    assert values.is_contiguous(memory_format=torch.channels_last)
