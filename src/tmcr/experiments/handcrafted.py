"""Hand-crafted looks of a photo: what could be measured before anything was learnt.

Colour, exposure, contrast, sharpness and composition as a vector of plain numbers; with ridge regression on
top, the baseline that a learnt model has to earn its keep against.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tmcr.images import decode

Pixels = NDArray[np.floating[Any]]
SIDE = 256  # photos are measured at this longer side, so that sharpness means the same on all
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)

NAMES = (
    "colourfulness",
    "saturation mean",
    "saturation spread",
    "warmth",
    "greenness",
    "blueness of the upper third",
    "brightness",
    "contrast",
    "share in deep shadow",
    "share blown out",
    "shadows (5 % quantile)",
    "highlights (95 % quantile)",
    "entropy of brightness",
    "sharpness",
    "sharpness of the centre against the rim",
    "edge density",
    "noise",
    "detail off the thirds",
    "left–right symmetry",
    "spread of brightness between regions",
    "number of hues",
    "aspect ratio",
)


def measure_photo(path: Path) -> NDArray[np.float64]:
    """The measurements of a photo file."""
    return handcrafted_features(decode(path, target_side=SIDE))


def handcrafted_features(image: Image.Image) -> NDArray[np.float64]:
    """The measurements in `NAMES` (22,) of an upright RGB photo."""
    aspect = image.width / image.height
    scale = SIDE / max(image.size)
    size = (max(8, round(image.width * scale)), max(8, round(image.height * scale)))
    rgb = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255
    grey = rgb @ _LUMA
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    highest, lowest = rgb.max(2), rgb.min(2)
    saturation = (highest - lowest) / np.maximum(highest, 1e-3)

    # Hasler and Süsstrunk 2003: spread and distance from grey of the two opponent colours.
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    colourfulness = np.hypot(red_green.std(), yellow_blue.std()) + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean())
    shares = np.histogram(grey, bins=64, range=(0, 1))[0] / grey.size
    entropy = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()

    edges = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    detail = np.abs(ndimage.laplace(grey))
    centre = _window(detail, 0.25, 0.75)
    # Immerkær 1996: a mask that cancels edges leaves the noise.
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float32)
    noise = np.abs(ndimage.convolve(grey, mask)).mean()

    blocks = _block_means(grey, 4)
    hues = _hue_shares(rgb, saturation)
    return np.array(
        [
            colourfulness,
            saturation.mean(),
            saturation.std(),
            (red - blue).mean(),
            (green - (red + blue) / 2).mean(),
            (blue - red)[: max(1, len(blue) // 3)].mean(),
            grey.mean(),
            grey.std(),
            (grey < 0.05).mean(),
            (grey > 0.95).mean(),
            np.quantile(grey, 0.05),
            np.quantile(grey, 0.95),
            entropy,
            np.log1p(1000 * detail.var()),
            np.log((centre.mean() + 1e-3) / (detail.mean() + 1e-3)),
            (edges > 0.3).mean(),
            noise,
            _distance_from_thirds(edges),
            float(np.abs(grey - grey[:, ::-1]).mean()),
            blocks.std(),
            float((hues > 0.05).sum()),
            aspect,
        ],
        dtype=np.float64,
    )


def _window(values: Pixels, low: float, high: float) -> Pixels:
    rows, columns = values.shape
    return values[int(rows * low) : max(1, int(rows * high)), int(columns * low) : max(1, int(columns * high))]


def _block_means(values: Pixels, blocks: int) -> NDArray[np.float64]:
    return np.array(
        [part.mean() for row in np.array_split(values, blocks, 0) for part in np.array_split(row, blocks, 1)]
    )


def _hue_shares(rgb: Pixels, saturation: Pixels) -> NDArray[np.float64]:
    """Share of the photo in each of 12 hues; greyish pixels count for none."""
    opponent = np.stack([rgb[..., 0] - (rgb[..., 1] + rgb[..., 2]) / 2, np.sqrt(3) / 2 * (rgb[..., 1] - rgb[..., 2])])
    hue = (np.arctan2(opponent[1], opponent[0]) / (2 * np.pi)) % 1
    coloured = saturation > 0.2
    return np.histogram(hue[coloured], bins=12, range=(0, 1))[0] / hue.size


def _distance_from_thirds(edges: Pixels) -> float:
    """Distance of the edges' centre of gravity from the nearest crossing of the thirds, in frame units."""
    total = float(edges.sum()) + 1e-6
    rows, columns = edges.shape
    y = float((edges.sum(1) * np.linspace(0, 1, rows)).sum()) / total
    x = float((edges.sum(0) * np.linspace(0, 1, columns)).sum()) / total
    return float(np.hypot(min(abs(x - 1 / 3), abs(x - 2 / 3)), min(abs(y - 1 / 3), abs(y - 2 / 3))))
