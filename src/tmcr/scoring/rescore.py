"""Scores of photos whose features are kept: no photo is read, no encoder runs, and no row passes through Python.

Tags enter the head's first layer, and the distance to a kind of photo, by their similarities alone, which are linear in
the embedding (eq. 5–7, 8, 12). So the matrix of tag embeddings is multiplied into that layer and into the centroids
once, and a photo costs products of the embedding's few hundred numbers instead of thousands of tags.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.backends import encoding_of
from tmcr.disk import write_whole
from tmcr.errors import ConfigError, DataError
from tmcr.modelfolder import TrainedModel
from tmcr.network import DimensionTransform, Standardize, expected_score, score_std
from tmcr.results import MANIFEST, check_destination, join_parts, results_schema
from tmcr.scoring.feature_files import FeatureManifest, FeatureRows, read_features
from tmcr.shown_tags import Shown, ShownTags
from tmcr.streaming import overlapped

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 16_384
_ROWS_WITH_TAGS = 2048  # a similarity to each of thousands of tags is in memory for every row


def rescore(
    folder: Path,
    model: TrainedModel,
    out: Path,
    *,
    tags: bool = False,
    scored: Callable[[int], None] = lambda count: None,
) -> int:
    """Score all photos of a feature folder into a results file; returns their number.

    The columns are those of `tmcr score`, but for reasons, facets and contributions, which stay empty. Rows come in the
    order in which the photos were kept. Memory does not grow with their number.

    Args:
        model: any model with the encoders and preprocessing that made the features.
        out: .parquet, .csv or .jsonl; it takes its name when it is whole.
        tags: also name the best-fitting tags of each photo.
        scored: told how many more photos are done.

    Raises:
        ConfigError: `out` cannot be written.
        DataError: there are no features, they are damaged, or the disk is full.
        ModelError: the features were made by other encoders or preprocessing.
    """
    if out.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{out}: lies in the features' own folder; choose another place")
    check_destination(out)
    manifest = FeatureManifest.load(folder)
    manifest.require(encoding_of(model), folder)
    tables = _tables(folder, manifest, model, tags)
    try:
        with contextlib.closing(overlapped(tables, ahead=2)) as ahead:
            if out.suffix.lower() == ".parquet":
                write_whole(out, lambda part: _write(ahead, part, scored))
            else:
                with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as parts:
                    _write(ahead, Path(parts) / "part.parquet", scored)
                    whole = {"parts": [{"file": "part.parquet", "rows": [[0, manifest.rows]]}]}
                    (Path(parts) / MANIFEST).write_text(json.dumps(whole), encoding="ascii")
                    join_parts(Path(parts), out)
    except OSError as error:
        raise DataError(f"{out}: results cannot be written ({error.strerror or error}); is the disk full?") from None
    return manifest.rows


def _write(tables: Iterator[pa.Table], path: Path, scored: Callable[[int], None]) -> None:
    from pyarrow import parquet

    with parquet.ParquetWriter(path, results_schema(), compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            scored(table.num_rows)


def _tables(folder: Path, manifest: FeatureManifest, model: TrainedModel, tags: bool) -> Iterator[pa.Table]:
    folded = FoldedModel(model)
    namer = TagNamer(model) if tags else None
    for rows in read_features(folder, manifest, _ROWS_WITH_TAGS if tags else ROWS_AT_ONCE):
        embeddings = torch.from_numpy(rows.embeddings).float()
        levels = torch.from_numpy(rows.levels).float() if rows.levels is not None else None
        columns = _columns(model, rows, folded(embeddings, levels))
        if namer is not None:
            columns |= namer(embeddings)
        yield _table(columns, len(rows))


@dataclass(frozen=True)
class Verdicts:
    """distribution (B, D), score (B,), std (B,), kinds (B,) and percentiles (B,), the last two None without kinds."""

    distribution: NDArray[np.float32]
    score: NDArray[np.float32]
    std: NDArray[np.float32]
    kinds: NDArray[np.int32] | None
    percentiles: NDArray[np.float32] | None


class FoldedModel:
    """A model's head and kinds of photos over features, with the tags multiplied in."""

    def __init__(self, model: TrainedModel) -> None:
        head = model.head
        text = model.text.double()
        self._branches: list[_Affine] = []
        self._uses_tags, self._uses_levels = head.config.uses_tags, head.config.uses_levels
        if self._uses_tags:
            self._branches.append(_Affine.of(head.tag_transform, head.tag_scale).after(text[: head.config.n_tags]))
        if self._uses_levels:
            self._branches.append(_Affine.of(head.level_transform, head.level_scale))
        self._score_layer = _Affine.of(head.score_transform) if head.score_transform is not None else None
        self._output = _Affine(head.output.weight.detach().double(), head.output.bias.detach().double())
        self._score_values = model.score_values.double()
        self._quantiles = model.clusters.quantiles
        centroids = torch.from_numpy(model.clusters.centroids).double()
        # The nearest centroid has the largest s·c − |c|²/2, for similarities s.
        self._nearness = (
            _Affine(centroids, -(centroids**2).sum(1) / 2).after(text[: model.libraries.n_semantic])
            if len(centroids)
            else None
        )

    @torch.inference_mode()
    def __call__(self, embeddings: Tensor, levels: Tensor | None) -> Verdicts:
        """Verdicts on photos by their embeddings (B, E) and level features (B, W), in float32 or float64."""
        inputs = ([embeddings] if self._uses_tags else []) + (
            [levels] if self._uses_levels and levels is not None else []
        )
        fused = torch.cat([layer(x).relu() for layer, x in zip(self._branches, inputs, strict=True)], dim=1)
        if self._score_layer is not None:
            fused = self._score_layer(fused).relu()
        distribution = self._output(fused).double().softmax(1)
        score = expected_score(distribution, self._score_values).float().numpy()
        std = score_std(distribution, self._score_values).float().numpy()
        kinds = percentiles = None
        if self._nearness is not None:
            kinds = self._nearness(embeddings).argmax(1).numpy().astype(np.int32)
            percentiles = _percentiles(score, kinds, self._quantiles)
        return Verdicts(distribution.float().numpy(), score, std, kinds, percentiles)


class _Affine:
    """x ↦ x Wᵀ + b. W and b are made in double precision; products run in the precision of x."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias
        self._as: dict[torch.dtype, tuple[Tensor, Tensor]] = {}

    @classmethod
    @torch.no_grad()
    def of(cls, layer: DimensionTransform, scale: Standardize | None = None) -> _Affine:
        """Linear and batch normalisation of a layer, after standardisation."""
        weight, bias = (part.detach().double() for part in layer.folded())
        if scale is not None:
            weight = weight / scale.std.double()
            bias = bias - weight @ scale.mean.double()
        return cls(weight, bias)

    def after(self, matrix: Tensor) -> _Affine:
        """The same of x·matrixᵀ, for a matrix (width, E)."""
        return _Affine(self._weight @ matrix, self._bias)

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype not in self._as:
            self._as[x.dtype] = self._weight.T.to(x.dtype).contiguous(), self._bias.to(x.dtype)
        weight, bias = self._as[x.dtype]
        return torch.addmm(bias, x, weight)


def _percentiles(
    scores: NDArray[np.float32], kinds: NDArray[np.int32], quantiles: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`tmcr.training.clusters.percentile` of scores (B,) among the quantiles (K, Q) of their kinds (B,)."""
    found = np.empty(len(scores), np.float32)
    last = quantiles.shape[1] - 1
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        steps, here = quantiles[kind], scores[rows]
        below, upto = np.searchsorted(steps, here, side="left"), np.searchsorted(steps, here, side="right")
        low, high = steps[np.maximum(below - 1, 0)], steps[np.minimum(below, last)]
        between = (below == upto) & (below > 0) & (below <= last)
        share = np.divide(here - low, high - low, out=np.zeros_like(here), where=between)
        found[rows] = 100 * np.where(between, (below - 1 + share) / last, (below + upto) / (2 * (last + 1)))
    return found


class TagNamer:
    """The tags that a model shows of many photos at once, as columns of results."""

    def __init__(self, model: TrainedModel) -> None:
        import pyarrow as pa

        self._shown = ShownTags(model)
        self._mean, self._std = model.similarity_mean, model.similarity_std.clamp_min(1e-6)
        self._sureness = _Affine(
            model.text.double() / self._std.double()[:, None],
            -(self._mean / self._std).double() - self._shown.bar.double(),
        )
        self._names = pa.array(model.libraries.names, pa.string())
        self._facets = pa.array(model.libraries.facets, pa.string())

    @torch.inference_mode()
    def __call__(self, embeddings: Tensor) -> dict[str, Any]:
        """`semantic_tags` and `attribute_tags` for embeddings (B, E)."""
        sureness = self._sureness(embeddings)
        columns = zip(("semantic_tags", "attribute_tags"), self._shown(sureness), strict=True)
        return {name: self._column(name, shown, sureness) for name, shown in columns}

    def _column(self, name: str, shown: Shown, sureness: Tensor) -> Any:
        import pyarrow as pa

        photos, places = shown.chosen.nonzero()
        tags = torch.from_numpy(shown.tags[photos, places])
        z = sureness[torch.from_numpy(photos), tags] + self._shown.bar[tags]
        chosen = pa.array(tags.numpy())
        kind = results_schema().field(name).type
        parts = [
            self._names.take(chosen),
            pa.array((z * self._std[tags] + self._mean[tags]).numpy()),
            pa.array(z.numpy()),
            self._facets.take(chosen),
        ]
        return _lists(shown.chosen.sum(1), pa.StructArray.from_arrays(parts, fields=list(kind.value_type)))


def _columns(model: TrainedModel, rows: FeatureRows, verdicts: Verdicts) -> dict[str, Any]:
    """What `verdicts` say, as columns of results."""
    import pyarrow as pa

    count, bins = verdicts.distribution.shape
    columns = {
        "photo": rows.names,
        "score": pa.array(verdicts.score),
        "std": pa.array(verdicts.std),
        "distribution": _lists(np.full(count, bins), pa.array(verdicts.distribution.ravel())),
        "score_values": _lists(np.full(count, bins), pa.array(np.tile(model.score_values.numpy(), count))),
        "model": pa.repeat(model.name, count),
        "model_hash": pa.repeat(model.hash, count),
        "width": pa.array(np.ascontiguousarray(rows.sizes[:, 0])),
        "height": pa.array(np.ascontiguousarray(rows.sizes[:, 1])),
        "content_hash": rows.content_hashes,
    }
    if verdicts.kinds is not None:
        kind = results_schema().field("cluster").type
        tags = pa.array(model.clusters.tags, pa.list_(pa.string())).take(pa.array(verdicts.kinds))
        columns["cluster"] = pa.StructArray.from_arrays([pa.array(verdicts.kinds), tags], fields=list(kind))
        columns["percentile"] = pa.array(verdicts.percentiles)
    return columns


def _lists(lengths: NDArray[np.integer], values: Any) -> Any:
    """A column of lists from their lengths (B,) and all their values."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), values)


def _table(columns: dict[str, Any], count: int) -> pa.Table:
    """A table of results from the columns at hand; the others are empty."""
    import pyarrow as pa

    schema = results_schema()
    return pa.table(
        [columns[field.name] if field.name in columns else pa.nulls(count, field.type) for field in schema],
        schema=schema,
    )
