"""Block diagrams in the style of the ConvNeXt paper's Figure 4, drawn from the plan as SVG text.

A plan is split into parts, and each part is drawn box by box with its shortcut beside it. The differences between two
designs are found on the plan's layers and marked on their boxes.
"""

from reports.diagrams.boxes import draw, narrowest, outline
from reports.diagrams.drawing import STYLE, Drawing
from reports.diagrams.one_design import diagram, overview, stage_labels
from reports.diagrams.parts import Part, every_part, layers_of, parts, words
from reports.diagrams.two_designs import Change, changes, difference, paired_parts

__all__ = [
    "STYLE",
    "Change",
    "Drawing",
    "Part",
    "changes",
    "diagram",
    "difference",
    "draw",
    "every_part",
    "layers_of",
    "narrowest",
    "outline",
    "overview",
    "paired_parts",
    "parts",
    "stage_labels",
    "words",
]
