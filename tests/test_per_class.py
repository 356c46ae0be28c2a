"""Results per class are scikit-learn's, name their classes, and say what earlier versions did not record."""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import ablations_here
from hypothesis import given
from hypothesis import strategies as st
from made_up import made_up_study
from sklearn import metrics
from sklearn.dummy import DummyClassifier

from ablations.reporting import read_report
from ablations.store import read_json, write_bytes, write_json
from ablations.studies.evaluated_images import per_class, read_predictions, write_predictions
from ablations.studies.folder import read_study, run_folder
from ablations.studies.schema import Study
from ablations.training.evaluation import evaluation
from reports.marks import Mark, marks_of
from reports.per_class import ClassResults, balanced_accuracy, largest_class_top1, recalls
from reports.report import Report

NAMES = ("Katze & Hund", "_odd.name_", "Übergröße (alt)", "a 100% longer name than a heading of a table holds", "e e")
TRAINING, TEST = (500, 40, 300, 20, 100), (100, 8, 60, 4, 20)
Skill = Callable[[str, int], float]  # of a row and seed: the share of images that it classifies correctly


def add_predictions(
    study: Study, folder: Path, names: Sequence[str], training: Sequence[int], test: Sequence[int], skill: Skill
) -> None:
    """Give the runs of a made-up study predictions of these classes, written as the trainer writes them."""
    labels = torch.arange(len(names)).repeat_interleave(torch.tensor(test))
    train = SimpleNamespace(labels=torch.arange(len(names)).repeat_interleave(torch.tensor(training)))
    data: Any = SimpleNamespace(classes=tuple(names), train=train)
    for number, run in enumerate(study.runs):
        place, chance = run_folder(folder, run), np.random.default_rng(number)
        right = chance.random(len(labels)) < skill(run.row, run.seed) * np.linspace(0.7, 1, len(names))[labels]
        other = (labels.numpy() + chance.integers(1, min(4, len(names)), len(labels))) % len(names)
        predicted = torch.tensor(np.where(right, labels.numpy(), other))
        order = torch.arange(len(labels))
        found = evaluation(order, labels, predicted, torch.ones(len(labels), dtype=torch.float64), len(labels))
        result = {key: value for key, value in read_json(place / "result.json").items() if key != "sha256"}
        facts: dict[str, Any] = {"test_images": len(labels), "evaluated_images": len(labels), "num_classes": len(names)}
        facts |= {
            "chance_top1": 100 * max(test) / sum(test),
            "predictions_sha256": write_predictions(place, found, data),
        }
        write_json(place / "result.json", {**result, "top1": found.top1, **facts, **per_class(found, data)})


def skill(row: str, seed: int) -> float:
    return 0.2 if row == "kernel_size=7" else 0.85


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of five unequal classes with odd names; one row is worse than guessing the largest class."""
    place = tmp_path_factory.mktemp("classes") / "study"
    study = made_up_study(place, "sweep", flags={"kernel_size": ["3", "5", "7"]})
    add_predictions(study, place, NAMES, TRAINING, TEST, skill)
    return place


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return read_report(read_study(folder), folder)


def results_of(report: Report) -> ClassResults:
    assert report.classes is not None
    return report.classes


def stored(folder: Path, row: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions of a row's seeds, read without the project's help."""
    files = [np.load(folder / f"runs/{row}-s{seed}/predictions.npz") for seed in range(3)]
    return [(file["labels"], file["predicted"]) for file in files]


# ---- numbers


@given(data=st.data(), classes=st.integers(1, 8))
def test_recall_and_balanced_accuracy_are_scikit_learns(data: st.DataObject, classes: int) -> None:
    images = st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=60)
    labels, predicted = np.array(data.draw(images)).T
    with warnings.catch_warnings(action="ignore"):  # of classes without images
        expected = 100 * metrics.balanced_accuracy_score(labels, predicted)
        each = metrics.recall_score(labels, predicted, labels=range(classes), average=None, zero_division=np.nan)
    assert balanced_accuracy(labels, predicted, classes) == pytest.approx(expected)
    assert recalls(labels, predicted, classes) == pytest.approx(100 * each, nan_ok=True)


@given(training=st.lists(st.integers(0, 50), min_size=2, max_size=9, unique=True), data=st.data())
def test_the_largest_class_baseline_is_scikit_learns(training: list[int], data: st.DataObject) -> None:
    labels = np.array(data.draw(st.lists(st.integers(0, len(training) - 1), min_size=1, max_size=60)))
    dummy = DummyClassifier(strategy="most_frequent")
    trained = np.repeat(np.arange(len(training)), training)
    dummy.fit(np.zeros((len(trained), 1)), trained)
    expected = 100 * dummy.score(np.zeros((len(labels), 1)), labels)
    assert largest_class_top1(labels, np.array(training)) == pytest.approx(expected)


def test_of_classes_equally_large_the_baseline_is_the_mean() -> None:
    assert largest_class_top1(np.array([0, 0, 0, 1, 2, 2]), np.array([5, 5, 3])) == pytest.approx(100 * 2 / 6)


def test_tables_say_what_the_predictions_say(folder: Path, report: Report) -> None:
    results = results_of(report)
    for row in ("kernel_size=3", "kernel_size=5", "kernel_size=7"):
        seeds = stored(folder, row)
        recall = np.array([100 * metrics.recall_score(*seed, average=None) for seed in seeds])
        mine = results.recall[results.recall["row"] == row]
        assert mine["recall_mean"].to_numpy() == pytest.approx(recall.mean(axis=0))
        assert mine["recall_sd"].to_numpy() == pytest.approx(recall.std(axis=0, ddof=1))
        assert list(mine["class"]) == list(NAMES) and list(mine["test_images"]) == list(TEST)
        assert list(mine["training_images"]) == list(TRAINING)
        balanced = [100 * metrics.balanced_accuracy_score(*seed) for seed in seeds]
        line = results.rows.set_index("row").loc[row]
        assert line["balanced_mean"] == pytest.approx(np.mean(balanced))
        assert line["balanced_sd"] == pytest.approx(np.std(balanced, ddof=1))
        matrix = np.mean([metrics.confusion_matrix(*seed, normalize="true") for seed in seeds], axis=0)
        pairs = results.pairs[results.pairs["row"] == row]
        found = pairs.pivot(index="class", columns="predicted", values="share_mean").reindex(index=NAMES, columns=NAMES)
        assert found.fillna(0).to_numpy() == pytest.approx(100 * matrix)
    best = results.rows.set_index("row")["balanced_mean"].idxmax()
    table = report.per_class[1]
    matrix = np.mean([metrics.confusion_matrix(*seed, normalize="true") for seed in stored(folder, str(best))], axis=0)
    shown = [[float(cell.text) for cell in line[2:]] for line in table.rows]
    assert np.array(shown) == pytest.approx(100 * matrix, abs=0.051) and f"confusion matrix of {best}" in table.title


def test_results_csv_and_result_json_have_the_balanced_accuracy_and_the_baseline(folder: Path, report: Report) -> None:
    for run in report.runs.to_dict("records"):
        seed = stored(folder, run["row"])[run["seed"]]
        assert run["balanced_accuracy"] == pytest.approx(100 * metrics.balanced_accuracy_score(*seed))
        assert run["largest_class_top1"] == pytest.approx(100 * 100 / 192)


# ---- the mark


def test_a_row_below_the_largest_class_is_marked_everywhere(folder: Path) -> None:
    done = ablations_here("report", folder, "--format", "table,csv,markdown,html")
    assert done.returncode == 0, done.stderr
    place = folder / "report"
    for text in (done.stdout, (place / "summary.md").read_text(), (place / "index.html").read_text()):
        words = " ".join(text.split())
        assert (
            "1 of 3 rows below guessing the largest class: top-1 is below the 52.08% of predicting the class" in words
        )
        assert "Largest-class baseline" in words
    marks = pd.read_csv(place / "tables/sweep-kernel_size.csv").set_index("row")["marks"].fillna("")
    assert "below guessing the largest class" in marks["kernel_size=7"] and "below" not in marks["kernel_size=3"]
    assert "below guessing the largest class" in ablations_here("status", folder).stdout


@pytest.mark.parametrize(("top1", "below"), [(51.9, True), (52.0, False), (60.0, False)])
def test_only_runs_below_the_baseline_are_marked(top1: float, below: bool) -> None:
    run = {"top1": top1, "largest_class_top1": 52.0, "chance_top1": 52.0, "evaluated_images": 10_000}
    assert (Mark.LARGEST in marks_of(run)) == below
    assert Mark.LARGEST not in marks_of({**run, "largest_class_top1": None})


# ---- what is not recorded


def rewritten(folder: Path, keep: Sequence[str], drop: Sequence[str] = ()) -> None:
    """Leave of each run's predictions what an earlier version wrote, and of its result all but some keys."""
    for place in sorted((folder / "runs").iterdir()):
        arrays = dict(np.load(place / "predictions.npz"))
        out = io.BytesIO()
        np.savez(out, allow_pickle=False, **{name: arrays[name] for name in keep})
        write_bytes(place / "predictions.npz", out.getvalue())
        result = read_json(place / "result.json")
        left: Mapping[str, Any] = {key: value for key, value in result.items() if key not in ("sha256", *drop)}
        write_json(place / "result.json", {**left, "predictions_sha256": sha256(out.getvalue()).hexdigest()})


EARLIER = ("predicted", "labels", "indices", "losses")


@pytest.mark.parametrize("keep", [EARLIER, EARLIER[:2]])
def test_folders_of_earlier_versions_report_what_they_have(
    folder: Path, report: Report, tmp_path: Path, keep: Any
) -> None:
    shutil.copytree(folder, tmp_path / "old")
    rewritten(tmp_path / "old", keep, ("balanced_accuracy", "largest_class_top1"))
    results = results_of(old := read_report(read_study(tmp_path / "old"), tmp_path / "old"))
    assert (
        results.names == ("0", "1", "2", "3", "4") and results.training is None and results.largest_class_top1 is None
    )
    assert results.rows.equals(results_of(report).rows)
    notes = old.per_class[0].legend
    assert "Names of classes are not recorded" in notes and "no largest-class baseline" in notes
    assert "below guessing" not in old.tables[0].subtitle


def test_runs_without_predictions_are_named_and_left_out(folder: Path, report: Report, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part/runs/kernel_size=5-s1/predictions.npz").unlink()
    results = results_of(part := read_report(read_study(tmp_path / "part"), tmp_path / "part"))
    assert list(results.rows["seeds"]) == [3, 2, 3]
    assert "predictions are missing or those of other data: kernel_size=5 seed 1." in part.per_class[0].legend
    for path in (tmp_path / "part/runs").glob("*/predictions.npz"):
        path.unlink()
    none = read_report(read_study(tmp_path / "part"), tmp_path / "part")
    assert none.classes is None and none.per_class == ()


def test_the_predictions_of_a_run_have_names_and_counts(folder: Path) -> None:
    place = folder / "runs/kernel_size=3-s0"
    found = read_predictions(place, read_json(place / "result.json"))
    assert found is not None and found.classes == NAMES and found.training is not None
    assert found.training.tolist() == list(TRAINING)


# ---- many classes


def test_a_thousand_classes_stay_readable(tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", "sweep", (0, 1), flags={"kernel_size": ["3", "5"]})
    names = [f"n{place:08d}" for place in range(1000)]
    add_predictions(study, tmp_path / "study", names, [3] * 1000, [10] * 1000, lambda row, seed: 0.8)
    report = read_report(study, tmp_path / "study")
    recall, confusion = report.per_class
    assert len(recall.columns) == 13 and len(recall.frame) == 2000 and "10 of 1,000 classes" in recall.legend
    means = recall.frame.groupby("class")["recall_mean"].mean()
    shown = [column.title.partition(" ")[0] for column in recall.columns[3:]]
    assert set(means[shown[:6]]) == set(means.sort_values().iloc[:6]) and means[shown[-1]] == means.max()
    assert len(confusion.rows) == 15
    counts = [float(line[3].text) for line in confusion.rows]
    pairs = confusion.frame
    best = results_of(report).rows.set_index("row")["balanced_mean"].idxmax()
    wrong = pairs[(pairs["row"] == best) & (pairs["class"] != pairs["predicted"])]
    assert counts == pytest.approx(sorted(wrong["images"], reverse=True)[:15], abs=0.051)
    assert pairs.groupby("row")["images"].sum().to_list() == pytest.approx([10_000, 10_000])
