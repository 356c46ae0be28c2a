"""The search for a setting that agrees with the paper: each setting's agreement and cost, and which factors matter.

python docs/results/search.py [FOLDER] prints its tables. FOLDER holds a study folder per setting, by default `settings`
beside this file, where `factors.csv` has the levels of the factors of each setting of the screen.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from edition import RESULTS, minus, work
from leave_out import LeftOut, Task, leave_out, of_noise

from ablations.studies.folder import read_study
from ablations.studies.results import study_runs
from modernize.roadmap import roadmap
from reports.paper_agreement import PaperAgreement, Scored, paper_agreement, printed, row_means
from reports.statistics.agreement import Agreement, rank_correlation
from reports.statistics.screening import Screening, screen_effects
from reports.tables import interval, number, p_value, signed

FOLDER, FACTORS = RESULTS / "settings", RESULTS / "settings/factors.csv"
STEPS = roadmap("pocket")
ADOPTED = [row for row in STEPS.rows if row.adopted]
CHOOSES, SCORES = "ResNet-50", "ResNet-200"  # the regime that chooses a setting, and the one that only scores it
FEW = 4  # steps left out, so that the choice sees most of them
RATES = ("21", "27", "28")  # settings that differ in the learning rate only
ROUND_2 = {
    "21": "the highest agreement predicted",
    "22": "64 pixels",
    "23": "60,000 images",
    "24": "width 24",
    "25": "twice the depth",
    "26": "60,000 images, stochastic depth, Mixup",
    "27": "learning rate 1e-3",
    "28": "learning rate 4e-3",
    "per-row": "the best learning rate of each row",
}
AGAIN = {
    "01": "the first edition's best, with averaged weights",
    "03": "CIFAR-10, `lecun_normal`, learning rate 5e-3, batch 64",
    "08": "CIFAR-10, width 6, 80,000 images, muP, batch 64",
    "12": "`lecun_normal`, muP, batch 64, 48 px",
}
QUICK = 51  # runs of a study of 17 rows with three seeds, on two cores
MOST_SECONDS = 2.5  # of a cheap setting, relative to the combination of all low levels
MEASURES: dict[Scored, str] = {"top1": "top-1", "loss": "test loss", "ema_top1": "EMA top-1"}


@dataclass(frozen=True)
class Setting:
    """A setting of the search.

    Attributes:
        name: Name of its folder.
        runs: Its finished runs.
        sd: By measure, the standard deviation of one run if the setting has one seed; NaN if unknown.
    """

    name: str
    runs: pd.DataFrame
    sd: Mapping[Scored, float]

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted(int(seed) for seed in self.runs["seed"].unique())

    @property
    def lacking(self) -> str:
        """Why it is not ranked: adopted rows that some seed has no finished run of; empty if there are none."""
        seeds = self.runs.groupby("row")["seed"].nunique()
        lost = [row.name for row in ADOPTED if seeds.get(row.name, 0) < max(len(self.seeds), 1)]
        return f"failed or missing: {', '.join(lost)}" if lost else ""

    @property
    def seconds(self) -> float:
        """Core-seconds of all runs."""
        runs = self.runs.drop_duplicates("run")
        recorded = runs["processor_seconds"] if "processor_seconds" in runs else pd.Series(math.nan, runs.index)
        return float(pd.to_numeric(recorded).fillna(runs["seconds"]).sum())

    @property
    def work(self) -> float:
        """The MACs of all forward passes in training."""
        return work(self.runs.drop_duplicates("run"))

    @cached_property
    def measures(self) -> tuple[Scored, ...]:
        """The measures that it has results of."""
        return tuple(one for one in get_args(Scored) if one in self.runs and self.runs[one].notna().any())

    def agreement(self, measure: Scored = "top1") -> dict[str, PaperAgreement]:
        """Return the agreement of its means over seeds with each regime, over adopted rows."""
        found = paper_agreement(self.runs, STEPS, measure, adopted_only=True, sd=self._sd(measure))
        return {one.target: one for one in found}

    def by_seed(self, measure: Scored = "top1", regime: str = CHOOSES) -> list[float]:
        """Return the agreement (`PaperAgreement.response`) of each seed by itself."""
        parts = [self.runs[self.runs["seed"] == seed] for seed in self.seeds]
        found = [paper_agreement(part, STEPS, measure, adopted_only=True) for part in parts]
        return [one.response for each in found for one in each if one.target == regime]

    def response(self, measure: Scored = "top1", regime: str = CHOOSES) -> float:
        """Return the mean agreement over seeds, by which settings are ranked; NaN without results of all rows."""
        known = measure in self.measures and not self.lacking
        return float(np.mean(self.by_seed(measure, regime))) if known else math.nan

    def rows(self, measure: Scored) -> np.ndarray | None:
        """Return the adopted rows of each seed, (seeds, rows); None if one is missing."""
        parts = [row_means(self.runs[self.runs["seed"] == seed], measure) for seed in self.seeds]
        whole = measure in self.measures and all(row.name in part.means for part in parts for row in ADOPTED)
        return np.array([part.of(ADOPTED).means for part in parts]) if whole else None

    def _sd(self, measure: Scored) -> float | None:
        return self.sd[measure] if len(self.seeds) == 1 else None


def settings(folder: Path = FOLDER) -> list[Setting]:
    """Read all settings of a search that have run to the end, in the order of their names; without failed runs."""
    read = {path.parent.name: study_runs(read_study(path.parent), path.parent) for path in folder.glob("*/study.yaml")}
    if not read:
        return []
    ended = {name: runs for name, runs in sorted(read.items()) if set(runs["status"]) <= {"done", "failed"}}
    runs = {name: _with_averaged(one[one["status"] == "done"].reset_index(drop=True)) for name, one in ended.items()}
    sds = _noise(runs)
    if set(RATES) <= set(runs):
        runs["per-row"] = best_rates([runs[name] for name in RATES])
    return [Setting(name, one, sds[str(one["dataset"].iloc[0])] if len(one) else {}) for name, one in runs.items()]


def best_rates(settings: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return for each row the runs at the learning rate with the highest mean top-1, over the seeds that all have.

    The cost of a row is that of its runs at every rate.
    """
    seeds = set.intersection(*(set(one["seed"]) for one in settings))
    tried = pd.concat([one[one["seed"].isin(seeds)].assign(rate=place) for place, one in enumerate(settings)])
    best = tried.groupby(["row", "rate"])["top1"].mean().unstack().idxmax(axis=1)
    chosen = tried[tried["rate"] == tried["row"].map(best)].drop(columns="rate").set_index(["row", "seed"])
    costs = tried.groupby(["row", "seed"])[["seconds", "processor_seconds", "images_seen"]].sum()
    return chosen.assign(**{str(column): costs[column] for column in costs}).reset_index()


def _with_averaged(runs: pd.DataFrame) -> pd.DataFrame:
    """Give rows whose recipe has no EMA weights, as the original one, their top-1: the same steps count for both."""
    averaged = pd.to_numeric(runs["ema_top1"])
    return runs.assign(ema_top1=averaged.fillna(runs["top1"]) if averaged.notna().any() else averaged)


def _noise(runs: Mapping[str, pd.DataFrame]) -> dict[str, dict[Scored, float]]:
    """For each dataset, a run's standard deviation by measure, pooled over settings with several seeds."""
    found: dict[str, dict[Scored, float]] = {}
    every = pd.concat([one.assign(setting=name) for name, one in runs.items()])
    for dataset, lines in every.groupby("dataset"):
        groups = lines.groupby(["setting", "row"])
        found[str(dataset)] = {}
        for measure in MEASURES:
            count, variance = groups[measure].count(), groups[measure].var()
            df = (count - 1).clip(lower=0)
            found[str(dataset)][measure] = math.sqrt((variance * df).sum() / df.sum()) if df.sum() else math.nan
    return found


# ---- factors of the screen


@dataclass(frozen=True)
class Factors:
    """A two-level factorial of settings: each factor with its low and high level, and each setting's signs."""

    levels: Mapping[str, tuple[str, str]]
    signs: Mapping[str, tuple[int, ...]]

    @property
    def names(self) -> list[str]:
        """The factors, in order."""
        return list(self.levels)


def read_factors(path: Path = FACTORS) -> Factors:
    """Read the levels of each setting: a column per factor, whose low level is that of the first line."""
    table = pd.read_csv(path, dtype=str).set_index("setting")
    levels = {}
    for factor in table:
        low, *high = table[factor].drop_duplicates()
        if len(high) != 1:
            raise ValueError(f"{path}: {factor}: has {1 + len(high)} levels, not 2")
        levels[str(factor)] = (low, high[0])
    signs = {
        str(name): tuple(1 if line[factor] == levels[factor][1] else -1 for factor in levels)
        for name, line in table.iterrows()
    }
    return Factors(levels, signs)


def effects(tried: Sequence[Setting], factors: Factors, measure: Scored = "top1", regime: str = CHOOSES) -> Screening:
    """Estimate the main effects of the factors on the agreement, and their interactions."""
    by_name = {setting.name: setting for setting in tried}
    responses = [by_name[name].response(measure, regime) if name in by_name else math.nan for name in factors.signs]
    return screen_effects(np.array(responses), np.array(list(factors.signs.values()), dtype=np.int8), factors.names)


@dataclass(frozen=True)
class Prediction:
    """What main effects predict of a combination of levels: its agreement, and its cost relative to all low levels."""

    levels: Mapping[str, str]
    agreement: float
    seconds: float
    work: float


def predicted(tried: Sequence[Setting], factors: Factors) -> list[Prediction]:
    """Predict every combination of levels, the highest agreement first; factors multiply costs."""
    by_name = {setting.name: setting for setting in tried}
    screened = [by_name[name] for name in factors.signs]
    signs = np.array(list(factors.signs.values()), dtype=float)
    every = np.array(list(product((-1.0, 1.0), repeat=len(factors.levels))))

    def fitted(values: Sequence[float], at: np.ndarray) -> np.ndarray:
        halves = np.linalg.lstsq(np.column_stack([np.ones(len(signs)), signs]), np.array(values), rcond=None)[0]
        return np.asarray(halves[0] + at @ halves[1:])

    low = -np.ones((1, len(factors.levels)))
    agreements = fitted([setting.response() for setting in screened], every)
    costs = []
    for logarithms in ([math.log(one.seconds) for one in screened], [math.log(one.work) for one in screened]):
        costs.append(np.exp(fitted(logarithms, every) - fitted(logarithms, low)))
    found = [
        Prediction(
            {name: pair[int(sign > 0)] for (name, pair), sign in zip(factors.levels.items(), line, strict=True)},
            *(float(values[place]) for values in (agreements, *costs)),
        )
        for place, line in enumerate(every)
    ]
    return sorted(found, key=lambda one: -one.agreement)


# ---- does the choice carry over


def task(tried: Sequence[Setting], measure: Scored = "top1", choose: str = CHOOSES, score: str = CHOOSES) -> Task:
    """Return what `leave_out` needs of the settings that have all adopted rows."""
    theirs = {regime: np.array(side.of(ADOPTED).means) for regime, side in printed(STEPS).items()}
    rows = {setting.name: setting.rows(measure) for setting in tried}
    return Task({name: one for name, one in rows.items() if one is not None}, theirs[choose], theirs[score])


# ---- generated parts of the page


def blocks(folder: Path = FOLDER, path: Path = FACTORS) -> dict[str, str]:
    """Return the generated parts about the search; none if no setting has been run."""
    every = settings(folder)
    tried = [setting for setting in every if not setting.lacking]
    if not tried:
        return {}
    factors = read_factors(path)
    again = [setting for setting in settings(folder / "again") if not setting.lacking]
    parts = {
        "search-settings": settings_table(every),
        "search-responses": responses_table(tried, factors),
        "search-carries-over": carries_over(tried),
        "search-round-2": round_table(tried, ROUND_2),
    }
    if again:
        parts["search-round-3"] = round_table(again, AGAIN)
    if set(factors.signs) <= {setting.name for setting in tried}:
        parts |= {"search-effects": effects_table(tried, factors), "search-predicted": predictions(tried, factors)}
    return parts


def table(heads: Sequence[str], lines: Iterator[Sequence[str]], words: int = 1) -> str:
    """Return a Markdown table; the first `words` columns hold words, the others numbers."""
    marks = [":---" if place < words else "---:" for place in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *lines))


def settings_table(tried: Sequence[Setting]) -> str:
    """Return every setting with its cost and its agreement by top-1, the best first; last those that lack rows."""
    heads = ["setting", "rows", "seeds", "core-seconds", "T MACs", f"agreement, {CHOOSES}", f"agreement, {SCORES}"]
    for regime in (CHOOSES, SCORES):
        heads += [f"pairs in order, {regime}", "95% CI", f"rank correlation, {regime}", "95% CI"]

    def lines() -> Iterator[list[str]]:
        for setting in sorted(tried, key=lambda one: (bool(one.lacking), -one.response())):
            cells = [setting.name, str(setting.runs["row"].nunique()), ", ".join(map(str, setting.seeds))]
            cells += [f"{setting.seconds:,.0f}", f"{setting.work / 1e12:.2f}"]
            if setting.lacking:
                yield [*cells, f"not ranked ({setting.lacking})", *["–"] * (len(heads) - len(cells) - 1)]
                continue
            found = setting.agreement()
            cells += [number(setting.response("top1", regime), 3) for regime in (CHOOSES, SCORES)]
            for regime in (CHOOSES, SCORES):
                cells += [*_cells(found[regime].pairs), *_cells(found[regime].changes)]
            yield cells

    return table(heads, lines())


def _cells(found: Agreement) -> tuple[str, str]:
    low, high = number(found.low), number(found.high)
    return number(found.value), "–" if math.isnan(found.low) else f"{low} to {high}"


def round_table(tried: Sequence[Setting], named: Mapping[str, str]) -> str:
    """Return the settings of a later round, the best first: agreement by seed, their cost, and that of a study.

    Args:
        tried: Settings that have been run.
        named: Those of the round, by name, with what they are.
    """
    heads = ["setting", "what it is", "seeds", f"agreement by seed, {CHOOSES}", f"mean, {CHOOSES}", f"mean, {SCORES}"]
    heads += ["core-seconds", "minutes for 17 rows, 3 seeds"]

    def lines() -> Iterator[list[str]]:
        for setting in sorted((one for one in tried if one.name in named), key=lambda one: -one.response()):
            minutes = setting.seconds / setting.runs["run"].nunique() * QUICK / 2 / 60
            by_seed = ", ".join(number(value, 3) for value in setting.by_seed())
            cells = [setting.name, named[setting.name], ", ".join(map(str, setting.seeds)), by_seed]
            cells += [number(setting.response("top1", regime), 3) for regime in (CHOOSES, SCORES)]
            yield [*cells, f"{setting.seconds:,.0f}", f"{minutes:.0f}"]

    return table(heads, lines(), words=2)


def responses_table(tried: Sequence[Setting], factors: Factors) -> str:
    """Return the agreement by each measure and regime, and how measures differ over the screen, as the rule asks."""
    screened = [setting for setting in tried if setting.name in factors.signs]
    pairs = [(measure, regime) for measure in MEASURES for regime in (CHOOSES, SCORES)]
    heads = ["setting", *(f"{MEASURES[measure]}, {regime}" for measure, regime in pairs)]

    def lines() -> Iterator[list[str]]:
        for setting in tried:
            yield [setting.name, *(number(setting.response(*pair), 3) for pair in pairs)]
        if screened:
            means = pd.DataFrame([[setting.response(*pair) for pair in pairs] for setting in screened]).mean()
            yield ["mean of the screen", *(number(mean, 3) for mean in means)]

    return f"{table(heads, lines())}\n\n{measures_compared(screened)}".rstrip()


def measures_compared(tried: Sequence[Setting]) -> str:
    """Return how the other measures' agreement differs from top-1's, over settings; empty with fewer than two."""
    parts = []
    for measure in ("loss", "ema_top1"):
        paired = [setting.response(measure) - setting.response() for setting in tried if measure in setting.measures]
        if len(paired) > 1:  # a standard error needs two
            error = float(np.std(paired, ddof=1)) / math.sqrt(len(paired))
            mean = signed(float(np.mean(paired)), 3)
            parts.append(
                f"{MEASURES[measure]} minus top-1: {mean} (standard error {error:.3f}, {len(paired)} settings)"
            )
    return f"Mean difference in agreement with the {CHOOSES} regime: {'; '.join(parts)}." if parts else ""


def effects_table(tried: Sequence[Setting], factors: Factors) -> str:
    """Return the effect of each factor on the agreement by top-1, and beside it on the other responses."""
    main = effects(tried, factors)
    others = {
        f"{MEASURES[measure]}, {regime}": effects(tried, factors, measure, regime).effects.set_index("flag")["effect"]
        for measure in MEASURES
        for regime in (CHOOSES, SCORES)
        if (measure, regime) != ("top1", CHOOSES)
    }
    heads = ["factor", f"effect on agreement (top-1, {CHOOSES})", "95% CI", "adjusted p", "verdict"]
    heads += [f"effect, {name}" for name in others]

    def lines() -> Iterator[list[str]]:
        ordered = main.effects.loc[main.effects["effect"].abs().sort_values(ascending=False, kind="stable").index]
        for line in ordered.to_dict("records"):
            low, high = factors.levels[line["flag"]]
            cells = [f"{line['flag']}: {low} → {high}", signed(line["effect"], 3)]
            cells += [interval(line["low"], line["high"], 3), p_value(line["p_adjusted"]).replace("<", "\\<")]
            yield [*cells, line["verdict"], *(signed(other[line["flag"]], 3) for other in others.values())]

    strongest = main.interactions.head(3).to_dict("records")
    named = "; ".join(f"{line['flags']} {signed(line['effect'], 3)} (aliases: {line['aliases']})" for line in strongest)
    return (
        f"{table(heads, lines())}\n\nEffect: mean agreement at the second level minus at the first, over {main.runs} "
        f"settings; its error from {main.dimensions} contrasts between settings. Largest interactions: {minus(named)}."
    )


def predictions(tried: Sequence[Setting], factors: Factors, shown: int = 3) -> str:
    """Return the combinations of levels with the highest predicted agreement: of all, and of the cheap ones."""
    every = predicted(tried, factors)
    cheap = [one for one in every if one.seconds <= MOST_SECONDS]
    heads = ["combinations", "agreement", "core-seconds", "MACs", "levels"]

    def lines() -> Iterator[list[str]]:
        for what, chosen in (("all", every), (f"core-seconds ≤ {MOST_SECONDS:g}", cheap)):
            for one in chosen[:shown]:
                named = ", ".join(f"{factor}={level}" for factor, level in one.levels.items())
                yield [what, f"{one.agreement:.3f}", f"{one.seconds:.2f}", f"{one.work:.2f}", named]

    return f"{table(heads, lines())}\n\nCosts are relative to the combination of all low levels."


def carries_over(tried: Sequence[Setting]) -> str:
    """Return the leave-steps-out estimates, by each measure and regime, and the choice across regimes."""
    heads = ["measure", "chosen by", "scored by", "steps left out", "setting chosen on all steps", "its agreement"]
    heads += ["on steps left out", "chosen and scored on the other steps", "scored on steps left out", "90% of splits"]
    heads += ["a setting at random"]
    ways = [(CHOOSES, CHOOSES, None), (CHOOSES, CHOOSES, FEW), (CHOOSES, SCORES, None), (SCORES, SCORES, None)]

    def lines() -> Iterator[list[str]]:
        for measure in MEASURES:
            for choose, score, left in ways:
                made = task(tried, measure, choose, score)
                if len(made.ours) > 1:
                    out = "half" if left is None else f"{left} of {len(ADOPTED) - 1}"
                    yield [MEASURES[measure], choose, score, out, *_left_out(leave_out(made, left))]

    noise = of_noise(task(tried))
    return (
        f"{table(heads, lines(), words=5)}\n\n{across_regimes(tried)} As many settings of noise alone: the best has an "
        f"agreement of {noise.whole:.2f} on all steps; chosen on a half, it scores {noise.unseen:.2f} on the other "
        f"(90% of simulated searches: {noise.low:.2f} to {noise.high:.2f})."
    )


def across_regimes(tried: Sequence[Setting]) -> str:
    """Return how the setting chosen by one regime scores by the other, on all steps by top-1."""
    chooses, scores = ({one.name: one.response("top1", regime) for one in tried} for regime in (CHOOSES, SCORES))
    chosen, best = max(chooses, key=lambda name: chooses[name]), max(scores, key=lambda name: scores[name])
    rho = rank_correlation(list(chooses.values()), list(scores.values())).rho
    return (
        f"On all steps by top-1, {chosen} is chosen by the {CHOOSES} regime and scores {scores[chosen]:.3f} by the "
        f"{SCORES} regime, where the best, {best}, scores {scores[best]:.3f} and all settings score "
        f"{sum(scores.values()) / len(scores):.3f} on average; over settings, the two agreements have a rank "
        f"correlation of {number(rho)}."
    )


def _left_out(found: LeftOut) -> list[str]:
    numbers = [f"{value:.3f}" for value in (found.whole, found.on_parts, found.seen, found.unseen)]
    return [found.best, *numbers, f"{found.low:.2f} to {found.high:.2f}", f"{found.at_random:.3f}"]


if __name__ == "__main__":
    for name, part in blocks(*map(Path, sys.argv[1:2])).items():
        print(f"{name}\n\n{part}\n")
