"""Figures: every word can be read whatever a study holds, every mark stands where the runs put it, and no more."""

from __future__ import annotations

import itertools
import math
import re
import statistics
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legible import assert_readable, visible_texts
from made_up import made_up_study, usual_top1
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ablations.reporting import read_report
from ablations.studies.folder import run_folder
from ablations.studies.run import RunConfig
from reports.figures.curves import POINTS, _thinned
from reports.figures.effects import BETTER, INCONCLUSIVE, UNTESTED, WORSE
from reports.figures.forest import Line, axis_range
from reports.figures.label_placement import Box, place_labels
from reports.figures.numbered_points import Point, number_points
from reports.figures.style import log_ticks, text_width, ticks, wrap
from reports.figures.tradeoff import pareto_front
from reports.numbers import signed
from reports.report import Plot, Report

ROADMAP = ("roadmap", "steps", "against-paper", "tradeoff", "curves-loss", "curves-top1")
BENCH = [
    {"row": row, "batch_size": 64, "device": "some GPU", "latency_ms": latency, "inference_images_per_second": 1000.0}
    for row, latency in (("resnet", 1.5), ("gelu", 1.25), ("width", 2.0))
]


def ragged(run: RunConfig) -> Mapping[str, Any] | None:
    """A study in which everything that can be amiss is amiss."""
    if run.row == "stage-ratio" or (run.row == "width" and run.seed == 1):
        return None
    if run.row == "depthwise":
        return {"status": "failed", "reason": "the loss is nan at step 120 of 1000"}
    if run.row == "fewer-norms":
        return {"status": "stopped"}
    if run.row == "gelu" and run.seed == 2:
        return {"status": "failed", "reason": "out of memory"}
    return {"top1": 10.0 + run.seed} if run.row == "layer-norm" else {"note": "batch of 64"} if run.seed == 0 else {}


def nearly_equal(run: RunConfig) -> Mapping[str, Any]:
    return {"top1": 85 + 0.2 * run.seed} if run.row in ("gelu", "kernel-7", "width", "layer-norm") else {}


def wild(run: RunConfig) -> Mapping[str, Any]:
    """Values that would squeeze the others together."""
    return {"top1": {"with-depthwise": 1.0 + 30 * run.seed, "with-norm": 99.8}.get(run.row, usual_top1(run))}


def failing(run: RunConfig) -> Mapping[str, Any]:
    return {"status": "failed", "reason": "out of memory"}


LONG = "pocket,depths=1-1,width=8,stem_stride=1,layer_scale=0.0001"
GRID = {"kernel_size": [3, 5, 7], "depths": ["1-2-2-1", "1-1-4-1", "12-24-36-12"]}
STUDIES: dict[str, dict[str, Any]] = {
    "three seeds": {},
    "one seed": {"seeds": (0,)},
    "ragged": {"outcome": ragged},
    "nearly equal": {"outcome": nearly_equal},
    "all failed": {"outcome": failing},
    "nothing begun": {"outcome": lambda run: None},
    "one in": {"kind": "one-in"},
    "one in, one seed": {"kind": "one-in", "seeds": (3,)},
    "wild": {"kind": "one-in", "outcome": wild},
    "long names": {"kind": "one-in", "base": LONG, "end": "pocket@kernel-7"},
    "one out": {"kind": "one-out"},
    "sweep": {"kind": "sweep", "flags": {"kernel_size": [3, 5, 7]}},
    "one row": {"kind": "sweep", "flags": {"kernel_size": [3]}},
    "grid": {
        "kind": "grid",
        "flags": GRID,
        "outcome": lambda run: (
            None if "=7,depths=1-1" in run.row else failing(run) if "=3,depths=1-2" in run.row else {}
        ),
    },
    "grid of three": {
        "kind": "grid",
        "flags": {"norm": ["bn", "ln"], "kernel_size": [3, 5, 7], "fewer_activations": [False, True]},
        "outcome": lambda run: failing(run) if run.row.startswith("norm=ln,kernel_size=7") else {},
    },
    "orders": {"kind": "orders", "orders": 8, "flags": ["depthwise", "norm", "kernel_size", "activation"]},
    "many rows": {"kind": "orders", "orders": 5, "seeds": (0,)},
    "recipes": {"kind": "recipes"},
}


@pytest.fixture(scope="module")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """The report of a study by its name here, made once."""
    made: dict[str, Report] = {}

    def make(name: str) -> Report:
        if name not in made:
            folder = tmp_path_factory.mktemp("studies") / "study"
            made[name] = read_report(made_up_study(folder, **STUDIES[name]), folder)
        return made[name]

    return make


def plot_of(report: Report, name: str) -> Plot:
    return next(plot for plot in report.plots if plot.name == name)


def top1_of(report: Report, row: str) -> list[float]:
    """The results of a row, from the report's raw runs."""
    runs = report.runs
    return [float(value) for value in runs[(runs["row"] == row) & (runs["status"] == "done")]["top1"]]


def words_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in visible_texts(figure)]


# ---- every figure


def test_each_kind_of_study_has_its_figures(report_of: Callable[[str], Report]) -> None:
    curves = ("curves-loss", "curves-top1", "classes", "confusion")
    expected = {
        "three seeds": (*ROADMAP, "classes", "confusion"),
        "nothing begun": ("roadmap", "steps"),
        "all failed": ("roadmap", "steps", *curves[:2]),
        "one in": ("one-in", "tradeoff", *curves),
        "one out": ("one-out", "tradeoff", *curves),
        "sweep": ("sweep-kernel_size", "tradeoff", *curves),
        "one row": ("tradeoff", *curves),
        "grid": ("heatmap", "interaction", "grid-effects", "grid", "tradeoff", *curves),
        "grid of three": ("interaction", "grid-effects", "grid", "tradeoff", *curves),
        "orders": ("worths", "worth-interactions", "tradeoff", *curves),
        "recipes": ("recipes", "tradeoff", *curves),
    }
    assert {name: tuple(plot.name for plot in report_of(name).plots) for name in expected} == expected


@pytest.mark.parametrize("name", STUDIES)
def test_every_word_of_every_figure_can_be_read(name: str, report_of: Callable[[str], Report]) -> None:
    report = report_of(name)
    for plot in report.plots:
        texts = " ".join(assert_readable(plot.figure))
        labels = report.runs["label"].unique()
        if plot.name not in ("heatmap", "worths", "worth-interactions", "classes", "confusion") and name != "many rows":
            for label in labels if plot.name != "against-paper" else labels[1:]:
                assert set(re.split(r"[ ,_=]", label)) <= set(re.split(r"[ ,_=]", texts)), (plot.name, label)
        assert set(plot.title.split()) <= set(texts.split()), plot.name


@pytest.mark.parametrize("name", ["ragged", "grid"])
def test_runs_without_a_result_are_in_every_figure(name: str, report_of: Callable[[str], Report]) -> None:
    report = report_of(name)
    expected = {"failed", "pending"} if name == "grid" else {"failed", "pending", "interrupted"}
    for plot in report.plots:
        words = " ".join(words_of(plot.figure))
        if plot.name in ("classes", "confusion"):
            assert ("No finished run: " in words) == (plot.name == "classes")
        else:
            assert all(word in words for word in expected) or "no result for" in words, plot.name
    assert set(report.unfinished["status"]) == {"failed", "left"} | ({"stopped"} if name == "ragged" else set())


@pytest.mark.parametrize("name", ["one seed", "grid", "orders"])
def test_files_are_valid_and_their_fonts_come_with_them(name: str, report_of: Callable[[str], Report]) -> None:
    for plot in report_of(name).plots:
        svg = ElementTree.fromstring(plot.encoded("svg"))
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"
        assert not list(svg.iter("{http://www.w3.org/2000/svg}text"))  # glyphs are paths: no font is asked for
        assert not re.search(rb"(href|src)=\"(?!#|data:)", plot.svg)
        pdf = plot.encoded("pdf")
        assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
        fonts = re.findall(rb"/Type /FontDescriptor.*?endobj", pdf, re.DOTALL)
        assert fonts and all(b"/FontFile2 " in font for font in fonts), plot.name
        assert b"/Type3" not in pdf
        png = plot.encoded("png")
        assert png.startswith(b"\x89PNG") and len(png) > 10_000


def test_no_two_kinds_of_mark_are_told_apart_by_colour_alone() -> None:
    shapes = [(look.marker, look.filled) for look in (BETTER, WORSE, INCONCLUSIVE, UNTESTED)]
    assert len(set(shapes)) == len(shapes)


# ---- marks stand where the runs put them


def marks(axes: Axes, *shapes: str) -> list[tuple[float, float]]:
    """The places of the marks of some shapes."""
    found = []
    for line in axes.lines:
        if line.get_marker() in shapes and len(np.atleast_1d(line.get_xdata())) == 1:
            found.append((float(np.atleast_1d(line.get_xdata())[0]), float(np.atleast_1d(line.get_ydata())[0])))
    return found


def bars_at(axes: Axes, y: float, width: float) -> list[tuple[float, float]]:
    """The ends of the horizontal lines of a width at a height."""
    ends = []
    for line in axes.lines:
        xs, ys = (np.asarray(part, dtype=float) for part in (line.get_xdata(), line.get_ydata()))
        if len(xs) == 2 and (ys == y).all() and line.get_linewidth() == width:
            ends.append((float(xs[0]), float(xs[1])))
    return ends


def test_effects_stand_at_the_differences_of_the_means(report_of: Callable[[str], Report]) -> None:
    report = report_of("one in")
    figure = plot_of(report, "one-in").figure
    panel = figure.axes[1]
    rows = [row for row in report.runs["row"].unique() if row != "base"]
    means = {row: statistics.mean(top1_of(report, row)) for row in ("base", *rows)}
    expected = sorted((means[row] - means["base"] for row in rows), reverse=True)
    placed = sorted(marks(panel, "o", "s"), key=lambda place: place[1])
    assert [x for x, _ in placed] == pytest.approx(expected)
    frame = plot_of(report, "one-in").frame.iloc[:-1]  # the base has no difference
    for (_, y), low, high in zip(placed, frame["low"], frame["high"], strict=True):
        assert bars_at(panel, y, 1.8) == [(pytest.approx(low), pytest.approx(high))]
    words = words_of(figure)
    assert [word for word in words if word in set(frame["verdict"])][: len(frame)] == list(frame["verdict"])


def test_one_seed_has_differences_without_intervals_or_verdicts(report_of: Callable[[str], Report]) -> None:
    report = report_of("one in, one seed")
    figure = plot_of(report, "one-in").figure
    assert words_of(figure).count("not tested: one seed") == 12
    assert not [line for line in figure.axes[1].lines if line.get_linewidth() == 1.8]


def test_one_seed_has_neither_bands_nor_error_bars(report_of: Callable[[str], Report]) -> None:
    for name, there in (("one seed", False), ("three seeds", True)):
        report = report_of(name)
        curves = plot_of(report, "curves-loss").figure
        assert bool(curves.findobj(PolyCollection)) == there
        tradeoff = plot_of(report, "tradeoff").figure
        bars = [line for line in tradeoff.axes[0].lines if line.get_linewidth() == 0.9]
        assert len(bars) == (17 if there else 0)
        assert any("standard deviation" in word for word in words_of(tradeoff)) == there


def test_values_far_off_are_arrows_and_do_not_squeeze_the_others(report_of: Callable[[str], Report]) -> None:
    report = report_of("wild")
    figure = plot_of(report, "one-in").figure
    low, high = figure.axes[1].get_xlim()
    assert -20 < low < 0 < high < 12
    assert len(marks(figure.axes[1], "<")) == len(marks(figure.axes[1], ">")) == 1
    means = {row: statistics.mean(top1_of(report, row)) for row in ("base", "with-norm", "with-depthwise")}
    for row in ("with-norm", "with-depthwise"):
        assert signed(means[row] - means["base"], 2) in words_of(figure)
    assert "off the axis" in words_of(figure)


def test_a_value_that_at_most_doubles_the_axis_is_on_it() -> None:
    def ends(*values: float) -> tuple[float, float]:
        return axis_range([Line(str(value), value, value, value, (), BETTER) for value in values])

    low, high = ends(-3.36, -3.03, 2.02)
    assert low < -3.36 and high > 2.02, "two of three values are close to each other, and not far from the third"
    low, high = ends(-0.3, -0.1, 0.1, 0.2, 12.0)
    assert -1 < low < -0.3 and 0.2 < high < 6


def test_the_front_is_that_of_the_means(report_of: Callable[[str], Report], tmp_path: Path) -> None:
    report = report_of("three seeds")
    plot = plot_of(report, "tradeoff")
    axes = plot.figure.axes[0]
    runs = report.runs.groupby("row", sort=False)
    points = {row: (group["macs"].iloc[0] / 1e6, group["top1"].mean()) for row, group in runs}
    assert sorted(marks(axes, "o")) == [pytest.approx(point) for point in sorted(points.values())]
    beaten = {
        point
        for point, other in itertools.permutations(points.values(), 2)
        if other[0] <= point[0] and other[1] >= point[1] and other != point
    }
    full = [line for line in axes.lines if line.get_marker() == "o" and to_hex(line.get_markerfacecolor()) != "#ffffff"]
    drawn = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in full}  # type: ignore[index, arg-type]
    assert sorted(drawn) == [pytest.approx(point) for point in sorted(set(points.values()) - beaten)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_nothing_beats_a_point_of_the_front_and_each_other_is_beaten(points: list[tuple[int, int]]) -> None:
    front = pareto_front([cost for cost, _ in points], [value for _, value in points])
    for place, (cost, value) in enumerate(points):
        beaten = any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
        assert (place in front) != beaten


def test_latency_has_a_panel_where_a_bench_has_measured(tmp_path: Path) -> None:
    import json

    study = made_up_study(tmp_path / "study", seeds=(0,))
    (tmp_path / "study/bench.json").write_text(json.dumps(BENCH))
    figure = plot_of(read_report(study, tmp_path / "study"), "tradeoff").figure
    axes = [axes.get_xlabel() for axes in figure.axes]
    assert axes == [
        "MACs (M)",
        "parameters (k)",
        "activations (k)",
        "latency of one image (ms)\nsome GPU",
    ]  # whatever the batch
    assert sorted(x for x, _ in marks(figure.axes[3], "o")) == [1.25, 1.5, 2.0]
    assert_readable(figure)
    assert words_of(figure).count("3 of 17 rows measured") == 1


def test_a_cut_interval_has_an_arrow_at_its_end() -> None:
    from reports.figures.against_paper import against_paper

    ends = {"a": (-50.0, 1.0), "b": (0.5, 60.0), "c": (-0.5, 0.5), "d": (0.2, 0.8)}
    steps = pd.DataFrame(
        [
            {"label": label, "adopted": True, "status": "done", "verdict": "x", "change": 0.5, "low": low, "high": high}
            for label, (low, high) in ends.items()
        ]
    ).assign(paper_change=[0.1, 0.5, 1.0, 1.5])
    axes = against_paper(steps, "t", "s", ["c"], "x").axes[0]
    assert marks(axes, "v") == [(0.1, axes.get_ylim()[0])] and marks(axes, "^") == [(0.5, axes.get_ylim()[1])]


def test_a_number_nearer_to_another_point_has_a_line_to_its_own() -> None:
    def lines_of(places: Sequence[tuple[float, float]]) -> int:
        axes = Figure(figsize=(4, 4)).add_axes((0.1, 0.1, 0.8, 0.8))
        axes.set(xlim=(0, 1), ylim=(0, 1))
        number_points(axes, [Point(number, *place, named=number == 1) for number, place in enumerate(places, start=1)])
        own = axes.transData.transform(places[0])
        (text,) = axes.texts
        there = axes.transData.transform(text.get_position())
        nearer = any(math.dist(there, axes.transData.transform(p)) < math.dist(there, own) for p in places[1:])
        assert len(axes.lines) == nearer or math.dist(there, own) * 72 / axes.figure.dpi > 15
        return len(axes.lines)

    assert lines_of([(0.5, 0.5)]) == 0
    crowd = [(0.5 + 0.045 * math.cos(turn), 0.5 + 0.045 * math.sin(turn)) for turn in (0.3, 1.8, 2.6, 3.5, 4.6)]
    assert lines_of([(0.5, 0.5), *crowd]) == 1


def test_a_grid_of_any_number_of_flags_is_against_the_first_values(tmp_path: Path) -> None:
    flags = {"norm": ["bn", "ln"], "activation": ["relu", "gelu"], "kernel_size": [3, 5]}
    study = made_up_study(tmp_path / "study", kind="grid", flags=flags, seeds=(0,))
    figure = plot_of(read_report(study, tmp_path / "study"), "grid").figure
    assert "change in top-1 (pp) from the first values" in words_of(figure)


def test_each_step_stands_at_its_change_here_and_in_the_paper(report_of: Callable[[str], Report]) -> None:
    report = report_of("three seeds")
    plot = plot_of(report, "against-paper")
    frame = plot.frame[plot.frame["change"].notna()]
    placed = sorted(marks(plot.figure.axes[0], "o"))
    assert placed == [pytest.approx(pair) for pair in sorted(zip(frame["paper_change"], frame["change"], strict=True))]
    means = report.runs.groupby("row")["top1"].mean()
    assert frame.set_index("row").loc["kernel-7", "change"] == pytest.approx(
        means["kernel-7"] - means["depthwise-first"]
    )
    from scipy import stats

    adopted = frame[frame["adopted"]]
    changes = adopted[["change", "paper_change"]].round(9)  # equal changes are ties
    rho = float(stats.spearmanr(changes["change"], changes["paper_change"]).statistic)
    said = f"over {len(adopted)} adopted steps is {rho:.2f} (95% CI".replace("-", "−")
    assert said in plot.caption and said in " ".join(words_of(plot.figure))


def test_curves_are_the_logs(report_of: Callable[[str], Report]) -> None:
    report = report_of("sweep")
    board = plot_of(report, "curves-loss").figure.axes[0]
    drawn = [line for line in board.lines if line.get_linewidth() == 1.2]
    assert len(drawn) == 3
    frames = [patch for patch in board.patches if isinstance(patch, Rectangle)]
    heights = []
    for line, frame, row in zip(drawn, frames, report.runs["row"].unique(), strict=True):
        log = report.curves[report.curves["row"] == row]
        mean = log.groupby("images")["loss"].mean()
        xs = (np.asarray(line.get_xdata()) - frame.get_x()) / frame.get_width()
        assert xs == pytest.approx(mean.index.to_numpy() / report.curves["images"].max())
        heights += list(zip(mean, (np.asarray(line.get_ydata()) - frame.get_y()) / frame.get_height(), strict=True))
    slope, start = np.polyfit([loss for loss, _ in heights], [height for _, height in heights], 1)
    assert all(height == pytest.approx(start + slope * loss, abs=1e-9) for loss, height in heights)
    bands = [band for band in board.collections if isinstance(band, PolyCollection)]
    assert len(bands) == 3
    for band, frame, row in zip(bands, frames, report.runs["row"].unique(), strict=True):
        by_images = report.curves[report.curves["row"] == row].groupby("images")["loss"]
        ends = np.concatenate([by_images.min(), by_images.max()])
        drawn_at = (np.asarray(band.get_paths()[0].vertices)[:, 1] - frame.get_y()) / frame.get_height()
        assert sorted(set(drawn_at.round(9))) == pytest.approx(sorted(set((start + slope * ends).round(9))), abs=1e-8)


def test_a_long_log_is_thinned_to_means_that_keep_its_course() -> None:
    images = np.arange(1, 10_001) * 64
    seeds = pd.DataFrame({0: np.sin(images / 1e5), 1: np.cos(images / 1e5)}, index=pd.Index(images, name="images"))
    thin = _thinned(seeds)
    assert len(thin) == POINTS and thin.index[-1] == images[-1] and thin.index.is_monotonic_increasing
    assert np.abs(thin[0] - np.sin(thin.index / 1e5)).max() < 0.05
    assert _thinned(seeds.head(POINTS)).equals(seeds.head(POINTS))


def test_worths_stand_with_their_spread_and_the_papers_order(report_of: Callable[[str], Report]) -> None:
    report = report_of("orders")
    assert report.orders is not None
    plot = plot_of(report, "worths")
    panel = plot.figure.axes[1]
    done = {
        (row, seed): value for row, seed, value in zip(*(report.runs[n] for n in ("row", "seed", "top1")), strict=True)
    }

    def worth(order: list[str], flag: str) -> float:
        place = order.index(flag)
        before, after = (report.orders.row_of(frozenset(order[:end])) for end in (place, place + 1))  # type: ignore[union-attr]
        return statistics.mean(done[after, seed] - done[before, seed] for seed in (0, 1, 2))

    paper, *others = [list(order) for order in report.orders.orders]
    placed = sorted(marks(panel, "o"), key=lambda place: place[1])
    assert [x for x, _ in placed] == pytest.approx(
        [statistics.mean(worth(order, flag) for order in others) for flag in paper]
    )
    diamonds = sorted(marks(panel, "D"), key=lambda place: place[1])
    assert [x for x, _ in diamonds] == pytest.approx([worth(paper, flag) for flag in paper])
    for (_, y), flag in zip(placed, paper, strict=True):
        each = [worth(order, flag) for order in others]
        assert bars_at(panel, y, 0.8) == [(pytest.approx(min(each)), pytest.approx(max(each)))]


def test_effects_in_the_papers_order_are_over_all_seeds_that_each_set_has(tmp_path: Path) -> None:
    flags = ["depthwise", "kernel_size", "norm"]
    path = [f"on-{'1' * on + '0' * (3 - on)}" for on in range(4)]

    def without(seeds: set[int]) -> Callable[[RunConfig], Mapping[str, Any] | None]:
        return lambda run: None if run.row == path[2] and run.seed in seeds else {}

    for name, lost in {"one": {1}, "none": {0, 1}}.items():
        study = made_up_study(tmp_path / name, "orders", (0, 1), without(lost), orders=2, flags=flags)
        report = read_report(study, tmp_path / name)
        table, figure = report.tables[0], plot_of(report, "worths").figure
        means = report.runs["top1"].astype(float).groupby(report.runs["row"]).mean()
        expected = [means[after] - means[before] for before, after in itertools.pairwise(path)]
        found = list(table.frame["in_paper_order"])
        assert found == pytest.approx(expected) if name == "one" else math.isnan(found[1]) and math.isnan(found[2])
        legend = {text.get_text() for box in figure.legends for text in box.get_texts()}
        assert "in the paper's order" in legend
        assert ("The paper's order is not finished yet." in table.legend) == (name == "none")
        assert "–" not in table.legend


def test_a_log_of_one_line_has_its_spread_and_its_marks_in_the_legend(tmp_path: Path) -> None:
    report = read_report(made_up_study(tmp_path, kind="sweep", flags={"kernel_size": [3, 5]}, lines=1), tmp_path)
    figure = plot_of(report, "curves-loss").figure
    (legend,) = figure.legends
    assert [line.get_marker() for line in legend.get_lines()] == [".", "_"]
    spreads = [line for line in figure.axes[0].lines if line.get_linewidth() == 5]
    assert len(spreads) == 2 and all(np.ptp(line.get_ydata()) > 0 for line in spreads)


def test_a_legends_arrow_points_as_those_on_the_axis(tmp_path: Path) -> None:
    for name, top1 in {"v": 1.0, "^": 99.0}.items():
        outcome = lambda run, top1=top1: {"top1": top1 if run.row == "separate-downsampling" else usual_top1(run)}  # noqa: E731
        report = read_report(made_up_study(tmp_path / str(top1), seeds=(0,), outcome=outcome), tmp_path / str(top1))
        for plot in ("tradeoff", "against-paper"):
            (legend,) = plot_of(report, plot).figure.legends
            told = {line.get_label(): line.get_marker() for line in legend.get_lines()}
            assert told["off the axis"] == name, plot


def test_a_heat_map_has_a_cell_for_each_pair(report_of: Callable[[str], Report]) -> None:
    report = report_of("grid")
    figure = plot_of(report, "heatmap").figure
    words = words_of(figure)
    for row in report.runs["row"].unique():
        values = top1_of(report, row)
        if values:
            assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in words
    assert words.count("failed") == words.count("pending") == 1
    cells = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(cells) == 9 and sum(bool(cell.get_hatch()) for cell in cells) == 2
    lightness = []
    for cell in cells:
        if not cell.get_hatch():
            red, green, blue = to_rgb(cell.get_facecolor())
            lightness.append(0.299 * red + 0.587 * green + 0.114 * blue)
    means = [statistics.mean(top1_of(report, row)) for row in report.runs["row"].unique() if top1_of(report, row)]
    assert np.argsort(lightness).tolist() == np.argsort(means).tolist()  # in grey too, lighter is better


def test_a_cell_off_the_scale_of_a_heat_map_is_said_to_be(tmp_path: Path) -> None:
    flags = {"norm": ["bn", "ln"], "activation": ["relu", "gelu"]}
    for high in (10.0, 60.0):
        outcome = lambda run, high=high: {"top1": high if run.row == "norm=ln,activation=gelu" else 10.0}  # noqa: E731
        study = made_up_study(tmp_path / str(high), kind="grid", flags=flags, outcome=outcome)
        figure = plot_of(read_report(study, tmp_path / str(high)), "heatmap").figure
        off = high == 60.0
        assert any("off the scale" in words for words in words_of(figure)) == off
        assert [line.get_marker() for line in figure.axes[-1].lines] == [">"] * off


# ---- labels, words, axes

places = st.tuples(st.floats(0, 300), st.floats(0, 250))


@settings(max_examples=60, deadline=None)
@given(st.lists(places, min_size=1, max_size=24), st.lists(places, max_size=3), st.data())
def test_labels_never_meet_each_other_a_mark_or_the_edge(
    points: list[tuple[float, float]], corners: list[tuple[float, float]], data: st.DataObject
) -> None:
    panel = Box(0, 0, 300, 250)
    sizes = [(data.draw(st.floats(5, 14)), 9.0) for _ in points]
    avoid = [Box.spanning(*start, *end, 1) for start, end in itertools.pairwise(corners)]
    placed = place_labels(points, sizes, panel, 8.0, avoid)
    assert all(placed)
    boxes = [box for box in placed if box]
    assert all(panel.holds(box) for box in boxes)
    assert not any(one.meets(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.meets(Box.around(*point, 8, 8)) for box in boxes for point in points)
    for box, (width, height) in zip(boxes, sizes, strict=True):
        assert (box.x1 - box.x0, box.y1 - box.y0) == (pytest.approx(width), pytest.approx(height))


def test_a_lone_label_stands_next_to_its_point_and_one_without_room_nowhere() -> None:
    (box,) = place_labels([(50, 50)], [(10, 8)], Box(0, 0, 100, 100), 6)
    assert box and math.dist(box.middle, (50, 50)) < 15
    assert place_labels([(5, 5)], [(10, 8)], Box(0, 0, 10, 10), 6) == [None]
    assert place_labels([(50, 50)], [None], Box(0, 0, 100, 100), 6) == [None]


@settings(max_examples=60, deadline=None)
@given(st.text("ab,=_W +-", max_size=80), st.floats(0.3, 3))
def test_wrapped_words_keep_every_letter_and_fit(text: str, width: float) -> None:
    lines = wrap(text, 8.5, width)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(text_width(line, 8.5) <= width for line in lines)


def test_a_long_word_is_broken_behind_punctuation() -> None:
    assert wrap("depths=1-1,width=8,stem_stride=1", 8.5, 1.6)[0].endswith((",", "=", "_"))


@given(st.floats(-100, 100), st.floats(0.01, 200))
def test_ticks_lie_on_the_axis_and_are_few(low: float, length: float) -> None:
    places = ticks(low, low + length)
    slack = 1e-6 * length
    assert 1 <= len(places) <= 6 and all(low - slack <= place <= low + length + slack for place in places)


@given(st.floats(0.01, 1e6), st.floats(10, 1e4))
def test_ticks_of_a_logarithmic_axis_are_round_and_on_it(low: float, factor: float) -> None:
    places = log_ticks(low, low * factor)
    assert 1 <= len(places) <= 7 and all(low <= place <= low * factor for place in places)
    assert {f"{place:e}"[0] for place in places} <= {"1", "2", "5"}


# ---- half-written


def test_a_run_that_is_being_written_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", kind="sweep", flags={"kernel_size": [3, 5]}, seeds=(0, 1))
    folder = run_folder(tmp_path / "study", study.runs[1])
    (folder / "result.json").unlink()
    log = folder / "log.jsonl"
    log.write_text(log.read_text()[:-30])  # its last line half there
    report = read_report(study, tmp_path / "study")
    assert report.unfinished[["row", "seed", "status"]].to_numpy().tolist() == [["kernel_size=5", 0, "stopped"]]
    assert (report.curves.groupby(["row", "seed"]).size() == [20, 20, 19, 20]).all()
    figure = plot_of(report, "curves-loss").figure
    assert "1 of 2 interrupted" in words_of(figure) and "so far" in words_of(figure)
    assert len(marks(figure.axes[0], "o")) == 1
