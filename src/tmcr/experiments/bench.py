"""The bench that every system is tried on: the same photos, the same encoders, answers kept.

A *trial* is one training part with its held-out photos. It hands each system a `Run`, under the system's own settings
where it has some, and keeps the answers by everything they depend on: configuration, photos and ratings, encoder, tags,
and the code that made them. A stopped experiment goes on where it stood; a changed one starts anew.
"""

from __future__ import annotations

import ast
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import tmcr
from tmcr.datasets import load_manifest
from tmcr.datasets.leakage import check_leakage
from tmcr.datasets.manifest import Manifest
from tmcr.disk import write_whole
from tmcr.encoders import ImageEncoder, ImageTextEncoder
from tmcr.errors import ConfigError
from tmcr.experiments.plan import Cell, Plan
from tmcr.streaming import ordered_map
from tmcr.training.config import FitConfig, TrainConfig
from tmcr.training.fit import level_features
from tmcr.training.match import Matched
from tmcr.training.photos import PhotoViews
from tmcr.training.pipeline import Fitted, Run
from tmcr.training.stage import Progress, Silent, digest
from tmcr.training.starting import encoder_digest

if TYPE_CHECKING:
    from tmcr.experiments.systems import System

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
# What an answer does not depend on, and what a change of which costs no new run.
_NOT_STAMPED = ("workers", "cache", "checkpoint_every", "seed")
# The code that answers come from; how experiments are planned, measured and told changes none, nor does how a data
# set is read: its photos, ratings and splits are in the stamp themselves.
_CODE = (
    "attribution.py", "encoders.py", "images.py", "matching.py", "network.py", "preprocess.py", "losses", "training",
    "datasets/distributions.py", *(f"experiments/{name}.py" for name in (
        "baselines", "bench", "handcrafted", "peers", "probes", "reweighting", "systems",
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """Predicted distributions (n, D) of the held-out photos of a trial, and the seconds it took to learn them."""

    distributions: Floats
    seconds: float


class Trial:
    """One training part and its held-out photos.

    Args:
        run: the full method's run; systems with other settings get their own beside it, with the same tag matching.
        stamp: digest of all that answers depend on but the system.
        image: the image encoder to start from, where it is not the one that the configuration names.
        measured: features that do not depend on who is held out, for all trials of a bench to share.
    """

    def __init__(
        self, run: Run, stamp: str, image: ImageEncoder | None = None, measured: dict[str, Floats] | None = None
    ) -> None:
        self.run = run
        self.stamp = stamp
        self._image = image
        self._measured = {} if measured is None else measured

    # ---- what a system may use ---------------------------------------------------------------------------------

    @property
    def config(self) -> TrainConfig:
        return self.run.config

    @property
    def photos(self) -> Manifest:
        """The readable photos; rows below count these."""
        return self.run.manifest

    @cached_property
    def test(self) -> Rows:
        return self.run.part("test")

    @cached_property
    def known(self) -> Rows:
        """Training and validation photos: a baseline that has nothing to stop early learns from both."""
        return np.concatenate([self.run.part("train"), self.run.part("val")])

    def groups(self, rows: Rows) -> list[str]:
        names = self.photos.groups or self.photos.ids
        return [names[row] for row in rows]

    @property
    def frozen_features(self) -> Floats:
        """Features (n, W) of all photos under the image encoder as it was before any training here."""
        random = self.config.encoders.image_weights == "random" and self._image is None
        key = f"frozen, seed {self.config.seed}" if random else "frozen"
        if key not in self._measured:
            encoder, hardware = self.run.starting_encoder(), self.run.hardware
            views = PhotoViews(
                self.photos.paths, encoder.preprocess, seed=0, workers=hardware.photo_workers, flip=False
            )
            self._measured[key] = level_features(encoder, views, len(self.photos), hardware, 32).double().numpy()
        return self._measured[key]

    @property
    def handcrafted(self) -> Floats:
        """Hand-crafted features (n, 22) of all photos."""
        if "hand-crafted" not in self._measured:
            from tmcr.experiments.handcrafted import measure_photo

            self.run.progress.start("hand-crafted features", len(self.photos))
            rows = []
            for row in ordered_map(measure_photo, self.photos.paths, workers=self.run.hardware.photo_workers, ahead=64):
                rows.append(row)
                self.run.progress.step()
            self._measured["hand-crafted"] = np.stack(rows)
        return self._measured["hand-crafted"]

    def under(self, settings: Mapping[str, Any], photos: Manifest | None = None, name: str = "") -> Run:
        """The run under other settings; `fit.*` alone needs no run of its own.

        Args:
            photos: other rated photos, drawn from those of this trial by `take`; `name` then tells the run apart.
        """
        own = {key: value for key, value in settings.items() if not key.startswith("fit.")}
        config = self.config.with_overrides(own)
        if config == self.config and photos is None:
            return self.run
        folder = self.run.folder / "variants" / f"{name or 'run'}-{digest({'config': config.to_json()})[:10]}"
        return self._beside(config, folder, photos)

    def fit_and_predict(self, settings: Mapping[str, Any], run: Run | None = None) -> Floats:
        """Train the network that `settings` describe and let it answer for the held-out photos."""
        run = run or self.under(settings)
        config = self.config.with_overrides(dict(settings)).fit
        return run.predict(self.fit(run, config), run.part("test"))

    @staticmethod
    def fit(run: Run, config: FitConfig) -> Fitted:
        """The head of that configuration on `run`; equal configurations are trained once."""
        kind = f"{config.branches}-{config.mode}" + ("-semantic" if config.semantic_only else "")
        return run.fit(config, name=f"fit-{kind}")

    def _beside(self, config: TrainConfig, folder: Path, photos: Manifest | None) -> Run:
        """A run that shares this one's encoders and tag matching, which no setting of a system touches."""
        run = Run(
            config, folder, manifest=self.photos if photos is None else photos, image_text=self.run.image_text,
            image=self._image, progress=self.run.progress,
        )  # fmt: skip
        matched = self.run.matched
        place = {photo: row for row, photo in enumerate(self.photos.ids)}
        run.matched = rows_of(matched, np.array([place[photo] for photo in run.everything.ids], dtype=np.int64))
        return run

    # ---- answers -----------------------------------------------------------------------------------------------

    def answer(self, system: System) -> Answer:
        """What the system says, from the folder where it has been asked before."""
        stamp = digest({"trial": self.stamp, "system": system.name, "settings": system.settings, "of": system.version})
        path = self.run.folder / "answers" / f"{slug(system.name)}.npz"
        if path.exists():
            with np.load(path) as kept:
                if str(kept["stamp"]) == stamp:
                    return Answer(np.asarray(kept["answers"], dtype=np.float64), float(kept["seconds"]))
        began = time.monotonic()
        distributions = system.answer(self)
        seconds = time.monotonic() - began
        path.parent.mkdir(parents=True, exist_ok=True)

        def save(part: Path) -> None:
            with part.open("wb") as file:
                np.savez(file, stamp=stamp, answers=distributions, seconds=seconds)

        write_whole(path, save)
        self.run.progress.finish(f"{system.name}: {len(distributions)} photos in {seconds:.0f} s")
        return Answer(distributions, seconds)


class Bench:
    """A data set, the encoders and a folder, and the trials that a plan makes of them.

    Args:
        config: the full method; systems change it.
        folder: what is finished is kept below.
        image_text, image: encoders where they are not those that `config.encoders` names.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        image_text: ImageTextEncoder | None = None,
        image: ImageEncoder | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.folder = folder
        self.config = config.with_overrides({"cache": str((config.cache or folder / "cache").resolve())})
        self.everything = load_manifest(config.data)
        self._image_text = image_text
        self._image = image
        self.progress: Progress = progress or Silent()
        self._matched: Matched | None = None
        self._image_weights: str | None = None
        self._measured: dict[str, Floats] = {}
        self._trials: dict[tuple[str, int], Trial] = {}

    def passes(self, plan: Plan) -> list[list[Trial]]:
        """The trials of each pass; made once, whoever asks."""
        return [[self._trial(cell) for cell in cells] for cells in plan.passes(self.everything, self.config.validation)]

    def _trial(self, cell: Cell) -> Trial:
        key = (cell.name, cell.seed)
        if key not in self._trials:
            self._trials[key] = self._new_trial(cell)
        return self._trials[key]

    def _new_trial(self, cell: Cell) -> Trial:
        config = self.config.with_overrides({"seed": cell.seed})
        told = {key: value for key, value in json.loads(config.to_json()).items() if key not in _NOT_STAMPED}
        about = {"config": told, "seed": cell.seed, "data": cell.manifest.fingerprint, "code": code_digest()}
        folder = self.folder / "work" / f"{cell.name}-seed-{cell.seed}-{digest(about)[:10]}"
        run = Run(
            config, folder, manifest=cell.manifest, image_text=self._image_text, image=self._image,
            progress=self.progress,
        )  # fmt: skip
        if self._matched is None:
            self._image_text = run.image_text  # loaded once for all trials
            self._matched = run.matched
        else:
            # Who is held out changes nothing about the embeddings, but everything about leakage.
            check_leakage(cell.manifest.take(self._matched.rows), self._matched.hashes, allow=config.allow_leakage)
            run.matched = self._matched
        if self._image_weights is None:
            self._image_weights = encoder_digest(run.starting_encoder())
        encoders = [run.image_text.fingerprint, run.libraries.hash, self._image_weights]
        if not len(run.part("test")):
            raise ConfigError(f"{cell.name}: none of its test photos can be read; take fewer folds")
        return Trial(run, digest(about | {"encoders": encoders}), self._image, self._measured)


def rows_of(matched: Matched, rows: Rows) -> Matched:
    """Tag matching of the photos at `rows`, which may repeat."""
    unchanged = np.array_equal(rows, np.arange(len(matched.hashes)))
    return replace(
        matched,
        rows=np.arange(len(rows)),
        hashes=tuple(matched.hashes[row] for row in rows),
        # All of them in their order are not copied: of a large set they are most of what memory holds.
        embeddings=matched.embeddings if unchanged else matched.embeddings[rows],
    )


def slug(name: str) -> str:
    """A name for a file: "TM+CR FT, no ranking" is "tm+cr-ft-no-ranking"."""
    kept = "".join(character if character.isalnum() or character in "+." else "-" for character in name.lower())
    return "-".join(part for part in kept.split("-") if part)


@cache
def code_digest() -> str:
    """Digest of the code that answers come from; comments and layout do not count."""
    root = Path(tmcr.__file__).parent
    files: list[Path] = []
    for place in _CODE:
        path = root / place
        files += sorted(path.glob("*.py")) if path.is_dir() else [path]
    told = {
        str(path.relative_to(root)): ast.dump(ast.parse(path.read_text(encoding="utf-8")))
        for path in files
        if path.exists()
    }
    return digest(told)


def in_common_order(trials: Sequence[Trial], answers: Sequence[Floats], ids: Sequence[str]) -> Floats:
    """Answers of a pass (N, D) in the order of `ids`."""
    place = {photo: row for row, photo in enumerate(ids)}
    out: Floats = np.full((len(ids), answers[0].shape[1]), np.nan)
    for trial, answer in zip(trials, answers, strict=True):
        out[[place[trial.photos.ids[row]] for row in trial.test]] = answer
    return out
