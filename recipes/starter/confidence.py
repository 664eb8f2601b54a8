"""From which confidence on a tag is shown: thresholds found on photos that no other step learns from.

Kinds of photos are named anew by tags that would be shown: what sets a kind apart most is often said by a tag that
nobody would use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from looks import EDITS, apply_one
from numpy.typing import NDArray
from phrases import MEANING
from PIL import Image

from tmcr.assessor import Assessor
from tmcr.encoders import ImageTextEncoder
from tmcr.experiments.captions import read_captions, with_synonyms, words_of
from tmcr.images import decode
from tmcr.modelfolder import TrainedModel

CANDIDATES = 5
PRIOR_WEIGHT = 0.4  # below 1, because the photos of users are others than those of the captions
# The teachers know no classes of people: what the encoder takes for a person often is none, and it shall not say
# of anyone how old, how dressed or how beautiful they are.
HIDDEN_FACETS = ("people", "body", "clothing")
LEAST_Z = 0.3  # however common a thing is: the photo must look more like it than most
SEMANTIC_PRECISION = 0.5  # captions leave much out: a tag that no caption mentions is often right all the same
LOOKS_PRECISION = 0.9
ABOUT_LOOKS = 0.7  # length of the looks part of a tag from which on it can be seen at all
ALIGNED = 0.75
EDIT_STRENGTH = 0.8
NAMES, LEAST_SURE, SUREST = 3, -1.0, 2.0  # tags that name a kind; how far from its bar a tag's confidence counts
NO_NAMES = ("activities",)  # "above 66 % of sitting" says little
COMMON = 0.5  # weight of how sure a tag is among a kind's photos, beside how much surer than elsewhere


def tag_minimum(
    model: TrainedModel, encoder: ImageTextEncoder, captions: Path, other_captions: Sequence[Sequence[str]]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Least standardised similarity (M+N,) at which a tag is shown, and what that gives on the calibration photos.

    A thing that photos often show needs less to be believed: the bar falls with the logarithm of a tag's share of
    `other_captions`, those of the training photos.
    """
    rows = read_captions(captions)
    photos = [decode(photo, target_side=160) for photo, _ in rows]
    n_semantic = model.libraries.n_semantic

    def z_of(images: Sequence[Image.Image]) -> NDArray[np.float32]:
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack([encoder.preprocess(image) for image in images]))
            similarity = torch.cat([encoder.encode_images(part) for part in pixels.split(32)]) @ model.text.T
        return ((similarity - model.similarity_mean) / model.similarity_std.clamp_min(1e-6)).numpy()

    plain = z_of(photos)
    names = model.libraries.semantic.tags
    words = [words_of(name) for name in names]
    used = [with_synonyms(words_of(" ".join(texts))) for texts in other_captions]
    frequency = np.array([sum(bool(tag) and tag <= told for told in used) for tag in words]) + 0.3
    bonus = PRIOR_WEIGHT * np.log(frequency / (len(used) + 3))
    told = [with_synonyms(words_of(" ".join(texts))) for _, texts in rows]
    hidden = np.array([facet in HIDDEN_FACETS for facet in model.libraries.semantic.facets])
    ranked = np.where(hidden, -np.inf, plain[:, :n_semantic] + bonus)
    best = np.argsort(-ranked, axis=1)[:, :CANDIDATES]
    best_z = np.take_along_axis(plain, best, 1).ravel()
    confidence = np.take_along_axis(ranked, best, 1).ravel()
    right = np.array([bool(words[tag] & told[row]) for row, tags in enumerate(best) for tag in tags])
    order = np.argsort(-confidence)
    order = order[best_z[order] >= LEAST_Z]
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(precision >= SEMANTIC_PRECISION)
    last = int(enough.max()) if len(enough) else len(order) // 5
    semantic = float(confidence[order[last]])

    looks = model.text[n_semantic:, MEANING:].numpy()
    length = np.linalg.norm(looks, axis=1)
    raised, resting = [], []
    for axis, name in enumerate(EDITS[:-3]):
        for sign in (1.0, -1.0):
            aligned = n_semantic + np.flatnonzero(sign * looks[:, axis] / np.maximum(length, 1e-6) > ALIGNED)
            edited = apply_one(name, photos, sign * EDIT_STRENGTH)
            if len(aligned) == 0 or edited is None:
                continue
            raised.append(z_of(edited)[:, aligned].ravel())
            resting.append(plain[:, aligned].ravel())
    grid = np.linspace(0, 4, 81)
    hits = np.array([np.mean([(z >= t).mean() for z in raised]) for t in grid])
    false = np.array([np.mean([(z >= t).mean() for z in resting]) for t in grid])
    good = np.flatnonzero(hits / np.maximum(hits + false, 1e-9) >= LOOKS_PRECISION)
    at = int(good.min()) if len(good) else len(grid) // 2
    minimum = np.full(len(model.libraries.names), np.inf, np.float32)
    minimum[:n_semantic] = np.where(hidden, np.inf, np.maximum(semantic - bonus, LEAST_Z))
    minimum[n_semantic:][length > ABOUT_LOOKS] = grid[at]
    return torch.from_numpy(minimum), {
        "semantic tags from z, for one in every caption": semantic,
        "precision of semantic tags against captions": float(precision[last]),
        "semantic tags a photo": (last + 1) / len(rows),
        "attribute tags from z": float(grid[at]),
        "attribute tags that can be shown": int((length > ABOUT_LOOKS).sum()),
        "share of edited photos whose tags show it": float(hits[at]),
        "share of unedited photos on which they do": float(false[at]),
    }


def calibrated(assessor: Assessor, captions: Path, other_captions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Put the thresholds into the assessor's model; returns what they give."""
    model = assessor.model
    model.tag_minimum, facts = tag_minimum(model, assessor.image_text, captions, other_captions)
    return facts


def name_kinds(model: TrainedModel, similarities: torch.Tensor, labels: NDArray[np.int64]) -> None:
    """Name the model's kinds by tags of which it is sure among their photos, and less so elsewhere.

    Args:
        similarities: (n, M) to the semantic tags of the training photos; labels: (n,) their kinds.
    """
    n_semantic = model.libraries.n_semantic
    if model.tag_minimum is None:
        raise AssertionError("kinds are named once it is known from when on a tag is shown")
    z = (similarities - model.similarity_mean[:n_semantic]) / model.similarity_std[:n_semantic].clamp_min(1e-6)
    sure = (z - model.tag_minimum[:n_semantic]).clamp(LEAST_SURE, SUREST).numpy()
    inside = np.stack([sure[labels == kind].mean(0) for kind in range(len(model.clusters.centroids))])
    outside = np.stack([sure[labels != kind].mean(0) for kind in range(len(inside))])
    fit = inside - outside + COMMON * inside
    things = np.array([facet not in NO_NAMES for facet in model.libraries.semantic.facets])
    own = (fit == fit.max(0)) & things  # a tag names one kind
    best = np.argsort(-np.where(own, fit, -np.inf), axis=1, kind="stable")[:, :NAMES]
    names = tuple(tuple(model.libraries.semantic.tags[tag] for tag in tags) for tags in best)
    model.clusters = replace(model.clusters, tags=names)
