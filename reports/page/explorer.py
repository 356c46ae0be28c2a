"""The data of the page's explorer: costs and drawings of every combination of flags, tabulated from the plan.

The page only looks values up and assembles SVG; it neither counts nor draws. A table is a flat list of integers. The
index of an entry is the sum over flags of choice times stride; a flag without influence has stride 0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from modernize.arguments import Size
from modernize.design import FLAGS, Design, DesignError, text
from modernize.layers import Activation, Layers, Plan
from modernize.plan import compile_plan, layer_cost, trace
from modernize.plugins import Plugin, plugins
from modernize.roadmap import Roadmap
from reports.diagrams import Drawing, Part, draw, narrowest, outline, overview, parts, stage_labels, words
from reports.marks import row_marks
from reports.numbers import fixed
from reports.report import Report
from reports.row_summary import account
from reports.statistics import summarise
from reports.statuses import shown
from reports.tables import mean_sd

Numbers = NDArray[np.int64]
MOST_BODIES = 16_000  # combinations of the flags that change the body; more make the page large and slow to build


@dataclass(frozen=True)
class Images:
    """The images for which designs are counted: resolution in pixels, channels and classes."""

    size: int
    channels: int
    classes: int

    def __str__(self) -> str:
        return f"{self.channels}×{self.size}×{self.size} images, {self.classes} classes"


Space = dict[str, list[Any]]  # the values of every flag, in the order of the flags
_NONE = Size(-1, -1)  # the output of layers whose input is too small


def explorer_data(report: Report) -> dict[str, Any]:
    """Return everything that the explorer looks up, as plain values for JSON."""
    steps = report.steps
    images, known = images_of(report, steps)
    designs = {row: Design().with_flags(flags) for row, flags in report.designs.items()}
    space, left_out = make_space(steps, list(designs.values()))
    return {
        "flags": [
            {"name": flag.name, "meaning": flag.meaning, "values": [text(value) for value in space[flag.name]]}
            for flag in FLAGS
        ],
        "base": steps.name,
        "images": str(images) + ("" if known else " (the roadmap's; this study has no runs yet)"),
        "left_out": left_out,
        "start": choice(space, next(iter(designs.values()), steps.rows[0].design)),
        "rows": [{"name": row.name, "label": row.label, "choice": choice(space, row.design)} for row in steps.rows],
        "measured": [
            {"row": row, "choice": choice(space, design), "result": measured(report, row)}
            for row, design in designs.items()
        ],
        **tabulate(space, images),
    }


# ---- designs and images


def _changing(part: str) -> list[str]:
    """Return the flags that change the cost or the drawing of a part, `stem` or `body`."""
    # Of built-in layers the activation changes no cost, and in the drawings only a word: see `_drawings`.
    apart = () if plugins() else ("activation",)
    return [flag.name for flag in FLAGS if part in flag.parts and flag.name not in apart]


def _design(values: Mapping[str, Any]) -> Design:
    return Design().with_flags(values)


def images_of(report: Report, steps: Roadmap) -> tuple[Images, bool]:
    """Return the images for which the study's runs were counted and True, or the roadmap's and False."""
    counted = report.runs.dropna(subset=["image_size"])
    if counted.empty:
        return Images(steps.image_size, steps.in_channels, steps.num_classes), False
    first = counted.iloc[0]
    return Images(int(first["image_size"]), int(first["in_channels"]), int(first["num_classes"])), True


def make_space(steps: Roadmap, designs: Sequence[Design]) -> tuple[Space, list[str]]:
    """Return the values of each flag on the page, and those that are left out.

    The values are those of the roadmap, of the study, and those that the flag offers. Above `MOST_BODIES` combinations,
    values are left out: first those that the study does not have, and never those of its first row.
    """
    ours = [*designs, *(row.design for row in steps.rows)]
    space: Space = {}
    for flag in FLAGS:
        values = {getattr(design, flag.name) for design in ours} | {flag.read(value) for value in flag.values}
        space[flag.name] = sorted(values, key=lambda value: (value is not None, value))
    left_out = []
    body = _changing("body")
    many = [flag.name for flag in FLAGS if flag.examples and flag.name in body]  # any number of values
    studied = {name: {getattr(design, name) for design in designs} for name in many}
    start = {name: getattr(ours[0], name) for name in many}
    while prod(len(space[name]) for name in body) > MOST_BODIES:
        spare = [(name, value) for name in many for value in reversed(space[name]) if value != start[name]]
        spare = [(name, value) for name, value in spare if value not in studied[name]] or spare
        if not spare:
            break
        name, value = max(spare, key=lambda one: len(space[one[0]]))
        space[name].remove(value)
        left_out.append(f"{name}={text(value)}")
    return space, left_out


def choice(space: Space, design: Design) -> list[int]:
    """Return the index of each of a design's values among those of the page, -1 for values that are left out."""
    values = [(known, getattr(design, name)) for name, known in space.items()]
    return [known.index(value) if value in known else -1 for known, value in values]


# ---- results of runs


def measured(report: Report, row: str) -> str:
    """Describe a row's results: top-1 with its confidence interval, recipe and seeds."""
    runs = report.runs[report.runs["row"] == row]
    top1 = summarise(runs.loc[runs["status"] == "done", "top1"])
    label = f"{runs['label'].iloc[0]} (recipe {runs['recipe'].iloc[0]})" if len(runs) else row
    rest = account(runs) if len(runs) else "not run"
    if not top1.seeds:
        return f"{label}: no result; {rest or ', '.join(dict.fromkeys(map(shown, runs['status'])))}"
    if top1.seeds == 1:
        result = f"{mean_sd(top1.mean, None)}%, one seed"
    else:
        half = float(stats.t.ppf(0.975, top1.seeds - 1)) * top1.sd / top1.seeds**0.5
        result = (
            f"{mean_sd(top1.mean, top1.sd)}% over {top1.seeds} seeds, "
            f"95% CI of the mean {fixed(top1.mean - half, 2)} to {fixed(top1.mean + half, 2)}"
        )
    return "; ".join(filter(None, [f"{label}: {result}", *row_marks(runs), rest]))


# ---- tables over all combinations


def tabulate(space: Space, images: Images) -> dict[str, Any]:
    """Return costs and drawings of every combination of values, as tables of integers and lists of SVG."""
    return _tabulated(tuple((name, tuple(values)) for name, values in space.items()), images, plugins())


@lru_cache(maxsize=4)
def _tabulated(
    values: tuple[tuple[str, tuple[Any, ...]], ...], images: Images, loaded: tuple[Plugin, ...]
) -> dict[str, Any]:
    """Tabulate with these plugins; it takes seconds, and a script that writes several reports waits only once."""
    space: Space = {name: list(chosen) for name, chosen in values}
    known: dict[Part, int] = {}
    stems = _stems(space, images, known)
    entries = sorted({int(size) for size in stems.sizes.ravel() if size > 0})
    bodies = _bodies(space, images, entries, known)
    macs = _sum_macs(stems, bodies, space, images)
    return {
        "params": table(stems.params + bodies.params),
        "macs": table(macs.counts),
        "reasons": macs.reasons,
        "stem": table(stems.part),
        "body": table(bodies.group),
        "groups": bodies.groups,
        "overview": table(bodies.overview),
        "overviews": bodies.overviews,
        **_drawings(list(known), space["activation"]),
    }


@dataclass(frozen=True)
class _Stems:
    """The stem per combination: parameters, MACs, output size (-1: none) and the index of its part."""

    params: Numbers
    macs: Numbers
    sizes: Numbers
    part: Numbers


@dataclass(frozen=True)
class _Bodies:
    """The layers after the stem per combination: parameters, and MACs by input size (-1: too small).

    `group` is the index of the parts in `groups`, and `overview` that of the drawing in `overviews`.
    """

    params: Numbers
    macs: Mapping[int, Numbers]
    group: Numbers
    groups: list[tuple[int, ...]]
    overview: Numbers
    overviews: list[str]


@dataclass(frozen=True)
class _Macs:
    """MACs per combination; -1 - n for a design that is invalid for the n-th of the reasons."""

    counts: Numbers
    reasons: list[str]


def _stems(space: Space, images: Images, known: dict[Part, int]) -> _Stems:
    """Tabulate the stem over the flags that change it."""

    def entry(design: Design) -> list[int]:
        try:
            plan = _plan(design, images)
        except DesignError:  # `refusal` says why
            return [0, 0, -1, 0]
        params, macs, size = _cost(plan.stem, Size(images.size, images.size))
        return [params, macs, size.height, _number(known, parts(plan)[0])]

    return _Stems(*_filled(space, _changing("stem"), entry))


def _bodies(space: Space, images: Images, entries: Sequence[int], known: dict[Part, int]) -> _Bodies:
    """Tabulate the layers after the stem over the flags that change them, for every output size of the stem."""
    groups: dict[tuple[int, ...], int] = {}
    stages: dict[Hashable, int] = {}
    overviews: list[str] = []

    def entry(design: Design) -> list[int]:
        try:
            plan = _plan(design, images)
        except DesignError:  # `refusal` says why
            return [0, 0, 0, *(-1 for _ in entries)]
        costs = [_body_cost(plan, Size(size, size)) for size in entries]
        group = tuple(_number(known, part) for part in parts(plan)[1:])
        shown = _number(stages, tuple(stage_labels(plan)))
        if shown == len(overviews):
            overviews.append(_as_svg(overview(plan)))
        return [costs[0][0], _number(groups, group), shown, *(macs for _, macs in costs)]

    params, group, shown, *macs = _filled(space, _changing("body"), entry)
    return _Bodies(params, dict(zip(entries, macs, strict=True)), group, list(groups), shown, overviews)


def _sum_macs(stems: _Stems, bodies: _Bodies, space: Space, images: Images) -> _Macs:
    """Sum the MACs of stem and body for every combination, and collect the reasons of invalid ones."""
    counts = np.full(np.broadcast_shapes(stems.sizes.shape, bodies.params.shape), -1)
    for size, macs in bodies.macs.items():
        counts = np.where((stems.sizes == size) & (macs >= 0), stems.macs + macs, counts)
    reasons: dict[str, int] = {}
    for place in np.argwhere(counts < 0):
        design = _design({name: values[index] for (name, values), index in zip(space.items(), place, strict=True)})
        counts[tuple(place)] = -1 - _number(reasons, refusal(design, images))
    return _Macs(counts, list(reasons))


def refusal(design: Design, images: Images) -> str:
    """Return why a design is invalid for these images; empty if it is valid."""
    try:
        trace(_plan(design, images), images.size)
    except DesignError as error:
        return str(error)
    return ""


def _cost(layers: Layers, size: Size) -> tuple[int, int, Size]:
    """Return parameters, MACs and output size of layers in sequence; the last two are -1 for too small an input."""
    params = macs = 0
    for layer in layers:
        size, own_params, own_macs, _ = layer_cost(layer, size)
        params, macs = params + own_params, macs + own_macs
        if min(size) < 1:
            return sum(layer.params for layer in layers), -1, _NONE
    return params, macs, size


def _body_cost(plan: Plan, size: Size) -> tuple[int, int]:
    """Return parameters and MACs of the layers after the stem, for a stem output of `size`; MACs -1 if it is too small.

    A block that is repeated at the same size is counted once.
    """
    params = macs = 0
    for stage in plan.stages:
        costs = [_cost(stage.downsampling, size)]
        size, last = costs[0][2], None
        for block in stage.blocks:
            if last is None or last[:2] != (id(block), size):
                branches = [_cost(block.shortcut, size), _cost(block.residual, size)]
                if branches[0][2] != branches[1][2]:
                    return 0, -1
                branches.append(_cost(block.after, branches[1][2]))
                last = id(block), size, branches
            costs += last[2]
            size = last[2][-1][2]
        if _NONE in (cost[2] for cost in costs):
            return 0, -1
        params, macs = params + sum(cost[0] for cost in costs), macs + sum(cost[1] for cost in costs)
    head = _cost(plan.head, size)
    return params + head[0], macs + head[1]


def _plan(design: Design, images: Images) -> Plan:
    return compile_plan(design, images.channels, images.classes)


def _filled(space: Space, flags: Sequence[str], entry: Callable[[Design], list[int]]) -> list[Numbers]:
    """Evaluate `entry` for every combination of `flags`, with all other flags at their first value.

    Return an array per number of the entry, with an axis per flag, of length 1 for flags that are not in `flags`.
    """
    shape = [len(values) if name in flags else 1 for name, values in space.items()]
    values = [values[:length] for values, length in zip(space.values(), shape, strict=True)]
    rows = [entry(_design(dict(zip(space, chosen, strict=True)))) for chosen in product(*values)]
    return [np.array(numbers, dtype=np.int64).reshape(shape) for numbers in zip(*rows, strict=True)]


def _number(numbers: dict[Any, int], item: Any) -> int:
    """Return the index of an item among the distinct ones, in order of first appearance."""
    return numbers.setdefault(item, len(numbers))


def table(values: Numbers) -> dict[str, list[int]]:
    """Return an array as the page reads it: a stride per flag, 0 for a flag without influence, and the numbers."""
    for axis in range(values.ndim):
        first = values.take([0], axis=axis)
        values = first if (values == first).all() else values
    strides = [prod(values.shape[axis + 1 :]) if length > 1 else 0 for axis, length in enumerate(values.shape)]
    return {"strides": strides, "data": values.ravel().tolist()}


# ---- drawings with slots for text


def _drawings(known: Sequence[Part], activations: Sequence[str]) -> dict[str, list]:
    """Return each part as the indices of a drawing with slots, of its title and of its words, and the lists of these.

    The parts have the first of `activations`; the first word stands for the activation that is chosen.
    """
    base = narrowest(known)
    names = [str(Activation("", kind)) for kind in activations]
    outlines: dict[Hashable, int] = {}
    frames: list[str] = []
    lines = {names[0]: 0}
    numbered = []
    for part in known:
        texts = words(part)
        frame = _number(outlines, outline(part))
        if frame == len(frames):
            frames.append(_as_svg(draw(part, base, [f"{{{slot}}}" for slot in range(len(texts))])))
        numbered.append([frame, *(_number(lines, line) for line in (part.title, *texts))])
    return {"parts": numbered, "frames": frames, "words": list(lines), "activations": names}


def _as_svg(drawing: Drawing) -> str:
    return (
        f'<svg class="diagram" width="{drawing.width}" height="{drawing.height}" '
        f'viewBox="0 0 {drawing.width} {drawing.height}">{drawing.body}</svg>'
    )
