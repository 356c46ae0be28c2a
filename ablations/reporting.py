"""Gather everything that a report shows of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter, ValidationError

from ablations.errors import RequestError
from ablations.studies.folder import is_published
from ablations.studies.kinds import set_name
from ablations.studies.own_rows import studied_settings
from ablations.studies.results import curves_frame, predictions, recorded_warnings, update_results
from ablations.studies.schema import Study, StudyRow
from ablations.studies.screen import factors_of
from ablations.studies.variants import setting_texts
from modernize.design import FLAGS, Design, text
from modernize.names import nearest
from modernize.roadmap import PAPER
from reports.agreement_words import agreement_words
from reports.class_plots import class_plots
from reports.class_tables import baseline_notes, class_tables
from reports.header import header
from reports.per_class import class_results
from reports.predictions import on_compared_images
from reports.report import Orders, Report, report_tables
from reports.row_summary import describe_costs
from reports.statistics.factorial import factorial_of
from reports.study_figures import study_plots
from reports.summary import summarise_study
from reports.view import WHOLE, View, check, select, select_classes, shown_rows, with_labels, with_names


def walked(study: Study) -> Orders | None:
    """Return the orders that a study of orders trained; None for another kind."""
    if study.kind != "orders":
        return None
    flags = study.orders[0]
    return Orders(study.orders, lambda chosen: set_name(flags, chosen), first_order(study))


def first_order(study: Study) -> str:
    """Name the first order of a study of orders: that of its roadmap's source, of the roadmap, or of the request."""
    flags, steps = study.orders[0], study.steps
    if [flag for flag in steps.flags if flag in flags] != [*flags]:
        return "the given order"
    if steps.base in PAPER:
        return "the paper's order"
    return f"the order of {steps.source.short}" if steps.source.text else "the roadmap's order"


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Measurement(BaseModel):
    """What `bench` measured of a row, on one device with one batch size and precision; None if not measured.

    Entries of earlier versions lack the precision, which could be any.
    """

    row: str
    batch_size: PositiveInt
    device: str
    precision: str | None = None
    compiled: bool = False
    train_images_per_second: Positive | None = None
    inference_images_per_second: Positive | None = None
    latency_ms: Positive | None = None
    peak_memory_mb: Positive | None = None


def bench_frame(study: Study, folder: Path) -> pd.DataFrame:
    """Read the measurements in the study's `bench.json`, one line each; empty if the file does not exist.

    Raises RequestError if the file is corrupt or measures a row that the study lacks.
    """
    columns = list(Measurement.model_fields)
    path = folder / "bench.json"
    try:
        measurements = TypeAdapter(list[Measurement]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return pd.DataFrame(columns=columns)
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
        raise RequestError(f"{path}: {problem}; run bench again") from None
    rows = [row.row for row in study.rows]
    for measured in measurements:
        if measured.row not in rows:
            raise RequestError(f"{path}: row {measured.row!r} is not in the study: {nearest(measured.row, rows)}")
    return pd.DataFrame([measured.model_dump() for measured in measurements], columns=columns)


def _texts(row: StudyRow) -> dict[str, str]:
    """Return the values of a row's flags, and of the settings that it names, as a user types them."""
    design = Design().with_flags(row.flags)
    return {flag.name: text(getattr(design, flag.name)) for flag in FLAGS} | setting_texts(row.settings)


def read_report(study: Study, folder: Path, view: View = WHOLE) -> Report:
    """Gather everything that a report shows of a study, from its folder as it is now or its published results.

    Raises ReportError if the runs cannot be reported together or the view names other rows, RequestError if
    `bench.json` or the published results are invalid.
    """
    return report_of(study, folder, update_results(study, folder), view)


def report_of(study: Study, folder: Path, results: pd.DataFrame, view: View = WHOLE) -> Report:
    """Gather everything that a report shows of a study with these runs; raises what `read_report` does."""
    check(view, results)
    title, runs = view.title or study.name, with_names(on_compared_images(results), view)
    bench, curves, orders = bench_frame(study, folder), with_names(curves_frame(study, folder), view), walked(study)
    designs = {row.row: row.flags for row in study.rows if row.reference is None}
    texts = {row.row: _texts(row) for row in study.rows if row.reference is None} or studied_settings(study)
    grid, factors = factorial_of(texts) if study.kind == "grid" else None, factors_of(study)
    named = with_labels(study.steps, view)
    steps = named if study.kind == "roadmap" else None
    tables = report_tables(runs, title, orders, bench, grid, factors, study.measure, steps)
    notes = agreement_words(runs[runs["roadmap"].notna()], steps) if steps else []
    notes = [*notes, *filter(None, [describe_costs(runs)]), *recorded_warnings(study, results)]
    classes = None if is_published(folder) else class_results(runs, predictions(study, folder))
    notes += baseline_notes(runs)
    summary = summarise_study(title, runs, tables, study.measure, notes)
    rows, labels = shown_rows(runs, tables, view, study.measure), dict(zip(runs["row"], runs["label"], strict=True))
    tables = [select(table, rows, labels, reorder=table.name != "roadmap") for table in tables]
    classes = classes and select_classes(classes, rows)
    shown = [*class_plots(title, runs, classes)] if classes else []
    plots = study_plots(
        title, runs, tables, curves, bench, grid, study.measure, steps, rows, as_listed=bool(view.order)
    )
    per_class = class_tables(title, runs, classes) if classes else ()
    done = header(runs).note
    return Report(
        title=title,
        kind=study.kind,
        base=study.base,
        steps=named,
        runs=runs,
        designs=designs,
        summary=summary,
        tables=tuple(replace(table, details=done) for table in tables),
        plots=tuple(replace(plot, layout=view.layout, details=done) for plot in (*plots, *shown)),
        curves=curves,
        orders=orders,
        bench=bench,
        unfinished=runs.loc[runs["status"] != "done", ["row", "label", "seed", "status", "reason"]],
        classes=classes,
        per_class=tuple(replace(table, details=done) for table in per_class),
        layout=view.layout,
    )
