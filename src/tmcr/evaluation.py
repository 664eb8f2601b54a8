"""A finished model against ratings: the same inference path as scoring, then all metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.assessor import Assessor
from tmcr.datasets.leakage import check_unseen
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.selection import REGION
from tmcr.errors import DataError, ImageError
from tmcr.images import content_hash
from tmcr.metrics import Report, evaluate
from tmcr.streaming import ordered_map

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on rated photos.

    Attributes:
        report: metrics with confidence intervals over all photos, and the long tail where the data has a training part.
        kinds: metrics of the photos of each kind (the model's clusters, named by their tags), without intervals.
        predicted, true: (n,) mean ratings on 1..10.
        train_scores: mean ratings of the data's training part, or None.
        errors: photo → why it could not be read; such photos count nowhere.
        seen: how many of the photos the model has learnt from. With any, no number here is to be quoted.
    """

    report: Report
    kinds: dict[str, Report]
    predicted: Floats
    true: Floats
    train_scores: Floats | None = None
    errors: dict[str, str] = field(default_factory=dict)
    seen: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            **self.report.to_dict(),
            "kinds": {name: report.to_dict() for name, report in self.kinds.items()},
            "errors": self.errors,
            "seen_in_training": self.seen,
        }


def evaluate_assessor(
    assessor: Assessor,
    manifest: Manifest,
    part: str = "test",
    *,
    resamples: int = 1000,
    seed: int = 0,
    allow_leakage: bool = False,
    watch: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Score a part of the manifest and compare with its ratings; photos that cannot be read are left out.

    Args:
        allow_leakage: test on photos that the model has learnt from all the same; `seen` then says how many. Parts
            other than "test" are never refused: whoever names one knows.
        watch: called after each photo.

    Raises:
        DataError: the part is empty, or none of its photos can be read.
        LeakageError: the model has learnt from photos of the test part.
    """
    if part not in manifest.splits:
        raise DataError(
            f"{manifest.description}: no photo is marked {part!r}; there are {', '.join(sorted(set(manifest.splits)))}"
        )
    photos = manifest.part(part)
    seen = seen_in_training(assessor, photos, allow=allow_leakage or part != "test")
    readable: list[int] = []
    rows: list[tuple[float, ...]] = []
    kind_of: list[str] = []
    score_values: tuple[float, ...] = ()
    errors: dict[str, str] = {}
    for row, verdict in enumerate(assessor.assess_many(photos.paths)):  # of a verdict, only this much is kept
        if verdict.error is None:
            readable.append(row)
            rows.append(verdict.distribution)
            kind_of.append(" · ".join(verdict.cluster.tags) if verdict.cluster else "")
            score_values = verdict.score_values
        else:
            errors[verdict.photo] = verdict.error
        watch()
    if not readable:
        name, reason = next(iter(errors.items()))
        raise DataError(f"none of the {len(photos)} photos can be read; the first: {name}: {reason}")
    photos = photos.take(readable)
    distributions, values, kinds = np.array(rows), np.array(score_values), np.array(kind_of)
    train_scores = manifest.part("train").scores if "train" in manifest.splits and part != "train" else None
    regions = photos.attributes.get(REGION) if part == "test" else None

    def report(chosen: NDArray[np.bool_], resamples: int) -> Report:
        return evaluate(
            distributions[chosen],
            photos.distributions[chosen],
            values,
            true_values=photos.score_values,
            train_scores=train_scores,
            regions=regions[chosen] if regions is not None else None,
            resamples=resamples,
            seed=seed,
            groups=[photos.groups[row] for row in np.flatnonzero(chosen)] if photos.groups else None,
        )

    return Evaluation(
        report=report(np.ones(len(photos), dtype=bool), resamples),
        kinds={name: report(kinds == name, 0) for name in sorted(set(kind_of)) if name},
        predicted=distributions @ values,
        true=photos.scores,
        train_scores=train_scores,
        errors=errors,
        seen=seen,
    )


def seen_in_training(assessor: Assessor, photos: Manifest, *, allow: bool) -> int:
    """How many of the photos the model has learnt from, by their ids and, where it knows, their contents.

    Raises:
        LeakageError: some, and it is not allowed.
    """
    learnt, trained_on = assessor.model.learnt, str(assessor.model.training.get("source", ""))
    by_id = check_unseen(photos, [None] * len(photos), learnt, trained_on, allow=allow)  # before any file is read
    if learnt is None:
        return by_id
    workers = assessor.hardware.photo_workers
    contents = list(ordered_map(_content, photos.paths, workers=workers, ahead=8 * max(1, workers)))
    return check_unseen(photos, contents, learnt, trained_on, allow=allow)


def _content(path: Path) -> str | None:
    try:
        return content_hash(path)
    except ImageError:  # told, with its reason, when the photo is scored
        return None
