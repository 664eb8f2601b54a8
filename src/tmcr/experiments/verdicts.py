"""What an examination of a model found, as tables and as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tmcr.metrics import Interval, Report

MODEL, RIDGE = "the model", "ridge on its encoder"
SHOWN = 5  # tags that are compared with captions


@dataclass
class Verdicts:
    """What the examination found; every share and difference is an `Interval` with 95 % confidence.

    Attributes:
        description: data, model, machine, seed.
        reports: metrics by system; `against`: SRCC of the model minus that of each other system.
        order: (kind, "mild" or "strong") → share of photos above their copy. drop: mean difference of the scores.
        sameness: copy → mean absolute difference of the scores.
        spread: standard deviation of the predicted scores over that of the ratings.
        captions: share of captioned photos one of whose tags is in a caption, by who names the tags.
        families: attribute family → share of photos whose tags moved the right way. named: → shares of changed and of
            unchanged photos on which one of its tags is shown.
        cost: plain numbers.
    """

    description: str
    reports: dict[str, Report] = field(default_factory=dict)
    against: dict[str, Interval] = field(default_factory=dict)
    order: dict[tuple[str, str], Interval] = field(default_factory=dict)
    drop: dict[tuple[str, str], float] = field(default_factory=dict)
    sameness: dict[str, Interval] = field(default_factory=dict)
    spread: Interval | None = None
    captions: dict[str, Interval] = field(default_factory=dict)
    tags_shown: float | None = None
    families: dict[str, Interval] = field(default_factory=dict)
    named: dict[str, tuple[Interval, Interval]] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        def triple(each: Interval | None) -> list[float] | None:
            return None if each is None else [round(value, 4) for value in (each.value, each.low, each.high)]

        return {
            "description": self.description,
            "accuracy": {name: report.to_dict() for name, report in self.reports.items()},
            "srcc_of_the_model_minus": {name: triple(each) for name, each in self.against.items()},
            "above_damaged_copy": {
                kind: {
                    level: [*(triple(self.order[kind, level]) or []), round(self.drop[kind, level], 3)]
                    for level in ("mild", "strong")
                }
                for kind in dict.fromkeys(kind for kind, _ in self.order)
            },
            "moved_by": {name: triple(each) for name, each in self.sameness.items()},
            "spread": triple(self.spread),
            "tags_in_captions": {name: triple(each) for name, each in self.captions.items()},
            "tags_shown": self.tags_shown,
            "attribute_tags_follow": {name: triple(each) for name, each in self.families.items()},
            "attribute_tags_shown": {
                name: {"changed": triple(changed), "unchanged": triple(unchanged)}
                for name, (changed, unchanged) in self.named.items()
            },
            "cost": self.cost,
        }

    def to_markdown(self) -> str:
        """All tables, with 95 % intervals in brackets."""
        lines = [f"{self.description}. 95 % bootstrap intervals in brackets.", "", "## Accuracy", ""]
        lines += [
            "| system | SRCC | PLCC | MSE | EMD (r=1) | the model's SRCC minus this |",
            "|---|---|---|---|---|---|",
        ]
        for name, report in self.reports.items():
            cells = [_cell(report, metric) for metric in ("srcc", "plcc", "mse", "emd1")]
            gap = self.against.get(name)
            lines.append(f"| {name} | {' | '.join(cells)} | {_signed(gap) if gap else ''} |")
        tail = self.reports[MODEL].long_tail if MODEL in self.reports else None
        if self.spread is not None:
            lines += ["", f"Spread: predicted scores vary {self.spread} times as much as the ratings."]
        if tail is not None:
            parts = [f"{region} {tail.mse[region]:.2f} ({tail.counts[region]} photos)" for region in tail.mse]
            lines += ["", f"MSE by how common a score is: {', '.join(parts)}."]
        if self.order:
            lines += ["", "## A photo above its damaged copy", "", "| damage | mild | drop | strong | drop |"]
            lines += ["|---|---|---|---|---|"]
            for kind in dict.fromkeys(kind for kind, _ in self.order):
                cells = [
                    f"{_percent(self.order[kind, level])} | {self.drop[kind, level]:+.2f}"
                    for level in ("mild", "strong")
                ]
                lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |")
        if self.sameness:
            lines += ["", "Mean absolute change of the score: "
                      + ", ".join(f"{name} {each}" for name, each in self.sameness.items()) + "."]  # fmt: skip
        if self.captions or self.families:
            lines += ["", "## Tags"]
        if self.captions:
            lines += ["", "| who names up to five tags | photos with a tag in a caption |", "|---|---|"]
            lines += [f"| {name} | {_percent(each)} |" for name, each in self.captions.items()]
            lines += ["", f"Semantic tags shown for a photo, on average: {self.tags_shown:.1f} of {SHOWN}."]
        if self.families:
            lines += ["", "| change of looks | tags move the right way | a tag is shown | without the change |"]
            lines += ["|---|---|---|---|"]
            for family, moved in self.families.items():
                lines.append(f"| {family} | {' | '.join(_percent(each) for each in (moved, *self.named[family]))} |")
        lines += ["", "## Cost", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value:g} |" for name, value in self.cost.items()]
        return "\n".join([*lines, ""])


def _cell(report: Report, metric: str) -> str:
    value, interval = getattr(report, metric), report.intervals.get(metric)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")


def _signed(each: Interval) -> str:
    return f"{each.value:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"


def _percent(each: Interval) -> str:
    return f"{100 * each.value:.0f} % [{100 * each.low:.0f}, {100 * each.high:.0f}]"
