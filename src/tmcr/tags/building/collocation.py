"""How strongly the words of a phrase belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence


def npmi(together: int, apart: Sequence[int], total: int) -> float:
    """Normalised pointwise mutual information of a phrase of n words (Bouma 2009, for n = 2).

    `ln( p(phrase) / Π p(word) ) / ( −(n−1) ln p(phrase) )` with p = occurrences / `total` words: 1 when the words
    never occur but in the phrase, 0 when they meet as often as by chance, towards −1 when they avoid each other.

    Args:
        together: occurrences of the phrase.
        apart: occurrences of each of its words, the phrase included.
        total: all words.
    """
    if together >= total:
        return 1.0
    p = together / total
    expected = math.prod(count / total for count in apart)
    return math.log(p / expected) / (-(len(apart) - 1) * math.log(p))
