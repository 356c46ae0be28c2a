"""The rows of a study that are reference models, trained beside the others or, of a function in a file, instead."""

from __future__ import annotations

from collections.abc import Iterator

from ablations.errors import RequestError
from ablations.studies.folder import slug
from ablations.studies.kinds import main_recipe
from ablations.studies.own_code import code_sha256
from ablations.studies.schema import StudyFile, StudyRow
from modernize.design import DesignError
from modernize.own_network import shown_own
from modernize.reference import check_reference
from modernize.user_code import is_call


def reference_rows(request: StudyFile) -> Iterator[StudyRow]:
    """Yield the reference models, under the study's recipe, compared with nothing."""
    names: dict[str, str] = {}
    for written in request.references:
        try:
            reference = check_reference(written)
        except DesignError as error:
            raise RequestError(f"references: {error}") from None
        row, label = reference_row(reference), reference_label(reference)
        if names.setdefault(row, reference) != reference:
            raise RequestError(f"references: {names[row]} and {reference} have the same name {row!r}; rename a file")
        yield StudyRow(
            row=row,
            label=label,
            flags={},
            reference=reference,
            code_sha256=code_sha256(reference),
            recipe=main_recipe(request),
        )


def reference_row(reference: str) -> str:
    """Name the row, and so the folder, of a reference model: `timm-resnet18`, `my_models-net-width=8`."""
    return slug(shown_own(reference).replace(".py:", "-", 1) if is_call(reference) else reference)


def reference_label(reference: str) -> str:
    """Label a reference model: `resnet18 (timm)`, `my_models.py:net(width=8)`."""
    if is_call(reference):
        return shown_own(reference)
    source, _, model = reference.partition(":")
    return f"{model} ({source})"
