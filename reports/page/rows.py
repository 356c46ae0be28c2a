"""The rows of a study for the page: configuration, runs and learning curves, which a click on a row shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from modernize.design import text
from reports.numbers import rounded
from reports.report import Report
from reports.row_summary import settings_of
from reports.statistics.row_results import baselines
from reports.statistics.values import known
from reports.statuses import shown

MOST_POINTS, POINTS = 12_000, 60  # of all learning curves, and of one


def row_data(report: Report) -> dict[str, Any]:
    """Return what the page shows of each row, as plain values for JSON; nothing of rows of several studies."""
    runs = report.runs
    # in each of several studies, a row may have another recipe, and the same seed a run of its own
    if "study" in runs and runs["study"].nunique() > 1:
        return {"recipes": {}, "rows": {}}
    curves = dict(iter(report.curves.groupby(["row", "seed"], sort=False)))
    points = max(min(POINTS, MOST_POINTS // max(len(curves), 1)), 8)
    settings = settings_of(runs)
    return {
        "recipes": {recipe: dict(values) for recipe, values in settings.items()},
        "rows": {
            str(row): {
                "label": str(mine["label"].iloc[0]),
                "base": next(iter(baselines(mine["base"].iloc[0])), None),
                "recipe": str(mine["recipe"].iloc[0]),
                "flags": {name: text(value) for name, value in report.designs.get(str(row), {}).items()},
                "runs": [_run(line, curves, points) for line in mine.to_dict("records")],
            }
            for row, mine in runs.groupby("row", sort=False)
        },
    }


def _run(line: dict[Any, Any], curves: dict[Any, pd.DataFrame], points: int) -> dict[str, Any]:
    """Return a run's state, its results and its learning curve."""
    facts = {"seed": int(line["seed"]), "run": line.get("run"), "status": shown(str(line["status"]))}
    numbers = {"top1": 2, "loss": 4, "seconds": 0, "processor_seconds": 0}
    facts |= {name: rounded(float(line[name]), digits) for name, digits in numbers.items() if known(line.get(name))}
    texts = ("reason", "machine", "software")
    facts |= {name: line[name] for name in texts if isinstance(line.get(name), str) and line[name]}
    log = curves.get((line["row"], line["seed"]))
    return facts if log is None else facts | {"curve": _curve(log, points)}


def _curve(log: pd.DataFrame, points: int) -> dict[str, list[Any]]:
    """Return at most so many lines of a log, the last one among them."""
    step = -(-len(log) // points)
    kept = log.iloc[(len(log) - 1) % step :: step]
    return {
        "images": kept["images"].astype(int).tolist(),
        "loss": kept["loss"].astype(float).round(3).tolist(),
        "top1": kept["top1"].astype(float).round(1).tolist(),
    }
