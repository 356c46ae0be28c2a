"""`ablations report`: what its files say is what result.json says, whatever state a study is in."""

from __future__ import annotations

import csv
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import ablations, ablations_here
from made_up import made_up_study, usual_top1
from test_comparisons import numbers, read_latex, read_markdown, without_marks
from test_figures import plot_of

from ablations.cli import run_command
from ablations.cli.options import REPORTS
from ablations.reporting import read_report
from ablations.store import read_json, write_json
from ablations.studies.folder import run_folder
from ablations.studies.results import curves_frame
from ablations.studies.schema import Study
from modernize.roadmap import roadmap
from reports.write import write_report

FILES = ("markdown", "csv", "latex", "png", "svg", "pdf")
PER_CLASS = ("classes", "confusion")
HALF = 0.0050001  # what two decimals may be off


def report(folder: Path, *options: str) -> int:
    return run_command(["report", str(folder), *options])


def results(folder: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Each row's results by seed, read from the run folders without the project's help."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((folder / "runs").glob("*/result.json")):
        row, _, seed = path.parent.name.rpartition("-s")
        found.setdefault(row, {})[int(seed)] = json.loads(path.read_text())
    return found


def top1s(results: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    return {seed: result["top1"] for seed, result in results.items() if result["status"] == "done"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study of all rows of the roadmap and three seeds, and its report."""
    folder, out = tmp_path_factory.mktemp("whole") / "study", tmp_path_factory.mktemp("report")
    outcome = lambda run: {"top1": usual_top1(run) - 3, "ema_top1": usual_top1(run)}  # noqa: E731
    made_up_study(folder, original_recipe="quick_original", outcome=outcome)
    assert report(folder, "--to", str(out), "--format", "markdown,csv,latex,svg") == 0
    return folder, out


def table(out: Path, name: str, form: str) -> list[list[str]]:
    """The shown cells of a table's file, below its heading, marks left out, true minuses as hyphens."""
    if form == "markdown":
        lines = read_markdown((out / f"{name}.md").read_text())[0][1:]
    else:
        lines = read_latex((out / f"{name}.tex").read_text())[0][1 + (name == "roadmap") :]
    return [[re.sub(r"−(?=\d)", "-", without_marks(cell)) for cell in line] for line in lines]


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_the_roadmaps_table_says_what_the_run_folders_say(whole: tuple[Path, Path], form: str) -> None:
    folder, out = whole
    found = results(folder)
    means = {row: statistics.mean(top1s(runs).values()) for row, runs in found.items()}
    lines = table(out / "tables", "roadmap", form)
    steps = roadmap("pocket")
    assert len(lines) == len(steps.rows) == len(found) == 17
    for cells, row in zip(lines, steps.rows, strict=True):
        one = found[row.name][0]
        ema = [result["ema_top1"] for result in found[row.name].values()]
        assert cells[0].startswith(row.label)
        assert float(cells[1]) == pytest.approx(one["params"] / 1e3, abs=HALF)
        assert float(cells[2]) == pytest.approx(one["macs"] / 1e6, abs=HALF)
        assert float(cells.pop(3)) == pytest.approx(one["activations"] / 1e3, abs=HALF)
        sd = statistics.stdev(top1s(found[row.name]).values())
        assert numbers(cells[3]) == [pytest.approx(means[row.name], abs=HALF), pytest.approx(sd, abs=HALF)]
        expected = [statistics.mean(ema), statistics.stdev(ema)]
        assert numbers(cells[4]) == [pytest.approx(value, abs=HALF) for value in expected]
        assert cells[5:7] == ["0.500", "3"]
        before = steps.before(row)
        if before:
            assert float(cells[7]) == pytest.approx(means[row.name] - means[before.name], abs=HALF)
        assert [float(cell) for cell in cells[8:10]] == [row.printed.gflops, row.printed.top1]


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_the_steps_say_what_the_run_folders_say(whole: tuple[Path, Path], form: str) -> None:
    folder, out = whole
    found = results(folder)
    if form == "csv":
        lines = list(csv.DictReader((out / "tables/steps.csv").open()))
        shown = [[line["label"], line["difference"], line["low"], line["high"]] for line in lines]
    else:
        cells = table(out / "tables", "steps", form)
        numbers_of = ([str(number) for cell in line[8:10] for number in numbers(cell)] or [""] * 3 for line in cells)
        shown = [[line[0], *found_numbers] for line, found_numbers in zip(cells, numbers_of, strict=True)]
    close = 1e-9 if form == "csv" else 2 * HALF
    for (label, *values), row in zip(shown, roadmap("pocket").rows, strict=True):
        before = roadmap("pocket").before(row)
        assert label == row.label
        if before is None:
            assert values == ["", "", ""]
            continue
        ours, theirs = top1s(found[row.name]), top1s(found[before.name])
        difference, low, high = map(float, values)
        assert difference == pytest.approx(statistics.mean(ours.values()) - statistics.mean(theirs.values()), abs=close)
        assert low < difference < high and (low + high) / 2 == pytest.approx(difference, abs=close)


def test_the_csv_of_the_roadmap_has_the_run_folders_numbers_in_full(whole: tuple[Path, Path]) -> None:
    folder, out = whole
    found = results(folder)
    lines = {line["row"]: line for line in csv.DictReader((out / "tables/roadmap.csv").open())}
    for row, runs in found.items():
        line = lines[row]
        assert float(line["top1_mean"]) == pytest.approx(statistics.mean(top1s(runs).values()), rel=1e-12)
        assert float(line["top1_sd"]) == pytest.approx(statistics.stdev(top1s(runs).values()), rel=1e-9)
        assert all(int(line[name]) == runs[0][name] for name in ("params", "macs", "activations"))
        assert int(line["seeds"]) == len(runs)


def test_the_papers_contradictions_carry_their_footnotes(whole: tuple[Path, Path]) -> None:
    _, out = whole
    for text in ((out / f"tables/roadmap.{suffix}").read_text() for suffix in ("md", "csv", "tex")):
        assert "the paper prints 4.46, but this design counts 4.15" in text
        assert "the paper prints 4.49, but this design, ConvNeXt-T, counts 4.46" in text
    marked = re.findall(r"4\.(?:46|49)\N{NO-BREAK SPACE}([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", (out / "tables/roadmap.md").read_text())
    assert len(marked) == 2 and len(set(marked)) == 2


# ---- formats


@pytest.mark.parametrize(
    ("options", "suffixes"),
    [
        (("--format", "markdown"), {"md"}),
        (("--format", "csv,latex"), {"csv", "tex"}),
        (("--format", "svg", "--format", "pdf,csv"), {"svg", "pdf", "csv"}),
        (("--format", "table"), set()),
    ],
)
def test_only_the_formats_asked_for_are_made(
    options: tuple[str, ...], suffixes: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_study(tmp_path / "study", kind="recipes")
    assert report(tmp_path / "study", *options, "--to", str(tmp_path / "out")) == 0
    out = capsys.readouterr().out
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.suffix[1:] for path in written} == suffixes
    assert all(str(path) in out for path in written)
    assert ("one design under each recipe" in out) == ("table" in options)


@pytest.mark.parametrize("name", ["pfd", "PNG", "", "csv,", "everything"])
def test_an_unknown_format_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path, "--format", name) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "did you mean 'pdf'?" in said.err if name == "pfd" else "--format" in said.err


def test_the_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(REPORTS) in said


# ---- states of a study


def test_an_empty_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert report(folder) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and "has no study.yaml" in said.err
    assert list(tmp_path.iterdir()) == []


STATES: dict[str, dict[str, Any]] = {
    "one run": {"kind": "sweep", "flags": {"kernel_size": [3]}, "seeds": (0,)},
    "one run of several": {"seeds": (0,), "outcome": lambda run: {} if run.row == "resnet" else None},
    "one seed": {"kind": "one-out", "seeds": (0,)},
    "all failed": {"kind": "one-in", "outcome": lambda run: {"status": "failed", "reason": "out of memory"}},
    "all failed orders": {
        "kind": "orders",
        "flags": ["norm", "activation"],
        "outcome": lambda run: {"status": "failed", "reason": "out of memory"},
    },
    "all failed grid": {
        "kind": "grid",
        "flags": {"norm": ["bn", "ln"], "activation": ["relu", "gelu"]},
        "outcome": lambda run: {"status": "failed", "reason": "out of memory"},
    },
    "nothing begun": {"kind": "recipes", "outcome": lambda run: None},
}


@pytest.mark.parametrize("name", STATES)
def test_whatever_became_of_its_runs_a_study_has_a_report(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = made_up_study(tmp_path / "study", **STATES[name])
    assert report(tmp_path / "study", "--format", "table,csv,svg") == 0
    said = capsys.readouterr()
    assert said.err == "" and "Traceback" not in said.out
    out = tmp_path / "study/report"
    lines = [line for path in (out / "tables").glob("*.csv") for line in csv.DictReader(path.open())]
    assert {study.label(row) for row in study.rows} <= {line.get("label") for line in lines}
    if name.startswith("all failed"):
        assert "failed: out of memory" in said.out or "failed (out of memory)" in said.out
    if name == "one run":
        assert "difference" not in said.out and " 1 " in said.out


def break_result(folder: Path, study: Study, text: str) -> None:
    (run_folder(folder, study.runs[0]) / "result.json").write_text(text)


@pytest.mark.parametrize("text", ["", '{"status": "done", "top1": 8', "[]", '{"status": "done", "top1": 99.0}'])
def test_a_damaged_result_is_shown_as_such(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_up_study(tmp_path / "study", kind="recipes", seeds=(0, 1))
    break_result(tmp_path / "study", study, text)
    assert report(tmp_path / "study", "--format", "table,csv") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "4 runs: 3 finished, 1 failed" in said and "(result.json is corrupt" in said
    assert str(tmp_path) not in (tmp_path / "study/results.csv").read_text(), "which others read elsewhere"
    assert "99.0" not in (tmp_path / "study/report/tables/recipes.csv").read_text()


@pytest.mark.parametrize("line", ['{"step": 1}', '{"step": 1, "images": 9, "loss": 1.0, "top1": "x"}'])
def test_a_log_ends_before_a_line_without_its_numbers(line: str, tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", kind="recipes", seeds=(0,), lines=4)
    log = run_folder(tmp_path / "study", study.runs[0]) / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    assert list(curves_frame(study, tmp_path / "study").groupby("row", sort=False).size()) == [2, 4]
    assert report(tmp_path / "study", "--format", "table,svg") == 0


def test_results_csv_need_not_be_writable(tmp_path: Path) -> None:
    made_up_study(tmp_path / "study", kind="recipes", seeds=(0,))
    (tmp_path / "study/results.csv").mkdir()  # as little to be written as in a folder that may only be read
    assert report(tmp_path / "study", "--format", "csv", "--to", str(tmp_path / "out")) == 0
    assert (tmp_path / "out/tables/recipes.csv").exists()


def test_what_cannot_be_read_is_not_said_to_be_unwritable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made_up_study(tmp_path / "study", kind="recipes", seeds=(0,))
    result = run_folder(tmp_path / "study", study.runs[0]) / "result.json"
    result.unlink()
    result.mkdir()
    assert report(tmp_path / "study") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{result} cannot be read" in said and "written" not in said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{}]", "0.row: Field required"),
        ("{", "Invalid JSON"),
        ('[{"row": "quik", "batch_size": 1, "device": "x"}]', "did you mean 'quick'?"),
        ('[{"row": "quick", "batch_size": "many", "device": "x"}]', "0.batch_size"),
        ('[{"row": "quick", "batch_size": 0, "device": "x"}]', "0.batch_size"),
        ('[{"row": "quick", "batch_size": 1, "device": "x", "latency_ms": 1e400}]', "0.latency_ms"),
        ('[{"row": "quick", "batch_size": 1, "device": "x", "latency_ms": -3}]', "0.latency_ms"),
        ('[{"row": "quick", "batch_size": 1, "device": "x", "peak_memory_mb": 0}]', "0.peak_memory_mb"),
    ],
)
def test_a_wrong_bench_file_is_one_line(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up_study(tmp_path / "study", kind="recipes")
    (tmp_path / "study/bench.json").write_text(text)
    assert report(tmp_path / "study") == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "bench.json" in said.err and says in said.err
    assert ": :" not in said.err


def test_what_bench_measured_comes_into_the_files(tmp_path: Path) -> None:
    made_up_study(tmp_path / "study", kind="recipes")
    line = {"row": "quick", "batch_size": 8, "device": "CPU", "latency_ms": 3.25, "peak_memory_mb": 512.0}
    (tmp_path / "study/bench.json").write_text(json.dumps([line]))
    assert report(tmp_path / "study", "--format", "csv,markdown") == 0
    raw = list(csv.DictReader((tmp_path / "study/report/tables/recipes.csv").open()))
    assert [line["latency_ms"] for line in raw] == ["", "3.25"]
    shown = read_markdown((tmp_path / "study/report/tables/recipes.md").read_text())[0]
    setting = "CPU, batch 8, precision unknown"  # as earlier versions stored it
    assert shown[0][7:9] == [f"latency (ms) ({setting})", f"peak memory (MB) ({setting})"]
    assert [cells[7:9] for cells in shown[1:]] == [["–", "–"], ["3.25", "512"]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up_study(tmp_path / "study", kind="recipes")
    (tmp_path / "file").write_text("")
    assert report(tmp_path / "study", "--to", str(tmp_path / "file")) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_report_imports_no_torch(tmp_path: Path) -> None:
    made_up_study(tmp_path / "study", kind="recipes", seeds=(0,))
    words = (
        "import sys\n"
        "from ablations.cli import run_command\n"
        f"status = run_command(['report', {str(tmp_path / 'study')!r}, '--format', 'table,csv,html'])\n"
        "sys.exit(status or 'torch' in sys.modules or 'torchvision' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---- real runs


def test_real_runs_give_every_table_and_figure(tmp_path: Path) -> None:
    """Four designs, two seeds, trained for real; the report through a process of its own."""
    folder = tmp_path / "study"
    base = ("--base", "pocket,depths=1-1,width=4", "--flags", "norm=bn:ln,activation=relu:gelu", "--seeds", "0,1")
    small = ("--data", "digits", "--set", "image_size=16", "--set", "batch_size=32", "--set", "max_epochs=1")
    trained = ablations_here(
        "run", "grid", *base, *small, "--out", folder, "--jobs", "1", "--threads", "1", "--device", "cpu"
    )
    assert trained.returncode == 0, trained.stderr
    done = ablations("report", folder, "--format", ",".join(FILES))
    assert done.returncode == 0 and done.stderr == ""
    written = [Path(line).relative_to(folder / "report") for line in done.stdout.splitlines()]
    names = ("heatmap", "interaction", "grid-effects", "grid", "tradeoff", "curves-loss", "curves-top1", *PER_CLASS)
    assert set(map(str, written)) == {
        "summary.md",
        *(
            f"tables/{name}.{suffix}"
            for name in ("grid-effects", "grid", *PER_CLASS)
            for suffix in ("md", "csv", "tex")
        ),
        *(f"figures/{name}.{suffix}" for name in names for suffix in ("png", "svg", "pdf")),
    }
    found = results(folder)
    lines = list(csv.DictReader((folder / "report/tables/grid.csv").open()))
    assert len(lines) == 4
    for line in lines:
        values = list(top1s(found[line["row"]]).values())
        assert float(line["mean"]) == pytest.approx(statistics.mean(values), rel=1e-12)
        assert float(line["sd"]) == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-12)
    for cells, line in zip(table(folder / "report/tables", "grid", "latex"), lines, strict=True):
        assert numbers(cells[4])[0] == pytest.approx(float(line["mean"]), abs=HALF)


def test_rows_beyond_the_papers_stand_at_the_end_without_numbers_of_the_papers(tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", extras=["grn"])
    found = read_report(study, tmp_path / "study")
    last = found.tables[0].frame.iloc[-1]
    assert (last["row"], last["before"]) == ("grn", "separate-downsampling") and len(found.tables[0].rows) == 18
    assert last[["paper_gflops", "paper_top1", "paper_change"]].isna().all() and last["change"] == last["change"]
    shown = {
        column.name: cell.text for column, cell in zip(found.tables[0].columns, found.tables[0].rows[-1], strict=True)
    }
    assert (shown["paper_gflops"], shown["paper_top1"], shown["paper_change"]) == ("–", "–", "–")
    plots = {plot.name: plot for plot in found.plots}
    assert len(plots["against-paper"].frame) == 16, "the paper has no such step"
    assert len(plots["roadmap"].figure.axes[1].patches) >= 17
    assert write_report(found, tmp_path / "to", ["html", "latex", "svg"])


def test_a_roadmap_at_another_size_is_reported_as_that_roadmap(tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", base="pocket,width=16", seeds=[0])
    found = read_report(study, tmp_path / "study")
    assert len(found.tables[0].rows) == 17 and found.runs["roadmap"].eq("pocket,width=16").all()
    page = write_report(found, tmp_path / "to", ["html"])[0].read_text()
    assert "pocket,width=16" in page


def test_a_study_published_without_its_runs_has_the_same_tables(tmp_path: Path, whole: tuple[Path, Path]) -> None:
    folder, out = whole
    public = tmp_path / "public"
    public.mkdir()
    for name in ("study.yaml", "results.csv"):
        (public / name).write_bytes((folder / name).read_bytes())
    assert report(public, "--format", "markdown,csv,latex,svg,html") == 0
    tables = sorted(path for path in (out / "tables").iterdir() if path.stem not in PER_CLASS)  # these need predictions
    assert tables and [path.name for path in tables] == sorted(p.name for p in (public / "report/tables").iterdir())
    for path in tables:
        assert (public / "report/tables" / path.name).read_bytes() == path.read_bytes(), path.name
    assert (public / "results.csv").read_bytes() == (folder / "results.csv").read_bytes()


def test_activations_of_designs_that_earlier_versions_trained_are_counted_unless_other_costs_differ(
    tmp_path: Path,
) -> None:
    study = made_up_study(tmp_path, "sweep", seeds=(0, 1), flags={"kernel_size": [3, 5, 7]})
    paths = {run.name: run_folder(tmp_path, run) / "result.json" for run in study.runs}
    counted = read_json(paths["kernel_size=3-s0"])["activations"]

    def of_an_earlier_version(*names: str, **changes: int) -> tuple[list[list[str]], list[str]]:
        for name in names:
            result = read_json(paths[name]) | changes
            write_json(paths[name], {key: value for key, value in result.items() if key != "activations"})
        report = read_report(study, tmp_path)
        places = [place for place, one in enumerate(report.tables[0].columns) if one.title == "activations (k)"]
        shown = [[row[place].text for row in report.tables[0].rows] for place in places]
        return shown, [axes.get_xlabel() for axes in plot_of(report, "tradeoff").figure.axes]

    panels = ["MACs (M)", "parameters (k)", "activations (k)"]
    assert of_an_earlier_version(*paths) == ([[f"{counted / 1e3:.2f}"] * 3], panels)
    others = "kernel_size=3-s0", "kernel_size=5-s0", "kernel_size=5-s1"
    shown = [f"{counted / 1e3:.2f}", "–", f"{counted / 1e3:.2f}"]  # of kernel_size=3 another seed is as recorded
    assert of_an_earlier_version(*others, macs=6_000_001) == ([shown], panels)
    assert of_an_earlier_version(*paths, macs=6_000_001) == ([], panels[:2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read (No columns to parse from file)"),
        ("row,seed\nresnet,0\n", "not the results of"),
        ("\0\n", "not the results of"),
    ],
)
def test_published_results_that_are_not_the_studys_are_one_line(
    tmp_path: Path, whole: tuple[Path, Path], capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    (tmp_path / "study.yaml").write_bytes((whole[0] / "study.yaml").read_bytes())
    (tmp_path / "results.csv").write_text(content)
    assert report(tmp_path) == 2
    assert words in (said := capsys.readouterr().err) and said.count("\n") == 1
    fewer = (whole[0] / "results.csv").read_text().splitlines(keepends=True)[:-1]
    (tmp_path / "results.csv").write_text("".join(fewer))
    assert report(tmp_path) == 2
    assert "rows and seeds differ" in capsys.readouterr().err
