"""The roadmaps: the paper's rows, each one step from the one before it, at the paper's cost."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import modernize
from modernize import Design, DesignError
from modernize.roadmap import NAMES, Roadmap, Row, roadmap

PAPER_ROADMAPS = ("resnet50", "resnet200")
with (Path(__file__).parent / "paper_roadmap.csv").open(encoding="utf-8") as _file:
    PRINTED = list(csv.DictReader(_file))

# What each row changes over the last adopted one before it, in all roadmaps and in each.
STATED: dict[str, dict[str, Any]] = {
    "resnet": {},
    "enhanced-recipe": {"layer_scale": 1e-6},
    "stage-ratio": {},
    "patchify-stem": {"stem": "patchify"},
    "depthwise": {"depthwise": True},
    "width": {},
    "inverted-bottleneck": {"inverted_bottleneck": True},
    "depthwise-first": {"depthwise_first": True},
    "kernel-5": {"kernel_size": 5},
    "kernel-7": {"kernel_size": 7},
    "kernel-9": {"kernel_size": 9},
    "kernel-11": {"kernel_size": 11},
    "gelu": {"activation": "gelu"},
    "fewer-activations": {"fewer_activations": True},
    "fewer-norms": {"fewer_norms": True},
    "layer-norm": {"norm": "ln"},
    "separate-downsampling": {"separate_downsampling": True},
}
STATED_HERE: dict[str, dict[str, dict[str, Any]]] = {
    "resnet50": {"stage-ratio": {"depths": "3-3-9-3"}, "width": {"width": 96}},
    "resnet200": {"stage-ratio": {"depths": "3-3-27-3", "width": 84}, "width": {"width": 128}},
    "pocket": {"enhanced-recipe": {}, "stage-ratio": {"depths": "1-1-4-1"}, "width": {"width": 18}},
}
SIDE_BRANCHES = ("kernel-5", "kernel-9", "kernel-11")
NOTED = {("resnet50", "layer-norm"): ("4.15", "4.46"), ("resnet50", "separate-downsampling"): ("4.46", "4.49")}


def rows(names: tuple[str, ...] = PAPER_ROADMAPS) -> list[Any]:
    return [pytest.param(name, row, id=f"{name}@{row.name}") for name in names for row in roadmap(name).rows]


def printed(regime: str, kind: tuple[str, ...] = ("yes", "no")) -> list[dict[str, str]]:
    return [row for row in PRINTED if row["regime"] == regime and row["adopted"] in kind]


def two_decimals(row: Row, steps: Roadmap) -> str:
    return f"{modernize.count(row.design, steps.image_size, steps.in_channels, steps.num_classes).gflops:.2f}"


# The paper's rows ----------------------------------------------------------------------------------------------------


def test_there_are_thirty_four_rows_under_the_papers_names() -> None:
    for name in PAPER_ROADMAPS:
        assert [row.name for row in roadmap(name).rows] == [row["row"] for row in printed(name)]
    assert sum(len(roadmap(name).rows) for name in PAPER_ROADMAPS) == 34


@pytest.mark.parametrize(("name", "row"), rows())
def test_a_row_costs_what_the_paper_prints(name: str, row: Row) -> None:
    counted, paper = two_decimals(row, roadmap(name)), f"{row.printed.gflops:.2f}"
    if (name, row.name) in NOTED:
        assert (counted, paper) == NOTED[name, row.name]
    else:
        assert counted == paper


@pytest.mark.parametrize(("name", "row"), rows())
def test_a_note_stands_exactly_where_count_and_paper_differ(name: str, row: Row) -> None:
    assert bool(row.note) == ((name, row.name) in NOTED)
    for figure in NOTED.get((name, row.name), ()):
        assert figure in row.note


@pytest.mark.parametrize(("name", "row"), rows())
def test_a_row_has_the_papers_facts(name: str, row: Row) -> None:
    (fact,) = [fact for fact in printed(name) if fact["row"] == row.name]
    assert row.label == fact["label"]
    assert row.adopted == (fact["adopted"] == "yes")
    assert (row.printed.top1, row.printed.gflops) == (float(fact["top1"]), float(fact["gflops"]))
    assert str(row.printed.top1_std) == str(float(fact["top1_std"] or "nan"))


# The steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_each_row_changes_the_flags_stated_over_the_last_adopted_one(name: str) -> None:
    steps = roadmap(name)
    assert {row.name for row in steps.rows} == set(STATED)
    adopted = steps.rows[0].design
    for row in steps.rows:
        stated = STATED_HERE[name].get(row.name, STATED[row.name])
        assert row.design.differences(adopted) == stated == row.changes
        adopted = row.design if row.adopted else adopted


@pytest.mark.parametrize("name", NAMES)
def test_each_row_but_the_first_knows_the_one_before_it(name: str) -> None:
    steps = roadmap(name)
    assert steps.before(steps.rows[0]) is None
    assert steps.before(steps.row("stage-ratio")) is steps.row("enhanced-recipe")
    assert steps.before(steps.row("kernel-11")) is steps.row("kernel-7")
    assert steps.before(steps.row("gelu")) is steps.row("kernel-7")
    for row in steps.rows[1:]:
        earlier = steps.before(row)
        assert earlier is not None and earlier.adopted
        assert row.design == earlier.design.with_flags(row.changes)


@pytest.mark.parametrize("name", NAMES)
def test_all_rows_but_the_side_branches_are_adopted(name: str) -> None:
    assert tuple(row.name for row in roadmap(name).rows if not row.adopted) == SIDE_BRANCHES


@pytest.mark.parametrize("name", NAMES)
def test_side_branches_differ_from_kernel_7_in_the_kernel_alone(name: str) -> None:
    kernel_7 = roadmap(name).row("kernel-7").design
    for side in SIDE_BRANCHES:
        size = int(side.removeprefix("kernel-"))
        assert roadmap(name).row(side).design.differences(kernel_7) == {"kernel_size": size}
    assert kernel_7.differences(roadmap(name).row("depthwise-first").design) == {"kernel_size": 7}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_row_alone_has_the_original_recipe(name: str) -> None:
    assert [row.original_recipe for row in roadmap(name).rows] == [True] + [False] * 16
    assert not any(row.recipe or row.recipe_changes for row in roadmap(name).rows)


@pytest.mark.parametrize(
    ("name", "depths", "width", "stem_stride"),
    [("resnet50", (3, 4, 6, 3), 64, 4), ("resnet200", (3, 24, 36, 3), 64, 4), ("pocket", (1, 2, 2, 1), 12, 2)],
)
def test_the_first_row_is_the_resnet(name: str, depths: tuple[int, ...], width: int, stem_stride: int) -> None:
    first = roadmap(name).rows[0]
    assert first.design == Design(depths=depths, width=width, stem_stride=stem_stride)
    assert modernize.MODELS[name] == first.design


@pytest.mark.parametrize(("name", "model"), [("resnet50", "convnext_tiny"), ("resnet200", "convnext_base")])
def test_the_last_row_is_the_convnext(name: str, model: str) -> None:
    assert roadmap(name).rows[-1].design == modernize.MODELS[model]


@pytest.mark.parametrize("name", PAPER_ROADMAPS)
def test_the_papers_roadmaps_are_for_imagenet(name: str) -> None:
    steps = roadmap(name)
    assert (steps.name, steps.base) == (name, name)
    assert (steps.image_size, steps.in_channels, steps.num_classes) == (224, 3, 1000)


# The pocket roadmap --------------------------------------------------------------------------------------------------


def test_the_pocket_roadmap_starts_and_ends_at_the_same_cost() -> None:
    steps = roadmap("pocket")
    shape = (steps.image_size, steps.in_channels, steps.num_classes)
    first, last = (modernize.count(steps.rows[index].design, *shape) for index in (0, -1))
    assert abs(last.macs / first.macs - 1) < 0.15


def test_the_pocket_roadmap_has_no_layer_scale() -> None:
    assert all(row.design.layer_scale is None for row in roadmap("pocket").rows)


def test_the_pocket_roadmap_is_for_small_images() -> None:
    steps = roadmap("pocket")
    assert steps.image_size == 32


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "row"), rows(NAMES))
def test_a_name_goes_up_to_its_row(name: str, row: Row) -> None:
    assert modernize.design(f"{name}@{row.name}") == row.design
    assert roadmap(name).row(row.name) is row


def test_an_unknown_roadmap_or_row_is_refused_with_the_nearest() -> None:
    with pytest.raises(DesignError, match=r"^unknown roadmap 'resnet20': did you mean 'resnet200'\?$"):
        roadmap("resnet20")
    with pytest.raises(DesignError, match=r"^unknown row 'depthwize' of roadmap pocket: did you mean 'depthwise'\?$"):
        roadmap("pocket").row("depthwize")
    with pytest.raises(DesignError, match=r"known: resnet, enhanced-recipe, .*separate-downsampling, grn$"):
        roadmap("pocket").row("#")


# At other sizes, and beyond the paper


def test_a_roadmap_at_another_size_grows_all_rows_alike() -> None:
    plain, grown = roadmap("pocket"), roadmap("pocket,width=24,depths=2-4-4-2,stem_stride=1")
    assert (grown.base, grown.image_size) == ("pocket", 32)
    for small, large in zip(plain.rows, grown.rows, strict=True):
        assert (small.name, small.label, small.adopted) == (large.name, large.label, large.adopted)
        doubled = {"width": 2 * small.design.width, "depths": tuple(2 * depth for depth in small.design.depths)}
        assert large.design == small.design.with_flags(doubled | {"stem_stride": 1})
    assert roadmap("resnet50,width=32").row("width").design.width == 48
    assert roadmap("resnet50").rows == roadmap("resnet50,width=64").rows


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pocket,depths=2-2-2-1", "depths=2-2-2-1: the first row of pocket needs a multiple of 1-2-2-1; nearest valid"),
        ("pocket,depths=1-2-2", "nearest valid value: 1-2-2-1"),
        ("resnet50,depths=1-1-2-1", "nearest valid value: 3-4-6-3"),
        ("pocket,norm=ln", "norm=ln: a step of the roadmap pocket sets this flag; leave it out"),
        ("resnet50,layer_scale=1e-6", "layer_scale=1e-6: a step of the roadmap resnet50 sets this flag"),
        ("pocket,width=0", "width=0: must be from 1 to 100000"),
        ("pocket,widht=24", "unknown flag 'widht': did you mean 'width'?"),
        ("pocket,width", "'width' in 'pocket,width': write flag=value"),
        ("poket,width=24", "unknown roadmap 'poket': did you mean 'pocket'?"),
    ],
)
def test_a_size_that_no_roadmap_has_is_refused(name: str, words: str) -> None:
    with pytest.raises(DesignError) as caught:
        roadmap(name)
    assert words in str(caught.value)


def test_grn_is_a_step_from_the_papers_last_row_and_makes_it_convnext_v2() -> None:
    for name in NAMES:
        steps = roadmap(name)
        (extra,) = steps.extras
        assert extra.name == "grn" and extra not in steps.rows and steps.row("grn") is extra
        assert steps.before(extra) is steps.rows[-1]
        assert extra.design == steps.rows[-1].design.with_flags({"grn": True, "layer_scale": None})
        assert extra.printed.top1 != extra.printed.top1 and extra.printed.gflops != extra.printed.gflops  # NaN
    assert modernize.design("resnet50@grn") == modernize.MODELS["convnextv2_tiny"]
