"""The table of training loops: how fast the Trainer and plain loops train the same network on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from reports.tables import MISSING, Cell, Column, Table


@dataclass(frozen=True)
class LoopRow:
    """What one loop did: median, min and max images/s over the rounds, and seconds to its first step's end."""

    label: str
    train_images_per_second: float
    low: float
    high: float
    start_seconds: float
    ratio: str = ""


def loop_table(rows: Sequence[LoopRow], subtitle: str) -> Table:
    """Tabulate measurements in their order."""
    return Table(
        name="loops",
        title="Training loops",
        subtitle=subtitle,
        legend="Images loaded, augmented and trained on: median over interleaved rounds (range). Start: until the end "
        "of the first training step, without imports. Trainer's speedup: over this loop, median over rounds (range).",
        columns=(
            Column("label", "loop", number=False),
            Column("train_images_per_second", "training (images/s)"),
            Column("start_seconds", "start (s)"),
            Column("ratio", "Trainer's speedup"),
        ),
        rows=tuple(
            (
                Cell(row.label),
                Cell(f"{row.train_images_per_second:,.0f} ({row.low:,.0f} to {row.high:,.0f})"),
                Cell(f"{row.start_seconds:.1f}"),
                Cell(row.ratio or MISSING),
            )
            for row in rows
        ),
        sections=(),
        notes=(),
        frame=pd.DataFrame([asdict(row) for row in rows]),
    )
