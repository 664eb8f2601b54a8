"""Controlled damage to photos, for the demo and for checking that a model ranks the better copy higher.

Every kind takes an RGB image and a strength in 0..1 and returns a new image; nothing is random but the
noise, whose seed is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

MILD, STRONG = 0.35, 1.0


def blurred(image: Image.Image, strength: float) -> Image.Image:
    """Out of focus: Gaussian blur, radius up to 1.6 % of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(0.016 * strength * max(image.size)))


def underexposed(image: Image.Image, strength: float) -> Image.Image:
    """Too dark by up to 2.5 stops."""
    return _exposed(image, -2.5 * strength)


def overexposed(image: Image.Image, strength: float) -> Image.Image:
    """Too bright by up to 2 stops, highlights clipped."""
    return _exposed(image, 2.0 * strength)


def noisy(image: Image.Image, strength: float) -> Image.Image:
    """Gaussian sensor noise, standard deviation up to 45 of 255."""
    pixels = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 45 * strength, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def tilted(image: Image.Image, strength: float) -> Image.Image:
    """Horizon off by up to 14 degrees, cropped so that no empty corner shows."""
    degrees = 14 * strength
    width, height = image.size
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    scale = 1 / max(cosine + sine * height / width, cosine + sine * width / height)
    w, h = int(width * scale), int(height * scale)
    left, top = (width - w) // 2, (height - h) // 2
    return turned.crop((left, top, left + w, top + h))


def badly_cropped(image: Image.Image, strength: float) -> Image.Image:
    """Only a corner is left: down to 45 % of each side."""
    keep = 1 - 0.55 * strength
    return image.crop((0, 0, max(1, int(image.width * keep)), max(1, int(image.height * keep))))


def washed_out(image: Image.Image, strength: float) -> Image.Image:
    """Low contrast, lifted blacks, pale colors."""
    flat = ImageEnhance.Contrast(ImageEnhance.Color(image).enhance(1 - 0.75 * strength)).enhance(1 - 0.7 * strength)
    return Image.blend(flat, Image.new("RGB", image.size, (200, 200, 200)), 0.3 * strength)


def compressed(image: Image.Image, strength: float) -> Image.Image:
    """JPEG blocks, quality down to 4."""
    import io

    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=max(4, int(40 * (1 - strength)) + 4))
    return Image.open(buffer).convert("RGB")


KINDS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "blurred": blurred,
    "underexposed": underexposed,
    "overexposed": overexposed,
    "noisy": noisy,
    "tilted": tilted,
    "badly_cropped": badly_cropped,
    "washed_out": washed_out,
    "compressed": compressed,
}


def motion_blurred(image: Image.Image, strength: float) -> Image.Image:
    """Camera shake: every pixel drawn out sideways over up to 4 % of the width."""
    pixels = np.asarray(image, dtype=np.float32)
    reach = max(1, round(0.02 * strength * image.width))
    padded = np.pad(pixels, ((0, 0), (reach, reach), (0, 0)), mode="edge")
    total = np.cumsum(np.pad(padded, ((0, 0), (1, 0), (0, 0))), axis=1)
    length = 2 * reach + 1
    return Image.fromarray(((total[:, length:] - total[:, :-length]) / length + 0.5).astype(np.uint8))


def contrasty(image: Image.Image, strength: float) -> Image.Image:
    """Contrast up to doubled."""
    return ImageEnhance.Contrast(image).enhance(1 + strength)


def desaturated(image: Image.Image, strength: float) -> Image.Image:
    """Colors taken away, all of them at strength 1."""
    return ImageEnhance.Color(image).enhance(1 - strength)


def oversaturated(image: Image.Image, strength: float) -> Image.Image:
    """Colors up to 2.2 times as strong."""
    return ImageEnhance.Color(image).enhance(1 + 1.2 * strength)


def warmed(image: Image.Image, strength: float) -> Image.Image:
    """A warm cast: more red, less blue."""
    return _cast(image, (1 + 0.2 * strength, 1.0, 1 - 0.25 * strength))


def cooled(image: Image.Image, strength: float) -> Image.Image:
    """A cool cast: less red, more blue."""
    return _cast(image, (1 - 0.2 * strength, 1.0, 1 + 0.25 * strength))


def greened(image: Image.Image, strength: float) -> Image.Image:
    """A green cast, as of fluorescent lamps."""
    return _cast(image, (1 - 0.1 * strength, 1 + 0.15 * strength, 1 - 0.1 * strength))


def vignetted(image: Image.Image, strength: float) -> Image.Image:
    """Corners darkened, to 20 % at strength 1."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) ** 2 for side in (image.height, image.width))
    falloff = 1 - 0.8 * strength * ((y[:, None] + x[None, :]) / 2) ** 1.2
    return Image.fromarray((np.asarray(image, dtype=np.float32) * falloff[..., None] + 0.5).astype(np.uint8))


def tightly_cropped(image: Image.Image, strength: float) -> Image.Image:
    """Only the centre is left: down to 50 % of each side."""
    keep = 1 - 0.5 * strength
    width, height = max(1, int(image.width * keep)), max(1, int(image.height * keep))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


# Changes of looks that are not always for the worse; they check that attribute tags follow what was changed.
ALTERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "motion blurred": motion_blurred,
    "contrasty": contrasty,
    "desaturated": desaturated,
    "oversaturated": oversaturated,
    "warmed": warmed,
    "cooled": cooled,
    "greened": greened,
    "vignetted": vignetted,
    "tightly cropped": tightly_cropped,
}


def write_demo_photos(folder: Path) -> list[Path]:
    """The two sample photos of scikit-learn and their strongly damaged copies, as JPEG files."""
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True, exist_ok=True)
    samples = load_sample_images()
    paths = []
    for name, pixels in zip(samples.filenames, samples.images, strict=True):
        stem = Path(name).stem
        original = Image.fromarray(pixels)
        copies = {"original": original} | {kind: damage(original, STRONG) for kind, damage in KINDS.items()}
        for kind, image in copies.items():
            path = folder / f"{stem}-{kind.replace('_', '-')}.jpg"
            image.save(path, quality=92)
            paths.append(path)
    return paths


def _cast(image: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32) * np.array(gains, dtype=np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _exposed(image: Image.Image, stops: float) -> Image.Image:
    linear = (np.asarray(image, dtype=np.float32) / 255) ** 2.2 * 2.0**stops
    return Image.fromarray((np.clip(linear, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8))
