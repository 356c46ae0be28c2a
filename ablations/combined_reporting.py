"""Gather a report of several studies of the same rows, such as one roadmap under several settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ablations.errors import RequestError
from ablations.studies.combined import refuse_different
from ablations.studies.differing_settings import differing_settings, differing_steps
from ablations.studies.folder import read_study
from ablations.studies.results import recorded_warnings, update_results
from ablations.studies.schema import Study
from modernize.roadmap import Roadmap
from reports.combined import Combined, combine, listed, uncorrected_looks
from reports.combined_agreement import agreement_tables, mean_agreement_words
from reports.combined_figures import combined_plots
from reports.combined_tables import STUDIES, by_study_table, combined_table, studies_table
from reports.header import header
from reports.kind_words import WORDS
from reports.marks import study_warnings
from reports.predictions import on_compared_images
from reports.report import Report
from reports.summary import DESIGNS, UNITS, StudySummary, findings_of, groups_of
from reports.tables import Table
from reports.view import WHOLE, View, check, select, shown_rows, with_labels, with_names


def combined_report(studies: Mapping[str, tuple[Study, Path]], view: View = WHOLE) -> Report:
    """Gather a report that combines several studies of the same rows.

    Args:
        studies: Each study with its folder, by a short name, in the order to show them.
        view: What to show. Rows that it leaves out are still compared.

    Returns:
        Report whose main table has, for each comparison, the mean of the studies' differences with a CI over studies.

    Raises:
        RequestError: If the studies differ in their kind, rows, comparisons or measure, or published results are
            invalid.
        ReportError: If the view names other rows, or the runs of a study cannot be reported together.
    """
    refuse_different({name: study for name, (study, _) in studies.items()})
    first = next(iter(studies.values()))[0]
    runs = {name: on_compared_images(update_results(study, folder)) for name, (study, folder) in studies.items()}
    check(view, next(iter(runs.values())))
    warned = [
        f"{name}: {text}"
        for name, (study, _) in studies.items()
        for text in (*study_warnings(runs[name]), *recorded_warnings(study, runs[name]))
    ]
    runs = {name: with_names(frame, view) for name, frame in runs.items()}
    title = view.title or f"Mean of {len(studies)} studies"
    found, named = combine(runs, first.measure), with_labels(first.steps, view)
    alone = {name: study for name, (study, _) in studies.items()}
    settings, apart = differing_settings(alone), differing_steps(alone)
    tables = [*_tables(found, title, first.kind, named), studies_table(found, settings, apart, f"{title}: the studies")]
    summary = _summary(
        title,
        found,
        tables[0],
        first.kind,
        [*warned, *_copies(found), *_other_steps(found, apart)],
        [*(mean_agreement_words(found, named) if first.kind == "roadmap" else []), *uncorrected_looks(runs)],
    )
    whole = _whole(runs)
    rows = shown_rows(whole, tables, view, first.measure)
    details = " ".join(f"{name}: {text}." for name, text in summary.details)
    tables = [replace(select(table, rows, found.labels), details=details) for table in tables]
    plots = combined_plots(found, tables[0], first.kind, {table.name: table for table in tables}, named)
    return Report(
        title=title,
        kind=first.kind,
        base=first.base,
        steps=named,
        runs=whole,
        designs={},
        summary=summary,
        tables=tuple(tables),
        plots=tuple(replace(plot, layout=view.layout, details=details) for plot in plots),
        curves=pd.DataFrame(columns=["row", "label", "seed", "images", "loss", "top1"]),
        orders=None,
        bench=pd.DataFrame(),
        unfinished=_unfinished(whole),
        layout=view.layout,
    )


def several_studies(folders: Sequence[Path]) -> dict[str, tuple[Study, Path]]:
    """Read the studies of several study folders, by the folders' names; empty if none is the folder of a study.

    Raises:
        RequestError: If a folder is given twice, is not that of a study, or its study cannot be read.
    """
    if len(folders) < 2 or not any((folder / "study.yaml").exists() for folder in folders):
        return {}
    for folder in folders:
        if not (folder / "study.yaml").exists():
            raise RequestError(
                f"{folder} is not a study folder, as others are; give folders of studies alone, or folders of runs"
            )
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    for place, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:place]]:
            raise RequestError(f"study folder {folder} is given twice; leave one of them out")
    return {name: (read_study(folder), folder) for name, folder in zip(names, folders, strict=True)}


def _tables(found: Combined, title: str, kind: str, steps: Roadmap) -> Iterator[Table]:
    """Yield the tables of results, the main one first."""
    yield combined_table(found, f"{title}: {WORDS[kind].title}")
    yield by_study_table(found, f"{title}: the difference in each study")
    if kind == "roadmap":
        yield from agreement_tables(found, steps, title)


def _summary(
    title: str, found: Combined, table: Table, kind: str, warned: Sequence[str], notes: Sequence[str]
) -> StudySummary:
    """Summarize the studies from the main table."""
    tested = found.compared["p"].notna().any()
    about = (
        f"Effects in {UNITS[found.measure]}, mean over {len(found.runs)} studies, with a 95% CI that covers seeds and "
        "settings; verdicts are corrected for all comparisons of the table."
    )
    findings = findings_of(table, found.measure)
    return StudySummary(
        title=title,
        facts=found.facts,
        about=about if tested else "No verdicts: no comparison has different results in two studies.",
        groups=tuple(groups_of(findings, found.measure, DESIGNS if kind == "designs" else {})),
        notes=tuple(notes),
        figure=table.name,
        warnings=tuple(warned),
        details=tuple((name, _done(name, runs)) for name, runs in found.runs.items()),
    )


def _copies(found: Combined) -> Iterator[str]:
    """Warn of studies that are probably one, which a t-test over studies would count twice."""
    for one, other in found.alike:
        yield f"{one} and {other} have the same mean in every row; of copies of one study, report one"


def _other_steps(found: Combined, apart: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Warn of rows whose mean difference is of different changes."""
    compared = set(found.compared.index.get_level_values("row"))
    if rows := [label for row, label in found.labels.items() if row in apart and row in compared]:
        yield (
            f"rows of one name change different things in different studies ({listed(rows)}), so their mean "
            f"difference averages different changes; see the table {STUDIES}"
        )


def _done(name: str, runs: pd.DataFrame) -> str:
    """Describe one study in a line, without its name."""
    return header(runs.assign(study=name)).line.removeprefix(f"study {name} · ")


def _whole(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the runs of all studies in one frame, each run named after its study."""
    frames = [frame.assign(study=name, run=f"{name}/" + frame["run"].astype(str)) for name, frame in runs.items()]
    return pd.concat(frames, ignore_index=True)


def _unfinished(runs: pd.DataFrame) -> pd.DataFrame:
    left = runs.loc[runs["status"] != "done", ["study", "row", "label", "seed", "status", "reason"]]
    return left.assign(label=left["study"] + ": " + left["label"]).drop(columns="study")
