"""Two designs side by side: flags that differ, costs, the paper's numbers, and top-1 if a study has run both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from modernize.design import RECIPE, Design, split_name, text
from modernize.roadmap import PAPER, Roadmap, Row, Source, roadmap, roadmap_of
from reports.cost_table import gflops
from reports.errors import ReportError
from reports.header import starting_weights
from reports.marks import row_mark_notes
from reports.predictions import Predicted, describe_images, joined, unread_note
from reports.statistics import MEASURES, ONE_SEED, Difference, Measure, legend, paired_correctness
from reports.statistics.row_results import resolution
from reports.statistics.sequential import compare_over_looks, describe_looks
from reports.statistics.values import known
from reports.tables import MISSING, Cell, Column, Footnotes, Table, interval, mean_sd, number, signed

Predictions = Callable[[str, int], Predicted | None]  # of the run of a row and seed


@dataclass(frozen=True)
class Side:
    """One of two designs, under the name that the user gave it, with its cost for one image.

    `activations` are None for a reference model whose runs, by an earlier version, are all that is known of it.

    `settings` are those of the recipe that the name sets, as a user types them: `recipe.mixup` and its value. Those of
    a user's function have its arguments, too. `design` is None for a reference model. `row` is its row in the results,
    if that is known.
    """

    name: str
    design: Design | None
    params: int
    macs: int
    activations: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    row: str | None = None


@dataclass(frozen=True)
class Networks:
    """The difference of two trained networks on the test images that both read, of so many; or why it is unknown."""

    difference: Difference | None
    compared: int = 0
    images: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class MeasuredDifference:
    """The second of two designs against the first: a line of `statistics.compare` and its legend.

    `networks` compares the two trained networks, if each design has one seed; `primary` is the study's primary
    measure, which the line is about. `notes` say what a reader must know of the runs of each.
    """

    line: Mapping[str, Any]
    legend: str
    networks: Networks | None = None
    primary: Measure = "top1"
    notes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())


CHOSEN_AFTERWARDS = (
    "If you chose this pair after looking at the results of more rows, use the study's report, whose verdicts are "
    "corrected for all its comparisons."
)
_Line = tuple[str, str, str, str]
TWO_NETWORKS = (
    "These two networks: McNemar's exact test and a score interval on the same test images. They compare two trained "
    "networks, not the designs: another seed may reverse the sign."
)


def two_designs_table(before: Side, after: Side, images: str, measured: MeasuredDifference | None = None) -> Table:
    """Tabulate flags that differ, costs and top-1 of two designs; `images` describes the images of the costs."""
    printed = _printed_rows(before, after)
    lines = [*_flags(before, after), *_costs(before, after)]
    lines += _printed_lines(printed) if printed else []
    lines += _measured_lines(measured) if measured else []
    flags = len(_flags(before, after))
    footnotes = Footnotes()
    notes = {
        (_gflops(printed.source), place): footnotes.marks([row.note])
        for place, row in enumerate(printed.rows if printed else (), start=1)
        if printed and row.note
    }
    if measured:
        ours = _ours(measured.primary)
        notes |= {(ours, place): footnotes.marks(texts) for place, texts in enumerate(measured.notes, start=1)}
    legends = [f"Counted for {images}.", *([measured.legend] if measured else [])]
    if printed:
        legends.append(_source_legend(printed))
    return Table(
        name="compare",
        title=f"{before.name} and {after.name}",
        subtitle="the same design" if not flags and before.design is not None and after.design is not None else "",
        legend=" ".join(filter(None, legends)),
        columns=(
            Column("what", "", number=False),
            Column("before", before.name),
            Column("after", after.name),
            Column("difference", "difference"),
        ),
        rows=tuple(
            tuple(Cell(shown, notes.get((line[0], place), ())) for place, shown in enumerate(line)) for line in lines
        ),
        sections=(0, flags) if flags else (0,),
        notes=tuple(footnotes.texts),
        frame=pd.DataFrame(lines, columns=["what", "before", "after", "difference"]),
    )


def _flags(before: Side, after: Side) -> list[_Line]:
    old, new = before.design, after.design
    names = new.differences(old) if old is not None and new is not None else ()
    lines = [(name, text(getattr(old, name)), text(getattr(new, name)), "") for name in names]
    settings = {key: tuple(side.settings.get(key, MISSING) for side in (before, after)) for key in _keys(before, after)}
    return [*lines, *((key, old, new, "") for key, (old, new) in settings.items() if old != new)]


def _keys(*sides: Side) -> list[str]:
    """Return the settings of the recipe that the names set."""
    return list(dict.fromkeys(key for side in sides for key in side.settings))


def _costs(before: Side, after: Side) -> list[_Line]:
    return [
        ("parameters", f"{before.params:,}", f"{after.params:,}", _ratio(before.params, after.params)),
        ("MACs", f"{before.macs:,}", f"{after.macs:,}", _ratio(before.macs, after.macs)),
        ("GFLOPs", gflops(before.macs), gflops(after.macs), ""),
        *_activations(before.activations, after.activations),
    ]


def _activations(before: int | None, after: int | None) -> Iterator[_Line]:
    """The line of activations, if any are known."""
    if before is not None and after is not None:
        yield "activations", f"{before:,}", f"{after:,}", _ratio(before, after)
    elif before is not None or after is not None:
        shown = [MISSING if one is None else f"{one:,}" for one in (before, after)]
        yield "activations", shown[0], shown[1], MISSING


def _ratio(before: int, after: int) -> str:
    """Format the difference of two counts and their ratio."""
    return f"{after - before:+,} (×{after / before:.3g})" if after != before else "0"


@dataclass(frozen=True)
class _PrintedRows:
    """Two rows of a roadmap, and where their printed results are from."""

    source: Source
    rows: tuple[Row, Row]


def _printed_rows(before: Side, after: Side) -> _PrintedRows | None:
    """Find the rows of one roadmap that the two designs are: of that in their names, or of a shipped one."""
    if before.design is None or after.design is None or before.row or after.row:
        return None
    own = [roadmap_of(side.name) for side in (before, after)]
    for steps in (*filter(None, own), *map(roadmap, PAPER)):
        old, new = (_row(steps, side) for side in (before, after))
        if old and new:
            numbers = (number for row in (old, new) for number in (row.printed.top1, row.printed.gflops))
            return _PrintedRows(steps.source, (old, new)) if any(map(known, numbers)) else None
    return None


def _row(steps: Roadmap, side: Side) -> Row | None:
    """Find the row of a roadmap that a design is; by name if named, because two rows may be one design."""
    rows = [row for row in steps.rows if row.design == side.design]
    return next((row for row in rows if side.name == f"{steps.name}@{row.name}"), rows[0] if rows else None)


def _gflops(source: Source) -> str:
    return f"GFLOPs, {source.whose}"


def _source_legend(printed: _PrintedRows) -> str:
    source = printed.source
    text = source.sentence if source.short != "the paper" else "The paper's: Liu et al. 2022, ImageNet at 224 px"
    return f"{text}{'; its GFLOPs are G MACs' if any(known(row.printed.gflops) for row in printed.rows) else ''}."


def _printed_lines(printed: _PrintedRows) -> Iterator[_Line]:
    """The lines of what the source prints of either row."""
    old, new = (row.printed for row in printed.rows)
    if known(old.gflops) or known(new.gflops):
        gflops = number(old.gflops), number(new.gflops), signed(round(new.gflops - old.gflops, 2))
        yield _gflops(printed.source), *gflops
    if known(old.top1) or known(new.top1):
        top1 = mean_sd(old.top1, old.top1_std), mean_sd(new.top1, new.top1_std)
        yield f"top-1 (%), {printed.source.whose}", *top1, signed(round(new.top1 - old.top1, 2))


def measure(
    runs: pd.DataFrame,
    designs: Mapping[str, Mapping[str, Any]],
    sides: tuple[Side, Side],
    predictions: Predictions | None = None,
    primary: Measure = "top1",
) -> MeasuredDifference:
    """Compare two designs in a study whose rows have these `designs`, by rows of one recipe.

    If the names set different settings of the recipe, these are what is compared, by rows of recipes that change it.

    They are compared by the study's primary measure alone: a choice of the better of two would be a choice by result.

    Raises ReportError if the study has no such rows.
    """
    recipes = dict(zip(runs["row"], runs["recipe"], strict=True))
    rows_of = [_rows_of(side, designs) for side in sides]
    for side, rows in zip(sides, rows_of, strict=True):
        if not rows:
            raise ReportError(f"no row of study {runs['study'].iloc[0]} is {side.name}; it has {_some(list(designs))}")
    pairs = [(one, other) for one in rows_of[0] for other in rows_of[1] if one != other]
    fair = [(one, other) for one, other in pairs if recipes[one] == recipes[other]]
    if sides[0].settings != sides[1].settings:  # the recipe is what is compared
        fair = [(one, other) for one, other in pairs if _base(recipes[one]) == _base(recipes[other])]
    if all(side.row for side in sides):  # the rows themselves are compared, whatever their recipes
        fair = pairs
    if not fair:
        raise ReportError(f"study {runs['study'].iloc[0]} has no two rows of one recipe that are these designs")
    named = tuple(None if side.row else split_name(side.name).row for side in sides)
    base, row = next((pair for pair in fair if pair == named), fair[0])
    compared = compare_over_looks(runs, [(row, base)], primary, resolution=resolution(runs, primary))
    what = MEASURES[primary].name.capitalize()
    start = [f"starting from weights {weights}" for weights in starting_weights(runs)]
    where = ", ".join(filter(None, [f"{what} in study {runs['study'].iloc[0]}", describe_images(runs), *start]))
    words = [f"{where}: rows {base} and {row}.", legend(compared, primary)]
    if compared["p"].notna().any():
        words += [describe_looks(runs), CHOSEN_AFTERWARDS]
    line = dict(zip(compared.columns, compared.iloc[0], strict=True))
    networks = _two_networks(runs, base, row, predictions) if line["reason"] == ONE_SEED else None
    words += [TWO_NETWORKS] if networks else []
    mine = [runs[runs["row"] == name] for name in (base, row)]
    own = [f"trained with recipe {recipes[name]}" if recipes[base] != recipes[row] else "" for name in (base, row)]
    notes = [
        (*row_mark_notes(runs_of), *filter(None, [recipe, unread_note(runs_of)]))
        for runs_of, recipe in zip(mine, own, strict=True)
    ]
    return MeasuredDifference(line, " ".join(filter(None, words)), networks, primary, (notes[0], notes[1]))


def _two_networks(runs: pd.DataFrame, base: str, row: str, predictions: Predictions | None) -> Networks | None:
    """Compare the two trained networks of one seed that both rows have; None if there are no predictions."""
    if predictions is None:
        return None
    done = runs[runs["status"] == "done"]
    seeds = [set(done.loc[done["row"] == name, "seed"].astype(int)) for name in (base, row)]
    for seed in sorted(seeds[0] & seeds[1]):
        before, after = predictions(base, seed), predictions(row, seed)
        if before is not None and after is not None:
            try:
                ours, theirs = joined(after, before)
            except ReportError as error:
                return Networks(None, reason=str(error))
            return Networks(paired_correctness(ours, theirs), len(ours), after.images)
    return None


def _rows_of(side: Side, designs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the rows of a study that are this design, the row in its name first."""
    if side.row is not None:
        return [side.row]
    rows = [row for row, flags in designs.items() if _is(side, flags)]
    return sorted(rows, key=lambda row: row != split_name(side.name).row)


def _is(side: Side, flags: Mapping[str, Any]) -> bool:
    """Whether a row with these flags, and `recipe.KEY` for settings as text, is what a side names."""
    settings = {key: value for key, value in flags.items() if key.startswith(RECIPE)}
    own = {key: value for key, value in flags.items() if key not in settings}
    return Design().with_flags(own) == side.design and settings == side.settings


def _base(recipe: object) -> str:
    """Return a recipe's name without the settings in it."""
    return str(recipe).partition(",")[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _measured_lines(measured: MeasuredDifference) -> list[_Line]:
    line, digits = measured.line, MEASURES[measured.primary].digits
    shown = [mean_sd(line[f"{side}mean"], line[f"{side}sd"], digits) for side in ("base_", "")]
    if math.isnan(line["difference"]):
        difference = ": ".join(filter(None, [line["verdict"], line["reason"], line["note"]]))
    else:
        ci = "" if math.isnan(line["low"]) else f" ({interval(line['low'], line['high'], digits)})"
        verdict = ": ".join(filter(None, [line["verdict"], line["reason"]]))
        difference = f"{signed(line['difference'], digits)}{ci}, {verdict}"
    lines = [
        (_ours(measured.primary), shown[0], shown[1], difference),
        ("seeds", str(line["base_seeds"]), str(line["seeds"]), ""),
    ]
    if (networks := measured.networks) is not None:
        lines.append(("these two networks", "", "", _networks_words(networks)))
    return lines


def _ours(measure: Measure) -> str:
    """Name the line of our results."""
    return f"{MEASURES[measure].value}, ours"


def _networks_words(networks: Networks) -> str:
    """Describe the comparison of two networks: difference and p-value, and on which images if not on all."""
    found, whole = networks.difference, networks.images in (None, networks.compared)
    if found is None:
        return f"not compared: {networks.reason}"
    tested = f"{signed(found.mean)} ({interval(found.low, found.high)}), McNemar's p = {found.p:.2g}"
    return tested if whole else f"{tested}, on the {networks.compared:,} of {networks.images:,} images that both read"
