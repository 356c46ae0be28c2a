"""Rows at chance, and rows far below their training accuracy, are marked wherever their numbers are shown."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import ablations_here
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study
from matplotlib.text import Text
from scipy import stats

from ablations.reporting import read_report
from ablations.studies.evaluated_images import train_top1
from ablations.studies.folder import read_study
from ablations.studies.results import study_runs
from ablations.studies.run import RunConfig
from reports.marks import Mark, at_least, count_marks, marks_of, warnings_of

RESULTS = Path(__file__).parent.parent / "docs/results/first-edition"
BASE = "kernel_size=3"


def untrained_base(run: RunConfig) -> Mapping[str, Any]:
    """The base at chance, one row far below its training accuracy of about 79%, one row as it should be."""
    usual = {BASE: 10.0, "kernel_size=5": 40.0, "kernel_size=7": 84.0}[run.row]
    return {"top1": usual + (0.4 * run.seed if run.row != BASE else 0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("marks") / "study"
    made_up_study(place, "sweep", outcome=untrained_base, flags={"kernel_size": ["3", "5", "7"]})
    return place


CHANCE = "at chance: top-1 is not distinguishable from chance (10.00%)"
TRAINING = "far below training: top-1 is more than 20 pp below that on training images: overfitting, or BatchNorm"


def plain(text: str) -> str:
    """A text without its format's line breaks, escapes and tags."""
    return " ".join(re.sub(r"<[^>]*>|\\(?=[%_])|[{}]", "", text).replace("~", " ").split())


def test_every_form_of_a_report_marks_the_rows(folder: Path) -> None:
    done = ablations_here("report", folder, "--format", "table,csv,markdown,latex,html")
    assert done.returncode == 0, done.stderr
    place = folder / "report"
    written = [*place.glob("tables/sweep-*.md"), *place.glob("tables/sweep-*.tex"), place / "index.html"]
    assert len(written) == 3
    for text in (done.stdout, *(path.read_text() for path in written)):
        assert CHANCE in plain(text) and TRAINING in plain(text) and "baseline at chance" in plain(text)
    (table,) = (place / "tables").glob("sweep-*.csv")
    marks = pd.read_csv(table).set_index("row")["marks"]
    assert marks[BASE] == "at chance; far below training"
    assert marks["kernel_size=5"] == "far below training; baseline at chance; baseline far below training"
    assert marks["kernel_size=7"] == "baseline at chance; baseline far below training"
    for page in (done.stdout, *((place / name).read_text() for name in ("summary.md", "index.html"))):
        assert "1 of 3 rows at chance: top-1 is not distinguishable from chance (10.00%)" in plain(page)


def test_figures_mark_the_rows(folder: Path) -> None:
    plots = {plot.name: plot for plot in read_report(read_study(folder), folder).plots}
    for name, marked in (("tradeoff", f"{BASE} [at chance, far below"), ("sweep-kernel_size", "baseline at chance")):
        drawn = plain(" ".join(words.get_text() for words in plots[name].figure.findobj(Text)))
        assert "1 of 3 rows at chance" in drawn and marked in drawn


def test_a_verdict_beside_a_row_at_chance_shows_it(folder: Path) -> None:
    report = read_report(read_study(folder), folder)
    groups = {group.kind: group.text for group in report.summary.groups}
    for row in ("kernel_size=5", "kernel_size=7"):
        assert re.search(rf"{row} \+[\d.]+ \([^)]*\) \[[^]]*baseline at chance", groups["helped"])
    warnings = " ".join(report.summary.warnings)
    assert "1 of 3 rows at chance" in warnings and "2 of 3 rows far below training" in warnings
    table = report.tables[-1]
    place = next(place for place, column in enumerate(table.columns) if column.name == "verdict")
    for cells in table.rows[1:]:
        assert "baseline at chance" in {table.notes[mark - 1] for mark in cells[place].marks}


def test_status_and_compare_show_the_marks(folder: Path) -> None:
    words = plain(ablations_here("status", folder).stdout)
    assert f"{BASE}-s0 0:30 finished: top-1 10.00%, at chance, far below training" in words
    assert "kernel_size=7-s2 0:30 finished: top-1 84.80%" in words
    done = ablations_here("compare", "pocket,kernel_size=3", "pocket,kernel_size=7", "--results", folder)
    assert done.returncode == 0 and CHANCE in plain(done.stdout), done.stderr


def test_the_last_line_of_train_warns(tmp_path: Path) -> None:
    """A learning rate of almost nothing leaves the network where it was."""
    settings = ("--set", "learning_rate=1e-9", "--set", "ema_decay=0.5", "--set", "image_size=8")
    where = ("--data", "digits", "--device", "cpu", "--out", tmp_path / "run")
    done = ablations_here("train", "pocket,depths=1-1,width=4", *settings, *where)
    assert done.returncode == 0, done.stderr
    for words in ("warning: top-1", "warning: EMA top-1"):
        line = next(line for line in done.stdout.splitlines() if words in line)
        assert re.search(r"\d+\.\d\d% is not distinguishable from chance \(12\.26%\)$", line)


# ---- what is marked, and what is not


@given(of=st.integers(1, 60_000), share=st.floats(0, 1), probability=st.floats(1e-6, 1 - 1e-6))
def test_the_binomial_tail_is_scipys(of: int, share: float, probability: float) -> None:
    count = round(share * of)
    expected = stats.binom.sf(count - 1, of, probability)
    assert at_least(count, of, probability) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def run_of(top1: float, images: float | None = 10_000, **facts: Any) -> dict[str, Any]:
    return {"top1": top1, "evaluated_images": images, "chance_top1": 10.0, "num_classes": 10, **facts}


@pytest.mark.parametrize(
    ("run", "marks"),
    [
        (run_of(10.0), [Mark.CHANCE]),
        (run_of(8.0), [Mark.CHANCE]),
        (run_of(10.6), [Mark.CHANCE]),
        (run_of(10.8), []),  # p = 0.004
        (run_of(12.0, images=400), [Mark.CHANCE]),
        (run_of(89.0, chance_top1=90.0, num_classes=2), [Mark.CHANCE]),  # a guess of the frequent class has 90%
        (run_of(60.0, chance_top1=50.0, num_classes=2, images=100), [Mark.CHANCE]),
        (run_of(50.0, train_top1=69.0), []),
        (run_of(50.0, train_top1=72.0), [Mark.TRAINING]),
        (run_of(50.0, images=60, train_top1=80.0), []),  # 60 images do not tell
        (run_of(8.6, train_top1=65.7), [Mark.CHANCE, Mark.TRAINING]),
        (run_of(70.8, ema_top1=11.7, train_top1=72.0), [Mark.EMA_TRAINING]),
        (run_of(70.8, ema_top1=10.0, train_top1=None), [Mark.EMA_CHANCE]),
        (run_of(87.0, train_top1=80.0, ema_top1=86.0), []),
        (run_of(10.0, images=None, chance_top1=None), [Mark.CHANCE]),  # published by an earlier version
        (run_of(10.6, images=None, chance_top1=None), []),
        ({"top1": 0.0}, []),  # nothing is known
    ],
)
def test_marks_of_runs(run: dict[str, Any], marks: list[Mark]) -> None:
    assert marks_of(run) == marks == marks_of({**run, "ema_top1": run.get("ema_top1", float("nan"))})
    assert len(list(warnings_of(run))) == len(marks)


def test_error_rates_are_as_stated() -> None:
    """At chance, at most 1% of networks go unmarked; 20 points below training, at most 1% are marked."""
    random = np.random.default_rng(0)
    for images in (60, 360, 10_000):
        hits = random.binomial(images, 0.1, 2000)
        unmarked = np.mean([not marks_of(run_of(100 * hit / images, images)) for hit in hits])
        hits = random.binomial(images, 0.5, 2000)
        marked = np.mean([bool(marks_of(run_of(100 * hit / images, images, train_top1=70.0))) for hit in hits])
        assert max(unmarked, marked) <= 0.01 + 3 * (0.01 / 2000) ** 0.5


@pytest.mark.parametrize(
    "study", sorted(path.parent for path in RESULTS.rglob("study.yaml")), ids=lambda path: path.name
)
def test_no_published_row_is_marked(study: Path) -> None:
    runs = study_runs(read_study(study), study)
    assert count_marks(runs) == [] and (runs["num_classes"] == 10).all()


def test_training_accuracy_is_that_of_the_last_fifty_steps_at_least() -> None:
    def log(*lines: tuple[int, float]) -> list[dict[str, float]]:
        return [{"step": step, "top1": top1} for step, top1 in lines]

    assert train_top1([]) is None
    assert train_top1(log((39, 59.0))) == 59.0
    assert train_top1(log((50, 20.0), (100, 60.0))) == 60.0
    assert train_top1(log((50, 20.0), (100, 60.0), (101, 100.0))) == pytest.approx((50 * 60 + 100) / 51)


KINDS: dict[str, dict[str, Any]] = {
    "roadmap": {},
    "one-in": {"flags": ["norm", "activation"]},
    "one-out": {"flags": ["norm", "activation"]},
    "grid": {"flags": {"kernel_size": ["3", "5"], "activation": ["relu", "gelu"]}},
    "orders": {"flags": ["norm", "activation"], "orders": 2},
    "screen": {"flags": ["norm", "activation", "kernel_size", "depthwise"]},
    "recipes": {"recipes": ["quick", "quick_original"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_and_summary_of_every_kind_counts_the_rows_at_chance(tmp_path: Path, kind: str) -> None:
    made_up_study(tmp_path / "study", kind, (0, 1), lambda run: {"top1": 10.0 + 0.2 * run.seed}, 1, **KINDS[kind])
    with warnings.catch_warnings(action="error"):
        report = read_report(read_study(tmp_path / "study"), tmp_path / "study")
    rows = report.runs["row"].nunique()
    for table in report.tables:
        assert f"{rows} of {rows} rows at chance" in table.subtitle, table.name
    assert f"{rows} of {rows} rows at chance" in report.summary.facts
    assert report.summary.warnings[0].startswith(f"{rows} of {rows} rows at chance")
    for group in report.summary.groups:
        if group.kind in ("helped", "hurt") and "effect" not in report.tables[0].frame:
            assert group.text.count("[at chance") == len(group.findings[:8])
