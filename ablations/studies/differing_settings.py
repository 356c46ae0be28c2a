"""What sets the settings of several studies apart: base, weights, and settings of the recipe of most rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ablations.studies.how_made import EXECUTION_ONLY
from ablations.studies.schema import Study
from ablations.studies.variants import setting_text
from modernize.design import split_commas

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
    base, *flags = split_commas(study.base)
    named = {key: value for key, _, value in (flag.partition("=") for flag in flags)}
    return {"base": base, **named, "weights": str(study.weights or "none"), **texts}
