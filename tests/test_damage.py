"""Damage does what its name says, and more of it the stronger it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tmcr.damage import ALTERATIONS, KINDS, MILD, STRONG


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("china.jpg")).resize((320, 240))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def saturation(image: Image.Image) -> float:
    return float(np.ptp(pixels(image), axis=2).mean())


def detail(image: Image.Image) -> float:
    return float(np.abs(np.diff(pixels(image).mean(2), axis=1)).mean())


def corners(image: Image.Image) -> float:
    p = pixels(image)
    return float(p[:20, :20].mean() / p[100:140, 140:180].mean())


# What is measured, and whether the change raises or lowers it.
EXPECTED: dict[str, tuple[Callable[[Image.Image], float], int]] = {
    "blurred": (detail, -1),
    "motion blurred": (detail, -1),
    "noisy": (detail, 1),
    "underexposed": (lambda image: float(pixels(image).mean()), -1),
    "overexposed": (lambda image: float(pixels(image).mean()), 1),
    "washed_out": (lambda image: float(pixels(image).std()), -1),
    "contrasty": (lambda image: float(pixels(image).std()), 1),
    "desaturated": (saturation, -1),
    "oversaturated": (saturation, 1),
    "warmed": (lambda image: float((pixels(image)[..., 0] - pixels(image)[..., 2]).mean()), 1),
    "cooled": (lambda image: float((pixels(image)[..., 0] - pixels(image)[..., 2]).mean()), -1),
    "greened": (lambda image: float((2 * pixels(image)[..., 1] - pixels(image)[..., ::2].sum(2)).mean()), 1),
    "vignetted": (corners, -1),
    "tilted": (lambda image: image.width, -1),
    "badly_cropped": (lambda image: image.width, -1),
    "tightly cropped": (lambda image: image.width, -1),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_change_goes_its_way_and_further_when_stronger(kind: str, photo: Image.Image) -> None:
    change, (measure, sign) = (KINDS | ALTERATIONS)[kind], EXPECTED[kind]
    values = [sign * measure(copy) for copy in (photo, change(photo, MILD), change(photo, STRONG))]
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("kind", [*KINDS, *ALTERATIONS])
def test_the_result_is_a_photo_and_always_the_same(kind: str, photo: Image.Image) -> None:
    change = (KINDS | ALTERATIONS)[kind]
    once, again = change(photo, STRONG), change(photo, STRONG)
    assert once.mode == "RGB"
    assert min(once.size) > 50
    assert once.tobytes() == again.tobytes()


def test_compression_makes_blocks(photo: Image.Image) -> None:
    steps = np.abs(np.diff(pixels(KINDS["compressed"](photo, STRONG)).mean(2), axis=1)).mean(0)
    at_borders = steps[7::8].mean()
    inside = np.delete(steps, np.arange(7, len(steps), 8)).mean()
    assert at_borders > 2 * inside


@pytest.mark.parametrize("kind", [*KINDS, *ALTERATIONS])
def test_tiny_photos_survive(kind: str) -> None:
    (KINDS | ALTERATIONS)[kind](Image.new("RGB", (5, 4), (90, 120, 200)), STRONG)
