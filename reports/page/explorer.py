"""What the page's explorer shows of every combination of flags, tabulated from Python's plan when the page is built.

The page looks things up and puts SVG together; it neither counts nor draws. A table is a list of whole numbers in mixed
radix: the choice of each flag times that flag's stride, summed, is the place; a flag that changes nothing has stride 0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from modernize.design import FLAGS, Design, DesignError, split_name, text
from modernize.plan import Activation, Layers, Plan, compile_plan, trace
from modernize.roadmap import NAMES, Roadmap, roadmap
from reports.diagrams import Drawing, Part, draw, narrowest, outline, overview, parts, words
from reports.report import Report
from reports.statistics import summarise
from reports.tables import account, accuracy

Numbers = NDArray[np.int64]
MOST_BODIES = 16_000  # combinations of the flags of the blocks; more would make the page slow to build and large
_STEM_FLAGS = ("stem", "stem_stride")
# Which activation it is changes neither a count nor a drawing, but for the word in its box: see `_drawings`.
_LEFT_TO_OTHERS = (*_STEM_FLAGS, "activation")
_STEM_DEPENDS = ("depths", "width", *_STEM_FLAGS, "norm", "separate_downsampling")
_OVERVIEW_DEPENDS = ("depths", "width", "inverted_bottleneck")
_MANY = ("depths", "width", "kernel_size", "layer_scale")  # flags that may take any number of values
_NAMES = [flag.name for flag in FLAGS]
_BOTH = {
    "stem": ("resnet", "patchify"),
    "activation": ("relu", "gelu"),
    "norm": ("bn", "ln"),
    "layer_scale": (None, 1e-6),
}


@dataclass(frozen=True)
class Images:
    """What designs are counted for: pixels a side, channels and classes."""

    size: int
    channels: int
    classes: int

    def __str__(self) -> str:
        return f"{self.channels}×{self.size}×{self.size} images, {self.classes} classes"


Space = dict[str, list[Any]]


def explorer_data(report: Report) -> dict[str, Any]:
    """Everything the explorer looks up, as plain values for JSON."""
    steps = roadmap_of(report)
    images, known = images_of(report, steps)
    designs = {row: Design().with_flags(flags) for row, flags in report.designs.items()}
    space, left_out = make_space(steps, list(designs.values()))
    return {
        "flags": [
            {"name": flag.name, "meaning": flag.meaning, "values": [text(value) for value in space[flag.name]]}
            for flag in FLAGS
        ],
        "base": steps.name,
        "images": str(images) + ("" if known else " (this study has counted no run yet: its roadmap's)"),
        "left_out": left_out,
        "start": choice(space, next(iter(designs.values()), steps.rows[0].design)),
        "rows": [{"name": row.name, "label": row.label, "choice": choice(space, row.design)} for row in steps.rows],
        "measured": [
            {"row": row, "choice": choice(space, design), "said": measured(report, row)}
            for row, design in designs.items()
        ],
        **tabulate(space, images),
    }


# ---- which designs, and for which images


def roadmap_of(report: Report) -> Roadmap:
    """The roadmap that a study's base is on; ResNet-50's for a base on none."""
    if report.kind == "roadmap":
        return roadmap(report.base)
    start = split_name(report.base).base
    return roadmap(start if start in NAMES else "resnet50")


def images_of(report: Report, steps: Roadmap) -> tuple[Images, bool]:
    """The images that the study's runs were counted for, and whether any was; else those of the roadmap."""
    counted = report.runs.dropna(subset=["image_size"])
    if counted.empty:
        return Images(steps.image_size, steps.in_channels, steps.num_classes), False
    first = counted.iloc[0]
    return Images(int(first["image_size"]), int(first["in_channels"]), int(first["num_classes"])), True


def make_space(steps: Roadmap, designs: Sequence[Design]) -> tuple[Space, list[str]]:
    """The values each flag can take on the page: the roadmap's and the study's, both of a switch; and what is left out.

    Where these are too many combinations, values that the study does not have go first, those of its first row never.
    """
    ours = [*designs, *(row.design for row in steps.rows)]
    space: Space = {}
    for name in _NAMES:
        values = {getattr(design, name) for design in ours}
        values |= set(_BOTH.get(name, (False, True) if isinstance(next(iter(values)), bool) else ()))
        space[name] = sorted(values, key=lambda value: (value is not None, value))
    left_out = []
    studied = {name: {getattr(design, name) for design in designs} for name in _MANY}
    start = {name: getattr(ours[0], name) for name in _MANY}
    while prod(len(values) for name, values in space.items() if name not in _LEFT_TO_OTHERS) > MOST_BODIES:
        spare = [(name, value) for name in _MANY for value in reversed(space[name]) if value != start[name]]
        spare = [(name, value) for name, value in spare if value not in studied[name]] or spare
        if not spare:
            break
        name, value = max(spare, key=lambda one: len(space[one[0]]))
        space[name].remove(value)
        left_out.append(f"{name}={text(value)}")
    return space, left_out


def choice(space: Space, design: Design) -> list[int]:
    """The place of each of a design's values among those of the page, -1 for one that is left out."""
    values = [(space[name], getattr(design, name)) for name in _NAMES]
    return [known.index(value) if value in known else -1 for known, value in values]


# ---- what a run has


def measured(report: Report, row: str) -> str:
    """What a row's runs say, in words: top-1 with its interval, and on which recipe and seeds."""
    runs = report.runs[report.runs["row"] == row]
    found = summarise(runs.loc[runs["status"] == "done", "top1"])
    label = f"{runs['label'].iloc[0]} (recipe {runs['recipe'].iloc[0]})" if len(runs) else row
    rest = account(runs) if len(runs) else "not run"
    if not found.seeds:
        return f"{label}: no result; {rest or ', '.join(dict.fromkeys(runs['status']))}"
    if found.seeds == 1:
        said = f"{accuracy(found.mean, None)}%, one seed: no interval over seeds"
    else:
        half = float(stats.t.ppf(0.975, found.seeds - 1)) * found.sd / found.seeds**0.5
        said = (
            f"{accuracy(found.mean, found.sd)}% over {found.seeds} seeds, "
            f"95% interval of the mean {found.mean - half:.2f} to {found.mean + half:.2f}"
        )
    return f"{label}: {said}" + (f"; {rest}" if rest else "")


# ---- tables over all combinations


def tabulate(space: Space, images: Images) -> dict[str, Any]:
    """Costs and drawings of every combination of the values in `space`, as tables of numbers and lists of SVG."""
    known: dict[Part, int] = {}
    stems = _stems(space, images, known)
    entries = sorted({int(size) for size in stems.sizes.ravel() if size > 0})
    bodies = _bodies(space, images, entries, known)
    macs = _sum_macs(stems, bodies, space, images)
    shown: dict[str, int] = {}
    overviews = _filled(
        space, _OVERVIEW_DEPENDS, lambda design: [_number(shown, _as_svg(overview(_plan(design, images))))]
    )
    return {
        "params": table(stems.params + bodies.params),
        "macs": table(macs.counts),
        "reasons": macs.reasons,
        "stem": table(stems.part),
        "body": table(bodies.group),
        "groups": bodies.groups,
        "overview": table(overviews[0]),
        "overviews": list(shown),
        **_drawings(list(known), space["activation"]),
    }


@dataclass(frozen=True)
class _Stems:
    """The stem of each combination: its cost, the size of what it gives (-1: nothing), and the number of its part."""

    params: Numbers
    macs: Numbers
    sizes: Numbers
    part: Numbers


@dataclass(frozen=True)
class _Bodies:
    """All after the stem: parameters, multiply-adds by the size that comes in (-1: too small), and its parts."""

    params: Numbers
    macs: Mapping[int, Numbers]
    group: Numbers
    groups: list[tuple[int, ...]]


@dataclass(frozen=True)
class _Macs:
    """Multiply-adds of each combination; -1 - n for one that cannot be built for the n-th of the reasons."""

    counts: Numbers
    reasons: list[str]


def _stems(space: Space, images: Images, known: dict[Part, int]) -> _Stems:
    """The stem of every combination of the flags that it depends on."""

    def told(design: Design) -> list[int]:
        plan = _plan(design, images)
        return [*_cost(plan.stem, images.size), _number(known, parts(plan)[0])]

    return _Stems(*_filled(space, _STEM_DEPENDS, told))


def _bodies(space: Space, images: Images, entries: Sequence[int], known: dict[Part, int]) -> _Bodies:
    """All after the stem for every combination of the flags but the stem's."""
    groups: dict[tuple[int, ...], int] = {}

    def told(design: Design) -> list[int]:
        plan = _plan(design, images)
        costs = [_body_cost(plan, size) for size in entries]
        group = tuple(_number(known, part) for part in parts(plan)[1:])
        return [costs[0][0], _number(groups, group), *(macs for _, macs in costs)]

    params, group, *macs = _filled(space, [name for name in _NAMES if name not in _LEFT_TO_OTHERS], told)
    return _Bodies(params, dict(zip(entries, macs, strict=True)), group, list(groups))


def _sum_macs(stems: _Stems, bodies: _Bodies, space: Space, images: Images) -> _Macs:
    """Multiply-adds of every combination, and why those without any cannot be built."""
    counts = np.full(np.broadcast_shapes(stems.sizes.shape, bodies.params.shape), -1)
    for size, macs in bodies.macs.items():
        counts = np.where((stems.sizes == size) & (macs >= 0), stems.macs + macs, counts)
    reasons: dict[str, int] = {}
    for place in np.argwhere(counts < 0):
        design = Design(*(space[name][index] for name, index in zip(_NAMES, place, strict=True)))
        counts[tuple(place)] = -1 - _number(reasons, refusal(design, images))
    return _Macs(counts, list(reasons))


def refusal(design: Design, images: Images) -> str:
    """Why a design cannot be built for some images; empty where it can."""
    try:
        trace(_plan(design, images), images.size)
    except DesignError as error:
        return str(error)
    return ""


def _cost(layers: Layers, size: int) -> tuple[int, int, int]:
    """Parameters and multiply-adds of some layers one after the other, and the size after them: -1 for nothing left."""
    params = macs = 0
    for layer in layers:
        after = layer.out_size(size)
        params, macs = params + layer.params, macs + layer.macs(size)
        if after < 1:
            return sum(layer.params for layer in layers), -1, -1
        size = after
    return params, macs, size


def _body_cost(plan: Plan, size: int) -> tuple[int, int]:
    """Parameters and multiply-adds of all after the stem, which gives maps of `size`: -1 where they are too small.

    All blocks of a stage but its first are one plan, counted once.
    """
    params = macs = 0
    for stage in plan.stages:
        costs = [_cost(stage.downsampling, size)]
        size = costs[0][2]
        for block, times in ((stage.blocks[0], 1), *((block, len(stage.blocks) - 1) for block in stage.blocks[1:2])):
            shortcut, residual = _cost(block.shortcut, size), _cost(block.residual, size)
            size = residual[2]
            costs += [shortcut, residual] * times
        if min(cost[2] for cost in costs) < 1:
            return 0, -1
        params, macs = params + sum(cost[0] for cost in costs), macs + sum(cost[1] for cost in costs)
    head = _cost(plan.head, size)
    return params + head[0], macs + head[1]


def _plan(design: Design, images: Images) -> Plan:
    return compile_plan(design, images.channels, images.classes)


def _filled(space: Space, depends: Sequence[str], told: Callable[[Design], list[int]]) -> list[Numbers]:
    """What is told of every combination of the flags in `depends`, the others at their first value.

    An array for each number told, with an axis for each flag, of length 1 for those that are not in `depends`.
    """
    shape = [len(space[name]) if name in depends else 1 for name in _NAMES]
    values = [space[name][:length] for name, length in zip(_NAMES, shape, strict=True)]
    found = [told(Design(*chosen)) for chosen in product(*values)]
    return [np.array(numbers, dtype=np.int64).reshape(shape) for numbers in zip(*found, strict=True)]


def _number(numbers: dict[Any, int], item: Any) -> int:
    """The number of a thing among the distinct ones in the order in which they were first seen."""
    return numbers.setdefault(item, len(numbers))


def table(values: Numbers) -> dict[str, list[int]]:
    """An array as the page reads it: a stride for each flag, 0 for one that makes no difference, and the numbers."""
    for axis in range(values.ndim):
        first = values.take([0], axis=axis)
        values = first if (values == first).all() else values
    strides = [prod(values.shape[axis + 1 :]) if length > 1 else 0 for axis, length in enumerate(values.shape)]
    return {"strides": strides, "data": values.ravel().tolist()}


# ---- drawings with slots for their words


def _drawings(known: Sequence[Part], activations: Sequence[str]) -> dict[str, list]:
    """The parts as numbers: of a drawing with slots, of the title, and of the words for the slots; and all of these.

    The parts have the first of `activations`; the first word stands for whichever is chosen.
    """
    base = narrowest(known)
    said = [str(Activation("", kind)) for kind in activations]
    outlines: dict[Hashable, int] = {}
    frames: list[str] = []
    lines = {said[0]: 0}
    numbered = []
    for part in known:
        told = words(part)
        frame = _number(outlines, outline(part))
        if frame == len(frames):
            frames.append(_as_svg(draw(part, base, [f"{{{slot}}}" for slot in range(len(told))])))
        numbered.append([frame, *(_number(lines, line) for line in (part.title, *told))])
    return {"parts": numbered, "frames": frames, "words": list(lines), "activations": said}


def _as_svg(drawing: Drawing) -> str:
    return (
        f'<svg class="diagram" width="{drawing.width}" height="{drawing.height}" '
        f'viewBox="0 0 {drawing.width} {drawing.height}">{drawing.body}</svg>'
    )
