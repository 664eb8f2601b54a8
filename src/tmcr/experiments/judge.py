"""One and the same examination for every model: does it rank photos as people do, and see what was done to them?

accuracy      against ratings, beside ridge regression on the model's own encoder, hand-crafted features and
              an encoder with random weights
damage        share of photos that outrank their damaged copy, by kind and strength
sameness      how far mirroring and saving again move the score
spread        of predicted scores against that of the ratings; error by how common a score is
tags          words of captions among the tags shown; attribute tags that follow a change of looks
cost          size, parameters, photos a second, memory
"""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tmcr.assessment import Assessment
from tmcr.assessor import Assessor
from tmcr.damage import ALTERATIONS, KINDS, MILD, STRONG
from tmcr.datasets.manifest import Manifest
from tmcr.encoders import ImageEncoder, image_encoder_from_config
from tmcr.errors import DataError
from tmcr.evaluation import seen_in_training
from tmcr.experiments.baselines import choose_strength, constant, ridge
from tmcr.experiments.captions import read_captions, with_synonyms, words_of
from tmcr.experiments.handcrafted import SIDE, handcrafted_features
from tmcr.experiments.verdicts import MODEL, RIDGE, SHOWN, Verdicts
from tmcr.images import decode
from tmcr.metrics import Interval, MetricError, bootstrap, evaluate, paired_difference, srcc
from tmcr.preprocess import PreprocessSpec
from tmcr.streaming import batched, ordered_map
from tmcr.wording import counted

Floats = NDArray[np.float64]
LARGEST_SIDE = 640  # photos are examined at this size at most
SAME_QUALITY = 95

# What was done to the photo → tags that should fit it better then (+) and worse (−).
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "out of focus": ("blurred", ("blurry", "out of focus"), ("sharp",)),
    "motion blur": ("motion blurred", ("motion blur", "camera shake"), ("sharp",)),
    "noise": ("noisy", ("noise", "grainy"), ("clean image",)),
    "dark": ("underexposed", ("underexposed", "dark"), ("bright",)),
    "bright": ("overexposed", ("overexposed", "bright"), ("dark",)),
    "low contrast": ("washed_out", ("washed out", "low contrast"), ("high contrast",)),
    "high contrast": ("contrasty", ("high contrast",), ("low contrast",)),
    "black and white": ("desaturated", ("black and white", "monochrome"), ("colorful",)),
    "saturated": ("oversaturated", ("vivid colors", "saturated"), ("muted colors",)),
    "warm": ("warmed", ("warm tones",), ("cool tones",)),
    "cool": ("cooled", ("cool tones",), ("warm tones",)),
    "green cast": ("greened", ("greenish",), ("magenta",)),
    "vignette": ("vignetted", ("vignette", "dark corners"), ()),
    "compression": ("compressed", ("compression artifacts",), ("clean image",)),
    "tilt": ("tilted", ("tilted horizon", "crooked"), ("straight horizon",)),
    "tight crop": ("tightly cropped", ("tight crop", "close-up"), ("distant view",)),
    "cut off": ("badly_cropped", ("cut off", "bad crop"), ()),
}


def judge(
    assessor: Assessor,
    manifest: Manifest,
    *,
    part: str = "test",
    captions: Path | None = None,
    seed: int = 0,
    allow_leakage: bool = False,
    say: Callable[[str], None] = lambda stage: None,
) -> Verdicts:
    """Examine a model on one part of rated photos, and on captioned photos where there are any.

    Args:
        captions: a CSV with the columns `file` (relative to it) and `captions` (joined by " | ").
        allow_leakage: examine on photos that the model has learnt from all the same; the description says so.
        say: told what is done next.

    Raises:
        DataError: the part is empty, a photo of it cannot be read, or the captions cannot.
        LeakageError: the model has learnt from photos of the part.
    """
    if part not in manifest.splits:
        raise DataError(
            f"{manifest.description}: no photo is marked {part!r}; there are {', '.join(sorted(set(manifest.splits)))}"
        )
    captioned = read_captions(captions) if captions is not None else None
    seen = seen_in_training(assessor, manifest.part(part), allow=allow_leakage)
    leaked = f", {seen} OF WHICH THE MODEL HAS LEARNT FROM: these numbers mean nothing" if seen else ""
    verdicts = Verdicts(
        f"{manifest.description}, the {counted(manifest.splits.count(part), f'{part} photo')}{leaked}; "
        f"model {assessor.name} ({assessor.model.hash[:12]}); seed {seed}; "
        f"{assessor.hardware}; {platform.processor() or platform.machine()}"
    )
    say("accuracy")
    tested = manifest.part(part)
    photos = [decode(path, target_side=LARGEST_SIDE // 2) for path in tested.paths]
    groups = list(tested.groups or tested.ids)
    started = time.perf_counter()
    originals = list(assessor.assess_many(tested.paths))
    seconds = time.perf_counter() - started
    _accuracy(verdicts, assessor, manifest, tested, originals, part, seed)

    scores = np.array([each.score for each in originals])
    verdicts.spread = bootstrap(lambda a, b: float(a.std() / b.std()), scores, tested.scores, groups=groups, seed=seed)
    plain = _scores(assessor, photos)
    for kind, damage in KINDS.items():
        say(f"damage: {kind}")
        for level, strength in (("mild", MILD), ("strong", STRONG)):
            gap = plain - _scores(assessor, (damage(photo, strength) for photo in photos))
            verdicts.order[kind, level] = bootstrap(lambda a: float((a > 0).mean()), gap, groups=groups, seed=seed)
            verdicts.drop[kind, level] = float(gap.mean())
    for name, change in {"mirrored": _mirrored, f"saved again at quality {SAME_QUALITY}": _saved_again}.items():
        moved = np.abs(plain - _scores(assessor, map(change, photos)))
        verdicts.sameness[name] = bootstrap(lambda a: float(a.mean()), moved, groups=groups, seed=seed)
    say("attribute tags")
    _families(verdicts, assessor, photos, groups, seed)
    if captioned is not None:
        say("captions")
        _captions(verdicts, assessor, captioned, seed)
    verdicts.cost = _cost(assessor, len(originals) / seconds)
    return verdicts


# ---- accuracy -----------------------------------------------------------------------------------------------


def _accuracy(
    verdicts: Verdicts,
    assessor: Assessor,
    manifest: Manifest,
    tested: Manifest,
    originals: Sequence[Assessment],
    part: str,
    seed: int,
) -> None:
    if failed := next((each for each in originals if not each.ok), None):
        raise DataError(f"{failed.photo}: {failed.error}; take it out of the data and judge again")
    answers = {MODEL: np.array([each.distribution for each in originals])}
    values = {MODEL: np.array(originals[0].score_values)}
    known = manifest.take(np.flatnonzero(np.array(manifest.splits) != part))
    if len(known):
        groups = list(known.groups or known.ids)
        for name, features in {
            RIDGE: lambda m: encoder_features(assessor, m.paths),
            "ridge on hand-crafted features": lambda m: np.stack([_handcrafted(path) for path in m.paths]),
            "ridge on a random encoder": lambda m: random_features(assessor, m.paths, seed),
        }.items():
            x, new = features(known), features(tested)
            strength = choose_strength(x, known.distributions, groups, manifest.score_values, seed=seed)
            answers[name] = ridge(x, known.distributions, new, strength=strength)
        answers["always the mean"] = constant(known.distributions, len(tested))
    groups = list(tested.groups or tested.ids)
    for name, answer in answers.items():
        verdicts.reports[name] = evaluate(
            answer,
            tested.distributions,
            values.get(name, manifest.score_values),
            true_values=manifest.score_values,
            train_scores=known.scores if len(known) else None,
            groups=groups,
            seed=seed,
        )
        if name == MODEL:
            continue
        try:
            verdicts.against[name] = paired_difference(
                srcc, answers[MODEL] @ values[MODEL], answer @ manifest.score_values, tested.scores,
                groups=groups, seed=seed,
            )  # fmt: skip
        except MetricError:  # a constant answer has no order
            continue


def encoder_features(assessor: Assessor, paths: Sequence[Path]) -> Floats:
    """What a plain regression on the model's encoders would see: level features, or image embeddings without them."""
    encoder = assessor.model.encoder
    if encoder is None:
        return _features(assessor.image_text.image_tower, assessor.model.image_text.preprocess, paths)
    return _features(encoder, encoder.preprocess, paths)


def random_features(assessor: Assessor, paths: Sequence[Path], seed: int) -> Floats:
    """Features of the same network with random weights, what its architecture alone is worth."""
    encoder = assessor.model.encoder
    if encoder is None:
        return np.random.default_rng(seed).normal(size=(len(paths), 1))
    torch.manual_seed(seed)
    return _features(image_encoder_from_config(encoder.config).eval(), encoder.preprocess, paths)


@torch.inference_mode()
def _features(encoder: ImageEncoder | torch.nn.Module, preprocess: PreprocessSpec, paths: Sequence[Path]) -> Floats:
    device = next(encoder.parameters()).device
    prepared = (preprocess(decode(path, target_side=preprocess.target_side)) for path in paths)
    rows = [encoder(torch.from_numpy(np.stack(part)).to(device)).float().cpu() for part in batched(prepared, 32)]
    return torch.cat(rows).double().numpy()


def _handcrafted(path: Path) -> Floats:
    return handcrafted_features(decode(path, target_side=SIDE))


# ---- damage and looks ---------------------------------------------------------------------------------------


def _scores(assessor: Assessor, photos: Iterable[Image.Image]) -> Floats:
    return np.array([verdict.score for verdict in assessor.assess_many(photos)], dtype=np.float64)


def _mirrored(photo: Image.Image) -> Image.Image:
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _saved_again(photo: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=SAME_QUALITY)
    return Image.open(buffer).convert("RGB")


def _families(
    verdicts: Verdicts, assessor: Assessor, photos: Sequence[Image.Image], groups: Sequence[str], seed: int
) -> None:
    """Whether a family's tags fit better after the change that they are about (at full strength), and are shown."""
    changes = KINDS | ALTERATIONS
    before, shown_before = _embeddings_and_tags(assessor, photos)

    def share(hits: Iterable[bool]) -> Interval:
        return bootstrap(lambda a: float(a.mean()), np.array([*hits], dtype=np.float64), groups=groups, seed=seed)

    for family, (change, more, less) in FAMILIES.items():
        text = assessor.image_text.encode_texts([*more, *less]).float().cpu()
        sign = torch.tensor([1 / len(more)] * len(more) + [-1 / max(1, len(less))] * len(less))
        after, shown_after = _embeddings_and_tags(assessor, [changes[change](photo, STRONG) for photo in photos])
        verdicts.families[family] = share(((after - before) @ text.T @ sign > 0).tolist())
        verdicts.named[family] = (
            share(not tags.isdisjoint(more) for tags in shown_after),
            share(not tags.isdisjoint(more) for tags in shown_before),
        )


def _embeddings_and_tags(assessor: Assessor, photos: Sequence[Image.Image]) -> tuple[torch.Tensor, list[set[str]]]:
    """Embeddings (B, E) of photos and the attribute tags shown of each."""
    prepared = ordered_map(assessor.prepare, photos, workers=assessor.hardware.photo_workers, ahead=64)
    embeddings, tags = [], []
    for batch in batched(prepared, 32):
        features = assessor.features(batch)
        embeddings.append(features[0].float().cpu())
        tags += [{tag.name for tag in verdict.attribute_tags} for verdict in assessor.verdicts(batch, *features)]
    return torch.cat(embeddings), tags


# ---- captions -----------------------------------------------------------------------------------------------


def _captions(verdicts: Verdicts, assessor: Assessor, rows: list[tuple[Path, list[str]]], seed: int) -> None:
    told = [with_synonyms(words_of(" ".join(captions))) for _, captions in rows]
    named = [
        [tag.name for tag in verdict.semantic_tags[:SHOWN]]
        for verdict in assessor.assess_many([photo for photo, _ in rows])
    ]
    # The five tags that would be right most often, chosen with the captions in view: the strongest constant guess.
    library = {tag: words_of(tag) for tag in assessor.model.libraries.semantic.tags}
    always: list[str] = []
    missed = np.ones(len(rows), dtype=bool)
    while len(always) < SHOWN:
        best = max(library, key=lambda tag: sum(bool(library[tag] & told[row]) for row in np.flatnonzero(missed)))
        always.append(best)
        missed &= np.array([not library[best] & words for words in told])
    order = np.random.default_rng(seed).permutation(len(rows))
    for name, tags in {
        MODEL: named,
        "the same tags, shuffled among photos": [named[row] for row in order],
        f"always {', '.join(always)}": [always] * len(rows),
    }.items():
        right = np.array(
            [any(words_of(tag) & words for tag in each) for each, words in zip(tags, told, strict=True)], dtype=float
        )
        verdicts.captions[name] = bootstrap(lambda a: float(a.mean()), right, seed=seed)
    verdicts.tags_shown = float(np.mean([len(each) for each in named]))


# ---- cost ---------------------------------------------------------------------------------------------------


def _cost(assessor: Assessor, rate: float) -> dict[str, float]:
    import resource

    model = assessor.model
    parts = [model.head, *([model.encoder] if model.encoder is not None else []), assessor.image_text._model]
    cost = {
        "parameters, millions": round(sum(p.numel() for part in parts for p in part.parameters()) / 1e6, 2),
        "photos a second": round(rate, 1),
        "threads": float(torch.get_num_threads()),
        "peak memory, MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 0),
    }
    if model.folder is not None:
        size = sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file())
        cost = {"size on disk, MB": round(size / 1e6, 2)} | cost
    return cost
