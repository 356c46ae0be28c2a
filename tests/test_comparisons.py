"""Tables of differences and of worths: each number is what an independent count says, in every format, and no text of
a study is read as markup."""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from modernize.roadmap import roadmap
from reports.cost_table import CostRow, cost_table
from reports.errors import ReportError
from reports.formats import RENDERERS, csv, markdown, terminal
from reports.latex import latex
from reports.latex_escape import tex, tex_prose
from reports.numbers import signed
from reports.orders_table import orders_table
from reports.roadmap_table import roadmap_table
from reports.statistics.sequential import compare_over_looks
from reports.study_tables import comparison_table
from reports.tables import Cell, Column, Table

FLAGS = [
    *("depths=1-1-4-1", "stem=patchify", "depthwise=on", "width=18", "inverted_bottleneck=on", "depthwise_first=on"),
    *("kernel_size=7", "activation=gelu", "fewer_activations=on", "fewer_norms=on", "norm=ln"),
    "separate_downsampling=on",
]
ROWS = [("base", "pocket", None), *((f"with-{flag.partition('=')[0]}", f"+ {flag}", "base") for flag in FLAGS)]
COLUMNS = ["row", "params (k)", "MACs (M)", "top-1 (%)", "test loss", "seeds"]
MEASURES = ("train_images_per_second", "inference_images_per_second", "latency_ms", "peak_memory_mb")
DIFFERENCES = ["difference (pp)", "95% CI", "adjusted p", "verdict"]


def make_runs(
    rows: Sequence[tuple[str, str, str | None]] = ROWS,
    seeds: Sequence[int] = (0, 1, 2),
    effects: dict[str, float] | None = None,
    luck: float = 0.2,
    **columns: Any,
) -> pd.DataFrame:
    """A finished study's frame, as run folders give it: each row's accuracy is 80, its effect and luck."""
    chance = np.random.default_rng(11)
    lines = []
    for seed, (place, (row, label, base)) in itertools.product(seeds, enumerate(rows)):
        line: dict[str, Any] = {
            "study": "mine",
            "kind": "one-in",
            "roadmap": None,
            "row": row,
            "label": label,
            "base": base,
        }
        line |= {"run": f"{row}-s{seed}", "seed": seed, "recipe": "quick", "dataset": "digits", "evaluate": "test"}
        line |= {"status": "done", "reason": None, "loss": 0.5}
        effect = (effects or {}).get(row, (place - 6) / 2 if place else 0)
        line["top1"] = 80 + effect + luck * chance.normal()
        line |= {"params": 300_000 + 1_234 * place, "macs": 5_000_000 + 54_321 * place, "images_seen": 60_000}
        lines.append(line | {"images_per_second": 100.0, "seconds": 6.0, "weights_sha256": "x"} | columns)
    return pd.DataFrame(lines)


def changed(runs: pd.DataFrame, row: str, seed: int | None = None, **values: Any) -> pd.DataFrame:
    """The runs with other values for a row, or for one seed of it; one that is not done has no result."""
    runs = runs.copy()
    which = (runs["row"] == row) & ((runs["seed"] == seed) if seed is not None else True)
    if values.get("status", "done") != "done":
        values |= {"top1": math.nan, "params": math.nan, "macs": math.nan}
    for column, value in values.items():
        runs[column] = runs[column].astype(object)
        runs.loc[which, column] = value
    return runs


def top1(runs: pd.DataFrame, row: str) -> dict[int, float]:
    mine = runs[(runs["row"] == row) & (runs["status"] == "done")]
    return dict(zip(mine["seed"], mine["top1"].astype(float), strict=True))


# ---- reading each format back, without the project's help


def plain_text(token: Any) -> str:
    """What a Markdown token shows; fails on anything but text."""
    assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
    return "".join(child.content for child in token.children)


def read_markdown(text: str) -> tuple[list[list[str]], list[str]]:
    """The table's lines and the paragraphs and headings around it, as a Markdown reader sees them."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    lines: list[list[str]] = []
    around = []
    for before, token in itertools.pairwise(tokens):
        if token.type == "tr_open":
            lines.append([])
        elif token.type == "inline" and before.type in ("th_open", "td_open"):
            lines[-1].append(plain_text(token))
        elif token.type == "inline":
            assert before.type in ("paragraph_open", "heading_open")
            around.append(plain_text(token))
    assert {token.tag for token in tokens} <= {"h1", "p", "table", "thead", "tbody", "tr", "th", "td", ""}
    return lines, around


TEX = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textasciigrave{}": "`",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\ldots{}": "…",
    r"$\pm$": "±",
    r"$\times$": "×",
    r"$-$": "−",
    r"$\rightarrow$": "→",
    r"$\cdot$": "·",
    "{[}": "[",
    "{*}": "*",
    "-{}": "-",
    "'{}": "'",
    "''": '"',
    "``": '"',
    r"\textquotedblleft{}": "“",
    r"\textquotedblright{}": "”",
    r"\'{e}": "é",
    r"\allowbreak{}": "",
    "--": "–",
    **{f"\\{special}": special for special in "&%$#_{}"},
}
TEX_WORD = re.compile("|".join(map(re.escape, TEX)) + r"|\\textsuperscript\{([\d,]+)\}|[^\\{}$&%#_^~|<>\[*`]")


STACK = re.compile(r"\\begin\{tabular\}\[[tb]\]\{@\{\}[lr]@\{\}\}(.*?)\\end\{tabular\}")


def untex(text: str) -> str:
    """What a LaTeX text shows, marks left out, stacked lines joined; fails on anything that is not escaped."""
    text = STACK.sub(lambda stack: stack[1].replace(r" \\ ", " "), text)
    shown, place = [], 0
    while place < len(text):
        found = TEX_WORD.match(text, place)
        assert found, text[place:]
        shown.append("" if found[1] else TEX.get(found[0], found[0]))
        place = found.end()
    return "".join(shown).strip()


def read_latex(text: str) -> tuple[list[list[str]], list[str]]:
    """The lines of a LaTeX table, and its caption and paragraphs."""
    assert_whole(text)
    inside = text.partition("\\toprule\n")[2].partition("\\bottomrule")[0]
    rule = r"\\midrule|\\addlinespace|(\\cmidrule\(lr\)\{\d+-\d+\} ?)*"
    body = [line for line in inside.splitlines() if not re.fullmatch(rule, line)]
    assert all(line.endswith(r" \\") for line in body)
    cells = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in body]
    lines = [[untex(re.sub(r"^\\multicolumn\{\d+\}\{c\}\{(.*)\}$", r"\1", cell)) for cell in line] for line in cells]
    caption = re.search(r"^\\caption\{(.*)\}$", text, re.MULTILINE)
    assert caption
    after = text.partition("\\scriptsize\\raggedright\n")[2].splitlines()[:-2]
    assert all(line.endswith("\\par") for line in after)
    return lines, [untex(caption[1]), *(untex(line.removesuffix("\\par")) for line in after)]


def assert_whole(text: str) -> None:
    """Every environment and brace that opens closes, in order, and every line of the table has each column."""
    open_ones = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    depth = 0
    for character in re.sub(r"\\[{}\\$]", "", text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert re.sub(r"\\.", "", text).count("$") % 2 == 0
    alignment = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert alignment
    text = STACK.sub("", text)
    for line in text.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines():
        assert line == "\\addlinespace" or len(re.findall(r"(?<!\\)&", line)) == len(alignment[1]) - 1


def without_marks(text: str) -> str:
    return re.sub(r"\s*[⁰¹²³⁴⁵⁶⁷⁸⁹,]*[⁰¹²³⁴⁵⁶⁷⁸⁹]$", "", text).strip()


def read_terminal(text: str) -> list[list[str]]:
    """The lines under the rule, cut where two spaces or more stand; at a width at which no cell wraps."""
    body = re.split(r"\n[─ ]+\n", text, maxsplit=1)[1].split("\n\n")[0]
    lines = [re.split(r"\s{2,}", line.strip()) for line in body.splitlines() if line.strip(" ┈")]
    return [[without_marks(cell) for cell in line] for line in lines]


def read(form: str, table: Table) -> list[list[str]]:
    """The shown cells of a table, marks left out, true minuses as hyphens."""
    lines = {
        "terminal": lambda: read_terminal(terminal(table, 250)),
        "markdown": lambda: [[without_marks(cell) for cell in line] for line in read_markdown(markdown(table))[0][1:]],
        "latex": lambda: read_latex(latex(table))[0][1:],
    }[form]()
    assert not any(cell.startswith("-") for line in lines for cell in line), "a number's sign is a minus"
    return [[re.sub(r"−(?=\d)", "-", cell) for cell in line] for line in lines]


# ---- the numbers


def expected_lines(runs: pd.DataFrame, rows: Sequence[tuple[str, str, str | None]]) -> list[dict[str, Any]]:
    """The lines of a finished study: differences counted once more, the rest as `compare` has it."""
    pairs = [(row, base) for row, _, base in rows if base is not None]
    tests = compare_over_looks(runs, pairs).set_index("row").to_dict("index")
    lines = []
    for place, (row, label, _) in enumerate(rows):
        values = top1(runs, row).values()
        line: dict[str, Any] = {"row": row, "label": label}
        line |= {"params": 300_000 + 1_234 * place, "macs": 5_000_000 + 54_321 * place, "seeds": len(values)}
        line |= {"mean": statistics.mean(values), "sd": statistics.stdev(values)}
        if row in tests:
            base = next(base for name, _, base in rows if name == row)
            difference = line["mean"] - statistics.mean(top1(runs, str(base)).values())
            line |= {name: tests[row][name] for name in ("low", "high", "p", "p_adjusted")} | {"difference": difference}
            word = "better" if difference > 0 else "worse"
            line["verdict"] = word if line["p_adjusted"] <= 0.05 else "inconclusive"
        lines.append(line)
    return lines


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", text)]


@pytest.mark.parametrize("form", ["markdown", "latex", "terminal"])
def test_the_shown_numbers_are_those_of_an_independent_count(form: str) -> None:
    runs = make_runs()
    shown = read(form, comparison_table(runs))
    expected = expected_lines(runs, ROWS)
    assert len(shown) == len(expected) == 13
    half = 0.0050001
    for cells, line in zip(shown, expected, strict=True):
        assert cells[0] == line["label"]
        assert float(cells[1]) == pytest.approx(line["params"] / 1e3, abs=half)
        assert float(cells[2]) == pytest.approx(line["macs"] / 1e6, abs=half)
        assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", cells[3])
        assert numbers(cells[3]) == [pytest.approx(line["mean"], abs=half), pytest.approx(line["sd"], abs=half)]
        assert cells[4:6] == ["0.500", "3"]
        if "verdict" not in line:
            assert [cell for cell in cells[6:] if cell] == ["–"] * 3
            continue
        assert numbers(cells[6]) == [pytest.approx(line["difference"], abs=half)] and cells[6][0] in "+-"
        assert re.fullmatch(r"[+-]\d+\.\d\d to [+-]\d+\.\d\d", cells[7])
        assert numbers(cells[7]) == [pytest.approx(line["low"], abs=half), pytest.approx(line["high"], abs=half)]
        if line["p_adjusted"] < 0.001:
            assert cells[8] == "<0.001"
        else:
            assert float(cells[8]) == pytest.approx(line["p_adjusted"], abs=0.00051)
        assert cells[9] == line["verdict"]
    assert {line.get("verdict") for line in expected} == {None, "better", "worse", "inconclusive"}


def test_csv_and_json_keep_full_precision() -> None:
    runs = make_runs()
    table = comparison_table(runs)
    frame = pd.read_csv(io.StringIO(csv(table)))
    records = json.loads(RENDERERS["json"](table))
    for cells, record, line in zip(frame.to_dict("records"), records, expected_lines(runs, ROWS), strict=True):
        for name, value in line.items():
            assert cells[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
            assert record[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)
    assert list(frame["base"].dropna()) == ["base"] * 12 and set(frame["recipe"]) == {"quick"}
    assert set(frame["method"].dropna()) == {"moderated t-test"}


def test_headings_legend_and_facts() -> None:
    table = comparison_table(make_runs())
    assert (table.name, table.title) == ("one-in", "mine: one flag at a time added to the base")
    assert read_markdown(markdown(table))[0][0] == [*COLUMNS, *DIFFERENCES]
    assert read_latex(latex(table))[0][0] == [*COLUMNS, *DIFFERENCES]
    assert (
        table.subtitle
        == "study mine · data digits · recipe quick · 60,000 images per run · seeds 0, 1, 2 · 39 runs: 39 finished"
    )
    assert "95% CI from a moderated t-test" in table.legend and "12 comparisons" in table.legend
    assert "family-wise error" in table.legend and "McNemar" not in table.legend
    assert [read_markdown(markdown(table))[1][i] for i in (0, 1, 2)] == [table.title, table.subtitle, table.legend]
    assert read_latex(latex(table))[1] == [table.title, table.subtitle, table.legend]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((kind, kind) for kind in ("one-in", "one-out", "grid", "recipes")),
        ("roadmap", "steps"),
        ("sweep", "sweep-kernel_size"),
    ],
)
def test_a_tables_name_is_its_files(kind: str, name: str) -> None:
    rows = [("kernel_size=3", "kernel_size=3", None), ("kernel_size=5", "kernel_size=5", "kernel_size=3")]
    table = comparison_table(make_runs(rows, kind=kind))
    assert table.name == name and table.title.startswith("mine: ")


def test_without_anything_to_compare_there_are_no_columns_for_it() -> None:
    table = comparison_table(make_runs([("on-0", "pocket", None), ("on-1", "all flags", None)], kind="orders"))
    assert [column.title for column in table.columns] == COLUMNS
    assert table.name == "orders" and "difference" not in table.legend
    assert {len(line) for form in ("markdown", "latex", "terminal") for line in read(form, table)} == {6}


def test_no_runs_are_refused() -> None:
    with pytest.raises(ReportError, match="no runs to report"):
        comparison_table(make_runs().head(0))


# ---- words


def word_of(table: Table, row: str) -> str:
    return table.rows[list(table.frame["row"]).index(row)][-1].text


def cell_of(table: Table, row: str, column: str) -> str:
    place = [column.name for column in table.columns].index(column)
    return table.rows[list(table.frame["row"]).index(row)][place].text


def notes_of(table: Table, row: str) -> str:
    marks = table.rows[list(table.frame["row"]).index(row)][0].marks
    return "; ".join(table.notes[mark - 1] for mark in marks)


def test_every_verdict() -> None:
    rows = [("base", "base", None), *((name, name, "base") for name in ("up", "down", "same", "one", "none", "lost"))]
    rows += [("open", "open", "base"), ("alone", "alone", "nowhere")]
    runs = make_runs(rows, (0, 1, 2, 3), {"base": 0, "up": 5, "down": -5, "same": 0, "one": 9, "none": 9, "alone": 9})
    runs = runs[~((runs["row"] == "one") & (runs["seed"] != 2)) & ~((runs["row"] == "none") & (runs["seed"] < 4))]
    runs = pd.concat([runs, make_runs([("none", "none", "base")], (7,))])
    runs = changed(runs, "lost", status="failed", reason="loss is nan")
    runs = changed(runs, "open", status="left")
    table = comparison_table(runs)
    assert {row: word_of(table, row) for row in table.frame["row"]} == {
        "base": "",
        "up": "better",
        "down": "worse",
        "same": "inconclusive",
        "one": "inconclusive",  # while runs are unfinished
        "none": "inconclusive",
        "lost": "not tested: failed",
        "open": "not tested: not run",
        "alone": "not tested: baseline not run",
    }
    assert word_of(comparison_table(runs[runs["row"] != "open"]), "one") == "better"
    told = table.frame["verdict"].str.cat(table.frame["reason"].where(table.frame["reason"] != ""), ": ")
    assert told.fillna(table.frame["verdict"]).fillna("").tolist() == [
        word_of(table, row) for row in table.frame["row"]
    ]
    for row in ("lost", "open", "alone"):
        assert cell_of(table, row, "interval") == cell_of(table, row, "p_adjusted") == "–"
    assert cell_of(table, "lost", "difference") == "–"
    assert "nowhere: not run" in notes_of(table, "alone")


def test_a_difference_of_nothing_has_no_sign() -> None:
    rows = [("base", "base", None), ("again", "the same run", "base")]
    runs = make_runs(rows, effects={"base": 0, "again": 0}, luck=0)
    table = comparison_table(runs)
    assert [cell.text for cell in table.rows[1][6:]] == ["0.00", "–", "–", "not tested: no spread between seeds"]


def test_rows_that_are_not_done_are_there_with_their_reason() -> None:
    runs = changed(make_runs(), "with-norm", 1, status="failed", reason="loss is nan at step 120")
    runs = changed(runs, "with-stem", status="failed", reason="out of memory\nTraceback, line 3")
    runs = changed(runs, "with-width", status="left")
    runs = changed(runs, "with-depths", status="running")
    runs = changed(runs, "with-activation", status="stopped")
    runs = changed(runs, "with-kernel_size", 0, status="left")
    runs = changed(runs, "with-kernel_size", 1, status="failed", reason="killed")
    runs = changed(runs, "with-kernel_size", 2, status="running")
    table = comparison_table(runs)
    assert table.subtitle.endswith("39 runs: 23 finished, 5 failed, 4 running, 3 interrupted, 4 pending")
    states = {
        "with-stem": "failed",
        "with-width": "pending",
        "with-depths": "running",
        "with-activation": "interrupted",
        "with-kernel_size": "failed",
    }
    for row, state in states.items():
        assert cell_of(table, row, "mean") == state and cell_of(table, row, "seeds") == "0"
        assert cell_of(table, row, "params") == cell_of(table, row, "macs") == "–"
        assert word_of(table, row) == ("not tested: failed" if state == "failed" else "not tested: not run")
    assert cell_of(table, "with-norm", "seeds") == "2" and " ± " in cell_of(table, "with-norm", "mean")
    assert notes_of(table, "with-norm") == "seed 1 failed (loss is nan at step 120)"
    assert "seeds 0, 1, 2 failed (out of memory Traceback, line 3)" in notes_of(table, "with-stem")
    assert notes_of(table, "with-width") == "seeds 0, 1, 2 pending"
    assert "seeds 0, 1, 2 running" in notes_of(table, "with-depths") and "interrupted" in notes_of(
        table, "with-activation"
    )
    assert notes_of(table, "with-kernel_size") == "seed 0 pending, seed 1 failed (killed), seed 2 running"
    for text in (*(RENDERERS[form](table) for form in ("table", "markdown", "latex")), terminal(table, 250)):
        for reason in ("loss is nan at step 120", "seed 1 failed (killed)"):
            assert reason in text.replace("\n", " ")
    assert "loss is nan at step 120" in csv(table) and "loss is nan at step 120" in RENDERERS["json"](table)
    assert len(read("markdown", table)) == len(read("latex", table)) == len(read("terminal", table)) == 13


def test_rows_of_the_same_fate_share_a_footnote() -> None:
    table = comparison_table(changed(make_runs(), "with-norm", status="left"))
    both = comparison_table(changed(changed(make_runs(), "with-norm", status="left"), "with-stem", status="left"))
    assert table.notes == both.notes == ("seeds 0, 1, 2 pending",)
    assert notes_of(both, "with-norm") == notes_of(both, "with-stem") == both.notes[0]


def test_a_base_that_failed_says_so_itself_and_at_every_row() -> None:
    runs = changed(make_runs(seeds=(0, 1)), "base", 1, status="failed", reason="out of memory")
    table = comparison_table(runs)
    assert notes_of(table, "base") == "seed 1 failed (out of memory)"
    assert notes_of(table, "with-norm") == "base: seed 1 failed (out of memory)"
    assert len(table.notes) == 2
    assert word_of(table, "with-norm") != "not tested: one seed"  # the other rows tell the noise of one run
    none = comparison_table(changed(runs, "base", status="failed", reason="out of memory"))
    assert cell_of(none, "base", "mean") == "failed" and notes_of(none, "base") == "seeds 0, 1 failed (out of memory)"
    assert {word_of(none, row) for row, _, base in ROWS if base} == {"not tested: baseline failed"}


def test_a_study_in_which_nothing_is_done() -> None:
    runs = make_runs().assign(status="left", top1=None, params=None, macs=None)
    table = comparison_table(runs)
    assert {line[3] for line in read("terminal", table)} == {"pending"}
    for form in RENDERERS.values():
        assert form(table)


def test_a_row_of_another_recipe_says_so() -> None:
    table = comparison_table(changed(make_runs(), "base", recipe="quick_original"))
    assert notes_of(table, "base") == "trained with recipe quick_original"
    assert "recipe quick ·" in table.subtitle and notes_of(table, "with-norm") == ""


# ---- one seed


def test_one_seed_has_no_verdicts_whatever_images_it_got_right() -> None:
    rows = [("base", "base", None), ("up", "up", "base")]
    table = comparison_table(make_runs(rows, (5,), {"base": 0, "up": 5}, luck=0, compared_images=800))
    assert word_of(table, "up") == "not tested: one seed"
    assert cell_of(table, "up", "difference") == "+5.00" and cell_of(table, "up", "interval") == "–"
    assert "McNemar" not in table.legend


def test_rows_without_any_spread_between_seeds_are_not_tested() -> None:
    """One image in 1,000 more with every seed is no evidence, whether the number of images is known or not."""
    rows = [("base", "base", None), ("up", "up", "base")]
    runs = make_runs(rows, (0, 1, 2), {"base": 0, "up": 0.1}, luck=0)
    for table in (comparison_table(runs), comparison_table(runs.assign(compared_images=800))):
        assert word_of(table, "up") == "not tested: no spread between seeds"
        assert numbers(cell_of(table, "up", "interval")) == []


# ---- what some studies have beside


def test_what_was_measured_stands_in_columns_of_its_own() -> None:
    bench = measured([row for row, _, _ in ROWS if row != "with-norm"])
    table = comparison_table(make_runs(), bench=bench)
    assert [column.title for column in table.columns] == [
        *COLUMNS,
        *("training (images/s)", "inference (images/s)", "latency (ms)", "peak memory (MB)"),
        *DIFFERENCES,
    ]
    assert {column.group for column in table.columns} == {"", "GPU, batch 64"}
    assert [cell_of(table, "base", name) for name in MEASURES] == ["12,346", "23,457", "1.25", "512"]
    assert [cell_of(table, "with-norm", name) for name in MEASURES] == ["–"] * 4
    frame = pd.read_csv(io.StringIO(csv(table))).set_index("row")
    for line in bench.to_dict("records"):
        assert [frame.loc[line["row"], name] for name in MEASURES] == [line[name] for name in MEASURES]
    assert frame.loc["with-norm", list(MEASURES)].isna().all()
    assert "ablations bench" in table.legend and "ablations bench" not in comparison_table(make_runs()).legend


def test_each_device_and_batch_has_its_columns_and_the_last_measurement_counts() -> None:
    again = measured(["base"]).assign(latency_ms=9.0)
    other = measured(["base"], "CPU", 1)[["row", "batch_size", "device", "latency_ms"]]
    bench = pd.concat([measured(["base"]), again, other], ignore_index=True)
    table = comparison_table(make_runs(), bench=bench)
    groups = [(column.name, column.group) for column in table.columns if column.group]
    assert groups == [*((f"{name}_1", "GPU, batch 64") for name in MEASURES), ("latency_ms_2", "CPU, batch 1")]
    assert cell_of(table, "base", "latency_ms_1") == "9" and cell_of(table, "base", "latency_ms_2") == "1.25"


def test_averaged_weights_have_a_column_where_there_are_any() -> None:
    runs = make_runs()
    runs["ema_top1"] = runs["top1"] + 0.25
    runs.loc[runs["row"] == "with-norm", "ema_top1"] = math.nan
    table = comparison_table(changed(runs, "with-stem", 1, status="failed", reason="x"))
    mine = runs[runs["row"] == "with-width"]["ema_top1"]
    assert cell_of(table, "with-width", "ema_mean") == f"{mine.mean():.2f} ± {mine.std():.2f}"
    assert cell_of(table, "with-norm", "ema_mean") == "–"
    lost = runs[(runs["row"] == "with-stem") & (runs["seed"] != 1)]["ema_top1"]
    frame = pd.read_csv(io.StringIO(csv(table))).set_index("row")
    assert frame.loc["with-stem", "ema_mean"] == pytest.approx(lost.mean())
    assert frame.loc["with-width", "ema_sd"] == pytest.approx(mine.std())
    assert "average over training" in table.legend
    assert "ema_mean" not in comparison_table(make_runs().assign(ema_top1=None)).frame


def test_a_note_of_a_run_is_a_footnote_at_its_row() -> None:
    runs = make_runs().assign(note=None)
    runs.loc[(runs["row"] == "with-norm") & (runs["seed"] == 1), "note"] = "batch halved to fit"
    table = comparison_table(runs)
    assert notes_of(table, "with-norm") == "batch halved to fit" and table.notes == ("batch halved to fit",)


# ---- worths over orders

WORTHS = {"depthwise": 0.5, "kernel_size": 2.25, "activation": -1.125, "norm": 0.0, "fewer_norms": 4.0}
NAMES = list(WORTHS)


def row_of(chosen: frozenset[str]) -> str:
    return "+".join(sorted(chosen)) or "none"


def make_orders(number: int = 6) -> list[list[str]]:
    chance = np.random.default_rng(5)
    return [NAMES, *(list(chance.permutation(NAMES)) for _ in range(number))]


def walk(orders: list[list[str]], value: Any, seeds: Sequence[int] = (0, 1, 2)) -> pd.DataFrame:
    """The frame of a study of orders; `value(chosen, seed)` is the accuracy of a set of flags."""
    sets = dict.fromkeys(frozenset(order[:length]) for order in orders for length in range(len(order) + 1))
    runs = make_runs([(row_of(chosen), row_of(chosen), None) for chosen in sets], seeds, kind="orders")
    by_row = {row_of(chosen): chosen for chosen in sets}
    return runs.assign(top1=[value(by_row[row], seed) for row, seed in zip(runs["row"], runs["seed"], strict=True)])


def additive(chosen: frozenset[str], seed: int) -> float:
    """The same noise of standard deviation 0.5 in every set."""
    return 70 + sum(WORTHS[flag] for flag in chosen) + 0.5 * (seed - 1)


@pytest.mark.parametrize("seeds", [(0, 1, 2)])
def test_an_additive_objective_gives_the_exact_worths(seeds: tuple[int, ...]) -> None:
    orders = make_orders()
    table = orders_table(walk(orders, additive, seeds), orders, row_of)
    assert (table.name, table.title) == ("worths", "mine: each flag's effect averaged over orders")
    frame = pd.read_csv(io.StringIO(csv(table)))
    assert frame["flag"].tolist() == NAMES
    for name in ("in_paper_order", "worth", "min", "max"):
        assert frame[name].tolist() == pytest.approx(list(WORTHS.values()), abs=1e-9), name
    one_step = math.sqrt(2 * 0.25 / 3)  # the standard error of a difference of two sets over three seeds
    assert (frame["se"] > one_step / math.sqrt(6) - 1e-9).all() and (frame["se"] <= one_step).all()
    assert ((frame["low"] + frame["high"]) / 2).tolist() == pytest.approx(list(WORTHS.values()), abs=1e-9)
    assert frame["sd"].tolist() == pytest.approx([0] * 5, abs=1e-9)
    for form in ("markdown", "latex", "terminal"):
        lines = read(form, table)
        assert [line[0] for line in lines] == NAMES
        for line, worth in zip(lines, WORTHS.values(), strict=True):
            shown = signed(worth, 2).replace("−", "-")
            assert line[1:3] == [shown, shown] and line[5:] == ["0.00", shown, shown]
            assert np.mean(numbers(line[4])) == pytest.approx(worth, abs=0.00501)
    assert "averaged over 6 random orders and 3 seeds (" in table.legend
    assert "The paper's order is 0.00 pp from the averages" in table.legend
    assert "rank correlation +1.00" in table.legend


def test_with_an_interaction_worths_are_averages_over_the_random_orders() -> None:
    def value(chosen: frozenset[str], seed: int) -> float:
        return additive(chosen, seed) + 3.0 * ({"depthwise", "kernel_size"} <= chosen)

    orders = make_orders(8)
    table = orders_table(walk(orders, value), orders, row_of)
    frame = table.frame.set_index("flag")
    later = {
        flag: [3.0 * (order.index(flag) > order.index(other)) for order in orders[1:]]
        for flag, other in (("depthwise", "kernel_size"), ("kernel_size", "depthwise"))
    }
    for flag, worth in WORTHS.items():
        in_orders = [worth + extra for extra in later.get(flag, [0.0] * 8)]
        assert frame.loc[flag, "worth"] == pytest.approx(statistics.mean(in_orders))
        assert frame["se"].astype(float)[flag] >= statistics.stdev(in_orders) / math.sqrt(8) * 0.9
        assert frame.loc[flag, "sd"] == pytest.approx(statistics.stdev(in_orders), abs=1e-9)
        assert frame.loc[flag, "min"] == pytest.approx(min(in_orders))
        assert frame.loc[flag, "max"] == pytest.approx(max(in_orders))
    assert frame.loc["depthwise", "in_paper_order"] == pytest.approx(0.5)  # the first of the two in that order
    assert frame.loc["kernel_size", "in_paper_order"] == pytest.approx(5.25)
    assert frame["worth"].sum() == pytest.approx(sum(WORTHS.values()) + 3)


def test_orders_that_a_failed_run_takes_out_are_not_counted() -> None:
    orders = make_orders()
    runs = walk(orders, additive)
    lost = row_of(frozenset(orders[3][:2]))
    alike = [order for order in orders[1:] if row_of(frozenset(order[:2])) == lost]
    table = orders_table(changed(runs, lost, status="failed", reason="loss is nan"), orders, row_of)
    assert f"averaged over {6 - len(alike)} of 6 random orders and 3 seeds" in table.legend
    assert table.frame["worth"].tolist() == pytest.approx(list(WORTHS.values()))
    one = orders_table(changed(runs, "none", 1, status="failed", reason="loss is nan"), orders, row_of)
    assert "averaged over 6 random orders and 2 to 3 seeds" in one.legend
    nothing = orders_table(changed(runs, "none", status="left"), orders, row_of)
    assert {cell.text for row in nothing.rows for cell in row[2:]} == {"–"}
    for form in RENDERERS.values():
        assert form(nothing)


# ---- formats

NASTY = r"50% & $x_1^2$ #{a}\b ~c | [red]bold[/red] <script> **x** `y` _z_ __init__ ~~s~~ &amp; [l](u) × − ± → … – · --"


LETTERS = "Ångström naïve façade Łódź straße αβ λμ ≤ ≥ “a” ‘b’ — µ 10² 日本 🙂 привет \N{COMBINING ACUTE ACCENT}"


def measured(rows: Sequence[str], device: str = "GPU", batch: int = 64) -> pd.DataFrame:
    """What a bench measured of some rows."""
    lines = [
        {
            "row": row,
            "batch_size": batch,
            "device": device,
            "train_images_per_second": 12345.6 - place,
            "inference_images_per_second": 23456.7 - place,
            "latency_ms": 1.25 + place,
            "peak_memory_mb": 512.5,
        }
        for place, row in enumerate(rows)
    ]
    return pd.DataFrame(lines)


def all_tables() -> dict[str, Table]:
    """Every kind of table that a report or the command line shows."""
    orders = make_orders()
    steps = [("resnet", "ResNet", None), ("enhanced-recipe", "ResNet (enhanced)", "resnet")]
    paper = make_runs(steps, roadmap="pocket", kind="roadmap")
    nasty = make_runs([("base", NASTY, None), ("[x]", f"[red]{NASTY}", "base"), ("*y*", f"*{NASTY}", "base")])
    nasty = changed(nasty.assign(study=NASTY, dataset=NASTY), "*y*", 1, status="failed", reason=NASTY)
    return {
        "comparisons": comparison_table(changed(make_runs(), "with-norm", 1, status="failed", reason="x")),
        "one seed": comparison_table(make_runs(seeds=(0,), compared_images=800)),
        "orders": orders_table(walk(orders, additive), orders, row_of),
        "sets": comparison_table(walk(orders, additive)),
        "roadmap": roadmap_table(paper, roadmap("pocket")),
        "paper": roadmap_table(
            make_runs([(row.name, row.label, None) for row in roadmap("resnet50").rows]).assign(roadmap="resnet50"),
            roadmap("resnet50"),
        ),
        "cost": cost_table(
            [CostRow("a_b", NASTY, 10, 10**9, 10**6, 4.1, NASTY), CostRow("c", "d", 5, 10**7, 9)], NASTY, "row"
        ),
        "nasty": comparison_table(nasty),
        "measured": roadmap_table(
            make_runs([(row.name, row.label, None) for row in roadmap("pocket").rows]).assign(
                roadmap="pocket", ema_top1=81.0, note="x" * 300
            ),
            roadmap("pocket"),
            measured([row.name for row in roadmap("pocket").rows]),
        ),
    }


TABLES = all_tables()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("form", RENDERERS)
def test_every_table_in_every_format(form: str, name: str) -> None:
    table = TABLES[name]
    text = RENDERERS[form](table)
    assert text.endswith("\n") and "\x1b" not in text
    match form:
        case "json":
            assert len(json.loads(text)) == len(table.rows)
        case "csv":
            assert list(pd.read_csv(io.StringIO(text)).columns) == list(table.frame.columns)
        case "table":
            assert max(map(len, text.splitlines())) <= 100 or name in ("nasty", "cost", "measured")
        case "markdown":
            assert len(read_markdown(text)[0]) == 1 + len(table.rows)
        case "latex":
            lines, _ = read_latex(text)
            grouped = any(column.group for column in table.columns)
            assert len(lines) == 1 + grouped + len(table.rows)


def tall_table() -> Table:
    """A table of many rows, some of them several lines tall, each with a footnote of its own."""
    rows = [("base", "base", None), *((f"r{n}", " + ".join(["flag"] * (n % 30)) or "none", "base") for n in range(90))]
    runs = make_runs(rows, seeds=(0, 1))
    for number in range(90):
        runs = changed(runs, f"r{number}", 1, status="failed", reason=f"the loss is nan at step {number}")
    return comparison_table(runs)


def test_a_table_taller_than_a_page_goes_on_in_further_floats() -> None:
    table = tall_table()
    text = latex(table)
    floats = text.split("\\end{table*}")[:-1]
    assert text.count("\\caption{") == text.count("\\label{") == 1
    assert text.count("(continued)") == len(floats) - 1 > 2
    bodies = [part.partition("\\midrule\n")[2].partition("\\bottomrule")[0].splitlines() for part in floats]
    shown = [untex(line.partition(" & ")[0]) for body in bodies for line in body]
    assert shown == [cells[0].text for cells in table.rows]
    for part, body in zip(floats, bodies, strict=True):
        marks = [mark for line in body for mark in re.findall(r"\\textsuperscript\{(\d+)\}", line)]
        notes = re.findall(r"^\\textsuperscript\{(\d+)\} .*\\par$", part, re.MULTILINE)
        assert notes == marks
        assert len(marks) + sum(1 + line.count(" \\\\ ") for line in body) <= 46
        assert ("standard deviation" in part) == (part is floats[-1])


@pytest.mark.parametrize("columns", ["onecolumn", "twocolumn"])
@pytest.mark.parametrize("compiler", ["pdflatex", "tectonic"])
def test_latex_compiles_and_stays_on_the_page(compiler: str, columns: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    letters = comparison_table(make_runs([("a", LETTERS, None), ("b", "w" * 200, "a")]).assign(study=LETTERS))
    tables = "\n\\clearpage\n".join(latex(table) for table in (*TABLES.values(), letters, tall_table()))
    head = f"\\documentclass[{columns}]{{article}}\n\\usepackage{{booktabs,graphicx}}\n"
    (tmp_path / "tables.tex").write_text(head + "\\begin{document}\n" + tables + "\\end{document}\n")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if compiler == "pdflatex" else []
    done = subprocess.run([compiler, *options, "tables.tex"], cwd=tmp_path, capture_output=True, timeout=100)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    assert "Overfull" not in said and "too large" not in said
    assert (tmp_path / "tables.pdf").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("letter", "source"),
    {
        **{"é": r"\'{e}", "Å": r"\AA{}", "ç": r"\c{c}", "λ": r"$\lambda$", "≤": r"$\leq$", "日": "{[}U+65E5]"},
        **{"²": r"\textsuperscript{2}", "“": r"\textquotedblleft{}", "🙂": "{[}U+1F642]", "\x00": "{[}U+0000]"},
    }.items(),
)
def test_letters_that_pdflatex_has_not_are_written_another_way(letter: str, source: str) -> None:
    assert tex(letter) == source


@given(st.text(max_size=40))
def test_latex_is_ascii_whatever_the_words(text: str) -> None:
    assert tex(text).isascii() and tex_prose(text).isascii()


def one_table(text: str) -> Table:
    """A table in which a text stands wherever a study's own words do."""
    return Table(
        name="t",
        title=text,
        subtitle=text,
        legend=text,
        columns=(Column("label", text, number=False), Column("mean", "top-1", text), Column("word", "w", number=False)),
        rows=((Cell(text, (1,)), Cell("1.00", (1,)), Cell(text)), (Cell(text), Cell("–"), Cell("a"))),
        sections=(1,),
        notes=(text,),
        frame=pd.DataFrame({"label": [text, text], "mean": [1.0, math.nan]}),
    )


def squeezed(text: str) -> str:
    return " ".join(text.split())


texts = st.lists(
    st.sampled_from(
        [*r"""\|*_~`<>[]()!#&%$^{}"'-+.:;/=@a1é×−±→…–·""", " ", "[red]", "[/]", "<b>", "&lt;", "--", "''", "__"]
    )
    | st.sampled_from(["\\alpha", "\\textbf{", "%x", "$$", "![i](u)", "<!--", "](", "x_1", "\\\\", "\\|", "ab", "#"]),
    min_size=1,
    max_size=12,
).map("".join)


@given(texts)
@settings(max_examples=300, deadline=None, derandomize=True)
@example(NASTY)
@example("__init__")
@example("a #")
@example("&copy; &#35;")
@example("~~gone~~")
@example("[red]*")
@example("a\\")
def test_the_words_of_a_study_are_never_markup(text: str) -> None:
    literal = squeezed(text)
    if not literal:
        return
    table = one_table(f"x {text} y")
    lines, around = read_markdown(markdown(table))
    assert list(map(squeezed, lines[0])) == [f"x {literal} y", f"top-1 (x {literal} y)", "w"]
    assert list(map(squeezed, lines[1])) == [f"x {literal} y ¹", "1.00 ¹", f"x {literal} y"]
    assert list(map(squeezed, lines[2])) == [f"x {literal} y", "–", "a"]
    assert list(map(squeezed, around)) == [f"x {literal} y"] * 3 + [f"¹ x {literal} y"]
    assert read_latex(latex(table)) == (
        [
            ["", f"x {literal} y", ""],
            [f"x {literal} y", "top-1", "w"],
            [f"x {literal} y", "1.00", f"x {literal} y"],
            [f"x {literal} y", "–", "a"],
        ],
        [f"x {literal} y"] * 4,
    )
    shown = terminal(table, 250)
    assert shown.startswith(f"x {text} y".rstrip()) and squeezed(shown).count(literal) >= 6


@given(texts)
@settings(max_examples=100, deadline=None, derandomize=True)
@example("[red]*")
@example("#")
def test_a_label_may_begin_and_end_with_anything(text: str) -> None:
    """Behind a line of a LaTeX table, `[` and `*` would be read as its height; `#` ends a Markdown heading."""
    literal = squeezed(text)
    if literal:
        titled = replace(one_table(text), subtitle="", legend="", notes=())
        assert [squeezed(heading) for heading in read_markdown(markdown(titled))[1]] == [literal]
        source = latex(one_table(text))
        assert untex(source.partition("\\midrule\n")[2].partition(" & ")[0]) == literal
        assert not re.search(r"\\\\\s*[\[*]|\\(mid|top)rule\s*\[|\\addlinespace\s*\[", source)
        assert [squeezed(line[0]) for line in read_markdown(markdown(titled))[0]] == [
            literal,
            f"{literal} ¹",
            literal,
        ]


def test_a_study_of_nasty_names_is_shown_literally() -> None:
    table = TABLES["nasty"]
    reason = f"seed 1 failed ({NASTY})"
    assert reason in table.notes
    for text in (terminal(table, 600), str(read_markdown(markdown(table))[0]).replace("\\\\", "\\")):
        assert NASTY in text and f"[red]{NASTY}" in text
    assert f"¹ {reason}" in read_markdown(markdown(table))[1] and reason in terminal(table, 600)
    lines, around = read_latex(latex(table))
    assert [line[0] for line in lines[1:]] == [NASTY, f"[red]{NASTY}", f"*{NASTY}"]
    assert around[0] == table.title and around[-1] == reason
    assert f"study {NASTY} · data {NASTY} ·" in around[1]


def test_control_characters_of_a_reason_stay_out() -> None:
    runs = changed(make_runs(), "with-norm", 1, status="failed", reason="\x1b[31mred\x1b[0m\x07\x00 \u202eend")
    table = comparison_table(runs)
    assert "seed 1 failed (?[31mred?[0m?? ?end)" in table.notes
    assert "\x1b" not in terminal(table, 120)


# ---- the terminal's layout


def body_of(text: str) -> list[str]:
    return re.split(r"\n[─ ]+\n", text, maxsplit=1)[1].split("\n\n")[0].splitlines()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("width", [106, 120])
def test_a_study_of_every_flag_fits_with_its_labels_whole(width: int, seeds: tuple[int, ...]) -> None:
    runs = changed(make_runs(seeds=seeds), "with-norm", 0, status="failed", reason="loss is nan")
    text = terminal(comparison_table(runs.assign(compared_images=800)), width)
    assert max(map(len, text.splitlines())) <= width
    body = body_of(text)
    for _, label, _ in ROWS:
        assert sum(without_marks(line[: len(label) + 5]).startswith(label) for line in body) == 1, label
    if width == 120:
        assert len(body) == 13 and "difference" in text
    else:  # headings are the short ones and verdicts take a second line, before any label does
        assert ("diff." in text or len(seeds) == 1) and "MACs" in text
        wrapped = [line.strip() for line in body if line.startswith(" ")]
        assert not [line for line in wrapped if line not in ("one seed", "seed")]


def test_worths_fit_in_a_hundred_columns() -> None:
    orders = make_orders()
    text = terminal(orders_table(walk(orders, additive), orders, row_of), 100)
    assert max(map(len, text.splitlines())) <= 100 and len(body_of(text)) == 5


@pytest.mark.parametrize("width", [20, 60, 72, 80, 90, 97, 110, 140])
def test_nothing_is_lost_at_any_width(width: int) -> None:
    table = comparison_table(changed(make_runs(), "with-norm", 1, status="failed", reason="loss is nan"))
    text = terminal(table, width)
    assert max(map(len, text.splitlines())) <= max(width, 92)
    together = re.sub(r"\s", "", text)
    for row in table.rows:
        for cell in row[1:-1]:
            assert cell.text in text
        assert set(row[-1].text.split()) <= set(text.split())
    at_least = {re.sub(r"\s", "", label)[:14] for _, label, _ in ROWS}
    assert all(start[:12] in together for start in at_least)
    assert not re.search(r"^[+−]\s*$", text, re.MULTILINE), "a sign stands alone"
