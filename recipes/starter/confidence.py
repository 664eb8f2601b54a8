"""From which confidence on a tag is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from looks import MEASURES
from numpy.typing import NDArray
from phrases import MEANING
from PIL import Image
from words import LOOKS, Look

from tmcr.assessor import Assessor
from tmcr.damage import ALTERATIONS, KINDS
from tmcr.experiments.captions import read_captions, with_synonyms, words_of
from tmcr.experiments.judge import FAMILIES, LARGEST_SIDE
from tmcr.images import decode
from tmcr.matching import similarity_correlation
from tmcr.modelfolder import TrainedModel
from tmcr.streaming import batched

Floats = NDArray[np.floating]

CANDIDATES = 5
PRIOR_WEIGHT = 0.4  # below 1, because the photos of users are others than those of the captions
# The teachers know no classes of people: what the encoder takes for a person often is none, and it shall not say
# of anyone how old, how dressed or how beautiful they are.
HIDDEN_FACETS = ("people", "body", "clothing")
LEAST_Z = 0.3  # however common a thing is: the photo must look more like it than most
SEMANTIC_PRECISION = 0.5  # captions leave much out: a tag that no caption mentions is often right all the same
MUCH = 1.5  # z from which on a look is named that all photos have more or less of: one photo in fifteen
LITERAL = ("black and white", "sepia", "motion blur", "vignette")  # true or false of a photo, as faults are
LOOKS_PRECISION = 0.6  # of what is true or false, at least, where one photo in RARITY + 1 has it
RARITY = 4.0
BARS = np.linspace(MUCH, 6, 91)
ABOUT_LOOKS = 0.7  # length of the looks part of a tag from which on it can be seen at all
SAID_ALIKE = 0.99  # correlation over photos from which on two tags say the same
STRENGTH = 0.8
# The tags that a change of looks makes fit better, and the change.
CHANGES = {tag: (KINDS | ALTERATIONS)[change] for change, more, _ in FAMILIES.values() for tag in more}


def calibrated(
    assessor: Assessor, captions: Path, other_captions: Sequence[Sequence[str]], photos: Sequence[Path]
) -> dict[str, float]:
    """Put the least standardised similarity at which each tag is shown into the model; returns what that gives.

    Args:
        captions: table of captioned photos that nothing else uses, for the semantic tags.
        other_captions: those of the encoder's training photos.
        photos: of a user's size, for the attribute tags; their ratings have no part in it.
    """
    model, encoder = assessor.model, assessor.image_text
    n_semantic = model.libraries.n_semantic

    @torch.inference_mode()
    def z_of(images: Iterable[Image.Image]) -> Floats:
        pixels = batched((encoder.preprocess(image) for image in images), 32)
        embeddings = torch.cat([encoder.encode_images(torch.from_numpy(np.stack(part))) for part in pixels])
        similarity = embeddings @ model.text.T
        return ((similarity - model.similarity_mean) / model.similarity_std.clamp_min(1e-6)).numpy()

    rows = read_captions(captions)
    z = z_of(decode(photo, target_side=160) for photo, _ in rows)[:, :n_semantic]
    semantic, of_semantic = semantic_minimum(model, z, [texts for _, texts in rows], other_captions)

    whole = [decode(photo, target_side=LARGEST_SIDE // 2) for photo in photos]
    looks, of_looks = looks_minimum(model, whole, lambda images: z_of(images)[:, n_semantic:])
    model.tag_minimum = torch.from_numpy(np.concatenate([semantic, looks]).astype(np.float32))
    return of_semantic | of_looks


def semantic_minimum(
    model: TrainedModel, z: Floats, captions: Sequence[Sequence[str]], other_captions: Sequence[Sequence[str]]
) -> tuple[Floats, dict[str, float]]:
    """Bars (M,) of the semantic tags, from z (n, M) of photos and their captions.

    A thing that photos often show needs less to be believed: the bar falls with the logarithm of a tag's share of
    `other_captions`, those of the training photos.
    """
    words = [words_of(tag) for tag in model.libraries.semantic.tags]
    used = [with_synonyms(words_of(" ".join(texts))) for texts in other_captions]
    frequency = np.array([sum(bool(tag) and tag <= told for told in used) for tag in words]) + 0.3
    bonus = PRIOR_WEIGHT * np.log(frequency / (len(used) + 3))
    told = [with_synonyms(words_of(" ".join(texts))) for texts in captions]
    hidden = np.array([facet in HIDDEN_FACETS for facet in model.libraries.semantic.facets])
    ranked = np.where(hidden, -np.inf, z + bonus)
    best = np.argsort(-ranked, axis=1)[:, :CANDIDATES]
    best_z = np.take_along_axis(z, best, 1).ravel()
    confidence = np.take_along_axis(ranked, best, 1).ravel()
    right = np.array([bool(words[tag] & told[row]) for row, tags in enumerate(best) for tag in tags])
    order = np.argsort(-confidence)
    order = order[best_z[order] >= LEAST_Z]
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(precision >= SEMANTIC_PRECISION)
    last = int(enough.max()) if len(enough) else len(order) // 5
    bar = float(confidence[order[last]])
    return np.where(hidden, np.inf, np.maximum(bar - bonus, LEAST_Z)), {
        "semantic tags from z, for one in every caption": bar,
        "precision of semantic tags against captions": float(precision[last]),
        "semantic tags a photo": (last + 1) / len(captions),
    }


def looks_minimum(
    model: TrainedModel, photos: Sequence[Image.Image], z_of: Callable[[Iterable[Image.Image]], Floats]
) -> tuple[Floats, dict[str, float]]:
    """Bars (N,) of the attribute tags, from `z_of` photos (n, N) and `z_of` them with a look put on.

    One tag speaks for each look: a hundred others mean the same to so small an encoder, or what it cannot see. Faults,
    and what else is true or false, are named where that is right often enough, and not at all where nothing shows it.
    """
    minimum = np.full(len(model.libraries.attribute.tags), np.inf)
    plain = z_of(photos)
    hits, false = [], []
    for look, tag in plain_names(model):
        claim = look.tag in LITERAL or model.libraries.attribute.polarities[tag] == "fault"
        if look.tag not in CHANGES:
            if not claim and any(axis in MEASURES for axis in look.weights):
                minimum[tag] = MUCH
            continue
        changed = z_of(CHANGES[look.tag](photo, STRENGTH) for photo in photos)
        shown, by_chance = ((z[:, tag] >= BARS[:, None]).mean(1) for z in (changed, plain))
        at = 0  # from MUCH on
        if claim:
            worth = shown - RARITY * by_chance
            worth[shown < LOOKS_PRECISION * (shown + RARITY * by_chance)] = 0
            at = int(worth.argmax())
            if worth[at] <= 0:
                continue
        minimum[tag] = BARS[at]
        hits.append(shown[at])
        false.append(by_chance[at])
    return minimum, {
        "attribute tags that can be shown": int(np.isfinite(minimum).sum()),
        "looks that all photos have more or less of, from z": MUCH,
        "share of changed photos whose tag says so": float(np.mean(hits)),
        "share of unchanged photos on which it does": float(np.mean(false)),
    }


def plain_names(model: TrainedModel) -> list[tuple[Look, int]]:
    """The looks with the place of the attribute tag that names each.

    Of tags that go together, one that finds no fault, and then the one that people say most.
    """
    n_semantic = model.libraries.n_semantic
    if model.embedding_covariance is None:
        raise AssertionError("a model trained on photos knows how their embeddings vary")
    text = model.text[n_semantic:]
    library = model.libraries.attribute
    named = [(look, library.tags.index(look.tag)) for look in LOOKS]
    named = [(look, tag) for look, tag in named if text[tag, MEANING:].norm() > ABOUT_LOOKS]
    alike = similarity_correlation(text, model.embedding_covariance) >= SAID_ALIKE
    kept: list[int] = []
    for tag in sorted(
        (tag for _, tag in named), key=lambda tag: (library.polarities[tag] == "fault", -library.frequencies[tag])
    ):
        if not alike[tag, kept].any():
            kept.append(tag)
    return [(look, tag) for look, tag in named if tag in kept]
