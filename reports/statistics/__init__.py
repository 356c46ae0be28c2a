"""Statistics: comparisons of rows, corrections, Shapley values, agreement with the paper."""

from __future__ import annotations

from reports.statistics.agreement import (
    Agreement,
    Correlation,
    Means,
    agreement,
    pairwise_accuracy,
    rank_correlation,
    rerun_agreement,
)
from reports.statistics.compare import (
    COMPARISON_COLUMNS,
    MODERATED,
    ONE_SEED,
    WELCH,
    Verdict,
    compare,
    legend,
    with_verdicts,
)
from reports.statistics.measures import MEASURES, Measure
from reports.statistics.multiple_testing import holm, step_down
from reports.statistics.shapley import (
    OrderDistance,
    Value,
    distance_from_order,
    sampled_shapley,
    worths_in_order,
)
from reports.statistics.two_networks import COVERS_IMAGES, MCNEMAR, Correct, paired_correctness
from reports.statistics.values import NO_METHOD, Difference, Summary, summarise

__all__ = [
    "COMPARISON_COLUMNS",
    "COVERS_IMAGES",
    "MCNEMAR",
    "MEASURES",
    "MODERATED",
    "NO_METHOD",
    "ONE_SEED",
    "WELCH",
    "Agreement",
    "Correct",
    "Correlation",
    "Difference",
    "Means",
    "Measure",
    "OrderDistance",
    "Summary",
    "Value",
    "Verdict",
    "agreement",
    "compare",
    "distance_from_order",
    "holm",
    "legend",
    "paired_correctness",
    "pairwise_accuracy",
    "rank_correlation",
    "rerun_agreement",
    "sampled_shapley",
    "step_down",
    "summarise",
    "with_verdicts",
    "worths_in_order",
]
