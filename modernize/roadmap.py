"""The roadmaps: ResNet to ConvNeXt one flag at a time (paper section 2, Tables 10 and 11), and the paper's numbers."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from modernize.design import Design, DesignError, nearest


@dataclass(frozen=True)
class PaperRow:
    """What the paper prints for a row: top-1 on ImageNet in percent, its standard deviation over 3 seeds, GFLOPs."""

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
    """Rows from a ResNet to a ConvNeXt, and the images and classes they are counted for."""

    name: str
    regime: str
    image_size: int
    in_channels: int
    num_classes: int
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row of that name; raises DesignError if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise DesignError(f"unknown row {name!r} of roadmap {self.name}: {nearest(name, [r.name for r in self.rows])}")

    def before(self, row: Row) -> Row | None:
        """The last adopted row before `row`: what the row is one step from."""
        earlier = [other for other in self.rows[: self.rows.index(row)] if other.adopted]
        return earlier[-1] if earlier else None


@dataclass(frozen=True)
class _Step:
    name: str
    group: str
    changes: dict[str, Any] = field(default_factory=dict)
    adopted: bool = True


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
    """The roadmap `resnet50`, `resnet200` or `pocket`; raises DesignError for another name."""
    if name not in _REGIMES:
        raise DesignError(f"unknown roadmap {name!r}: {nearest(name, _REGIMES)}")
    regime = _REGIMES[name]
    paper = paper_rows(regime.paper)
    rows = []
    design = regime.base
    for step in _STEPS:
        changes = regime.changes.get(step.name, step.changes)
        changed = design.with_flags(changes)
        recipe = "original" if step.name == "resnet" else "enhanced"
        label = regime.labels.get(step.name, paper[step.name].label)
        rows.append(Row(step.name, label, step.group, changed, changes, step.adopted, recipe, paper[step.name]))
        design = changed if step.adopted else design
    return Roadmap(name, regime.paper, regime.image_size, regime.in_channels, regime.num_classes, tuple(rows))
