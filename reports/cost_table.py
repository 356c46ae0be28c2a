"""The cost table: parameters and MACs of designs, beside the GFLOPs that the paper prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from reports.tables import MISSING, OURS, PAPERS, Cell, Column, Table


@dataclass(frozen=True)
class CostRow:
    """The cost of one design or row of a roadmap; `paper_gflops` is None if the paper prints none."""

    name: str
    label: str
    params: int
    macs: int
    paper_gflops: float | None = None
    note: str = ""


def cost_table(rows: Sequence[CostRow], title: str, subject: str) -> Table:
    """Tabulate costs; `subject` is what a row is, `row` or `design`, and the name of its raw column."""
    printed = any(row.paper_gflops is not None for row in rows)
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    columns = [
        Column("label", subject, number=False),
        Column("params", "parameters", OURS if printed else ""),
        Column("macs", "MACs", OURS if printed else ""),
        Column("gflops", "GFLOPs", OURS if printed else ""),
        *([Column("paper_gflops", "GFLOPs", PAPERS)] if printed else []),
    ]
    cells = []
    for row in rows:
        paper = MISSING if row.paper_gflops is None else f"{row.paper_gflops:.2f}"
        marks = (notes.index(row.note) + 1,) if row.note else ()
        shown = [Cell(row.label), Cell(f"{row.params:,}"), Cell(f"{row.macs:,}"), Cell(gflops(row.macs))]
        cells.append((*shown, *([Cell(paper, marks)] if printed else [])))
    frame = pd.DataFrame([asdict(row) | {"gflops": row.macs / 1e9} for row in rows])
    frame = frame.rename(columns={"name": subject})[
        [subject, "label", "params", "macs", "gflops", "paper_gflops", "note"]
    ]
    return Table(
        name="cost",
        title=title,
        subtitle="",
        legend="MACs (multiply-adds) of convolutions, linear layers and attention, for one image. GFLOPs: G MACs, as "
        "in the paper.",
        columns=tuple(columns),
        rows=tuple(cells),
        sections=(),
        notes=tuple(notes),
        frame=frame.dropna(axis="columns", how="all"),
    )


def gflops(macs: int) -> str:
    """Format MACs in G, with two decimals or, below 0.1, two significant digits."""
    return f"{macs / 1e9:.2f}" if macs >= 1e8 else f"{macs / 1e9:.2g}"
