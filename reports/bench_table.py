"""The table of a bench: how fast networks train and answer, and what memory they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from reports.tables import MISSING, Cell, Column, Table


@dataclass(frozen=True)
class SpeedRow:
    """What one network did. Speeds are medians over turns, in images a second; `share` is of the machine's peak."""

    label: str
    train_images_per_second: float
    train_share: float
    inference_images_per_second: float
    inference_share: float
    latency_ms: float
    latency_p95_ms: float
    train_memory_mb: float
    inference_memory_mb: float
    train_ratio: str = ""
    inference_ratio: str = ""


def speed_table(rows: Sequence[SpeedRow], subtitle: str) -> Table:
    """The table of some measurements, in their order; ratios stand where networks were set against each other."""
    compared = any(row.train_ratio for row in rows)
    columns = (
        Column("label", "network", number=False),
        Column("train_images_per_second", "training, images/s", short="train, im/s"),
        Column("train_share", "of peak, %", short="% of peak"),
        Column("inference_images_per_second", "inference, images/s", short="infer, im/s"),
        Column("inference_share", "of peak, %", short="% of peak"),
        Column("latency_ms", "latency, ms", short="ms"),
        Column("latency_p95_ms", "p95, ms"),
        Column("train_memory_mb", "training, MB"),
        Column("inference_memory_mb", "inference, MB"),
        *(
            (Column("train_ratio", "ours over it, training"), Column("inference_ratio", "inference"))
            if compared
            else ()
        ),
    )
    cells = [
        (
            Cell(row.label),
            Cell(_three(row.train_images_per_second)),
            Cell(f"{100 * row.train_share:.0f}"),
            Cell(_three(row.inference_images_per_second)),
            Cell(f"{100 * row.inference_share:.0f}"),
            Cell(_three(row.latency_ms)),
            Cell(_three(row.latency_p95_ms)),
            Cell(f"{row.train_memory_mb:,.0f}"),
            Cell(f"{row.inference_memory_mb:,.0f}"),
            *((Cell(row.train_ratio or MISSING), Cell(row.inference_ratio or MISSING)) if compared else ()),
        )
        for row in rows
    ]
    return Table(
        name="bench",
        title="Speed and memory",
        subtitle=subtitle,
        legend="Medians over turns; latency of one image. of peak: multiply-adds (a training step counted as three "
        "forward passes) over the machine's own matrix products in the same time. ours over it: our speed over that "
        "peer's in its better memory format, median of turns (range).",
        columns=columns,
        rows=tuple(cells),
        sections=(),
        notes=(),
        frame=pd.DataFrame([asdict(row) for row in rows]),
    )


def _three(value: float) -> str:
    """To three digits, or whole."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
