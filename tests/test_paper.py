"""Figures and tables for a paper: exact widths, chosen rows, labels and order; verdicts stay those of the study."""

from __future__ import annotations

import gc
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from legible import assert_readable, visible_texts
from made_up import made_up_study
from matplotlib.figure import Figure
from PIL import Image
from test_figures import STUDIES
from test_per_class import NAMES, TEST, TRAINING, add_predictions

import reports
from ablations import load_study
from ablations.cli import run_command
from ablations.cli.report import ORDER_KEYS
from ablations.reporting import read_report
from ablations.studies.folder import read_study
from reports.errors import ReportError
from reports.latex import latex
from reports.latex_escape import tex
from reports.layout import Layout
from reports.report import Report
from reports.statistics import MEASURES
from reports.study_tables import comparison_table
from reports.tables import Cell, Column, Table, turned
from reports.view import ORDERS, View, shown_rows

PUBLISHED = Path(__file__).parent.parent / "docs/results/first-edition"
ROWS = ("resnet", "enhanced-recipe", "kernel-7", "gelu")


@pytest.fixture(scope="module")
def report_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """The report of a study of `test_figures`, of a published one, or of one with unequal classes, made once."""
    made: dict[str, Report] = {}

    def make(name: str) -> Report:
        if name not in made and (PUBLISHED / name).is_dir():
            made[name] = read_report(read_study(PUBLISHED / name), PUBLISHED / name)
        elif name not in made:
            folder = tmp_path_factory.mktemp("paper") / "study"
            study = made_up_study(folder, **STUDIES.get(name, {"kind": "one-in"}))
            if name == "classes":
                add_predictions(study, folder, NAMES, TRAINING, TEST, lambda row, seed: 0.2 if "norm" in row else 0.85)
            made[name] = read_report(study, folder)
        return made[name]

    return make


# ---- exact widths


@pytest.mark.parametrize("name", ["ragged", "long names", "sweep", "grid", "orders", "wild", "classes", "roadmap"])
def test_every_word_of_a_column_wide_figure_can_be_read(name: str, report_of: Callable[[str], Report]) -> None:
    for plot in report_of(name).plots:
        figure = replace(plot, layout=Layout(82.55, heading=False)).figure
        assert_readable(figure)
        assert 25.4 * figure.get_figwidth() == pytest.approx(82.55), plot.name


LAYOUTS = (Layout(84.0), Layout(174.625, 7.0), Layout(122.0, 9.0, False))
HARD = ("ragged", "long names", "many rows", "classes")  # whose texts are the longest and the most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (name, layout)
        for place, name in enumerate([*STUDIES, "classes", "screen"])
        for number, layout in enumerate(LAYOUTS)
        if number == place % 3 or name in HARD
    ],
)
def test_every_word_can_be_read_at_other_widths(name: str, layout: Layout, report_of: Callable[[str], Report]) -> None:
    for plot in report_of(name).plots:
        figure = replace(plot, layout=layout).figure
        assert_readable(figure)
        assert 25.4 * figure.get_figwidth() == pytest.approx(layout.width), plot.name
    del figure
    gc.collect()  # figures hold cycles, and their canvases are large


def sizes(figure: Figure) -> set[float]:
    return {round(float(text.get_fontsize()), 3) for text in visible_texts(figure)}


def test_text_has_the_size_asked_for_at_every_width(report_of: Callable[[str], Report]) -> None:
    plot = next(plot for plot in report_of("roadmap").plots if plot.name == "roadmap")
    for width in (84.0, 174.625):
        figure = replace(plot, layout=Layout(width, 7.0, heading=False)).figure
        assert max(sizes(figure)) == pytest.approx(7.0) and min(sizes(figure)) >= 7.0 * 7 / 9 - 1e-3
    assert max(sizes(replace(plot, layout=Layout(84.0, heading=False)).figure)) == pytest.approx(8.0)


def test_files_have_the_width_in_millimeters(report_of: Callable[[str], Report]) -> None:
    plot = replace(report_of("roadmap").plots[1], layout=Layout(84.0, heading=False))
    svg = re.search(rb'<svg[^>]* width="([\d.]+)pt"', plot.encoded("svg"))
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", plot.encoded("pdf"))
    assert svg and float(svg[1]) == pytest.approx(84 / 25.4 * 72, abs=1e-3)
    assert box and float(box[1]) == pytest.approx(84 / 25.4 * 72, abs=1e-3)
    from io import BytesIO

    image = Image.open(BytesIO(plot.encoded("png")))
    assert 25.4 * image.width / image.info["dpi"][0] == pytest.approx(84, abs=0.05)


def test_without_heading_only_the_footnotes_stand_around_a_figure(report_of: Callable[[str], Report]) -> None:
    plot = next(plot for plot in report_of("roadmap").plots if plot.name == "steps")
    words = " ".join(text.get_text() for text in visible_texts(replace(plot, layout=Layout(84.0, None, False)).figure))
    assert "trained with recipe quick_original" in words and "unadjusted" not in words
    assert plot.title not in words and "51 runs" not in words
    with_heading = visible_texts(replace(plot, layout=Layout(84.0)).figure)
    assert "51 runs" in " ".join(text.get_text() for text in with_heading)


# ---- rows, order, labels


def test_differences_are_ordered_the_best_first_whatever_the_measure(report_of: Callable[[str], Report]) -> None:
    report = report_of("one-out")
    for measure in MEASURES:
        table = comparison_table(report.runs, measure=measure)
        rows = shown_rows(report.runs, [table], View(order=("difference",)), measure)
        found = table.frame.set_index("row")["difference"].reindex(rows).dropna() * MEASURES[measure].sign
        assert len(found) > 5 and found.is_monotonic_decreasing


def test_a_title_stands_in_titles_and_the_studys_name_in_the_facts() -> None:
    report = report_with(View(title="Four steps"))
    assert report.tables[-1].title.startswith("Four steps: ") and "study roadmap ·" in report.summary.facts


def report_with(view: View) -> Report:
    return read_report(read_study(PUBLISHED / "roadmap"), PUBLISHED / "roadmap", view)


def test_rows_that_are_left_out_change_no_verdict_and_no_p_value(report_of: Callable[[str], Report]) -> None:
    whole, part = report_of("roadmap"), report_with(View(rows=ROWS))
    numbers = ["difference", "low", "high", "p", "p_adjusted", "verdict"]
    assert [table.name for table in whole.tables] == [table.name for table in part.tables]
    for before, after in zip(whole.tables, part.tables, strict=True):
        if after.name == "agreement":  # has no rows of the study: it is that of the whole study
            pd.testing.assert_frame_equal(after.frame, before.frame)
            continue
        assert list(after.frame["row"]) == list(ROWS)
        kept = before.frame.set_index("row").loc[list(ROWS)]
        shared = [name for name in numbers if name in kept]
        pd.testing.assert_frame_equal(after.frame.set_index("row")[shared], kept[shared])
        assert "Shown are 4 of 17 rows; verdicts and adjusted p-values are those of the whole study" in after.legend
        note = "compared with move up depthwise conv, which is not shown"
        marks = {
            row["row"]: cells[0].marks for row, cells in zip(after.frame.to_dict("records"), after.rows, strict=True)
        }
        assert note in [after.notes[mark - 1] for mark in marks["kernel-7"]] and marks["enhanced-recipe"] == ()
    assert part.summary == whole.summary
    for plot in part.plots:
        assert set(plot.frame["row"]) <= set(ROWS), plot.name


def test_rows_come_in_the_order_asked_for(report_of: Callable[[str], Report]) -> None:
    compared = report_of("roadmap").tables[-1]
    for key, (column, largest_first) in ORDERS.items():
        if key == "activations":  # not counted when the study was published
            continue
        frame = compared.frame.set_index("row").loc[
            shown_rows(report_of("roadmap").runs, [compared], View(order=(key,)))
        ]
        values = frame[column].dropna()
        values = values.map(str.casefold) if column == "label" else values
        assert list(values) == sorted(values, reverse=largest_first), key
    assert tuple(ORDERS) == ORDER_KEYS
    report = report_with(View(rows=ROWS, order=("gelu",)))
    assert list(report.tables[-1].frame["row"]) == ["gelu", "resnet", "enhanced-recipe", "kernel-7"]
    assert list(report.tables[0].frame["row"]) == list(ROWS), "a roadmap is a path"
    effects = next(plot for plot in report.plots if plot.name == "steps")
    assert effects.frame["row"].iloc[0] == "gelu"


def test_labels_and_title_stand_in_tables_and_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.yaml").write_text('resnet: "Baseline & co"\ngelu: GELU\n')
    to = tmp_path / "out"
    words = ("--labels", tmp_path / "labels.yaml", "--title", "Only four", "--rows", ",".join(ROWS), "--to", to)
    assert (
        run_command(["report", str(PUBLISHED / "roadmap"), *map(str, words), "--format", "table,latex,csv,markdown"])
        == 0
    )
    said = capsys.readouterr().out
    assert (
        "Only four: each step against" in said
        and "Baseline & co" in said
        and "ReLU to GELU" not in said.split("\n\n", 2)[2]
    )
    assert "Baseline \\& co" in (to / "tables/steps.tex").read_text()
    assert set(pd.read_csv(to / "tables/steps.csv")["label"]) >= {"Baseline & co", "GELU"}
    assert (to / "summary.md").read_text().startswith("# Only four\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--rows", "resnet,kernal-7"),
            "--rows resnet,kernal-7: 'kernal-7' is not a row of the study: did you mean 'kernel-7'?",
        ),
        (("--order", "topp1"), "neither a key nor a row of the study: did you mean 'top1'?"),
        (("--width", "wide"), "--width wide: write column, page, or millimeters"),
        (("--width", "30"), "nearest valid value: 70"),
        (("--font-size", "40"), "nearest valid value: 24"),
        (("--width", "84", "--font-size", "14"), "not legible at a width of 84 mm; nearest valid value: 10.8"),
        (("--labels", "missing.yaml"), "--labels missing.yaml: no such file"),
    ],
)
def test_wrong_options_are_one_line(options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(PUBLISHED / "roadmap"), *options, "--format", "table"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gleu: x\n", "'gleu' is not a row of the study: did you mean 'gelu'?"),
        ("gelu: 3\n", "gelu: must be text"),
        ("- a\n", "must contain keys"),
    ],
)
def test_wrong_labels_are_one_line(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.yaml").write_text(text)
    assert run_command(["report", str(PUBLISHED / "roadmap"), "--labels", str(tmp_path / "labels.yaml")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and words in said.err


def test_rows_whose_names_have_commas_are_chosen(tmp_path: Path) -> None:
    flags = {"kernel_size": ["3", "5"], "activation": ["relu", "gelu"]}
    made_up_study(tmp_path / "study", "grid", (0, 1), flags=flags)
    chosen = "kernel_size=3,activation=relu,kernel_size=5,activation=gelu"
    assert run_command(["report", str(tmp_path / "study"), "--rows", chosen, "--format", "csv"]) == 0
    rows = pd.read_csv(tmp_path / "study/report/tables/grid.csv")["row"]
    assert list(rows) == ["kernel_size=3,activation=relu", "kernel_size=5,activation=gelu"]


# ---- tables


def test_a_column_wide_table_keeps_the_columns_that_matter_and_names_the_others(
    report_of: Callable[[str], Report],
) -> None:
    table = report_of("roadmap").tables[-1]
    text = latex(table, Layout(84.0))
    assert "\\begin{table}" in text and "\\fontsize{8}{9.6}" in text
    head = next(line for line in text.splitlines() if line.startswith("row &"))
    assert "diff." in head and "95\\%" in head and "params" not in head
    assert re.search(r"% left out at this width: params \(k\), .*; the CSV table has all columns", text)
    assert "\\begin{table*}" in latex(table, Layout(174.625)) and "params" in latex(table, Layout(174.625))
    bare = latex(table, Layout(84.0, heading=False))
    assert "\\caption" not in bare and "\\begin{table}" not in bare and "trained with recipe" in bare


def test_a_column_wide_confusion_matrix_is_whole(report_of: Callable[[str], Report]) -> None:
    matrix = report_of("classes").per_class[1]
    head = next(line for line in latex(matrix, Layout(84.0)).splitlines() if line.startswith("class &"))
    assert head.count("\\rotatebox{90}") == len(NAMES)


SIZES = (6.0, 8.0, 10.0)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("fonts", ["", "\\usepackage[T1]{fontenc}"])
@pytest.mark.parametrize("width", [84.0, 174.0])
def test_tables_of_a_two_column_paper_have_their_size_and_width(
    width: float, fonts: str, report_of: Callable[[str], Report], tmp_path: Path
) -> None:
    tables = [table for name in ("roadmap", "classes") for table in report_of(name).every_table]
    layouts = [Layout(width, size, heading) for size in SIZES for heading in (True, False)]
    texts = [latex(table, layout) for table in tables for layout in layouts]
    assert not any("resizebox" in text or "scriptsize" in text or "wider" in text for text in texts)
    page = "\\textwidth=174mm\\columnsep=6mm\\hbadness=10000"  # two columns of 84 mm
    head = f"\\documentclass[twocolumn]{{article}}\\usepackage{{booktabs,graphicx}}{fonts}{page}\\begin{{document}}\n"
    if width > 100:
        texts = [text if "table*" in text else f"\\begin{{table*}}\n{text}\\end{{table*}}" for text in texts]
    (tmp_path / "paper.tex").write_text(head + "\n\\clearpage\n".join(texts) + "\n\\end{document}\n")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout


def test_a_size_alone_is_the_size_of_tables_too(report_of: Callable[[str], Report]) -> None:
    for table in report_of("roadmap").every_table:
        text = latex(table, Layout(font_size=7))
        assert "\\fontsize{7}{8.4}" in text and "\\fontsize{6}{7.2}" in text and "resizebox" not in text
    assert "% scaled down if wider than the line" in latex(report_of("roadmap").tables[0])


def test_a_column_has_the_verdict_and_all_classes(report_of: Callable[[str], Report]) -> None:
    steps = report_of("roadmap").tables[-1]
    head = next(line for line in latex(steps, Layout(82.55, 8)).splitlines() if line.startswith("row &"))
    assert [word in head for word in ("top-1", "diff.", "CI", "verdict")] == [True] * 4
    columns = [Column("label", "row", number=False), Column("top1_mean", "top-1 (%)"), Column("balanced_mean", "bal.")]
    columns += [Column(f"recall_{n}", f"class {n}", "recall (%)") for n in range(10)]
    cells = *map(Cell, ("a row with a longer label", "85.12 ± 1.20", "85.12 ± 1.20")), *[Cell("97.5 ± 1.2")] * 9
    rows = ((*cells, Cell("0.2 ± 0.1")),) * 12
    text = latex(Table("classes", "x", "", "", tuple(columns), rows, (), (), pd.DataFrame()), Layout(82.55, 7))
    assert all(f"class {n}" in text for n in range(10)) and "97.5" not in text and "98 & " in text
    assert "% shares are in whole percent" in text and "\\textless{}1" in text


def test_the_mark_of_a_footnote_stands_behind_the_first_line_of_a_label() -> None:
    rows = ((Cell("separate downsampling layers between the four stages", (1,)), Cell("1.0")),)
    columns = (Column("label", "row", number=False), Column("mean", "top-1 (%)"))
    table = Table("x", "x", "", "", columns, rows, (), ("a note",), pd.DataFrame())
    stack = re.search(r"\{@\{\}l@\{\}\}(.*)\\end\{tabular\} & 1.0", latex(table, Layout(84.0)))
    assert stack and re.fullmatch(r"separate[a-z ]*\\textsuperscript\{1\} \\\\ .*", stack[1])


# ---- from a script


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("frames") / "study"
    study = made_up_study(folder, "one-in", (0, 1), flags=["norm", "activation", "kernel_size"])
    add_predictions(study, folder, NAMES, TRAINING, TEST, lambda row, seed: 0.85)
    return folder, load_study(folder)


def test_a_script_draws_the_figures_of_a_report_and_may_change_them(frames: Any) -> None:
    folder, study = frames
    plots = {plot.name: plot for plot in read_report(read_study(folder), folder).plots}
    assert set(plots) == {"one-in", "tradeoff", "curves-loss", "curves-top1", "classes", "confusion"}
    for name, plot in plots.items():
        figure = reports.figure(name, study.runs, curves=study.curves, predictions=study.predictions)
        words = [text.get_text() for text in visible_texts(figure)]
        assert words == [text.get_text() for text in visible_texts(plot.figure)], name
        bare = reports.figure(name, study.runs, curves=study.curves, predictions=study.predictions, heading=False)
        without = [text.get_text() for text in visible_texts(replace(plot, layout=Layout(heading=False)).figure)]
        assert [text.get_text() for text in visible_texts(bare)] == without, name
    figure = reports.figure("one-in", study.runs, width=84, heading=False, rows=["with-norm", "with-activation"])
    assert isinstance(figure, Figure) and 25.4 * figure.get_figwidth() == pytest.approx(84)
    figure.axes[1].set_xlabel("changed")
    assert "changed" in [text.get_text() for text in visible_texts(figure)]


def test_rows_that_share_their_runs_share_their_results_per_class_in_a_script_s_figure(frames: Any) -> None:
    _, study = frames
    first, other = study.runs["row"].unique()[:2]
    twice = study.runs.set_index("row")
    twice.loc[other, "run"] = twice.loc[first, "run"].to_numpy()
    figure = reports.figure("classes", twice.reset_index(), predictions=study.predictions)
    label = str(twice.loc[other, "label"].iloc[0])
    assert any(text.get_text().startswith(label) for text in visible_texts(figure))


def test_published_results_are_drawn_from_their_csv() -> None:
    for name, figures in {"roadmap": ("roadmap", "steps", "against-paper"), "one-out": ("one-out", "tradeoff")}.items():
        runs = pd.read_csv(PUBLISHED / name / "results.csv")
        for one in figures:
            assert visible_texts(reports.figure(one, runs))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("road-map", {}, "figure 'road-map' cannot be drawn of these frames: did you mean 'roadmap'?"),
        ("classes", {}, "figure 'classes' cannot be drawn of these frames"),
        ("steps", {"rows": ["gleu"]}, "did you mean 'gelu'?"),
    ],
)
def test_what_a_script_cannot_have_is_one_line(name: str, options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ReportError) as raised:
        reports.figure(name, pd.read_csv(PUBLISHED / "roadmap/results.csv"), **options)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_table_of_classes_too_wide_for_a_column_has_the_classes_as_rows(report_of: Callable[[str], Report]) -> None:
    table = report_of("classes").per_class[0]
    table = replace(table, rows=tuple(row for row in table.rows if row[0].text in ("pocket", "+ norm=ln")))
    lines = {row[0].text: [cell.text for cell in row[1:]] for row in turned(table).rows}
    narrow = latex(table, Layout(82.55, heading=False))
    assert "left out" not in narrow and "left out" in latex(table, Layout(70, 14, heading=False))
    for place, column in enumerate(table.columns[1:], start=1):
        cells = [row[place].text for row in table.rows]
        assert lines[column.short or column.title] == cells
        assert re.search(" & ".join(re.escape(tex(cell)) + r"[^&]*" for cell in cells), narrow), column.title
    marks = [cell.marks for cell in turned(table).rows[0][1:]]
    assert marks == [row[0].marks for row in table.rows] and any(marks), "footnotes of a row stand at its first value"
