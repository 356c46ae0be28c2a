"""The page's tables: a roadmap's two in one, columns in parts that the reader switches, top-1 beside the row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from reports.roadmap_table import CHANGE_LEGEND
from reports.tables import EMA_LEGEND, MISSING, TOP1_LEGEND, Cell, Column, Footnotes, Table

_PARTS = {
    "results": ("mean", "top1_mean", "ema_mean", "loss_mean", "seeds"),
    "difference": ("difference", "change", "interval", "p_adjusted", "verdict"),
    "printed": ("paper_gflops", "paper_top1", "paper_change"),
    "cost": ("params", "macs", "activations"),
    "speed": (),  # all others
}

_FIT = 12  # columns on a screen of 1280 pixels


@dataclass(frozen=True)
class PageTable:
    """A table on the page.

    table    its columns in the page's order, each part's under one heading
    parts    the part of each column; empty for the columns that name a row, and if there is one part only
    titles   the heading of each part, by part
    rows     the row that each line is about, whose runs the page shows; none for a table of effects
    """

    table: Table
    parts: tuple[str, ...]
    titles: dict[str, str]
    rows: tuple[str, ...]

    @property
    def hidden(self) -> tuple[str, ...]:
        """Return the parts that the reader must switch on: costs, if the table would be wider than a screen."""
        return ("cost", "speed") if len(self.parts) > _FIT else ()

    @property
    def pinned(self) -> bool:
        """Whether top-1 stands beside the rows, to stay in sight where the table is wider than the screen."""
        return any(column.name in ("mean", "top1_mean") for column in self.table.columns[1:2])

    @property
    def dense(self) -> bool:
        """Whether the columns stand closer together, to fit a screen of 1280 pixels."""
        return len(self.table.columns) > _FIT and not self.titles

    @property
    def longest(self) -> int:
        """Return the number of letters of the longest part of a label that does not break."""
        labels = (row[0].text for row in self.table.rows)
        return max((len(part) for label in labels for part in re.split(r"[\s,(]", label)), default=0)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Return the difference and the verdict of each line, to stand under its label on a phone."""
        places = [
            place
            for place, column in enumerate(self.table.columns)
            if column.name in ("difference", "effect", "verdict")
        ]
        return tuple(" ".join(row[place].text for place in places).strip(f" {MISSING}") for row in self.table.rows)

    @property
    def groups(self) -> list[tuple[str, str, int]]:
        """Return part, heading and number of columns of each group; none if no column is in a group."""
        columns = zip(self.parts, self.table.columns, strict=True)
        groups = [(part, group, len(list(some))) for (part, group), some in groupby(columns, key=_group)]
        return groups if any(group for _, group, _ in groups) else []


def _group(one: tuple[str, Column]) -> tuple[str, str]:
    return one[0], one[1].group


def page_tables(tables: Sequence[Table]) -> list[PageTable]:
    """Return the tables of a report for its page: of a roadmap one with results, differences and printed results."""
    by_name = {table.name: table for table in tables}
    if "roadmap" in by_name and "steps" in by_name:
        whole = with_differences(by_name["roadmap"], by_name["steps"])
        tables = [whole, *(table for table in tables if table.name not in ("roadmap", "steps"))]
    return [_in_parts(table) for table in tables]


def with_differences(table: Table, compared: Table) -> Table:
    """Return a roadmap's table with the differences of the table of comparisons in place of its changes."""
    lines = dict(zip(compared.frame["row"], compared.rows, strict=True))
    kept = [place for place, column in enumerate(table.columns) if column.name != "change" or not lines]
    added = [place for place, column in enumerate(compared.columns) if column.name in _PARTS["difference"]]
    footnotes = Footnotes()
    rows = []
    for row, cells in zip(table.frame["row"], table.rows, strict=True):
        line = lines.get(row)
        label, *rest = (_renumbered(cells[place], table.notes, footnotes) for place in kept)
        if line is not None:
            label = replace(label, marks=_joined(label, _renumbered(line[0], compared.notes, footnotes)))
        beside = [_renumbered(line[place], compared.notes, footnotes) if line else Cell("") for place in added]
        rows.append((label, *rest, *beside))
    legend = compared.legend.replace(TOP1_LEGEND, "").replace(EMA_LEGEND, "").strip()
    return replace(
        table,
        columns=(*(table.columns[place] for place in kept), *(compared.columns[place] for place in added)),
        rows=tuple(rows),
        notes=tuple(footnotes.texts),
        legend=f"{table.legend.replace(CHANGE_LEGEND, '')} {legend}".replace("  ", " "),
    )


def _renumbered(cell: Cell, notes: Sequence[str], footnotes: Footnotes) -> Cell:
    """Return a cell whose marks are those of the same notes among `footnotes`."""
    return replace(cell, marks=footnotes.marks(notes[mark - 1] for mark in cell.marks))


def _joined(*cells: Cell) -> tuple[int, ...]:
    return tuple(sorted({mark for cell in cells for mark in cell.marks}))


def _in_parts(table: Table) -> PageTable:
    """Sort the columns of a table of rows by their parts; other tables stay as they are."""
    frame = table.frame
    known = "row" in frame and len(frame) == len(table.rows) and frame["row"].is_unique
    rows = tuple(map(str, frame["row"])) if known else ()
    if not rows or all(column.name != "params" for column in table.columns):
        return PageTable(table, ("",) * len(table.columns), {}, rows)
    parts = ["", *(_part(column) for column in table.columns[1:])]
    order = [0, *sorted(range(1, len(parts)), key=lambda place: list(_PARTS).index(parts[place]))]
    titles = {part: _title(part, table.columns, parts) for part in _PARTS if part in parts}
    columns = [replace(table.columns[place], group=_heading(table.columns[place], parts[place])) for place in order]
    ordered = replace(
        table, columns=tuple(columns), rows=tuple(tuple(row[place] for place in order) for row in table.rows)
    )
    return PageTable(ordered, tuple(parts[place] for place in order), titles, rows)


def _part(column: Column) -> str:
    return next((part for part, names in _PARTS.items() if column.name in names), "speed")


def _heading(column: Column, part: str) -> str:
    """Return the heading over a column: what a source printed and a bench measured have their own."""
    return column.group if part in ("printed", "speed") else part


def _title(part: str, columns: Iterable[Column], parts: Sequence[str]) -> str:
    """Return the name of a part in the switch of columns."""
    if part != "printed":
        return part
    return next(column.group for column, other in zip(columns, parts, strict=True) if other == part)
