"""Diagrams: whatever the design, every layer is drawn, nothing overlaps, and two designs' differences are marked."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from commands import ablations_here
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import modernize
from modernize import Design, compile_plan, trace
from modernize.plan import smallest_image
from reports import diagrams, two_designs
from reports.errors import ReportError
from reports.formats import terminal
from reports.numbers import signed

SVG = "{http://www.w3.org/2000/svg}"
DESIGNS = st.builds(
    Design,
    depths=st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple),
    width=st.sampled_from([1, 12, 64, 96, 1000, 6250]),
    stem=st.sampled_from(["resnet", "patchify"]),
    stem_stride=st.integers(1, 16),
    kernel_size=st.sampled_from([1, 3, 7, 11, 999]),
    activation=st.sampled_from(["relu", "gelu"]),
    norm=st.sampled_from(["bn", "ln"]),
    layer_scale=st.sampled_from([None, 1e-6]),
    **{
        name: st.booleans()
        for name in (
            "depthwise",
            "inverted_bottleneck",
            "depthwise_first",
            "fewer_activations",
            "fewer_norms",
            "separate_downsampling",
            "grn",
        )
    },
)


def drawn(svg: str) -> list[tuple[str, str]]:
    """The path and the words of every box of a diagram; fails where it is not valid XML."""
    layers = [one for one in ElementTree.fromstring(svg).iter(f"{SVG}g") if one.get("data-path")]
    return [(str(one.get("data-path")), " ".join(text.text or "" for text in one.iter(f"{SVG}text"))) for one in layers]


def steps_of(design: Design) -> dict[str, str]:
    """Every layer of a design by its path, as the layer table says it: an oracle apart from the diagrams'."""
    plan = compile_plan(design)
    return {step.path: str(step.layer) for step in trace(plan, smallest_image(plan))}


@given(DESIGNS)
@settings(max_examples=150, deadline=None)
def test_every_layer_is_drawn_once(design: Design) -> None:
    boxes = drawn(diagrams.diagram(compile_plan(design), "mine"))
    paths = [path for path, _ in boxes]
    steps = steps_of(design)
    assert len(set(paths)) == len(paths)
    assert set(paths) <= set(steps)
    for path, said in boxes:
        for number in re.findall(r"\d+", steps[path]):  # kernel, channels and stride as the layer table has them
            assert number in said
    # A layer that is not drawn is in a block like one that is: the same layers, strides, and whether it has a shortcut.
    outlines = {_outline(steps, prefix) for prefix in {_block(path) for path in paths if ".blocks." in path}}
    for path in steps:
        if ".blocks." in path:
            assert _outline(steps, _block(path)) in outlines
        elif not re.match(r"stages\.[2-9]", path):
            assert path in paths


def _block(path: str) -> str:
    return ".".join(path.split(".")[:4])


def _outline(steps: dict[str, str], block: str) -> tuple[str, ...]:
    mine = [path for path in steps if path.startswith(f"{block}.")]
    return tuple(path.removeprefix(block) + ("/2" if "stride 2" in steps[path] else "") for path in mine)


@given(DESIGNS)
@settings(max_examples=100, deadline=None)
def test_boxes_do_not_overlap_and_hold_their_words(design: Design) -> None:
    plan = compile_plan(design)
    for part in diagrams.parts(plan):
        drawing = diagrams.draw(part, diagrams.narrowest(diagrams.parts(plan)))
        boxes = list(_boxes(ElementTree.fromstring(f"<svg>{drawing.body}</svg>")))
        for one, other in combinations(boxes, 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, f"{part.title}: {one} and {other} overlap"
        for left, top, right, bottom, words in boxes:
            assert left >= 0 and right <= drawing.width and top >= 0 and bottom <= drawing.height
            assert 6.2 * max(map(len, words)) <= right - left  # the mean letter of 12 px is narrower than that


def _boxes(root: ElementTree.Element) -> list[tuple]:
    """Left, top, right and bottom of each box, and its lines of words."""
    found = []
    for one in root.iter("g"):
        shape, words = one[0], [text.text or "" for text in one.iter("text")]
        if shape.tag == "rect":
            x, y, wide, high = (int(str(shape.get(name))) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + wide, y + high, words))
        else:
            found.append((*_extent(str(shape.get("d"))), words))
    return found


def _extent(path: str) -> tuple[int, int, int, int]:
    """The extent of a path of absolute M, L and H."""
    xs, ys = [], []
    for command, numbers in re.findall(r"([MLH])([-\d ]+)", path):
        values = list(map(int, numbers.split()))
        xs.append(values[0])
        ys += values[1:] if command != "H" else []
    return min(xs), min(ys), max(xs), max(ys)


@given(DESIGNS)
@settings(max_examples=50, deadline=None)
def test_a_design_does_not_differ_from_itself(design: Design) -> None:
    plan = compile_plan(design)
    assert all(not diagrams.changes(part, part) for part in diagrams.every_part(plan))
    svg = diagrams.difference(plan, plan, ("one", "two"))
    assert drawn(svg) == [] and "no flag differs" in svg


@given(DESIGNS, DESIGNS)
@settings(max_examples=100, deadline=None)
def test_differences_are_those_of_the_layers(before: Design, after: Design) -> None:
    plans = compile_plan(before), compile_plan(after)
    svg = diagrams.difference(*plans, ("one", "two"))
    root = ElementTree.fromstring(svg)
    marked = {what: _marked(root, what) for what in ("added", "removed", "changed", "moved")}
    assert len(marked["changed"]) % 2 == len(marked["moved"]) % 2 == 0  # each is marked before and after
    for old, new in diagrams.paired_parts(*plans):
        found = diagrams.changes(old, new)
        here, there = (dict(diagrams.layers_of(part)) if part else {} for part in (old, new))
        gone = [change for change in found if change.what == "removed"]
        come = [change for change in found if change.what == "added"]
        assert len(here) - len(gone) + len(come) == len(there)
        for change in found:
            if "changed" in change.what:
                assert here[str(change.before)] != there[str(change.after)]
    assert ("no flag differs" in svg) == (before == after)


def _marked(root: ElementTree.Element, what: str) -> list[str]:
    return [str(one.get("data-path")) for one in root.iter(f"{SVG}g") if what in (one.get("class") or "").split()]


def test_what_each_step_of_the_roadmap_changes_is_marked() -> None:
    said = {}
    rows = modernize.roadmap("resnet50")
    for name in ("depthwise", "depthwise-first", "kernel-7", "gelu", "fewer-norms", "separate-downsampling"):
        row = rows.row(name)
        before = rows.before(row)
        assert before
        pairs = diagrams.paired_parts(compile_plan(before.design), compile_plan(row.design))
        block = next(pair for pair in pairs if pair[1] and pair[1].role == "block")
        said[name] = {
            (change.what, (change.after or change.before or "").split(".residual.")[-1])
            for change in diagrams.changes(*block)
        }
    assert said["depthwise"] == {("changed", "spatial")}
    assert ("changed moved", "spatial") in said["depthwise-first"]
    assert said["kernel-7"] == {("changed", "spatial")}
    assert {what for what, _ in said["gelu"]} == {"changed"} and len(said["gelu"]) == 3  # 2 inside, 1 after the sum
    assert said["fewer-norms"] == {("removed", "pointwise1_norm"), ("removed", "pointwise2_norm")}
    assert said["separate-downsampling"] == set()  # it changes what is between stages, not their blocks


def test_badges_lie_beside_the_words_and_a_change_of_bias_is_explained() -> None:
    plans = [compile_plan(modernize.design(f"pocket@{row}"), 1) for row in ("gelu", "separate-downsampling")]
    svg = diagrams.difference(plans[0], plans[1], ("before", "after"))
    assert diagrams.words(diagrams.parts(plans[0])[0])[0] == "1 channel" and "biases with norm=ln" in svg
    assert "biases" not in diagrams.difference(plans[0], plans[0], ("before", "after"))
    marked = re.findall(r'<g class="layer [^"]*(?:changed|removed|added)".*?</g>', svg)
    assert len(marked) > 10
    for layer in marked:
        badge = re.search(r'<rect class="badge" x="(\d+)" y="\d+" width="(\d+)"', layer)
        words = [
            (int(x), said) for x, said in re.findall(r'<text (?:class="(?:name|small)" )?x="(\d+)"[^>]*>([^<]+)', layer)
        ]
        assert badge and words
        assert all(x - 7.5 * len(said) / 2 >= int(badge[1]) + int(badge[2]) for x, said in words), layer


def test_names_are_escaped() -> None:
    name = '<script>alert("1")</script> & \x00\x1b'
    plans = compile_plan(Design()), compile_plan(replace(Design(), kernel_size=5))
    for svg in (diagrams.diagram(plans[0], name), diagrams.difference(*plans, (name, name))):
        root = ElementTree.fromstring(svg)
        assert not list(root.iter(f"{SVG}script"))
        assert any('<script>alert("1")</script> &' in (text.text or "") for text in root.iter(f"{SVG}text"))


def test_show_writes_the_diagram_and_says_where(tmp_path: Path) -> None:
    out = tmp_path / "block.svg"
    shown = ablations_here("show", "convnext_tiny", "--diagram", out)
    assert shown.returncode == 0 and str(out) in shown.stdout.replace("\n", "")
    assert out.read_text() == diagrams.diagram(compile_plan(modernize.design("convnext_tiny")), "convnext_tiny")


@pytest.mark.parametrize("name", ["block.png", "file/block.svg"])
def test_a_diagram_that_cannot_be_written_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    shown = ablations_here("show", "resnet50", "--diagram", tmp_path / name)
    assert shown.returncode in (1, 2) and len(shown.stderr.strip().splitlines()) == 1 and name in shown.stderr


# Two designs in numbers ----------------------------------------------------------------------------------------------


def test_compare_says_flags_costs_and_the_papers_numbers(tmp_path: Path) -> None:
    out = tmp_path / "difference.svg"
    said = ablations_here("compare", "resnet50@depthwise", "resnet50@kernel-7", "--diagram", out)
    assert said.returncode == 0, said.stderr
    lines = {re.split(r"\s{2,}", line.strip())[0]: line for line in said.stdout.splitlines()}
    costs = [modernize.count(f"resnet50@{row}") for row in ("depthwise", "kernel-7")]
    assert all(f"{cost.params:,}" in lines["parameters"] for cost in costs)
    assert all(f"{cost.macs:,}" in lines["MACs"] for cost in costs)
    assert lines["kernel_size"].split() == ["kernel_size", "3", "7"] and "stem" not in lines
    assert "+2.29" in lines["top-1 (%), the paper's"]
    assert set(drawn(out.read_text()))


@pytest.mark.parametrize(
    "arguments",
    [
        ("resnet50", "resnet51"),
        ("resnet50", "convnext_tiny", "--results", "no-such-folder"),
        ("resnet50", "convnext_tiny", "--image-size", "1"),
        ("resnet50", "convnext_tiny", "--diagram", "out.png"),
    ],
)
def test_a_wrong_comparison_is_one_line(arguments: tuple[str, ...]) -> None:
    said = ablations_here("compare", *arguments)
    assert said.returncode == 2 and len(said.stderr.strip().splitlines()) == 1 and not said.stdout


def study_runs() -> tuple[pd.DataFrame, dict[str, dict]]:
    """A study of two designs with three seeds, and of the first one with another recipe."""
    top1 = {"base": (80.0, 81.0, 82.0), "ours": (82.0, 82.5, 84.5), "other": (90.0, 90.0, 90.0)}
    lines = [
        {
            "study": "s",
            "row": row,
            "seed": seed,
            "status": "done",
            "top1": value,
            "recipe": "b" if row == "other" else "a",
        }
        for row, values in top1.items()
        for seed, value in enumerate(values)
    ]
    base, ours = Design().flags(), Design(kernel_size=7).flags()
    return pd.DataFrame(lines), {"other": base, "base": base, "ours": ours}


def test_accuracies_are_those_of_the_rows_with_these_flags_and_one_recipe() -> None:
    runs, designs = study_runs()
    sides = two_designs.Side("one", Design(), 1, 1), two_designs.Side("two", Design(kernel_size=7), 2, 2)
    measured = two_designs.measure(runs, designs, sides)
    low, high = measured.line["low"], measured.line["high"]
    pooled = stats.ttest_ind([82.0, 82.5, 84.5], [80.0, 81.0, 82.0]).confidence_interval(0.95)
    assert measured.line["difference"] == pytest.approx(2.0)
    assert low <= pooled.low < pooled.high <= high  # two rows say little of how much spreads differ
    said = terminal(two_designs.two_designs_table(*sides, "images", measured), 120)
    assert "p-value of one comparison" in " ".join(said.split()) and "If you chose this pair after" in said
    assert "81.00 ± 1.00" in said and "83.00 ± 1.32" in said and f"({signed(low, 2)} to {signed(high, 2)})" in said


def test_why_there_is_no_difference_is_said_with_what_became_of_the_runs() -> None:
    runs, designs = study_runs()
    lost = runs["row"] == "base"
    runs = runs.assign(reason=None)
    runs.loc[lost, ["status", "top1", "reason"]] = ["failed", None, "out of memory"]
    sides = two_designs.Side("one", Design(), 1, 1), two_designs.Side("two", Design(kernel_size=7), 2, 2)
    table = two_designs.two_designs_table(*sides, "images", two_designs.measure(runs, designs, sides))
    said = table.frame.set_index("what").loc["top-1 (%), ours", "difference"]
    assert str(said).startswith("not tested: baseline failed: base: seeds 0, 1, 2 failed (out of memory)")


def test_a_study_without_the_design_is_refused_by_name() -> None:
    runs, designs = study_runs()
    sides = two_designs.Side("one", Design(), 1, 1), two_designs.Side("mine", Design(width=7), 2, 2)
    with pytest.raises(ReportError, match="no row of study s is mine"):
        two_designs.measure(runs, designs, sides)
