"""Roadmaps from ResNet to ConvNeXt, one flag at a time, with the paper's results (section 2, Tables 10 and 11)."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from modernize.design import Design, DesignError, nearest, plain, read_object, read_settings


@dataclass(frozen=True)
class PaperRow:
    """The paper's results for a row; NaN for a row that is not in the paper.

    Attributes:
        label: Name of the row in the paper.
        top1: ImageNet top-1 (%).
        top1_std: Standard deviation of top-1 over 3 seeds (pp); None if not printed.
        gflops: GFLOPs as printed.
        note: Remark on a printed value that disagrees with the design.
    """

    label: str
    top1: float
    top1_std: float | None
    gflops: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a roadmap.

    Attributes:
        name: Name, as in `resnet50@NAME`.
        label: Name for tables.
        group: The paper's heading for the roadmap step.
        design: The row's design.
        changes: Flags that the row changes relative to the last adopted row before it.
        adopted: Whether later rows build on this one.
        recipe: `original` or `enhanced` training recipe.
        paper: The paper's results.
    """

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
    """Rows from a ResNet to a ConvNeXt, and the images for which they are counted.

    Attributes:
        name: Name, as given to `roadmap`.
        base: Name without flags.
        regime: The paper's table: `resnet50` or `resnet200`.
        image_size: Resolution in pixels.
        in_channels: Channels of the images.
        num_classes: Number of classes.
        rows: The paper's rows.
        extras: Rows beyond the paper's, each one step from the last adopted row.
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
        """Return the row of a name.

        Raises:
            DesignError: If there is no such row.
        """
        read_object("name", name, str, "the name of a row, such as 'depthwise'")
        known = (*self.rows, *self.extras)
        for row in known:
            if row.name == name:
                return row
        raise DesignError(f"unknown row {name!r} of roadmap {self.name}: {nearest(name, [r.name for r in known])}")

    def before(self, row: Row) -> Row | None:
        """Return the last adopted row before `row`, to which `row.changes` apply; None for the first row."""
        read_object("row", row, Row, "a row of this roadmap")
        earlier = self.rows if row in self.extras else self.rows[: self.rows.index(row)]
        return next((other for other in reversed(earlier) if other.adopted), None)


@dataclass(frozen=True)
class _Step:
    """A roadmap step that holds for networks of all sizes."""

    name: str
    group: str
    changes: dict[str, Any] = field(default_factory=dict)
    adopted: bool = True
    label: str = ""  # empty: the paper's label


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

# Beyond the paper: ConvNeXt V2 (Woo et al., 2023) replaces layer scale by this norm.
_EXTRAS = (_Step("grn", "ConvNeXt V2", {"grn": True, "layer_scale": None}, label="response norm (ConvNeXt V2)"),)


@dataclass(frozen=True)
class _Regime:
    """What differs between roadmaps: the first row, and the changes of the steps that depend on its size."""

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
    # The same steps for 32 px. As in the paper, the first and last rows cost about the same. Layer scale stays off:
    # at 1e-6, residual branches stay near zero for the first few thousand training steps.
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

# The paper's ResNet-50 table has a jump at `layer-norm` that its designs do not have.
_NOTES = {
    ("resnet50", "layer-norm"): "the paper prints 4.46, but this design counts 4.15 at 224 px: LayerNorm adds no "
    "convolution, and the paper's ResNet-200 table shows no such jump",
    ("resnet50", "separate-downsampling"): "the paper prints 4.49, but this design, ConvNeXt-T, counts 4.46 at 224 px",
}

NAMES = tuple(_REGIMES)


@cache
def paper_rows(regime: str) -> dict[str, PaperRow]:
    """Return the paper's results per row for `resnet50` (Table 10) or `resnet200` (Table 11); Swin's are `swin`."""
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


def roadmap(name: str) -> Roadmap:
    """Return a roadmap, as shipped or resized.

    Args:
        name: `resnet50`, `resnet200` or `pocket`, and optionally flags of the first row, as in `pocket,width=24`. The
            widths of all rows grow in proportion, and depths by an integer factor. A flag that no step sets keeps
            its value in every row.

    Returns:
        The roadmap.

    Raises:
        DesignError: If the name is unknown, a value is invalid, or a step sets the flag.
    """
    return _roadmap(read_object("name", name, str, f"a roadmap's name: {', '.join(NAMES)}"))


@cache
def _roadmap(name: str) -> Roadmap:
    """Return the roadmap of a name."""
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
    """Return a regime with another first row; raises DesignError if it cannot start with these flags."""
    first, base = regime.base.with_flags(flags), regime.base
    deeper, rest = divmod(first.depths[0], base.depths[0])
    deepened = tuple(depth * max(deeper, 1) for depth in base.depths)
    if first.depths != deepened or rest:
        raise DesignError(
            f"depths={plain(first.depths)}: the first row of {name} needs a multiple of {plain(base.depths)}; "
            f"nearest valid value: {plain(deepened)}"
        )
    steps = {step.name: regime.changes.get(step.name, step.changes) for step in _STEPS}
    stepped = {flag for changes in steps.values() for flag in changes} - {"depths", "width"}
    for flag in first.differences(base):
        if flag in stepped:
            raise DesignError(f"{flag}={flags[flag]}: a step of the roadmap {name} sets this flag; leave it out")
    return replace(regime, base=first, changes={step: _grown(steps[step], first, base, deeper) for step in steps})


def _grown(changes: dict[str, Any], first: Design, base: Design, deeper: int) -> dict[str, Any]:
    """Scale a step's width and depths from the shipped first row `base` to the first row `first`."""
    grown = dict(changes)
    if "width" in changes:
        grown["width"] = round(changes["width"] * first.width / base.width)
    if "depths" in changes:
        grown["depths"] = plain(tuple(int(depth) * deeper for depth in changes["depths"].split("-")))
    return grown
