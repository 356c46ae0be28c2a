"""The diagram of one design: its stages in a row, then each of its parts."""

from __future__ import annotations

import math
from collections.abc import Iterator

from modernize.layers import Plan
from reports.diagrams.boxes import TWO_LINES, draw, narrowest
from reports.diagrams.drawing import GAP, LETTER, MARGIN, WIDEST, Drawing, flow, line_of_text, stacked, svg_file
from reports.diagrams.parts import Part, parts


def overview(plan: Plan) -> Drawing:
    """Draw the stages in a row, with the number of blocks and output channels of each."""
    stages = [("stem", ""), *stage_labels(plan), ("head", "")]
    wide = max(84, *(math.ceil(max(map(len, lines)) * LETTER) + 12 for lines in stages))
    line = max(2, (WIDEST - 2 * MARGIN) // (wide + GAP))
    elements = []
    for place, (name, what) in enumerate(stages):
        x, y = place % line * (wide + GAP) + 1, place // line * (TWO_LINES + 12) + 1
        elements.append(f'<rect class="shape" x="{x}" y="{y}" width="{wide}" height="{TWO_LINES}" rx="4"/>')
        middle = x + wide // 2
        elements.append(f'<text class="name" x="{middle}" y="{y + (16 if what else 23)}">{name}</text>')
        elements.append(f'<text class="small" x="{middle}" y="{y + 31}">{what}</text>' if what else "")
        if place + 1 < len(stages) and (place + 1) % line:
            elements.append(f'<path class="tip" d="M{x + wide + 4} {y + 15}l8 4l-8 4z"/>')
    columns, rows = min(line, len(stages)), math.ceil(len(stages) / line)
    return Drawing("".join(elements), columns * (wide + GAP) - GAP + 2, rows * (TWO_LINES + 12) - 10)


def stage_labels(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the name and size of each stage."""
    for number, stage in enumerate(plan.stages, start=1):
        out = next(layer.in_and_out[1] for layer in reversed(stage.blocks[0].residual) if layer.in_and_out)
        yield f"stage {number}", f"{len(stage.blocks)} × {out} ch."


def diagram(plan: Plan, name: str) -> str:
    """Return a design as an SVG file: its stages, stem, blocks, downsampling and head."""
    shown = parts(plan)
    base = narrowest(shown)
    panels = [_panel(part, draw(part, base)) for part in shown]
    head = stacked([line_of_text(name, "title"), overview(plan)])
    return svg_file(stacked([head, flow(panels)], 18), f"{name}: block diagram", name)


def _panel(part: Part, drawing: Drawing) -> Drawing:
    """Put a part under its title."""
    return stacked([line_of_text(part.title, "name"), drawing], 4)
