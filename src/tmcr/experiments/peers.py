"""Other people's models as systems: any metric of pyiqa by name, or any Python function that scores photos.

`pyiqa:NAME` wants the extra `[peers]` and, once, NAME's weights, which pyiqa fetches. `MODULE:FUNCTION` is imported
and called with a list of photo files; it returns one number each, the higher the better, or one distribution each
over the data's score bins.

A number on a scale of its own is brought to 1..10 by the straight line that fits the validation photos best, and
becomes a distribution by the rule for sets that only give means. SRCC and PLCC are the peer's own, ACC, MSE and EMD
those after this calibration. Whether a peer has seen the test photos in its own training, only its authors know.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.distributions import distributions_from_means
from tmcr.datasets.manifest import Manifest
from tmcr.errors import ConfigError, DataError, TmcrError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Scorer = Callable[[Sequence[Path]], Any]
PYIQA = "pyiqa:"


@dataclass(frozen=True)
class Peer:
    """A named function from photo files to scores or distributions; `version` changes when its answers may."""

    name: str
    score: Scorer
    version: str


def load_peer(name: str, device: str = "auto") -> Peer:
    """Find the peer called `pyiqa:NAME` or `MODULE:FUNCTION`.

    Raises:
        ConfigError: it is not installed, or there is no such metric, module or function.
    """
    if name.startswith(PYIQA):
        return _pyiqa_metric(name.removeprefix(PYIQA), device)
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        raise ConfigError(f"a peer is pyiqa:NAME or MODULE:FUNCTION, not {name!r}")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"peer {name}: {error}; MODULE must be on PYTHONPATH and FUNCTION in it") from None
    if not callable(function):
        raise ConfigError(f"peer {name}: is no function")
    try:
        version = inspect.getsource(function)
    except (OSError, TypeError):
        version = str(getattr(sys.modules[module_name], "__version__", ""))
    return Peer(name, function, version)


def peer_distributions(peer: Peer, photos: Manifest, validation: Rows, test: Rows) -> Floats:
    """The peer's answers (n, D) for the photos at `test`, calibrated on those at `validation` if they are numbers.

    Raises:
        DataError: the peer fails, or what it returns is neither numbers nor distributions.
    """
    answers = _ask(peer, [photos.paths[row] for row in test], len(photos.score_values))
    if answers.ndim == 2:
        return answers
    known = _ask(peer, [photos.paths[row] for row in validation], len(photos.score_values))
    return calibrated(answers, known, photos, validation)


def calibrated(raw: Floats, known: Floats, photos: Manifest, validation: Rows) -> Floats:
    """Distributions (n, D) for raw scores (n,), by the line that fits `known` (v,) to the validation ratings."""
    scores = photos.scores[validation]
    away = known - known.mean()
    slope = float(away @ scores / (away @ away)) if np.ptp(known) > 1e-12 else 0.0
    # A higher raw score stays a higher one: a peer that ranks the wrong way round must be seen to.
    values = photos.score_values
    means = np.clip(scores.mean() + max(slope, 1e-6) * (raw - known.mean()), values[0], values[-1])
    spread = photos.distributions[validation] @ values**2 - scores**2
    return distributions_from_means(means, values, float(np.sqrt(np.maximum(spread, 0).mean())))


def _ask(peer: Peer, paths: list[Path], bins: int) -> Floats:
    try:
        answers = np.asarray(peer.score(paths), dtype=np.float64)
    except TmcrError:
        raise
    except Exception as error:  # whatever somebody else's code raises is to be told, in one line
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"peer {peer.name} failed on {len(paths)} photos: {reason[:200]}") from error
    if answers.shape not in {(len(paths),), (len(paths), bins)} or not np.isfinite(answers).all():
        raise DataError(
            f"peer {peer.name} must return {len(paths)} finite numbers, or {len(paths)} × {bins} shares; "
            f"it returned an array of shape {answers.shape}"
        )
    if answers.ndim == 2:
        if (answers < 0).any() or (np.abs(answers.sum(1) - 1) > 1e-3).any():
            raise DataError(f"peer {peer.name}: the rows of its distributions must be shares that sum to 1")
        answers /= answers.sum(1, keepdims=True)
    return answers


def _pyiqa_metric(name: str, device: str) -> Peer:
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ImportError as error:
        raise ConfigError(f"peer pyiqa:{name}: {error}; pip install 'tmcr[peers]'") from None
    if name not in (known := list(pyiqa.list_models())):
        raise ConfigError(f"peer pyiqa:{name}: pyiqa has no such metric; it has {', '.join(known[:8])} and more")

    def score(paths: Sequence[Path]) -> list[float]:
        import torch

        where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        metric = pyiqa.create_metric(name, device=torch.device(where))
        sign = -1.0 if metric.lower_better else 1.0
        return [sign * float(metric(str(path))) for path in paths]

    return Peer(f"{PYIQA}{name}", score, str(getattr(pyiqa, "__version__", "")))
