"""Primitives of diagrams: SVG elements with an extent, lines of text, rows and columns, and the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from modernize.design import printable

# Light colors first, for viewers without media queries. Marks and shapes carry the same information as colors.
STYLE = """
.diagram{font-family:system-ui,"DejaVu Sans",Verdana,sans-serif;font-size:12px}
.diagram text{text-anchor:middle;fill:#1b1b1b}
.diagram .name{font-weight:600}
.diagram .small{font-size:11px}
.diagram .title{font-size:13px;font-weight:600}
.diagram .left{text-anchor:start}
.diagram .muted{fill:#5a5a5a}
.diagram .wire{fill:none;stroke:#5a5a5a;stroke-width:1.3}
.diagram .tip{fill:#5a5a5a}
.diagram .shape{stroke:#3c4a57;stroke-width:1.2;fill:#fff}
.diagram .spatial .shape,.diagram .depthwise .shape{fill:#0b5c91;stroke:#063a5d}
.diagram .spatial text,.diagram .depthwise text{fill:#fff}
.diagram .stripe{stroke:#fff;stroke-width:1.2;fill:none}
.diagram .pointwise .shape,.diagram .linear .shape{fill:#cfe6f5}
.diagram .linear .shape{stroke-width:2.4}
.diagram .norm .shape{fill:#ececec}
.diagram .activation .shape{fill:#fbe3b5}
.diagram .custom .shape{fill:#e6dcf4}
.diagram .scale .shape{stroke-dasharray:2 3}
.diagram .changed .shape,.diagram .moved .shape{stroke:#c24e00;stroke-width:2.6}
.diagram .added .shape{stroke:#00704f;stroke-width:2.6}
.diagram .removed .shape{stroke:#a3182c;stroke-width:2.6;stroke-dasharray:6 3}
.diagram .badge{fill:#1b1b1b}
.diagram .mark{fill:#fff;font-weight:700}
.diagram .layer text.mark{fill:#fff}
@media (prefers-color-scheme:dark){
.diagram text{fill:#ececec}
.diagram .muted{fill:#b3b3b3}
.diagram .wire{stroke:#b3b3b3}
.diagram .tip{fill:#b3b3b3}
.diagram .shape{fill:#17191c;stroke:#a8b4bf}
.diagram .spatial .shape,.diagram .depthwise .shape{fill:#7cc0ee;stroke:#c9e6fa}
.diagram .spatial text,.diagram .depthwise text{fill:#0d1014}
.diagram .stripe{stroke:#0d1014}
.diagram .pointwise .shape,.diagram .linear .shape{fill:#173a52}
.diagram .norm .shape{fill:#3a3d41}
.diagram .activation .shape{fill:#574313}
.diagram .custom .shape{fill:#40305c}
.diagram .changed .shape,.diagram .moved .shape{stroke:#ff9d57}
.diagram .added .shape{stroke:#4fd8ab}
.diagram .removed .shape{stroke:#ff8794}
.diagram .badge{fill:#ececec}
.diagram .mark,.diagram .layer text.mark{fill:#0d1014}
}
""".strip()
_GROUND = ".diagram .ground{fill:#fff}@media (prefers-color-scheme:dark){.diagram .ground{fill:#17191c}}"

GAP = 16  # length of an arrow between boxes, in pixels
LETTER = 7.5  # width of a letter of DejaVu Sans at 12 px, the widest of the fonts
MARGIN, BETWEEN, WIDEST = 16, 30, 1260


@dataclass(frozen=True)
class Drawing:
    """SVG elements from (0, 0) and their extent in pixels."""

    body: str
    width: int
    height: int

    def at(self, x: int, y: int) -> str:
        """Return the elements, moved to (x, y)."""
        return f'<g transform="translate({x},{y})">{self.body}</g>'


def line_of_text(line: str, style: str = "") -> Drawing:
    """Draw a line of text."""
    shown = escape(printable(line))
    return Drawing(f'<text class="left {style}" x="2" y="13">{shown}</text>', math.ceil(len(line) * 8.4) + 4, 18)


def stacked(drawings: Sequence[Drawing], gap: int = 8) -> Drawing:
    """Put drawings in a column."""
    y, elements = 0, []
    for drawing in drawings:
        elements.append(drawing.at(0, y))
        y += drawing.height + gap
    return Drawing("".join(elements), max(drawing.width for drawing in drawings), y - gap)


def flow(drawings: Sequence[Drawing], gap: int = BETWEEN) -> Drawing:
    """Put drawings in a row, and start a new row, `gap` below, if there is no more room."""
    x = y = lowest = widest = 0
    elements = []
    for drawing in drawings:
        if x and x + drawing.width > WIDEST - 2 * MARGIN:
            x, y = 0, lowest + gap
        elements.append(drawing.at(x, y))
        lowest, widest = max(lowest, y + drawing.height), max(widest, x + drawing.width)
        x += drawing.width + BETWEEN
    return Drawing("".join(elements), widest, lowest)


def svg_file(drawing: Drawing, title: str, description: str) -> str:
    """Return a drawing as an SVG file, light or dark as the reader prefers."""
    width, height = drawing.width + 2 * MARGIN, drawing.height + 2 * MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title>{escape(printable(title))}</title>'
        f"<desc>{escape(printable(description))}</desc><style>{_GROUND}\n{STYLE}</style>"
        f'<rect class="ground" width="{width}" height="{height}"/>{drawing.at(MARGIN, MARGIN)}</svg>\n'
    )
