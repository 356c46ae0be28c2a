"""From run folders to a tidy frame, one row a run: all that reports and `status` know."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from ablations.errors import RequestError
from ablations.progress import clock
from ablations.runs import read_state
from ablations.store import read_json, read_log, write_bytes
from ablations.studies import Study, run_folder, set_name
from modernize.design import nearest
from reports.plots import study_plots
from reports.report import Orders, Report, report_tables


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
                    "roadmap": study.base if study.kind == "roadmap" and row.reference is None else None,
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
                    "ema_top1": result.get("ema_top1"),
                    "note": result.get("note"),
                    "loss": result.get("loss"),
                    "params": result.get("params"),
                    "macs": result.get("macs"),
                    **{key: result.get(key) for key in ("image_size", "in_channels", "num_classes")},
                    "images_seen": result.get("images_seen", state.last.get("images")),
                    "images_per_second": result.get("images_per_second"),
                    "seconds": result.get("seconds", state.last.get("seconds")),
                    "weights_sha256": result.get("weights_sha256"),
                }
            )
    return pd.DataFrame(rows)


def published_frame(study: Study, folder: Path) -> pd.DataFrame | None:
    """The runs as `results.csv` has them, where a study was published without its run folders; else None.

    Raises RequestError where the file is not what `runs_frame` writes for this study.
    """
    path = folder / "results.csv"
    if (folder / "runs").exists() or not path.exists():
        return None
    expected = runs_frame(study, folder)
    try:
        found = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise RequestError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    missing = [column for column in expected if column not in found]
    if missing or not found[["row", "seed"]].equals(expected[["row", "seed"]]):
        what = f"it lacks the column {missing[0]}" if missing else "its rows and seeds are others"
        raise RequestError(f"{path}: not the results of {folder / 'study.yaml'}: {what}")
    words = [column for column in found if not pd.api.types.is_numeric_dtype(found[column])]
    return found.assign(
        **{str(column): found[column].astype(object).where(found[column].notna(), None) for column in words}
    )


def write_results(study: Study, folder: Path) -> pd.DataFrame:
    """Writes `results.csv` in the study's folder and returns what is in it."""
    runs = runs_frame(study, folder)
    _write_csv(runs, folder)
    return runs


def _write_csv(runs: pd.DataFrame, folder: Path) -> None:
    """Writes the runs as `results.csv` in the study's folder, if it is there."""
    if folder.is_dir():
        write_bytes(folder / "results.csv", runs.to_csv(index=False).encode())


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


Measured = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measurement(BaseModel):
    """What `bench` measured of a row, on one device with one batch size; None where it did not."""

    row: str
    batch_size: PositiveInt
    device: str
    train_images_per_second: Measured | None = None
    inference_images_per_second: Measured | None = None
    latency_ms: Measured | None = None
    peak_memory_mb: Measured | None = None


def bench_frame(study: Study, folder: Path) -> pd.DataFrame:
    """The measurements in the study's `bench.json`, a line each; empty where there is none.

    Raises RequestError where the file is damaged or measures a row that the study does not have.
    """
    columns = list(Measurement.model_fields)
    path = folder / "bench.json"
    try:
        found = TypeAdapter(list[Measurement]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return pd.DataFrame(columns=columns)
    except ValidationError as error:
        first = error.errors()[0]
        said = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise RequestError(f"{path}: {said}; run bench again") from None
    rows = [row.row for row in study.rows]
    for measured in found:
        if measured.row not in rows:
            raise RequestError(f"{path}: row {measured.row!r} is not in the study: {nearest(measured.row, rows)}")
    return pd.DataFrame([measured.model_dump() for measured in found], columns=columns)


def curves_frame(study: Study, folder: Path) -> pd.DataFrame:
    """A line for each line of each run's log: row, label, seed, images seen, and loss and top-1 since the line before.

    Rows of one design share a run, and so its log; a run that is still going has the lines it has written. A log ends
    before the first line that lacks one of the numbers.
    """
    logs = {run.name: list(takewhile(_has_numbers, read_log(run_folder(folder, run)))) for run in study.runs}
    lines = [
        (row.row, row.label, seed, line["images"], line["loss"], line["top1"])
        for row in study.rows
        for seed in study.seeds
        for line in logs[study.run(row, seed).name]
    ]
    return pd.DataFrame(lines, columns=["row", "label", "seed", "images", "loss", "top1"])


def _has_numbers(line: dict[str, Any]) -> bool:
    """Whether a line of a log has the numbers that every line has."""
    return all(type(line.get(key)) in (int, float) for key in ("step", "images", "loss", "top1"))


def read_report(study: Study, folder: Path) -> Report:
    """Everything that a report shows of a study, from its folder as it is now, or from its published results.

    Raises ReportError where the runs cannot be reported together, RequestError where `bench.json` or published results
    are wrong.
    """
    runs = published_frame(study, folder)
    if runs is None:
        runs = runs_frame(study, folder)
        with suppress(OSError):  # a study that may only be read has a report elsewhere
            _write_csv(runs, folder)
    bench, curves, orders = bench_frame(study, folder), curves_frame(study, folder), walked(study)
    tables = report_tables(runs, study.name, predictions(study, folder), orders, bench)
    return Report(
        title=study.name,
        kind=study.kind,
        base=study.base,
        runs=runs,
        designs={row.row: row.flags for row in study.rows if row.reference is None},
        tables=tuple(tables),
        plots=study_plots(study.name, runs, tables, curves, bench),
        curves=curves,
        orders=orders,
        bench=bench,
        unfinished=runs.loc[runs["status"] != "done", ["row", "label", "seed", "status", "reason"]],
    )
