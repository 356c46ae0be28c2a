"""The table of a benchmark: training and inference throughput, latency and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from reports.tables import MISSING, Cell, Column, Table


@dataclass(frozen=True)
class SpeedRow:
    """What one network did. Speeds are medians over rounds, in images/s; `share` is of the machine's peak.

    Compile times are None if the network is not compiled.
    """

    label: str
    train_images_per_second: float
    train_share: float
    inference_images_per_second: float
    inference_share: float
    latency_ms: float
    latency_p95_ms: float
    train_memory_mb: float
    inference_memory_mb: float
    train_compile_seconds: float | None = None
    inference_compile_seconds: float | None = None
    train_ratio: str = ""
    inference_ratio: str = ""


def speed_table(rows: Sequence[SpeedRow], subtitle: str) -> Table:
    """Tabulate measurements in their order, with speedups if networks were compared."""
    compared = any(row.train_ratio for row in rows)
    compiled = any(row.train_compile_seconds is not None for row in rows)
    columns = (
        Column("label", "network", number=False),
        Column("train_images_per_second", "training (images/s)", short="train (im/s)"),
        Column("train_share", "% of peak", short="% of peak"),
        Column("inference_images_per_second", "inference (images/s)", short="infer (im/s)"),
        Column("inference_share", "% of peak", short="% of peak"),
        Column("latency_ms", "latency (ms)", short="ms"),
        Column("latency_p95_ms", "p95 (ms)"),
        Column("train_memory_mb", "training (MB)"),
        Column("inference_memory_mb", "inference (MB)"),
        *(
            Column(f"{task}_compile_seconds", f"compile, {words} (s)", short=f"compile {task} (s)")
            for task, words in (("train", "training"), ("inference", "inference"))
            if compiled
        ),
        *((Column("train_ratio", "our speedup, training"), Column("inference_ratio", "inference")) if compared else ()),
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
            *(
                Cell(MISSING if seconds is None else _three(seconds))
                for seconds in (row.train_compile_seconds, row.inference_compile_seconds)
                if compiled
            ),
            *((Cell(row.train_ratio or MISSING), Cell(row.inference_ratio or MISSING)) if compared else ()),
        )
        for row in rows
    ]
    return Table(
        name="bench",
        title="Speed and memory",
        subtitle=subtitle,
        legend=_legend(compared, compiled),
        columns=columns,
        rows=tuple(cells),
        sections=(),
        notes=(),
        frame=pd.DataFrame([asdict(row) for row in rows]),
    )


def _legend(compared: bool, compiled: bool) -> str:
    """Explain the columns that the table has."""
    words = [
        "Medians over interleaved rounds; latency of one image. % of peak: % of the machine's peak matmul FLOP/s; a "
        "training step counts as 3 forward passes."
    ]
    if compiled:
        words.append(
            "Compile: what torch.compile adds to the first training step, and to the first inference of a batch, with "
            "an empty cache; throughput and latency exclude it."
        )
    if compared:
        words.append(
            "Our speedup: over this reference implementation in its faster memory format, median over rounds (range)."
        )
    return " ".join(words)


def _three(value: float) -> str:
    """Format with three significant digits, from 100 on without decimals."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
