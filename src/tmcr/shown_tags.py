"""Which tags of a photo are shown: those that fit it best, none of them saying what another one says."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.matching import similarity_correlation
from tmcr.modelfolder import TrainedModel

TOP_TAGS = 8
SAME = 0.9  # correlation from which on two tags say the same: they share more than four fifths of their variance


class Shown(NamedTuple):
    """For photos the tags (B, C) of one library that fit best, the best first, and which of them are shown."""

    tags: NDArray[np.int64]
    chosen: NDArray[np.bool_]


class ShownTags:
    """Chooses the tags that a model shows.

    Attributes:
        nameable: (M+N,) whether a tag is ever shown.
        bar: (M+N,) the standardised similarity from which on it is shown; infinite where it never is. 0 where the model
            knows no bars, and the best tags are shown, however well they fit.
    """

    def __init__(self, model: TrainedModel) -> None:
        known = model.tag_minimum if model.tag_minimum is not None else torch.zeros(len(model.libraries.names))
        self.nameable = nameable(model)
        self.bar = torch.where(torch.from_numpy(self.nameable), known, torch.inf)
        self._least = 0.0 if model.tag_minimum is not None else torch.finfo(known.dtype).min
        self._opposites = model.libraries.opposite_places
        self._n_semantic = model.libraries.n_semantic

    @torch.inference_mode()
    def __call__(self, sureness: Tensor) -> tuple[Shown, Shown]:
        """The semantic and the attribute tags for photos of which standardised similarity less `bar` is (B, M+N).

        So a likelier tag, whose bar is lower, comes first; and of two that say the contrary of each other, the surer.
        """
        semantic, attribute = sureness[:, : self._n_semantic], sureness[:, self._n_semantic :]
        return self._best(semantic, 0), self._best(attribute, self._n_semantic)

    def _best(self, sureness: Tensor, start: int) -> Shown:
        values, places = sureness.topk(min(TOP_TAGS, sureness.shape[1]), dim=1)
        tags = (places + start).numpy()
        return Shown(tags, (values >= self._least).numpy() & ~contradicted(tags, self._opposites))


def nameable(model: TrainedModel) -> NDArray[np.bool_]:
    """(M+N,) whether the model may ever show a tag.

    Not where its bar is infinite, nor where another tag says the same ("airplane", "plane"), is used more often and has
    no higher bar to clear. They say the same to the model where over the photos it has learnt from their similarities
    go up and down together. Looks with bars may differ in degree only ("muted colors", "black and white"): all stay.
    """
    libraries = model.libraries
    bar = model.tag_minimum.numpy() if model.tag_minimum is not None else np.zeros(len(libraries.names))
    allowed = np.isfinite(bar)
    if model.embedding_covariance is not None:
        semantic, attribute = slice(0, libraries.n_semantic), slice(libraries.n_semantic, None)
        for part in (semantic,) if model.tag_minimum is not None else (semantic, attribute):
            same = similarity_correlation(model.text[part], model.embedding_covariance).numpy() > SAME
            allowed[part] &= _said_best(same, np.array(libraries.frequencies[part]), bar[part])
    return allowed


def _said_best(same: NDArray[np.bool_], frequencies: NDArray[np.int64], bar: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The tags (T,) that say the same (T, T) as none that is itself among them, as frequent and of no higher bar."""
    found = np.zeros(len(bar), bool)
    for tag in np.lexsort((bar, -frequencies)):
        found[tag] = not (same[tag] & found & (bar <= bar[tag])).any()
    return found


def contradicted(tags: NDArray[np.int64], opposite_places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the tags (B, T), each photo's best first, say the contrary of one that stands before them."""
    opposite = opposite_places[tags]
    before = np.tril(np.ones((tags.shape[1], tags.shape[1]), bool), -1)
    return ((opposite[:, :, None] == tags[:, None, :]) & before).any(2)
