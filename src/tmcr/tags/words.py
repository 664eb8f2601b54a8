"""Words of comments: cut out, normalised, brought to one form, and sorted into kinds.

**Content words** are the nouns and adjectives; their occurrences are the *content-word mass* that
`tmcr tags check` measures coverage by. A word counts when it is made of letters, has at least two of them, and
is none of these:

- a function word, pronoun, number word, hedge ("a bit", "kind of"), greeting or chat abbreviation, or a noun or
  adjective that only points or limits ("thing", "fact", "able", "certain"; the section `empty` of the lexicon);
- an adverb (a short list, and words in -ly but for adjectives such as "lovely");
- a verb and its forms, where that is what the word is in most comments ("looks", "think"), but not participles
  used as adjectives ("stunning", "overexposed") nor nouns in -ing ("lighting");
- a proper name: a brand from a short list, or a word that the comments write with a capital inside sentences
  most of the time (`Names`), days, feasts and peoples aside.

The kind is that of the word, not of the one occurrence: there is no parser here, "light" is always a noun. What
the rules know by heart stands in data/lexicon.txt; `benchmarks/words.py` compares them with a part-of-speech
tagger.

The one form of a word, its **lemma**, has US spelling, no plural, no comparison ("darker" → "dark") and no
inflection ("cropped" → "crop").
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["content", "function", "verb", "adverb", "name", "other"]
LEXICON = Path(__file__).parent / "data" / "lexicon.txt"

_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|\S+@\S+\.\w+|\b[\w.-]+\.(?:com|org|net|html?|jpe?g|png)\b\S*", re.I)
_MARKUP = re.compile(r"<(?:[a-zA-Z/!][^<>]{0,400})>|\[/?(?:url|img|b|i|u|quote|thumb)[^\]]{0,200}\]", re.I)
_SMILEY = re.compile(r"[:;=8][-^o']?[)(DPpOo/\\|\]\[]+(?!\w)")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d[\w.,/:%]*|[.!?…\n]+|[,;:()\"“”–—]")
_PLAIN_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_ENOUGH_TO_TELL = 600  # characters that show which language a text is in
_SENTENCE_END = frozenset(".!?…\n")
_POSSESSIVE = re.compile(r"['’](?:s|S)?$")
_VOWELS = frozenset("aeiouy")


class Token(NamedTuple):
    """A word as it stands in a comment.

    Attributes:
        text: the word in small letters, without possessive 's.
        capital: it is written with a capital and small letters after it.
        inside: it does not begin a sentence.
        joined: nothing but space stands between it and the word before, so both may form a phrase.
    """

    text: str
    capital: bool
    inside: bool
    joined: bool


class Word(NamedTuple):
    """What the rules make of a word."""

    lemma: str
    kind: Kind


def normalise(text: str) -> str:
    """Plain text: HTML entities and tags, addresses, emoji and control characters out; compatibility forms folded."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text or "[" in text:
        text = _MARKUP.sub(" . ", text)
    if "." in text or "@" in text or "://" in text:
        text = _ADDRESS.sub(" . ", text)
    text = _SMILEY.sub(" . ", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(" " if unicodedata.category(c) in _NO_TEXT else c for c in text if c not in _JOINERS)
    return text


# What "emphas·is·e" and "anal·ys·e" may end in; "realistic" and "analysis" are spelt so in the US, too.
_VERB_ENDED = ("is", "ys")
_VERB_ENDINGS = frozenset(("e", "es", "ed", "er", "ers", "ing", "ings", "able", "ation", "ations", "ational"))
_NO_PAST = frozenset(("bed", "seed"))  # not of "be" and "see"
# Sections whose words tell that a text is English.
_ENGLISH = ("function", "verbs", "nounverbs", "keep", "comparatives", "praise words", "fault words", "neither")
_NO_TEXT = frozenset({"So", "Sk", "Cc", "Cf", "Co", "Cs", "Cn"})
_JOINERS = frozenset("\u00ad\u200b\u200c\u200d\u2060\ufe0e\ufe0f\ufeff")


def tokens(text: str) -> Iterator[Token]:
    """The words of a comment, in order. Hyphens and slashes part words; numbers are left out but part phrases."""
    start, joined = True, False
    for match in _WORD.finditer(normalise(text)):
        piece = match.group()
        first = piece[0]
        if not first.isalpha():
            start = start or not _SENTENCE_END.isdisjoint(piece)
            joined = False
            continue
        bare = _POSSESSIVE.sub("", piece)
        small = bare.lower().replace("’", "'")
        yield Token(small, first.isupper() and not (len(bare) > 1 and bare.isupper()), not start, joined)
        # A phrase does not go on over a possessive: "the dog's nose" holds no "dog nose".
        start, joined = False, bare == piece


@dataclass(frozen=True)
class Lexicon:
    """The sections of data/lexicon.txt."""

    words: dict[str, frozenset[str]]
    pairs: dict[str, dict[str, str]]
    forms: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path = LEXICON) -> Lexicon:
        sections: dict[str, list[str]] = {}
        current: list[str] = []
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("["):
                current = sections.setdefault(line.strip("[]"), [])
            elif not line.startswith("#"):
                current += line.split()
        words = {name: frozenset(w for w in found if "=" not in w) for name, found in sections.items()}
        words["english"] = frozenset().union(*(words[name] for name in _ENGLISH)) - words["foreign"]
        words["function"] |= words["empty"] | words["foreign"]
        pairs = {
            name: {variant: base for variant, equals, base in (w.partition("=") for w in found) if equals}
            for name, found in sections.items()
        }
        bases = words["nounverbs"] | words["verbs"]
        forms: dict[str, str] = {}
        for base in sorted(bases):
            for form in _regular_forms(base):
                if form not in bases and form not in _NO_PAST:
                    forms.setdefault(form, base)
        for base in sorted(bases):  # misspelt without the doubled letter, where that is no form of another verb
            for form in _undoubled_forms(base):
                if form not in bases:
                    forms.setdefault(form, base)
        return cls(words, pairs, forms)


@cache
def lexicon() -> Lexicon:
    """The lexicon that ships with the package, read once."""
    return Lexicon.read()


@lru_cache(maxsize=500_000)
def analyse(word: str) -> Word:
    """Lemma and kind of a word in small letters, as `tokens` gives it; names known only from context aside."""
    known = lexicon()
    if "'" in word:
        word = word.replace("'", "")
        if word in known.words["function"] or word.endswith("nt"):
            return Word(word, "function")
    if not word.isascii():
        word = _without_accents(word)
    word = known.pairs["rough spelling"].get(word, word)
    if len(word) < 2 or word in known.words["function"]:
        return Word(word, "function")
    if not word.isascii() or not word.isalpha():
        return Word(word, "other")
    word = american(word)
    if word in known.words["names"]:
        return Word(word, "name")
    if word in known.words["function"]:
        return Word(word, "function")
    if word in known.words["adverbs"]:
        return Word(word, "adverb")
    if word in known.words["keep"]:
        return Word(word, "content")
    if word in known.words["notadverbs"]:
        return Word(word, "content")
    if word.endswith("ly") and len(word) > 4:
        return Word(word, "adverb")
    if (plain := _uncompared(word)) is not None:
        return Word(plain, "content")
    base = known.pairs["irregular"].get(word) or known.forms.get(word) or word
    if base in known.words["function"]:
        return Word(base, "function")
    if base in known.words["verbs"]:
        return Word(base, "verb")
    if base in known.words["nounverbs"] or base != word:
        return Word(base, "content")
    return Word(singular(word), "content")


def lemma(word: str) -> str:
    """The one form of a word."""
    return analyse(word.lower()).lemma


@lru_cache(maxsize=200_000)
def lemmas(phrase: str) -> tuple[str, ...]:
    """The lemmas of a phrase's words, function words included."""
    return tuple(analyse(token.text).lemma for token in tokens(phrase))


def singular(word: str) -> str:
    """A noun without its plural, by rule and a list of exceptions."""
    known = lexicon()
    if word in known.pairs["irregular"]:
        return known.pairs["irregular"][word]
    if len(word) < 4 or not word.endswith("s") or word in known.words["invariable"]:
        return word
    if word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]  # "berries", but "ties" and "pies"
    if word.endswith(("shes", "ches", "sses", "xes", "zzes")):
        return word[:-2]
    if word.endswith("oes") and len(word) > 5:  # "tomatoes", but "shoes" and "toes"
        return word[:-2]
    return word[:-1]


@lru_cache(maxsize=100_000)
def american(word: str) -> str:
    """US spelling of a word in small letters: single words by a list, the rest by lists of stems."""
    known = lexicon()
    if word in known.pairs["spelling"]:
        return known.pairs["spelling"][word]
    for british, us in (("our", "or"), ("is", "iz"), ("ys", "yz"), ("ll", "l")):
        stem, found, ending = word.rpartition(british)
        if found and stem in known.words[f"-{british}"] and (british not in _VERB_ENDED or ending in _VERB_ENDINGS):
            return stem + us + ending
    return word


def _uncompared(word: str) -> str | None:
    """The plain form of "darker" and "darkest"; None where the word is no comparison of a known adjective."""
    known = lexicon().words["comparatives"]
    for ending in ("er", "est"):
        if not word.endswith(ending):
            continue
        stem = word[: -len(ending)]
        candidates = [stem, stem + "e"]
        if stem.endswith("i"):
            candidates.append(stem[:-1] + "y")
        if len(stem) > 2 and stem[-1] == stem[-2]:
            candidates.append(stem[:-1])
        for candidate in candidates:
            if candidate in known:
                return candidate
    return None


def _regular_forms(base: str) -> Iterator[str]:
    """-s, -ed and -ing of a verb."""
    if base.endswith("y") and base[-2] not in _VOWELS:
        yield from (base[:-1] + "ies", base[:-1] + "ied", base + "ing")
        return
    yield base + ("es" if base.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")
    if base.endswith("e"):
        yield base + "d"
        yield (base if base.endswith(("ee", "ye", "oe")) else base[:-1]) + "ing"
    elif _doubles(base):
        yield from (base + base[-1] + "ed", base + base[-1] + "ing")
    else:
        yield from (base + "ed", base + "ing")


def _undoubled_forms(base: str) -> Iterator[str]:
    if _doubles(base):
        yield from (base + "ed", base + "ing")


def _doubles(base: str) -> bool:
    """Whether a verb doubles its last letter: one vowel before one consonant, in one syllable or in a known ending."""
    if len(base) < 3 or base[-1] in _VOWELS | set("wxh") or base[-2] not in _VOWELS or base[-3] in _VOWELS - {"u"}:
        return False
    if base[-3] == "u" and base[-4:-3] != "q":
        return False
    syllables = len(re.findall(r"[aeiouy]+", base))
    return syllables == 1 or base.endswith(("mit", "fer", "pel", "gin", "lap", "cur", "set", "get", "gret"))


def _without_accents(word: str) -> str:
    """ "café" → "cafe"."""
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


@dataclass
class Names:
    """Which words the comments treat as proper names, by how often they stand with a capital inside sentences.

    Attributes:
        share: of its telling occurrences that must have a capital for a word to be a name.
        least: how many such occurrences it must have at least.
        capital: word → occurrences inside a sentence with a capital.
        small: word → occurrences in small or all-capital letters.
    """

    share: float = 0.75
    least: int = 2
    capital: Counter[str] = field(default_factory=Counter)
    small: Counter[str] = field(default_factory=Counter)

    def add(self, found: Iterable[Token]) -> None:
        for token in found:
            if token.capital:
                self.capital[token.text] += token.inside
            else:
                self.small[token.text] += 1

    def __contains__(self, word: str) -> bool:
        """Whether most of the word's occurrences that tell are capitals; `kept capitals` of the lexicon never are."""
        capitals = self.capital[word]
        if capitals < self.least or word in lexicon().words["kept capitals"]:
            return False
        return capitals / (capitals + self.small[word]) >= self.share


def is_english(text: str, *, least: float = 0.25) -> bool:
    """Whether enough of a text's first words are common English ones; texts under 6 words pass."""
    words = _PLAIN_WORD.findall(text[:_ENOUGH_TO_TELL].lower())
    if len(words) < 6:
        return True
    english = lexicon().words["english"]
    return sum(word in english or "'" in word for word in words) / len(words) >= least
