"""The effect of each flag of the roadmap, changed alone in the first design and in the last one, and on average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import search
from edition import main_table

from reports.report import Report
from reports.tables import interval, signed

OPPOSITE = {"better": "worse", "worse": "better"}


@dataclass(frozen=True)
class Effect:
    """What turning a flag on changes: top-1 (pp) with its 95% CI and verdict, and MACs as a ratio."""

    difference: float
    low: float
    high: float
    verdict: str
    macs: float | None = None

    def cells(self) -> list[str]:
        cost = [] if self.macs is None else [f"{self.macs:.2f}"]
        return [f"{signed(self.difference)} ({interval(self.low, self.high)})", self.verdict, *cost]


def single_flags(added: Report, removed: Report, average: Report) -> str:
    """Return a table of the effect of each flag in three studies, and how many have one sign.

    Args:
        added: Flags turned on in the first design (one-in).
        removed: Flags turned back in the last design (one-out); its differences are turned round.
        average: Average effects of flags over designs (screen).
    """
    ours, theirs, averages = _one_in(added), _one_out(removed), _screened(average)
    none = ["–", "–"]
    heads = ["flag", "added to the ResNet (pp)", "verdict", "MACs (ratio)"]
    heads += ["kept in the ConvNeXt (pp)", "verdict", "MACs (ratio)", "on average (pp)", "verdict"]
    lines = (
        [flag, *one.cells(), *theirs[flag].cells(), *(averages[flag].cells() if flag in averages else none)]
        for flag, one in ours.items()
    )
    both = [flag for flag in ours if {ours[flag].verdict, theirs[flag].verdict} <= set(OPPOSITE)]
    same = [flag for flag in both if ours[flag].verdict == theirs[flag].verdict]
    opposite = [flag for flag in both if flag not in same]
    counted = (
        f"Significant in both designs: {len(both)} of {len(ours)} flags; with the same sign: {_named(same)}; with "
        f"opposite signs: {_named(opposite)}."
    )
    return f"{search.table(heads, iter(lines))}\n\n{counted}"


def _named(flags: list[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in flags) or "none"


def _compared(report: Report, prefix: str) -> dict[str, dict[Any, Any]]:
    """The comparisons of a study of single flags, by flag."""
    frame = main_table(report).frame
    base = frame.loc[frame["difference"].isna(), "macs"].iloc[0]
    lines = frame.dropna(subset=["difference"]).assign(ratio=lambda rows: rows["macs"] / base)
    return {line["row"].removeprefix(prefix): line for line in lines.to_dict("records")}


def _one_in(report: Report) -> dict[str, Effect]:
    return {
        flag: Effect(line["difference"], line["low"], line["high"], line["verdict"], line["ratio"])
        for flag, line in _compared(report, "with-").items()
    }


def _one_out(report: Report) -> dict[str, Effect]:
    return {
        flag: Effect(
            -line["difference"],
            -line["high"],
            -line["low"],
            OPPOSITE.get(line["verdict"], line["verdict"]),
            1 / line["ratio"],
        )
        for flag, line in _compared(report, "without-").items()
    }


def _screened(report: Report) -> dict[str, Effect]:
    frame: pd.DataFrame = main_table(report).frame
    return {
        line["flag"]: Effect(line["effect"], line["low"], line["high"], line["verdict"])
        for line in frame.to_dict("records")
    }
