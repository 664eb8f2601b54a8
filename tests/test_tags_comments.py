"""Comments from files of every kind, good and bad."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tmcr.errors import DataError
from tmcr.tags.comments import LONGEST, Comment, Reading, read_comments


def read(path: Path, **options: object) -> tuple[list[str], Reading]:
    reading = Reading()
    return [comment.text for comment in read_comments([path], reading=reading, **options)], reading  # type: ignore[arg-type]


TEXTS = ["a lovely soft light", "the horizon tilts, sadly", 'it says "hello"\non two lines']


def test_the_same_comments_from_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"comment": text}) + "\n" for text in TEXTS))
    rows = "".join(f'{i},"{text.replace(chr(34), chr(34) * 2)}"\n' for i, text in enumerate(TEXTS))
    (tmp_path / "c.csv").write_text("image,comment\n" + rows)
    parquet.write_table(pa.table({"comment": TEXTS}), tmp_path / "c.parquet")
    (tmp_path / "c.txt").write_text("\n".join(TEXTS[:2]) + "\n")
    for suffix in (".jsonl", ".csv", ".parquet"):
        assert read(tmp_path / f"c{suffix}")[0] == TEXTS, suffix
    assert read(tmp_path / "c.txt")[0] == TEXTS[:2]


def test_a_comment_knows_its_photo_and_photos_stay_in_one_half(tmp_path: Path) -> None:
    rows = [{"image": f"{i % 50}.jpg", "comment": f"comment number {i} of mine"} for i in range(500)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    comments = list(read_comments([tmp_path / "c.jsonl"]))
    half_of = {comment.photo: comment.half for comment in comments}
    assert len(half_of) == 50
    assert all(comment.half == half_of[comment.photo] for comment in comments)
    assert 10 < sum(half == "held-out" for half in half_of.values()) < 40
    assert Comment("the same words", "the same words").half == Comment("the same words", "the same words").half


@pytest.mark.parametrize(
    ("encoding", "text", "notes"),
    [
        ("utf-8", "a café at the sea", 0),
        ("utf-8-sig", "a café at the sea", 0),
        ("utf-16", "a café at the sea", 0),
        ("latin-1", "a café at the sea", 1),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, text: str, notes: int) -> None:
    (tmp_path / "c.txt").write_bytes(f"{text}\nplain words\n".encode(encoding))
    texts, reading = read(tmp_path / "c.txt")
    assert texts == [text, "plain words"]
    assert sum(reading.other_encoding.values()) == notes
    assert any("no UTF-8" in line for line in reading.lines()) == bool(notes)


def test_everything_that_is_skipped_is_counted(tmp_path: Path) -> None:
    lines = [
        json.dumps({"comment": "good light on the face"}),
        json.dumps({"comment": ""}),
        json.dumps({"comment": None}),
        json.dumps({"comment": "😍 !!! 10/10"}),
        json.dumps({"comment": 17}),
        json.dumps(["no", "object"]),
        json.dumps({"other": "field"}),
        '{"comment": "cut in the mid',
        "",
        json.dumps({"comment": "Eine sehr schöne Aufnahme mit wunderbarem Licht und Farben"}),
        json.dumps({"comment": "x" * (LONGEST + 1)}),
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(lines) + "\n")
    texts, reading = read(tmp_path / "c.jsonl")
    assert texts == ["good light on the face"]
    assert (reading.empty, reading.broken, reading.foreign, reading.too_long) == (4, 4, 1, 1)
    assert reading.total == len(lines)
    assert reading.lines()[0] == "1 comments read"
    assert read(tmp_path / "c.jsonl", english_only=False)[1].kept == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_very_long_line_is_skipped_in_little_memory(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.txt"
    with path.open("w", encoding=encoding) as file:
        file.write("before it\n")
        for _ in range(30):
            file.write("word " * 200_000)
        file.write("\nafter it\n")
    tracemalloc.start()
    texts, reading = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == ["before it", "after it"]
    assert reading.too_long == 1
    assert peak < 12e6 < path.stat().st_size


def test_a_quote_that_is_never_closed_does_not_swallow_the_file_unseen(tmp_path: Path) -> None:
    rows = "".join(f"{i},a good photo of the sea number {i}\n" for i in range(9000))
    (tmp_path / "c.csv").write_text(f'image,comment\n1,fine light here\n2,"never closed\n{rows}')
    texts, reading = read(tmp_path / "c.csv")
    assert texts[0] == "fine light here"
    assert reading.broken >= 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", None, "no such comments file"),
        ("c.docx", b"x", "comments are read from .txt, .jsonl, .csv, .parquet"),
        ("c.txt", b"\x89PNG\r\n\x1a\n\0\0\0", "is no text file"),
        ("c.jsonl", b'{"text": "hello"}\n', "has no field 'comment'.*its fields are: text.*--field"),
        ("c.csv", b"id,text\n1,hello\n", "has no field 'comment'.*its fields are: id, text"),
        ("c.csv", b"", "has no field 'comment'.*none"),
        ("c.parquet", b"no parquet at all", "is no Parquet file or damaged"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_progress_adds_up_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("one good line\n" * 100)
    seen: list[int] = []
    list(read_comments([path], on_bytes=seen.append))
    assert sum(seen) == path.stat().st_size
