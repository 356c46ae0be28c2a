"""What a report shows of a study: which rows, in which order, under which names, and how large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pandas as pd

from modernize.roadmap import nearest
from reports.errors import ReportError
from reports.layout import NATURAL, Layout
from reports.statistics import MEASURES, Measure
from reports.tables import Cell, Table

if TYPE_CHECKING:
    from modernize.roadmap import Roadmap
    from reports.per_class import ClassResults

# Keys that rows can be ordered by: the column of the table of differences, and whether larger values come first.
ORDERS = {
    "difference": ("difference", True),
    "top1": ("mean", True),
    "loss": ("loss_mean", False),
    "params": ("params", False),
    "macs": ("macs", False),
    "activations": ("activations", False),
    "label": ("label", False),
}


@dataclass(frozen=True)
class View:
    """What a report shows.

    Attributes:
        title: Title in place of the study's name; empty: the name.
        rows: Names of the rows to show; empty: all.
        labels: Labels in place of the study's, by row.
        order: A key of `ORDERS`, or names of rows to list first; empty: the study's order.
        layout: How figures and tables are laid out.
    """

    title: str = ""
    rows: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    layout: Layout = NATURAL


WHOLE = View()


def check(view: View, runs: pd.DataFrame) -> None:
    """Raise ReportError if the view names a row that the study lacks."""
    known = list(dict.fromkeys(map(str, runs["row"])))
    _check_names("--rows", view.rows, known)
    _check_names("--labels", view.labels, known)
    if len(view.order) != 1 or view.order[0] not in ORDERS:
        _check_names("--order", view.order, known, ORDERS)


def _check_names(option: str, names: Iterable[str], known: Sequence[str], keys: Iterable[str] = ()) -> None:
    for name in names:
        if name not in known:
            what = "neither a key nor a row of the study" if keys else "not a row of the study"
            raise ReportError(f"{option}: {name!r} is {what}: {nearest(name, [*keys, *known])}")


def with_names(runs: pd.DataFrame, view: View) -> pd.DataFrame:
    """Return runs, or lines of logs, with the view's labels and, beside the study's name, its title."""
    labels = [view.labels.get(row, label) for row, label in zip(runs["row"], runs["label"], strict=True)]
    named = runs.assign(label=pd.Series(labels, runs.index, dtype=object)) if view.labels else runs
    return named.assign(title=view.title) if view.title and "study" in runs else named


def with_labels(steps: Roadmap, view: View) -> Roadmap:
    """Return a roadmap whose rows have the view's labels."""
    rows, extras = (
        tuple(replace(row, label=view.labels.get(row.name, row.label)) for row in rows)
        for rows in (steps.rows, steps.extras)
    )
    return replace(steps, rows=rows, extras=extras)


def shown_rows(runs: pd.DataFrame, tables: Sequence[Table], view: View, measure: Measure = "top1") -> list[str]:
    """Return the rows to show, in order; the study's tables have what they are ordered by.

    Differences are those of `measure`: the best first.
    """
    rows = list(dict.fromkeys(map(str, runs["row"])))
    if len(view.order) == 1 and view.order[0] in ORDERS:
        column, largest_first = ORDERS[view.order[0]]
        if column == "difference":
            largest_first = MEASURES[measure].sign > 0
        frames = (table.frame for table in reversed(tables) if {"row", column} <= set(table.frame))
        frame = next((frame for frame in frames if frame["row"].is_unique), None)
        if frame is None:
            raise ReportError(f"--order: this study has no {view.order[0]} of each row")
        values = frame.set_index("row")[column].reindex(rows)
        values = values.map(str.casefold) if column == "label" else pd.to_numeric(values)
        rows = [str(row) for row in values.sort_values(ascending=not largest_first, kind="stable").index]  # NaN last
    elif view.order:
        rows = [*view.order, *(row for row in rows if row not in view.order)]
    return [row for row in rows if not view.rows or row in view.rows]


def select(table: Table, rows: Sequence[str], labels: Mapping[str, str], reorder: bool = True) -> Table:
    """Return a table with these rows alone; one whose lines are not rows stays as it is.

    A row that is compared with one that is left out has a footnote that names it. The verdicts stay those of the study.
    """
    frame = table.frame
    if "row" not in frame or len(frame) != len(table.rows):
        return table
    names = list(map(str, frame["row"]))
    listed = sorted(
        range(len(names)), key=lambda place: rows.index(names[place]) if reorder and names[place] in rows else place
    )
    places = [place for place in listed if names[place] in rows]
    if len(set(names)) < len(names):  # a table of pairs: both sides are shown
        places = [place for place in places if frame["base"].iloc[place] in rows]
    kept = [names[place] for place in places]
    notes, lines = list(table.notes), []
    bases = next((frame[name] for name in ("base", "before") if name in frame), None)
    for place in places:
        cells = table.rows[place]
        base = None if bases is None else bases.iloc[place]
        if isinstance(base, str) and base and base not in rows:
            note = f"compared with {labels.get(base, base)}, which is not shown"
            notes += [note] if note not in notes else []
            cells = (replace(cells[0], marks=(*cells[0].marks, notes.index(note) + 1)), *cells[1:])
        lines.append(cells)
    used = list(dict.fromkeys(mark for cells in lines for cell in cells for mark in sorted(cell.marks)))
    number = {mark: place for place, mark in enumerate(used, start=1)}
    part = f"Shown are {len(kept)} of {len(names)} rows; verdicts and adjusted p-values are those of the whole study."
    opens = [max((start for start in table.sections if start <= place), default=0) for place in places]
    in_order = places == sorted(places)
    return replace(
        table,
        legend=" ".join(filter(None, [table.legend, part if len(kept) < len(names) else ""])),
        rows=tuple(
            tuple(Cell(cell.text, tuple(sorted(number[mark] for mark in cell.marks))) for cell in cells)
            for cells in lines
        ),
        sections=tuple(at for at, start in enumerate(opens) if at == 0 or opens[at - 1] != start)
        if table.sections and in_order
        else (),
        notes=tuple(notes[mark - 1] for mark in used),
        frame=frame.iloc[places].reset_index(drop=True),
    )


def select_classes(results: ClassResults, rows: Sequence[str]) -> ClassResults | None:
    """Return the results per class of these rows, in this order; None if none of them has any."""
    there = [row for row in rows if (results.rows["row"] == row).any()]
    if not there:
        return None

    def part(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([frame[frame["row"] == row] for row in there], ignore_index=True)

    return replace(results, rows=part(results.rows), recall=part(results.recall), pairs=part(results.pairs))
