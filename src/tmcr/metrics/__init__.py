"""How well predictions agree with people: ACC, SRCC, PLCC, MSE, EMD, long tail, confidence intervals.

Scores are means on 1..10. Every function raises `MetricError` where its value is undefined rather than
returning NaN: on empty, mismatched or non-finite input, and for correlations on fewer than two or on
constant values.
"""

from tmcr.errors import MetricError
from tmcr.metrics.agreement import ACC_THRESHOLD, acc, emd, emd_per_photo, mse, on_axis, plcc, srcc
from tmcr.metrics.intervals import Interval, bootstrap, paired_difference
from tmcr.metrics.long_tail import (
    PAPER_EDGES,
    REGIONS,
    LongTail,
    Region,
    balanced_draw,
    long_tail,
    regions_by_density,
    regions_by_edges,
)
from tmcr.metrics.report import METRIC_NAMES, Report, evaluate

__all__ = [
    "ACC_THRESHOLD",
    "METRIC_NAMES",
    "PAPER_EDGES",
    "REGIONS",
    "Interval",
    "LongTail",
    "MetricError",
    "Region",
    "Report",
    "acc",
    "balanced_draw",
    "bootstrap",
    "emd",
    "emd_per_photo",
    "evaluate",
    "long_tail",
    "mse",
    "on_axis",
    "paired_difference",
    "plcc",
    "regions_by_density",
    "regions_by_edges",
    "srcc",
]
