"""From a data set to the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tmcr.errors import ConfigError
from tmcr.experiments.bench import Bench
from tmcr.experiments.figure_data import Figure, figure5, figure6, figure7
from tmcr.experiments.outcome import RegionRule, try_systems
from tmcr.experiments.plan import Plan
from tmcr.experiments.systems import FULL_FT, System, find_systems, frequency_sweep
from tmcr.experiments.tables import TABLES, Table, make_table

FIGURES = ("figure5", "figure6", "figure7")
EXPERIMENTS = (*TABLES, *FIGURES)
FIGURE_5_SYSTEMS = ("NIMA", "LDS FT", FULL_FT)
NO_RANKING = "no ranking LP"
PAPER_FREQUENCIES = (20, 40, 60, 80, 100)
SMALL_FREQUENCIES = (1, 2, 4, 8, 16)  # around the small preset's 4


@dataclass(frozen=True)
class Wishes:
    """What a reproduction can be told beside data and plan.

    Attributes:
        systems: instead of a table's own rows (figures 6 and 7 have none to choose).
        also: besides them; peers, say.
        frequencies: of figure 6; None takes the paper's, or with the small preset some around its own.
        cluster: of figure 7; None takes the most varied one.
        command: is written beside every number.
    """

    rule: RegionRule = field(default_factory=RegionRule)
    systems: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    frequencies: tuple[int, ...] | None = None
    cluster: int | None = None
    command: str = ""


def check_wishes(what: str, wishes: Wishes, device: str = "auto") -> tuple[str, ...]:
    """The experiments that `what` names, "all" for every one.

    Raises:
        ConfigError: no such experiment, system or frequency.
    """
    if what != "all" and what not in EXPERIMENTS:
        raise ConfigError(f"nothing called {what!r} can be reproduced; there are {', '.join(EXPERIMENTS)} and all")
    if wishes.frequencies is not None and min(wishes.frequencies) < 1:
        raise ConfigError(f"a sampling frequency is 1 or more, not {min(wishes.frequencies)}")
    find_systems([*wishes.systems, *wishes.also], device)
    return EXPERIMENTS if what == "all" else (what,)


def reproduce(what: str, bench: Bench, plan: Plan, wishes: Wishes | None = None) -> Iterator[Table | Figure]:
    """Tables and figures, each as soon as it is measured.

    Raises:
        ConfigError, DataError: as `check_wishes` and `try_systems`.
    """
    wishes = wishes or Wishes()
    for name in check_wishes(what, wishes, bench.config.device):
        if name in TABLES:
            yield _table(name, bench, plan, wishes)
        elif name == "figure5":
            outcome = try_systems(bench, plan, _chosen(FIGURE_5_SYSTEMS, bench, wishes), wishes.rule)
            yield replace(figure5(outcome, wishes.rule), command=wishes.command)
        elif name == "figure6":
            default = SMALL_FREQUENCIES if bench.config.preset == "small" else PAPER_FREQUENCIES
            frequencies = tuple(sorted(set(wishes.frequencies or default)))
            systems = [*frequency_sweep(frequencies), *find_systems([NO_RANKING])]
            outcome = try_systems(bench, plan, systems, wishes.rule)
            yield replace(figure6(outcome, frequencies, NO_RANKING), command=wishes.command)
        else:
            first = replace(plan, seeds=plan.seeds[:1], repeats=plan.repeats[:1])
            facts = try_systems(bench, first, [], wishes.rule).facts
            trial = bench.passes(first)[0][0]
            yield replace(figure7(trial, facts, wishes.cluster), command=wishes.command)


def _table(name: str, bench: Bench, plan: Plan, wishes: Wishes) -> Table:
    outcome = try_systems(bench, plan, _chosen(TABLES[name].systems, bench, wishes), wishes.rule)
    notes = []
    if any(metric.startswith("mse_") for metric in TABLES[name].metrics):
        notes.append(wishes.rule.describe())
    if plan.folds is not None and "constant" in outcome.predicted:
        notes.append(
            "a fold's mean is low where its held-out photos rate high: pooled, 'constant' correlates negatively"
        )
    return make_table(name, outcome, notes, wishes.command)


def _chosen(own: Sequence[str], bench: Bench, wishes: Wishes) -> list[System]:
    names = dict.fromkeys([*(wishes.systems or own), *wishes.also])
    return find_systems(list(names), bench.config.device)
