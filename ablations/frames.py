"""From run folders to a tidy frame, one row a run: all that reports and `status` know."""

from __future__ import annotations

import io
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from ablations.progress import clock
from ablations.runs import read_state
from ablations.store import read_json, write_bytes
from ablations.studies import Study, run_folder, set_name
from reports.write import Orders


def runs_frame(study: Study, folder: Path) -> pd.DataFrame:
    """A line for each row and seed, in the study's order, whatever its run's state; rows of one design share a run."""
    rows = []
    states = {run.name: read_state(run_folder(folder, run)) for run in study.runs}
    for seed in study.seeds:
        for row in study.rows:
            run = study.run(row, seed)
            state = states[run.name]
            result = state.result
            rows.append(
                {
                    "study": study.name,
                    "kind": study.kind,
                    "roadmap": study.base if study.kind == "roadmap" else None,
                    "row": row.row,
                    "label": row.label,
                    "base": row.compared_with,
                    "run": run.name,
                    "seed": seed,
                    "recipe": row.recipe,
                    "dataset": study.data,
                    "evaluate": study.evaluate,
                    "status": state.status,
                    "reason": result.get("reason"),
                    "top1": result.get("top1"),
                    "loss": result.get("loss"),
                    "params": result.get("params"),
                    "macs": result.get("macs"),
                    "images_seen": result.get("images_seen", state.last.get("images")),
                    "images_per_second": result.get("images_per_second"),
                    "seconds": result.get("seconds", state.last.get("seconds")),
                    "weights_sha256": result.get("weights_sha256"),
                }
            )
    return pd.DataFrame(rows)


def write_results(study: Study, folder: Path) -> pd.DataFrame:
    """Writes `results.csv` in the study's folder and returns what is in it."""
    runs = runs_frame(study, folder)
    if folder.is_dir():
        write_bytes(folder / "results.csv", runs.to_csv(index=False).encode())
    return runs


def describe(study: Study, folder: Path) -> str:
    """The state of a study in a few lines."""
    runs = runs_frame(study, folder).drop_duplicates("run")
    counts = runs["status"].value_counts()
    words = ", ".join(
        f"{counts.get(status, 0)} {status}" for status in ("done", "running", "stopped", "failed", "left")
    )
    lines = [f"{study.name}: {len(runs)} runs: {words}"]
    for run in runs.to_dict("records"):
        name = f"  {run['run']} {run['status']}"
        if run["status"] == "failed":
            lines.append(f"{name}: {run['reason']}")
        elif run["status"] in ("running", "stopped"):
            lines.append(f"{name}: {run['images_seen'] or 0:.0f} images seen")
    done = runs[runs["status"] == "done"]
    open_runs = len(runs) - len(done) - counts.get("failed", 0)
    if open_runs and len(done):
        each = done["seconds"].mean()
        lines.append(f"  about {clock(each * open_runs)} left, one run after the other at {clock(each)} a run")
    return "\n".join(lines)


def predictions(study: Study, folder: Path) -> Callable[[str, int], np.ndarray | None]:
    """For a row and a seed, which test images its run got right; None where its folder does not tell."""
    rows = {row.row: row for row in study.rows}

    def correct(row: str, seed: int) -> np.ndarray | None:
        try:
            place = run_folder(folder, study.run(rows[row], seed))
            written = (place / "predictions.npz").read_bytes()
            if sha256(written).hexdigest() != read_json(place / "result.json")["predictions_sha256"]:
                return None
            with np.load(io.BytesIO(written)) as arrays:
                return arrays["predicted"] == arrays["labels"]
        except (OSError, ValueError, KeyError):
            return None

    return correct


def walked(study: Study) -> Orders | None:
    """What a study of orders walked; None for another kind."""
    if study.kind != "orders":
        return None
    flags = study.orders[0]
    return Orders(study.orders, lambda chosen: set_name(flags, chosen))
