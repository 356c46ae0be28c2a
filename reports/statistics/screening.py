"""Screening: every flag's average effect and every interaction, from the runs of a two-level design.

The model: y = mean + sum of effect/2 for each flag at its final value and -effect/2 at its base value, the same for
products of two flags, + noise of one standard deviation. Interactions of three and more flags are taken to be 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.statistics.compare import Verdict, verdicts
from reports.statistics.measures import Measure
from reports.statistics.unreplicated import Floats, Reference, Space, complement, estimate, reference
from reports.statistics.values import check_level

Pair = tuple[int, int]
_DIGITS = 9  # decimals of the frames
_ALIASED = 0.3  # correlation from which two interactions are named as aliases


@dataclass(frozen=True)
class Screening:
    """What a screening study found.

    effects       a line per flag: flag, effect, se, low, high, p, p_adjusted, verdict, reason, aliases
    interactions  a line per set of aliased interactions: flags, and the same columns
    sd            the standard deviation of one run, in percentage points
    runs          how many runs these are over
    dimensions    how many dimensions of the runs the error was estimated from
    clean         whether these hold no interaction of two flags; otherwise most interactions were taken to be 0
    kept_out      the interactions that were kept out of the error if it is not clean
    """

    effects: pd.DataFrame = field(compare=False, repr=False)
    interactions: pd.DataFrame = field(compare=False, repr=False)
    sd: float
    runs: int
    dimensions: int
    clean: bool
    kept_out: tuple[str, ...]


@dataclass(frozen=True)
class AliasString:
    """Two-factor interactions that a design cannot tell apart: the first, and the others with their signs."""

    pair: Pair
    others: tuple[tuple[Pair, int], ...]

    def written(self, flags: Sequence[str]) -> str:
        """The interactions as one line: depths:stem = -width:norm."""
        parts = [named(flags, self.pair)]
        parts += [f"{'-' if sign < 0 else ''}{named(flags, pair)}" for pair, sign in self.others]
        return " = ".join(parts)


def interaction(signs: NDArray[np.int8], pair: Pair) -> Floats:
    """The column of a two-factor interaction, in the runs' order."""
    return signs[:, pair[0]].astype(float) * signs[:, pair[1]]


def alias_strings(signs: NDArray[np.int8]) -> list[AliasString]:
    """The interactions of two flags, in order, those with the same column up to its sign together."""
    strings: dict[bytes, list[tuple[Pair, int]]] = {}
    for pair in combinations(range(signs.shape[1]), 2):
        if not len(signs):
            continue
        column = signs[:, pair[0]] * signs[:, pair[1]]
        sign = int(column[0])
        strings.setdefault((column * sign).tobytes(), []).append((pair, sign))
    found = []
    for members in strings.values():
        (first, sign), *others = members
        found.append(AliasString(first, tuple((pair, own * sign) for pair, own in others)))
    return found


def named(flags: Sequence[str], pair: Pair) -> str:
    """An interaction as it is written: stem:norm."""
    return f"{flags[pair[0]]}:{flags[pair[1]]}"


def screen_effects(
    values: Floats,
    signs: NDArray[np.int8],
    flags: Sequence[str],
    apart: Sequence[Pair] = (),
    level: float = 0.95,
    measure: Measure = "top1",
) -> Screening:
    """Estimate main effects and interactions with confidence intervals, p-values and verdicts.

    Args:
        values: The response of each run (top-1 in percent, or the loss), NaN where a run has none.
        signs: (runs, flags), -1 where a flag has its base value, +1 where it has its final value.
        flags: The flags' names.
        apart: Interactions that follow-up runs were made for: each is estimated on its own.
        level: Of the confidence intervals; 1 - level is the family-wise error rate of the verdicts.
        measure: What the response is: more top-1 is better, less loss is.

    Returns:
        The effects. Main effects are one family and interactions another; p_adjusted is step-down over its family
        (Westfall and Young 1993) under the simulated reference distribution of `unreplicated`. Confidence intervals
        are unadjusted.

    Raises:
        ValueError: If `level` is none, or a run has a sign other than -1 and +1.
    """
    check_level(level)
    if not np.isin(signs, (-1, 1)).all():
        raise ValueError("signs must be -1 or +1")
    there = np.isfinite(values)
    values, signs = np.asarray(values, dtype=float)[there], signs[there]
    model = _Model.of(values, signs, apart)
    if not len(values) or not model.space.dimensions:
        return _untested(model, flags)
    return _Analysis(model, level).screening(flags, measure)


def standard_errors(signs: NDArray[np.int8], apart: Sequence[Pair] = ()) -> Floats:
    """Standard errors of the main effects, then of the interactions `apart`, in standard deviations of a run."""
    model = _Model.of(np.zeros(len(signs)), signs, apart)
    return np.sqrt(np.diag(model.fit(model.always)[1]))[: model.fixed.shape[1] - 1]


def main_aliases(signs: NDArray[np.int8], flags: Sequence[str], apart: Sequence[Pair] = ()) -> list[str]:
    """For each flag, the two-factor interactions that bias its effect, with the share of each that it takes up."""
    model = _Model.of(np.zeros(len(signs)), signs, apart)
    return _main_aliases(model, flags, model.always)


def detectable(signs: NDArray[np.int8], apart: Sequence[Pair] = (), power: float = 0.8, level: float = 0.95) -> float:
    """The main effect that is found with this power where interactions are absent, in standard deviations of a run.

    NaN where no run is left to estimate the error from.
    """
    model = _Model.of(np.zeros(len(signs)), signs, apart)
    if not model.space.dimensions:
        return math.nan
    noise = reference(model.space)
    chance = np.random.default_rng(4)
    z = chance.standard_normal((len(noise.sd), signs.shape[1]))
    critical = np.quantile(np.abs(z).max(axis=1) / noise.sd, level)
    needed = float(np.quantile(critical * noise.sd - z[:, 0], power))
    return needed * float(standard_errors(signs, apart)[: signs.shape[1]].max())


@dataclass(frozen=True)
class _Model:
    """Runs, the columns that are always fitted (mean, flags, interactions told apart), and the strings beside them."""

    values: Floats
    signs: NDArray[np.int8]
    apart: list[AliasString]
    fixed: Floats
    strings: list[AliasString]
    hidden: list[AliasString]  # interactions that the fixed columns already hold: aliases of main effects
    space: Space
    left: Floats  # the values in the dimensions that the strings span
    clean: float  # their sum of squares in the dimensions that hold neither effects nor strings

    @classmethod
    def of(cls, values: Floats, signs: NDArray[np.int8], apart: Sequence[Pair]) -> _Model:
        strings = alias_strings(signs)
        told = [string for string in strings if {string.pair, *(pair for pair, _ in string.others)} & set(apart)]
        mains = [np.ones(len(values)), *signs.T.astype(float)]
        fixed = np.stack([*mains, *(interaction(signs, string.pair) for string in told)], axis=1)
        basis = complement(fixed)
        free, hidden, vectors = [], [], []
        for string in strings:
            vector = basis.T @ interaction(signs, string.pair)
            length = np.linalg.norm(vector)
            if length > 1e-6 * math.sqrt(max(len(values), 1)):
                free.append(string)
                vectors.append(vector / length)
            elif string not in told:
                hidden.append(string)
        matrix = np.stack(vectors, axis=1) if vectors else np.zeros((basis.shape[1], 0))
        spanned = complement(complement(matrix))
        rest = basis.T @ values
        left = spanned.T @ rest
        space = Space.of(spanned.T @ matrix, basis.shape[1] - spanned.shape[1])
        clean = max(float((rest**2).sum() - (left**2).sum()), 0.0) if space.clean else 0.0
        return cls(values, signs, told, fixed, free, hidden, space, left, clean)

    @property
    def always(self) -> range:
        """The strings that are fitted whatever the runs are: all, if they can be fitted together beside an error."""
        every = self.space.is_clean and self.space.columns.shape[0] == self.space.columns.shape[1]
        return range(len(self.strings) if every else 0)

    def column(self, string: int) -> Floats:
        return interaction(self.signs, self.strings[string].pair)

    def fit(self, strings: Sequence[int]) -> tuple[Floats, Floats]:
        """Effects of all fixed columns but the mean and of some strings, and their covariance at a unit variance.

        NaN where the runs cannot tell.
        """
        columns = np.column_stack([self.fixed, *(self.column(string) for string in strings)])
        inverse = np.linalg.pinv(columns)
        reach = inverse @ columns
        unknown = np.abs(reach - np.eye(len(reach))).max(axis=1) > 1e-6
        found = 2 * inverse @ self.values
        found[unknown] = math.nan
        return found[1:], 4 * (inverse @ inverse.T)[1:, 1:]


class _Analysis:
    """The error of a model, and what follows from it."""

    def __init__(self, model: _Model, level: float):
        self.model, self.level = model, level
        self.sd, self.kept = estimate(model.space, model.left, model.clean)
        rounding = 1e-10 * max(float(np.abs(model.values).max()), 1e-300)
        self.sd = self.sd if self.sd > rounding else 0.0
        # noise as if the first so many of the interactions that were kept out were real
        real = range(1 if model.space.is_clean else len(self.kept) + 1)
        self.references: list[Reference] = [reference(model.space.without(self.kept[:first])) for first in real]

    def screening(self, flags: Sequence[str], measure: Measure) -> Screening:
        """The frames."""
        fixed = self._fixed()
        n = len(flags)
        effects = fixed.iloc[:n].copy()
        effects.insert(0, "flag", list(flags))
        effects["aliases"] = _main_aliases(self.model, flags, self.kept)
        apart = fixed.iloc[n:].copy()
        lines = pd.concat([self._strings(), apart], ignore_index=True)
        pairs = [string.pair for string in (*self.model.strings, *self.model.apart)]
        lines.insert(0, "flags", [named(flags, pair) for pair in pairs])
        lines["aliases"] = _interaction_aliases(self.model, flags)
        lines["p_adjusted"] = self._adjusted_interactions(lines)
        effects, lines = (with_verdicts(frame, self.level, measure) for frame in (effects, lines))
        # the last digits differ between machines
        effects, lines = effects.round(_DIGITS), lines.round(_DIGITS)
        order = lines["effect"].abs().sort_values(ascending=False, kind="stable").index
        kept = [] if self.model.space.is_clean else self.kept
        kept_out = tuple(named(flags, self.model.strings[string].pair) for string in kept)
        return Screening(
            effects[list(EFFECT_COLUMNS)].reset_index(drop=True),
            lines.loc[order, list(INTERACTION_COLUMNS)].reset_index(drop=True),
            self.sd,
            len(self.model.values),
            self.model.space.clean if self.model.space.is_clean else self.model.space.dimensions,
            self.model.space.is_clean,
            kept_out,
        )

    def _fixed(self) -> pd.DataFrame:
        """The flags' main effects, then the interactions told apart, with the interactions kept out in the model."""
        found, covariance = self.model.fit(self.kept)
        own = self.model.fixed.shape[1] - 1
        frame = self._lines(found[:own], np.sqrt(np.diag(covariance)[:own]))
        n = self.model.signs.shape[1]
        frame["p_adjusted"] = math.nan
        if self.sd:
            scale = np.sqrt(np.diag(covariance)[:own])
            correlation = covariance[:own, :own] / np.outer(scale, scale)
            for family in (slice(0, n), slice(n, own)):
                t = (frame["effect"].abs() / frame["se"]).to_numpy()[family]
                frame.loc[frame.index[family], "p_adjusted"] = self._step_down(t, correlation[family, family])
        return frame

    def _strings(self) -> pd.DataFrame:
        """Each string in the model with those kept out of the error."""
        effects, scales = [], []
        for string in range(len(self.model.strings)):
            others = [kept for kept in self.kept if kept != string]
            found, covariance = self.model.fit([string, *others])
            place = self.model.fixed.shape[1] - 1
            effects.append(found[place])
            scales.append(math.sqrt(covariance[place, place]))
        return self._lines(np.array(effects), np.array(scales))

    def _lines(self, effects: Floats, scales: Floats) -> pd.DataFrame:
        """Effects with standard errors, intervals and unadjusted p-values; `scales` are standard errors at sd 1."""
        chance = np.random.default_rng(2)
        ts = [np.abs(chance.standard_normal(len(noise.sd))) / noise.sd for noise in self._ends]
        se = np.where(np.isfinite(effects), self.sd * scales, math.nan)
        half = max(float(np.quantile(t, self.level)) for t in ts) * se
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.abs(effects) / se
        p = np.array([max(_share(t, one) for t in ts) for one in size])
        if not self.sd:
            half, p, se = half * math.nan, p * math.nan, se * math.nan
        return pd.DataFrame({"effect": effects, "se": se, "low": effects - half, "high": effects + half, "p": p})

    def _string_correlation(self) -> Floats:
        """The correlation of the strings' estimates."""
        strings = len(self.model.strings)
        if len(self.kept) < strings:  # each was fitted without most others
            return np.asarray(self.model.space.columns.T @ self.model.space.columns)
        _found, covariance = self.model.fit(range(strings))
        covariance = covariance[-strings:, -strings:]
        scale = np.sqrt(np.diag(covariance))
        return np.asarray(covariance / np.outer(scale, scale))

    @property
    def _ends(self) -> list[Reference]:
        """Noise alone, and noise beside the interactions kept out: which of the two holds is not known."""
        return [self.references[0], *self.references[1:][-1:]]

    def _step_down(self, t: Floats, correlation: Floats) -> Floats:
        """Adjusted p-values of effects that share the error's estimate, by the larger of the two references."""
        adjusted = np.full(len(t), math.nan)
        known = np.flatnonzero(np.isfinite(t))
        if not len(known):
            return adjusted
        order = known[np.argsort(-t[known], kind="stable")]
        root = _root(correlation[np.ix_(order, order)])
        for noise in self._ends:
            chance = np.random.default_rng(3)
            draws = np.abs(chance.standard_normal((len(noise.sd), len(order))) @ root.T) / noise.sd[:, None]
            largest = np.maximum.accumulate(draws[:, ::-1], axis=1)[:, ::-1]
            p = np.array([_share(largest[:, place], t[flag]) for place, flag in enumerate(order)])
            adjusted[order] = np.fmax(adjusted[order], np.maximum.accumulate(p))
        return adjusted

    def _adjusted_interactions(self, lines: pd.DataFrame) -> Floats:
        """Step-down over strings; without clean dimensions, with the larger strings before each one taken as real."""
        adjusted = lines["p_adjusted"].to_numpy(dtype=float, copy=True) if "p_adjusted" in lines else np.array([])
        strings = len(self.model.strings)
        if not self.sd or not strings:
            return adjusted
        t = (lines["effect"].abs() / lines["se"]).to_numpy()[:strings]
        if self.model.space.is_clean:
            adjusted[:strings] = self._step_down(t, self._string_correlation())
            return adjusted
        rest = [string for string in np.argsort(-t, kind="stable").tolist() if string not in self.kept]
        order = [*sorted(self.kept, key=lambda string: -t[string]), *rest]
        largest = 0.0
        for rank, string in enumerate(order):
            noise = self.references[min(rank, len(self.kept))]
            top = noise.t.max(axis=1) if noise.t.shape[1] else noise.sd * 0
            largest = max(largest, _share(top, t[string]))
            adjusted[string] = largest
        return adjusted


EFFECT_COLUMNS = ("flag", "effect", "se", "low", "high", "p", "p_adjusted", "verdict", "reason", "aliases")
INTERACTION_COLUMNS = ("flags", *EFFECT_COLUMNS[1:])


def _root(correlation: Floats) -> Floats:
    """The symmetric square root of a correlation matrix, which may be singular.

    It is the only one: of equal eigenvalues, the vectors differ between processors, and draws would with them.
    """
    values, vectors = np.linalg.eigh(correlation)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def _share(draws: Floats, t: float) -> float:
    """The p-value of t among simulated ones, t itself counted among them."""
    return math.nan if math.isnan(t) else float((1 + (draws >= t).sum()) / (1 + len(draws)))


def with_verdicts(frame: pd.DataFrame, level: float = 0.95, measure: Measure = "top1") -> pd.DataFrame:
    """Add the verdicts that adjusted p-values give, and the reasons of effects that are not tested."""
    effect, tested = frame["effect"].to_numpy(float), frame["se"].notna()
    p = frame["p_adjusted"].where(tested).to_numpy(float)
    reasons = np.where(np.isnan(effect), "aliased with another effect", "no spread to judge it by")
    return frame.assign(verdict=verdicts(effect, p, measure, level), reason=np.where(tested, "", reasons))


def _untested(model: _Model, flags: Sequence[str]) -> Screening:
    """Effects without an error: there is nothing left to estimate it from."""
    if len(model.values):
        found = model.fit([])[0][: len(flags)]
        aliases = _main_aliases(model, flags, [])
    else:
        found, aliases = np.full(len(flags), math.nan), [""] * len(flags)
    effects = pd.DataFrame({"flag": list(flags), "effect": found}).reindex(columns=list(EFFECT_COLUMNS))
    effects["verdict"], effects["reason"] = Verdict.NOT_TESTED.value, "no run is left to estimate the error"
    effects["aliases"] = aliases
    return Screening(effects, pd.DataFrame(columns=list(INTERACTION_COLUMNS)), math.nan, len(model.values), 0, True, ())


def _main_aliases(model: _Model, flags: Sequence[str], fitted: Sequence[int]) -> list[str]:
    """For each flag, the interactions beside the fitted ones that bias its effect, with their shares in it."""
    strings = [*model.hidden, *(string for place, string in enumerate(model.strings) if place not in fitted)]
    if not strings:
        return [""] * len(flags)
    columns = np.stack([interaction(model.signs, string.pair) for string in strings], axis=1)
    known = np.column_stack([model.fixed, *(model.column(string) for string in fitted)])
    shares = (np.linalg.pinv(known) @ columns)[1 : 1 + len(flags)]
    return [
        ", ".join(
            _share_named(flags, pair, share * sign)
            for share, string in zip(line, strings, strict=True)
            if abs(share) >= 0.1
            for pair, sign in ((string.pair, 1), *string.others)
        )
        for line in shares
    ]


def _share_named(flags: Sequence[str], pair: Pair, share: float) -> str:
    """An alias with its coefficient where that is not 1."""
    if abs(abs(share) - 1) < 1e-6:
        return f"{'−' if share < 0 else ''}{named(flags, pair)}"
    return f"{share:+.2f} {named(flags, pair)}".replace("-", "−")


def _interaction_aliases(model: _Model, flags: Sequence[str]) -> list[str]:
    """For each string and interaction told apart, what else its effect may be."""
    found = []
    correlation = model.space.columns.T @ model.space.columns
    for place, string in enumerate(model.strings):
        whole = [_share_named(flags, pair, sign) for pair, sign in string.others]
        partly = [
            _share_named(flags, other.pair, float(correlation[place, at]))
            for at, other in enumerate(model.strings)
            if at != place and abs(correlation[place, at]) >= _ALIASED
        ]
        found.append(", ".join([*whole, *partly]))
    told = [", ".join(_share_named(flags, pair, sign) for pair, sign in string.others) for string in model.apart]
    return [*found, *told]
