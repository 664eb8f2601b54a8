"""How a photo looks, as numbers that need no label: edits of known strength, and measurements of the pixels.

Both work on batches of RGB pixels (B, 3, H, W) in 0..1 at the encoder's own input size, so that what the encoder
is taught is what it can see. Random edits depend on the generator given and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Strengths are about 1 where an edit is plain to see; an axis with two signs is an edit that goes both ways.
EDITS = (
    "defocus",
    "motion",
    "noise",
    "exposure",
    "contrast",
    "saturation",
    "warmth",
    "tint",
    "vignette",
    "blocks",
    "oversharpened",
    "tilt",
    "tightness",
    "cut off",
)
CROP_AXES = 3  # the last edits are matters of the crop, not of the pixels
MEASURES = (
    "brightness",
    "spread",
    "shadows",
    "highlights",
    "colour",
    "colourfulness",
    "measured warmth",
    "measured tint",
    "sharpness",
    "edges",
    "fine noise",
    "sharp centre",
    "dark rim",
    "bright top",
    "symmetry",
    "thirds",
    "reds",
    "yellows",
    "greens",
    "blues",
    "purples",
    "hue variety",
    "horizontals",
    "empty space",
    "bold shapes",
)
AXES = EDITS + MEASURES
EDITED_SHARE = 0.4  # of the crops; the others keep the colours they have, but for a little jitter
_LUMA = torch.tensor([0.2126, 0.7152, 0.0722]).view(1, 3, 1, 1)


# ---- edits --------------------------------------------------------------------------------------------------


def apply_edits(pixels: Tensor, rng: np.random.Generator, share: float = EDITED_SHARE) -> tuple[Tensor, Tensor]:
    """Edit a random share of the batch, some photos twice; returns pixels and strengths (B, len(EDITS)).

    The axes that are matters of the crop stay zero here.
    """
    strengths = torch.zeros(len(pixels), len(EDITS))
    pixels = pixels.clone()
    names = list(_EDITORS)
    for _ in range(2):
        chance = share if not strengths.any() else EDITED_SHARE / 3
        chosen = np.where(rng.random(len(pixels)) < chance, rng.integers(0, len(names), len(pixels)), -1)
        for number, name in enumerate(names):
            rows = np.flatnonzero(chosen == number)
            if len(rows) == 0:
                continue
            low, high = _RANGES[name]
            strength = rng.uniform(low, high, len(rows))
            if name in _EMPHASIS_ON_WEAK:
                strength = high * (strength / high) ** 2
            values = torch.from_numpy(strength).float()
            index = torch.from_numpy(rows)
            pixels[index] = _EDITORS[name](pixels[index], values, rng).clamp_(0, 1)
            strengths[index, EDITS.index(name)] += values
    return pixels, strengths


def _column(strength: Tensor) -> Tensor:
    return strength.view(-1, 1, 1, 1)


def _blurred(pixels: Tensor, sigma: Tensor) -> Tensor:
    reach = torch.arange(-8, 9).float()
    kernel = torch.exp(-0.5 * (reach / sigma.clamp_min(0.05)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = functional.pad(pixels.reshape(1, -1, *pixels.shape[2:]), (8, 8, 8, 8), mode="reflect")
    flat = functional.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    flat = functional.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return flat.view_as(pixels)


def _defocus(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    return _blurred(pixels, 0.3 + 2.2 * strength)


def _motion(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    angle = torch.from_numpy(rng.uniform(0, math.pi, len(pixels))).float()
    along = torch.linspace(-0.5, 0.5, 9)
    length = (2 + 9 * strength) / pixels.shape[3] * 2  # in the coordinates of the grid, where the frame is 2 wide
    total = torch.zeros_like(pixels)
    for step in along:
        theta = torch.zeros(len(pixels), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1
        theta[:, 0, 2], theta[:, 1, 2] = step * length * angle.cos(), step * length * angle.sin()
        grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
        total += functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return total / len(along)


def _noise(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    grain = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    coarse = torch.from_numpy((rng.random(len(pixels)) < 0.3).astype(np.float32))
    grain = torch.where(_column(coarse) > 0, 2.2 * _blurred(grain, torch.full((len(pixels),), 0.7)), grain)
    return pixels + 0.07 * _column(strength) * grain


def _exposure(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    return (pixels.clamp_min(1e-4) ** 2.2 * 2 ** (1.6 * _column(strength))).clamp(0, 1) ** (1 / 2.2)


def _contrast(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    centre = pixels.mean((1, 2, 3), keepdim=True)
    lift = torch.from_numpy(rng.uniform(0, 0.25, (len(pixels), 1, 1, 1))).float() * (-_column(strength)).clamp_min(0)
    changed = centre + (pixels - centre) * torch.exp(0.9 * _column(strength))
    return changed * (1 - lift) + 0.75 * lift


def _saturation(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    grey = (pixels * _LUMA).sum(1, keepdim=True)
    strength = _column(strength)
    return grey + (pixels - grey) * torch.where(strength < 0, 1 + strength, 1 + 1.2 * strength).clamp_min(0)


def _warmth(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    strength = strength.view(-1, 1)
    return pixels * torch.stack([1 + 0.22 * strength, 1 + 0 * strength, 1 - 0.28 * strength], 1).unsqueeze(-1)


def _tint(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    strength = strength.view(-1, 1)
    return pixels * torch.stack([1 - 0.12 * strength, 1 + 0.15 * strength, 1 - 0.12 * strength], 1).unsqueeze(-1)


def _vignette(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    line = torch.linspace(-1, 1, pixels.shape[2])
    distance = (line[:, None] ** 2 + line[None, :] ** 2) / 2
    return pixels * (1 - 0.85 * _column(strength) * distance**1.2)


def _blocks(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    """JPEG's quantisation of 8 × 8 blocks, on the photo or on a copy twice as large, as of a larger photo."""
    scale = int(rng.integers(1, 3))
    side = pixels.shape[2]
    large = functional.interpolate(pixels, scale_factor=float(scale), mode="bicubic") if scale > 1 else pixels
    ycc = torch.einsum("rc,bchw->brhw", _TO_YCC, large)
    ycc = torch.cat([ycc[:, :1], functional.interpolate(functional.avg_pool2d(ycc[:, 1:], 2), scale_factor=2.0)], 1)
    n = side * scale // 8
    blocks = ycc.view(len(pixels), 3, n, 8, n, 8).transpose(3, 4).reshape(len(pixels), -1, 64)
    table = (strength * 12).exp2().clamp(2, 4096).sqrt().view(-1, 1, 1) / 255 * _STEEPER
    frequencies = ((blocks @ _DCT_2D.T) / table).round() * table
    blocks = (frequencies @ _DCT_2D).view(len(pixels), 3, n, n, 8, 8).transpose(3, 4).reshape(ycc.shape)
    rgb = torch.einsum("rc,bchw->brhw", _FROM_YCC, blocks).clamp(0, 1)
    return functional.interpolate(rgb, side, mode="area") if scale > 1 else rgb


def _oversharpened(pixels: Tensor, strength: Tensor, rng: np.random.Generator) -> Tensor:
    soft = _blurred(pixels, torch.full((len(pixels),), 1.2))
    return pixels + 2.5 * _column(strength) * (pixels - soft)


_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
_FROM_YCC = torch.linalg.inv(_TO_YCC)
_rows = torch.arange(8).float()
_DCT = torch.cos((2 * _rows[None, :] + 1) * _rows[:, None] * math.pi / 16) * math.sqrt(2 / 8)
_DCT[0] /= math.sqrt(2)
_DCT_2D = torch.kron(_DCT, _DCT)
_STEEPER = (1 + (_rows[:, None] + _rows[None, :]) * 0.35).reshape(64)  # high frequencies are cut harder

_Editor = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
_EDITORS: dict[str, _Editor] = {
    "defocus": _defocus,
    "motion": _motion,
    "noise": _noise,
    "exposure": _exposure,
    "contrast": _contrast,
    "saturation": _saturation,
    "warmth": _warmth,
    "tint": _tint,
    "vignette": _vignette,
    "blocks": _blocks,
    "oversharpened": _oversharpened,
}
_RANGES = {
    "defocus": (0.0, 1.2),
    "motion": (0.0, 1.2),
    "noise": (0.0, 1.5),
    "exposure": (-1.6, 1.3),
    "contrast": (-1.5, 0.8),
    "saturation": (-1.0, 1.2),
    "warmth": (-1.2, 1.2),
    "tint": (-1.2, 1.2),
    "vignette": (0.0, 1.1),
    "blocks": (0.1, 1.1),
    "oversharpened": (0.0, 1.0),
}
_EMPHASIS_ON_WEAK = {"defocus", "noise", "motion"}  # the weak ones are the hard ones


# ---- crops --------------------------------------------------------------------------------------------------


def crop_strengths(boxes: np.ndarray, degrees: np.ndarray) -> Tensor:
    """Tilt, tightness and how far off the centre a crop lies: (B, 3), for boxes (B, 4) of the whole photo."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    tightness = -np.log2(np.maximum(width * height, 0.05)) / 2
    off = np.hypot(boxes[:, 0] + boxes[:, 2] - 1, boxes[:, 1] + boxes[:, 3] - 1) * 1.5
    return torch.from_numpy(np.stack([np.abs(degrees) / 10, tightness, off], 1).astype(np.float32))


# ---- measurements -------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(pixels: Tensor) -> Tensor:
    """The measurements (B, len(MEASURES)) in their own units."""
    grey = (pixels * _LUMA).sum(1)
    small = functional.avg_pool2d(pixels, 2)
    red, green, blue = small.unbind(1)
    grey_small = functional.avg_pool2d(grey[:, None], 2)[:, 0]
    highest, lowest = small.amax(1), small.amin(1)
    chroma = highest - lowest
    area = (1, 2)

    opponent_1, opponent_2 = red - green, (red + green) / 2 - blue
    colourfulness = torch.hypot(opponent_1.std(area), opponent_2.std(area)) + 0.3 * torch.hypot(
        opponent_1.mean(area), opponent_2.mean(area)
    )
    across = grey[:, :, 1:] - grey[:, :, :-1]
    down = grey[:, 1:] - grey[:, :-1]
    across, down = across[:, 1:], down[:, :, 1:]
    gradient = torch.hypot(across, down)
    detail = 4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    side = detail.shape[1]
    quarter = side // 4
    centre = detail[:, quarter:-quarter, quarter:-quarter].abs().mean(area)
    tiles = functional.avg_pool2d(gradient[:, None], 9, stride=9)[:, 0]
    noise = detail[:, :-1] - detail[:, 1:]

    half = grey_small.shape[1]
    line = torch.linspace(-1, 1, half)
    rim = (torch.maximum(line.abs()[:, None], line.abs()[None, :]) > 0.75).float()
    rim_mean = (grey_small * rim).sum(area) / rim.sum()
    inner_mean = (grey_small * (1 - rim)).sum(area) / (1 - rim).sum()

    weight = functional.avg_pool2d(gradient[:, None], 3, stride=3)[:, 0]
    weight = weight / weight.sum(area, keepdim=True).clamp_min(1e-6)
    place = torch.linspace(0, 1, weight.shape[1])
    near_third = torch.exp(-((((place - 1 / 3).abs().minimum((place - 2 / 3).abs())) / 0.08) ** 2))
    thirds = (weight * near_third[:, None] * near_third[None, :]).sum(area)

    hue = torch.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue) / (2 * math.pi) % 1
    shares = []
    for low, high in ((-0.06, 0.06), (0.06, 0.2), (0.2, 0.45), (0.45, 0.7), (0.7, 0.94)):
        inside = (hue >= low % 1) | (hue < high) if low < 0 else (hue >= low) & (hue < high)
        shares.append((inside * chroma).mean(area))
    hues = torch.stack(shares, 1)
    part = (hues + 1e-4) / (hues + 1e-4).sum(1, keepdim=True)
    variety = -(part * part.log()).sum(1) * (chroma.mean(area) / 0.15).clamp_max(1)
    blocks = functional.avg_pool2d(grey_small[:, None], half // 4)

    return torch.stack(
        [
            grey.mean(area),
            grey.std(area),
            (grey < 0.08).float().mean(area),
            (grey > 0.93).float().mean(area),
            chroma.mean(area),
            colourfulness,
            (red - blue).mean(area),
            (green - (red + blue) / 2).mean(area),
            torch.log(detail.var(area) + 1e-5),
            torch.log(gradient.mean(area) + 1e-3),
            torch.log(noise.abs().mean(area) + 1e-3),
            torch.log((centre + 2e-3) / (detail.abs().mean(area) + 2e-3)),
            inner_mean - rim_mean,
            grey_small[:, : half // 3].mean(area) - grey_small[:, -(half // 3) :].mean(area),
            -(grey_small - grey_small.flip(2)).abs().mean(area),
            thirds,
            *hues.unbind(1),
            variety,
            torch.log((down.abs().mean(area) + 1e-3) / (across.abs().mean(area) + 1e-3)),
            (tiles < 0.015).float().mean(area),
            blocks.std((1, 2, 3)),
        ],
        dim=1,
    )
