"""The summary that opens a report: what helped, what hurt, what is inconclusive, and what would settle it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.header import duration, header
from reports.marks import study_warnings
from reports.orders_table import why_no_error
from reports.row_summary import shared_with
from reports.statistics import MEASURES, ONE_SEED, Measure, Verdict
from reports.statistics.factorial import Family
from reports.statistics.power import (
    MOST_SEEDS,
    Power,
    describe_power,
    describe_spread,
    detectable_effect,
    seeds_to_detect,
    study_power,
)
from reports.statistics.sequential import describe_looks, looks
from reports.statistics.values import known
from reports.study_tables import pairs
from reports.tables import Column, Table, signed

_HEADINGS = {
    Verdict.BETTER: "Helped",
    Verdict.WORSE: "Hurt",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NOT_TESTED: "Not tested",
}
DESIGNS = {Verdict.BETTER: "Better", Verdict.WORSE: "Worse"}  # designs of a list were not made to help
UNITS: dict[Measure, str] = {"top1": "percentage points of top-1", "loss": "test loss (lower is better)"}
ORDERS = "worths"  # the table of a study of orders, whose effects have no verdicts
AVERAGED = "averaged over orders"
_EFFECTS = {"difference", "effect", "worth"}
_MORE_SEEDS = (3, 5, 10, 20)
_NAMED = 8  # inconclusive effects listed by name, the largest first


@dataclass(frozen=True)
class Finding:
    """An effect with its 95% CI (NaN: none) and verdict; `reason` says why it was not tested.

    `marks` are those of the row and its baseline: `at chance; baseline at chance`.
    """

    label: str
    effect: float
    low: float
    high: float
    verdict: str
    reason: str = ""
    marks: str = ""


@dataclass(frozen=True)
class Group:
    """The findings of one verdict: a heading such as `Helped (3 of 16)` and the findings in words."""

    kind: str
    heading: str
    findings: tuple[Finding, ...]
    text: str


@dataclass(frozen=True)
class StudySummary:
    """A study in a few lines.

    title    the study's name
    facts    dataset, recipe, images per run, seeds and runs
    about    what the effects are, their unit and the correction
    warnings which rows are marked, and what that means for the effects
    groups   findings by verdict: helped, hurt, inconclusive, not tested
    notes    what the study can detect, what would settle it, how it agrees with the paper
    figure   the name of the figure of the effects; empty if there is none
    details  what was done, in full: recipes, machine, time and software, each under a name
    """

    title: str
    facts: str
    about: str
    groups: tuple[Group, ...]
    notes: tuple[str, ...]
    figure: str = ""
    warnings: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()


def summarise_study(
    title: str, runs: pd.DataFrame, tables: Sequence[Table], measure: Measure = "top1", notes: Sequence[str] = ()
) -> StudySummary:
    """Summarize a study from the table that has its verdicts; `notes` are added to the summary's own."""
    table = _main(tables)
    findings = findings_of(table, measure) if table else []
    about = f"Effects in {UNITS[measure]} with 95% CI; verdicts are corrected for all comparisons of a table."
    verdicts = any(finding.verdict in (Verdict.BETTER, Verdict.WORSE, Verdict.INCONCLUSIVE) for finding in findings)
    families = table is not None and "family" in table.frame
    if families:
        about = about.replace("all comparisons of a table", "the effects of each family in the table")
    power = list(_power_notes(runs, table.frame, measure)) if table else []
    done = header(runs)
    return StudySummary(
        title=title,
        facts=done.line,
        about=about if verdicts else _without_verdicts(table, runs, measure),
        groups=tuple(groups_of(findings, measure, DESIGNS if runs["kind"].eq("designs").any() else {})),
        notes=(*_shared_run_notes(runs), *_interaction_notes(tables, measure), *power, *notes),
        figure=table.name if table else "",
        warnings=tuple(study_warnings(runs)),
        details=done.details,
    )


def _without_verdicts(table: Table | None, runs: pd.DataFrame, measure: Measure) -> str:
    if table is not None and table.name == ORDERS:
        one_seed = bool(runs[runs["status"] == "done"].groupby("row")["seed"].nunique().max() < 2)
        known_error = table.frame["low"].notna().any()
        ci = "with unadjusted 95% CI" if known_error else f"without CI, because {why_no_error(table.frame, one_seed)}"
        return f"Effects in {UNITS[measure]} {ci}; no verdicts."
    return "No verdicts yet." if pairs(runs) else "Nothing is compared."


def _main(tables: Sequence[Table]) -> Table | None:
    """The table with the study's effects: of orders, of a screen or of a grid, else the differences of rows."""
    for table in (*tables[:1], *reversed(tables)):
        if table.name == ORDERS or ("verdict" in table.frame and _EFFECTS & set(table.frame)):
            return table
    return None


def findings_of(table: Table, measure: Measure = "top1") -> list[Finding]:
    """The effects of a table, the best first; rows without a comparison are left out."""
    findings = []
    for line, cells in zip(_in_rows(table.frame).to_dict("records"), table.rows, strict=True):
        verdict = AVERAGED if table.name == ORDERS else line["verdict"]
        interaction = str(line.get("where", "")).startswith("interaction")  # neither helps nor hurts by itself
        if isinstance(verdict, str) and verdict and not interaction:
            name = next(name for name in line if name in _EFFECTS)
            effect, low, high = (_number(line.get(column)) for column in (name, "low", "high"))
            label = ", ".join(cell.text for cell, column in zip(cells, table.columns, strict=True) if _names(column))
            reason = line["reason"] if isinstance(line.get("reason"), str) else ""
            findings.append(Finding(label, effect, low, high, verdict, reason, str(line.get("marks", ""))))
    sign = -1 if measure == "top1" else 1
    return sorted(findings, key=lambda finding: sign * finding.effect if known(finding.effect) else math.inf)


def _in_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the lines of a raw table that the table shows: that of a grid has more effects."""
    return frame[frame["family"] != Family.AT_EACH] if "family" in frame else frame


def _shared_run_notes(runs: pd.DataFrame) -> Iterator[str]:
    """Name the rows that have no comparison because they are their baseline: one design under one recipe."""
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    same = {str(group["label"].iloc[0]): shared_with(group, by_row) for group in by_row.values()}
    named = [f"{label} (as {base})" for label, base in same.items() if base]
    if named:
        yield f"Not compared, because design and recipe are the baseline's: {_listed(named)}."


def _interaction_notes(tables: Sequence[Table], measure: Measure) -> Iterator[str]:
    """Name the significant interactions, because of which an averaged effect is not all that a flag does.

    If there are none, name the largest one.
    """
    lines = [line for table in tables for line in _in_rows(table.frame).to_dict("records") if _interaction(line)]
    lines = [line for line in lines if known(line["p"])]
    found = [line for line in lines if line["verdict"] in (Verdict.BETTER, Verdict.WORSE)]
    if not lines:
        return
    found = sorted(found or lines, key=lambda line: -abs(line["effect"]))
    shown = [
        described(Finding(_interaction(line), line["effect"], line["low"], line["high"], line["verdict"]), measure)
        for line in found
    ]
    if found[0]["verdict"] == Verdict.INCONCLUSIVE:
        largest = f"{'the largest is ' if lines[1:] else ''}{shown[0]}, inconclusive"
        yield f"Significant interactions (0 of {len(lines)}): none; {largest}."
        return
    more = f"; and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
    yield (
        f"Significant interactions ({len(found)} of {len(lines)}): {'; '.join(shown[:_NAMED])}{more}. "
        "The effects of these flags depend on each other: do not read their averages alone."
    )


def _interaction(line: Mapping[Any, Any]) -> str:
    """Name the interaction that a line of a grid, of a screen or of orders is about; empty if it is about none."""
    if str(line.get("where", "")).startswith("interaction"):
        return f"{line['change']}, {line['where']}"
    if "other" in line and "flag" in line:
        return f"{line['flag']} × {line['other']}"
    if "flags" in line:
        aliases = f" (or its aliases {line['aliases']})" if line.get("aliases") else ""
        return f"{line['flags']}{aliases}"
    return ""


def _names(column: Column) -> bool:
    """Whether a column is part of the name of an effect."""
    return not column.number and column.name not in ("verdict", "reason", "aliases")


def _number(value: Any) -> float:
    return float(value) if known(value) else math.nan


def groups_of(findings: Sequence[Finding], measure: Measure, words: Mapping[Verdict, str]) -> Iterator[Group]:
    """Yield the findings of each verdict, under a heading of `words` if it has one."""
    if findings and findings[0].verdict == AVERAGED:
        shown = "; ".join(described(finding, measure) for finding in findings if known(finding.effect)) or "none yet"
        yield Group("averaged", "Effects averaged over orders, the best first", tuple(findings), shown)
        return
    tested = any(finding.verdict != Verdict.NOT_TESTED for finding in findings)
    for verdict, heading in _HEADINGS.items():
        mine = tuple(finding for finding in findings if finding.verdict == verdict)
        mine = mine[::-1] if verdict is Verdict.WORSE else mine  # the largest effect first, as in the other groups
        if not mine and (verdict is Verdict.NOT_TESTED or not tested):
            continue
        yield Group(
            heading.lower().replace(" ", "-"),
            f"{words.get(verdict, heading)} ({len(mine)} of {len(findings)})",
            mine,
            _text(verdict, mine, measure, tested),
        )


def _text(verdict: Verdict, findings: tuple[Finding, ...], measure: Measure, tested: bool) -> str:
    """The findings of a verdict in one line; `tested` if any comparison of the table was."""
    if not findings:
        return "none"
    if verdict is Verdict.NOT_TESTED:
        reasons: dict[str, list[str]] = {}
        for finding in findings:
            reasons.setdefault(finding.reason or "no result", []).append(finding.label)
        if set(reasons) == {"one seed"} and not tested:
            return "each row has one finished seed, so seed-to-seed variance is unknown"
        return "; ".join(f"{reason}: {_listed(labels)}" for reason, labels in reasons.items())
    if verdict is Verdict.INCONCLUSIVE:
        findings = tuple(sorted(findings, key=lambda finding: -abs(finding.effect)))
    shown = [described(finding, measure) for finding in findings]
    return "; ".join(shown[:_NAMED]) + (f"; and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")


def described(finding: Finding, measure: Measure = "top1") -> str:
    """A finding in words: `patchify stem −0.82 (−1.31 to −0.33)`, and its marks in brackets."""
    effect, low, high = (
        signed(value, MEASURES[measure].digits) for value in (finding.effect, finding.low, finding.high)
    )
    marks = f" [{finding.marks}]" if finding.marks else ""
    return f"{finding.label} {effect}" + (f" ({low} to {high})" if known(finding.low) else "") + marks


def _listed(labels: Sequence[str]) -> str:
    between = "; " if any(", " in label for label in labels) else ", "
    return between.join(labels[:_NAMED]) + (f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else "")


def _power_notes(runs: pd.DataFrame, frame: pd.DataFrame, measure: Measure) -> Iterator[str]:
    """The smallest difference that the study detects, and what more seeds would detect and cost."""
    have, planned = _seeds_per_row(runs), int(statistics.median_low(runs.groupby("row")["seed"].nunique()))
    if not looks(runs)[-1].finished:  # what is planned comes first
        waiting = int((runs["status"] != "done").sum())
        early = f"{waiting} of {len(runs)} runs are not finished; {planned} seeds per row are planned."
        yield early if have < 2 <= planned else describe_looks(runs)
        return
    verdicts = frame.get("verdict", pd.Series(dtype=str))
    if have < 2 and ("verdict" not in frame or frame.get("reason", verdicts).eq(ONE_SEED).any()) and planned == 1:
        gives = "verdicts" if "verdict" in frame else "confidence intervals"
        yield f"3 seeds per row would give {gives}: {_cost(runs, 3 - have)}."
        return
    if "effect" in frame:
        yield from _effect_notes(runs, _in_rows(frame), measure)
    if have >= 2 and {"difference", "family"} & set(frame) and (spread := describe_spread(runs, measure)):
        yield spread
    if "difference" not in frame or have < 2:
        return
    if power := describe_power(runs, pairs(runs), measure):
        yield power
    if verdicts.eq(Verdict.INCONCLUSIVE.value).any():
        if offers := list(_offers(runs, have, measure)):
            yield f"To resolve inconclusive comparisons, add seeds: {'; '.join(offers[:2])}."
        yield from _largest_inconclusive(runs, frame, have, measure)


def _largest_inconclusive(runs: pd.DataFrame, frame: pd.DataFrame, have: int, measure: Measure) -> Iterator[str]:
    """Say what it takes to settle the largest inconclusive difference, if it is as large as it looks and not 0."""
    open_lines = frame[frame["verdict"] == Verdict.INCONCLUSIVE]
    line = open_lines.iloc[int(open_lines["difference"].astype(float).abs().argmax())]
    seeds = seeds_to_detect(runs, frame, line.to_dict())
    effect, low, high = (float(line[name]) for name in ("difference", "low", "high"))
    if round(effect, MEASURES[measure].digits) == 0:
        return
    shown = described(Finding(str(line["label"]), effect, low, high, Verdict.INCONCLUSIVE), measure)
    needs = (
        f"about {seeds} seeds per row ({_cost(runs, seeds - have)})" if seeds else f"over {MOST_SEEDS} seeds per row"
    )
    several = len(open_lines) > 1
    rough = "the largest of several estimates is often too large" if several else "the true difference may be smaller"
    yield (
        f"The {'largest ' if several else ''}inconclusive difference is {shown}. Detecting a true difference of that "
        f"size with 80% power takes {needs}. This is rough: {rough}, and half the size takes about four times as many."
    )


def _offers(runs: pd.DataFrame, have: int, measure: Measure) -> Iterator[str]:
    """What more seeds would detect and cost; a few seeds more may detect less, as a later look has less of the 5%."""
    words, now = MEASURES[measure], study_power(runs, pairs(runs), measure)
    for seeds in [seeds for seeds in _MORE_SEEDS if seeds > have]:
        more = study_power(runs, pairs(runs), measure, seeds)
        if more and more.difference < min(now.difference if now else math.inf, words.largest):
            yield f"{seeds} seeds per row would detect {more.shown} {words.unit} ({_cost(runs, seeds - have)})"


def _effect_notes(runs: pd.DataFrame, frame: pd.DataFrame, measure: Measure) -> Iterator[str]:
    """The smallest effect that a table of effects over many rows detects, and what another seed costs."""
    size = detectable_effect(frame, looks(runs)[-1].share)
    if not known(size):
        return
    words = MEASURES[measure]
    tested = "line" if frame["p"].notna().all() else "tested line"
    if size > words.largest:
        largest = f"{words.largest:g} {words.unit}"
        yield f"Even a true effect of {largest} is not detected with 80% power in every {tested} of the table."
    else:
        detected = f"A true effect of {Power(size, math.nan).shown} {words.unit} is detected with 80% power"
        yield f"{detected}, in any {tested} of the table."
    if frame["verdict"].eq(Verdict.INCONCLUSIVE.value).any():
        yield f"To narrow what is inconclusive, extend the study: each further seed per row is {_cost(runs, 1)}."


def _seeds_per_row(runs: pd.DataFrame) -> int:
    """The usual number of finished seeds of a row."""
    done = runs[runs["status"] == "done"]
    return int(statistics.median_low(done.groupby("row")["seed"].nunique())) if len(done) else 0


def _cost(runs: pd.DataFrame, seeds: int) -> str:
    """What some more seeds of every row cost: `34 more runs, about 18 min`."""
    distinct = runs.drop_duplicates("run") if "run" in runs else runs.drop_duplicates(["row", "seed"])
    rows = distinct["row"].nunique()
    seconds = pd.to_numeric(distinct.groupby("row")["seconds"].mean()).dropna()
    runs_more = f"{seeds * rows} more runs"
    if seconds.empty:
        return runs_more
    return f"{runs_more}, about {duration(seeds * rows * float(seconds.mean()))} of training"


def as_text(summary: StudySummary) -> str:
    """The summary as plain text, for a terminal or a mail."""
    lines = [summary.title, summary.facts, summary.about, *(f"Warning: {text}" for text in summary.warnings), ""]
    lines += [f"{group.heading}: {group.text}." for group in summary.groups]
    done = ["", "What was done", *(f"  {name}: {text}" for name, text in summary.details)]
    return "\n".join([*lines, *summary.notes, *done]) + "\n"


def as_markdown(summary: StudySummary) -> str:
    """The summary as a Markdown page."""
    from reports.formats import escape

    lines = [f"# {escape(summary.title)}", "", escape(summary.facts), "", summary.about, ""]
    lines += [f"- **Warning**: {escape(text)}" for text in summary.warnings]
    lines += [f"- **{group.heading}**: {escape(group.text)}." for group in summary.groups]
    lines += [f"- {escape(note)}" for note in summary.notes]
    lines += ["", "What was done:", "", *(f"- {name}: {escape(text)}" for name, text in summary.details)]
    return "\n".join(lines) + "\n"
