"""Reports: what the tables print is what the runs say, and every word of a figure can be read."""

from __future__ import annotations

import ast
import dataclasses
import io
import itertools
import math
import re
import statistics
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from legible import assert_readable, visible_texts
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import reports
from modernize.design import DesignError
from modernize.roadmap import NAMES, roadmap
from reports import formats
from reports.errors import ReportError
from reports.figures.style import wrap
from reports.figures.trajectory import trajectory
from reports.report import Orders, Report, report_tables
from reports.roadmap_table import roadmap_table
from reports.study_figures import study_plots
from reports.summary import summarise_study
from reports.tables import Table, speeds
from reports.write import write_report

ROWS = [row.name for row in roadmap("pocket").rows]
OF_DESIGNS = ("resnet50", "resnet200", "pocket")  # the roadmaps of the paper's 17 rows
SIDE_BRANCHES = ["kernel-5", "kernel-9", "kernel-11"]


def make_runs(name: str = "pocket", seeds: tuple[int, ...] = (0, 1, 2), spread: float = 0.3) -> pd.DataFrame:
    """A finished study: every row of a roadmap with every seed."""
    chance = np.random.default_rng(7)
    rows = []
    for place, row in enumerate(roadmap(name).rows):
        before = roadmap(name).before(row)
        for seed in seeds:
            rows.append(
                {
                    "study": f"{name}-study",
                    "kind": "roadmap",
                    "roadmap": name,
                    "row": row.name,
                    "label": row.label,
                    "base": before.name if before else None,
                    "run": f"{row.name}-s{seed}",
                    "seed": seed,
                    "recipe": "quick_original" if row.original_recipe else "quick",
                    "dataset": "fashion-mnist",
                    "evaluate": "test",
                    "status": "done",
                    "reason": None,
                    "top1": 80 + 0.5 * row.printed.top1 / 10 + spread * chance.normal(),
                    "loss": 0.4,
                    "params": 300_000 + 1_234 * place,
                    "macs": (5_000_000 if name == "pocket" else 4_000_000_000) + 12_345 * place,
                    "images_seen": 60_000,
                    "images_per_second": 2_000.0,
                    "seconds": 30.0,
                }
            )
    return pd.DataFrame(rows)


def change_runs(runs: pd.DataFrame, row: str, seed: int | None = None, **values: Any) -> pd.DataFrame:
    """The runs with other values for a row, or for one seed of it; a run that is not done has no accuracy."""
    runs = runs.copy()
    which = (runs["row"] == row) & ((runs["seed"] == seed) if seed is not None else True)
    if values.get("status", "done") != "done":
        values["top1"] = math.nan
    for column, value in values.items():
        runs.loc[which, column] = value
    return runs


def ragged_runs() -> pd.DataFrame:
    """A study in which everything that can be amiss is amiss."""
    runs = make_runs()
    runs = runs[runs["row"] != "stage-ratio"]
    runs = change_runs(runs, "depthwise", status="failed", reason="NaN loss at step 120 | lr_max=4e-3")
    runs = change_runs(runs, "kernel-9", status="left")
    runs = change_runs(runs, "fewer-norms", status="running")
    runs = change_runs(runs, "gelu", seed=2, status="failed", reason="out of memory")
    runs = change_runs(runs, "width", images_seen=30_000)
    runs = change_runs(runs, "layer-norm", top1=10.0)
    return runs[~((runs["row"] == "inverted-bottleneck") & (runs["seed"] == 1))]


def parse_markdown(text: str) -> list[dict[str, str]]:
    """The body of the Markdown table as dictionaries."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, rule, *body = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert all(re.fullmatch(r":?---:?", cell) for cell in rule)
    assert len(set(head)) == len(head)
    return [dict(zip(head, row, strict=True)) for row in body]


def marks_of(text: str) -> list[int]:
    """The numbers of the footnotes that a cell refers to."""
    plain = text.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
    found = re.search(r"\N{NO-BREAK SPACE}([\d,]+)$", plain)
    return [int(mark) for mark in found[1].split(",")] if found else []


def notes_of(table: Table, row: str, column: str = "label") -> list[str]:
    """The footnotes at a cell."""
    place = list(table.frame["row"]).index(row)
    where = [column.name for column in table.columns].index(column)
    return [table.notes[mark - 1] for mark in table.rows[place][where].marks]


def shown(table: Table, row: str, column: str) -> str:
    """The text of a cell."""
    place = list(table.frame["row"]).index(row)
    return table.rows[place][[column.name for column in table.columns].index(column)].text


# ---- the numbers


@pytest.mark.parametrize("name", OF_DESIGNS)
@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_markdown_says_what_the_runs_say(name: str, seeds: tuple[int, ...]) -> None:
    runs = make_runs(name, seeds)
    parsed = parse_markdown(formats.markdown(roadmap_table(runs, roadmap(name))))
    unit, size = ("M", 1e6) if name == "pocket" else ("G", 1e9)
    before: dict[str, str] = {}
    adopted = ""
    for row in roadmap(name).rows:  # once more, by hand
        before[row.name] = adopted
        adopted = row.name if row.adopted else adopted
    paper = {row.name: row.printed for row in roadmap(name).rows}
    means = {row: statistics.mean(group["top1"]) for row, group in runs.groupby("row")}
    assert len(parsed) == len(ROWS) == 17
    for cells, row in zip(parsed, roadmap(name).rows, strict=True):
        mine = runs[runs["row"] == row.name]
        assert cells["row"].startswith(row.label)
        assert ("(side branch)" in cells["row"]) == (row.name in SIDE_BRANCHES)
        assert float(cells["params (k) (ours)"]) == pytest.approx(mine["params"].iloc[0] / 1e3, abs=0.005)
        assert float(cells[f"MACs ({unit}) (ours)"]) == pytest.approx(mine["macs"].iloc[0] / size, abs=0.005)
        mean, *sd = cells["top-1 (%) (ours)"].split(" ± ")
        assert float(mean) == pytest.approx(means[row.name], abs=0.00501)
        assert [float(value) for value in sd] == (
            [pytest.approx(statistics.stdev(mine["top1"]), abs=0.00501)] if len(seeds) > 1 else []
        )
        assert cells["seeds (ours)"] == str(len(seeds))
        assert float(cells["GFLOPs (ImageNet, the paper's)"].split("\N{NO-BREAK SPACE}")[0]) == row.printed.gflops
        assert float(cells["top-1 (%) (ImageNet, the paper's)"]) == row.printed.top1
        changes = [cells[f"change (pp) ({whose})"].replace("−", "-") for whose in ("ours", "ImageNet, the paper's")]
        if row.name == "resnet":
            assert changes == ["–", "–"]
            continue
        earlier = before[row.name]
        assert float(changes[0]) == pytest.approx(means[row.name] - means[earlier], abs=0.00501)
        assert float(changes[1]) == pytest.approx(paper[row.name].top1 - paper[earlier].top1, abs=0.00501)


def test_side_branches_and_the_row_after_them_are_measured_from_the_last_adopted_row() -> None:
    frame = roadmap_table(make_runs(), roadmap("pocket")).frame.set_index("row")
    assert frame.loc[["kernel-5", "kernel-7"], "before"].tolist() == ["depthwise-first"] * 2
    assert frame.loc[["kernel-9", "kernel-11", "gelu"], "before"].tolist() == ["kernel-7"] * 3


def test_csv_keeps_full_precision() -> None:
    runs = make_runs()
    frame = pd.read_csv(io.StringIO(formats.csv(roadmap_table(runs, roadmap("pocket"))))).set_index("row")
    means = runs.groupby("row")["top1"].mean()
    for row in roadmap("pocket").rows:
        line = frame.loc[row.name]
        assert line["top1_mean"] == pytest.approx(means[row.name], rel=1e-14)
        assert line["top1_sd"] == pytest.approx(runs[runs["row"] == row.name]["top1"].std(), rel=1e-12)
        assert (line["label"], line["group"], line["adopted"]) == (row.label, row.group, row.adopted)
        assert (line["paper_gflops"], line["paper_top1"]) == (row.printed.gflops, row.printed.top1)
        if line["before"] == line["before"]:
            assert line["change"] == pytest.approx(means[row.name] - means[line["before"]], rel=1e-9)
    assert frame["params"].dtype == frame["macs"].dtype == frame["seeds"].dtype == np.int64


def test_a_change_is_the_difference_of_the_two_means() -> None:
    runs = ragged_runs()
    for row in ("gelu", "fewer-norms", "resnet"):
        runs = change_runs(runs, row, seed=0, top1=50.0)
    frame = roadmap_table(runs, roadmap("pocket")).frame.set_index("row")
    assert frame["change"].notna().sum() > 8
    for name, line in frame[frame["before"].notna()].iterrows():
        difference = line["top1_mean"] - frame["top1_mean"][line["before"]]
        assert line["change"] == pytest.approx(difference, nan_ok=True), name


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    runs = change_runs(change_runs(make_runs(seeds=(0,)), "gelu", top1=85.001), "kernel-7", top1=85.004)
    assert shown(roadmap_table(runs, roadmap("pocket")), "gelu", "change") == "0.00"


# ---- fairness


def test_a_row_that_shares_its_runs_has_no_change_and_says_whose_they_are() -> None:
    runs = make_runs()
    runs = change_runs(runs, "resnet", recipe="quick")
    shared = runs["row"] == "enhanced-recipe"
    runs.loc[shared, ["run", "top1"]] = runs.loc[runs["row"] == "resnet", ["run", "top1"]].to_numpy()
    note = "the same runs as ResNet (original recipe): one design under one recipe"
    for table in (table for table in tables_of(runs) if table.name != "agreement"):
        place = list(table.frame["row"]).index("enhanced-recipe")
        assert notes_of(table, "enhanced-recipe") == [note]
        change = "change" if table.name == "roadmap" else "difference"
        assert shown(table, "enhanced-recipe", change) == "–" and math.isnan(table.frame[change][place])
        assert notes_of(table, "stage-ratio") == []


def test_rows_that_differ_say_so() -> None:
    table = roadmap_table(ragged_runs(), roadmap("pocket"))
    assert notes_of(table, "resnet") == ["trained with recipe quick_original"]
    assert notes_of(table, "enhanced-recipe") == []
    assert notes_of(table, "width") == ["saw 30,000 images, other rows 60,000"]
    assert notes_of(table, "inverted-bottleneck") == ["seeds 0, 2; other rows seeds 0, 1, 2"]
    assert notes_of(table, "gelu") == ["seed 2 failed (out of memory)"]
    assert shown(table, "gelu", "seeds") == "2"


def test_the_usual_recipe_is_that_of_most_rows_and_of_two_the_later() -> None:
    runs = make_runs()
    two = runs[runs["row"].isin(["resnet", "enhanced-recipe"])]
    table = roadmap_table(two, roadmap("pocket"))
    assert "recipe quick ·" in table.subtitle
    assert notes_of(table, "resnet") == ["trained with recipe quick_original"]


@pytest.mark.parametrize("name", OF_DESIGNS)
def test_notes_on_the_papers_numbers_stand_at_them(name: str) -> None:
    table = roadmap_table(make_runs(name), roadmap(name))
    for row in roadmap(name).rows:
        assert notes_of(table, row.name, "paper_gflops") == ([row.note] if row.note else [])
    text = formats.markdown(table)
    for cells in parse_markdown(text):
        for cell in cells.values():
            for mark in marks_of(cell):
                assert f"\n\n{formats.superscript([mark])} {table.notes[mark - 1]}\n" in text


def test_rows_without_a_result_are_there_with_their_status() -> None:
    table = roadmap_table(ragged_runs(), roadmap("pocket"))
    expected = {"stage-ratio": "not run", "depthwise": "failed", "kernel-9": "left", "fewer-norms": "running"}
    printed = expected | {"kernel-9": "pending"}
    assert {row: shown(table, row, "top1_mean") for row in expected} == printed
    assert notes_of(table, "depthwise") == ["seeds 0, 1, 2 failed (NaN loss at step 120 | lr_max=4e-3)"]
    parsed = parse_markdown(formats.markdown(table))
    frame = pd.read_csv(io.StringIO(formats.csv(table))).set_index("row")
    assert [cells["row"].split("\N{NO-BREAK SPACE}")[0] for cells in parsed] == [row[0].text for row in table.rows]
    assert list(frame.index) == ROWS
    assert frame.loc[list(expected), "status"].to_dict() == expected
    assert frame.loc["depthwise", "reason"] == "NaN loss at step 120 | lr_max=4e-3"
    # what comes after them has nothing to be compared with
    assert [shown(table, row, "change") for row in ("patchify-stem", "width", "layer-norm")] == ["–"] * 3
    assert frame.loc[["patchify-stem", "width", "layer-norm"], "change"].isna().all()


def test_a_study_of_nothing_but_failures_is_reported() -> None:
    runs = make_runs(seeds=(0,)).assign(status="failed", reason="NaN loss", top1=None, params=None, macs=None)
    table = roadmap_table(runs, roadmap("pocket"))
    assert table.notes[:2] == ("trained with recipe quick_original", "seed 0 failed (NaN loss)")
    assert "17 runs: 17 failed" in table.subtitle
    assert_readable(trajectory(table))


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (change_runs(make_runs(), "gelu", dataset="mnist"), "2 datasets .fashion-mnist, mnist."),
        (pd.concat([make_runs(), make_runs()]), "row resnet has two runs of seed 0"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs: pd.DataFrame, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        roadmap_table(runs, roadmap("pocket"))


def test_unknown_rows_and_reports_of_nothing_are_refused() -> None:
    with pytest.raises(DesignError, match="did you mean 'gelu'"):
        roadmap_table(make_runs().replace({"row": {"gelu": "gelus"}}), roadmap("pocket"))
    with pytest.raises(ReportError, match="no runs to report"):
        report_tables(make_runs().head(0), "nothing", steps=roadmap("pocket"))
    with pytest.raises(ReportError, match="row resnet has two runs of seed 0"):
        report_tables(pd.concat([make_runs(), make_runs()]), "twice", steps=roadmap("pocket"))


# ---- the terminal


def test_the_terminal_table_fits_a_hundred_columns() -> None:
    for runs in (make_runs(seeds=(0,)), make_runs(), make_runs("resnet50"), make_runs("resnet200")):
        table = roadmap_table(runs, roadmap(runs["roadmap"].iloc[0]))
        lines = formats.terminal(table, 100).splitlines()
        assert max(map(len, lines)) <= 100
        assert not any("…" in line or "\x1b" in line for line in lines)
        body = lines[next(i for i, line in enumerate(lines) if set(line) == {"─"}) + 1 :]
        for row in table.rows:
            (line,) = [line for line in body if line.startswith(row[0].text + (" " if not row[0].marks else ""))]
            assert [cell.text for cell in row[1:]] == re.findall(
                r"\S+ ± \S+|[^\s⁰¹²³⁴⁵⁶⁷⁸⁹]+", line[len(row[0].text) :]
            )


@settings(max_examples=8, deadline=None)
@given(width=st.integers(20, 200))
def test_the_terminal_table_loses_nothing_at_any_width(width: int) -> None:
    table = roadmap_table(ragged_runs(), roadmap("pocket"))
    text = formats.terminal(table, width)
    assert max(map(len, text.splitlines())) <= max(width, 88)
    words = text.split()
    for row in table.rows:
        assert set(row[0].text.split()) <= set(words)
        assert {cell.text.split()[0] for cell in row[1:]} <= set(words)
    assert all(set(note.split()) <= set(words) for note in table.notes)


def test_group_headings_stand_over_their_columns() -> None:
    lines = formats.terminal(roadmap_table(make_runs(), roadmap("pocket")), 120).splitlines()
    heads = next(i for i, line in enumerate(lines) if line.startswith("row"))
    names, rules = lines[heads - 3 : heads - 1]
    ours, papers = [match.span() for match in re.finditer("─+", rules)]
    assert names[slice(*ours)].strip() == "ours" and names[slice(*papers)].strip() == "ImageNet, the paper's"
    assert re.findall(r"\w+", lines[heads][slice(*papers)]) == ["GFLOPs", "pp"]
    assert lines[heads][slice(*ours)].split() == ["(k)", "(M)", "(%)", "loss", "seeds", "(pp)"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_columns_that_do_not_fit_a_narrow_terminal_follow_below(width: int) -> None:
    table = roadmap_table(ragged_runs(), roadmap("pocket"))
    text = formats.terminal(table, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("row ") == (1 if width == 80 else 2 if width == 60 else 3)


def test_a_terminal_table_in_ascii_has_the_same_numbers() -> None:
    table = roadmap_table(ragged_runs(), roadmap("pocket"))
    text = formats.terminal(table, 120, unicode=False)
    assert text.isascii() and max(map(len, text.splitlines())) <= 120
    numbers = r"\d+\.\d+(?: ± \d+\.\d+)?"
    expected = re.findall(numbers, formats.terminal(table, 120))
    assert re.findall(numbers, text.replace("+/-", "±")) == expected
    assert [note for note in table.notes if f"[{table.notes.index(note) + 1}] {note[:20]}" not in text] == []


# ---- the figure


def panels(figure: Figure) -> tuple[Axes, Axes]:
    """Our panel and the paper's."""
    _, ours, papers = figure.axes
    return ours, papers


def bars(panel: Axes) -> dict[int, Rectangle]:
    """The bars of a panel by row."""
    patches = [patch for patch in panel.patches if isinstance(patch, Rectangle)]
    return {round(patch.get_y() + patch.get_height() / 2): patch for patch in patches}


FRAMES: dict[str, pd.DataFrame] = {
    "one seed": make_runs(seeds=(0,)),
    "three seeds": make_runs(),
    "ragged": ragged_runs(),
    "a seed lost": change_runs(make_runs(), "gelu", seed=1, top1=10.0),
    "resnet50": make_runs("resnet50"),
    "resnet200": make_runs("resnet200", seeds=tuple(range(8))),
    "all the same": make_runs(seeds=(0,)).assign(top1=10.0),
    "all right": make_runs().assign(top1=100.0),
    "two rows": make_runs().query("row in ('resnet', 'kernel-9')"),
    "off both ends": change_runs(change_runs(make_runs(), "gelu", top1=10.0), "width", top1=99.0).assign(
        top1=lambda runs: runs["top1"] - 1
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_text_of_the_figure_can_be_read(name: str) -> None:
    runs = FRAMES[name]
    table = roadmap_table(runs, roadmap(runs["roadmap"].iloc[0]))
    texts = " | ".join(["", *assert_readable(trajectory(table)), ""])
    for row, line in zip(table.rows, table.frame.to_dict("records"), strict=True):
        assert f"| {row[0].text} {formats.superscript(row[0].marks)}".rstrip() + " |" in texts
        assert f"| {line['group']} |" in texts
        assert f"| {line['paper_top1']:.2f} |" in texts
        if line["seeds"]:
            assert f"| {row[3].text} |" in texts


accuracies = st.one_of(st.floats(0, 100), st.floats(84, 86), st.sampled_from([0.0, 10.0, 100.0]))
words = st.text("abWM $_^{}\\%&#|*`éß5", max_size=260)


# A figure takes half a second: no shrinking, which would take minutes.
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    top1=st.lists(accuracies, min_size=34, max_size=34),
    statuses=st.lists(st.sampled_from(["done"] * 6 + ["failed", "running", "left"]), min_size=34, max_size=34),
    name=st.sampled_from(NAMES),
    title=words,
    reason=words,
)
def test_no_runs_make_texts_collide(top1: list[float], statuses: list[str], name: str, title: str, reason: str) -> None:
    runs = make_runs(name, seeds=(0, 1))
    runs = runs.assign(top1=top1[: len(runs)], status=statuses[: len(runs)], dataset=title)
    runs.loc[runs["status"] != "done", "top1"] = math.nan
    runs.loc[runs["status"] == "failed", "reason"] = reason
    table = roadmap_table(runs, roadmap(name))
    assert_readable(trajectory(table))
    assert len(parse_markdown(formats.markdown(table))) == len(roadmap(name).rows)


def test_bars_end_at_the_means_and_side_branches_are_hatched() -> None:
    table = roadmap_table(make_runs(), roadmap("pocket"))
    for panel, column in zip(panels(trajectory(table)), ("top1_mean", "paper_top1"), strict=True):
        found = bars(panel)
        assert sorted(found) == list(range(17))
        for place, bar in found.items():
            assert bar.get_x() + bar.get_width() == pytest.approx(table.frame[column].iloc[place])
            assert bool(bar.get_hatch()) == (ROWS[place] in SIDE_BRANCHES)


def test_our_numbers_and_the_papers_are_on_axes_of_their_own() -> None:
    ours, papers = panels(trajectory(roadmap_table(make_runs("resnet200"), roadmap("resnet200"))))
    assert not ours.get_shared_x_axes().joined(ours, papers)
    assert ours.get_position().x1 < papers.get_position().x0


def test_the_line_goes_through_adopted_rows_and_is_dotted_past_missing_ones() -> None:
    runs = change_runs(make_runs(), "depthwise", status="failed")
    ours, papers = panels(trajectory(roadmap_table(runs, roadmap("pocket"))))

    def steps(panel: Axes) -> dict[tuple[int, ...], str]:
        lines = [line for line in panel.lines if len(np.atleast_1d(line.get_ydata())) == 2]
        return {
            tuple(int(y) for y in np.asarray(line.get_ydata())): str(line.get_linestyle())
            for line in lines
            if line.get_linestyle() in ("-", ":")
        }

    adopted = [place for place, row in enumerate(ROWS) if row not in SIDE_BRANCHES]
    assert steps(papers) == dict.fromkeys(itertools.pairwise(adopted), "-")
    assert steps(ours)[3, 5] == ":"
    assert list(steps(ours).values()).count(":") == 1
    assert (4, 5) not in steps(ours)


def test_error_bars_stand_where_there_are_seeds_to_tell() -> None:
    for seeds in ((0,), (0, 1, 2)):
        ours, _ = panels(trajectory(roadmap_table(make_runs(seeds=seeds), roadmap("pocket"))))
        assert len(ours.containers) == 17 * (2 if len(seeds) > 1 else 1)  # bars, and their error bars


def test_the_axis_shows_differences_and_says_where_it_starts() -> None:
    runs = change_runs(make_runs(), "layer-norm", top1=10.0)
    figure = trajectory(roadmap_table(runs, roadmap("pocket")))
    ours, _ = panels(figure)
    low, high = ours.get_xlim()
    good = runs[runs["top1"] > 50]["top1"]
    assert 50 < low < good.min() and good.max() < high < good.max() + 2
    assert f"(the axis starts at {low:g}, not at 0)" in ours.get_xlabel()
    assert bars(ours)[ROWS.index("layer-norm")].get_width() == 0
    texts = [text.get_text() for text in visible_texts(figure)]
    assert "10.00 ± 0.00" in texts and "below the axis" in texts


def test_rows_without_a_result_say_so_in_the_figure() -> None:
    texts = [text.get_text() for text in visible_texts(trajectory(roadmap_table(ragged_runs(), roadmap("pocket"))))]
    assert texts.count("failed") == 1 and texts.count("running") == 1
    assert texts.count("pending") == texts.count("not run") == 1  # the study does not have the other one
    assert any("47 runs: 37 finished, 4 failed, 3 running, 3 pending" in text for text in texts)


def test_names_are_never_read_as_formulas() -> None:
    runs = make_runs(seeds=(0,)).assign(study=r"$\nothing$ and $x^2$", dataset="a_b")
    texts = visible_texts(trajectory(roadmap_table(runs, roadmap("pocket"))))
    assert any(text.get_text().startswith(r"study $\nothing$ and $x^2$ · data a_b ·") for text in texts)


def test_wrap_keeps_every_letter() -> None:
    text = "W" * 400 + " and some words"
    lines = wrap(text, 9, 3)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) > 10


# ---- the files


def tables_of(runs: pd.DataFrame, title: str = "A study") -> list[Table]:
    return report_tables(runs, title, steps=roadmap("pocket") if (runs["kind"] == "roadmap").all() else None)


def report_of(runs: pd.DataFrame, title: str = "A study") -> Report:
    """A report of runs that have no folders, and so no curves and no measurements."""
    tables, nothing = tables_of(runs, title), pd.DataFrame(columns=["row", "label", "seed", "images", "loss", "top1"])
    return Report(
        title=title,
        kind="roadmap",
        base="pocket",
        steps=roadmap("pocket"),
        runs=runs,
        designs={},
        summary=summarise_study(title, runs, tables),
        tables=tuple(tables),
        plots=study_plots(title, runs, tables, nothing, pd.DataFrame(), steps=roadmap("pocket")),
        curves=nothing,
        orders=None,
        bench=pd.DataFrame(),
        unfinished=runs[runs["status"] != "done"],
    )


FILES = ("markdown", "csv", "latex", "png", "svg", "pdf")  # the page has tests of its own


def with_others(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with those of two networks of other people beside them."""
    first = runs[runs["row"] == "resnet"]
    others = [
        first.assign(row=f"torchvision-{name}", label=f"{name} (torchvision)", roadmap=None, base=None, top1=top1)
        for name, top1 in (("swin_t", first["top1"] + 1), ("vit", math.nan))
    ]
    others[1]["status"] = "left"
    return pd.concat([runs, *others], ignore_index=True)


def test_other_peoples_networks_have_a_table_with_speeds_and_averaged_weights() -> None:
    runs = with_others(make_runs())
    runs["ema_top1"] = runs["top1"] + 0.25
    bench = pd.DataFrame([{"row": "torchvision-swin_t", "batch_size": 8, "device": "CPU", "latency_ms": 3.25}])
    bench = bench.assign(train_images_per_second=None, inference_images_per_second=None, peak_memory_mb=None)
    tables = report_tables(runs, "A study", bench=bench, steps=roadmap("pocket"))
    assert [table.name for table in tables] == ["roadmap", "references", "agreement", "steps"]
    first, others = tables[:2]
    swin = runs[runs["row"] == "torchvision-swin_t"]
    assert shown(others, "torchvision-swin_t", "mean") == f"{swin['top1'].mean():.2f} ± {swin['top1'].std():.2f}"
    averaged = f"{swin['ema_top1'].mean():.2f} ± {swin['ema_top1'].std():.2f}"
    assert shown(others, "torchvision-swin_t", "ema_mean") == averaged
    assert shown(others, "torchvision-swin_t", "latency_ms") == "3.25"
    assert [shown(others, "torchvision-vit", name) for name in ("mean", "latency_ms")] == ["pending", "–"]
    assert "ablations bench" in others.legend and "exponential" in others.legend
    assert others.frame.set_index("row").loc["torchvision-swin_t", "latency_ms"] == 3.25
    assert "latency_ms" not in [column.name for column in first.columns]
    assert "latency_ms" not in first.frame and "ablations bench" not in first.legend


def test_speeds_in_another_precision_or_compiled_have_columns_of_their_own_that_say_so() -> None:
    lines = [{"row": "a", "batch_size": 8, "device": "cuda:0", "latency_ms": 3.0, "precision": "float32"}]
    lines += [lines[0] | {"latency_ms": 2.0, "precision": "tf32"}, lines[0] | {"latency_ms": 1.5, "compiled": True}]
    lines += [lines[0] | {"latency_ms": 4.0, "precision": None}]
    lines = [{"compiled": False} | line for line in lines]
    empty = dict.fromkeys(("train_images_per_second", "inference_images_per_second", "peak_memory_mb"))
    found = speeds(pd.DataFrame(lines).assign(**empty), ["a"])
    assert [(speed.column.group, speed.values["a"]) for speed in found] == [
        ("cuda:0, batch 8", 3.0),
        ("cuda:0, batch 8, tf32", 2.0),
        ("cuda:0, batch 8, compiled", 1.5),
        ("cuda:0, batch 8, precision unknown", 4.0),
    ]


def test_the_forest_tells_the_baseline_from_other_peoples_networks() -> None:
    report = report_of(with_others(make_runs()))
    figure = next(plot for plot in report.plots if plot.name == "steps").figure
    said = [text.get_text() for text in visible_texts(figure)]
    assert said.count("reference") == said.count("reference model, not compared") == 1
    assert_readable(figure)


def test_the_forests_footnotes_are_its_tables() -> None:
    report = report_of(ragged_runs())
    plot = next(plot for plot in report.plots if plot.name == "steps")
    table = next(table for table in report.tables if table.name == "steps")
    said = " ".join(text.get_text() for text in visible_texts(plot.figure)).replace(" ", "")
    for line, cells in zip(table.frame.to_dict("records"), table.rows, strict=True):
        assert f"{line['label']} {formats.superscript(cells[0].marks)}".strip().replace(" ", "") in said
        assert line["note"] == "; ".join(table.notes[mark - 1] for mark in cells[0].marks) or len(cells[0].marks) > 1
    assert any("depthwise: seeds 0, 1, 2 failed (NaN" in note for note in table.notes)
    assert_readable(plot.figure)


def test_a_finished_row_whose_base_has_no_result_is_not_called_unrun() -> None:
    report = report_of(ragged_runs())
    rows = report.tables[-1].frame.set_index("row").loc[["patchify-stem", "width"]]
    assert set(rows["verdict"]) == {"not tested"} and set(rows["reason"]) <= {"baseline failed", "baseline not run"}
    for name in ("steps", "against-paper"):
        figure = next(plot for plot in report.plots if plot.name == name).figure
        assert "not tested: baseline" in " ".join(text.get_text() for text in visible_texts(figure))


def test_the_main_table_comes_first() -> None:
    runs = make_runs(seeds=(0,))
    assert [table.name for table in tables_of(runs, "Tables")] == ["roadmap", "agreement", "steps"]
    assert tables_of(runs, "Tables")[0].title == "Tables"
    others = runs.assign(roadmap=None, kind="one-out")
    assert [table.name for table in tables_of(others)] == ["one-out"]
    walked = others.assign(kind="orders", base=None, row=["on-0", "on-1", *ROWS[2:]])
    orders = Orders([["norm"], ["norm"]], lambda chosen: f"on-{len(chosen)}")
    assert [table.name for table in report_tables(walked, "Orders", orders=orders)] == ["worths", "orders"]


def test_the_same_runs_give_the_same_bytes_whatever_the_users_style(tmp_path: Path) -> None:
    first = write_report(report_of(ragged_runs()), tmp_path / "a", FILES)
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": None, "savefig.dpi": 50, "axes.grid": True}):
        second = write_report(report_of(ragged_runs()), tmp_path / "b", FILES)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_report_writes_its_files_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    report = report_of(make_runs(), "Some $5 or $6 and _underscores_")
    paths = write_report(report, out, FILES)
    names = {str(path.relative_to(out)): path for path in paths}
    assert list(names) == [
        "summary.md",
        *(f"tables/{name}.{suffix}" for name in ("roadmap", "agreement", "steps") for suffix in ("md", "csv", "tex")),
        *(
            f"figures/{name}.{suffix}"
            for name in ("roadmap", "steps", "against-paper", "tradeoff")
            for suffix in ("png", "svg", "pdf")
        ),
    ]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(paths)
    for table in report.tables:
        for suffix, form in (("md", formats.markdown), ("csv", formats.csv), ("tex", formats.latex)):
            assert names[f"tables/{table.name}.{suffix}"].read_text() == form(table)
    assert names["tables/roadmap.md"].read_text().startswith("# Some $5 or $6 and \\_underscores\\_\n")
    with Image.open(names["figures/roadmap.png"]) as image:
        assert [round(value) for value in image.info["dpi"]] == [200, 200]
        assert image.width > 2000
    text = names["figures/roadmap.svg"].read_text()
    root = ElementTree.fromstring(text)
    assert not list(root.iter("{http://www.w3.org/2000/svg}text"))
    assert "<dc:date>" not in text
    for row in roadmap("pocket").rows:
        assert f"<!-- {row.label}" in text
    assert "<!-- Some $5 or $6 and _underscores_ -->" in text


def test_files_are_renamed_into_place(tmp_path: Path) -> None:
    runs = make_runs(seeds=(0,))
    first = write_report(report_of(runs, "One"), tmp_path, ["markdown"])
    kept = first[0].open()  # a reader of the old file
    write_report(report_of(runs, "Two"), tmp_path, ["markdown"])
    assert kept.read().startswith("# One\n")
    kept.close()
    assert first[0].read_text().startswith("# Two\n")


def test_a_file_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "summary.md").mkdir(parents=True)
    with pytest.raises(OSError):
        write_report(report_of(make_runs()), tmp_path, FILES)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_cannot_be_drawn_leaves_the_older_report_whole(tmp_path: Path) -> None:
    def fail() -> Figure:
        raise RuntimeError("no such figure")

    first = write_report(report_of(make_runs(), "One"), tmp_path, ["markdown"])
    report = report_of(make_runs(), "Two")
    broken = dataclasses.replace(report, plots=(dataclasses.replace(report.plots[0], draw=fail),))
    with pytest.raises(RuntimeError, match=r"^figure .* cannot be drawn \(RuntimeError: no such figure\)$"):
        write_report(broken, tmp_path, FILES)
    assert first[0].read_text().startswith("# One\n") and not (tmp_path / "figures").exists()


# ---- the house


def test_only_what_draws_designs_uses_more_of_modernize_than_its_roadmaps() -> None:
    draws_designs = ("diagrams", "two_designs", "page")
    home = Path(str(reports.__file__)).parent
    for path in home.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert not module.startswith("ablations") and "pyplot" not in module, path
                whole = path.relative_to(home).parts[0].removesuffix(".py") in draws_designs
                assert whole or not module.startswith("modernize") or module == "modernize.roadmap", path
