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

import csv
import io
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from tmcr.experiments.baselines import choose_strength, constant, ridge
from tmcr.experiments.handcrafted import SIDE, handcrafted_features
from tmcr.images import decode
from tmcr.metrics import Interval, MetricError, Report, bootstrap, evaluate, paired_difference, srcc
from tmcr.preprocess import PreprocessSpec
from tmcr.streaming import batched, ordered_map

Floats = NDArray[np.float64]
MODEL, RIDGE = "the model", "ridge on its encoder"
LARGEST_SIDE = 640  # photos are examined at this size at most
SHOWN = 5  # tags that are compared with captions
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

# Words that a caption may use for a tag and the other way round.
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        "man men guy male gentleman boy person people",
        "woman women lady female girl person people",
        "child children kid kids boy girl baby toddler infant",
        "people crowd group person team players",
        "dog dogs puppy pup hound terrier retriever",
        "cat cats kitten kitty",
        "car cars automobile vehicle taxi cab sedan",
        "bike bicycle cycling cyclist bicycles",
        "motorcycle motorbike scooter moped",
        "bus buses coach", "truck lorry pickup van", "train locomotive railway railroad tram",
        "plane airplane aircraft jet airliner airport", "boat ship sailboat vessel sailing ferry yacht",
        "sea ocean water beach wave waves coast shore surf", "beach sand shore", "lake river water pond stream",
        "mountain mountains hill hills peak", "forest woods trees tree woodland", "tree trees branch",
        "grass field meadow lawn pasture", "snow snowy winter ski skiing snowboard",
        "street road city urban traffic sidewalk intersection", "building buildings house tower architecture church",
        "food meal dish plate lunch dinner snack", "pizza food", "cake dessert pastry",
        "fruit fruits orange banana apple",
        "vegetable vegetables broccoli carrot carrots salad", "sandwich burger hotdog", "bread loaf bakery",
        "table desk counter", "chair sofa couch seat bench", "bed bedroom pillow", "toilet bathroom restroom sink",
        "kitchen stove oven refrigerator fridge", "computer laptop monitor keyboard screen desktop",
        "phone cellphone telephone smartphone", "television tv screen", "book books bookshelf library",
        "horse horses pony riding", "cow cows cattle bull", "sheep lamb flock", "elephant elephants",
        "bird birds seagull pigeon parrot", "bear bears", "giraffe giraffes", "zebra zebras",
        "baseball bat batter pitcher", "tennis racket racquet", "soccer football ball", "frisbee disc",
        "skateboard skateboarder skateboarding skater", "surfboard surfer surfing", "kite kites",
        "umbrella umbrellas", "clock watch", "vase flower flowers bouquet", "sign signs signpost",
        "bag suitcase luggage handbag backpack", "bottle wine glass", "cup mug coffee tea", "bowl dish",
        "teddy toy toys", "room indoor interior", "animal animals wildlife zoo",
    )
)  # fmt: skip
_TOO_COMMON = frozenset(
    ("the", "and", "with", "for", "from", "are", "its", "his", "her", "their", "some", "two", "one")
)


@dataclass
class Verdicts:
    """What the examination found; every share and difference is an `Interval` with 95 % confidence.

    Attributes:
        description: data, model, machine, seed.
        reports: metrics by system; `against`: SRCC of the model minus that of each other system.
        order: (kind, "mild" or "strong") → share of photos above their copy. drop: mean difference of the scores.
        sameness: copy → mean absolute difference of the scores.
        spread: standard deviation of the predicted scores over that of the ratings.
        captions: share of captioned photos one of whose tags is in a caption, by who names the tags.
        families: attribute family → share of photos whose tags moved the right way.
        cost: plain numbers.
    """

    description: str
    reports: dict[str, Report] = field(default_factory=dict)
    against: dict[str, Interval] = field(default_factory=dict)
    order: dict[tuple[str, str], Interval] = field(default_factory=dict)
    drop: dict[tuple[str, str], float] = field(default_factory=dict)
    sameness: dict[str, Interval] = field(default_factory=dict)
    spread: Interval | None = None
    captions: dict[str, Interval] = field(default_factory=dict)
    tags_shown: float | None = None
    families: dict[str, Interval] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        def triple(each: Interval | None) -> list[float] | None:
            return None if each is None else [round(value, 4) for value in (each.value, each.low, each.high)]

        return {
            "description": self.description,
            "accuracy": {name: report.to_dict() for name, report in self.reports.items()},
            "srcc_of_the_model_minus": {name: triple(each) for name, each in self.against.items()},
            "above_damaged_copy": {
                kind: {
                    level: [*(triple(self.order[kind, level]) or []), round(self.drop[kind, level], 3)]
                    for level in ("mild", "strong")
                }
                for kind in dict.fromkeys(kind for kind, _ in self.order)
            },
            "moved_by": {name: triple(each) for name, each in self.sameness.items()},
            "spread": triple(self.spread),
            "tags_in_captions": {name: triple(each) for name, each in self.captions.items()},
            "tags_shown": self.tags_shown,
            "attribute_tags_follow": {name: triple(each) for name, each in self.families.items()},
            "cost": self.cost,
        }

    def to_markdown(self) -> str:
        """All tables, with 95 % intervals in brackets."""
        lines = [f"{self.description}. 95 % bootstrap intervals in brackets.", "", "## Accuracy", ""]
        lines += [
            "| system | SRCC | PLCC | MSE | EMD (r=1) | the model's SRCC minus this |",
            "|---|---|---|---|---|---|",
        ]
        for name, report in self.reports.items():
            cells = [_cell(report, metric) for metric in ("srcc", "plcc", "mse", "emd1")]
            gap = self.against.get(name)
            lines.append(f"| {name} | {' | '.join(cells)} | {_signed(gap) if gap else ''} |")
        tail = self.reports[MODEL].long_tail if MODEL in self.reports else None
        if self.spread is not None:
            lines += ["", f"Spread: predicted scores vary {self.spread} times as much as the ratings."]
        if tail is not None:
            parts = [f"{region} {tail.mse[region]:.2f} ({tail.counts[region]} photos)" for region in tail.mse]
            lines += ["", f"MSE by how common a score is: {', '.join(parts)}."]
        if self.order:
            lines += ["", "## A photo above its damaged copy", "", "| damage | mild | drop | strong | drop |"]
            lines += ["|---|---|---|---|---|"]
            for kind in dict.fromkeys(kind for kind, _ in self.order):
                cells = [
                    f"{_percent(self.order[kind, level])} | {self.drop[kind, level]:+.2f}"
                    for level in ("mild", "strong")
                ]
                lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |")
        if self.sameness:
            lines += ["", "Mean absolute change of the score: "
                      + ", ".join(f"{name} {each}" for name, each in self.sameness.items()) + "."]  # fmt: skip
        if self.captions:
            lines += ["", "## Tags", "", "| who names up to five tags | photos with a tag in a caption |", "|---|---|"]
            lines += [f"| {name} | {_percent(each)} |" for name, each in self.captions.items()]
            lines += ["", f"Semantic tags shown for a photo, on average: {self.tags_shown:.1f} of {SHOWN}."]
        if self.families:
            lines += ["", "| change of looks | photos whose tags move the right way |", "|---|---|"]
            lines += [f"| {name} | {_percent(each)} |" for name, each in self.families.items()]
        lines += ["", "## Cost", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value:g} |" for name, value in self.cost.items()]
        return "\n".join([*lines, ""])


def judge(
    assessor: Assessor,
    manifest: Manifest,
    *,
    part: str = "test",
    captions: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda stage: None,
) -> Verdicts:
    """Examine a model on one part of rated photos, and on captioned photos where there are any.

    Args:
        captions: a CSV with the columns `file` (relative to it) and `captions` (joined by " | ").
        say: told what is done next.

    Raises:
        DataError: the part is empty, or a photo of it cannot be read.
    """
    if part not in manifest.splits:
        raise DataError(
            f"{manifest.description}: no photo is marked {part!r}; there are {sorted(set(manifest.splits))}"
        )
    verdicts = Verdicts(
        f"{manifest.description}, the {manifest.splits.count(part)} {part} photos; model {assessor.name} "
        f"({assessor.model.hash[:12]}); seed {seed}; {assessor.hardware}; {platform.processor() or platform.machine()}"
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
    verdicts.families = _families(assessor, photos, groups, seed)
    if captions is not None:
        say("captions")
        _captions(verdicts, assessor, captions, seed)
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


@torch.inference_mode()
def _families(
    assessor: Assessor, photos: Sequence[Image.Image], groups: Sequence[str], seed: int
) -> dict[str, Interval]:
    """Share of photos to which a family's tags fit better after the change that they are about (at full strength)."""
    changes = KINDS | ALTERATIONS
    before = _embeddings(assessor, photos)
    shares = {}
    for family, (change, more, less) in FAMILIES.items():
        text = assessor.image_text.encode_texts([*more, *less]).float().cpu()
        sign = torch.tensor([1 / len(more)] * len(more) + [-1 / max(1, len(less))] * len(less))
        after = _embeddings(assessor, [changes[change](photo, STRONG) for photo in photos])
        moved = ((after - before) @ text.T @ sign).double().numpy()
        shares[family] = bootstrap(lambda a: float((a > 0).mean()), moved, groups=groups, seed=seed)
    return shares


def _embeddings(assessor: Assessor, photos: Sequence[Image.Image]) -> torch.Tensor:
    preprocess = assessor.model.image_text.preprocess
    prepared = ordered_map(preprocess, photos, workers=assessor.hardware.photo_workers, ahead=64)
    return torch.cat(
        [
            assessor.image_text.encode_images(torch.from_numpy(np.stack(part)).to(assessor.hardware.device)).cpu()
            for part in batched(prepared, 32)
        ]
    ).float()


# ---- captions -----------------------------------------------------------------------------------------------


def words_of(text: str) -> frozenset[str]:
    """The words of a text with their close synonyms, plural endings off, common words left out."""
    found: set[str] = set()
    for word in "".join(letter if letter.isalpha() else " " for letter in text.lower()).split():
        if word in _TOO_COMMON or len(word) < 3:
            continue
        found.add(_singular(word))
    return frozenset(found)


def with_synonyms(words: frozenset[str]) -> frozenset[str]:
    """The words and all that may stand for them."""
    return words.union(*(group for group in _SYNONYMS if group & words))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


_SYNONYMS = tuple(frozenset(map(_singular, group)) for group in SYNONYMS)


def read_captions(path: Path) -> list[tuple[Path, list[str]]]:
    """Photos and their captions.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV with the columns file and captions") from None
    if not rows or not {"file", "captions"} <= set(rows[0]):
        raise DataError(f"{path}: needs the columns file and captions, and a row")
    return [(path.parent / row["file"], row["captions"].split(" | ")) for row in rows]


def _captions(verdicts: Verdicts, assessor: Assessor, path: Path, seed: int) -> None:
    rows = read_captions(path)
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


# ---- tables -------------------------------------------------------------------------------------------------


def _cell(report: Report, metric: str) -> str:
    value, interval = getattr(report, metric), report.intervals.get(metric)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")


def _signed(each: Interval) -> str:
    return f"{each.value:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"


def _percent(each: Interval) -> str:
    return f"{100 * each.value:.0f} % [{100 * each.low:.0f}, {100 * each.high:.0f}]"
