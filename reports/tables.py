"""Tables: data frames of runs in, table objects out; every number is kept raw beside the text that is shown."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pandas as pd

from modernize.roadmap import Roadmap, Row, roadmap
from reports.errors import ReportError, shortened

OURS = "ours"
PAPERS = "ImageNet, the paper's"
MISSING = "–"
_STATUSES = ("failed", "running", "stopped", "left")  # the most telling first, for a row that has no result
_PAPER_TABLES = {"resnet50": "ResNet-50 regime, Table 10", "resnet200": "ResNet-200 regime, Table 11"}
_Value = TypeVar("_Value", bound=Hashable)


@dataclass(frozen=True)
class Column:
    """A column: its machine-friendly name, its heading, the group heading above it and whether it holds numbers.

    `short` is the heading where there is little room.
    """

    name: str
    title: str
    group: str = ""
    number: bool = True
    short: str = ""


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the numbers of the footnotes that go with it."""

    text: str
    marks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table to show: `notes[n - 1]` is footnote n, `sections` are the rows that open one, `frame` has raw values."""

    name: str
    title: str
    subtitle: str
    legend: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sections: tuple[int, ...]
    notes: tuple[str, ...]
    frame: pd.DataFrame = field(compare=False, repr=False)


@dataclass(frozen=True)
class RowSummary:
    """All runs of a roadmap's row in one: a line of the raw table. Numbers are None where there is nothing to tell."""

    row: str
    label: str
    group: str
    adopted: bool
    recipe: str
    status: str
    reason: str
    runs: int
    seeds: int
    params: int | None
    macs: int | None
    top1_mean: float | None
    top1_sd: float | None
    ema_mean: float | None
    ema_sd: float | None
    before: str | None
    change: float | None
    paper_gflops: float
    paper_top1: float
    paper_top1_sd: float | None
    paper_change: float | None
    note: str


class Footnotes:
    """Footnotes in the order they were first needed; the same text is the same note."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> int:
        """The number of the note that says `text`."""
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1

    def marks(self, texts: Iterable[str]) -> tuple[int, ...]:
        """The numbers of several notes, ascending."""
        return tuple(sorted({self.mark(text) for text in texts}))


def roadmap_table(runs: pd.DataFrame, roadmap_name: str, bench: pd.DataFrame | None = None) -> Table:
    """Each row of a roadmap: what it costs, how well our runs of it do and what it changed, beside the paper's numbers.

    `bench` is a study's measurements, see `speeds`. Raises ReportError where the runs are not of one data set or hold
    a row and seed twice, DesignError on unknown rows.
    """
    steps = roadmap(roadmap_name)
    runs = runs[runs["roadmap"] == roadmap_name]
    _check(runs, steps)
    shown = (*steps.rows, *(row for row in steps.extras if (runs["row"] == row.name).any()))
    by_row = {row.name: runs[runs["row"] == row.name] for row in shown}
    fairness = fairness_notes(by_row)
    summaries = [_summarise(row, steps, by_row, fairness[row.name]) for row in shown]
    measured = speeds(bench, by_row)
    units = unit(summary.params for summary in summaries), unit(summary.macs for summary in summaries)
    averaged = any(summary.ema_mean is not None for summary in summaries)
    footnotes = Footnotes()
    rows = [
        (
            *_our_cells(row, summary, units, averaged, footnotes.marks(fairness[row.name])),
            *(Cell(speed.shown(row.name)) for speed in measured),
            Cell(printed(summary.paper_gflops), footnotes.marks([row.paper.note] if row.paper.note else [])),
            Cell(printed(summary.paper_top1)),
            Cell(signed(summary.paper_change)),
        )
        for row, summary in zip(shown, summaries, strict=True)
    ]
    groups = [row.group for row in shown]
    frame = _frame(summaries)
    return Table(
        name="roadmap",
        title=f"The {roadmap_name} roadmap",
        subtitle=facts(runs),
        legend=" ".join(_roadmap_legend(steps, averaged, bool(measured))),
        columns=_roadmap_columns(units, averaged, measured),
        rows=tuple(rows),
        sections=tuple(i for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group),
        notes=tuple(footnotes.texts),
        frame=with_speeds(frame if averaged else frame.drop(columns=["ema_mean", "ema_sd"]), measured),
    )


def _our_cells(
    row: Row, summary: RowSummary, units: tuple[str, str], averaged: bool, marks: tuple[int, ...]
) -> tuple[Cell, ...]:
    """A row's label and what our runs of it say."""
    ema = [Cell(accuracy(summary.ema_mean, summary.ema_sd))] if averaged else []
    return (
        Cell(row.label if row.adopted else f"{row.label} (side branch)", marks),
        Cell(amount(summary.params, units[0])),
        Cell(amount(summary.macs, units[1])),
        Cell(accuracy(summary.top1_mean, summary.top1_sd) if summary.seeds else summary.status),
        *ema,
        Cell(str(summary.seeds)),
        Cell(signed(summary.change)),
    )


def _roadmap_columns(units: tuple[str, str], averaged: bool, measured: Sequence[Speed]) -> tuple[Column, ...]:
    """The roadmap's columns: ours, what a bench measured, the paper's."""
    return (
        Column("label", "row", number=False),
        Column("params", f"params, {units[0]}", OURS),
        Column("macs", f"multiply-adds, {units[1]}", OURS),
        Column("top1_mean", "top-1, %", OURS),
        *([replace(EMA, group=OURS)] if averaged else []),
        Column("seeds", "seeds", OURS),
        Column("change", "change", OURS),
        *(speed.column for speed in measured),
        Column("paper_gflops", "GFLOPs", PAPERS),
        Column("paper_top1", "top-1, %", PAPERS),
        Column("paper_change", "change", PAPERS),
    )


def _roadmap_legend(steps: Roadmap, averaged: bool, measured: bool) -> Iterator[str]:
    """How to read the roadmap's table."""
    yield "top-1: mean over seeds ± standard deviation."
    if averaged:
        yield EMA_LEGEND
    yield (
        "change: in points, from the last adopted row before, mean over the seeds that both have; a side branch is "
        "measured, not adopted."
    )
    if measured:
        yield SPEEDS_LEGEND
    yield (
        f"The paper's numbers: Liu et al. 2022, ImageNet at 224 px, {_PAPER_TABLES[steps.regime]}; its GFLOPs are "
        "multiply-adds in G."
    )


EMA = Column("ema_mean", "EMA top-1, %", short="EMA, %")
EMA_LEGEND = "EMA top-1: of the same runs' weights averaged over training (exponential moving average)."
SPEEDS_LEGEND = (
    "Speed and memory: measured by ablations bench, on the device and with the batch named; latency is of one image, "
    "peak memory of training."
)
_MEASURES = (
    ("train_images_per_second", "training, images/s", "train, im/s"),
    ("inference_images_per_second", "inference, images/s", "infer, im/s"),
    ("latency_ms", "latency, ms", "ms"),
    ("peak_memory_mb", "peak memory, MB", "peak, MB"),
)


@dataclass(frozen=True)
class Speed:
    """A column of what a bench measured on a device, and each row's value."""

    column: Column
    device: str
    values: Mapping[str, float]

    def shown(self, row: str) -> str:
        """A row's value to three digits, or whole."""
        value = self.values.get(row)
        return MISSING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def speeds(bench: pd.DataFrame | None, rows: Collection[str]) -> list[Speed]:
    """The columns for what was measured of these rows: one for each measure, device and batch size that has a value.

    `bench` has row, batch_size, device and the measures, a line a measurement; of several the last counts.
    """
    if bench is None or bench.empty:
        return []
    found = []
    settings = list(bench[bench["row"].isin(list(rows))].groupby(["device", "batch_size"], sort=False))
    for number, ((device, batch), lines) in enumerate(settings, start=1):
        for name, title, short in _MEASURES:
            known = lines.dropna(subset=[name]).drop_duplicates("row", keep="last")
            if len(known):
                raw = name if len(settings) == 1 else f"{name}_{number}"
                column = Column(raw, title, f"{device}, batch {batch}", short=short)
                found.append(
                    Speed(column, str(device), dict(zip(known["row"], known[name].astype(float), strict=True)))
                )
    return found


def with_speeds(frame: pd.DataFrame, measured: Sequence[Speed]) -> pd.DataFrame:
    """A raw table with what was measured of its rows."""
    return frame.assign(**{speed.column.name: frame["row"].map(speed.values) for speed in measured})


def accuracy(mean: float | None, sd: float | None) -> str:
    """A top-1 accuracy in percent, with its standard deviation where there is one: `86.45 ± 0.12`."""
    if mean is None:
        return MISSING
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


def printed(number: float) -> str:
    """A number of the paper's, where it prints one."""
    return MISSING if math.isnan(number) else f"{number:.2f}"


def signed(change: float | None) -> str:
    """A change in points with its sign; one that rounds to nothing has none."""
    if change is None:
        return MISSING
    return f"{change:+.2f}" if round(change, 2) else "0.00"


_UNITS = {"G": 1e9, "M": 1e6, "k": 1e3}


def amount(count: int | None, unit: str) -> str:
    """A count in `unit`, to two decimals."""
    return MISSING if count is None else f"{count / _UNITS[unit]:.2f}"


def unit(counts: Iterable[int | None]) -> str:
    """The unit that the largest of the counts calls for; one unit a column, so that its numbers compare at a glance."""
    largest = max((count for count in counts if count is not None), default=0)
    return next((unit for unit, size in _UNITS.items() if largest >= size), "k")


def _check(runs: pd.DataFrame, steps: Roadmap) -> None:
    """Refuse runs that a single table would compare unfairly or count twice."""
    for name in runs["row"].unique():
        steps.row(name)
    datasets = sorted(runs["dataset"].dropna().unique())
    if len(datasets) > 1:
        raise ReportError(
            f"roadmap {steps.name}: runs on {len(datasets)} data sets ({', '.join(datasets)}), not on one"
        )
    twice = runs[runs.duplicated(["row", "seed"])]
    if len(twice):
        row, seed = twice.iloc[0][["row", "seed"]]
        raise ReportError(f"roadmap {steps.name}: row {row} has two runs of seed {seed}")


def _summarise(row: Row, steps: Roadmap, by_row: dict[str, pd.DataFrame], notes: Sequence[str]) -> RowSummary:
    """The line of the raw table for one row."""
    runs = by_row[row.name]
    top1, ema = _results(runs), averaged_results(runs)
    before = steps.before(row)
    change = paper_change = None
    if before is not None:
        if row not in steps.extras:
            paper_change = round(row.paper.top1 - before.paper.top1, 2)  # both are printed to two decimals
        change = None if shared_with(runs, by_row) else _change(runs, by_row[before.name])
    return RowSummary(
        row=row.name,
        label=row.label,
        group=row.group,
        adopted=row.adopted,
        recipe=", ".join(_values(runs, "recipe")),
        status=status_of(runs),
        reason="; ".join(_values(runs, "reason")),
        runs=len(runs),
        seeds=len(top1),
        params=_first(runs, "params"),
        macs=_first(runs, "macs"),
        top1_mean=float(top1.mean()) if len(top1) else None,
        top1_sd=float(top1.std(ddof=1)) if len(top1) > 1 else None,
        ema_mean=float(ema.mean()) if len(ema) else None,
        ema_sd=float(ema.std(ddof=1)) if len(ema) > 1 else None,
        before=before.name if before else None,
        change=change,
        paper_gflops=row.paper.gflops,
        paper_top1=row.paper.top1,
        paper_top1_sd=row.paper.top1_std,
        paper_change=paper_change,
        note="; ".join([*notes, *([row.paper.note] if row.paper.note else [])]),
    )


def _results(runs: pd.DataFrame) -> pd.Series[float]:
    """The accuracies of the runs that are done."""
    return pd.to_numeric(runs.loc[runs["status"] == "done", "top1"]).astype(float).dropna()


def _change(runs: pd.DataFrame, earlier: pd.DataFrame) -> float | None:
    """The mean difference between two rows over the seeds that both have a result of; None where there is none."""
    ours, theirs = (_results(some.set_index("seed")) for some in (runs, earlier))
    differences = (ours - theirs).dropna()
    return float(differences.mean()) if len(differences) else None


def averaged_results(runs: pd.DataFrame) -> pd.Series[float]:
    """The accuracies of the averaged weights of the runs that are done and kept any."""
    column = runs.get("ema_top1", pd.Series(dtype=float, index=runs.index))
    return pd.to_numeric(column[runs["status"] == "done"]).astype(float).dropna()


def status_of(runs: pd.DataFrame) -> str:
    """`done` where the row has a result, else the most telling status of its runs."""
    if len(_results(runs)):
        return "done"
    found = set(runs["status"])
    return next((status for status in _STATUSES if status in found), "no top-1" if found else "not run")


def _values(runs: pd.DataFrame, column: str) -> list[str]:
    """The distinct texts of a column, in order of appearance."""
    return list(dict.fromkeys(str(value) for value in runs[column] if pd.notna(value) and str(value)))


def _first(runs: pd.DataFrame, column: str) -> int | None:
    """The first count there is in a column: all runs of a row are of one network."""
    counts = pd.to_numeric(runs[column]).dropna()
    return int(counts.iloc[0]) if len(counts) else None


def fairness_notes(by_row: dict[str, pd.DataFrame]) -> dict[str, list[str]]:
    """For each row, what a reader must know before comparing it with the others."""
    recipes = {name: tuple(_values(runs, "recipe")) for name, runs in by_row.items()}
    seeds = {name: tuple(sorted(map(int, runs["seed"].dropna()))) for name, runs in by_row.items()}
    images = {name: _images(runs) for name, runs in by_row.items()}
    usual_recipe, usual_seeds, usual_images = _usual(recipes), _usual(seeds), _usual(images)
    notes: dict[str, list[str]] = {}
    for name, runs in by_row.items():
        notes[name] = []
        if recipes[name] and recipes[name] != usual_recipe:
            notes[name].append(f"trained with recipe {', '.join(recipes[name])}")
        if images[name] and images[name] != usual_images:
            notes[name].append(f"saw {_counts(images[name])} images, other rows {_counts(usual_images)}")
        if seeds[name] and seeds[name] != usual_seeds:
            notes[name].append(f"{_seeds(seeds[name])}; other rows {_seeds(usual_seeds)}")
        shared = shared_with(runs, by_row)
        if shared:
            notes[name].append(f"the same runs as {shared}: one design under one recipe")
        notes[name] += _values(runs, "note") if "note" in runs else []
        if account(runs):
            notes[name].append(account(runs))
    return notes


def shared_with(runs: pd.DataFrame, by_row: Mapping[str, pd.DataFrame]) -> str:
    """The label of the row that a row is compared with, where the two share their runs; else nothing."""
    if runs.empty or not isinstance(runs["base"].iloc[0], str):
        return ""
    base = by_row.get(runs["base"].iloc[0])
    return str(base["label"].iloc[0]) if base is not None and set(runs["run"]) & set(base["run"]) else ""


def _usual(values: dict[str, tuple[_Value, ...]]) -> tuple[_Value, ...]:
    """What most rows have; of two as common the one further down, for a roadmap's first row is the odd one out."""
    counts = Counter(value for value in values.values() if value)
    latest = {value: place for place, value in enumerate(values.values())}
    return max(counts, key=lambda value: (counts[value], latest[value]), default=())


def _images(runs: pd.DataFrame) -> tuple[int, ...]:
    """The distinct numbers of images that the finished runs saw."""
    seen = pd.to_numeric(runs.loc[runs["status"] == "done", "images_seen"]).dropna()
    return tuple(sorted(int(number) for number in seen.unique()))


def _counts(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)


def _seeds(seeds: Sequence[int]) -> str:
    """Seeds by name where they are few."""
    if len(seeds) > 5:
        return f"{len(seeds)} seeds"
    return f"seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds))}"


def account(runs: pd.DataFrame) -> str:
    """What became of the runs of a row that have no result: `1 of 3 runs failed: NaN loss`."""
    parts = []
    for status in _STATUSES:
        some = runs[runs["status"] == status]
        if len(some):
            reasons = "; ".join(shortened(reason) for reason in _values(some, "reason"))
            which = status if len(some) == len(runs) else f"{len(some)} of {len(runs)} runs {status}"
            parts.append(f"{which}: {reasons}" if reasons else which)
    told = "; ".join(parts)
    return "" if told == status_of(runs) else told


def facts(runs: pd.DataFrame) -> str:
    """Study, data set, recipe, seeds and how the runs went, on one line."""
    recipes = {str(name): tuple(_values(group, "recipe")) for name, group in runs.groupby("row", sort=False)}
    statuses = [(status, int((runs["status"] == status).sum())) for status in ("done", *_STATUSES)]
    run_word = "run" if len(runs) == 1 else "runs"
    facts = [
        f"study {', '.join(_values(runs, 'study'))}",
        f"data {', '.join(_values(runs, 'dataset'))}",
        *(["on the validation split"] if "validation" in runs.get("evaluate", pd.Series(dtype=str)).unique() else []),
        f"recipe {', '.join(_usual(recipes))}",
        _seeds(sorted({int(seed) for seed in runs["seed"].dropna()})),
        f"{len(runs)} {run_word}: " + ", ".join(f"{number} {status}" for status, number in statuses if number),
    ]
    return " · ".join(facts)


def _frame(summaries: Sequence[RowSummary]) -> pd.DataFrame:
    """The raw table, whole numbers staying whole where some are missing."""
    frame = pd.DataFrame([dataclasses.asdict(summary) for summary in summaries])
    real = (
        "top1_mean",
        "top1_sd",
        "ema_mean",
        "ema_sd",
        "change",
        "paper_gflops",
        "paper_top1",
        "paper_top1_sd",
        "paper_change",
    )
    return frame.astype(dict.fromkeys(("params", "macs"), "Int64") | dict.fromkeys(real, "float64"))
