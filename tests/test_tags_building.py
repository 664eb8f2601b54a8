"""The tag builder the whole way: from comments to libraries, resumed, repeated, killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tmcr.errors import TagError
from tmcr.tags import TagLibraries
from tmcr.tags.building import Build, BuildOptions
from tmcr.tags.building.review import read_review, write_review


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
