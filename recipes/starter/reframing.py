"""Views of one photo that differ in nothing but where the frame lies, and small photos made as sharp as larger ones.

A part of a small photo is unsharp, and its JPEG blocks and the grid of its pixels are enlarged and turned with it:
a tower would look at that, and not at what is in the photo. So all views are resampled alike and from as many
pixels, and the same sharpening, noise and compression, drawn anew for each set of views, hide what is left.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from student import INPUT

SIDES = 240, 500  # pixels, the longer side of a photo when its pixels are damaged
LEVEL = 0.7  # degrees, the standard deviation of how level photos are
REDUCED, SMOOTHED = (90, 170), (0.3, 0.9)  # pixels: the longer side of a photo to be reframed; its blur's radius
SHARPENED, QUALITY, NOISE = 150, (50, 98), 6  # at most, per cent; of JPEG; at most, of 255


@dataclass(frozen=True)
class Frame:
    """The part of a photo with `share` of its sides about `centre` (0..1), turned by `degrees`."""

    photo: Image.Image
    share: float
    centre: tuple[float, ...] = (0.5, 0.5)
    degrees: float = 0.0

    def view(self) -> Image.Image:
        """Squashed to 2 INPUT × 2 INPUT."""
        photo, side = self.photo, 2 * INPUT
        cosine, sine = np.cos(np.radians(self.degrees)), np.sin(np.radians(self.degrees))
        across, down = self.share * photo.width / side, self.share * photo.height / side  # photo pixels for a view's
        x, y = self.centre[0] * photo.width, self.centre[1] * photo.height
        turn = np.array([[across * cosine, -down * sine], [across * sine, down * cosine]])
        start = np.array([x, y]) - turn @ [side / 2, side / 2]
        data = (turn[0, 0], turn[0, 1], start[0], turn[1, 0], turn[1, 1], start[1])
        return photo.transform((side, side), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)


def scaled(photo: Image.Image, scale: float) -> Image.Image:
    size = max(8, round(photo.width * scale)), max(8, round(photo.height * scale))
    return photo.resize(size, Image.Resampling.BICUBIC)


def sharpening(rng: np.random.Generator) -> ImageFilter.UnsharpMask:
    return ImageFilter.UnsharpMask(2, int(rng.uniform(0, SHARPENED)), 0)


def enlarged(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """As large and as sharp as photos of users, so that damage to its pixels comes out as fine."""
    sharpened = sharpening(rng)
    return scaled(photo, rng.uniform(*SIDES) / max(photo.size)).filter(sharpened)


def softened(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Reduced and blurred until the grid and the blocks of the file are gone."""
    photo = scaled(photo, min(1.0, rng.uniform(*REDUCED) / max(photo.size)))
    return photo.filter(ImageFilter.GaussianBlur(rng.uniform(*SMOOTHED)))


def tilted_frames(photo: Image.Image, degrees: float, rng: np.random.Generator) -> tuple[Frame, Frame]:
    """A photo about as level as photos are, and turned by `degrees` more."""
    level = float(np.clip(rng.normal(0, LEVEL), -2 * LEVEL, 2 * LEVEL))
    angle = np.radians(degrees + 2 * LEVEL)
    share = 1 / (np.cos(angle) + np.sin(angle) * max(photo.size) / min(photo.size))  # no empty corner shows
    return Frame(photo, share, degrees=level), Frame(photo, share, degrees=level + degrees)


def cropped_frames(
    photo: Image.Image,
    share: float,
    centre: tuple[float, ...],
    whole: float = 1.0,
    whole_centre: tuple[float, ...] = (0.5, 0.5),
) -> tuple[Frame, Frame]:
    """All of a photo, or the share `whole` of it, and a smaller part, from as many pixels."""
    return Frame(scaled(photo, share / whole), whole, whole_centre), Frame(photo, share, centre)


def seen_alike(frames: Sequence[Frame], rng: np.random.Generator) -> list[Image.Image]:
    """What the frames show, after the same sharpening, noise and compression."""
    sharpened = sharpening(rng)
    quality, noise = int(rng.uniform(*QUALITY)), rng.uniform(0, NOISE)
    views = []
    for frame in frames:
        pixels = np.asarray(frame.view().filter(sharpened), dtype=np.float32)
        pixels = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=quality)
        views.append(Image.open(buffer).convert("RGB"))
    return views
