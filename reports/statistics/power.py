"""The smallest true difference that a planned study finds with a given power."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, special

from reports.statistics.contrasts import contrasts
from reports.statistics.noise import fit_noise
from reports.statistics.sequential import FIRST_SHARE, looks

POWER = 0.8
STUDIES = 200  # whose variances stand for those that the study may have
HOPELESS = 5.0  # standard deviations between seeds: no design change of one flag was ever seen to make as much


def detectable_difference(
    seeds: int,
    pairs: NDArray[np.intp],
    groups: Sequence[int],
    power: float = POWER,
    level: float = 0.95,
    share: float = FIRST_SHARE,
) -> float:
    """Compute the smallest true difference that is significant with this power, in standard deviations between seeds.

    Rows vary equally; a comparison is tested at (1 − level) · share / comparisons, by Bonferroni's correction, so the
    step-down correction finds a little more.

    Args:
        seeds: Seeds per row.
        pairs: Row and baseline of each comparison, as places in the rows, (pairs, 2).
        groups: Number of each row's recipe, from 0.
        power: Probability that one comparison with this difference is significant.
        level: One minus the family-wise error rate.
        share: The share of the error rate that the look uses.

    Returns:
        That difference, averaged over the comparisons; infinity if they cannot be tested.
    """
    if seeds < 2 or not len(pairs):
        return math.inf
    rows = len(groups)
    variance = np.random.default_rng(0).chisquare(seeds - 1, (STUDIES, rows)) / (seeds - 1)
    noise = fit_noise(variance, np.full(rows, seeds - 1.0), np.asarray(groups, dtype=np.intp))
    found = contrasts(noise, np.full(rows, float(seeds)), np.asarray(pairs, dtype=np.intp))
    critical = found.half_widths(1 - (1 - level) * share / len(pairs))

    def missing(difference: float) -> float:
        return float(special.ndtr((difference - critical) / math.sqrt(2 / seeds)).mean()) - power

    return float(optimize.brentq(missing, 0.0, 2 * float(critical.max()) + 10))


def describe_power(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: str = "top1") -> str:
    """Say which true difference a study with these runs detects; nothing if it cannot be computed."""
    done = runs[(runs["status"] == "done") & runs[measure].notna()]
    rows = done.groupby("row", sort=False)[measure].agg(["var", "count"])
    pairs = [pair for pair in pairs if set(pair) <= set(rows.index)]
    df = rows["count"] - 1
    look = looks(runs)[-1]
    if not look.finished or not pairs or df.sum() < 1 or rows["count"].median() < 2:
        return ""
    sd, seeds = math.sqrt((rows["var"] * df).sum() / df.sum()), int(rows["count"].median())
    recipes = done.groupby("row", sort=False)["recipe"].first() if "recipe" in done else rows["count"] * 0
    places = {row: place for place, row in enumerate(rows.index)}
    size = detectable_difference(
        seeds,
        np.array([[places[name] for name in pair] for pair in pairs]),
        pd.factorize(recipes)[0].tolist(),
        share=look.share,
    )
    unit = "pp" if measure == "top1" else "in loss"
    return f"A true difference of {size * sd:.2g} {unit} ({size:.1f} standard deviations) is detected with 80% power."
