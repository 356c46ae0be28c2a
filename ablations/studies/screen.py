"""The kind `screen`: which combinations of flags it trains, follow-up runs, and what a dry run prints of the design."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ablations.errors import RequestError
from ablations.studies.folder import read_study
from ablations.studies.kinds import base_of, final_values, set_name
from ablations.studies.schema import FollowUp, Screen, Study, StudyFile, StudyRow
from ablations.studies.screening import ScreeningDesign, Signs, augmented, codes_of, screening_design
from ablations.studies.variants import (
    Recipes,
    Variant,
    plain_setting,
    read_settings,
    value_text,
    with_name,
    with_settings,
    written,
)
from ablations.training_config import TrainingConfig
from modernize.design import RECIPE, Design, DesignError, plain
from modernize.names import nearest
from modernize.plan import compile_plan, total_cost, trace
from modernize.roadmap import Roadmap, roadmap, roadmap_of

if TYPE_CHECKING:
    from reports.screen_tables import Factors

MAX_COST = 5.0  # times the base's multiply-adds, unless the study sets another limit


def screen_of(request: StudyFile, recipes: Recipes) -> tuple[Screen, list[StudyRow]]:
    """Choose the flags, their values and the combinations of a screening study; raises RequestError."""
    base, steps = base_of(request), final_values(request, recipes)
    final = base.with_values(steps)
    values = {flag: [recipes.value(base, flag), recipes.value(final, flag)] for flag in steps}
    for flag, (low, high) in values.items():
        if low == high:
            raise RequestError(f"flags: {written(flag, low)} is the base's value already")
    if len(values) < 2:
        raise RequestError("flags: a study of kind screen needs two flags or more; for one flag use a sweep")
    resolution, max_cost = request.resolution or "IV", request.max_cost or MAX_COST
    costs = combination_costs(base, values, roadmap_of(request.base) or roadmap("resnet50"), request.base)
    design = screening_design(np.where(costs <= max_cost, costs, np.inf), resolution, request.runs)
    screen = Screen(
        flags=values,
        resolution=resolution,
        max_cost=max_cost,
        method=design.method,
        generators=list(_generators(design, list(values))),
    )
    return screen, _rows(design.signs, values, base, request.base, recipes.name)


def _rows(
    signs: Signs,
    values: Mapping[str, list[Any]],
    base: Variant,
    name: str,
    recipe_of: Callable[[Mapping[str, Any]], str],
) -> list[StudyRow]:
    """A row per combination, named by a digit per flag: on-0110."""
    rows = []
    for line in signs.tolist():
        on = {flag: final for sign, (flag, (_, final)) in zip(line, values.items(), strict=True) if sign > 0}
        label = " + ".join(on) if len(on) < len(values) else "all flags"
        shown = base.with_values(on)
        rows.append(
            StudyRow(
                row=set_name(list(values), frozenset(on)),
                label=label or name,
                flags=shown.design.flags(),
                recipe=recipe_of(shown.settings),
                settings={key: plain_setting(value) for key, value in shown.settings.items()},
            )
        )
    return rows


def _generators(design: ScreeningDesign, flags: list[str]) -> Iterator[str]:
    """Write the generators: norm = -stem * width."""
    for flag, sign, factors in design.generators:
        yield f"{flags[flag]} = {'-' if sign < 0 else ''}{' * '.join(flags[factor] for factor in factors)}"


def combination_costs(
    base: Variant, values: Mapping[str, list[Any]], images: Roadmap, name: str
) -> NDArray[np.float64]:
    """Return the MACs of every combination relative to the base's, infinite if it cannot be built: (2**flags,).

    They are counted for the images of the base's roadmap, or of the resolution that the recipe's flags set, and in
    proportion to epochs if these are a flag. Bit j of a combination's number says whether flag j has its final value.
    """
    start = {flag: low for flag, (low, _) in values.items()}

    def cost(chosen: Mapping[str, Any]) -> float:
        shown = base.with_values(chosen)
        plan = compile_plan(shown.design, images.in_channels, images.num_classes)
        size = shown.settings.get("image_size") or images.image_size
        macs = float(total_cost(trace(plan, size)).macs)
        return macs * float(chosen.get(f"{RECIPE}max_epochs", 1.0))

    costs = np.full(2 ** len(values), np.inf)
    for code in range(len(costs)):
        on = {flag: final for place, (flag, (_, final)) in enumerate(values.items()) if code >> place & 1}
        try:
            costs[code] = cost({**start, **on})
        except DesignError:
            continue
    if np.isinf(costs[0]):
        raise RequestError(f"base: {name} cannot be built for images of {images.image_size} pixels")
    return costs / costs[0]


def _base_of(study: Study, screen: Screen) -> Variant:
    """Return the base as it was when the study began: the file that the study names may have changed."""
    row = next(row for row in study.rows if row.reference is None)
    own = Variant(_design(row), read_settings(row.settings))
    return own.with_values({flag: low for flag, (low, _) in screen.flags.items()})


def _design(row: StudyRow) -> Design:
    return Design().with_flags(row.flags)


def signs_of_rows(study: Study) -> dict[str, tuple[int, ...]]:
    """Return -1 or +1 per flag for each row of a screening study."""
    assert study.screen
    finals = {flag: final for flag, (_, final) in study.screen.flags.items()}
    return {
        row.row: tuple(1 if _value(row, flag) == final else -1 for flag, final in finals.items())
        for row in study.rows
        if row.reference is None
    }


def _value(row: StudyRow, flag: str) -> Any:
    """Return a row's value of a flag; None for a setting of the recipe that the row has as the base has it."""
    return (
        row.settings.get(flag.removeprefix(RECIPE)) if flag.startswith(RECIPE) else plain(getattr(_design(row), flag))
    )


def factors_of(study: Study) -> Factors | None:
    """Return what a screening study varies, for its report; None for another kind."""
    from reports.screen_tables import Factors

    if study.screen is None:
        return None
    flags = list(study.screen.flags)
    return Factors(
        values={
            flag: (value_text(flag, low), value_text(flag, high)) for flag, (low, high) in study.screen.flags.items()
        },
        signs=signs_of_rows(study),
        design=_design_words(study.screen, len(study.rows)),
        apart=tuple(_pair(pair, flags) for one in study.screen.follow_ups for pair in one.apart),
    )


def _design_words(screen: Screen, rows: int) -> str:
    added = sum(len(one.rows) for one in screen.follow_ups)
    of = f" of resolution {screen.resolution}" if screen.method == "regular fraction" else ""
    return f"{screen.method}{of}, {rows - added} combinations{f' and {added} follow-up ones' if added else ''}"


def _pair(pair: str, flags: list[str]) -> tuple[int, int]:
    """Return the indices of two flags; raises RequestError."""
    parts = pair.split(":")
    for part in parts:
        if part not in flags:
            raise RequestError(f"--resolve {pair}: {part!r} is not a flag of the study: {nearest(part, flags)}")
    if len(set(parts)) != 2:
        raise RequestError(f"--resolve {pair}: write two flags, such as {flags[0]}:{flags[1]}")
    first, second = sorted(flags.index(part) for part in parts)
    return first, second


def resolved(study: Study, pair: str, runs: int | None) -> Study:
    """Add the rows that tell an interaction from its aliases; the study as it is if it has them already.

    `runs` is how many combinations to add; None for half as many as the first design has. Raises RequestError.
    """
    from reports.statistics.screening import alias_strings
    from reports.statistics.screening import named as named_pair

    screen = study.screen
    if screen is None:
        raise RequestError(
            f"--resolve {pair}: only for studies of kind screen, and {study.name} is of kind {study.kind}"
        )
    flags = list(screen.flags)
    wanted = _pair(pair, flags)
    if any(named_pair(flags, wanted) in one.apart for one in screen.follow_ups):
        return study
    signs = np.array(list(signs_of_rows(study).values()), dtype=np.int8)
    for string in alias_strings(signs):
        members = [string.pair, *(other for other, _ in string.others)]
        if wanted in members:
            break
    if len(members) == 1:
        raise RequestError(f"--resolve {pair}: the runs already separate this interaction from all others of two flags")
    base = _base_of(study, screen)
    costs = combination_costs(base, screen.flags, study.steps, study.base)
    costs[costs > screen.max_cost] = np.inf
    separated = [_pair(one, flags) for follow_up in screen.follow_ups for one in follow_up.apart]
    first = len(signs) - sum(len(one.rows) for one in screen.follow_ups)
    apart = [wanted, *(member for member in members if member != wanted), *separated]
    added = augmented(signs, costs, apart, runs or first // 2)
    recipes = _FollowUpRecipes(study, screen)
    rows = _rows(added, screen.flags, base, study.base, recipes.name)
    follow_up = FollowUp(
        resolve=named_pair(flags, wanted),
        apart=[named_pair(flags, member) for member in members],
        rows=[row.row for row in rows],
    )
    changed = screen.model_copy(update={"follow_ups": [*screen.follow_ups, follow_up]})
    more = {"recipes": study.recipes | recipes.made, "factors": study.factors | recipes.factors}
    return study.model_copy(update={"screen": changed, "rows": [*study.rows, *rows], **more})


@dataclass
class _FollowUpRecipes:
    """The recipes of follow-up rows: those of the study's rows, and new ones made of them."""

    study: Study
    screen: Screen
    made: dict[str, TrainingConfig] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)

    def name(self, settings: Mapping[str, Any]) -> str:
        """Return the name of the recipe with these settings; raises RequestError."""
        rows = [row for row in self.study.rows if row.reference is None]
        wanted = self._chosen(settings)
        same = next((row.recipe for row in rows if self._chosen(row.settings) == wanted), None)
        return same or self._make(rows[0], wanted)

    def _chosen(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of the settings that the study varies."""
        keys = {
            flag.removeprefix(RECIPE): low for flag, (low, _) in self.screen.flags.items() if flag.startswith(RECIPE)
        }
        return {key: plain_setting(settings.get(key, low)) for key, low in keys.items()}

    def _make(self, row: StudyRow, wanted: Mapping[str, Any]) -> str:
        """Change the recipe of a row; its epochs in proportion, because a budget may have set them."""
        name, recipe, factor = with_name(row.recipe, wanted), self.study.recipes[row.recipe], 1.0
        if "max_epochs" in wanted:
            factor = wanted["max_epochs"] / self._chosen(row.settings)["max_epochs"]
            self.factors[name] = self.study.factors.get(row.recipe, 1.0) * factor
        settings = read_settings(wanted) | {"max_epochs": recipe.max_epochs * factor}
        self.made[name] = with_settings(recipe, settings, "--resolve")
        return name


def with_follow_ups(study: Study, folder: Path) -> Study:
    """Return the study with the design stored in its folder, if that was made for the same request.

    The folder may have follow-up rows. An optimal design may also differ between machines in the last digits of a
    determinant, and the folder's is the one that was begun.
    """
    if study.screen is None or not (folder / "study.yaml").is_file():
        return study
    stored = read_study(folder)
    fields = {"flags", "resolution", "max_cost", "method", "generators"}
    if stored.screen is None or stored.screen.model_dump(include=fields) != study.screen.model_dump(include=fields):
        return study
    first = len(stored.rows) - sum(len(one.rows) for one in stored.screen.follow_ups)
    if first != len(study.rows):
        return study
    return study.model_copy(update={"screen": stored.screen, "rows": stored.rows})


def describe_screen(study: Study) -> list[str]:
    """Describe the design of a screening study: generators, aliases, cost, and standard errors beside one-in's."""
    from reports.statistics.screening import alias_strings, main_aliases

    factors = factors_of(study)
    assert factors and study.screen
    flags, once = list(factors.values), np.array(list(factors.signs.values()), dtype=np.int8)
    signs = np.tile(once, (len(study.seeds), 1))
    base = _base_of(study, study.screen)
    costs = combination_costs(base, study.screen.flags, study.steps, study.base)[codes_of(once)]
    biased = [
        f"  {flag}: {of}" for flag, of in zip(flags, main_aliases(signs, flags, factors.apart), strict=True) if of
    ]
    strings = [f"  {string.written(flags)}" for string in alias_strings(signs) if string.others]
    return [
        f"{study.name}: {len(flags)} flags, {factors.design}",
        f"  MACs: {costs.min():.2f} to {costs.max():.2f} times the base's (limit {study.screen.max_cost:g}), "
        f"{costs.sum() * len(study.seeds):.1f} times in all",
        *(f"  {generator}" for generator in study.screen.generators),
        f"aliases of main effects among interactions of two flags:{'' if biased else ' none'}",
        *biased,
        f"aliased interactions: {f'{len(strings)} sets' if strings else 'none'}",
        *strings,
        *_errors(signs, factors),
    ]


def _errors(signs: Signs, factors: Factors) -> Iterator[str]:
    """Yield the standard errors and the smallest detected effect, in standard deviations of a run."""
    from reports.statistics.screening import detectable, standard_errors
    from reports.statistics.sequential import FIRST_SHARE

    flags = len(factors.values)
    errors = standard_errors(signs, factors.apart)
    one_in = np.sqrt(2 * (flags + 1) / len(signs))
    yield (
        f"standard error of an average effect: {_range(errors[:flags])} standard deviations of a run; of one-in with "
        f"{len(signs)} runs: {one_in:.2f}"
    )
    if factors.apart:
        yield f"standard error of the separated interactions: {_range(errors[flags:])}"
    smallest = detectable(signs, factors.apart, level=1 - 0.05 * FIRST_SHARE)
    if np.isfinite(smallest):
        yield f"smallest average effect detected with 80% power: {smallest:.1f} standard deviations of a run"
    else:
        yield "no run is left to estimate the error from: nothing can be tested; use more runs or seeds"


def _range(values: NDArray[np.float64]) -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"
