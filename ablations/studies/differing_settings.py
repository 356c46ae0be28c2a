"""What sets several studies apart: base, weights, settings of the recipe of most rows, and designs of one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.studies.how_made import EXECUTION_ONLY
from ablations.studies.schema import Study, StudyRow
from ablations.studies.variants import setting_text
from modernize.design import RECIPE, split_commas

_SCALED = ("warmup_epochs", "step_epochs")  # with max_epochs, which follows from the budget


def differing_settings(studies: Mapping[str, Study]) -> dict[str, str]:
    """Describe, for each study, the settings in which the studies differ; execution and budget are none of them.

    Args:
        studies: The studies, by name.

    Returns:
        Settings of each study, as in a recipe's name: `learning_rate=2e-3, init=kaiming`; empty if all are alike.
    """
    values = {name: _values(study) for name, study in studies.items()}
    keys = dict.fromkeys(key for own in values.values() for key in own)
    apart = [key for key in keys if len({own.get(key) for own in values.values()}) > 1]
    return {name: ", ".join(f"{key}={own[key]}" for key in apart if key in own) for name, own in values.items()}


def _values(study: Study) -> dict[str, str]:
    """Return the settings of a study as text."""
    recipe = study.recipes[Counter(row.recipe for row in study.rows).most_common(1)[0][0]]
    settings: dict[str, Any] = {key: value for key, value in recipe if key not in ("max_epochs", *EXECUTION_ONLY)}
    for key in _SCALED:
        if isinstance(settings.get(key), float):
            settings[key] = float(f"{settings[key] / recipe.max_epochs:.4g}")
    texts = {key: setting_text(value) for key, value in settings.items()}
    return {**_base(study), "weights": str(study.weights or "none"), **texts}


def _base(study: Study) -> dict[str, str]:
    """Return the parts of the base's name: the base, and the flags that the name sets."""
    base, *flags = split_commas(study.base)
    return {"base": base, **{key: value for key, _, value in (flag.partition("=") for flag in flags)}}


# A step: of each flag, or setting of the recipe, that a row changes, the value of its baseline and its own.
_Step = Mapping[str, tuple[Any, Any]]


def differing_steps(studies: Mapping[str, Study]) -> dict[str, dict[str, str]]:
    """Describe the rows whose designs differ between the studies in more than the base's name says.

    Rows are compared by what they change from their baselines, so that a flag that a base, or a step, has in one study
    alone is not found again in all rows behind it. Sizes, such as widths, may change in proportion to other ones.

    Args:
        studies: The studies, by name. All have the same rows with the same baselines.

    Returns:
        By such a row, its differing flags and settings in each study: `activation=gelu`, `activation unchanged`. A row
        without a baseline has those of its flags that differ and that the bases do not name.
    """
    first = next(iter(studies.values()))
    rows = {name: {row.row: row for row in study.rows} for name, study in studies.items()}
    found = {
        row.row: _differing({name: own[row.row] for name, own in rows.items()}, studies, rows) for row in first.rows
    }
    return {
        row: {name: ", ".join(texts) for name, texts in own.items()} for row, own in found.items() if any(own.values())
    }


def _differing(
    same: Mapping[str, StudyRow], studies: Mapping[str, Study], rows: Mapping[str, Mapping[str, StudyRow]]
) -> dict[str, list[str]]:
    """Describe how the rows of one name differ, by study; nothing if they do not."""
    bases = [_base(study) for study in studies.values()]
    named = {key for one in bases for key in one}
    other_base = len({one["base"] for one in bases}) > 1
    baselines = next(iter(same.values())).baselines
    texts: dict[str, dict[str, None]] = {name: {} for name in same}
    for base in (*baselines, *([] if baselines else [None])):
        steps = {name: _step(row, rows[name][base] if base else None) for name, row in same.items()}
        for key in dict.fromkeys(key for step in steps.values() for key in step):
            changes = [step.get(key) for step in steps.values()]
            of_base = base is None and (key in named or (other_base and _are_sizes(changes)))
            if not of_base and not _alike(key, changes):
                for (name, own), change in zip(texts.items(), changes, strict=True):
                    own[_text(key, change, same[name])] = None
    return {name: list(filter(None, own)) for name, own in texts.items()}


def _step(row: StudyRow, base: StudyRow | None) -> _Step:
    """Return what a row changes: all its values without a baseline, or if only one of both is a reference model."""
    ours = _design(row)
    theirs = _design(base) if base and bool(base.reference) == bool(row.reference) else {}
    keys = dict.fromkeys([*theirs, *ours])
    return {key: (theirs.get(key), ours.get(key)) for key in keys if theirs.get(key) != ours.get(key)}


_OWN = ("model", "code")  # what stands for the flags of a reference model


def _design(row: StudyRow) -> dict[str, Any]:
    """Return the flags of a row, or the name and the code of its reference model, and the settings of the row."""
    model = {"model": row.reference, "code": row.code_sha256 and row.code_sha256[:8]}
    return {**(model if row.reference else row.flags), **{f"{RECIPE}{key}": one for key, one in row.settings.items()}}


def _alike(key: str, changes: Sequence[tuple[Any, Any] | None]) -> bool:
    """Whether all studies change a flag or setting to the same value, or a size in proportion."""
    first, *others = changes
    same = _in_proportion if key in ("width", "depths") else _to_the_same
    return all(first == other or (first and other and same(first, other)) for other in others)


def _to_the_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return bool(one[1] == other[1])


def _in_proportion(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    sizes = [_sizes(value) for value in (*one, *other)]
    if len({len(own) for own in sizes}) > 1 or not all(sizes):
        return False
    return all(abs(new - old * b / a) <= 0.5 for a, b, old, new in zip(*sizes, strict=True) if a)  # sizes are rounded


def _are_sizes(changes: Sequence[tuple[Any, Any] | None]) -> bool:
    return all(change and _sizes(change[1]) for change in changes)


def _sizes(value: Any) -> list[int]:
    """Return a width as it is, and depths `3-4-6-3` one by one; nothing for another value."""
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    parts = value.split("-") if isinstance(value, str) else []
    return [int(part) for part in parts] if all(part.isdecimal() for part in parts) else []


def _text(key: str, change: tuple[Any, Any] | None, row: StudyRow) -> str:
    """Describe a row's own value of what differs; nothing for the flags of a reference model, which has none."""
    if change is None:
        of_row = key.startswith(RECIPE) or bool(row.reference) == (key in _OWN)
        return f"{key} unchanged" if of_row else ""
    return f"{key}={setting_text(change[1])}" if change[1] is not None else f"no {key}"
