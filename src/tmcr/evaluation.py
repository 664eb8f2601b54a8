"""A finished model against ratings: the same inference path as scoring, then all metrics."""

from __future__ import annotations

import numpy as np

from tmcr.assessor import Assessor
from tmcr.datasets.manifest import Manifest
from tmcr.errors import DataError
from tmcr.metrics import Report, evaluate


def evaluate_assessor(
    assessor: Assessor, manifest: Manifest, part: str = "test", *, resamples: int = 1000, seed: int = 0
) -> Report:
    """All metrics with confidence intervals on a part of the manifest; photos that cannot be read are left out.

    Raises:
        DataError: the part is empty, or none of its photos can be read.
    """
    if part not in manifest.splits:
        raise DataError(
            f"{manifest.description}: no photo is marked {part!r}; there are {sorted(set(manifest.splits))}"
        )
    photos = manifest.part(part)
    verdicts = list(assessor.assess_many(photos.paths))
    readable = np.flatnonzero([verdict.ok for verdict in verdicts])
    if len(readable) == 0:
        raise DataError(f"none of the {len(photos)} photos can be read; the first: {verdicts[0].error}")
    photos = photos.take(readable)
    return evaluate(
        np.array([verdicts[row].distribution for row in readable]),
        photos.distributions,
        np.array(verdicts[readable[0]].score_values),
        true_values=photos.score_values,
        resamples=resamples,
        seed=seed,
        groups=photos.groups,
    )
