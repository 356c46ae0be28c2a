"""The two sides of `compare`: designs, reference models or rows of the results, with their cost for one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ablations.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from ablations.studies.schema import Study, StudyRow
    from modernize.arguments import Size
    from reports.two_designs import MeasuredDifference, Side


class Images(NamedTuple):
    """The images for which costs are counted."""

    size: Size
    channels: int
    classes: int

    def __str__(self) -> str:
        classes = f"{self.classes} classes" if self.classes else "no classifier"
        return f"{self.channels}×{self.size.height}×{self.size.width} images and {classes}"


class Results:
    """The results of a study, or of single runs, that two of its rows are compared by."""

    def __init__(self, study: Study, folder: Path):
        from ablations.studies.results import study_runs
        from reports.predictions import on_compared_images

        self.study, self.folder = study, folder
        self.rows = {row.row: row for row in study.rows}
        self.runs: pd.DataFrame = on_compared_images(study_runs(study, folder))

    def row(self, name: str) -> StudyRow | None:
        """Return the row of a name: its own, or that of a reference model."""
        from modernize.reference import check_reference, is_reference

        if name in self.rows or not is_reference(name):
            return self.rows.get(name)
        reference = check_reference(name)
        found = [row for row in self.study.rows if row.reference == reference]
        if not found:
            raise RequestError(f"--results: no row is {name}; the rows are {some(list(self.rows))}")
        return found[0]

    def images(self, name: str) -> tuple[int | None, int | None, int | None]:
        """Return resolution, channels and classes of the runs of a row; None where they are not recorded."""
        row = self.row(name)
        runs = self.runs[self.runs["row"] == row.row] if row else self.runs.iloc[:0]
        found = (runs[key].dropna() for key in ("image_size", "in_channels", "num_classes"))
        size, channels, classes = (int(values.iloc[0]) if len(values) else None for values in found)
        return size, channels, classes

    def difference(self, sides: tuple[Side, Side]) -> MeasuredDifference:
        """Compare two designs by their results; raises ReportError if one of them has none."""
        from ablations.studies.results import predictions
        from ablations.studies.variants import setting_texts
        from reports.two_designs import measure

        own = [row for row in self.study.rows if row.reference is None]
        designs = {row.row: row.flags | setting_texts(row.settings) for row in own}
        return measure(self.runs, designs, sides, predictions(self.study, self.folder), self.study.measure)


def side(name: str, images: Images, results: Results | None) -> Side:
    """Return one side of a comparison; raises DesignError or RequestError."""
    from ablations.studies.variants import setting_texts, variant
    from modernize.design import Design
    from modernize.plan import compile_plan, total_cost, trace
    from modernize.reference import check_reference, is_reference
    from reports.two_designs import Side

    row = results.row(name) if results else None
    reference = row.reference if row else check_reference(name) if is_reference(name) else None
    known = row.row if row else None
    if reference is not None:
        settings = _arguments(reference) | (setting_texts(row.settings) if row else {})
        return Side(name, None, *_cost(reference, images, results, row), settings, known)
    one = variant(name) if row is None else None
    design = one.design if one else Design().with_flags(row.flags if row else {})
    cost = total_cost(trace(compile_plan(design, images.channels, images.classes), images.size))
    changed = one.settings if one else row.settings if row else {}
    return Side(name, design, cost.params, cost.macs, cost.activations, setting_texts(changed), known)


def _arguments(reference: str) -> dict[str, str]:
    """Return the arguments of a user's function that a name sets, as text."""
    from modernize.own_network import settings_of, shown_value
    from modernize.user_code import is_call

    return {key: shown_value(value) for key, value in settings_of(reference).items()} if is_call(reference) else {}


def _cost(reference: str, images: Images, results: Results | None, row: StudyRow | None) -> tuple[int, int, int | None]:
    """Return parameters, MACs and activations of a reference model, as its runs recorded them or counted now.

    Runs of earlier versions did not record activations.
    """
    from modernize.cost import count

    if results and row:
        runs = results.runs[results.runs["row"] == row.row]
        recorded = runs[["params", "macs"]].dropna()
        if len(recorded) and results.images(row.row) == (images.size.height, images.channels, images.classes):
            activations = runs["activations"].dropna()
            found = int(activations.iloc[0]) if len(activations) else None
            return int(recorded["params"].iloc[0]), int(recorded["macs"].iloc[0]), found
    cost = count(reference, images.size, images.channels, images.classes)
    return cost.params, cost.macs, cost.activations


def some(names: Sequence[str]) -> str:
    """List up to five names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
