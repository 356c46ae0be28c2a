"""The table of training loops: how fast the Trainer and plain loops train the same network on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from reports.tables import MISSING, Cell, Column, Table


@dataclass(frozen=True)
class LoopRow:
    """What one loop did: median, min and max images/s over the rounds, and seconds to its first step's end.

    The processor time is in seconds per 1,000 images; None if it is not known.
    """

    label: str
    train_images_per_second: float
    low: float
    high: float
    processor_seconds: float | None
    start_seconds: float
    ratio: str = ""
    processor_ratio: str = ""


def loop_table(rows: Sequence[LoopRow], subtitle: str) -> Table:
    """Tabulate measurements in their order."""
    return Table(
        name="loops",
        title="Training loops",
        subtitle=subtitle,
        legend="Images loaded, augmented and trained on: median over interleaved rounds (range). Start: until the end "
        "of the first training step, without imports. Processor time: of all processes, s per 1,000 images. Trainer's "
        "speedup: over this loop, in images/s and by processor time, median over rounds (range).",
        columns=(
            Column("label", "loop", number=False),
            Column("train_images_per_second", "training (images/s)"),
            Column("start_seconds", "start (s)"),
            Column("ratio", "Trainer's speedup"),
            Column("processor_seconds", "processor time (s)"),
            Column("processor_ratio", "speedup by it"),
        ),
        rows=tuple(
            (
                Cell(row.label),
                Cell(f"{row.train_images_per_second:,.0f} ({row.low:,.0f} to {row.high:,.0f})"),
                Cell(f"{row.start_seconds:.1f}"),
                Cell(row.ratio or MISSING),
                Cell(MISSING if row.processor_seconds is None else f"{row.processor_seconds:.2f}"),
                Cell(row.processor_ratio or MISSING),
            )
            for row in rows
        ),
        sections=(),
        notes=(),
        frame=pd.DataFrame([asdict(row) for row in rows]),
    )
