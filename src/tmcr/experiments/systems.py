"""The systems that are compared. Each is a function from a trial to its held-out photos' predicted distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import ConfigError
from tmcr.experiments.baselines import choose_strength, constant, ridge
from tmcr.experiments.bench import Trial
from tmcr.experiments.peers import calibrated, load_peer, peer_distributions
from tmcr.experiments.probes import MLP_WIDTHS, antonym_preference, probe
from tmcr.experiments.reweighting import epochs_over_copies, reweighted

Floats = NDArray[np.float64]

RIDGE = "ridge on frozen features"
FULL_LP, FULL_FT = "TM+CR LP", "TM+CR FT"
SEMANTIC_ONLY = "semantic tags only"


@dataclass(frozen=True)
class System:
    """A way to predict ratings.

    Attributes:
        name: as tables and `--system` have it.
        about: one line: what it is, and what it learns.
        answer: trial → distributions (n, D) of its held-out photos.
        settings: what it changes in the full method's configuration.
        unavailable: why it cannot be tried in this trial, "" where it can.
        version: changes when answers may although code, settings and data are the same (somebody else's model).
    """

    name: str
    about: str
    answer: Callable[[Trial], Floats]
    settings: Mapping[str, Any] = field(default_factory=dict)
    unavailable: Callable[[Trial], str] = lambda trial: ""
    version: str = ""


def find_systems(names: Sequence[str], device: str = "auto") -> list[System]:
    """The systems called `names`; one with a colon in it is a peer.

    Raises:
        ConfigError: there is no such system or peer.
    """
    return [_find(name, device) for name in names]


def frequency_sweep(frequencies: Sequence[int]) -> list[System]:
    """The full method under linear probe at several sampling frequencies (Figure 6)."""
    settings = {"fit.branches": "tm+cr", "fit.mode": "lp"}
    return [_network(f"{FULL_LP}, frequency {each}", "", settings | {"rank.frequency": each}) for each in frequencies]


def _find(name: str, device: str) -> System:
    if name in SYSTEMS:
        return SYSTEMS[name]
    if ":" in name:
        peer = load_peer(name, device)

        def answer(trial: Trial) -> Floats:
            return peer_distributions(peer, trial.photos, trial.run.part("val"), trial.test)

        return System(name, "a peer, calibrated on the validation photos", answer, version=peer.version)
    raise ConfigError(f"no system {name!r}; there are {', '.join(SYSTEMS)}, and peers: pyiqa:NAME, MODULE:FUNCTION")


# ---- nothing learnt, or a closed form -----------------------------------------------------------------------------


def _constant(trial: Trial) -> Floats:
    return constant(trial.photos.distributions[trial.known], len(trial.test))


def _ridge_on(features: Callable[[Trial], Floats]) -> Callable[[Trial], Floats]:
    def answer(trial: Trial) -> Floats:
        x, known = features(trial), trial.known
        distributions, values = trial.photos.distributions[known], trial.photos.score_values
        strength = choose_strength(x[known], distributions, trial.groups(known), values, seed=trial.config.seed)
        return ridge(x[known], distributions, x[trial.test], strength=strength)

    return answer


def _all_similarities(trial: Trial) -> Floats:
    return trial.run.matched.similarities(np.arange(len(trial.photos))).double().numpy()


# ---- the frozen image–text encoder --------------------------------------------------------------------------------


def _probe(widths: tuple[int, ...]) -> Callable[[Trial], Floats]:
    def answer(trial: Trial) -> Floats:
        return probe(
            trial.run.matched.embeddings, trial.photos.distributions, train=trial.run.part("train"),
            validation=trial.run.part("val"), test=trial.test, widths=widths, config=trial.config.fit,
            seed=trial.config.seed,
        )  # fmt: skip

    return answer


def _zero_shot(trial: Trial) -> Floats:
    preference = antonym_preference(trial.run.image_text, trial.run.matched.embeddings)
    validation = trial.run.part("val")
    return calibrated(preference[trial.test], preference[validation], trial.photos, validation)


def _no_zero_shot(trial: Trial) -> str:
    if getattr(trial.run.image_text, "zero_shot", True):
        return ""
    return "the stand-in encoder was never trained to compare photos with sentences"


# ---- networks -----------------------------------------------------------------------------------------------------


def _network(name: str, about: str, settings: Mapping[str, Any]) -> System:
    return System(name, about, lambda trial: trial.fit_and_predict(settings), settings)


def _reweighted(settings: dict[str, Any]) -> Callable[[Trial], Floats]:
    def answer(trial: Trial) -> Floats:
        photos = reweighted(trial.photos, seed=trial.config.seed)
        run = trial.under({"rank.loss": "none"}, photos, name="lds")
        return trial.fit_and_predict(settings | epochs_over_copies(trial.config.fit), run)

    return answer


def _rivals() -> list[System]:
    """The full network with something else in the traversal loss's place, at the same budget."""
    rivals = []
    for mode in ("lp", "ft"):
        both = {"fit.branches": "tm+cr", "fit.mode": mode}
        for label, loss in (("no ranking", "none"), ("SupCon", "supcon"), ("Rank-N-Contrast", "rank-n-contrast")):
            about = f"TM+CR, {label} in place of the traversal loss"
            rivals.append(_network(f"{label} {mode.upper()}", about, both | {"rank.loss": loss}))
        about = "TM+CR without ranking, training photos weighted by label distribution smoothing"
        rivals.append(System(f"LDS {mode.upper()}", about, _reweighted(both), both))
    return rivals


_ALL = [
    System("constant", "the mean training distribution for every photo", _constant),
    System(
        "hand-crafted + ridge",
        "22 measurements of colour, exposure, sharpness and composition",
        _ridge_on(lambda trial: trial.handcrafted),
    ),
    System(
        RIDGE,
        "the image encoder's features before any training here",
        _ridge_on(lambda trial: trial.frozen_features),
    ),
    System("tags + ridge", "similarities to all tags", _ridge_on(_all_similarities)),
    System(
        "zero-shot prompts",
        "five pairs of opposite prompts; scale from the validation photos",
        _zero_shot,
        unavailable=_no_zero_shot,
    ),
    System("linear probe", "one layer on the frozen image–text embedding", _probe(())),
    System("MLP probe", "four hidden layers on it, as LAION's aesthetic predictor has", _probe(MLP_WIDTHS)),
    _network(
        "NIMA", "image encoder, head, softmax and EMD: plain fine-tuning, no tags, no ranking",
        {"rank.loss": "none", "fit.branches": "cr", "fit.mode": "ft"},
    ),
    _network("TM", "tag similarities alone (TM-Net)", {"fit.branches": "tm", "fit.mode": "lp"}),
    _network("CR", "ranked encoder alone, fine-tuned (CR-Net)", {"fit.branches": "cr", "fit.mode": "ft"}),
    _network(FULL_LP, "both branches, ranked encoder frozen", {"fit.branches": "tm+cr", "fit.mode": "lp"}),
    _network(FULL_FT, "the method: both branches, fine-tuned", {"fit.branches": "tm+cr", "fit.mode": "ft"}),
    _network(
        SEMANTIC_ONLY, "the method without attribute tags",
        {"fit.branches": "tm+cr", "fit.mode": "ft", "fit.semantic_only": True},
    ),
    *_rivals(),
]  # fmt: skip
SYSTEMS = {system.name: system for system in _ALL}
