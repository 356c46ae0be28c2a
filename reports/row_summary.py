"""A row's runs in one summary, what a reader must know before comparing rows, and a study's facts on one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pandas as pd

from modernize.roadmap import split_commas
from reports.errors import shortened
from reports.marks import row_mark_notes, row_marks
from reports.predictions import unread_note
from reports.statistics import Summary, summarise
from reports.statistics.row_results import account as describe_missing
from reports.statistics.row_results import baselines
from reports.statistics.values import known
from reports.statuses import NOT_COMPARED
from reports.tables import Cell, Column, amount, unit

# The status of a row without a result is the first of its runs'.
STATUSES = ("failed", NOT_COMPARED, "running", "stopped", "left")
# Settings of a recipe on which the trained weights do not depend.
EVALUATION_ONLY = frozenset(
    ("evaluation_size", "evaluation_crop", "evaluated_weights", "ema_decay", "ema_steps", "ema_warmup", "ema_scaled")
)
_ALIKE = 1.005  # costs whose ratio is less have about the same
Settings = Mapping[str, Mapping[str, str]]  # of each recipe
_Value = TypeVar("_Value", bound=Hashable)


@dataclass(frozen=True)
class RowSummary:
    """All runs of a row: its cost and, over its finished runs, top-1, EMA top-1, test loss and top-1 in training.

    `notes` say what a reader must know before comparing the row with others; costs are None if unknown.
    """

    row: str
    label: str
    recipe: str
    status: str
    reason: str
    runs: int
    params: int | None
    macs: int | None
    activations: int | None
    top1: Summary
    ema: Summary
    loss: Summary
    train: Summary
    notes: tuple[str, ...]
    marks: tuple[str, ...] = ()


def summarise_rows(runs: pd.DataFrame) -> list[RowSummary]:
    """Summarize each row of a study, in the study's order."""
    by_row = {str(row): group for row, group in runs.groupby("row", sort=False)}
    notes = _fairness_notes(by_row)
    return [_summarise(name, mine, notes[name]) for name, mine in by_row.items()]


def _summarise(name: str, runs: pd.DataFrame, notes: Sequence[str]) -> RowSummary:
    done = runs[runs["status"] == "done"]
    top1, ema, loss, train = (summarise(done.get(name, ())) for name in ("top1", "ema_top1", "loss", "train_top1"))
    params, macs, activations = (_first_count(runs.get(column, ())) for column in ("params", "macs", "activations"))
    return RowSummary(
        row=name,
        label=str(runs["label"].iloc[0]),
        recipe=", ".join(distinct(runs, "recipe")),
        status=status_of(runs),
        reason="; ".join(distinct(runs, "reason")),
        runs=len(runs),
        params=params,
        macs=macs,
        activations=activations,
        top1=top1,
        ema=ema,
        loss=loss,
        train=train,
        notes=tuple(notes),
        marks=tuple(mark.value for mark in row_marks(runs)),
    )


@dataclass(frozen=True)
class CostColumn:
    """A column of the rows' costs; its name is the field of `RowSummary`."""

    column: Column
    unit: str

    def cell(self, row: RowSummary) -> Cell:
        """Format a row's cost in the column's unit."""
        return Cell(amount(getattr(row, self.column.name), self.unit))


def cost_columns(rows: Sequence[RowSummary], group: str = "") -> list[CostColumn]:
    """Return the columns of the rows' costs; of activations if a row has them, which earlier versions did not count."""
    shown = {"params": ("params", ""), "macs": ("MACs", ""), "activations": ("activations", "acts")}
    if all(row.activations is None for row in rows):
        del shown["activations"]
    columns = []
    for name, (title, short) in shown.items():
        size = unit(getattr(row, name) for row in rows)
        columns.append(CostColumn(Column(name, f"{title} ({size})", group, short=short and f"{short} ({size})"), size))
    return columns


def raw_costs(row: RowSummary, columns: Sequence[CostColumn]) -> dict[str, int | None]:
    """Return a row's costs for the raw table."""
    return {cost.column.name: getattr(row, cost.column.name) for cost in columns}


def status_of(runs: pd.DataFrame) -> str:
    """Return `done` if a row has a result, else the first of `STATUSES` among those of its runs."""
    if summarise(runs.loc[runs["status"] == "done", "top1"]).seeds:
        return "done"
    statuses = set(runs["status"])
    return next((status for status in STATUSES if status in statuses), "no top-1" if statuses else "not run")


def account(runs: pd.DataFrame) -> str:
    """Describe the runs of a row that have no result: `seed 1 failed (NaN loss)`; nothing if its status says it."""
    pairs = zip(runs["seed"], runs["reason"], strict=True)
    reasons = {int(seed): shortened(reason) for seed, reason in pairs if isinstance(reason, str) and reason}
    if not reasons and runs["status"].nunique() == 1:
        return ""
    statuses = {int(seed): str(status) for seed, status in zip(runs["seed"], runs["status"], strict=True)}
    done = runs[(runs["status"] == "done") & runs["top1"].map(known)]
    return describe_missing(statuses, set(done["seed"].astype(int)), reasons)


def _fairness_notes(by_row: Mapping[str, pd.DataFrame]) -> dict[str, list[str]]:
    """For each row, what a reader must know before comparing it with the others."""
    recipes = {name: tuple(distinct(runs, "recipe")) for name, runs in by_row.items()}
    seeds = {name: tuple(sorted(map(int, runs["seed"].dropna()))) for name, runs in by_row.items()}
    images = {name: _images(runs) for name, runs in by_row.items()}
    usual_recipe, usual_seeds, usual_images = usual(recipes), usual(seeds), usual(images)
    settings = settings_of(pd.concat(by_row.values())) if by_row else {}
    notes: dict[str, list[str]] = {}
    for name, runs in by_row.items():
        notes[name] = []
        if not compares_recipes(runs):
            base, whose = _reference(runs, by_row)
            notes[name] += recipe_note(recipes[name], recipes.get(base, ()), usual_recipe, whose, settings)
        if images[name] and images[name] != usual_images:
            notes[name].append(f"saw {_counts(images[name])} images, other rows {_counts(usual_images)}")
        if seeds[name] and seeds[name] != usual_seeds:
            notes[name].append(f"{seed_words(seeds[name])}; other rows {seed_words(usual_seeds)}")
        shared = shared_with(runs, by_row)
        if shared:
            notes[name].append(f"the same runs as {shared}: one design under one recipe")
        notes[name] += distinct(runs, "note")
        notes[name] += filter(None, [*row_mark_notes(runs), unread_note(runs), account(runs)])
    return notes


def _reference(runs: pd.DataFrame, by_row: Mapping[str, pd.DataFrame]) -> tuple[str, str]:
    """Return a row's baseline, of several the first, and how a note says whose recipe that row has."""
    bases = baselines(runs["base"].iloc[0])
    follows = "roadmap" in runs and isinstance(runs["roadmap"].iloc[0], str)  # compared with a row before it
    if not bases or bases[0] not in by_row or (len(bases) < 2 and not follows):
        return "".join(bases[:1]), "the baseline's"
    names = list(by_row)
    if follows and names.index(bases[0]) == names.index(str(runs["row"].iloc[0])) - 1:
        return bases[0], "the previous row's"
    return bases[0], f"that of {by_row[bases[0]]['label'].iloc[0]}"


def recipe_note(
    mine: Sequence[str], base: Sequence[str], usual: Sequence[str], whose: str, settings: Settings
) -> list[str]:
    """Say with which recipe a row was trained if it is not the usual one, or what it changes of another row's."""
    if not mine or mine == (base or usual):
        return []
    changed = recipe_changes(mine[0], (base or usual)[0])
    if changed is None:  # another recipe, not the same one with settings changed
        if mine == usual:
            return []
        other = settings.get((usual or base)[0], {})
        named = [f"{key}={value}" for key, value in _differing(settings.get(mine[0], {}), other)]
        unlike = f"; unlike {'most rows' if usual else whose}: {', '.join(named)}" if named else ""
        return [f"trained with recipe {', '.join(mine)}{unlike}"]
    if not base:
        return []
    how = " in evaluation only, so that both train the same weights" if set(changed) <= EVALUATION_ONLY else ""
    return [f"recipe differs from {whose}{how}: {', '.join(changed.values())}"]


def recipe_changes(recipe: str, base: str) -> dict[str, str] | None:
    """Return what a recipe's name changes of another's, by setting: `mixup=0.8`; None if they have different bases."""
    one, other = parts_of(recipe), parts_of(base)
    if one[0] != other[0]:
        return None
    keys = dict.fromkeys((*one[1], *other[1]))
    return {
        key: f"{key}={one[1][key]}" if key in one[1] else f"{key} as in {one[0]}"
        for key in keys
        if one[1].get(key) != other[1].get(key)
    }


def _differing(mine: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the settings whose values differ from another recipe's, if both are recorded."""
    return [(key, value) for key, value in mine.items() if other and value != other.get(key)]


def settings_of(runs: pd.DataFrame) -> Settings:
    """Return the settings of each recipe, as a user types them; empty if they are not recorded."""
    if "settings" not in runs:
        return {}
    known = runs.dropna(subset=["settings"]).drop_duplicates("recipe")
    return {recipe: parts_of(f",{text}")[1] for recipe, text in zip(known["recipe"], known["settings"], strict=True)}


def parts_of(recipe: str) -> tuple[str, dict[str, str]]:
    """Return a recipe's name and the settings in it."""
    name, *settings = split_commas(recipe)
    return name, {key: value for key, _, value in (setting.partition("=") for setting in settings)}


def describe_costs(runs: pd.DataFrame) -> str:
    """Say how far the costs of designs that are compared lie apart; nothing of a study of another kind."""
    if "kind" not in runs or runs["kind"].iloc[0] != "designs":
        return ""
    labels = runs.groupby("row", sort=False)["label"].first()
    ranges, apart = [], False
    for column, name in (("macs", "MACs"), ("params", "parameters")):
        counts = pd.to_numeric(runs[column]).dropna().groupby(runs["row"]).first()
        if len(counts) < 2:
            return ""
        low, high = counts.min(), counts.max()
        ends = (
            f"{amount(end, unit([end]))} {unit([end])} ({labels[counts.index[counts == end]].iloc[0]})"
            for end in (low, high)
        )
        ranges.append(
            f"{name} from {' to '.join(ends)}, a factor of {high / low:.3g}"
            if high >= _ALIKE * low
            else f"{'equal' if low == high else 'about equal'} {name}"
        )
        apart |= high >= _ALIKE * low
    if not apart:
        return ""
    return f"Cost is not held equal between designs: {'; '.join(ranges)}."


def shared_with(runs: pd.DataFrame, by_row: Mapping[str, pd.DataFrame]) -> str:
    """Return the label of a row's baseline if the two share their runs, else nothing."""
    bases = [by_row[base] for base in baselines(None if runs.empty else runs["base"].iloc[0]) if base in by_row]
    return next((str(base["label"].iloc[0]) for base in bases if set(runs["run"]) & set(base["run"])), "")


def title_of(runs: pd.DataFrame) -> str:
    """Return the title of a study's report: the study's name, unless the view has another."""
    return str(runs["title" if "title" in runs else "study"].iloc[0])


def distinct(runs: pd.DataFrame, column: str) -> list[str]:
    """Return the distinct texts of a column, in order of appearance; none if the column is missing."""
    if column not in runs:
        return []
    return list(dict.fromkeys(str(value) for value in runs[column] if pd.notna(value) and str(value)))


def _first_count(values: Iterable[Any]) -> int | None:
    """Return the first known count: all runs of a row train the same network."""
    counts = pd.to_numeric(pd.Series(values, dtype=object)).dropna()
    return int(counts.iloc[0]) if len(counts) else None


def usual(values: Mapping[str, tuple[_Value, ...]]) -> tuple[_Value, ...]:
    """Return what most rows have; in a tie, the later value, because a roadmap's first row is the exception."""
    counts = Counter(value for value in values.values() if value)
    latest = {value: place for place, value in enumerate(values.values())}
    return max(counts, key=lambda value: (counts[value], latest[value]), default=())


def compares_recipes(runs: pd.DataFrame) -> bool:
    """Whether a study compares recipes, so that none is the usual one."""
    return "kind" in runs and bool((runs["kind"] == "recipes").any())


def _images(runs: pd.DataFrame) -> tuple[int, ...]:
    """Return the distinct numbers of images that the finished runs saw."""
    seen = pd.to_numeric(runs.loc[runs["status"] == "done", "images_seen"]).dropna()
    return tuple(sorted(int(number) for number in seen.unique()))


def _counts(numbers: Sequence[int]) -> str:
    return " or ".join(f"{number:,}" for number in numbers)


def seed_words(seeds: Sequence[int]) -> str:
    """List up to five seeds by number."""
    if len(seeds) > 5:
        return f"{len(seeds)} seeds"
    return f"seed{'s' if len(seeds) != 1 else ''} {', '.join(map(str, seeds))}"
