"""From rated photos to a model folder: all stages of a run, and what they leave put together."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tmcr.datasets.leakage import Learnt
from tmcr.disk import write_whole
from tmcr.matching import similarity_moments
from tmcr.metrics import Report
from tmcr.modelfolder import ImageTextSource, TrainedModel, save_model
from tmcr.training.card import model_card
from tmcr.training.match import embedding_moments
from tmcr.training.naming import inherited_minimum, kind_names
from tmcr.training.pipeline import Fitted, Run
from tmcr.training.starting import place_of


def train(run: Run, name: str | None = None) -> tuple[Path, Report | None]:
    """Go through all stages; returns the model folder and, where there is a test part, its evaluation."""
    fitted = run.fit()
    report: Report | None = None
    results: dict[str, Any] = {}
    if len(run.part("test")):
        run.progress.start("evaluate", 1)
        report = run.evaluate(fitted)
        results = report.to_dict()
        run.progress.step()
        if run.processes.first:
            write_whole(run.folder / "report.json", json.dumps(results, indent=2))
        run.progress.finish(f"evaluate: test photos {len(run.part('test'))}")
    model = trained_model(run, fitted, name or run.folder.resolve().name, results)
    if run.processes.first:
        local = Path(place_of(run.config.encoders.image_text))
        save_model(
            model,
            run.folder / "model",
            card=model_card(model),
            image_text_folder=local if local.is_dir() else None,
            storage=run.config.encoders.storage,
        )
    run.processes.wait()
    return run.folder / "model", report


def trained_model(run: Run, fitted: Fitted, name: str, metrics: dict[str, Any]) -> TrainedModel:
    """Everything together, ready to be saved."""
    table, labels = run.clusters
    mean, covariance = embedding_moments(run.matched.embeddings, run.part("train"))
    similarity_mean, similarity_std = similarity_moments(run.matched.text, mean, covariance)
    encoder = run.image_text
    model = TrainedModel(
        name=name,
        head=fitted.head,
        encoder=fitted.encoder,
        image_text=ImageTextSource(
            encoder.name,
            run.config.encoders.image_text_revision,
            encoder.fingerprint,
            encoder.preprocess,
        ),
        libraries=run.libraries,
        text=run.matched.text,
        clusters=table,
        similarity_mean=similarity_mean,
        similarity_std=similarity_std,
        embedding_mean=mean,
        embedding_covariance=covariance,
        score_values=torch.from_numpy(run.manifest.score_values).float(),
        learnt=Learnt.from_manifest(run.manifest, run.matched.hashes),
        training={
            "data": run.config.data,
            "source": run.manifest.source,
            "description": run.manifest.description,
            "photos": {part: len(run.part(part)) for part in ("train", "val", "test")},
            "unreadable": len(run.matched.errors),
            "leakage_allowed": run.config.allow_leakage,
            "preset": run.config.preset,
            "seed": run.config.seed,
            "config": json.loads(run.config.to_json()),
            "versions": {package: version(package) for package in ("tmcr", "torch", "transformers")},
        },
        metrics=metrics,
    )
    model.tag_minimum = inherited_minimum(model, Path(place_of(run.config.encoders.image_text)))
    if model.tag_minimum is not None:
        similarities = run.matched.semantic(run.part("train")).numpy()
        model.clusters = replace(table, tags=kind_names(model, similarities, labels))
    return model
