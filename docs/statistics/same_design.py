"""False positives on real runs: 24 runs of one design, entered in a table as if its rows were different designs.

`python docs/statistics/same_design.py` writes same_design.csv beside this file, from
docs/results/first-edition/aa/results.csv.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from reports.statistics import Measure, compare

HERE = Path(__file__).parent
RUNS = HERE.parent / "results/first-edition/aa/results.csv"
FILE = HERE / "same_design.csv"
SIZES = {"1, 2, 3 and 4": (1, 2, 3, 4), "2": (2,), "3": (3,), "4": (4,)}
TABLES = 500


def split(runs: pd.DataFrame, sizes: tuple[int, ...], rng: np.random.Generator) -> pd.DataFrame:
    """One table: the runs of a design in random order, cut into rows of random sizes, each run once."""
    order = runs.iloc[rng.permutation(len(runs))].reset_index(drop=True)
    rows: list[str] = []
    while len(rows) < len(order):
        size = int(rng.choice(sizes))
        rows += [f"row-{len(set(rows))}"] * size
    return order.assign(row=rows[: len(order)], seed=range(len(order)))


def false_positives(measure: Measure, sizes: tuple[int, ...], tables: int = TABLES) -> pd.DataFrame:
    """For each design, the share of tables with any verdict, and of comparisons with one.

    Each row is compared with the one before. All tables of a design are cut from the same 24 runs.
    """
    runs = pd.read_csv(RUNS)
    records = []
    for design, mine in runs.groupby("row", sort=False):
        rng = np.random.default_rng(len(mine))
        found = []
        for _ in range(tables):
            table = split(mine, sizes, rng)
            names = list(dict.fromkeys(table["row"]))
            compared = compare(table, list(zip(names[1:], names[:-1], strict=True)), measure)
            found.append((compared["verdict"].isin(["better", "worse"]).sum(), len(compared)))
        wrong, comparisons = np.array(found).T
        records.append(
            {
                "design": design,
                "measure": measure,
                "tables": tables,
                "comparisons": comparisons.mean(),
                "error": (wrong > 0).mean(),
                "wrong_comparisons": wrong.sum() / comparisons.sum(),
            }
        )
    return pd.DataFrame(records)


def main(tables: int = TABLES) -> pd.DataFrame:
    """Every measure and every set of row sizes."""
    measures: tuple[Measure, ...] = ("top1", "loss")
    frames = [
        false_positives(measure, sizes, tables).assign(seeds=name)
        for measure in measures
        for name, sizes in SIZES.items()
    ]
    return pd.concat(frames, ignore_index=True)


if __name__ == "__main__":
    main().to_csv(FILE, index=False, float_format="%.4f")
