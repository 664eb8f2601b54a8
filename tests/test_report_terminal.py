"""Tables in the terminal: numbers are whole in every width, one is no plural."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from tmcr.assessment import Assessment, Cluster, Facet, Tag
from tmcr.evaluation import Evaluation
from tmcr.metrics import METRIC_NAMES, Interval, Report
from tmcr.report.evaluation import print_evaluation
from tmcr.report.terminal import counted, explain_panel, metrics_table, ranking_table

REPORT = Report(
    n=85, acc=0.751, srcc=-0.123, plcc=0.457, mse=1.507, emd1=0.131, emd2=0.162,
    intervals=dict.fromkeys(METRIC_NAMES, Interval(0.0, -0.987, 0.654, 0.95, 1000)),
)  # fmt: skip
NUMBERS = ["85", "0.751", "-0.123", "0.457", "1.507", "0.131", "0.162"]
PLAIN = replace(REPORT, intervals={})


def console(width: int) -> Console:
    return Console(width=width, file=io.StringIO(), highlight=False)


def printed(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


@pytest.mark.parametrize("width", [140, 80, 64, 40, 20])
@pytest.mark.parametrize("name", ["test", "hand-crafted features + ridge", "[x] 水彩画の風景と静物"])
def test_metrics_are_never_cut(width: int, name: str) -> None:
    on = console(width)
    metrics_table([(name, REPORT), ("TM+CR FT", PLAIN)], on)
    text = printed(on)
    for number in NUMBERS:
        assert len(re.findall(rf"(?<![\d-]){number}(?!\d)", text)) == 2
    assert text.count("-0.987") == text.count("0.654") == 6
    assert text.count("…") == (6 if width == 140 else 0)  # only between the ends of intervals
    if width >= 64:
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 50, 30])
def test_of_a_kind_of_photo_only_the_name_is_cut(width: int) -> None:
    kinds = {"sunset · beach · sea · sand · waves · coast at the end of the day": PLAIN, "dog": PLAIN}
    scores = np.array([4.0, 6.0])
    on = console(width)
    print_evaluation(Evaluation(REPORT, kinds, scores, scores, errors={"a.jpg": "cut short"}), "test", on)
    lines = [line for line in printed(on).splitlines() if line.startswith(("suns", "dog"))]
    assert [line.split()[-5:] for line in lines] == [["85", "-0.123", "0.457", "1.507", "0.131"]] * 2
    assert "…" in lines[0]
    assert "1 photo could not be read, e.g. a.jpg" in " ".join(printed(on).split())


def test_the_shares_of_ratings_stand_under_each_other() -> None:
    facets = tuple(Facet(f"facet {number}", "semantic", 0.1) for number in range(9))
    shares = (0.05, 0.25, 0.7)
    verdict = Assessment("a.jpg", 7.0, 1.0, shares, (1.0, 5.5, 10.0), facets=facets, reference_score=6.0)
    for width in (90, 50, 40):
        on = console(width)
        on.print(explain_panel(verdict))
        lines = [line for line in printed(on).splitlines() if "%" in line]
        assert [line.split()[-2] for line in lines] == ["70%", "25%", "5%"]
        assert len({line.index("%") for line in lines}) == 1
        longest, middle, _ = (line.count("█") for line in lines)
        assert middle / longest == pytest.approx(25 / 70, abs=0.05)
        assert "1 other facet " in printed(on)
        assert "…" not in printed(on)


def test_one_is_no_plural() -> None:
    assert [counted(number, "photo") for number in (0, 1, 2, 1371)] == [
        "0 photos",
        "1 photo",
        "2 photos",
        "1,371 photos",
    ]


@pytest.mark.parametrize(("width", "kind"), [(140, True), (80, False)])
def test_the_ranking_names_tags_of_ones_own_that_fit(width: int, kind: bool) -> None:
    own = (Tag("lightning", 0.4, 2.5), Tag("[dog]", 0.3, 1.2), Tag("sunset", 0.2, 0.3))
    verdict = Assessment(
        "a.jpg", 5.5, 1.2, (0.5, 0.5), (5.0, 6.0), percentile=60.0, cluster=Cluster(0, ("lake",)), own_tags=own,
        semantic_tags=(Tag("lake", 0.4, 2.5),),
    )  # fmt: skip
    on = console(width)
    ranking_table([verdict, replace(verdict, photo="b.jpg", own_tags=())], on)
    text = printed(on)
    assert text.count("your tags") == 1
    assert text.count("lightning, [dog]") == 1
    assert "sunset" not in text
    assert ("lake" in text) == kind


def test_a_kind_is_called_only_what_the_photo_shows() -> None:
    tags = tuple(Tag(name, 0.4, 2.5) for name in ("swan", "shore", "lake"))
    verdict = Assessment(
        "a.jpg", 5.5, 1.2, (0.5, 0.5), (5.0, 6.0), percentile=60.0, cluster=Cluster(0, ("lake", "surf", "shore")),
        semantic_tags=tags, reference_score=5.0,
    )  # fmt: skip
    for shown, name, full in ((tags, " of lake", ": lake · shore"), (tags[:1], "", "")):
        one = replace(verdict, semantic_tags=shown)
        table, panel = console(120), console(120)
        ranking_table([one], table)
        panel.print(explain_panel(one))
        assert re.search(f"above 60 %{name} {{2,}}", printed(table))
        assert re.search(f"of its kind{full} {{2,}}", printed(panel))


def test_without_tags_of_ones_own_there_is_no_column_for_them() -> None:
    on = console(80)
    ranking_table([Assessment("a.jpg", 5.5, 1.2, (0.5, 0.5), (5.0, 6.0))], on)
    assert "your tags" not in printed(on)
    assert "among its kind" in printed(on)
