"""Statistics: comparisons of rows, corrections, Shapley values, agreement with the paper."""

from __future__ import annotations

from reports.statistics.agreement import Correlation, rank_correlation
from reports.statistics.compare import (
    COMPARISON_COLUMNS,
    COVERS_SEEDS,
    LEGEND_ONE_SEED,
    LEGEND_PAIRED,
    LEGEND_VERDICT,
    PAIRED_T,
    Verdict,
    compare,
    legend,
    paired_difference,
    verdict,
)
from reports.statistics.multiple_testing import holm
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
    "COVERS_SEEDS",
    "LEGEND_ONE_SEED",
    "LEGEND_PAIRED",
    "LEGEND_VERDICT",
    "MCNEMAR",
    "NO_METHOD",
    "PAIRED_T",
    "Correct",
    "Correlation",
    "Difference",
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
    "paired_difference",
    "rank_correlation",
    "shapley_exact",
    "shapley_from_orders",
    "shapley_over_seeds",
    "summarise",
    "verdict",
    "worths_in_order",
]
