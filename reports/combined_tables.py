"""The tables of several studies combined: the mean difference of each comparison, and each study's own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.combined import Combined
from reports.row_summary import distinct, seed_words
from reports.statistics import MEASURES, Verdict
from reports.tables import MISSING, Cell, Column, Footnotes, Table, difference_columns, effect_cells, number, signed

COMBINED, BY_STUDY, STUDIES = "combined", "by-study", "studies"
_STEPS = (
    "After a row's name: what the row changes from its baseline (without a baseline: its flags), if it differs between "
    "studies. "
)
VALUES = {"top1": "mean", "loss": "loss_mean"}  # the raw table's column of means, as in those of one study


@dataclass(frozen=True)
class _Line:
    """A line: a row, its baseline (None: it is compared with none), and what its comparison gives."""

    row: str
    base: str | None
    found: dict[Any, Any] | None
    note: str


def _lines(studies: Combined) -> Iterator[_Line]:
    """Yield each comparison, and each row without one unless lines are pairs, in the order of rows."""
    found = dict(zip(studies.compared.index, studies.compared.to_dict("records"), strict=True))
    for row in studies.labels:
        pairs = [pair for pair in found if pair[0] == row]
        for pair in pairs:
            yield _Line(row, pair[1], found[pair], studies.notes[pair])
        if not pairs and not several_baselines(studies):
            yield _Line(row, None, None, studies.notes[row, None])


def several_baselines(studies: Combined) -> bool:
    """Whether a row is compared with several rows, so that a line needs both names."""
    return bool(studies.compared.index.get_level_values("row").duplicated().any())


def combined_table(studies: Combined, title: str) -> Table:
    """Tabulate each row's mean over studies, and its mean difference with CI and verdict.

    Args:
        studies: The studies.
        title: The table's title.
    """
    words, many, pairs = MEASURES[studies.measure], len(studies.runs), several_baselines(studies)
    difference, interval, p_adjusted, verdict = difference_columns(studies.measure)
    columns = (
        Column("label", "row", number=False),
        *([Column("base_label", "compared with", number=False)] if pairs else []),
        Column("mean", words.value),
        Column("studies", "studies"),
        difference,
        interval,
        Column("sd", f"SD between studies ({words.unit})" if words.unit == "pp" else "SD between studies", short="SD"),
        Column("same_sign", "same sign"),
        p_adjusted,
        verdict,
    )
    footnotes = Footnotes()
    rows, frame = [], []
    for line in _lines(studies):
        own = studies.means.loc[line.row].to_numpy(float)
        own = own[np.isfinite(own)]
        mean, with_result = float(own.mean()) if len(own) else math.nan, len(own)
        found = line.found or {}
        marks = footnotes.marks(filter(None, [line.note]))
        rows.append(
            (
                Cell(studies.labels[line.row], marks),
                *([Cell(studies.labels.get(line.base, MISSING) if line.base else MISSING)] if pairs else []),
                Cell(number(mean, words.digits)),
                Cell(str(found.get("studies", with_result))),
                *_difference_cells(line, studies),
            )
        )
        raw: dict[str, Any] = {"row": line.row, "label": studies.labels[line.row], "base": line.base}
        raw |= {
            VALUES[studies.measure]: mean,
            "studies_given": many,
            "studies": with_result,
            **found,
            "note": line.note,
        }
        frame.append(raw)
    return Table(
        name=COMBINED,
        title=title,
        subtitle=studies.facts,
        legend=" ".join(_legend(studies)),
        columns=columns,
        rows=tuple(rows),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=pd.DataFrame(frame),
    )


def _difference_cells(line: _Line, studies: Combined) -> tuple[Cell, ...]:
    """Difference, CI, SD, count of signs, p-value and verdict; nothing for a row without a baseline."""
    if line.found is None:
        return (*(Cell(MISSING) for _ in range(5)), Cell(""))
    found, digits = line.found, MEASURES[studies.measure].digits
    difference, interval, p = effect_cells(found, studies.measure, "difference")
    same = f"{found['same_sign']} of {found['studies']}" if found["studies"] else MISSING
    verdict = found["verdict"]
    if verdict == Verdict.NOT_TESTED:
        verdict = f"{verdict}: {found['reason']}"
    return (difference, interval, Cell(number(found["sd"], digits)), Cell(same), p, Cell(verdict))


def _legend(studies: Combined) -> Iterator[str]:
    """How to read the table."""
    words, many = MEASURES[studies.measure], len(studies.runs)
    name = f"{words.name[:1].upper()}{words.name[1:]}"
    unit = "percentage points" if words.unit == "pp" else "lower is better"
    yield f"{name}: mean over {many} studies of each study's mean over seeds."
    if studies.means.isna().to_numpy().any():
        yield "A row without a result in one study has a mean over other settings than the rows beside it."
    if studies.compared.empty:
        return
    yield (
        f"Difference: row minus baseline ({unit}), in each study the difference of the means over its seeds, then the "
        "mean over studies, all with the same weight. Nothing is paired by seed across studies."
    )
    if studies.compared["p"].isna().all():
        yield "No CI: each comparison has one study, or no spread between studies."
        return
    yield (
        "95% CI: t-test of the studies' differences, with one degree of freedom less than studies. It covers both "
        "seed-to-seed variance and what differs between the studies' settings: it is about the mean over settings of "
        "this kind, not about another seed; a single other setting varies by the SD between studies. Settings are not "
        "a random sample of all settings, and what all studies share, such as data or seeds, is not covered."
    )
    yield (
        "SD between studies: standard deviation of their differences. Same sign: studies whose difference has the sign "
        "of the mean."
    )
    tested = int(studies.compared["p"].notna().sum())
    if tested > 1:
        yield (
            f"Verdicts use p-values adjusted for {tested} comparisons by Holm's method (family-wise error rate 5%). "
            "CIs are unadjusted: one that excludes 0 may be inconclusive."
        )
    else:
        yield "The verdict uses the p-value of one comparison, adjusted for no other one."
    yield "Inconclusive does not mean equal."


def by_study_table(studies: Combined, title: str) -> Table:
    """Tabulate the difference of each comparison in each study.

    Args:
        studies: The studies.
        title: The table's title.
    """
    words, pairs = MEASURES[studies.measure], several_baselines(studies)
    columns = (
        Column("label", "row", number=False),
        *([Column("base_label", "compared with", number=False)] if pairs else []),
        Column("difference", "mean"),
        *(Column(f"study_{place}", name) for place, name in enumerate(studies.runs, start=1)),
    )
    footnotes = Footnotes()
    rows, frame = [], []
    for line in _lines(studies):
        if line.base is None or line.found is None:
            continue
        own = studies.differences.loc[[(line.row, line.base)]].iloc[0]
        rows.append(
            (
                Cell(studies.labels[line.row], footnotes.marks(filter(None, [line.note]))),
                *([Cell(studies.labels.get(line.base, line.base))] if pairs else []),
                Cell(signed(line.found["difference"], words.digits)),
                *(Cell(signed(float(value), words.digits)) for value in own),
            )
        )
        raw = {"row": line.row, "label": studies.labels[line.row], "base": line.base}
        frame.append(
            raw
            | {
                "mean_difference": line.found["difference"],
                **own.add_prefix("difference in ").to_dict(),
                "note": line.note,
            }
        )
    return Table(
        name=BY_STUDY,
        title=title,
        subtitle=studies.facts,
        legend=f"Difference in {words.change}, row minus baseline, by study: means over the study's seeds.",
        columns=columns,
        rows=tuple(rows),
        sections=(),
        notes=tuple(footnotes.texts),
        frame=pd.DataFrame(frame),
    )


def studies_table(
    studies: Combined, settings: Mapping[str, str], steps: Mapping[str, Mapping[str, str]], title: str
) -> Table:
    """Tabulate what was done in each study.

    Args:
        studies: The studies.
        settings: What sets each study apart from the others, such as `learning_rate=2e-3`.
        steps: By row whose design differs between the studies, what it is in each, such as `activation=gelu`.
        title: The table's title.
    """
    columns = ("study", "dataset", "split", "setting", "images", "seeds", "results", "mean")
    there = studies.means.dropna()
    lines = []
    for name, runs in studies.runs.items():
        done = runs[runs["status"] == "done"]
        seen = pd.to_numeric(done["images_seen"]).dropna() if "images_seen" in done else pd.Series(dtype=float)
        images = (
            " to ".join(f"{int(count):,}" for count in dict.fromkeys((seen.min(), seen.max()))) if len(seen) else ""
        )
        seeds = sorted({int(seed) for seed in runs["seed"].dropna()})
        split = ", ".join(distinct(runs, "evaluate"))
        rows = (f"{studies.labels[row]}: {own[name]}" for row, own in steps.items())
        setting = "; ".join(filter(None, [settings[name], *rows]))
        values = (setting, images, seed_words(seeds).removeprefix("seeds ").removeprefix("seed "))
        mean = float(there[name].mean())
        lines.append((name, ", ".join(distinct(runs, "dataset")), split, *values, f"{len(done)} of {len(runs)}", mean))
    heads = ("study", "data", "split", "setting", "images per run", "seeds", "results")
    value = f"mean {MEASURES[studies.measure].value}"
    return Table(
        name=STUDIES,
        title=title,
        subtitle="",
        legend="Setting: in what the studies differ, beside data, budget and seeds; of the recipe of most rows. "
        f"{_STEPS if steps else ''}Results: finished runs, by row and seed. The mean is over the rows that all studies "
        "have.",
        columns=(
            *(Column(key, head, number=False) for key, head in zip(columns, heads, strict=False)),
            Column("mean", value),
        ),
        rows=tuple(
            (*(Cell(text or MISSING) for text in line[:-1]), Cell(number(line[-1], MEASURES[studies.measure].digits)))
            for line in lines
        ),
        sections=(),
        notes=(),
        frame=pd.DataFrame(lines, columns=list(columns)),
    )
