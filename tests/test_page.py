"""The page's text and tables: it says what the report and the plan say, and nothing in it is markup but our own."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made_up_study
from markupsafe import escape
from scipy import stats

from ablations.reporting import read_report
from modernize import Design, compile_plan, roadmap, trace
from modernize.design import FLAGS
from reports import diagrams
from reports.layout import Layout, laid_out
from reports.page import as_json, breakable, explorer, heading, page, signed_word
from reports.page import rows as rows_of
from reports.page.tables import page_tables
from reports.report import Report
from reports.study_figures import trajectory_plot
from reports.write import write_report

NASTY = '<script>alert(1)</script> & "quoted" </script><!--'


def report_of(folder: Path, **changes: Any) -> Report:
    study = made_up_study(folder, **changes)
    return read_report(study, folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A roadmap of three seeds, one run of which failed and three of which have not begun."""

    def outcome(run: Any) -> dict[str, Any] | None:
        if run.name == "kernel-9-s1":
            return {"status": "failed", "reason": NASTY}
        return None if run.row == "kernel-11" else {}

    return report_of(tmp_path_factory.mktemp("study"), outcome=outcome)


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return page(report)


class Reader(HTMLParser):
    """What a browser makes of a page: its elements in order, and the tables' cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.rows: list[list[str]] = []
        self.inside: list[str] = []
        self.data = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.rows = self.tables[str(dict(attributes)["data-name"])] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in ("meta", "link", "input"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "script" and not self.data:
            self.data = data
        if any(tag in ("td", "th") for tag in self.inside) and "sup" not in self.inside:
            self.rows[-1][-1] += data


def data_of(text: str) -> dict[str, Any]:
    return json.loads(Reader(text).data)


def test_every_table_is_there_with_every_cell(report: Report, text: str) -> None:
    tables = Reader(text).tables
    shown = page_tables(report.every_table)
    assert [one.table.name for one in shown][:1] == ["roadmap"] and set(tables) == {
        *(one.table.name for one in shown),
        "unfinished",
    }
    for one in shown:
        body = tables[one.table.name][-len(one.table.rows) :]
        assert body == [[cell.text for cell in row] for row in one.table.rows]
        for note in one.table.notes:
            assert str(escape(note)) in text


def test_a_roadmaps_two_tables_are_one_with_every_number_and_note_of_both(report: Report) -> None:
    ours, agreement, compared = report.tables
    whole, *others = page_tables(report.tables)
    assert [other.table for other in others] == [agreement]
    places = {column.name: place for place, column in enumerate(whole.table.columns)}
    assert len(places) == len(whole.table.columns) and list(places)[1] == "top1_mean" and "change" not in places
    lines = dict(zip(compared.frame["row"], compared.rows, strict=True))
    for row, cells, before in zip(whole.rows, whole.table.rows, ours.rows, strict=True):
        here = {column.name: cell for column, cell in zip(ours.columns, before, strict=True)}
        there = {column.name: cell for column, cell in zip(compared.columns, lines[row], strict=True)}
        for name, place in places.items():
            assert cells[place].text == (here.get(name) or there[name]).text
        said = {whole.table.notes[mark - 1] for cell in cells for mark in cell.marks}
        assert said >= {
            table.notes[mark - 1]
            for table, line in ((ours, here), (compared, there))
            for cell in line.values()
            for mark in cell.marks
        }
    assert len(set(whole.table.notes)) == len(whole.table.notes)
    assert whole.titles["printed"] == "ImageNet, the paper's" and whole.hidden == ("cost", "speed")


def test_titles_and_captions_are_on_the_page_once(report: Report, text: str) -> None:
    for plot in report.plots:
        assert text.count(str(escape(plot.caption))) == 1
        with laid_out(Layout(heading=False)):
            drawn = " ".join(words.get_text() for words in plot.draw().texts)
        assert plot.title not in drawn and " ".join(plot.caption.split()[:4]) not in drawn
    table = next(table for table in report.tables if table.name == "roadmap")
    with laid_out(Layout(heading=False)):
        drawn = " ".join(words.get_text() for words in trajectory_plot(table, report.steps.source).draw().texts)
    assert " ".join(table.notes[0].split()[:4]) in drawn  # footnotes of marks stay with these


def test_the_rows_have_their_configuration_runs_and_curves(report: Report, data: dict[str, Any]) -> None:
    rows, runs = data["study"]["rows"], report.runs
    assert list(rows) == runs["row"].unique().tolist()
    gelu = rows["gelu"]
    assert Design().with_flags(gelu["flags"]) == roadmap("pocket").row("gelu").design and gelu["base"] == "kernel-7"
    assert data["study"]["recipes"][gelu["recipe"]]["batch_size"] == "128"
    assert [run["top1"] for run in gelu["runs"]] == runs.loc[runs["row"] == "gelu", "top1"].round(2).tolist()
    log = report.curves[(report.curves["row"] == "gelu") & (report.curves["seed"] == 1)]
    curve = gelu["runs"][1]["curve"]
    assert curve["images"] == log["images"].tolist() and curve["loss"] == log["loss"].round(3).tolist()
    assert [run["status"] for run in rows["kernel-9"]["runs"]] == ["finished", "failed", "finished"]
    assert rows["kernel-9"]["runs"][1]["reason"] == NASTY and "curve" not in rows["kernel-11"]["runs"][0]
    assert "nan" not in json.dumps(data["study"]).replace(json.dumps(NASTY), "")


@pytest.mark.parametrize("lines", [1, 59, 60, 61, 1000])
def test_long_logs_are_thinned_to_their_last_line(lines: int) -> None:
    log = pd.DataFrame({name: np.arange(1, lines + 1) for name in ("images", "loss", "top1")})
    kept = rows_of._curve(log, 60)
    assert len(kept["images"]) <= 60 and kept["images"][-1] == lines and len(kept["images"]) >= min(lines, 30)


@pytest.mark.parametrize(
    ("title", "shown"),
    {
        **{"top-1 (%)": "top-1_(%)", "MACs (M)": "MACs_(M)"},
        **{"training, images/s": "training, images/s", "": "what", "dress (n = 1,000)": "dress_(n_=_1,000)"},
    }.items(),
)
def test_a_heading_breaks_before_neither_a_unit_nor_a_bracket(title: str, shown: str) -> None:
    assert heading(title) == shown.replace("_", "\N{NO-BREAK SPACE}")


def test_labels_break_behind_commas_and_before_brackets_alone() -> None:
    broken = str(breakable("tiny_vgg(width=16), learning_rate=0.004,mixup=0.8 (original)"))
    assert broken == "tiny_vgg<wbr>(width=16), learning_rate=0.004,<wbr>mixup=0.8 (original)"


def test_a_sign_stays_with_its_word() -> None:
    assert [signed_word(text) for text in ("− norm=bn", "+ norm=ln", "norm=ln + stem", "-0.84")] == [
        "−\N{NO-BREAK SPACE}norm=bn",
        "+\N{NO-BREAK SPACE}norm=ln",
        "norm=ln + stem",
        "-0.84",
    ]


def test_numbers_are_those_of_the_runs(report: Report, text: str) -> None:
    body = {row[0]: row for row in Reader(text).tables["roadmap"]}
    for row in ("gelu", "width"):
        runs = report.runs[report.runs["row"] == row]
        said = next(cells for label, cells in body.items() if label == runs["label"].iloc[0])
        assert f"{runs['top1'].mean():.2f} ± {runs['top1'].std():.2f}" in said
        assert f"{runs['params'].iloc[0] / 1e3:.2f}" in said


def test_figures_and_missing_runs_are_there(report: Report, text: str) -> None:
    reader = Reader(text)
    figures = [attributes["id"] for tag, attributes in reader.elements if tag == "figure"]
    answer = report.summary.figure  # stands beside the summary
    names = [plot.name for plot in report.plots if plot.name != answer]
    assert figures == [f"figure-{name}" for name in (answer, *names)]
    assert len(reader.tables["unfinished"]) == 1 + len(report.unfinished) == 5
    assert NASTY in [cell for row in reader.tables["unfinished"] for cell in row]
    ids = [attributes["id"] for _, attributes in reader.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_marks_tell_their_rows(report: Report, text: str) -> None:
    said = [
        str(attributes["aria-label"]) for _, attributes in Reader(text).elements if attributes.get("class") == "mark"
    ]
    gelu = next(line for line in said if line.startswith("ReLU to GELU: "))
    assert f"{report.runs.loc[report.runs['row'] == 'gelu', 'top1'].mean():.2f}" in gelu
    assert len(said) > 4 * 14


def test_it_is_one_small_file_that_asks_for_nothing(report: Report, tmp_path: Path) -> None:
    (path,) = write_report(report, tmp_path, ["html"])
    assert path == tmp_path / "index.html" and list(tmp_path.iterdir()) == [path]
    text = path.read_text()
    assert path.stat().st_size < 3_500_000
    loading = [
        attributes
        for tag, attributes in Reader(text).elements
        if tag in ("script", "link", "img", "iframe", "object", "use", "image")
        and (attributes.get("src") or attributes.get("href"))
        for where in [str(attributes.get("src") or attributes.get("href"))]
        if not where.startswith(("#", "data:"))
    ]
    assert not loading
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/\S+", "", text)


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
@settings(max_examples=200)
def test_json_for_the_page_comes_back_and_cannot_end_its_element(values: Any) -> None:
    told = str(as_json({"values": values, "nasty": NASTY}))
    assert json.loads(told) == {"values": values, "nasty": NASTY}
    assert "</" not in told and "<!" not in told


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small explorer, quick to make."""
    monkeypatch.setattr(explorer, "MOST_BODIES", 200)


@pytest.mark.usefixtures("small")
def test_outside_words_are_never_markup(tmp_path: Path) -> None:
    def outcome(run: Any) -> dict[str, Any]:
        return {"status": "failed", "reason": NASTY} if run.seed else {}

    study = made_up_study(tmp_path, "one-in", seeds=(0, 1), outcome=outcome)
    named = study.model_copy(
        update={"name": NASTY, "rows": [row.model_copy(update={"label": f"{row.label} {NASTY}"}) for row in study.rows]}
    )
    text = page(read_report(named, tmp_path))
    reader = Reader(text)
    assert [tag for tag, _ in reader.elements].count("script") == 2  # the data and the program
    assert "<script>alert" not in text
    assert NASTY in reader.tables["one-in"][-1][0]


@pytest.mark.usefixtures("small")
def test_a_study_without_a_result_has_a_page(tmp_path: Path) -> None:
    text = page(report_of(tmp_path, seeds=(0,), outcome=lambda run: {"status": "failed"}))
    assert len(Reader(text).tables["unfinished"]) == 1 + 17
    told = data_of(text)
    assert all("no result" in run["result"] for run in told["measured"])
    assert {run["status"] for row in told["study"]["rows"].values() for run in row["runs"]} == {"failed"}


# The explorer's tables -----------------------------------------------------------------------------------------------


def look_up(table: dict[str, list[int]], chosen: list[int]) -> int:
    return table["data"][sum(choice * stride for choice, stride in zip(chosen, table["strides"], strict=True))]


@pytest.fixture(scope="module")
def data(text: str) -> dict[str, Any]:
    return data_of(text)


@given(chance=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_costs_and_drawings_are_those_of_the_plan(data: dict[str, Any], chance: Any) -> None:
    chosen = [chance.randrange(len(flag["values"])) for flag in data["flags"]]
    design = Design().with_flags(
        {flag["name"]: flag["values"][choice] for flag, choice in zip(data["flags"], chosen, strict=True)}
    )
    plan = compile_plan(design, 1, 10)
    steps = trace(plan, 32)
    assert look_up(data["params"], chosen) == sum(step.params for step in steps)
    assert look_up(data["macs"], chosen) == sum(step.macs for step in steps)
    drawn = [look_up(data["stem"], chosen), *data["groups"][look_up(data["body"], chosen)]]
    parts = diagrams.parts(plan)
    assert len(drawn) == len(parts)
    for number, part in zip(drawn, parts, strict=True):
        frame, *words = data["parts"][number]
        activation = str(next(step.layer for step in steps if "activation" in step.path))
        said = [activation if word == 0 else data["words"][word] for word in words]
        assert said == [part.title, *diagrams.words(part)]
        svg = data["frames"][frame]
        assert sorted(map(int, re.findall(r"\{(\d+)\}", svg))) == list(range(len(said) - 1))
        assert svg.count('class="layer ') == len(list(diagrams.layers_of(part)))


def test_the_roadmap_and_the_studys_rows_can_be_chosen(data: dict[str, Any]) -> None:
    assert len(data["flags"]) == 15 and not data["left_out"]
    kernel = next(flag["values"] for flag in data["flags"] if flag["name"] == "kernel_size")
    assert kernel == ["3", "5", "7", "9", "11"]
    assert all(-1 not in one["choice"] for one in [*data["rows"], *data["measured"]])
    assert data["images"] == "1×32×32 images, 10 classes"


def test_measured_accuracy_has_its_interval(report: Report, data: dict[str, Any]) -> None:
    top1 = report.runs.loc[report.runs["row"] == "gelu", "top1"]
    low, high = stats.t.interval(0.95, 2, top1.mean(), stats.sem(top1))
    said = next(run["result"] for run in data["measured"] if run["row"] == "gelu")
    assert f"{top1.mean():.2f} ± {top1.std():.2f}" in said and f"{low:.2f} to {high:.2f}" in said
    assert "; seed 1 failed (" in next(run["result"] for run in data["measured"] if run["row"] == "kernel-9")


def test_what_cannot_be_built_says_why() -> None:
    values: dict[str, list[Any]] = {flag.name: [getattr(Design(), flag.name)] for flag in FLAGS}
    values |= {"stem": ["resnet", "patchify"], "stem_stride": [4, 16], "separate_downsampling": [False, True]}
    images = explorer.Images(32, 3, 10)
    found = explorer.tabulate(values, images)
    for stem, stride, separate in np.ndindex(2, 2, 2):
        design = Design(
            stem=values["stem"][stem], stem_stride=values["stem_stride"][stride], separate_downsampling=bool(separate)
        )
        chosen = [
            {"stem": stem, "stem_stride": stride, "separate_downsampling": separate}.get(name, 0) for name in values
        ]
        macs, reason = look_up(found["macs"], chosen), explorer.refusal(design, images)
        assert (macs < 0) == bool(reason)
        if reason:
            assert found["reasons"][-1 - macs] == reason and "image_size=32 is too small" in reason
    assert found["reasons"]


def test_designs_are_counted_for_the_images_of_the_runs(tmp_path: Path) -> None:
    report = report_of(tmp_path, seeds=(0,))
    steps = roadmap("pocket")
    runs = report.runs.assign(image_size=64, in_channels=3, num_classes=100)
    larger = type(report)(**{**vars(report), "runs": runs})
    assert explorer.images_of(larger, steps) == (explorer.Images(64, 3, 100), True)
    nothing = type(report)(**{**vars(report), "runs": report.runs.assign(image_size=None)})
    assert explorer.images_of(nothing, steps) == (explorer.Images(32, 1, 10), False)


def test_too_many_values_are_left_out_by_name() -> None:
    steps, designs = roadmap("resnet50"), [Design(width=width) for width in range(100, 300)]
    space, left_out = explorer.make_space(steps, designs)
    bodies = [len(values) for name, values in space.items() if name not in ("stem", "stem_stride", "activation")]
    assert np.prod(bodies) <= explorer.MOST_BODIES
    assert space["kernel_size"] == [3] and 96 not in space["width"]  # what the study does not have goes first
    assert {"kernel_size=11", "width=96", "depths=3-3-9-3"} <= set(left_out)
    assert -1 not in explorer.choice(space, designs[0])
    assert explorer.choice(space, designs[-1])[1] == -1
