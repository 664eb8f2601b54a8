"""The benchmark suite's own parts; how fast anything is, is not tested."""

from __future__ import annotations

import csv
import importlib.util
import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import document
from benchmarks.__main__ import _in_a_process
from benchmarks.flops import count_flops
from benchmarks.photos import SMALL, numbered, pictures, write_photos, write_shard
from benchmarks.picture import draw
from benchmarks.record import Result, read_results, result, write_results
from benchmarks.suite import SUITE, Measurement
from benchmarks.timing import Samples, alternated
from tmcr.images import content_hash

RATED = result(
    "bundled model", Samples((8.0, 10.0, 9.0)), "photos/s", ratio=Samples((0.8, 0.9, 0.85)), to="encoders | alone",
    goal="≥ 0.85", photos=1384, threads=2, note="JPEGs, generated",
)  # fmt: skip
SKIPPED = Result("ray", measurement="ray", note="skipped: Ray is not installed")


# ---- numbers -------------------------------------------------------------------------------------------------------


def test_ratios_are_taken_repeat_by_repeat() -> None:
    slow_then_fast, twice_that = Samples((4.0, 1.0, 2.0)), Samples((8.0, 2.0, 5.0))
    ratio = twice_that.over(slow_then_fast)
    assert ratio.values == (2.0, 2.0, 2.5)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.5)


def test_seconds_become_a_rate() -> None:
    assert Samples((2.0, 4.0)).rate(8).values == (4.0, 2.0)


def test_ratios_need_equal_numbers_of_repeats() -> None:
    with pytest.raises(ValueError, match="zip"):
        Samples((1.0,)).over(Samples((1.0, 2.0)))


def test_ways_take_turns_forwards_and_backwards_after_one_that_is_not_measured() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    seconds = alternated(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, clock=lambda: float(next(ticks))
    )
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert seconds["a"].values == seconds["b"].values == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("ratio", "value", "goal", "met"),
    [
        (0.85, 9.0, "≥ 0.85", True),
        (0.84, 9.0, "≥ 0.85", False),
        (1.3, 9.0, "≤ 1.25", False),
        (None, 9.0, "≤ 20", True),
        (None, None, "≤ 20", None),
        (0.5, 9.0, "", None),
    ],
)
def test_a_goal_is_one_of_the_ratio_or_else_of_the_value(
    ratio: float | None, value: float | None, goal: str, met: bool | None
) -> None:
    assert Result("x", value=value, ratio=ratio, goal=goal).met is met


def test_flops_of_a_known_layer_and_convolution() -> None:
    layer, x = torch.nn.Linear(30, 50), torch.zeros(7, 30)
    assert count_flops(lambda: layer(x)) == 2 * 7 * 30 * 50
    convolution, picture = torch.nn.Conv2d(3, 5, 3, padding=1), torch.zeros(2, 3, 8, 8)
    assert count_flops(lambda: convolution(picture)) == 2 * 2 * 5 * 8 * 8 * 3 * 3 * 3


@torch.inference_mode()
def test_flops_of_attention_are_those_of_its_two_products() -> None:
    q = torch.zeros(2, 4, 10, 16)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(q, q, q)) == 2 * 2 * 4 * 10 * 10 * 16 * 2


# ---- what is written -----------------------------------------------------------------------------------------------


def test_results_survive_the_csv(tmp_path: Path) -> None:
    write_results([RATED, SKIPPED], tmp_path / "out" / "results.csv")
    assert read_results(tmp_path / "out" / "results.csv") == [RATED, SKIPPED]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["value"], first["low"], first["high"]) == ("9", "8", "10")
    assert (first["ratio"], first["ratio_to"], first["photos"]) == ("0.85", "encoders | alone", "1384")
    assert {"name", "unit", "threads", "device", "machine", "date"} <= first.keys()


def test_another_table_is_not_taken_for_results(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of benchmark results"):
        read_results(tmp_path / "other.csv")


def test_the_page_is_filled_between_its_markers_and_filled_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    for _ in range(2):
        document.fill(page, [RATED, SKIPPED])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| bundled model | 9.00 photos/s | 0.85 [0.80, 0.90] to encoders ∣ alone | ≥ 0.85 met |") == 1
    assert "skipped: Ray is not installed" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1  # every row has every column


def test_a_missed_goal_is_told() -> None:
    missed = Result("x", value=30.0, unit="s", goal="≤ 20")
    assert "**missed**" in document.table([missed])
    assert "MISSED" in document.line(missed)


def test_a_page_without_markers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="has no <!-- results -->"):
        document.fill(page, [RATED])
    assert page.read_text() == "nothing\n"


def test_the_documentation_has_the_markers_and_names_every_measurement() -> None:
    text = document.PAGE.read_text(encoding="utf-8")
    assert text.index(document.BEGIN) < text.index(document.END)
    assert [each.name for each in SUITE if f"`{each.name}`" not in text] == []


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    row = Result("x", "m", value=1.0, ratio=0.5, ratio_low=0.4, ratio_high=0.6, ratio_to="y", goal="≥ 0.4")
    paths = draw([row, RATED, SKIPPED], tmp_path)
    assert [path.suffix for path in paths] == [".png", ".svg"]
    with Image.open(paths[0]) as picture:
        assert picture.width > 1000
    svg = paths[1].read_text()
    assert "m: x" in svg
    assert "0.85 to encoders | alone" in svg


def test_there_is_no_picture_without_ratios(tmp_path: Path) -> None:
    assert draw([SKIPPED], tmp_path) == []


# ---- photos and processes ------------------------------------------------------------------------------------------


def test_a_numbered_copy_has_other_bytes_and_the_same_pixels() -> None:
    buffer = io.BytesIO()
    next(pictures(1, SMALL)).save(buffer, "JPEG")
    one, two = numbered(buffer.getvalue(), 1), numbered(buffer.getvalue(), 2)
    assert content_hash(one) != content_hash(two)
    assert Image.open(io.BytesIO(one)).tobytes() == Image.open(io.BytesIO(buffer.getvalue())).tobytes()


def test_no_two_photos_are_equal_to_the_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMCR_SHARED_DATA", str(tmp_path / "nowhere"))  # generated pictures
    paths = write_photos(tmp_path / "photos", 6, (64, 48), different=2)
    assert len({content_hash(path) for path in paths}) == 6
    with Image.open(paths[0]) as first, Image.open(paths[1]) as second, Image.open(paths[2]) as third:
        assert first.size == (64, 48)
        assert first.tobytes() == third.tobytes() != second.tobytes()


def test_a_shard_is_read_as_photos_that_all_differ(tmp_path: Path) -> None:
    from tmcr.images import ImageLimits
    from tmcr.scoring.shards import members

    write_shard(tmp_path / "photos.tar", 5, (16, 16), different=2)
    found = list(members(str(tmp_path / "photos.tar"), column=None, limits=ImageLimits()))
    assert [member.error for member in found] == [None] * 5
    assert len({member.data for member in found}) == 5


def test_every_measurement_is_there() -> None:
    assert len({each.name for each in SUITE}) == len(SUITE)
    for each in SUITE:
        spec = importlib.util.find_spec(f"benchmarks.{each.module}")
        assert spec is not None
        assert spec.origin is not None
        assert "\ndef measure(quick: bool) -> Iterator[Result]:" in Path(spec.origin).read_text(encoding="utf-8")


def test_a_measurement_that_fails_or_hangs_says_why() -> None:
    found, error = _in_a_process(Measurement("no such", "nowhere", ""), quick=True)
    assert found == []
    assert "exit status 2" in error
    assert "invalid choice" in error
    found, error = _in_a_process(Measurement("start-up", "start_up", "", seconds=0.1), quick=True)
    assert found == []
    assert "not done after" in error
