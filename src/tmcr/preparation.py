"""A photo, decoded once, as the pixels that each encoder wants."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import ImageError
from tmcr.images import ImageLimits, Source, decode, full_size, source_name
from tmcr.preprocess import PreprocessSpec


@dataclass(frozen=True)
class Prepared:
    """One photo, decoded once and prepared for both encoders, or the reason why not.

    Attributes:
        name: what the photo is called in results.
        size: width and height of the upright photo, however small it was decoded.
        for_tags: what the image–text encoder sees, (H, W, 3) in 0..255; see `tmcr.encoders.pixel_values`.
        for_levels: the same for the level encoder, None where the model has none.
        error: why there are no pixels.
    """

    name: str
    size: tuple[int, int] | None = None
    for_tags: NDArray[np.uint8] | None = None
    for_levels: NDArray[np.uint8] | None = None
    error: ImageError | None = None


@dataclass(frozen=True)
class Preparation:
    """Decodes a photo and prepares it for both encoders of a model; needs no model and no torch."""

    for_tags: PreprocessSpec
    for_levels: PreprocessSpec | None
    limits: ImageLimits = field(default_factory=ImageLimits)

    def __call__(self, photo: Source) -> Prepared:
        """Never raises for what is wrong with a photo: that is in `error`."""
        name = source_name(photo)
        side = max(self.for_tags.target_side, self.for_levels.target_side if self.for_levels else 0)
        try:
            image = decode(photo, target_side=side, limits=self.limits)
        except ImageError as error:
            return Prepared(name, error=error)
        for_tags = self.for_tags.pixels(image)
        if self.for_levels is None or self.for_levels == self.for_tags:
            return Prepared(name, full_size(image), for_tags, for_tags if self.for_levels else None)
        return Prepared(name, full_size(image), for_tags, self.for_levels.pixels(image))
