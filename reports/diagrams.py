"""Block diagrams in the manner of the ConvNeXt paper's Figure 4, drawn from the plan as SVG text.

A plan is told in parts (stem, blocks, the start of a later stage, head); a part is drawn box by box, top to bottom, the
shortcut at its side. What differs between two designs is found on the plan's layers and marked on their boxes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from xml.sax.saxutils import escape, quoteattr

from modernize.design import Design, printable, text
from modernize.plan import (
    Activation,
    BlockPlan,
    Conv,
    GlobalAveragePool,
    Layer,
    Layers,
    LayerScale,
    Linear,
    MaxPool,
    Norm,
    Plan,
)

# Plain colours first, for viewers that know no media queries; the marks and shapes tell as much without colour.
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
.diagram .changed .shape,.diagram .moved .shape{stroke:#ff9d57}
.diagram .added .shape{stroke:#4fd8ab}
.diagram .removed .shape{stroke:#ff8794}
.diagram .badge{fill:#ececec}
.diagram .mark,.diagram .layer text.mark{fill:#0d1014}
}
""".strip()
_GROUND = ".diagram .ground{fill:#fff}@media (prefers-color-scheme:dark){.diagram .ground{fill:#17191c}}"

_TALL, _LOW, _GAP = 38, 22, 16  # boxes of two lines and of one, and the arrows between them, in pixels
_STEP = 12  # how much wider a box is for each doubling of its channels
_LETTER = 7.5  # DejaVu Sans at 12 px, the widest of the fonts that may be found
_SIDE = 26  # from the widest box to the shortcut
_BADGE = 9
_MARGIN, _BETWEEN, _WIDEST = 16, 30, 1260
_MARKS = {"added": "+", "removed": "−", "changed": "≠", "moved": "↕"}


@dataclass(frozen=True)
class Part:
    """A part of the network worth a drawing: layers one after the other, then a block, either of them maybe none.

    `lead_path` and `block_path` are where they are in the plan, as `trace` names it.
    """

    role: str
    title: str
    lead: Layers = ()
    lead_path: str = ""
    block: BlockPlan | None = None
    block_path: str = ""


@dataclass(frozen=True)
class Drawing:
    """SVG elements from 0, 0 and their extent in pixels."""

    body: str
    width: int
    height: int

    def at(self, x: int, y: int) -> str:
        """The elements, moved."""
        return f'<g transform="translate({x},{y})">{self.body}</g>'


Marks = Mapping[str, str]


# ---- a plan in parts


def parts(plan: Plan) -> tuple[Part, ...]:
    """What of a plan is worth a drawing: blocks that are alike but for their channels are drawn once."""
    stem, first, *rest, head = every_part(plan)
    block = next((part for part in rest if part.role == "block"), None)
    usual = block or first
    shown = [part for part in (first, block) if part and (part is usual or not same_structure(part, usual))]
    for part in rest:
        if part.role == "later" and same_structure(part, usual):
            title = f"before {part.title.removesuffix(', first block')}"
            shown += [replace(part, title=title, block=None)] if part.lead else []
        elif part.role == "later":
            shown.append(part)
    if sum(part.block is not None for part in shown) == 1:
        shown[0] = replace(shown[0], title="every block")
    return (stem, *shown, head)


def every_part(plan: Plan, inner: int | None = None) -> tuple[Part, ...]:
    """The stem, the first block, a block that starts no stage, what starts the second stage, and the head.

    `inner` is the stage of the block that starts none; unless told it is the first that has one.
    """
    first = _block_part("first", "stage 1, first block", plan, 0, 0)
    found = [Part("stem", "stem", plan.stem, "stem"), first]
    if inner is None:
        inner = next((number for number, stage in enumerate(plan.stages) if len(stage.blocks) > 1), None)
    if inner is not None:
        found.append(_block_part("block", "blocks within a stage", plan, inner, 1))
    if len(plan.stages) > 1:
        which = "stage 2" if len(plan.stages) == 2 else f"stages 2 to {len(plan.stages)}"
        found.append(_block_part("later", f"{which}, first block", plan, 1, 0))
    return (*found, Part("head", "head", plan.head, "head"))


def _block_part(role: str, title: str, plan: Plan, stage: int, block: int) -> Part:
    """A block, and before a stage's first one the downsampling."""
    lead = plan.stages[stage].downsampling if block == 0 else ()
    path = f"stages.{stage}.blocks.{block}"
    return Part(role, title, lead, f"stages.{stage}.downsampling", plan.stages[stage].blocks[block], path)


def same_structure(one: Part, other: Part) -> bool:
    """Whether two parts' blocks are the same but for the number of channels."""
    return one.block is not None and other.block is not None and _structure(one.block) == _structure(other.block)


def _structure(block: BlockPlan) -> tuple:
    sections = (block.residual, block.shortcut, block.after)
    return tuple(tuple((layer.name, getattr(layer, "stride", 1)) for layer in section) for section in sections)


def layers_of(part: Part) -> Iterator[tuple[str, Layer]]:
    """Every layer of a part under its path in the plan, in the order in which it is drawn."""
    for layer in part.lead:
        yield f"{part.lead_path}.{layer.name}", layer
    if part.block is not None:
        for section in ("residual", "shortcut", "after"):
            for layer in getattr(part.block, section):
                yield f"{part.block_path}.{section}.{layer.name}", layer


# ---- a layer in words and shapes


def kind(layer: Layer) -> str:
    """What a layer is drawn as; what is none of the others, and keeps a map's shape, is a norm of some kind."""
    if isinstance(layer, Conv):
        if layer.groups > 1:
            return "depthwise"
        return "spatial" if layer.kernel_size > 1 or layer.name == "spatial" else "pointwise"
    if isinstance(layer, (MaxPool, GlobalAveragePool)):
        return "pool"
    if isinstance(layer, LayerScale):
        return "scale"
    if isinstance(layer, Activation):
        return "activation"
    return "linear" if isinstance(layer, Linear) else "norm"


def labels(layer: Layer) -> tuple[str, ...]:
    """What stands in a layer's box: one line, or two for what has channels in and out."""
    if isinstance(layer, Conv):
        size = f"{layer.kernel_size}×{layer.kernel_size}"
        across = _across(layer.in_channels, layer.out_channels)
        stride = f", stride {layer.stride}" if layer.stride > 1 else ""
        return (f"{size} depthwise" if layer.groups > 1 else f"{size} conv", across + stride)
    if isinstance(layer, Linear):
        return ("linear", _across(layer.in_features, layer.out_features))
    if isinstance(layer, Norm):
        return (f"{str(layer).partition(' ')[0]}, {layer.channels}",)
    if isinstance(layer, MaxPool):
        return ("3×3 max-pool", "stride 2")
    return ("average pool",) if isinstance(layer, GlobalAveragePool) else (str(layer),)


def _across(before: int, after: int) -> str:
    return str(after) if before == after else f"{before}→{after}"


def _channels(layer: Layer) -> tuple[int, int] | None:
    """Channels in and out; none where a layer takes any."""
    match layer:
        case Conv():
            return layer.in_channels, layer.out_channels
        case Linear():
            return layer.in_features, layer.out_features
        case Norm() | LayerScale():
            return layer.channels, layer.channels
    return None


def ends(part: Part) -> tuple[str, str]:
    """What goes into a part and what comes out of it, in words."""
    trunk = part.lead + (part.block.residual if part.block else ())
    known = [channels for channels in map(_channels, trunk) if channels]
    out = f"{known[-1][1]} classes" if isinstance(trunk[-1], Linear) else _channels_in_words(known[-1][1])
    return _channels_in_words(known[0][0]), out


def _channels_in_words(count: int) -> str:
    return f"{count} channel{'s' if count != 1 else ''}"


def words(part: Part) -> tuple[str, ...]:
    """Every text of a part's drawing, in order: what goes in, the lines of each layer, what comes out."""
    into, out = ends(part)
    return (into, *(line for _, layer in layers_of(part) for line in labels(layer)), out)


# ---- a part as SVG


def narrowest(told: Sequence[Part]) -> int:
    """The width of the narrowest box that holds every label of some parts."""
    longest = max(len(line) for part in told for line in words(part))
    return max(112, math.ceil(longest * _LETTER) + 14)


def draw(part: Part, base: int, told: Sequence[str] | None = None, marks: Marks | None = None) -> Drawing:
    """A part from top to bottom, boxes at least `base` wide.

    `told` are other texts than its own `words`, for a drawing of any part with this `outline`.
    """
    lines = iter(escape(line) for line in told or words(part))
    return _Boxes(part, base, lines, marks or {}, named=told is None).drawn()


def outline(part: Part) -> Hashable:
    """What a part's drawing follows from but for its words: parts alike in this are drawn alike."""
    layers = list(layers_of(part))
    least = min(count for _, layer in layers for count in _channels(layer) or ())
    ratios = [tuple(count / least for count in _channels(layer) or ()) for _, layer in layers]
    return tuple(
        (path, kind(layer), _height(layer), ratio) for (path, layer), ratio in zip(layers, ratios, strict=True)
    )


class _Boxes:
    """The drawing of one part as it grows downwards: elements so far, and where the next one starts."""

    def __init__(self, part: Part, base: int, lines: Iterator[str], marks: Marks, named: bool) -> None:
        self.part, self.base, self.lines, self.marks, self.named = part, base, lines, marks, named
        known = [channels for _, layer in layers_of(part) for channels in (_channels(layer) or ())]
        self.least = min(known)
        self.widest = max(self.width(count) for count in known)
        self.room = 2 * _BADGE if marks else 2
        self.centre = self.room + self.widest // 2
        self.elements: list[str] = []
        self.wires: list[str] = []
        self.tips: list[str] = []
        self.y = 14

    def width(self, channels: int) -> int:
        """A box's width for its channels: wider by a step for each doubling, four of them at most."""
        return self.base + round(_STEP * min(math.log2(channels / self.least), 4))

    def drawn(self) -> Drawing:
        """All of the part."""
        self.label(next(self.lines))
        paths = dict(layers_of(self.part))
        block = self.part.block
        inside = [path for path in paths if block and path.startswith(f"{self.part.block_path}.")]
        self.column([path for path in paths if path not in inside], paths)
        right = self.centre + self.widest // 2
        if block:
            right = self.block(paths, inside)
        self.wire(self.centre, self.y, self.y + _GAP, tip=True)
        self.y += _GAP + 14
        self.label(next(self.lines))
        lines = f'<path class="wire" d="{"".join(self.wires)}"/><path class="tip" d="{"".join(self.tips)}"/>'
        return Drawing(lines + "".join(self.elements), right + self.room, self.y + 6)

    def block(self, paths: Mapping[str, Layer], inside: Sequence[str]) -> int:
        """A block: the residual branch, the shortcut beside it, their sum and what comes after; its right edge."""
        sections = {
            name: [path for path in inside if f".{name}." in path] for name in ("residual", "shortcut", "after")
        }
        self.wire(self.centre, self.y, self.y + 8)
        self.y += 8
        fork = self.y
        self.elements.append(f'<circle class="tip" cx="{self.centre}" cy="{fork}" r="2.5"/>')
        self.column(sections["residual"], paths)
        self.wire(self.centre, self.y, self.y + _GAP, tip=True)
        total = self.y + _GAP + _BADGE
        wide = max((self.width(max(_channels(paths[path]) or (0,))) for path in sections["shortcut"]), default=0)
        beside = (
            self.centre + self.widest // 2 + _SIDE + (wide // 2 if wide else 0) + (_BADGE if self.marks and wide else 0)
        )
        self.shortcut(sections["shortcut"], paths, beside, fork, total)
        self.elements.append(_sum(self.centre, total))
        self.y = total + _BADGE
        self.column(sections["after"], paths)
        return beside + (wide // 2 if wide else 4)

    def shortcut(self, own: Sequence[str], paths: Mapping[str, Layer], x: int, fork: int, total: int) -> None:
        """The arc from before the residual branch to the sum, with the projection's boxes on it."""
        end = self.centre + _BADGE
        if not own:
            self.wires.append(_arc(self.centre, fork, x, total, end))
        else:
            height = sum(_height(paths[path]) for path in own) + _GAP * (len(own) - 1)
            top = (fork + total - height) // 2
            turn = 10
            self.wires.append(f"M{self.centre} {fork}H{x - turn}Q{x} {fork} {x} {fork + turn}V{top - _GAP}")
            y = top - _GAP
            for path in own:
                self.wire(x, y, y + _GAP, tip=True)
                y += _GAP
                self.box(path, paths[path], x, y)
                y += _height(paths[path])
            self.wires.append(f"M{x} {y}V{total - turn}Q{x} {total} {x - turn} {total}H{end + 6}")
        self.tips.append(f"M{end} {total}l7 -3.5v7z")

    def column(self, own: Sequence[str], paths: Mapping[str, Layer]) -> None:
        """Some layers one under the other, an arrow before each."""
        for path in own:
            self.wire(self.centre, self.y, self.y + _GAP, tip=True)
            self.y += _GAP
            self.box(path, paths[path], self.centre, self.y)
            self.y += _height(paths[path])

    def box(self, path: str, layer: Layer, x: int, y: int) -> None:
        """A layer's box, its texts and its mark."""
        mark = self.marks.get(path, "")
        height, name = _height(layer), kind(layer)
        top, bottom = (self.width(count) for count in _channels(layer) or (self.least, self.least))
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
        self.elements.append(f'<text class="small muted" x="{self.centre}" y="{self.y - 3}">{line}</text>')

    def wire(self, x: int, top: int, bottom: int, tip: bool = False) -> None:
        """A line downwards, with an arrow's tip where it leads into something."""
        self.wires.append(f"M{x} {top}V{bottom - (5 if tip else 0)}")
        if tip:
            self.tips.append(f"M{x} {bottom}l-3.5 -7h7z")


def _height(layer: Layer) -> int:
    return _TALL if len(labels(layer)) == 2 else _LOW


def _badge(mark: str, x: int, y: int) -> str:
    """What became of a layer, as signs on the left edge of its box."""
    signs = "".join(_MARKS[word] for word in mark.split())
    half = _BADGE + 5 * (len(signs) - 1)
    rectangle = f'x="{x - half}" y="{y - _BADGE}" width="{2 * half}" height="{2 * _BADGE}" rx="{_BADGE}"'
    return f'<rect class="badge" {rectangle}/><text class="mark" x="{x}" y="{y + 4}">{signs}</text>'


def _sum(x: int, y: int) -> str:
    """A circled plus."""
    return (
        f'<circle class="shape sum" cx="{x}" cy="{y}" r="{_BADGE}"/>'
        f'<path class="wire" d="M{x - 5} {y}h10M{x} {y - 5}v10"/>'
    )


def _arc(x: int, top: int, right: int, bottom: int, end: int) -> str:
    """From (x, top) out to `right` and back to the sum at (end, bottom)."""
    turn = 14
    return (
        f"M{x} {top}H{right - turn}Q{right} {top} {right} {top + turn}V{bottom - turn}"
        f"Q{right} {bottom} {right - turn} {bottom}H{end + 6}"
    )


def _shape(name: str, x: int, y: int, top: int, bottom: int, height: int) -> str:
    """A box's outline: convolutions widen and narrow with their channels, norms are round, activations pointed."""
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
    if name == "depthwise":  # one group a channel: the edge striped
        shape += f'<path class="stripe" d="M{left + 4} {y + 2}v{height - 4}M{right - 4} {y + 2}v{height - 4}"/>'
    return shape


# ---- whole pictures


def overview(plan: Plan) -> Drawing:
    """The stages in a row: how many blocks each has and how many channels they give."""
    told = [("stem", ""), *_stages(plan), ("head", "")]
    wide = max(84, *(math.ceil(max(map(len, lines)) * _LETTER) + 12 for lines in told))
    line = max(2, (_WIDEST - 2 * _MARGIN) // (wide + _GAP))
    elements = []
    for place, (name, what) in enumerate(told):
        x, y = place % line * (wide + _GAP) + 1, place // line * (_TALL + 12) + 1
        elements.append(f'<rect class="shape" x="{x}" y="{y}" width="{wide}" height="{_TALL}" rx="4"/>')
        middle = x + wide // 2
        elements.append(f'<text class="name" x="{middle}" y="{y + (16 if what else 23)}">{name}</text>')
        elements.append(f'<text class="small" x="{middle}" y="{y + 31}">{what}</text>' if what else "")
        if place + 1 < len(told) and (place + 1) % line:
            elements.append(f'<path class="tip" d="M{x + wide + 4} {y + 15}l8 4l-8 4z"/>')
    columns, rows = min(line, len(told)), math.ceil(len(told) / line)
    return Drawing("".join(elements), columns * (wide + _GAP) - _GAP + 2, rows * (_TALL + 12) - 10)


def _stages(plan: Plan) -> Iterator[tuple[str, str]]:
    for number, stage in enumerate(plan.stages, start=1):
        channels = stage.blocks[0].residual
        out = next(layer.out_channels for layer in reversed(channels) if isinstance(layer, Conv))
        yield f"stage {number}", f"{len(stage.blocks)} × {out} ch."


def diagram(plan: Plan, name: str) -> str:
    """A design as an SVG file: its stages, stem, blocks, downsampling and head."""
    shown = parts(plan)
    base = narrowest(shown)
    panels = [_panel(part, draw(part, base)) for part in shown]
    head = _stacked([_text(name, "title"), overview(plan)])
    return _file(_stacked([head, _flow(panels)], 18), f"{name}: block diagram", name)


def _panel(part: Part, drawing: Drawing) -> Drawing:
    """A part under its title."""
    return _stacked([_text(part.title, "name"), drawing], 4)


def _text(line: str, style: str = "", wide: int = 0) -> Drawing:
    shown = escape(printable(line))
    return Drawing(
        f'<text class="left {style}" x="2" y="13">{shown}</text>', wide or math.ceil(len(line) * 8.4) + 4, 18
    )


def _stacked(drawings: Sequence[Drawing], gap: int = 8) -> Drawing:
    """One under the other."""
    y, elements = 0, []
    for drawing in drawings:
        elements.append(drawing.at(0, y))
        y += drawing.height + gap
    return Drawing("".join(elements), max(drawing.width for drawing in drawings), y - gap)


def _flow(drawings: Sequence[Drawing], gap: int = _BETWEEN) -> Drawing:
    """Side by side, and on in a new line, `gap` below, where there is no more room."""
    x = y = lowest = widest = 0
    elements = []
    for drawing in drawings:
        if x and x + drawing.width > _WIDEST - 2 * _MARGIN:
            x, y = 0, lowest + gap
        elements.append(drawing.at(x, y))
        lowest, widest = max(lowest, y + drawing.height), max(widest, x + drawing.width)
        x += drawing.width + _BETWEEN
    return Drawing("".join(elements), widest, lowest)


def _file(drawing: Drawing, title: str, description: str) -> str:
    """A drawing as an SVG file that stands alone, light or dark as the reader's screen is."""
    width, height = drawing.width + 2 * _MARGIN, drawing.height + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="diagram" role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title>{escape(printable(title))}</title>'
        f"<desc>{escape(printable(description))}</desc><style>{_GROUND}\n{STYLE}</style>"
        f'<rect class="ground" width="{width}" height="{height}"/>{drawing.at(_MARGIN, _MARGIN)}</svg>\n'
    )


# ---- two designs


@dataclass(frozen=True)
class Change:
    """What became of a layer: `added`, `removed`, `changed`, `moved` or `changed moved`, and its paths."""

    what: str
    before: str | None
    after: str | None


def changes(before: Part | None, after: Part | None) -> tuple[Change, ...]:
    """What differs between two parts of one role; layers are the same where their place and name say so."""
    old, new = (
        {_own(part, path): (path, layer) for path, layer in layers_of(part)} if part else {} for part in (before, after)
    )
    common, order = [key for key in old if key in new], [key for key in new if key in old]
    matches = SequenceMatcher(a=common, b=order, autojunk=False).get_matching_blocks()
    kept = {common[match.a + place] for match in matches for place in range(match.size)}
    found = [Change("removed", path, None) for key, (path, _) in old.items() if key not in new]
    for key, (path, layer) in new.items():
        if key not in old:
            found.append(Change("added", None, path))
        else:
            what = [*(["changed"] if old[key][1] != layer else []), *(["moved"] if key not in kept else [])]
            found += [Change(" ".join(what), old[key][0], path)] if what else []
    return tuple(found)


def _own(part: Part, path: str) -> str:
    """A layer's path within its part."""
    inside = part.block is not None and path.startswith(f"{part.block_path}.")
    return path.removeprefix(f"{part.block_path}.") if inside else f"lead.{path.rpartition('.')[2]}"


def difference(before: Plan, after: Plan, names: tuple[str, str]) -> str:
    """Two designs as an SVG file: each part that differs, before and after side by side, and the flags that differ."""
    pairs = _pairs(before, after)
    differing = [pair for pair in pairs if changes(*pair)]
    rows = [_text(f"{names[0]}  →  {names[1]}", "title")]
    rows.append(_flow([_text(line) for line in flag_lines(before.design, after.design)], 0))
    same = [new.title for old, new in pairs if new and (old, new) not in differing]
    rows += [_text(f"the same in both: {', '.join(same)}", "muted")] if same else []
    if before.design.norm != after.design.norm:
        rows.append(_text("the convolutions of blocks have biases with norm=ln, none with norm=bn", "muted"))
    picture = _stacked(rows, 3)
    if differing:
        base = narrowest([part for pair in differing for part in pair if part]) + 2 * _BADGE  # beside the words
        key = _text("+ added   − removed   ≠ changed   ↕ moved", "muted")
        picture = _stacked([picture, key, _flow([_pair(*pair, base, names) for pair in differing])], 14)
    return _file(picture, f"{names[0]} and {names[1]}: what changed", " · ".join(names))


def flag_lines(before: Design, after: Design) -> list[str]:
    """The flags that differ, a line each: `kernel_size: 3 → 7`."""
    return [
        f"{name}: {text(getattr(before, name))} → {text(getattr(after, name))}" for name in after.differences(before)
    ] or ["no flag differs"]


def _pairs(before: Plan, after: Plan) -> list[tuple[Part | None, Part | None]]:
    """The parts of two plans by role, one of them None where only the other plan has that role."""
    both = zip(before.stages, after.stages, strict=False)
    inner = next((n for n, stages in enumerate(both) if min(len(stage.blocks) for stage in stages) > 1), None)
    old, new = ({part.role: part for part in every_part(plan, inner)} for plan in (before, after))
    roles = [role for role in ("stem", "first", "block", "later", "head") if role in old or role in new]
    return [(old.get(role), new.get(role)) for role in roles]


def _pair(before: Part | None, after: Part | None, base: int, names: tuple[str, str]) -> Drawing:
    """A part before and after, side by side, its marks on the boxes."""
    found = changes(before, after)
    drawings = []
    for part, name, side in ((before, names[0], "before"), (after, names[1], "after")):
        if part:
            marks = {getattr(change, side): change.what for change in found if getattr(change, side)}
            drawings.append(_stacked([_text(name, "small muted"), draw(part, base, marks=marks)], 0))
    title = next(part.title for part in (after, before) if part)
    return _stacked([_text(title, "name"), _flow(drawings)], 2)
