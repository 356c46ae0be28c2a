"""Tables as data: columns, cells, footnotes and raw values, and how numbers are formatted in cells."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from reports import numbers
from reports.numbers import fixed
from reports.statistics.measures import MEASURES, Measure
from reports.statistics.values import known

OURS = "ours"
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column: its machine-readable name, its heading, the heading of its group and whether it holds numbers.

    `short` is the heading in a narrow terminal.
    """

    name: str
    title: str
    group: str = ""
    number: bool = True
    short: str = ""


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and the numbers of its footnotes."""

    text: str
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table: `notes[n - 1]` is footnote n, `sections` are the first rows of sections, `frame` has raw values.

    `details` say in full what was done, for files; the summary has them beside all tables of a report.
    """

    name: str
    title: str
    subtitle: str
    legend: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sections: tuple[int, ...]
    notes: tuple[str, ...]
    frame: pd.DataFrame = field(compare=False, repr=False)
    details: str = ""


def turned(table: Table) -> Table:
    """Return a table with a column for each row, and a line for each column, under the heading of its group.

    Footnotes of a row's name stand at its first value.
    """
    heads, *columns = zip(*table.rows, strict=True)
    lines: list[tuple[Cell, ...]] = []
    sections, group = [0], ""
    for column, cells in zip(table.columns[1:], columns, strict=True):
        if column.group != group:
            group = column.group
            sections.append(len(lines))
            lines.append((Cell(f"{group}:"), *(Cell("") for _ in heads)))
        lines.append((Cell(column.short or column.title), *cells))
    first = [replace(cell, marks=head.marks) for head, cell in zip(heads, lines[0][1:], strict=True)]
    return replace(
        table,
        columns=(
            Column("label", "", number=False),
            *(Column(f"turned_{n}", cell.text) for n, cell in enumerate(heads)),
        ),
        rows=((lines[0][0], *first), *lines[1:]),
        sections=tuple(sections),
    )


class Footnotes:
    """Footnotes in order of first use; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> int:
        """Return the number of the note with this text."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def marks(self, texts: Iterable[str]) -> tuple[int, ...]:
        """Return the numbers of several notes, ascending."""
        return tuple(sorted({self.mark(text) for text in texts}))


LOSS = Column("loss_mean", "test loss", short="loss")
EMA = Column("ema_mean", "EMA top-1 (%)", short="EMA (%)")
TOP1_LEGEND = "Top-1: mean over seeds ± standard deviation. Test loss: mean over seeds."
EMA_LEGEND = "EMA top-1: top-1 of the same runs with EMA weights (exponential moving average over training)."
SPEEDS_LEGEND = (
    "Speed and memory: measured by `ablations bench` with the device and batch size in the heading; latency for one "
    "image, peak memory of training."
)
_MEASUREMENTS = (
    ("train_images_per_second", "training (images/s)", "train (im/s)"),
    ("inference_images_per_second", "inference (images/s)", "infer (im/s)"),
    ("latency_ms", "latency (ms)", "ms"),
    ("peak_memory_mb", "peak memory (MB)", "peak (MB)"),
)


@dataclass(frozen=True)
class Speed:
    """A column of measurements on one device, and each row's value."""

    column: Column
    device: str
    values: Mapping[str, float]

    def shown(self, row: str) -> str:
        """Format a row's value with three significant digits, from 100 on without decimals."""
        value = self.values.get(row)
        return MISSING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def speeds(bench: pd.DataFrame | None, rows: Collection[str]) -> list[Speed]:
    """Return a column per measurement, device, batch size, precision and compilation that has a value for these rows.

    `bench` has row, batch_size, device, precision, compiled and the measurements, one per line; later lines replace
    earlier ones. The precision may be unknown, and is float32 if there is no such column.
    """
    if bench is None or bench.empty:
        return []
    columns = []
    of_rows = bench[bench["row"].isin(list(rows))]
    for key, usual in (("precision", "float32"), ("compiled", False)):
        of_rows = of_rows if key in of_rows else of_rows.assign(**{key: usual})
    of_rows = of_rows.assign(precision=of_rows["precision"].fillna("precision unknown"))
    settings = list(of_rows.groupby(["device", "batch_size", "precision", "compiled"], sort=False))
    for number, ((device, batch, precision, compiled), lines) in enumerate(settings, start=1):
        heading = f"{device}, batch {batch}" + ("" if precision == "float32" else f", {precision}")
        heading += ", compiled" if compiled else ""
        for name, title, short in _MEASUREMENTS:
            measured = lines.dropna(subset=[name]).drop_duplicates("row", keep="last")
            if len(measured):
                raw = name if len(settings) == 1 else f"{name}_{number}"
                column = Column(raw, title, heading, short=short)
                values = dict(zip(measured["row"], measured[name].astype(float), strict=True))
                columns.append(Speed(column, str(device), values))
    return columns


def with_speeds(frame: pd.DataFrame, measured: Sequence[Speed]) -> pd.DataFrame:
    """Add a column per measurement to a raw table."""
    return frame.assign(**{speed.column.name: frame["row"].map(speed.values) for speed in measured})


def mean_sd(mean: float | None, sd: float | None, digits: int = 2) -> str:
    """Format a mean with its standard deviation if there is one: `86.45 ± 0.12`."""
    if not known(mean):
        return MISSING
    return " ± ".join(fixed(value, digits) for value in (mean, sd) if value is not None and known(value))


def number(value: float | None, digits: int = 2) -> str:
    """Format a number without a sign."""
    return fixed(value, digits) if value is not None and known(value) else MISSING


def signed(change: float | None, digits: int = 2) -> str:
    """Format a change with its sign; one that rounds to 0 has none."""
    return numbers.signed(change, digits) if change is not None and known(change) else MISSING


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Format a confidence interval."""
    return f"{signed(low, digits)} to {signed(high, digits)}" if known(low) and known(high) else MISSING


_UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


def p_value(p: float) -> str:
    """Format an adjusted p-value."""
    return MISSING if not known(p) else "<0.001" if p < 0.001 else fixed(p, 3)


def effect_columns(measure: Measure) -> tuple[Column, ...]:
    """Return the columns of an effect, its interval, p-value and verdict."""
    return (
        Column("effect", "effect (pp)" if measure == "top1" else "effect (loss)"),
        *_TESTED,
    )


def difference_columns(measure: Measure) -> tuple[Column, ...]:
    """Return the columns of a difference, its interval, p-value and verdict."""
    words = {"top1": ("difference (pp)", "diff. (pp)"), "loss": ("difference in loss", "diff. in loss")}[measure]
    return (Column("difference", words[0], short=words[1]), *_TESTED)


_TESTED = (
    Column("interval", "95% CI"),
    Column("p_adjusted", "adjusted p", short="adj. p"),
    Column("verdict", "verdict", number=False),
)


def effect_cells(line: Mapping[Any, Any], measure: Measure, name: str = "effect") -> tuple[Cell, ...]:
    """Format an effect, its interval and its adjusted p-value."""
    digits = MEASURES[measure].digits
    return (
        Cell(signed(line[name], digits)),
        Cell(interval(line["low"], line["high"], digits)),
        Cell(p_value(line["p_adjusted"])),
    )


def amount(count: int | None, unit: str) -> str:
    """Format a count in `unit`, with two decimals."""
    return MISSING if count is None else f"{count / _UNITS[unit]:.2f}"


def unit(counts: Iterable[int | None]) -> str:
    """Return the unit that fits the largest count; a column has one unit, so that its numbers compare at a glance."""
    largest = max((count for count in counts if count is not None), default=0)
    return next((unit for unit, size in _UNITS.items() if largest >= size), "k")
