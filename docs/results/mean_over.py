"""How the agreement with the paper grows with what a mean is over: settings of a search, or seeds of one setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
import search
from edition import RESULTS, report_of

from reports.combined import combine
from reports.combined_agreement import growth
from reports.tables import number

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 20)


def mean_over() -> str:
    """Return a table of the agreement by the number of settings, and of seeds, in the mean."""
    factors = search.read_factors()
    settings = {one.name: one.runs for one in search.settings() if one.name in factors.signs}
    place = factors.names.index("zero_init")
    branches = {name: runs for name, runs in settings.items() if factors.signs[name][place] < 0}
    roadmap = report_of(RESULTS / "roadmap").runs
    adopted = roadmap[roadmap["row"].isin([row.name for row in search.ADOPTED])]
    seeds = {str(seed): runs.reset_index(drop=True) for seed, runs in adopted.groupby("seed")}
    groups = {
        f"of {len(settings)} settings": settings,
        f"of the {len(branches)} without zero-init": branches,
        "seeds of `quick`": seeds,
    }
    grown = {name: _by_size(group) for name, group in groups.items()}
    heads = ["number averaged", *(f"{name}, {regime}" for name in groups for regime in (search.CHOOSES, search.SCORES))]

    def lines() -> Iterator[list[str]]:
        for size in SIZES:
            found = [grown[name].get((size, regime)) for name in groups for regime in (search.CHOOSES, search.SCORES)]
            yield [str(size), *("–" if one is None else number(one, 3) for one in found)]

    return search.table(heads, lines(), words=0)


def _by_size(studies: Mapping[str, pd.DataFrame]) -> dict[tuple[int, str], float]:
    """Return the mean agreement over subsets of each size, with each regime."""
    lines = growth(combine(studies), search.STEPS)
    return {(int(line["studies"]), str(line["with"])): float(line["mean"]) for line in lines.to_dict("records")}
