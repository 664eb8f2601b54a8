"""What is done to a decoded photo before an encoder sees it, stored with the model so that it cannot drift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tmcr.errors import ModelError

Resize = Literal["squash", "crop", "letterbox"]
Interpolation = Literal["bicubic", "bilinear", "lanczos"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LONGEST_ASPECT = 16  # beyond this ratio of the sides, only the middle of a photo is looked at when it is cropped
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class PreprocessSpec:
    """Photo → pixel values.

    Attributes:
        size: side of the square that comes out.
        resize: "squash" (both sides to `resize_to`, proportions lost), "crop" (shorter side to `resize_to`,
            then the centre) or "letterbox" (longer side to `resize_to`, the rest filled with the mean color).
        resize_to: side before the centre crop; equal to `size` where nothing is cropped away on purpose.
        interpolation: how pixels are resampled.
        mean, std: for each channel, of values in 0..1.
        mirrored: the encoder's feature is its mean over a photo and the photo's mirror image, so that left and
            right change no verdict; costs a second pass.
    """

    size: int
    resize: Resize = "crop"
    resize_to: int = 0
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.resize_to == 0:
            object.__setattr__(self, "resize_to", self.size)
        if not 0 < self.size <= self.resize_to:
            raise ModelError(f"preprocessing: size {self.size} must be positive and at most resize_to {self.resize_to}")
        if self.resize not in ("squash", "crop", "letterbox") or self.interpolation not in _RESAMPLING:
            raise ModelError(f"preprocessing: unknown resize {self.resize!r} or interpolation {self.interpolation!r}")

    @property
    def target_side(self) -> int:
        """Shorter side that a decoded photo should at least have."""
        return self.resize_to

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """What is seen of an RGB image when it is scored, the centre: (size, size, 3)."""
        resized = self._resized(image)
        return np.asarray(self._crop(resized, (resized.width - self.size) // 2, (resized.height - self.size) // 2))

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Pixel values (3, size, size) of an RGB image, as for scoring."""
        return self._normalized(self.pixels(image))

    def random_view(self, image: Image.Image, rng: np.random.Generator, *, flip: bool = True) -> NDArray[np.float32]:
        """Pixel values (3, size, size) of a random crop, mirrored half of the time if `flip`, as for training."""
        resized = self._resized(image)
        left = int(rng.integers(0, resized.width - self.size + 1))
        top = int(rng.integers(0, resized.height - self.size + 1))
        crop = self._crop(resized, left, top)
        if rng.random() < 0.5 and flip:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self._normalized(np.asarray(crop))

    def with_margin(self, factor: float, *, squash: bool) -> PreprocessSpec:
        """The same, cropped from an image `factor` times as large, the whole frame squashed into it if `squash`."""
        return replace(
            self,
            resize="squash" if squash else self.resize,
            resize_to=max(self.size, round(self.size * factor)),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is rarely used is left out where it is not, so that older files read the same."""
        values = asdict(self)
        return values if self.mirrored else {key: value for key, value in values.items() if key != "mirrored"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """Inverse of `to_dict`, also after a journey through JSON."""
        return cls(**{**values, "mean": _three(values["mean"]), "std": _three(values["std"])})

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any]) -> PreprocessSpec:
        """Read a `preprocessor_config.json` of transformers (CLIP, SigLIP, ViT, Swin, ConvNext/ResNet, MobileNet).

        Raises:
            ModelError: it describes something this dataclass cannot.
        """
        size = config.get("size", 224)
        size = {"shortest_edge": size} if isinstance(size, int) and config.get("do_center_crop") else size
        size = {"height": size, "width": size} if isinstance(size, int) else dict(size)
        interpolation = {0: "bicubic", 1: "lanczos", 2: "bilinear", 3: "bicubic"}.get(config.get("resample", 3))
        normalize = config.get("do_normalize", True)
        common: dict[str, Any] = {
            "interpolation": interpolation,
            "mean": _three(config.get("image_mean", IMAGENET_MEAN)) if normalize else (0.0, 0.0, 0.0),
            "std": _three(config.get("image_std", IMAGENET_STD)) if normalize else (1.0, 1.0, 1.0),
        }
        if "shortest_edge" in size:
            side = int(size["shortest_edge"])
            crop = config.get("crop_size", side)
            crop = int(crop if isinstance(crop, int) else crop["height"])
            if "crop_pct" in config:  # ConvNext's processor, also used by ResNet: crop `side` out of side / crop_pct
                if side >= 384:
                    return cls(size=side, resize="squash", **common)
                return cls(size=side, resize="crop", resize_to=int(side / float(config["crop_pct"])), **common)
            if not config.get("do_center_crop", False):
                crop = side
            return cls(size=crop, resize="crop", resize_to=side, **common)
        if size.get("height") != size.get("width") or "height" not in size:
            raise ModelError(f"preprocessor_config.json: only square inputs are supported, not {size}")
        return cls(size=int(size["height"]), resize="squash", **common)

    def _resized(self, image: Image.Image) -> Image.Image:
        width, height, side = image.width, image.height, self.resize_to
        if self.resize == "squash":
            return self._resample(image, side, side)
        if self.resize == "crop":
            image = _within_aspect(image)
            width, height = image.size
            # As transformers does it: the longer side is cut to an integer, not rounded.
            if width <= height:
                return self._resample(image, side, max(side, int(side * height / width)))
            return self._resample(image, max(side, int(side * width / height)), side)
        scale = side / max(width, height)
        inner = self._resample(image, max(1, round(width * scale)), max(1, round(height * scale)))
        fill = tuple(round(255 * value) for value in self.mean)
        canvas = Image.new("RGB", (side, side), fill)
        canvas.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
        return canvas

    def _resample(self, image: Image.Image, width: int, height: int) -> Image.Image:
        return (
            image if image.size == (width, height) else image.resize((width, height), _RESAMPLING[self.interpolation])
        )

    def _crop(self, image: Image.Image, left: int, top: int) -> Image.Image:
        return image.crop((left, top, left + self.size, top + self.size))

    def scaling(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(3,) each: what is taken from a pixel of 0..255, and what the rest is multiplied by."""
        mean, std = 255 * np.asarray(self.mean), 255 * np.asarray(self.std)
        return mean.astype(np.float32), (1 / std).astype(np.float32)

    def _normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        mean, factor = self.scaling()
        values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
        values -= mean[:, None, None]
        values *= factor[:, None, None]
        return values


def _within_aspect(image: Image.Image) -> Image.Image:
    """The middle of a strip: enlarging a whole one of 8 × 1,000,000 pixels would fill the memory."""
    shorter = min(image.size)
    width, height = (min(side, LONGEST_ASPECT * shorter) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def official_image_text(size: int) -> PreprocessSpec:
    """The reference implementation's input to CLIP: squashed, ImageNet's statistics."""
    return PreprocessSpec(size=size, resize="squash")


def official_image(size: int) -> PreprocessSpec:
    """The reference implementation's input to the level encoder: squashed to 256/224 of the crop taken from it."""
    return PreprocessSpec(size=size, resize="squash", resize_to=round(size * 256 / 224), interpolation="bilinear")


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
