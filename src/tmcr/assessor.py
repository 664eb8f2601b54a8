"""Photos in, Assessments out: the one inference path that every interface uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.assessment import Assessment, Cluster, Facet, Reason, Tag
from tmcr.attribution import Attribution
from tmcr.backends import Backend, TorchBackend, encoding_of, open_backend
from tmcr.encoders import ImageTextEncoder, load_image_text_encoder, resolve_source
from tmcr.errors import ConfigError, ModelError
from tmcr.features import Encoding
from tmcr.hardware import Hardware, Precision, pick_hardware
from tmcr.images import ImageLimits, Source
from tmcr.matching import match, similarity_moments, text_matrix
from tmcr.modelfolder import EMBEDDINGS, STARTER, TrainedModel, load_model
from tmcr.network import score_std
from tmcr.preparation import Preparation, Prepared
from tmcr.shown_tags import TOP_TAGS, Shown, ShownTags
from tmcr.streaming import batched, ordered_map
from tmcr.tags import TagLibraries
from tmcr.training.clusters import assign, percentile

TOP_REASONS = 12
TOP_FACET_TAGS = 3
LEAST_LACK = 1.0  # standard deviations below what is usual from which on a photo lacks a look
_OTHERS = "other {} tags"  # what tags of no facet are called together


class Assessor:
    """A trained model with its encoders, ready to assess photos.

    Safe to share between threads as long as one assesses at a time.
    """

    def __init__(
        self,
        model: TrainedModel,
        image_text: ImageTextEncoder,
        hardware: Hardware | None = None,
        limits: ImageLimits | None = None,
        own_tags: Sequence[str] = (),
        backend: Backend | None = None,
    ) -> None:
        """Put the pieces together.

        Args:
            backend: what computes the encoders; torch by default.
            own_tags: further tags to compare photos with, for display and search; the score does not depend on them.

        Raises:
            ModelError: `image_text` is not the encoder that the model was trained with, or the model does not know
                what is usual for a tag (it was made without training photos).
            TagError: one of `own_tags` is too long for the encoder.
        """
        if image_text.fingerprint != model.image_text.fingerprint:
            raise ModelError(
                f"the image–text encoder {image_text.name} (fingerprint {image_text.fingerprint[:12]}) is not the one "
                f"that {model.name} was trained with ({model.image_text.fingerprint[:12]}): use that one, or train anew"
            )
        self.model = model
        self.hardware = hardware or pick_hardware()
        self.limits = limits or ImageLimits()
        for_levels = model.encoder.preprocess if model.encoder is not None else None
        self.prepare = Preparation(model.image_text.preprocess, for_levels, self.limits)
        # Apple's GPUs know no double precision, which contributions that add up need.
        device = self._device = torch.device("cpu") if self.hardware.device.type == "mps" else self.hardware.device
        self.image_text = image_text
        self._backend: Backend = backend or TorchBackend(model, image_text, self.hardware)
        self._text = model.text.to(device)
        self._score_values = model.score_values.to(device)
        self._attribute = Attribution(model.head.to(device).eval(), self._score_values)
        self._similarity_mean = model.similarity_mean.to(device)
        self._similarity_std = model.similarity_std.to(device).clamp_min(1e-6)
        self._shown = ShownTags(model)
        self._facets, self._facet_of = _facets(model.libraries, self._shown.nameable)
        self._unnamed = [name == _OTHERS.format(library) for library, name in self._facets]
        self._own_tags = tuple(own_tags)
        if own_tags:
            if model.embedding_mean is None or model.embedding_covariance is None:
                raise ModelError(f"{model.name} cannot take tags of your own: it has no {EMBEDDINGS}; train it again")
            own_text = text_matrix(image_text, own_tags)
            mean, std = similarity_moments(own_text, model.embedding_mean, model.embedding_covariance)
            self._own_text = own_text.to(device)
            self._own_mean, self._own_std = mean.to(device), std.to(device).clamp_min(1e-6)

    @property
    def name(self) -> str:
        return self.model.name

    def encoding(self) -> Encoding:
        """All that `features` depends on beside the photos."""
        return encoding_of(self.model, self._backend.arithmetic)

    @property
    def backend(self) -> Backend:
        """What computes the encoders."""
        return self._backend

    def with_backend(self, name: str, exported: Path | None = None) -> Assessor:
        """The same model with its encoders computed by another backend (see `tmcr.backends.open_backend`)."""
        backend = open_backend(name, self.model, self.image_text, self.hardware, exported)
        return Assessor(self.model, self.image_text, self.hardware, self.limits, self._own_tags, backend)

    def assess(self, photo: Source) -> Assessment:
        """Assess one photo: a path, bytes, a file object, a PIL image or an array.

        Raises:
            ImageError: the photo cannot be read.
        """
        prepared = self.prepare(photo)
        if prepared.error is not None:
            raise prepared.error
        return self.verdicts([prepared], *self.features([prepared]))[0]

    def assess_many(self, photos: Iterable[Source], *, batch_size: int = 32) -> Iterator[Assessment]:
        """Assess photos as they come, in order; memory does not grow with their number.

        A photo that cannot be read yields an Assessment whose `error` says why.
        """
        prepared = ordered_map(self.prepare, photos, workers=self.hardware.photo_workers, ahead=2 * batch_size)
        for batch in batched(prepared, batch_size):
            readable = [photo for photo in batch if photo.error is None]
            verdicts = iter(self.verdicts(readable, *self.features(readable)) if readable else ())
            yield from (next(verdicts) if photo.error is None else self.failure(photo) for photo in batch)

    def failure(self, photo: Prepared) -> Assessment:
        """What is said of a photo that cannot be read."""
        if photo.error is None:
            raise AssertionError("a photo without an error has a verdict")
        return Assessment(
            photo=photo.name,
            model=self.model.name,
            model_hash=self.model.hash,
            error=photo.error.detail,
            error_reason=photo.error.reason,
        )

    def features(self, batch: Sequence[Prepared]) -> tuple[Tensor, Tensor | None]:
        """Embeddings (B, E) and level features (B, W) of prepared photos, none with an error.

        They may be kept: `verdicts` makes the same of them at any time, also another model's that has the same
        `encoding`.
        """
        pinned = self.hardware.device.type == "cuda"  # where a GPU can fetch them by itself
        levels = _stack([photo.for_levels for photo in batch], pinned) if self.model.encoder is not None else None
        return self._backend(_stack([photo.for_tags for photo in batch], pinned), levels)

    @torch.inference_mode()
    def verdicts(self, batch: Sequence[Prepared], embeddings: Tensor, features: Tensor | None) -> list[Assessment]:
        """Verdicts on prepared photos, none with an error, from what `features` made of them.

        Of a photo, only its name and size are asked for; its pixels may be gone.
        """
        embeddings = embeddings.to(self._device)
        features = features.to(self._device) if features is not None else None
        similarities = match(embeddings, self._text)
        own = self._own_rows(embeddings)
        explained = self._attribute(similarities, features)
        n_semantic = self.model.libraries.n_semantic

        columns = {
            "score": explained.score.tolist(),
            "std": score_std(explained.distribution, self._score_values.double()).tolist(),
            "distribution": explained.distribution.tolist(),
            "semantic": explained.tags[:, :n_semantic].sum(1).tolist(),
            "attribute": explained.tags[:, n_semantic:].sum(1).tolist(),
            "encoder": explained.encoder.tolist(),
        }
        tags = explained.tags.cpu().numpy()
        standard = ((similarities - self._similarity_mean) / self._similarity_std).cpu()
        shown = self._shown(standard - self._shown.bar)
        z = standard.numpy()
        similarity_rows = similarities.cpu().numpy()
        kinds = self._kinds(similarity_rows[:, :n_semantic])
        semantic_tags, attribute_tags = (self._tags(library, similarity_rows, z) for library in shown)
        facets = self._facet_shares(tags, z)
        score_values = tuple(self.model.score_values.tolist())
        reference = float(explained.reference_score)
        return [
            Assessment(
                photo=photo.name,
                score=columns["score"][row],
                std=columns["std"][row],
                distribution=tuple(columns["distribution"][row]),
                score_values=score_values,
                percentile=self._percentile(columns["score"][row], kinds[row]),
                cluster=kinds[row],
                semantic_tags=semantic_tags[row],
                attribute_tags=attribute_tags[row],
                own_tags=own[row],
                facets=facets[row],
                reasons=self._reasons(tags[row]),
                semantic_contribution=columns["semantic"][row],
                attribute_contribution=columns["attribute"][row],
                encoder_contribution=columns["encoder"][row],
                reference_score=reference,
                model=self.model.name,
                model_hash=self.model.hash,
                width=photo.size[0] if photo.size else None,
                height=photo.size[1] if photo.size else None,
            )
            for row, photo in enumerate(batch)
        ]

    def _kinds(self, similarities: NDArray[np.float32]) -> list[Cluster | None]:
        """The kind of photo for each row (B, M); None throughout where the model knows no training photos."""
        table = self.model.clusters
        if len(table.centroids) == 0:
            return [None] * len(similarities)
        return [Cluster(int(kind), table.tags[kind]) for kind in assign(similarities, table.centroids)]

    def _percentile(self, score: float, kind: Cluster | None) -> float | None:
        return None if kind is None else float(percentile(score, self.model.clusters.quantiles[kind.index]))

    def _own_rows(self, embeddings: Tensor) -> list[tuple[Tag, ...]]:
        """The best-fitting tags of the user's own for each embedding (B, E)."""
        if not self._own_tags:
            return [()] * len(embeddings)
        similarities = match(embeddings, self._own_text)
        z = (similarities - self._own_mean) / self._own_std
        top = z.topk(min(TOP_TAGS, len(self._own_tags)), dim=1).indices.tolist()
        return [
            tuple(Tag(self._own_tags[i], similarities[row, i].item(), z[row, i].item()) for i in best)
            for row, best in enumerate(top)
        ]

    def _tags(self, shown: Shown, similarities: NDArray[np.float32], z: NDArray[np.float32]) -> list[tuple[Tag, ...]]:
        """The shown tags of one library for each photo, from similarities and their standardised values (B, M+N)."""
        names, facets = self.model.libraries.names, self.model.libraries.facets
        return [
            tuple(
                Tag(names[i], float(similarities[row, i]), float(z[row, i]), facets[i])
                for i in shown.tags[row, shown.chosen[row]].tolist()
            )
            for row in range(len(z))
        ]

    def _facet_shares(self, shares: NDArray[np.float64], z: NDArray[np.float32]) -> list[tuple[Facet, ...]]:
        """What each facet contributed to each photo, from all of its tags' shares (B, M+N), the largest first.

        A facet is told by the tags of it that pull the way it does and fit the photo (B, M+N), or are attributes that
        the photo has as much less of than most ("less vivid colors"); the most unusual first.
        """
        names, opposites = self.model.libraries.names, self.model.libraries.opposites
        # Not by a matrix product: NumPy's threads for it would take the processors from the encoders.
        totals = np.stack([np.bincount(self._facet_of, row, len(self._facets)) for row in shares])
        bar = self._shown.bar.numpy()
        fits, lacks = z >= bar, np.zeros(z.shape, bool)
        if self.model.tag_minimum is not None:
            lacks = z <= -np.maximum(bar, LEAST_LACK)
            lacks[:, : self.model.libraries.n_semantic] = False  # that a thing is not there says nothing
        telling = (fits | lacks) & (shares * totals[:, self._facet_of] > 0)
        found = []
        for row, total in enumerate(totals.tolist()):
            tags: list[dict[str, str]] = [{} for _ in self._facets]
            candidates = np.flatnonzero(telling[row])
            candidates = candidates[np.lexsort((-np.abs(z[row, candidates]), self._facet_of[candidates]))]
            ends = np.cumsum(np.bincount(self._facet_of[candidates], minlength=len(self._facets))).tolist()
            ordered = candidates.tolist()
            for told, start, end in zip(tags, [0, *ends], ends, strict=False):
                for tag in ordered[start:end]:
                    if len(told) == TOP_FACET_TAGS:
                        break
                    if opposites[tag] not in told:
                        told[names[tag]] = names[tag] if fits[row, tag] else f"less {names[tag]}"
            facets = []
            for _, _, i in sorted((self._unnamed[i], -abs(share), i) for i, share in enumerate(total) if share != 0):
                library, name = self._facets[i]
                facets.append(Facet(name, library, total[i], tuple(tags[i].values())))
            found.append(tuple(facets))
        return found

    def _reasons(self, shares: NDArray[np.float64]) -> tuple[Reason, ...]:
        """The single tags with the largest shares (M+N,), of those that the model may name."""
        names, facets = self.model.libraries.names, self.model.libraries.facets
        n_semantic = self.model.libraries.n_semantic
        shares = np.where(self._shown.nameable, shares, 0)
        largest = _largest(np.abs(shares), TOP_REASONS)
        return tuple(
            Reason(names[i], "semantic" if i < n_semantic else "attribute", float(shares[i]), facets[i])
            for i in largest
            if shares[i] != 0
        )


def load(
    model: str | Path = "starter",
    *,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    offline: bool = False,
    limits: ImageLimits | None = None,
    own_tags: Sequence[str] = (),
    backend: str = "torch",
    exported: Path | None = None,
) -> Assessor:
    """Load a model: "starter" (ships with the package), a model folder, or a Hub id.

    Args:
        own_tags: further tags to compare photos with, for display and search; the score does not depend on them.
        backend: what computes the encoders: "torch", "compile", "onnx" or "openvino".
        exported: file that `tmcr export` wrote, for the other backends; by default they export the model once.

    Raises:
        ModelError: it is not there, is damaged, or its encoder cannot be had.
        ConfigError: the device, the precision or the backend cannot be used.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be auto, fp32 or bf16, not {precision!r}")
    hardware = pick_hardware(device, cast(Precision, precision), workers)
    folder = model_folder(model, offline=offline)
    trained = load_model(folder)
    source = trained.image_text.source
    encoder = load_image_text_encoder(
        str(folder / "image_text") if source == "image_text" else source,
        revision=trained.image_text.revision,
        offline=offline,
        preprocess=trained.image_text.preprocess,
    )
    return Assessor(
        trained, encoder, hardware, limits, own_tags, open_backend(backend, trained, encoder, hardware, exported)
    )


def model_folder(model: str | Path, *, offline: bool = False) -> Path:
    """The local folder of a model: "starter", a folder, or a Hub id.

    Raises:
        ModelError: it is not there.
    """
    return STARTER if str(model) == "starter" else resolve_source(str(model), offline=offline)


def _facets(libraries: TagLibraries, nameable: NDArray[np.bool_]) -> tuple[list[tuple[str, str]], NDArray[np.int64]]:
    """Each (library, facet) that occurs, and the place in that list (M+N,) of each tag's.

    Tags without a facet go by their library's name, and so do those of a facet no tag of which is nameable (M+N,): what
    a model cannot see in a photo is no reason to give.
    """
    library_of = ["semantic"] * len(libraries.semantic) + ["attribute"] * len(libraries.attribute)
    own = list(zip(library_of, libraries.facets, strict=True))
    named = {key for key, seen in zip(own, nameable, strict=True) if seen and key[1]}
    keys = [key if key in named else (key[0], _OTHERS.format(key[0])) for key in own]
    facets = list(dict.fromkeys(keys))
    place = {key: number for number, key in enumerate(facets)}
    return facets, np.array([place[key] for key in keys], dtype=np.int64)


def _largest(values: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Indices of the `count` largest values, the largest first; of equal ones, the first."""
    if count >= len(values):
        return np.argsort(-values, kind="stable")
    candidates = np.flatnonzero(values >= np.partition(values, -count)[-count])  # sorting all would take longer
    return candidates[np.argsort(-values[candidates], kind="stable")][:count]


def _stack(arrays: list[NDArray[np.uint8] | None], pinned: bool) -> Tensor:
    there = [array for array in arrays if array is not None]
    batch = torch.empty((len(there), *there[0].shape), dtype=torch.uint8, pin_memory=pinned)
    np.stack(there, out=batch.numpy())
    return batch
