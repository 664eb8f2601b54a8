"""From when on a model shows a tag, and what it calls the kinds of photos by the tags that it shows.

How similar a photo must be to a tag is a matter of the image–text encoder, whatever ratings the head has learnt. A
model that is trained on the encoder of another one, with the same tags, takes over what that one knows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tmcr.errors import ModelError
from tmcr.modelfolder import TrainedModel, load_model
from tmcr.shown_tags import nameable

NAMES = 3
LEAST_SURE, SUREST = -1.0, 2.0  # how far from its bar a tag's similarity counts, in standard deviations
COMMON = 0.5  # weight of how sure a tag is among a kind's photos, beside how much surer than elsewhere
NO_NAMES = ("activities",)  # "above 66 % of sitting" says little
_BLOCK = 4096  # photos


def inherited_minimum(model: TrainedModel, encoder: Path) -> Tensor | None:
    """`tag_minimum` (M+N,) for a model whose image–text encoder was read from the folder `encoder`.

    None where that folder is not part of a model that has one, with the same encoder and tags.
    """
    try:
        theirs = load_model(encoder.parent)
    except ModelError:  # the encoder stands for itself, or in something that is no model of ours
        return None
    same = (
        theirs.image_text.fingerprint == model.image_text.fingerprint and theirs.libraries.hash == model.libraries.hash
    )
    if theirs.tag_minimum is None or not same:
        return None
    # A bar is a similarity; what is usual, in which it is told, differs from photos to photos.
    bar = theirs.similarity_mean + theirs.tag_minimum * theirs.similarity_std
    return (bar - model.similarity_mean) / model.similarity_std.clamp_min(1e-6)


def kind_names(
    model: TrainedModel, similarities: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[tuple[str, ...], ...]:
    """For each kind the tags that a model with `tag_minimum` shows of its photos, and less of others, the best first.

    What sets a kind apart most (`characteristic_tags`) is often said by a tag that nobody would use. A tag names one
    kind; a kind that no tag tells from the others keeps the name it has.

    Args:
        similarities: (N, M) to the semantic tags; labels: (N,) the kinds.
    """
    library = model.libraries.semantic
    if model.tag_minimum is None:
        raise AssertionError("kinds are named once it is known from when on a tag is shown")
    minimum, mean, std = (
        each[: len(library)].numpy()
        for each in (model.tag_minimum, model.similarity_mean, model.similarity_std.clamp_min(1e-6))
    )
    sums = np.zeros((len(model.clusters.centroids), len(library)))
    for start in range(0, len(similarities), _BLOCK):
        part = slice(start, start + _BLOCK)
        sure = np.clip((similarities[part] - mean) / std - minimum, LEAST_SURE, SUREST)
        for kind in range(len(sums)):
            sums[kind] += sure[labels[part] == kind].sum(0)
    sizes = np.bincount(labels, minlength=len(sums))
    inside = sums / sizes[:, None]
    outside = (sums.sum(0) - sums) / np.maximum(len(labels) - sizes, 1)[:, None]
    fit = inside - outside + COMMON * inside
    things = np.array([facet not in NO_NAMES for facet in library.facets]) & nameable(model)[: len(library)]
    ahead = fit == fit.max(0)
    own = ahead & (ahead.sum(0) == 1) & things
    best = np.argsort(-np.where(own, fit, -np.inf), axis=1, kind="stable")[:, :NAMES]
    names = [tuple(library.tags[tag] for tag in tags if own[kind, tag]) for kind, tags in enumerate(best)]
    return tuple(mine or before for mine, before in zip(names, model.clusters.tags, strict=True))
