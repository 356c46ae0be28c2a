"""One part as SVG: a box per layer from top to bottom, with the shortcut beside them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from modernize.layers import Layer
from reports.diagrams.drawing import GAP, LETTER, Drawing
from reports.diagrams.layers import kind, labels
from reports.diagrams.parts import Part, layers_of, words

TWO_LINES, ONE_LINE = 38, 22  # heights of boxes, in pixels
BADGE = 9  # radius of a mark's badge, in pixels
_STEP = 12  # a box is wider by this for each doubling of its channels
_SIDE = 26  # from the widest box to the shortcut
_MARKS = {"added": "+", "removed": "−", "changed": "≠", "moved": "↕"}
Marks = Mapping[str, str]


def narrowest(drawn: Sequence[Part]) -> int:
    """Return the width, in pixels, of the narrowest box that fits every label of some parts."""
    longest = max(len(line) for part in drawn for line in words(part))
    return max(112, math.ceil(longest * LETTER) + 14)


def draw(part: Part, base: int, slots: Sequence[str] | None = None, marks: Marks | None = None) -> Drawing:
    """Draw a part from top to bottom.

    Args:
        part: The part.
        base: Width of the narrowest box, in pixels.
        slots: Texts in place of the part's own `words`, for a template of all parts with the same `outline`.
        marks: What changed, by path of the layer: `added`, `removed`, `changed`, `moved` or `changed moved`.
    """
    lines = iter(escape(line) for line in slots or words(part))
    return _Boxes(part, base, lines, marks or {}, named=slots is None).drawn()


def outline(part: Part) -> Hashable:
    """Return all that determines a part's drawing except its words."""
    layers = list(layers_of(part))
    fewest = min(count for _, layer in layers for count in layer.in_and_out or ())
    ratios = [tuple(count / fewest for count in layer.in_and_out or ()) for _, layer in layers]
    return tuple(
        (path, kind(layer), _height(layer), ratio) for (path, layer), ratio in zip(layers, ratios, strict=True)
    )


class _Boxes:
    """The drawing of one part, built downwards: the elements so far, and the y of the next one."""

    def __init__(self, part: Part, base: int, lines: Iterator[str], marks: Marks, named: bool) -> None:
        self.part, self.base, self.lines, self.marks, self.named = part, base, lines, marks, named
        counts = [count for _, layer in layers_of(part) for count in layer.in_and_out or ()]
        counts = counts or [1]  # a head of pooling alone
        self.fewest = min(counts)
        self.widest = max(self.width(count) for count in counts)
        self.room = 2 * BADGE if marks else 2
        self.centre = self.room + self.widest // 2
        self.elements: list[str] = []
        self.wires: list[str] = []
        self.tips: list[str] = []
        self.y = 14

    def width(self, channels: int) -> int:
        """Return a box's width for its channels: one step wider per doubling, at most four steps."""
        return self.base + round(_STEP * min(math.log2(channels / self.fewest), 4))

    def drawn(self) -> Drawing:
        """Draw the part."""
        self.label(next(self.lines))
        paths = dict(layers_of(self.part))
        block = self.part.block
        inside = [path for path in paths if block and path.startswith(f"{self.part.block_path}.")]
        self.column([path for path in paths if path not in inside], paths)
        right = self.centre + self.widest // 2
        if block:
            right = self.block(paths, inside)
        self.wire(self.centre, self.y, self.y + GAP, tip=True)
        self.y += GAP + 14
        self.label(next(self.lines))
        lines = f'<path class="wire" d="{"".join(self.wires)}"/><path class="tip" d="{"".join(self.tips)}"/>'
        return Drawing(lines + "".join(self.elements), right + self.room, self.y + 6)

    def block(self, paths: Mapping[str, Layer], inside: Sequence[str]) -> int:
        """Draw the residual branch, the shortcut beside it, their sum and the layers after; return the right edge."""
        sections = {
            name: [path for path in inside if f".{name}." in path] for name in ("residual", "shortcut", "after")
        }
        self.wire(self.centre, self.y, self.y + 8)
        self.y += 8
        fork = self.y
        self.elements.append(f'<circle class="tip" cx="{self.centre}" cy="{fork}" r="2.5"/>')
        self.column(sections["residual"], paths)
        self.wire(self.centre, self.y, self.y + GAP, tip=True)
        total = self.y + GAP + BADGE
        wide = max((self.width(max(paths[path].in_and_out or (0,))) for path in sections["shortcut"]), default=0)
        beside = (
            self.centre + self.widest // 2 + _SIDE + (wide // 2 if wide else 0) + (BADGE if self.marks and wide else 0)
        )
        self.shortcut(sections["shortcut"], paths, beside, fork, total)
        self.elements.append(_sum(self.centre, total))
        self.y = total + BADGE
        self.column(sections["after"], paths)
        return beside + (wide // 2 if wide else 4)

    def shortcut(self, own: Sequence[str], paths: Mapping[str, Layer], x: int, fork: int, total: int) -> None:
        """Draw the arc from before the residual branch to the sum, with the projection's boxes on it."""
        end = self.centre + BADGE
        if not own:
            self.wires.append(_arc(self.centre, fork, x, total, end))
        else:
            height = sum(_height(paths[path]) for path in own) + GAP * (len(own) - 1)
            top = (fork + total - height) // 2
            turn = 10
            self.wires.append(f"M{self.centre} {fork}H{x - turn}Q{x} {fork} {x} {fork + turn}V{top - GAP}")
            y = top - GAP
            for path in own:
                self.wire(x, y, y + GAP, tip=True)
                y += GAP
                self.box(path, paths[path], x, y)
                y += _height(paths[path])
            self.wires.append(f"M{x} {y}V{total - turn}Q{x} {total} {x - turn} {total}H{end + 6}")
        self.tips.append(f"M{end} {total}l7 -3.5v7z")

    def column(self, own: Sequence[str], paths: Mapping[str, Layer]) -> None:
        """Draw layers in a column, with an arrow before each."""
        for path in own:
            self.wire(self.centre, self.y, self.y + GAP, tip=True)
            self.y += GAP
            self.box(path, paths[path], self.centre, self.y)
            self.y += _height(paths[path])

    def box(self, path: str, layer: Layer, x: int, y: int) -> None:
        """Draw a layer's box, its text and its mark."""
        mark = self.marks.get(path, "")
        height, name = _height(layer), kind(layer)
        top, bottom = (self.width(count) for count in layer.in_and_out or (self.fewest, self.fewest))
        if name in ("norm", "scale", "activation", "pool"):
            top = bottom = self.base - 6
        shape = _shape(name, x, y, top, bottom, height)
        lines = [next(self.lines) for _ in labels(layer)]
        where = f" data-path={quoteattr(path)}" if self.named else ""
        self.elements.append(f'<g class="{f"layer {name} {mark}".strip()}"{where}>{shape}')
        if len(lines) == 2:
            self.elements.append(f'<text class="name" x="{x}" y="{y + 16}">{lines[0]}</text>')
            self.elements.append(f'<text class="small" x="{x}" y="{y + 31}">{lines[1]}</text>')
        else:
            self.elements.append(f'<text x="{x}" y="{y + 15}">{lines[0]}</text>')
        if mark:
            self.elements.append(_badge(mark, x - min(top, bottom) // 2, y + height // 2))
        self.elements.append("</g>")

    def label(self, line: str) -> None:
        """Draw the label of the input or output."""
        self.elements.append(f'<text class="small muted" x="{self.centre}" y="{self.y - 3}">{line}</text>')

    def wire(self, x: int, top: int, bottom: int, tip: bool = False) -> None:
        """Draw a line downwards, with or without an arrow's tip."""
        self.wires.append(f"M{x} {top}V{bottom - (5 if tip else 0)}")
        if tip:
            self.tips.append(f"M{x} {bottom}l-3.5 -7h7z")


def _height(layer: Layer) -> int:
    return TWO_LINES if len(labels(layer)) == 2 else ONE_LINE


def _badge(mark: str, x: int, y: int) -> str:
    """Return what changed in a layer, as signs on the left edge of its box."""
    signs = "".join(_MARKS[word] for word in mark.split())
    half = BADGE + 5 * (len(signs) - 1)
    rectangle = f'x="{x - half}" y="{y - BADGE}" width="{2 * half}" height="{2 * BADGE}" rx="{BADGE}"'
    return f'<rect class="badge" {rectangle}/><text class="mark" x="{x}" y="{y + 4}">{signs}</text>'


def _sum(x: int, y: int) -> str:
    """Return a circled plus."""
    return (
        f'<circle class="shape sum" cx="{x}" cy="{y}" r="{BADGE}"/>'
        f'<path class="wire" d="M{x - 5} {y}h10M{x} {y - 5}v10"/>'
    )


def _arc(x: int, top: int, right: int, bottom: int, end: int) -> str:
    """Return the path from (x, top) out to `right` and back to the sum at (end, bottom)."""
    turn = 14
    return (
        f"M{x} {top}H{right - turn}Q{right} {top} {right} {top + turn}V{bottom - turn}"
        f"Q{right} {bottom} {right - turn} {bottom}H{end + 6}"
    )


def _shape(name: str, x: int, y: int, top: int, bottom: int, height: int) -> str:
    """Return a box's outline: a trapezoid from input to output channels, round for norms, pointed for activations."""
    left, right, low = x - top // 2, x + top // 2, y + height
    if name in ("norm", "scale"):
        return f'<rect class="shape" x="{left}" y="{y}" width="{right - left}" height="{height}" rx="{height // 2}"/>'
    if name == "activation":
        middle, in_ = y + height // 2, 10
        d = f"M{left} {middle}L{left + in_} {y}H{right - in_}L{right} {middle}L{right - in_} {low}H{left + in_}Z"
    elif name == "pool":
        d = f"M{left} {y}H{right}L{right - 12} {low}H{left + 12}Z"
    else:
        d = f"M{left} {y}H{right}L{x + bottom // 2} {low}H{x - bottom // 2}Z"
    shape = f'<path class="shape" d="{d}"/>'
    if name == "depthwise":  # one group per channel: striped edges
        shape += f'<path class="stripe" d="M{left + 4} {y + 2}v{height - 4}M{right - 4} {y + 2}v{height - 4}"/>'
    return shape
