"""Tag matching, eq. 3–7, and the cache of text features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tmcr.errors import TagError
from tmcr.matching import match, text_matrix


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
