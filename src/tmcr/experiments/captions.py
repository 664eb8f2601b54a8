"""Captioned photos, and whether a tag says what a caption says: in the same word or a close synonym."""

from __future__ import annotations

import csv
from pathlib import Path

from tmcr.errors import DataError

# Words that a caption may use for a tag and the other way round.
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(group.split())
    for group in (
        "man men guy male gentleman boy person people",
        "woman women lady female girl person people",
        "child children kid kids boy girl baby toddler infant",
        "people crowd group person team players",
        "dog dogs puppy pup hound terrier retriever",
        "cat cats kitten kitty",
        "car cars automobile vehicle taxi cab sedan",
        "bike bicycle cycling cyclist bicycles",
        "motorcycle motorbike scooter moped",
        "bus buses coach", "truck lorry pickup van", "train locomotive railway railroad tram",
        "plane airplane aircraft jet airliner airport", "boat ship sailboat vessel sailing ferry yacht",
        "sea ocean water beach wave waves coast shore surf", "beach sand shore", "lake river water pond stream",
        "mountain mountains hill hills peak", "forest woods trees tree woodland", "tree trees branch",
        "grass field meadow lawn pasture", "snow snowy winter ski skiing snowboard",
        "street road city urban traffic sidewalk intersection", "building buildings house tower architecture church",
        "food meal dish plate lunch dinner snack", "pizza food", "cake dessert pastry",
        "fruit fruits orange banana apple",
        "vegetable vegetables broccoli carrot carrots salad", "sandwich burger hotdog", "bread loaf bakery",
        "table desk counter", "chair sofa couch seat bench", "bed bedroom pillow", "toilet bathroom restroom sink",
        "kitchen stove oven refrigerator fridge", "computer laptop monitor keyboard screen desktop",
        "phone cellphone telephone smartphone", "television tv screen", "book books bookshelf library",
        "horse horses pony riding", "cow cows cattle bull", "sheep lamb flock", "elephant elephants",
        "bird birds seagull pigeon parrot", "bear bears", "giraffe giraffes", "zebra zebras",
        "baseball bat batter pitcher", "tennis racket racquet", "soccer football ball", "frisbee disc",
        "skateboard skateboarder skateboarding skater", "surfboard surfer surfing", "kite kites",
        "umbrella umbrellas", "clock watch", "vase flower flowers bouquet", "sign signs signpost",
        "bag suitcase luggage handbag backpack", "bottle wine glass", "cup mug coffee tea", "bowl dish",
        "teddy toy toys", "room indoor interior", "animal animals wildlife zoo",
    )
)  # fmt: skip
_TOO_COMMON = frozenset(
    ("the", "and", "with", "for", "from", "are", "its", "his", "her", "their", "some", "two", "one")
)


def words_of(text: str) -> frozenset[str]:
    """The words of a text with their close synonyms, plural endings off, common words left out."""
    found: set[str] = set()
    for word in "".join(letter if letter.isalpha() else " " for letter in text.lower()).split():
        if word in _TOO_COMMON or len(word) < 3:
            continue
        found.add(_singular(word))
    return frozenset(found)


def with_synonyms(words: frozenset[str]) -> frozenset[str]:
    """The words and all that may stand for them."""
    return words.union(*(group for group in _SYNONYMS if group & words))


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


_SYNONYMS = tuple(frozenset(map(_singular, group)) for group in SYNONYMS)


def read_captions(path: Path) -> list[tuple[Path, list[str]]]:
    """Photos and their captions.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV with the columns file and captions") from None
    if not rows or not {"file", "captions"} <= set(rows[0]):
        raise DataError(f"{path}: needs the columns file and captions, and a row")
    return [(path.parent / row["file"], row["captions"].split(" | ")) for row in rows]
