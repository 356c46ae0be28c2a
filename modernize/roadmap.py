"""The roadmaps: ResNet to ConvNeXt one flag at a time (paper section 2, Tables 10 and 11), and the paper's numbers."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from modernize.design import Design, DesignError, nearest, plain, read_settings


@dataclass(frozen=True)
class PaperRow:
    """What the paper prints for a row: top-1 on ImageNet in percent, its standard deviation over 3 seeds, GFLOPs.

    NaN where the row is not the paper's.
    """

    label: str
    top1: float
    top1_std: float | None
    gflops: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a roadmap; `changes` are the flags it sets over the last adopted row before it."""

    name: str
    label: str
    group: str
    design: Design
    changes: dict[str, Any]
    adopted: bool
    recipe: str
    paper: PaperRow


@dataclass(frozen=True)
class Roadmap:
    """Rows from a ResNet to a ConvNeXt, and the images and classes they are counted for.

    `extras` are rows beyond the paper's, each a step from the last adopted one; `base` is the name without flags.
    """

    name: str
    base: str
    regime: str
    image_size: int
    in_channels: int
    num_classes: int
    rows: tuple[Row, ...]
    extras: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of that name; raises DesignError if there is none."""
        known = (*self.rows, *self.extras)
        for row in known:
            if row.name == name:
                return row
        raise DesignError(f"unknown row {name!r} of roadmap {self.name}: {nearest(name, [r.name for r in known])}")

    def before(self, row: Row) -> Row | None:
        """The last adopted row before `row`: what the row is one step from."""
        earlier = self.rows if row in self.extras else self.rows[: self.rows.index(row)]
        return next((other for other in reversed(earlier) if other.adopted), None)


@dataclass(frozen=True)
class _Step:
    name: str
    group: str
    changes: dict[str, Any] = field(default_factory=dict)
    adopted: bool = True
    label: str = ""  # none: the paper's


_STEPS = (
    _Step("resnet", "ResNet"),
    _Step("enhanced-recipe", "ResNet", {"layer_scale": 1e-6}),
    _Step("stage-ratio", "macro design"),
    _Step("patchify-stem", "macro design", {"stem": "patchify"}),
    _Step("depthwise", "ResNeXt", {"depthwise": True}),
    _Step("width", "ResNeXt"),
    _Step("inverted-bottleneck", "inverted bottleneck", {"inverted_bottleneck": True}),
    _Step("depthwise-first", "large kernel", {"depthwise_first": True}),
    _Step("kernel-5", "large kernel", {"kernel_size": 5}, adopted=False),
    _Step("kernel-7", "large kernel", {"kernel_size": 7}),
    _Step("kernel-9", "large kernel", {"kernel_size": 9}, adopted=False),
    _Step("kernel-11", "large kernel", {"kernel_size": 11}, adopted=False),
    _Step("gelu", "micro design", {"activation": "gelu"}),
    _Step("fewer-activations", "micro design", {"fewer_activations": True}),
    _Step("fewer-norms", "micro design", {"fewer_norms": True}),
    _Step("layer-norm", "micro design", {"norm": "ln"}),
    _Step("separate-downsampling", "micro design", {"separate_downsampling": True}),
)

# Beyond the paper. ConvNeXt V2 (Woo et al., 2023) has this norm in place of layer scale.
_EXTRAS = (_Step("grn", "ConvNeXt V2", {"grn": True, "layer_scale": None}, label="response norm (ConvNeXt V2)"),)


@dataclass(frozen=True)
class _Regime:
    """What a roadmap has of its own: its first row, and what the rows that depend on size change."""

    base: Design
    changes: dict[str, dict[str, Any]]
    paper: str
    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    labels: dict[str, str] = field(default_factory=dict)


_REGIMES = {
    "resnet50": _Regime(
        base=Design(depths=(3, 4, 6, 3), width=64),
        changes={"stage-ratio": {"depths": "3-3-9-3"}, "width": {"width": 96}},
        paper="resnet50",
    ),
    "resnet200": _Regime(
        base=Design(depths=(3, 24, 36, 3), width=64),
        changes={"stage-ratio": {"depths": "3-3-27-3", "width": 84}, "width": {"width": 128}},
        paper="resnet200",
    ),
    # The same steps for 32 px, sized so that the first and last rows cost the same, as in the paper. Layer scale stays
    # off: over a few thousand steps 1e-6 holds the blocks shut.
    "pocket": _Regime(
        base=Design(depths=(1, 2, 2, 1), width=12, stem_stride=2),
        changes={"enhanced-recipe": {}, "stage-ratio": {"depths": "1-1-4-1"}, "width": {"width": 18}},
        paper="resnet50",
        image_size=32,
        in_channels=1,
        num_classes=10,
        labels={
            "resnet": "ResNet (original recipe)",
            "enhanced-recipe": "ResNet (enhanced recipe)",
            "separate-downsampling": "separate d.s. conv (ConvNeXt)",
        },
    ),
}

# The paper prints a jump at `layer-norm` in its ResNet-50 table that counting does not give.
_NOTES = {
    ("resnet50", "layer-norm"): "the paper prints 4.46, but this design counts 4.15 at 224 px: LayerNorm adds no "
    "convolution, and the paper's ResNet-200 table shows no such jump",
    ("resnet50", "separate-downsampling"): "the paper prints 4.49, but this design, ConvNeXt-T, counts 4.46 at 224 px",
}

NAMES = tuple(_REGIMES)


@cache
def paper_rows(regime: str) -> dict[str, PaperRow]:
    """The paper's numbers by row for `resnet50` (Table 10) or `resnet200` (Table 11), Swin's as `swin`."""
    with files("modernize").joinpath("paper/roadmap.csv").open(encoding="utf-8") as file:
        return {
            row["row"]: PaperRow(
                label=row["label"],
                top1=float(row["top1"]),
                top1_std=float(row["top1_std"]) if row["top1_std"] else None,
                gflops=float(row["gflops"]),
                note=_NOTES.get((regime, row["row"]), ""),
            )
            for row in csv.DictReader(file)
            if row["regime"] == regime
        }


@cache
def roadmap(name: str) -> Roadmap:
    """The roadmap `resnet50`, `resnet200` or `pocket`, or at another size: `NAME,flag=value…`.

    Given are the flags of its first row: every row's width grows in proportion, depths by a whole factor, and a flag
    that no step sets is as given in every row. Raises DesignError for another name, or a flag that a step sets.
    """
    base, *settings = name.split(",")
    if base not in _REGIMES:
        raise DesignError(f"unknown roadmap {base!r}: {nearest(base, _REGIMES)}")
    regime = _resized(_REGIMES[base], read_settings(settings, name), base)
    paper = paper_rows(regime.paper)
    rows: list[Row] = []
    extras: list[Row] = []
    design = regime.base
    for step in (*_STEPS, *_EXTRAS):
        changes = regime.changes.get(step.name, step.changes)
        changed = design.with_flags(changes)
        recipe = "original" if step.name == "resnet" else "enhanced"
        printed = paper.get(step.name) or PaperRow(step.label, math.nan, None, math.nan)
        label = regime.labels.get(step.name, printed.label)
        row = Row(step.name, label, step.group, changed, changes, step.adopted, recipe, printed)
        (extras if step in _EXTRAS else rows).append(row)
        design = changed if step in _STEPS and step.adopted else design
    images = regime.image_size, regime.in_channels, regime.num_classes
    return Roadmap(name, base, regime.paper, *images, tuple(rows), tuple(extras))


def _resized(regime: _Regime, flags: dict[str, str], name: str) -> _Regime:
    """A regime from another first row on; raises DesignError for flags that cannot be given."""
    given, base = regime.base.with_flags(flags), regime.base
    deeper, rest = divmod(given.depths[0], base.depths[0])
    deepened = tuple(depth * max(deeper, 1) for depth in base.depths)
    if given.depths != deepened or rest:
        raise DesignError(
            f"depths={plain(given.depths)}: of the first row of {name}, so a multiple of {plain(base.depths)}; "
            f"the nearest value that works is {plain(deepened)}"
        )
    steps = {step.name: regime.changes.get(step.name, step.changes) for step in _STEPS}
    turned = {flag for changes in steps.values() for flag in changes} - {"depths", "width"}
    for flag in given.differences(base):
        if flag in turned:
            raise DesignError(f"{flag}={flags[flag]}: the roadmap {name} turns it, a step after another; leave it out")
    return replace(regime, base=given, changes={step: _grown(steps[step], given, base, deeper) for step in steps})


def _grown(changes: dict[str, Any], given: Design, base: Design, deeper: int) -> dict[str, Any]:
    """A step's changes on a network so much wider and deeper."""
    grown = dict(changes)
    if "width" in changes:
        grown["width"] = round(changes["width"] * given.width / base.width)
    if "depths" in changes:
        grown["depths"] = plain(tuple(int(depth) * deeper for depth in changes["depths"].split("-")))
    return grown
