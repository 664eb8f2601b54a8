"""The stages of a training run: match → cluster → rank → fit → evaluate.

Each stage leaves its result in the run folder, is skipped while its inputs stay the same, and is taken up
again where a kill left it. `Run` exposes the stages one by one, so that an experiment can fit several heads
on one ranked encoder; `tmcr.training.train` goes through all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tmcr.datasets import load_manifest
from tmcr.datasets.leakage import check_leakage
from tmcr.datasets.manifest import Manifest
from tmcr.datasets.splits import carve_validation
from tmcr.disk import write_whole
from tmcr.encoders import ImageEncoder, ImageTextEncoder
from tmcr.errors import DataError
from tmcr.features import EncoderUse, FeatureStore, store_key
from tmcr.hardware import Hardware, pick_hardware
from tmcr.matching import text_matrix
from tmcr.metrics import Report, evaluate
from tmcr.modelfolder import ClusterTable
from tmcr.network import HeadConfig, PredictionHead
from tmcr.preprocess import PreprocessSpec
from tmcr.scoring.feature_files import KeptEmbeddings
from tmcr.tags import TagLibraries
from tmcr.training.clusters import characteristic_tags, fit_clusters, score_quantiles
from tmcr.training.config import FitConfig, TrainConfig
from tmcr.training.fit import FitData, level_features, predict
from tmcr.training.heads import HeadFitter, check_settings
from tmcr.training.levels import BalancedBatches, score_levels
from tmcr.training.match import Matched, embed_photos, load_matched
from tmcr.training.pairs import Pairs, build_pairs, joined, load_pairs, save_pairs, unlabelled_photos
from tmcr.training.photos import PhotoViews
from tmcr.training.processes import ALONE, Processes
from tmcr.training.rank import rank
from tmcr.training.stage import MetricsLog, Progress, Silent, Stage, digest
from tmcr.training.starting import encoder_digest, frozen_encoder, starting_encoder

RESAMPLES = 1000  # of the bootstrap behind each confidence interval


@dataclass(frozen=True)
class Fitted:
    """A head and, unless its branch is off, the image encoder it works with."""

    head: PredictionHead
    encoder: ImageEncoder | None
    validation: dict[str, float]


class Run:
    """A run folder and the stages that fill it.

    Args:
        config: what to do.
        folder: where results go.
        manifest: rated photos; by default those that `config.data` names.
        image_text: the frozen encoder; by default the one that `config.encoders` names.
        image: the image encoder to start from; by default likewise.
        processes: those that work on the run together, each with a `Run` of its own on the same folder and calling
            the same methods in the same order. The first alone writes and reports.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        *,
        manifest: Manifest | None = None,
        image_text: ImageTextEncoder | None = None,
        image: ImageEncoder | None = None,
        progress: Progress | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.folder = folder
        self.processes = processes
        self.progress: Progress = progress if progress is not None and processes.first else Silent()
        self.hardware: Hardware = pick_hardware(
            config.device, config.precision, config.workers, place=processes.local_rank, places=processes.local_count
        )
        everything = manifest if manifest is not None else load_manifest(config.data)
        if "train" not in everything.splits:
            raise DataError(
                f"{everything.description}: no photo is left to train on; check the split column, or, without one, "
                "rate photos of more groups: those of one group are all for training or all for testing"
            )
        self.everything = carve_validation(everything, config.validation, seed=config.seed)
        self.libraries = TagLibraries.load(config.tags) if config.tags else TagLibraries.default()
        self._image_text = image_text
        self._image = image
        folder.mkdir(parents=True, exist_ok=True)
        if processes.first:
            write_whole(folder / "config.json", config.to_json())
        self.log = MetricsLog(folder / "metrics.jsonl" if processes.first else None)

    # ---- encoders -------------------------------------------------------------------------------------------

    @cached_property
    def image_text(self) -> ImageTextEncoder:
        """The frozen image–text encoder."""
        if self._image_text is not None:
            return self._image_text
        return frozen_encoder(self.config.encoders)

    def starting_encoder(self) -> ImageEncoder:
        """The image encoder as it is before contrastive ranking, with the run's preprocessing."""
        return starting_encoder(self.config, self._image)

    # ---- match ----------------------------------------------------------------------------------------------

    @cached_property
    def matched(self) -> Matched:
        """Stage 1. Photos as embeddings, tags as text features."""
        encoder = self.image_text
        names = self.libraries.names
        cache = self.config.cache or self.folder / "cache"
        text = self.processes.first_ahead(
            lambda: text_matrix(encoder, names, template=self.config.match.template, cache_dir=cache / "text")
        )
        inputs = {
            "photos": [str(path) for path in self.everything.paths],
            "encoder": encoder.fingerprint,
            "preprocess": encoder.preprocess.to_dict(),
        }
        stage = Stage(self.folder, "match", inputs)
        store_path = cache / "features" / f"{store_key(encoder.fingerprint, encoder.preprocess)}.sqlite"

        def work(folder: Path) -> dict[str, Any]:
            with FeatureStore(store_path, encoder.dim) if self.processes.first else nullcontext() as store:
                embed_photos(
                    folder,
                    self.everything.paths,
                    encoder,
                    store,
                    kept=self._kept_embeddings(encoder),
                    hardware=self.hardware,
                    batch_size=self.config.match.batch_size,
                    progress=self.progress,
                    processes=self.processes,
                )
            if not self.processes.first:
                return {}
            errors = json.loads((folder / "photos.json").read_text())["errors"]
            return {"photos": len(self.everything), "unreadable": len(errors)}

        self._run_stage(stage, work, together=True)
        matched = load_matched(stage.folder, text.float().cpu(), self.libraries.n_semantic)
        check_leakage(self.everything.take(matched.rows), matched.hashes, allow=self.config.allow_leakage)
        return matched

    @cached_property
    def manifest(self) -> Manifest:
        """The photos that could be read; indices everywhere below count these."""
        return self.everything.take(self.matched.rows)

    def part(self, name: str) -> NDArray[np.int64]:
        """Indices of the "train", "val" or "test" photos."""
        return np.flatnonzero(np.array(self.manifest.splits) == name).astype(np.int64)

    # ---- cluster --------------------------------------------------------------------------------------------

    @cached_property
    def clusters(self) -> tuple[ClusterTable, NDArray[np.int64]]:
        """Stage 2. The kinds of photos, and the kind of each training photo."""
        train = self.part("train")
        inputs = {
            "match": self._match_digest,
            "tags": self.libraries.hash,
            "train": train.tolist(),
            "scores": self.manifest.scores[train].tolist(),
            "k": self.config.cluster.k,
            "seed": self.config.seed,
        }
        stage = Stage(self.folder, "cluster", inputs)

        def work(folder: Path) -> dict[str, Any]:
            self.progress.start("cluster", 1)
            similarities = self.matched.semantic(train).numpy()
            found = fit_clusters(similarities, self.config.cluster.k, seed=self.config.seed)
            scores = self.manifest.scores[train]
            names = characteristic_tags(similarities, found.labels, self.libraries.semantic.tags, top=3)
            tensors = {
                "centroids": torch.from_numpy(found.centroids),
                "labels": torch.from_numpy(found.labels.astype(np.int64)),
                "quantiles": torch.from_numpy(score_quantiles(scores, found.labels).astype(np.float32)),
            }
            write_whole(folder / "clusters.safetensors", lambda part: save_file(tensors, part))
            write_whole(folder / "tags.json", json.dumps(names))
            self.progress.step()
            return {"clusters": len(found.centroids), "sizes": np.bincount(found.labels).tolist()}

        self._run_stage(stage, work)
        tensors = load_file(stage.folder / "clusters.safetensors")
        tags = json.loads((stage.folder / "tags.json").read_text())
        table = ClusterTable(
            tensors["centroids"].numpy(),
            tensors["quantiles"].numpy(),
            tuple(tuple(names) for names in tags),
        )
        return table, tensors["labels"].numpy()

    # ---- rank -----------------------------------------------------------------------------------------------

    def ranked_encoder(self) -> ImageEncoder:
        """Stage 3. The image encoder after contrastive ranking."""
        config = self.config.rank
        encoder = self.starting_encoder()
        if config.loss == "none" or config.epochs == 0:
            return encoder
        train = self.part("train")
        _, labels = self.clusters
        scores = self.manifest.scores[train]
        inputs = {
            "config": config.model_dump(),
            "encoder": encoder_digest(encoder),
            "cluster": Stage(self.folder, "cluster", {}).folder.joinpath("done.json").read_text(),
            "seed": self.config.seed,
            "precision": self.hardware.bf16,
        }
        stage = Stage(self.folder, "rank", inputs)

        def work(folder: Path) -> dict[str, Any]:
            levels = score_levels(scores, bins=config.level_bins, form=config.form)
            batches = BalancedBatches(
                labels,
                levels,
                n_bal=config.n_bal,
                batch_limit=config.batch_limit,
                frequency=config.frequency,
                seed=self.config.seed,
            )
            loss = rank(
                encoder,
                self._views(encoder.preprocess, train, config.flip),
                batches,
                torch.from_numpy(levels),
                torch.from_numpy(scores).float(),
                config=config,
                hardware=self.hardware,
                seed=self.config.seed,
                checkpoint=folder / "checkpoint.pt",
                checkpoint_every=self.config.checkpoint_every,
                log=self.log,
                progress=self.progress,
            )
            if self.processes.first:
                state = {key: value.cpu().contiguous() for key, value in encoder.state_dict().items()}
                write_whole(folder / "encoder.safetensors", lambda part: save_file(state, part))
                (folder / "checkpoint.pt").unlink(missing_ok=True)
            return {"loss": loss, "batches_per_epoch": len(batches)}

        self._run_stage(stage, work, together=True)
        encoder.load_state_dict(load_file(stage.folder / "encoder.safetensors"))
        return encoder.eval()

    # ---- fit ------------------------------------------------------------------------------------------------

    def fit(self, config: FitConfig | None = None, *, name: str = "fit") -> Fitted:
        """Stage 4. A prediction head, with the encoder frozen (LP) or fine-tuned (FT)."""
        config = config or self.config.fit
        check_settings(config)
        uses_levels = "cr" in config.branches
        encoder = self.ranked_encoder() if uses_levels else None
        inputs = {
            "config": config.model_dump(),
            "match": self._match_digest,
            "tags": self.libraries.hash,
            "splits": self.manifest.splits,
            "distributions": self.manifest.distributions.tolist(),
            "encoder": encoder_digest(encoder) if encoder is not None else None,
            "seed": self.config.seed,
            "precision": self.hardware.bf16,
        }
        stage = Stage(self.folder, name, inputs)
        shape = self._head_config(config, encoder)

        def work(folder: Path) -> dict[str, Any]:
            fitter = HeadFitter(
                shape, encoder, config, self.hardware, self.config.seed, folder, name, self.log, self.progress
            )
            head, summary = fitter(replace(self._fit_data(config, encoder), pairs=self._pairs(config, encoder)))
            if not self.processes.first:
                return {}
            tensors = {f"head.{key}": value for key, value in head.state_dict().items()}
            if encoder is not None:
                tensors |= {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
            tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
            write_whole(folder / "model.safetensors", lambda part: save_file(tensors, part))
            for left in folder.glob("*.pt"):
                left.unlink()
            return dict(summary)

        self._run_stage(stage, work, together=True)
        tensors = load_file(stage.folder / "model.safetensors")
        head = PredictionHead(replace(shape, hidden=shape.hidden * config.heads))
        head.load_state_dict(_with_prefix(tensors, "head."))
        if encoder is not None:
            encoder.load_state_dict(_with_prefix(tensors, "encoder."))
            encoder.cpu().eval()
        return Fitted(head.cpu().eval(), encoder, stage.summary)

    # ---- evaluate -------------------------------------------------------------------------------------------

    def predict(self, fitted: Fitted, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted distributions (B, D) of the photos at `rows`."""
        config = self.config.fit
        data = self._fit_data(config, fitted.encoder, with_features=False)
        fitted.head.to(self.hardware.device)
        if fitted.encoder is not None:
            fitted.encoder.to(self.hardware.device)
        predicted = predict(fitted.head, fitted.encoder, data, rows, self.hardware, config.batch_size)
        return predicted.double().numpy()

    def evaluate(self, fitted: Fitted, part: str = "test") -> Report:
        """Stage 5. All metrics with confidence intervals on a part that no stage has learnt from."""
        rows = self.part(part)
        if len(rows) == 0:
            raise DataError(
                f"{self.manifest.description}: no photo is marked {part!r}, so nothing can be evaluated on it"
            )
        manifest = self.manifest.take(rows)
        return evaluate(
            self.predict(fitted, rows),
            manifest.distributions,
            manifest.score_values,
            train_scores=self.manifest.scores[self.part("train")],
            resamples=RESAMPLES,
            groups=manifest.groups,
            seed=self.config.seed,
        )

    # ---- shared ---------------------------------------------------------------------------------------------

    def _run_stage(self, stage: Stage, work: Any, *, together: bool = False) -> None:
        did = stage.run(work, processes=self.processes, together=together)
        facts = ", ".join(f"{key} {_brief(value)}" for key, value in stage.summary.items())
        if stage.summary.get("epochs") == 0:
            facts += "; no epoch was better on validation than the start: more photos, or a lower fit.learning_rate"
        self.progress.finish(f"{stage.name}: {facts}" + ("" if did else " (unchanged, skipped)"))

    def _kept_embeddings(self, encoder: ImageTextEncoder) -> KeptEmbeddings | None:
        if self.config.features is None:
            return None
        use = EncoderUse(encoder.fingerprint, encoder.preprocess, encoder.dim)
        return KeptEmbeddings(self.config.features, use, self.hardware.arithmetic)

    @property
    def _match_digest(self) -> str:
        return digest(
            {
                "photos": self.matched.hashes,
                "encoder": self.image_text.fingerprint,
                "preprocess": self.image_text.preprocess.to_dict(),
                "template": self.config.match.template,
            }
        )

    def _head_config(self, config: FitConfig, encoder: ImageEncoder | None) -> HeadConfig:
        return HeadConfig(
            n_semantic=len(self.libraries.semantic),
            n_attribute=len(self.libraries.attribute),
            level_width=encoder.width if encoder is not None else 0,
            n_bins=len(self.manifest.score_values),
            hidden=config.hidden,
            branches=config.branches,
            semantic_only=config.semantic_only,
            score_head=config.score_head,
            dropout=config.dropout,
        )

    def _pairs(self, config: FitConfig, encoder: ImageEncoder | None) -> Pairs | None:
        """Pairs of the training photos and of `fit.pair_photos`, kept in the cache across runs."""
        if config.pair_weight == 0:
            return None
        cache = (self.config.cache or self.folder / "cache") / "pairs"
        cache.mkdir(parents=True, exist_ok=True)
        drawn = np.random.default_rng((self.config.seed, 3)).permutation(self.part("train"))[: config.pair_limit]
        rated = [self.manifest.paths[row] for row in sorted(drawn)]
        found = []
        for paths in (rated, unlabelled_photos(config.pair_photos) if config.pair_photos else []):
            if not paths:
                continue
            inputs = {
                "photos": [str(path) for path in paths],
                "image_text": [self.image_text.fingerprint, self.image_text.preprocess.to_dict()],
                "encoder": encoder_digest(encoder) if encoder is not None else None,
                "copies": config.pair_copies,
                "seed": self.config.seed,
                "precision": self.hardware.bf16,
            }
            kept = cache / f"{digest(inputs)[:24]}.safetensors"

            def pairs_of(paths: Sequence[Path] = paths, kept: Path = kept) -> Pairs:
                if not kept.exists():
                    pairs = build_pairs(
                        paths,
                        self.image_text.to(self.hardware.device),
                        encoder.to(self.hardware.device).eval() if encoder is not None else None,
                        copies=config.pair_copies,
                        seed=self.config.seed,
                        hardware=self.hardware,
                        batch_size=64,
                        progress=self.progress,
                    )
                    save_pairs(pairs, kept)
                return load_pairs(kept)

            found.append(self.processes.first_ahead(pairs_of))
        return joined(found)

    def _views(self, preprocess: PreprocessSpec, rows: NDArray[np.int64] | None, flip: bool) -> PhotoViews:
        paths = self.manifest.paths if rows is None else [self.manifest.paths[row] for row in rows]
        return PhotoViews(
            paths,
            preprocess,
            seed=self.config.seed,
            workers=self.hardware.photo_workers,
            flip=flip,
            processes=self.processes,
        )

    def _fit_data(self, config: FitConfig, encoder: ImageEncoder | None, *, with_features: bool = True) -> FitData:
        preprocess = encoder.preprocess if encoder is not None else self.image_text.preprocess
        photos = self._views(preprocess, None, config.flip)
        features: Tensor | None = None
        if encoder is not None and with_features:
            features = level_features(encoder, photos, len(self.manifest), self.hardware, config.batch_size)
        return FitData(
            matched=self.matched,
            photos=photos,
            distributions=torch.from_numpy(self.manifest.distributions).float(),
            score_values=torch.from_numpy(self.manifest.score_values).float(),
            train=self.part("train"),
            validation=self.part("val"),
            level_features=features,
        )


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
