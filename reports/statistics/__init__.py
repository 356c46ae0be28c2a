"""Statistics: comparisons of rows, corrections, Shapley values, agreement with the paper."""

from __future__ import annotations

from reports.statistics.agreement import Correlation, rank_correlation
from reports.statistics.compare import (
    COMPARISON_COLUMNS,
    MODERATED,
    ONE_SEED,
    WELCH,
    Measure,
    Verdict,
    compare,
    legend,
    with_verdicts,
)
from reports.statistics.multiple_testing import holm, step_down
from reports.statistics.shapley import (
    OrderDistance,
    SeededValue,
    Value,
    distance_from_order,
    shapley_exact,
    shapley_from_orders,
    shapley_over_seeds,
    worths_in_order,
)
from reports.statistics.two_networks import COVERS_IMAGES, MCNEMAR, Correct, paired_correctness
from reports.statistics.values import NO_METHOD, Difference, Summary, summarise

__all__ = [
    "COMPARISON_COLUMNS",
    "COVERS_IMAGES",
    "MCNEMAR",
    "MODERATED",
    "NO_METHOD",
    "ONE_SEED",
    "WELCH",
    "Correct",
    "Correlation",
    "Difference",
    "Measure",
    "OrderDistance",
    "SeededValue",
    "Summary",
    "Value",
    "Verdict",
    "compare",
    "distance_from_order",
    "holm",
    "legend",
    "paired_correctness",
    "rank_correlation",
    "shapley_exact",
    "shapley_from_orders",
    "shapley_over_seeds",
    "step_down",
    "summarise",
    "with_verdicts",
    "worths_in_order",
]
