"""The tag builder: counts and collocations against brute force, merging, review, resuming, the whole way."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tmcr.errors import TagError
from tmcr.tags import TagLibraries, TagLibrary
from tmcr.tags.building import Build, BuildOptions
from tmcr.tags.building.clean import clean, clean_chunk
from tmcr.tags.building.collocation import npmi
from tmcr.tags.building.count import LossyCounter, count_phrases, names_in, phrases
from tmcr.tags.building.freeze import freeze
from tmcr.tags.building.label import Label
from tmcr.tags.building.merge import merge, one_letter_off
from tmcr.tags.building.offline import (
    Labelled,
    OfflineClassifier,
    labelled_tags,
    measure,
    polarity_by_words,
    precision_recall,
)
from tmcr.tags.building.opposites import find_opposites
from tmcr.tags.building.parallel import chunked, ordered_map
from tmcr.tags.building.propose import Candidate, propose
from tmcr.tags.building.review import Reviewed, parse_place, read_review, with_decisions, write_review
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


# --- offline classifier ---


@pytest.fixture(scope="module")
def classifier() -> OfflineClassifier:
    return OfflineClassifier(labelled_tags(TagLibraries.default()))


def test_a_labelled_tag_keeps_its_label_in_any_form(classifier: OfflineClassifier) -> None:
    shipped = TagLibraries.default()
    labels = classifier.classify(list(shipped.semantic.tags[:50]))
    assert [label.facet for label in labels] == list(shipped.semantic.facets[:50])
    one, other = classifier.classify(["dog", "dogs"])
    assert one == other
    assert one.library == "semantic"


def test_unknown_phrases_go_where_their_words_belong(classifier: OfflineClassifier) -> None:
    fault, praise, neither = classifier.classify(
        ["distracting reddish color cast", "wonderfully soft evening light", "my honest opinion"]
    )
    assert (fault.library, fault.polarity) == ("attribute", "fault")
    assert (praise.library, praise.facet, praise.polarity) == ("attribute", "light", "praise")
    assert neither.library == "neither"
    assert classifier.classify([]) == []


@pytest.mark.parametrize(
    ("tag", "polarity"),
    [("beautiful tones", "praise"), ("not sharp", "fault"), ("too dark", "fault"), ("harsh but beautiful", "fault"),
     ("wide angle", "")],
)  # fmt: skip
def test_words_that_praise_and_find_fault(tag: str, polarity: str) -> None:
    assert polarity_by_words(tag) == polarity


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(TagError, match="needs labelled semantic and attribute tags"):
        OfflineClassifier([Labelled("dog", Label("semantic", "animals"))])


def test_precision_and_recall_by_hand() -> None:
    answers = [("a", "a"), ("a", "b"), ("a", "a"), ("b", "b"), ("b", "c"), ("c", "c")]
    found = {score.name: (score.precision, score.recall, score.count) for score in precision_recall("t", answers)}
    assert found == {"a": (1.0, 2 / 3, 3), "b": (1 / 2, 1 / 2, 2), "c": (1 / 2, 1.0, 1)}


def test_the_classifier_is_much_better_than_guessing_on_tags_it_has_not_seen() -> None:
    measured = measure(TagLibraries.default())
    assert measured.held_out > 500
    assert measured.accuracy["library"] > 0.75  # without an encoder; always "semantic" has about 0.55
    assert measured.accuracy["facet"] > 0.45


# --- review ---


ROWS = [
    Reviewed("dog", Label("semantic", "animals", by="offline"), 40),
    Reviewed("dark", Label("attribute", "exposure", "neutral", 0.5, "offline"), 30, opposite="bright"),
    Reviewed("bright", Label("attribute", "exposure", "neutral", 0.9, "offline"), 20, opposite="dark"),
    Reviewed("ribbon", Label("semantic", "clothing", by="offline"), 10, variants=("ribon",), like="bow"),
    Reviewed("opinion", Label("neither", by="offline"), 9),
]


def decided(**decisions: tuple[str, str]) -> list[Reviewed]:
    return [
        replace(row, decision=decisions[row.tag][0], to=decisions[row.tag][1]) if row.tag in decisions else row  # type: ignore[arg-type]
        for row in ROWS
    ]


def test_a_review_reads_as_it_was_written(tmp_path: Path) -> None:
    rows = [*decided(dog=("keep", ""), ribbon=("drop", "")), Reviewed("=sum", Label("neither"), 1)]
    write_review(rows, tmp_path / "review.tsv")
    assert read_review(tmp_path / "review.tsv") == rows
    raw = (tmp_path / "review.tsv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")  # spreadsheets need it to see UTF-8
    assert b"'=sum" in raw  # and would run this as a formula


@pytest.mark.parametrize("delimiter", [";", ","])
def test_a_review_saved_with_another_delimiter_and_decimal_commas_is_read(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "review.tsv"
    write_review(decided(dog=("keep", "")), path)
    text = path.read_text(encoding="utf-8-sig").replace("\t", delimiter).replace("0.5", '"0,5"')
    path.write_text(text.replace("keep", " KEEP "), encoding="utf-8")
    assert read_review(path) == decided(dog=("keep", ""))


def test_decisions_survive_a_rebuild() -> None:
    before = decided(dog=("drop", ""), dark=("rename", "low key"), ribbon=("keep", ""))
    now = [Reviewed("cat", Label("semantic", "animals"), 50), *(replace(row, count=99) for row in ROWS[:3])]
    rows = with_decisions(now, before)
    assert [(row.tag, row.decision, row.to, row.count) for row in rows] == [
        ("cat", "", "", 50),
        ("dog", "drop", "", 99),
        ("dark", "rename", "low key", 99),
        ("bright", "", "", 99),
        ("ribbon", "keep", "", 10),  # no longer proposed, but somebody wanted it
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t\tdark", "maybe\t\tdark", "row 3, column decision: 'maybe' is none of keep, drop, move, rename"),
        ("\t\tdark", "rename\t\tdark", "row 3, column to: 'rename' needs the new tag"),
        ("\t\tdark", "move\tlight\tdark", "row 3, column to: 'light' is no place; write e.g. attribute/light/praise"),
        ("\t\tdark", "move\tattribute/light\tdark", "row 3, column to: .* lacks the polarity"),
        ("\t\tdark", "\t\tdog", "row 3, column tag: 'dog' stands in row 2 already"),
        ("\t\tdark", "keep\t\t", "row 3, column tag: is empty"),
        ("\tattribute\texposure\tneutral\tb", "\tattr\texposure\tneutral\tb", "row 3, column library: 'attr'"),
        ("exposure\tneutral\tbright\t30", "exposure\tnice\tbright\t30", "row 3, column polarity: 'nice'"),
        ("bright\t30", "bright\tmany", "row 3, column count: 'many' is no number"),
        ("decision\tto", "verdict\tto", "row 1: the column 'decision' is missing"),
        ("\t\tdark", '"open\t\tdark', "row"),
    ],
)
def test_a_badly_edited_review_names_row_and_column_and_is_left_alone(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "review.tsv"
    write_review(ROWS, path)
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    edited = path.read_bytes()
    with pytest.raises(TagError, match=message) as error:
        read_review(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == edited


def test_a_review_in_another_encoding_or_empty_is_said(tmp_path: Path) -> None:
    path = tmp_path / "review.tsv"
    path.write_bytes("décision".encode("utf-16"))
    with pytest.raises(TagError, match="is not UTF-8; save it"):
        read_review(path)
    path.write_bytes(b"")
    with pytest.raises(TagError, match="is empty"):
        read_review(path)


def test_places() -> None:
    assert parse_place(" Attribute/Light/Praise ") == Label("attribute", "light", "praise", by="review")
    assert parse_place("semantic/art and culture") == Label("semantic", "art and culture", by="review")
    assert parse_place("neither") == Label("neither", by="review")


# --- freeze ---


def test_freezing_does_what_the_review_says() -> None:
    rows = decided(dark=("rename", "gloomy"), ribbon=("move", "attribute/mood/praise"), opinion=("keep", ""))
    found = freeze(rows)
    assert found.semantic.tags == ("dog",)
    assert found.attribute.tags == ("gloomy", "bright", "ribbon")
    assert found.attribute.opposites == ("bright", "gloomy", "")
    assert found.attribute.polarities == ("neutral", "neutral", "praise")
    assert found.frequencies == (40, 30, 20, 10)


def test_an_opposite_that_is_dropped_is_none_any_more() -> None:
    assert freeze(decided(bright=("drop", ""))).attribute.opposites == ("",)


def test_what_nobody_reviewed_stays_only_where_the_classifier_is_sure() -> None:
    assert "dark" not in freeze(ROWS, sure=0.6).names
    assert "dark" in freeze(decided(dark=("keep", "")), sure=0.6).names


def test_renaming_onto_another_candidate_takes_its_place_or_is_refused() -> None:
    assert freeze(decided(dark=("rename", "bright"))).attribute.frequencies == (30,)
    with pytest.raises(TagError, match="keeps 'bright' and 'dark', both as 'bright'"):
        freeze(decided(dark=("rename", "bright"), bright=("keep", "")))


def test_an_empty_library_is_refused() -> None:
    with pytest.raises(TagError, match="no semantic tag is left"):
        freeze(decided(dog=("drop", ""), ribbon=("drop", "")))


# --- the whole way ---


def write_comments(path: Path, count: int = 400) -> Path:
    draw = random.Random(3)
    subjects = ["dog", "cat", "bridge", "mountain", "flower", "boat", "church"]
    looks = ["soft light", "harsh shadows", "shallow depth of field", "tilted horizon", "vivid colors"]
    lines = [
        {
            "image": f"{i}.jpg",
            "comment": f"I like the {draw.choice(subjects)}, and there is {draw.choice(looks)}. In my opinion {i} wins",
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def build(comments: Path, out: Path, said: list[str] | None = None, **options: object) -> TagLibraries:
    said = said if said is not None else []
    return Build([comments], out, BuildOptions(**options), say=said.append).run().libraries  # type: ignore[arg-type]


def test_from_comments_to_libraries_that_load(tmp_path: Path) -> None:
    said: list[str] = []
    found = build(write_comments(tmp_path / "c.jsonl"), tmp_path / "out", said)
    assert {"dog", "bridge", "church"} <= set(found.semantic.tags)
    assert {"soft light", "depth of field", "tilted horizon"} & set(found.attribute.tags)
    assert not any("opinion" in tag for tag in found.names)
    assert TagLibraries.load(tmp_path / "out" / "libraries").hash == found.hash
    stamp = json.loads((tmp_path / "out" / "libraries" / "library.json").read_text())
    assert stamp["hash"] == found.hash
    assert said[0].startswith("clean: 400 comments read")


def test_a_second_run_does_nothing_anew_and_a_decision_counts(tmp_path: Path) -> None:
    comments = write_comments(tmp_path / "c.jsonl")
    out = tmp_path / "out"
    first = build(comments, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.t*") if path.name != "review.tsv"}
    said: list[str] = []
    assert build(comments, out, said).hash == first.hash
    assert sum("(unchanged)" in line for line in said) == 5
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.t*") if path.name != "review.tsv"} == before

    rows = read_review(out / "review.tsv")
    write_review([replace(r, decision="drop") if r.tag == "dog" else r for r in rows], out / "review.tsv")
    assert "dog" not in build(comments, out).names
    write_comments(comments, 500)  # more comments: everything anew, the decision stays
    said.clear()
    assert "dog" not in build(comments, out, said).names
    assert not any("(unchanged)" in line for line in said[:4])


def test_another_setting_repeats_only_what_depends_on_it(tmp_path: Path) -> None:
    comments = write_comments(tmp_path / "c.jsonl")
    build(comments, tmp_path / "out")
    said: list[str] = []
    build(comments, tmp_path / "out", said, strength=0.5)
    steps = {line.split(":")[0]: "(unchanged)" in line for line in said if ":" in line and not line.startswith(" ")}
    assert (steps["clean"], steps["counts"], steps["candidates"]) == (True, True, False)


def test_a_damaged_or_missing_step_is_done_again(tmp_path: Path) -> None:
    comments = write_comments(tmp_path / "c.jsonl")
    first = build(comments, tmp_path / "out")
    (tmp_path / "out" / "counts.tsv").write_text("phrase\tcount\nnonsense\t1\n")
    (tmp_path / "out" / "candidates.tsv").unlink()
    assert build(comments, tmp_path / "out").hash == first.hash


def test_a_bad_review_stops_the_build_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "review.tsv").write_text("decision\tto\ttag\tlibrary\nwhat\t\tdog\tsemantic\n")
    with pytest.raises(TagError, match=r"review.tsv, row 2, column decision"):
        build(write_comments(tmp_path / "c.jsonl"), out)
    assert [path.name for path in out.iterdir()] == ["review.tsv"]


def test_comments_without_a_usable_word_are_said(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("😍\n\n!!!\n")
    with pytest.raises(TagError, match="no comment can be used: 0 comments read; 3 skipped: empty"):
        build(path, tmp_path / "out")
    path.write_text("a nice dog\n")
    with pytest.raises(TagError, match="no word occurs 5 times"):
        build(path, tmp_path / "out")


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    comments = write_comments(tmp_path / "c.jsonl", 30_000)
    code = (
        "import sys; from pathlib import Path; from tmcr.tags.building import Build;"
        "Build([Path(sys.argv[1])], Path(sys.argv[2]), say=lambda line: print(line, flush=True)).run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(comments), str(tmp_path / "out")],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("clean: ")
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    said: list[str] = []
    killed = build(comments, tmp_path / "out", said)
    assert "(unchanged)" in said[0]
    assert not list((tmp_path / "out").glob("*.part"))
    assert killed.hash == build(comments, tmp_path / "fresh").hash
