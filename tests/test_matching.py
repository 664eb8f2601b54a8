"""Tag matching, eq. 3–7, and the cache of text features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tmcr.errors import TagError
from tmcr.matching import match, similarity_correlation, similarity_moments, text_matrix
from tmcr.training.match import embedding_moments


class Words:
    """Embeds a text by the counts of its letters; counts how often it is asked."""

    def __init__(self, fingerprint: str = "words") -> None:
        self.fingerprint = fingerprint
        self.asked: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(list(texts))
        return torch.tensor([[text.count(letter) + 0.1 for letter in "abcdefgh"] for text in texts])


def test_similarities_are_cosines_of_photo_and_tag() -> None:
    images = normalize(torch.randn(4, 8, dtype=torch.float64), dim=1)
    text = text_matrix(Words(), ["badge", "face", "head"]).double()
    found = match(images, text)
    raw = Words().encode_texts(["badge", "face", "head"]).double()
    for i in range(4):
        for j in range(3):
            cosine = float(images[i] @ raw[j] / (images[i].norm() * raw[j].norm()))
            assert float(found[i, j]) == pytest.approx(cosine, abs=1e-6)


def test_text_features_are_computed_once_for_tags_template_and_encoder(tmp_path: Path) -> None:
    encoder = Words()
    first = text_matrix(encoder, ["bag", "cab"], cache_dir=tmp_path)
    assert torch.equal(text_matrix(encoder, ["bag", "cab"], cache_dir=tmp_path), first)
    assert len(encoder.asked) == 1
    text_matrix(encoder, ["cab", "bag"], cache_dir=tmp_path)
    text_matrix(encoder, ["bag", "cab"], template="a photo of {}", cache_dir=tmp_path)
    other = Words("another")
    text_matrix(other, ["bag", "cab"], cache_dir=tmp_path)
    assert len(encoder.asked) == 3
    assert len(other.asked) == 1
    assert len(list(tmp_path.iterdir())) == 4
    for path in tmp_path.iterdir():
        path.write_bytes(b"cut short")
    assert torch.equal(text_matrix(encoder, ["bag", "cab"], cache_dir=tmp_path), first)


def test_a_template_takes_the_tag_and_braces_in_tags_are_left_alone() -> None:
    encoder = Words()
    text_matrix(encoder, ["bag", "{odd}"], template="a photo of {}, {}")
    assert encoder.asked == [["a photo of bag, bag", "a photo of {odd}, {odd}"]]
    text_matrix(encoder, ["bag"])
    assert encoder.asked[1] == ["bag"]
    with pytest.raises(TagError, match="where the tag goes"):
        text_matrix(encoder, ["bag"], template="a photo")


def test_two_moments_of_the_photos_tell_how_usual_any_tag_is() -> None:
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(50, 8, generator=generator), dim=1)
    text = normalize(torch.randn(5, 8, generator=generator), dim=1)
    mean, covariance = embedding_moments(images.numpy(), np.arange(50), block=7)
    found_mean, found_std = similarity_moments(text, mean, covariance)
    similarities = match(images, text)
    assert torch.allclose(found_mean, similarities.mean(0), atol=1e-6)
    assert torch.allclose(found_std, similarities.std(0, correction=0), atol=1e-5)


def test_correlations_of_tags_are_those_of_their_similarities() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(50, 8, generator=generator)
    images[:, 7] = 0.5
    text = torch.randn(5, 8, generator=generator)
    text[4, :7] = 0  # as similar to one photo as to any other
    _, covariance = embedding_moments(images.numpy(), np.arange(50))
    found = similarity_correlation(text, covariance)
    plain = torch.from_numpy(np.corrcoef((images @ text[:4].T).double().numpy(), rowvar=False)).float()
    assert torch.allclose(found[:4, :4], plain, atol=1e-5)
    assert found[4].abs().max() == found[:, 4].abs().max() == 0
