"""The numbers that the paper prints, to stand beside measured ones and never among them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        label: what is written over it.
        metrics: names of the columns, as in `tmcr.experiments.outcome`; ACC is in percent, as printed.
        rows: method → values as printed, "" where the paper has none.
    """

    label: str
    metrics: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]


_ALL = ("acc", "plcc", "srcc", "mse", "emd1", "emd2")


def _row(text: str) -> tuple[str, ...]:
    return tuple("" if value == "-" else value for value in text.split())


TABLE_1 = PaperTable(
    "paper, AVA: test set of the paper",
    _ALL,
    {
        "DMA-Net": _row("75.4 - - - - -"),
        "Kong et al.": _row("77.3 - .558 - - -"),
        "NIMA": _row("78.2 .647 .633 .330 .049 .071"),
        "APM": _row("80.3 - .709 .279 - .061"),
        "A-Lamp": _row("82.5 - - - - -"),
        "Zeng et al.": _row("80.8 .720 .719 .275 - .065"),
        "Hosu et al.": _row("81.7 .757 .756 - - -"),
        "MUSIQ": _row("81.5 .738 .726 .242 - -"),
        "Niu et al.": _row("81.9 .740 .734 .242 - -"),
        "TANet": _row("80.6 .765 .758 - .047 -"),
        "AesCLIP": _row("83.1 .779 .771 .218 .041 .058"),
        "VILA": _row("- .774 .774 - - -"),
        "Jia et al.": _row("82.4 .775 .774 .231 .039 -"),
        "TMCR, ResNet-50": _row("81.7 .760 .753 .231 .047 .068"),
        "TMCR, ViT": _row("82.1 .778 .771 .219 .045 .065"),
        "TMCR, Swin-B": _row("82.8 .790 .782 .210 .043 .061"),
    },
)
TABLE_2_AADB = PaperTable(
    "paper, AADB",
    ("srcc", "plcc"),
    {
        "NIMA": _row(".708 .711"),
        "Hosu et al.": _row(".725 .726"),
        "PA_IAA": _row(".720 .728"),
        "TANet": _row(".738 .737"),
        "MUSIQ": _row(".706 .712"),
        "Celona et al.": _row(".757 .762"),
        "TAVAR": _row(".761 .763"),
        "TMCR": _row(".775 .773"),
    },
)
TABLE_2_PARA = PaperTable(
    "paper, PARA",
    ("srcc", "plcc"),
    {
        "NIMA": _row(".886 .923"),
        "Hosu et al.": _row(".842 .892"),
        "PA_IAA": _row(".877 .919"),
        "TANet": _row(".883 .917"),
        "MUSIQ": _row(".882 .918"),
        "Yang et al.": _row(".902 .936"),
        "TAVAR": _row(".911 .940"),
        "TMCR": _row(".915 .945"),
    },
)
TABLE_3 = PaperTable(
    "paper, AVA: balanced test set",
    ("mse", "mse_many", "mse_med", "mse_few", "srcc", "plcc"),
    {
        "NIMA": _row(".432 .144 .347 .978 .859 .851"),
        "TANet": _row(".718 .089 .537 1.902 .860 .855"),
        "AesCLIP": _row(".383 .149 .289 .863 .878 .873"),
        "VILA": _row(".685 .572 .672 .870 .879 .870"),
        "TMCR": _row(".361 .142 .269 .818 .885 .875"),
    },
)
TABLE_4 = PaperTable(
    "paper, AVA",
    _ALL,
    {
        "TM-Net": _row("80.3 .732 .721 .251 .047 .068"),
        "CR-Net": _row("81.2 .745 .733 .251 .051 .073"),
        "TM+CR LP": _row("81.9 .771 .762 .224 .045 .064"),
        "TM+CR FT": _row("82.8 .790 .782 .210 .043 .061"),
    },
)
TABLE_5 = PaperTable(
    "paper, AVA",
    _ALL,
    {
        "semantic tags only": _row("82.1 .780 .770 .223 .046 .065"),
        "semantic and attribute tags": _row("82.8 .790 .782 .210 .043 .061"),
    },
)
