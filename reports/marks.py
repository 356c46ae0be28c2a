"""Marks of rows that did not learn, or that do far better on training images than on test images.

At chance: H0 is that the network classifies no more test images correctly, on average, than a guess of the most
frequent class for every image; a one-sided binomial test does not reject H0 at 1%. Below guessing the largest class:
top-1 is lower, on the same images, than that of the class with most training images. Far below training: a one-sided
binomial test rejects, at 1%, that top-1 on test images is at most 20 percentage points below top-1 on (augmented)
training images in training mode at the end of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from numbers import Real
from typing import TYPE_CHECKING, Any

from reports.numbers import fixed

if TYPE_CHECKING:
    import pandas as pd

Line = Mapping[Any, Any]  # of a study's frame, or a `result.json`
LEVEL = 0.01
GAP = 20.0  # percentage points


class Mark(StrEnum):
    """What is marked of a run."""

    CHANCE = "at chance"
    LARGEST = "below guessing the largest class"
    TRAINING = "far below training"
    EMA_CHANCE = "EMA weights at chance"
    EMA_TRAINING = "EMA weights far below training"


_MEASURES = {
    Mark.CHANCE: "top1",
    Mark.LARGEST: "top1",
    Mark.TRAINING: "top1",
    Mark.EMA_CHANCE: "ema_top1",
    Mark.EMA_TRAINING: "ema_top1",
}
_OF_CHANCE = (Mark.CHANCE, Mark.EMA_CHANCE)
_READ = (
    *("row", "seed", "top1", "ema_top1", "train_top1", "chance_top1"),
    *("num_classes", "compared_images", "evaluated_images", "largest_class_top1"),
)


@dataclass(frozen=True)
class _Yardsticks:
    """What a run's numbers are tested against: top-1 (%) of chance and of training, and the number of test images.

    `largest` is top-1 (%) of predicting the class with most training images for every test image.
    """

    chance: float | None
    training: float | None
    images: int | None
    largest: float | None = None

    @classmethod
    def of(cls, run: Line) -> _Yardsticks:
        """Read them from a run; chance is 1 / classes if the share of the most frequent class is not recorded."""
        chance, classes = _known(run, "chance_top1"), _known(run, "num_classes")
        images = _known(run, "compared_images") or _known(run, "evaluated_images")
        if chance is None and classes:
            chance = 100 / classes
        largest = _known(run, "largest_class_top1")
        return cls(chance, _known(run, "train_top1"), int(images) if images else None, largest)

    def marked(self, mark: Mark, top1: float) -> bool:
        """Whether top-1, or that of the EMA weights, has this mark."""
        if mark is Mark.LARGEST:
            return self.largest is not None and top1 < self.largest
        return self.at_chance(top1) if mark in _OF_CHANCE else self.below_training(top1)

    def at_chance(self, top1: float) -> bool:
        """Whether top-1 is not distinguishable from chance; without the number of images, whether it is no higher."""
        if self.chance is None:
            return False
        if self.images is None:
            return top1 <= self.chance
        correct = round(top1 * self.images / 100)
        return at_least(correct, self.images, self.chance / 100) > LEVEL

    def below_training(self, top1: float) -> bool:
        """Whether top-1 is significantly more than `GAP` below that of training."""
        if self.training is None or self.images is None or self.training <= GAP:
            return False
        wrong = self.images - round(top1 * self.images / 100)
        return at_least(wrong, self.images, 1 - (self.training - GAP) / 100) <= LEVEL


@cache
def at_least(count: int, of: int, probability: float) -> float:
    """Return the binomial probability of at least `count` successes among `of` trials."""
    if count <= 0 or probability >= 1:
        return 1.0
    if probability <= 0:
        return 0.0
    if count <= of * probability:  # the other tail has fewer terms of any size
        return 1.0 - at_least(of - count + 1, of, 1 - probability)
    term = math.lgamma(of + 1) - math.lgamma(count + 1) - math.lgamma(of - count + 1)
    term = math.exp(term + count * math.log(probability) + (of - count) * math.log1p(-probability))
    total, odds = 0.0, probability / (1 - probability)
    for successes in range(count, of + 1):
        total += term
        term *= (of - successes) / (successes + 1) * odds
        if term <= 1e-17 * total:
            break
    return total


def marks_of(run: Line) -> list[Mark]:
    """Return the marks of a finished run, given as a line of a study's frame or as its `result.json`."""
    tests, marks = _Yardsticks.of(run), []
    for mark, measure in _MEASURES.items():
        top1 = _known(run, measure)
        if top1 is not None and tests.marked(mark, top1):
            marks.append(mark)
    return marks


def warnings_of(run: Line) -> Iterator[str]:
    """Explain the marks of a finished run, one sentence each."""
    for mark in marks_of(run):
        yield f"{_what(mark)} {fixed(run[_MEASURES[mark]], 2)}% {_explained(mark, [run])}"


def _explained(mark: Mark, runs: Iterable[Line]) -> str:
    """Explain a mark, with the yardsticks of these runs."""
    if mark in _OF_CHANCE:
        return f"is not distinguishable from chance ({_range([_Yardsticks.of(run).chance for run in runs])}%)"
    if mark is Mark.LARGEST:
        largest = _range([_Yardsticks.of(run).largest for run in runs])
        return f"is below the {largest}% of predicting the class with most training images for every test image"
    training = sorted(_Yardsticks.of(run).training or 0.0 for run in runs)
    shown = " to ".join(dict.fromkeys(fixed(value, 2) for value in (*training[:1], *training[-1:])))
    other = f"the {shown}% on training images" if shown else "that on training images"
    return f"is more than {GAP:g} pp below {other}: {_REASONS[mark]}"


def _range(values: Iterable[float | None]) -> str:
    """Format percentages: the only one, or the lowest and the highest."""
    shown = sorted({fixed(value, 2) for value in values if value is not None}, key=float)
    return " to ".join(dict.fromkeys([shown[0], shown[-1]]))


_REASONS = {
    Mark.TRAINING: "overfitting, or BatchNorm statistics that do not fit the weights",
    Mark.EMA_TRAINING: "overfitting, or an average that still holds early weights or BatchNorm statistics",
}


_ADVICE = {
    Mark.CHANCE: "Such a run did not learn, or its evaluation failed: differences with it do not measure the designs.",
    Mark.LARGEST: "A constant guess is better than such a network.",
    Mark.TRAINING: "Find out which before you read differences with such a row as effects of the designs.",
    Mark.EMA_CHANCE: "",
    Mark.EMA_TRAINING: "",
}


def row_marks(runs: pd.DataFrame) -> list[Mark]:
    """Return the marks of a row: those of any of its finished runs."""
    return list(_by_mark(runs))


def row_mark_notes(runs: pd.DataFrame) -> list[str]:
    """Explain the marks of a row, naming its seeds if not all of its finished runs have a mark."""
    done = int((runs["status"] == "done").sum())
    notes = []
    for mark, marked in _by_mark(runs).items():
        seeds = ", ".join(str(int(run["seed"])) for run in marked)
        which = f"seed{'s' * (len(marked) > 1)} {seeds} " if len(marked) < done else ""
        notes.append(f"{which}{mark}: {_what(mark)} {_explained(mark, () if mark in _REASONS else marked)}")
    return notes


def count_marks(runs: pd.DataFrame) -> list[str]:
    """Count a study's marked rows: `13 of 17 rows at chance`."""
    return [f"{_rows(marked, runs)} {mark}" for mark, marked in _by_mark(runs).items()]


def study_warnings(runs: pd.DataFrame) -> list[str]:
    """Say, for the summary of a study, what its marked rows mean for the effects."""
    return [
        f"{_rows(marked, runs)} {mark}: {_what(mark)} {_explained(mark, marked)}. {_ADVICE[mark]}".strip()
        for mark, marked in _by_mark(runs).items()
    ]


def _by_mark(runs: pd.DataFrame) -> dict[Mark, list[Line]]:
    """Return the marked runs by mark."""
    marked: dict[Mark, list[Line]] = {}
    columns = [name for name in _READ if name in runs]
    for line in runs.loc[runs["status"] == "done", columns].to_dict("records"):
        for mark in marks_of(line):
            marked.setdefault(mark, []).append(line)
    return {mark: marked[mark] for mark in Mark if mark in marked}


def _rows(marked: Iterable[Line], runs: pd.DataFrame) -> str:
    """Count the rows of marked runs among those of a study."""
    rows = runs["row"].nunique()
    return f"{len({run['row'] for run in marked})} of {rows} row{'s' * (rows > 1)}"


def _what(mark: Mark) -> str:
    return "EMA top-1" if _MEASURES[mark] == "ema_top1" else "top-1"


def _known(run: Line, name: str) -> float | None:
    """Return a number of a run, None if it is missing."""
    value = run.get(name)
    return float(value) if isinstance(value, Real) and not math.isnan(value) else None
