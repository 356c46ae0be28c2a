"""The cost table: parameters, MACs and activations of designs, beside the GFLOPs that a roadmap's source prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from modernize.roadmap import Source
from reports.statistics.values import known
from reports.tables import MISSING, OURS, Cell, Column, Table, number

THE_PAPER = Source(short="the paper", dataset="ImageNet")


@dataclass(frozen=True)
class CostRow:
    """The cost of one design or row of a roadmap; `paper_gflops` is None if none are printed."""

    name: str
    label: str
    params: int
    macs: int
    activations: int
    paper_gflops: float | None = None
    note: str = ""


def cost_table(rows: Sequence[CostRow], title: str, subject: str, source: Source = THE_PAPER) -> Table:
    """Tabulate costs; `subject`, `row` or `design`, names the first column.

    `source` is where the printed GFLOPs are from.
    """
    printed = any(known(row.paper_gflops) for row in rows)
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    columns = [
        Column("label", subject, number=False),
        Column("params", "parameters", OURS if printed else ""),
        Column("macs", "MACs", OURS if printed else ""),
        Column("activations", "activations", OURS if printed else "", short="acts"),
        Column("gflops", "GFLOPs", OURS if printed else ""),
        *([Column("paper_gflops", "GFLOPs", source.heading)] if printed else []),
    ]
    cells = []
    for row in rows:
        marks = (notes.index(row.note) + 1,) if row.note else ()
        paper = Cell(number(row.paper_gflops), marks) if known(row.paper_gflops) else Cell(MISSING)
        shown = [
            Cell(row.label, () if known(row.paper_gflops) else marks),
            Cell(f"{row.params:,}"),
            Cell(f"{row.macs:,}"),
            Cell(f"{row.activations:,}"),
            Cell(gflops(row.macs)),
        ]
        cells.append((*shown, *([paper] if printed else [])))
    frame = pd.DataFrame([asdict(row) | {"gflops": row.macs / 1e9} for row in rows])
    frame = frame.rename(columns={"name": subject})[
        [subject, "label", "params", "macs", "activations", "gflops", "paper_gflops", "note"]
    ]
    return Table(
        name="cost",
        title=title,
        subtitle="",
        legend="MACs (multiply-adds) and activations (elements of the outputs) of convolutions, linear layers and "
        f"attention, for one image. GFLOPs: G MACs, as in {source.short}.",
        columns=tuple(columns),
        rows=tuple(cells),
        sections=(),
        notes=tuple(notes),
        frame=frame.dropna(axis="columns", how="all"),
    )


def gflops(macs: int) -> str:
    """Format MACs in G, with two decimals or, below 0.1, two significant digits."""
    return f"{macs / 1e9:.2f}" if macs >= 1e8 else f"{macs / 1e9:.2g}"
