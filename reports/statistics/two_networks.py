"""The comparison of two trained networks on the same test images.

It compares these two networks, not the designs: runs of one and the same design with other seeds are called different
far more often than 5% of the time. No verdict about designs may follow from it.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, stats

from reports.predictions import Correct
from reports.statistics.values import Difference, check_level

MCNEMAR = "McNemar's test of two trained networks"

COVERS_IMAGES = "these two trained networks on other test images, not the two designs"


def paired_correctness(ours_correct: Correct, base_correct: Correct, level: float = 0.95) -> Difference:
    """The difference in top-1 of two runs on the same test images, in points; it knows nothing of other seeds.

    p-value: McNemar's exact test, `stats.binomtest` on the images that one of the two gets right alone. Interval: the
    score interval for paired proportions (Tango, Statistics in Medicine 17, 1998): no draws, so the same each time,
    as quick for a million images as for ten, and of a width even where no image differs, where a bootstrap says
    [0, 0]. The exact test is the stricter of the two, so p ≤ 0.05 leaves 0 outside the interval, not always the other
    way round. Raises ValueError unless both are bool arrays of one length.
    """
    check_level(level)
    for correct in (ours_correct, base_correct):
        if correct.dtype != np.bool_ or correct.ndim != 1:
            raise ValueError(f"one bool an image is needed, not {correct.dtype} of shape {correct.shape}")
    images = len(ours_correct)
    if images != len(base_correct):
        raise ValueError(f"the same test images are needed, not {images} and {len(base_correct)}")
    if not images:
        return Difference(math.nan, math.nan, math.nan, math.nan, level=level)
    gained = int((ours_correct & ~base_correct).sum())
    lost = int((base_correct & ~ours_correct).sum())
    low, high = _score_interval(gained, lost, images, level)
    return Difference(
        mean=100 * (gained - lost) / images,
        low=100 * low,
        high=100 * high,
        p=float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        method=MCNEMAR,
        covers=COVERS_IMAGES,
        note=f"{gained} images right in this row alone, {lost} in the base alone, of {images}",
        level=level,
    )


def _score_interval(gained: int, lost: int, images: int, level: float) -> tuple[float, float]:
    """The differences of two paired proportions that the score test does not reject (Tango 1998)."""
    z = float(stats.norm.ppf((1 + level) / 2))
    seen = (gained - lost) / images

    def excess(difference: float) -> float:
        """The squared distance of `difference` from the one seen, less what the score test allows for."""
        a, c = 2 * images, -lost * difference * (1 - difference)
        b = (2 * images - gained + lost) * difference - gained - lost
        lost_rate = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = 2 * lost_rate + difference * (1 - difference)
        return (images * (seen - difference)) ** 2 - z * z * images * variance

    inside = 1e-9  # a step off the difference seen, where the allowance is 0 if no image, or every image, differs
    low = -1.0 if seen - inside <= -1 else optimize.brentq(excess, -1, seen - inside)
    high = 1.0 if seen + inside >= 1 else optimize.brentq(excess, seen + inside, 1)
    return float(low), float(high)
