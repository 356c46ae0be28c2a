"""Made-up studies that are extended after looking, and studies that ask for a precision.

`python docs/statistics/looks.py` writes looks.csv and precision.csv beside this file.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from reports.statistics.contrasts import contrasts, joint_p_values
from reports.statistics.multiple_testing import holm, step_down
from reports.statistics.noise import Floats, Noise, fit_noise
from reports.statistics.precision import seeds_for
from reports.statistics.sequential import FIRST_SHARE, INTERIM_SHARE, looks, spent

FOLDER = Path(__file__).parent
LEVEL, ROWS, MOST = 0.05, 17, 10
PAIRS = np.array([(row, 0) for row in range(1, ROWS)])  # every row with the first
SPREADS = ("equal", "log-sd 0.3", "log-sd 0.6", "t, 4 df")
POLICIES: dict[str, list[int]] = {
    "2 seeds, not extended": [2],
    "3 seeds, not extended": [3],
    "5 seeds, not extended": [5],
    "from 2 seeds, one at a time to 10": list(range(2, 11)),
    "from 3 seeds, one at a time to 10": list(range(3, 11)),
    "3 seeds, then 5": [3, 5],
    "3 seeds, then 10": [3, 10],
}
CHOSEN = "from 3 seeds, as many more as look best, to 10"
WATCHED = "10 seeds planned, watched from 2, stopped when something shows"


def scales(spread: str, studies: int, rng: np.random.Generator) -> Floats:
    """Standard deviations between seeds, (studies, rows, 1)."""
    log_sd = float(spread.split()[-1]) if spread.startswith("log-sd") else 0.0
    return np.exp(log_sd * rng.standard_normal((studies, ROWS, 1)))


def noise_of(spread: str, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Noise of standard deviation 1."""
    return rng.standard_t(4, shape) / np.sqrt(2) if spread == "t, 4 df" else rng.standard_normal(shape)


def results(spread: str, effects: int, studies: int, seeds: int, rng: np.random.Generator) -> Floats:
    """Results of runs, (studies, rows, seeds); the first `effects` rows after the baseline differ by 2.2 sd."""
    true = np.where((np.arange(ROWS) > 0) & (np.arange(ROWS) <= effects), 2.2, 0.0)
    return scales(spread, studies, rng) * noise_of(spread, (studies, ROWS, seeds), rng) + true[:, None]


def fitted(values: Floats) -> Noise:
    """The noise of rows, from all of these runs."""
    df = np.full(ROWS, values.shape[2] - 1.0)
    return fit_noise(values.var(axis=2, ddof=1), df, np.zeros(ROWS, dtype=np.intp))


def differences(values: Floats) -> Floats:
    """Differences of means, (studies, pairs)."""
    means = values.mean(axis=2)
    return np.asarray(means[:, PAIRS[:, 0]] - means[:, PAIRS[:, 1]])


def significant(values: Floats, share: float) -> NDArray[np.bool_]:
    """Which comparisons are significant at a look with this share, (studies, pairs), as `compare` decides."""
    noise, runs, limit = fitted(values), np.full(ROWS, float(values.shape[2])), LEVEL * share
    p = contrasts(noise, runs, PAIRS).p_values(differences(values))
    adjusted = np.array([holm(line) for line in p])
    # Holm's is an upper bound, a quarter of it a safe lower one: only between them is the joint distribution needed
    left = np.maximum(np.arange(len(PAIRS), 0, -1) / 4, 1)
    lower = np.maximum.accumulate(np.sort(p, axis=1) * left, axis=1)
    for study in np.flatnonzero(((lower <= limit) & (np.sort(adjusted, axis=1) > limit)).any(axis=1)):
        adjusted[study] = step_down(p[study], joint_p_values(noise.study(int(study)), runs, PAIRS))
    return np.asarray(adjusted <= limit)


def shares(sizes: list[int]) -> list[float]:
    """The share of each look of a study whose stages end with so many seeds per row."""
    lines = [
        {"stage": stage, "added": "start" if stage == 1 else "extended", "status": "done"}
        for stage, (before, now) in enumerate(zip([0, *sizes], sizes, strict=False), 1)
        for _ in range(now - before)
    ]
    return [look.share for look in looks(pd.DataFrame(lines))]


def claims(values: Floats, sizes: list[int]) -> NDArray[np.bool_]:
    """Which comparisons are significant at any look."""
    found = [significant(values[:, :, :size], share) for size, share in zip(sizes, shares(sizes), strict=True)]
    return np.asarray(np.any(found, axis=0))


def chosen_claims(values: Floats, first: int = 3) -> NDArray[np.bool_]:
    """As `claims`, by somebody who adds the number of seeds that makes a first significant result most likely."""
    found = significant(values[:, :, :first], FIRST_SHARE)
    seeds = np.where(found.any(axis=1), MOST, first)
    for now in range(first, MOST):
        here = np.flatnonzero(seeds == now)
        if not len(here):
            continue
        noise, runs = fitted(values[here, :, :now]), np.full(ROWS, float(now))
        p = contrasts(noise, runs, PAIRS).p_values(differences(values[here, :, :now])).min(axis=1)
        score, more = stats.norm.isf(p / 2), np.arange(now + 1, MOST + 1)
        left = np.array([spent(first, int(size)) - spent(first, now) for size in more])
        r = np.sqrt(now / more)
        chance = stats.norm.sf((stats.norm.isf(LEVEL * left / len(PAIRS) / 2) - r * score[:, None]) / np.sqrt(1 - r**2))
        best = more[chance.argmax(axis=1)]
        for size in np.unique(best):
            mine = here[best == size]
            found[mine] |= significant(values[mine, :, :size], float(left[size - now - 1]))
        seeds[here] = np.where(found[here].any(axis=1), MOST, best)
    return found


def watched_claims(values: Floats) -> NDArray[np.bool_]:
    """As `claims`, at every number of seeds while the first stage is unfinished, and at its end."""
    found = [significant(values[:, :, :size], INTERIM_SHARE) for size in range(2, MOST)]
    return np.asarray(np.any([*found, significant(values, FIRST_SHARE)], axis=0))


CELLS = (
    *((policy, "equal", 0) for policy in ("from 2 seeds, one at a time to 10", "from 3 seeds, one at a time to 10")),
    *((policy, "equal", 0) for policy in (CHOSEN, WATCHED)),
    ("from 2 seeds, one at a time to 10", "equal", 8),
    *(("from 2 seeds, one at a time to 10", spread, 0) for spread in SPREADS[1:]),
    *((policy, "equal", 8) for policy in POLICIES if policy != "from 2 seeds, one at a time to 10"),
)


def look_cells(studies: int, cells: Sequence[tuple[str, str, int]] = CELLS) -> Iterator[dict[str, object]]:
    """Family-wise error and power of every cell, a record each."""
    for policy, spread, effects in cells:
        values = results(spread, effects, studies, MOST, np.random.default_rng([effects, SPREADS.index(spread)]))
        if policy == CHOSEN:
            found = chosen_claims(values)
        elif policy == WATCHED:
            found = watched_claims(values)
        else:
            found = claims(values, POLICIES[policy])
        yield {
            "policy": policy,
            "spread": spread,
            "true_effects": effects,
            "studies": studies,
            "false_claims": found[:, effects:].any(axis=1).mean(),
            "power": found[:, :effects].mean() if effects else np.nan,
        }


def precision_cells(studies: int, spreads: Sequence[str] = SPREADS) -> Iterator[dict[str, object]]:
    """Width and coverage of the intervals of studies sized by their first stage, a record each."""
    for spread, pilot, half_width in itertools.product(spreads, (2, 3, 5), (0.5, 0.8)):
        rng = np.random.default_rng([pilot, SPREADS.index(spread), int(10 * half_width)])
        sd = scales(spread, studies, rng)
        values = sd * noise_of(spread, (studies, ROWS, pilot), rng)
        noise = fitted(values)
        seeds = np.maximum(seeds_for(noise, PAIRS, half_width), pilot)
        more = [noise_of(spread, (ROWS, int(n) - pilot), rng).sum(axis=1) for n in seeds]
        means = (values.sum(axis=2) + sd[..., 0] * np.array(more)) / seeds[:, None]
        single = contrasts(noise, np.ones(ROWS), PAIRS).half_widths(1 - LEVEL)
        half = single / np.sqrt(seeds)[:, None]
        covered = np.abs(means[:, PAIRS[:, 0]] - means[:, PAIRS[:, 1]]) <= half
        yield {
            "spread": spread,
            "pilot_seeds": pilot,
            "half_width": half_width,
            "studies": studies,
            "narrow_enough": (half <= half_width * (1 + 1e-6)).all(axis=1).mean(),
            "coverage": covered.mean(),
            "mean_seeds": seeds.mean(),
            "most_seeds": seeds.max(),
        }


def tables() -> dict[str, str]:
    """The tables of docs/precision.md, from the CSV files."""
    looked, sized = pd.read_csv(FOLDER / "looks.csv"), pd.read_csv(FOLDER / "precision.csv")
    shown = {
        "looks": pd.DataFrame(
            {
                "seeds per row": looked["policy"],
                "spread of rows": looked["spread"],
                "true effects": [f"{effects} of {len(PAIRS)}" for effects in looked["true_effects"]],
                "false claims (%)": [f"{100 * value:.1f}" for value in looked["false_claims"]],
                "power (%)": ["–" if np.isnan(value) else f"{100 * value:.0f}" for value in looked["power"]],
            }
        ),
        "precision": pd.DataFrame(
            {
                "spread of rows": sized["spread"],
                "first stage (seeds)": sized["pilot_seeds"],
                "asked (±sd)": sized["half_width"],
                "narrow enough (%)": [f"{100 * value:.0f}" for value in sized["narrow_enough"]],
                "coverage (%)": [f"{100 * value:.1f}" for value in sized["coverage"]],
                "seeds per row, mean": [f"{value:.0f}" for value in sized["mean_seeds"]],
            }
        ),
    }
    return {name: _markdown(table) for name, table in shown.items()}


def _markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * table.shape[1], *table.astype(str).to_numpy()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_tables() -> None:
    """Put the tables into docs/precision.md."""
    page = FOLDER.parent / "precision.md"
    text = page.read_text(encoding="utf-8")
    for name, table in tables().items():
        before, rest = text.split(f"<!-- {name} -->\n")
        text = f"{before}<!-- {name} -->\n{table}<!-- /{name} -->{rest.split(f'<!-- /{name} -->')[1]}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Simulate, writing each file anew after every cell."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, cells in {"precision": precision_cells(studies), "looks": look_cells(studies)}.items():
        done: list[dict[str, object]] = []
        for cell in cells:
            done.append(cell)
            pd.DataFrame(done).to_csv(FOLDER / f"{name}.csv", index=False, float_format="%.4f")
    write_tables()


if __name__ == "__main__":
    main()
