"""Screening over looks: verdicts stay valid if runs were added after results had been seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from reports.statistics.measures import Measure
from reports.statistics.screening import Screening, with_verdicts
from reports.statistics.sequential import FIRST_SHARE, LATER_SHARE, Look, over_looks

_FIRST, _FOLLOW_UPS = 0.5, 0.45  # of the interactions' error rate


def over_screenings(found: Sequence[Screening], had: Sequence[Look], measure: Measure = "top1") -> Screening:
    """The last of several analyses of a growing study, its p-values adjusted for all of them.

    Main effects use the shares of the error rate that looks have in every study. Interactions are told apart by
    follow-up runs, so their family keeps about half of its error rate for these.

    Args:
        found: The analysis at each look; the last one has all runs.
        had: The looks, see `sequential.looks`.
        measure: What the response is.
    """
    last = found[-1]
    shares = [look.share for look in had]
    effects = _adjusted([one.effects.set_index("flag", drop=False) for one in found], shares, measure)
    shares = [interaction_share(look) for look in had]
    interactions = _adjusted([_by_members(one.interactions) for one in found], shares, measure)
    return replace(last, effects=effects, interactions=interactions)


def interaction_share(look: Look) -> float:
    """The share of the interactions' error rate that a look may use: they add up to less than 1 over all looks."""
    if not look.finished:
        return look.share
    return _FIRST if look.share == FIRST_SHARE else _FOLLOW_UPS * look.share / LATER_SHARE


def _by_members(interactions: pd.DataFrame) -> pd.DataFrame:
    """Interactions under all that they may be: with other aliases, an effect is another one."""
    return interactions.set_index(interactions["flags"] + " = " + interactions["aliases"].astype(str))


def _adjusted(frames: Sequence[pd.DataFrame], shares: Sequence[float], measure: Measure) -> pd.DataFrame:
    now = frames[-1]
    if now.empty or now["se"].isna().all():
        return now.reset_index(drop=True)
    known = [frame.reindex(now.index) for frame in frames]
    p = over_looks(
        [frame["p_adjusted"].to_numpy(dtype=float) for frame in known],
        shares,
        [np.sign(frame["effect"].to_numpy(dtype=float)) for frame in known],
        now["p"].to_numpy(dtype=float),
    )
    return with_verdicts(now.assign(p_adjusted=p.round(9)), measure=measure).reset_index(drop=True)
