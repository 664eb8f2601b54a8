"""What `tmcr` says about one photo: plain, typed, serialisable values without any heavy import."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag that fits the photo.

    Attributes:
        name: the tag.
        similarity: cosine between photo and tag, −1..1 (eq. 5, 6).
        z: the same, standardised over the model's training photos; tags are ranked by it, because
            raw cosines differ more between tags than between photos (where the model knows from which z on
            it may name a tag, by how far z clears that).
        facet: what the tag is about ("light", "animals"), "" when the library does not say.
    """

    name: str
    similarity: float
    z: float
    facet: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """How much one tag raised (+) or lowered (−) the score against the reference photo, in score points."""

    tag: str
    library: str  # "semantic" or "attribute"
    contribution: float
    facet: str = ""


@dataclass(frozen=True, slots=True)
class Facet:
    """How much all tags of one facet together raised (+) or lowered (−) the score, in score points.

    Attributes:
        name: what the tags are about ("light", "animals").
        library: "semantic" or "attribute".
        contribution: the sum over the facet's tags.
        tags: tags that push this way and that the model is sure of, the most unusual first; "less" and a tag where
            the photo has much less of it than most. Where a model has no measure of being sure, tags that fit the
            photo better than the mean training photo.
    """

    name: str
    library: str
    contribution: float
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The kind of photo: the semantic cluster of the training photos that this photo falls into."""

    index: int
    tags: tuple[str, ...]  # its most characteristic semantic tags, best first


@dataclass(frozen=True, slots=True)
class Assessment:
    """The verdict on one photo. Scores are on 1..10. Where `error` is set, every other verdict is None or empty.

    Attributes:
        photo: the photo as the user named it.
        score: predicted mean rating (GAS), 1..10.
        std: predicted standard deviation of the ratings.
        distribution: predicted share of ratings for each of `score_values`; sums to 1.
        score_values: the score each bin stands for, ascending, within 1..10.
        percentile: share (0..100) of the training photos of the same cluster with a lower score.
        cluster: the kind of photo.
        semantic_tags, attribute_tags: best-fitting tags, best first; none where the model is not sure of any.
        own_tags: best-fitting tags of the user's own, where the model was loaded with some; no part of the score.
        facets: what raised and lowered the score, largest magnitude first; they add up to the semantic and the
            attribute contribution. Tags without a facet, and those of facets that the model never names, come last,
            as "other semantic tags" and "other attribute tags".
        reasons: single tags with the largest contributions, largest magnitude first, of those that the model may name.
        semantic_contribution, attribute_contribution, encoder_contribution: the summed contributions of
            all semantic tags, all attribute tags and the image encoder; together they are
            score − reference_score.
        reference_score: the score of the reference (the mean training photo).
        model, model_hash: id and content hash of the model that said so.
        width, height: pixels of the upright photo.
        content_hash: hash of the photo's bytes where `tmcr score` read them; equal bytes have equal verdicts.
        error: one line saying why the photo could not be assessed, or None.
        error_reason: machine-readable cause (`tmcr.errors.ImageReason`), or None.
    """

    photo: str
    score: float | None = None
    std: float | None = None
    distribution: tuple[float, ...] = ()
    score_values: tuple[float, ...] = ()
    percentile: float | None = None
    cluster: Cluster | None = None
    semantic_tags: tuple[Tag, ...] = ()
    attribute_tags: tuple[Tag, ...] = ()
    own_tags: tuple[Tag, ...] = ()
    facets: tuple[Facet, ...] = ()
    reasons: tuple[Reason, ...] = ()
    semantic_contribution: float | None = None
    attribute_contribution: float | None = None
    encoder_contribution: float | None = None
    reference_score: float | None = None
    model: str = ""
    model_hash: str = ""
    width: int | None = None
    height: int | None = None
    content_hash: str | None = None
    error: str | None = field(default=None)
    error_reason: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def kind(self) -> tuple[str, ...]:
        """What the kind of photo is called, as far as that fits this photo too: kinds are rough."""
        shown = {tag.name for tag in self.semantic_tags}
        return tuple(tag for tag in self.cluster.tags if tag in shown) if self.cluster is not None else ()

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON; the field order is stable."""
        return asdict(self)
