"""Cleaning, counting and collocations of the tag builder against brute force; merging and opposites."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tmcr.tags import TagLibrary
from tmcr.tags.building.clean import clean, clean_chunk
from tmcr.tags.building.collocation import npmi
from tmcr.tags.building.count import LossyCounter, count_phrases, names_in, phrases
from tmcr.tags.building.label import Label
from tmcr.tags.building.merge import merge, one_letter_off
from tmcr.tags.building.opposites import find_opposites
from tmcr.tags.building.parallel import chunked, ordered_map
from tmcr.tags.building.propose import Candidate, propose
from tmcr.tags.comments import Comment

# --- clean and count ---


def test_clean_leaves_words_marks_and_breaks_and_says_repeated_comments_once(tmp_path: Path) -> None:
    texts = ["Soft light, Tilda!", "Soft light, Tilda!", "A <b>dog's</b> nose 😍"]
    done = clean((Comment(text, text) for text in texts), tmp_path / "clean.txt")
    assert (tmp_path / "clean.txt").read_text().splitlines() == ["<soft light | ^tilda", "<a | dog | nose"]
    assert (done.comments, done.repeated) == (2, 1)


def plain_phrases(words: list[str]) -> list[str]:
    """Every stretch of two or three words, as the rules read aloud."""
    content = {"dog", "light", "soft", "dark", "field", "depth", "focus", "crop", "horizon"}
    openers, links, adverbs = {"too", "out"}, {"of", "in", "and", "the"}, {"very", "nicely"}
    found = []
    for start in range(len(words)):
        for size in (2, 3):
            stretch = words[start : start + size]
            if len(stretch) < size or stretch[-1] not in content:
                continue
            begins = stretch[0] in content | openers or stretch[0] == "nicely"
            middle = size == 2 or stretch[1] in content | links or stretch[1] == "nicely"
            if begins and middle and (adverbs - {"nicely"}).isdisjoint(stretch):
                found.append(" ".join(stretch))
    return found


def test_phrases_against_the_plain_reading() -> None:
    draw = random.Random(0)
    vocabulary = [
        "dog", "light", "soft", "dark", "field", "depth", "focus", "crop", "horizon", "too", "out", "of", "in", "and",
        "nicely", "very", "the", "looks",
    ]  # fmt: skip
    for _ in range(300):
        words = draw.choices(vocabulary, k=draw.randint(0, 9))
        assert sorted(phrases(words)) == sorted(plain_phrases(words))


def test_counting_in_several_processes_is_counting_in_one(tmp_path: Path) -> None:
    draw = random.Random(1)
    vocabulary = ["soft", "light", "dog", "of", "too", "dark", "field", "|", "^tilda"]
    lines = [" ".join(draw.choices(vocabulary, k=12)) for _ in range(45_000)]
    one, words = count_phrases(lines, workers=1)
    two, same = count_phrases(lines, workers=2)
    assert words == same == sum(len([w for w in line.split() if w != "|"]) for line in lines)
    assert list(one.items(1)) == list(two.items(1))
    expected = sum(run.split().count("light") for line in lines for run in line.split("|"))
    assert dict(one.items(1))["light"] == expected


def test_lossy_counting_keeps_what_it_promises() -> None:
    draw = random.Random(2)
    width = 500
    counter = LossyCounter(width)
    true: Counter[str] = Counter()
    most = 0
    for _ in range(400):
        batch = Counter(f"w{int(draw.paretovariate(0.2))}" for _ in range(100))
        counter.update(batch)
        true.update(batch)
        most = max(most, len(counter))
    kept = dict(counter.items(1))
    assert counter.error == true.total() // width == 80
    assert most < 5 * width < len(true)  # memory stays small although there are many more items
    for item, count in true.items():
        if count > counter.error:
            assert item in kept
        assert count - counter.error <= kept.get(item, 0) <= count


def test_counts_are_exact_until_the_first_pruning() -> None:
    counter = LossyCounter(1000)
    counter.update(Counter({"a": 1, "b": 900}))
    assert (dict(counter.items(1)), counter.error) == ({"a": 1, "b": 900}, 0)


def test_names_are_told_by_their_capitals() -> None:
    texts = ["I saw Tilda. Tilda came", "so did Tilda and the rose", "The Rose, a rose"]
    counter, _ = count_phrases(clean_chunk(texts))
    assert names_in(dict(counter.items(1))) == {"tilda"}


def test_chunks_come_back_in_order() -> None:
    assert list(ordered_map(sum, chunked(range(100), 7), workers=1)) == [sum(c) for c in chunked(range(100), 7)]
    assert list(ordered_map(sum, iter([]), workers=2)) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_no_worker_outlives_a_killed_build(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from tmcr.tags.building.parallel import ordered_map\n"
        "def work(seconds):\n    time.sleep(seconds)\n    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    for pid in ordered_map(work, [0.1] * 1000, workers=2):\n        print(pid, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()


# --- collocations and candidates ---


def test_npmi_against_probabilities_over_all_words() -> None:
    words = ("depth of field " * 30 + "soft light " * 20 + "light of day field of grass soft dog ").split()
    total = len(words)
    p = {word: count / total for word, count in Counter(words).items()}
    for phrase in ("depth of field", "soft light", "light of"):
        parts = phrase.split()
        together = sum(words[i : i + len(parts)] == parts for i in range(total))
        independent = 1.0
        for part in parts:
            independent *= p[part]
        expected = math.log2(together / total / independent) / -math.log2(together / total) / (len(parts) - 1)
        assert npmi(together, [words.count(part) for part in parts], total) == pytest.approx(expected)


def test_npmi_is_one_for_words_that_are_never_apart_and_nought_by_chance() -> None:
    for size in (2, 3):
        assert npmi(7, [7] * size, 1000) == pytest.approx(1)
        assert npmi(1000 // 10**size, [100] * size, 1000) == pytest.approx(0)
    assert npmi(1, [100, 100], 1000) < 0


def test_proposing_joins_forms_drops_names_weak_and_contained_phrases() -> None:
    counts = {
        "tree": 40, "trees": 60, "colour": 30, "color": 10, "light": 500, "soft": 60, "the": 4000, "of": 3000,
        "depth": 50, "field": 60, "depth of field": 45, "soft light": 40, "of field": 45, "dog": 500,
        "dog light": 6, "tilda": 30, "^tilda": 30, "tilda light": 30, "rare": 4, "looks": 100, "ok": 50,
    }  # fmt: skip
    found = {item.tag: item for item in propose(counts, 10_000, least=5)}
    assert found["trees"].count == 100
    assert found["color"].count == 40
    assert found["depth of field"].strength > found["soft light"].strength > 0.2
    assert {"tilda", "tilda light", "rare", "looks", "ok", "dog light", "of field"}.isdisjoint(found)
    assert [item.tag for item in propose(counts, 10_000, least=5, most=2)] == ["dog", "light"]


# --- merge ---


def test_one_letter_off_is_every_single_change_but_of_the_first_letter() -> None:
    found = set(one_letter_off("crop"))
    assert {"croop", "cop", "corp", "crap", "crops"} <= found
    assert all(word.startswith("c") for word in found)


def test_misspellings_go_to_the_frequent_form_and_other_words_stay() -> None:
    names = [("composition", 900), ("compositon", 8), ("horizon", 300), ("horizn", 5), ("lighting", 400),
             ("lightning", 60), ("dog", 500), ("dig", 2)]  # fmt: skip
    label = Label("attribute", "composition", "neutral")
    found = merge([Candidate(tag, count, 1.0) for tag, count in names], [label] * len(names))
    assert {item.candidate.tag: (item.candidate.count, item.variants) for item in found} == {
        "composition": (908, ("compositon",)),
        "dog": (500, ()),
        "lighting": (400, ()),
        "horizon": (305, ("horizn",)),
        "lightning": (60, ()),
        "dig": (2, ()),
    }


def test_opposites_come_from_the_known_library_and_from_rules() -> None:
    known = TagLibrary("attribute", ("blown", "blocked"), opposites=("blocked", "blown"))
    by_rule = ("overexposed", "underexposed", "balanced", "unbalanced", "too dark", "too bright", "odd")
    found = find_opposites(("blown", "blocked", *by_rule), known)
    assert found == {
        "blown": "blocked", "blocked": "blown", "overexposed": "underexposed", "underexposed": "overexposed",
        "balanced": "unbalanced", "unbalanced": "balanced", "too dark": "too bright", "too bright": "too dark",
    }  # fmt: skip
