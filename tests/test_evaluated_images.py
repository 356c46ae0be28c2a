"""Runs are compared image by image, by index, whatever images each of them could read."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import ablations_here
from PIL import Image
from scipy import stats
from torch import nn

from ablations.data.datasets import load
from ablations.data.decode import DamagedImageError
from ablations.recipes import TrainingConfig
from ablations.store import read_json, write_bytes, write_json
from ablations.studies.evaluated_images import EvaluatedImages, on_common_images
from ablations.studies.folder import open_folder, run_folder
from ablations.studies.load import load_study
from ablations.studies.run import execute
from ablations.studies.schema import Study
from ablations.training.callbacks import NullCallbacks
from ablations.training.trainer import Trainer
from reports.errors import ReportError
from reports.predictions import Predicted, joined
from reports.statistics import paired_correctness
from reports.tables import interval, signed

BASE = "pocket,depths=1-1,width=4"
SIDES = (f"{BASE},kernel_size=3", f"{BASE},kernel_size=5")
SETTINGS = {"image_size": "16", "max_damaged": "0.5", "workers": "0", "batch_size": "8", "max_epochs": "4"}
TESTS = 60  # test images, class by class: 0 to 29 and 30 to 59


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of noise, brighter in one class than in the other."""
    place, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    for split, many in (("train", 16), ("val", TESTS // 2)):
        for label in range(2):
            folder = place / split / f"class-{label}"
            folder.mkdir(parents=True)
            for number in range(many):
                pixels = random.normal(110 + 12 * label, 60, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return place


def test_rows_of_other_resolutions_are_compared_on_images_held_in_memory(pictures: Path, tmp_path: Path) -> None:
    """Their checksums are of images resized to different sizes; a changed file is other data still."""
    folder = tmp_path / "images"
    shutil.copytree(pictures, folder)
    small, large = (load("folder", folder, size) for size in (8, 12))
    assert small.checksum != large.checksum and small.files_checksum == large.files_checksum
    results = {
        f"{one.image_size}": {"data_checksum": one.checksum, "files_checksum": one.files_checksum}
        for one in (small, large)
    }
    older = {"data_checksum": small.checksum}  # of a run that an earlier version has finished

    def left_out(**more: dict[str, Any]) -> set[str]:
        whole = {name: {"top1": 1.0, "loss": 1.0} | one for name, one in (results | more).items()}
        tests = {name: EvaluatedImages(TESTS, TESTS, (), (), 50.0) for name in whole}
        return {name for name, one in on_common_images(whole, tests, lambda _: None).items() if one.left_out}

    assert left_out(older=older) == set()
    Image.new("RGB", (16, 16)).save(path_of(folder, 3))
    changed = load("folder", folder, 12)
    assert left_out(new={"data_checksum": changed.checksum, "files_checksum": changed.files_checksum}) == {"new"}


def path_of(pictures: Path, index: int) -> Path:
    """The file of a test image."""
    return pictures / "val" / f"class-{index // 30}" / f"{index % 30:02}.png"


Make = Callable[..., tuple[Study, Path]]


@pytest.fixture
def make(pictures: Path, tmp_path: Path) -> Make:
    """Train two rows of a study, each with its own unreadable test images."""

    def made(
        unreadable: Sequence[Sequence[int]], seeds: Sequence[int] = (0,), measure: str = "top1"
    ) -> tuple[Study, Path]:
        data = shutil.copytree(pictures, tmp_path / "data", dirs_exist_ok=True)
        changes = {"base": BASE, "data": "imagenet", "flags": {"kernel_size": ["3", "5"]}, "seeds": list(seeds)}
        study = load_study("sweep", {**changes, "measure": measure, "recipe": "quick"}, SETTINGS)
        study = open_folder(study, tmp_path / "study")
        loaded = load("imagenet", data, 16)
        for run in study.runs:
            missing = unreadable[[row.row for row in study.rows].index(run.row)]
            for index in missing:
                path_of(data, index).write_bytes(b"torn")
            (place := run_folder(tmp_path / "study", run)).mkdir(parents=True)
            result = execute(run, place, loaded, "cpu", NullCallbacks())
            assert result["status"] == "done", result
            for index in missing:
                shutil.copy(path_of(pictures, index), path_of(data, index))
        return study, tmp_path / "study"

    return made


def arrays(folder: Path, run: str) -> dict[str, np.ndarray]:
    with np.load(folder / "runs" / run / "predictions.npz") as stored:
        return {name: stored[name] for name in stored.files}


def correct(folder: Path, run: str, missing: Sequence[int]) -> dict[int, bool]:
    """By index, whether a run classified an image correctly; the missing ones are known to the test."""
    stored = arrays(folder, run)
    read = [index for index in range(TESTS) if index not in missing]
    return dict(zip(read, (stored["predicted"] == stored["labels"]).tolist(), strict=True))


def networks_words(folder: Path) -> str:
    """What `compare` prints of two trained networks, on one line."""
    done = ablations_here("compare", *SIDES, "--results", folder)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    words = " ".join(done.stdout.split())
    return words[words.index("these two") : words.index("Counted for")]


MISSING = [([], [7]), ([7], []), ([3], [40]), ([0, 1, 2, 50], [59, 2]), ([5], [5])]


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_two_networks_are_compared_on_the_images_that_both_read(make: Make, missing: Sequence[Sequence[int]]) -> None:
    study, folder = make(missing)
    before, after = (correct(folder, run.name, gone) for run, gone in zip(study.runs, missing, strict=True))
    both = sorted(before.keys() & after.keys())
    gained = sum(after[index] and not before[index] for index in both)
    lost = sum(before[index] and not after[index] for index in both)
    assert gained + lost > 0  # the networks differ
    words = networks_words(folder)
    assert (
        f"McNemar's p = {stats.binomtest(gained, gained + lost).pvalue:.2g}, on the {len(both)} of 60 images" in words
    )
    hits = [np.array([run[index] for index in both]) for run in (before, after)]
    truth = paired_correctness(hits[1], hits[0])
    assert f"{signed(truth.mean)} ({interval(truth.low, truth.high)})" in words


def test_a_report_compares_rows_on_the_images_that_all_runs_read(make: Make, tmp_path: Path) -> None:
    missing, seeds = ([3, 8], [40]), (0, 1)
    study, folder = make(missing, seeds)
    common = [index for index in range(TESTS) if index not in (3, 8, 40)]
    done = ablations_here("report", folder, "--format", "table,csv,markdown,html")
    assert done.returncode == 0, done.stderr
    runs = pd.read_csv(folder / "results.csv").set_index("run")
    assert (runs["test_images"] == 60).all() and (runs["compared_images"] == 57).all()
    for run in study.runs:
        gone = missing[[row.row for row in study.rows].index(run.row)]
        right = correct(folder, run.name, gone)
        own, line = read_json(folder / "runs" / run.name / "result.json"), runs.loc[run.name]
        assert line["top1"] == own["top1"] == pytest.approx(100 * np.mean(list(right.values())))
        assert line["compared_top1"] == pytest.approx(100 * np.mean([right[index] for index in common]))
        assert line["evaluated_images"] == own["evaluated_images"] == 60 - len(gone)
        losses = arrays(folder, run.name)
        there = np.isin(losses["indices"], common)
        assert line["compared_loss"] == pytest.approx(losses["losses"][there].mean(), abs=1e-6)
        assert own["loss"] == pytest.approx(losses["losses"].mean(), abs=1e-6)
        assert line["unread"] == "; ".join(f"val/class-{index // 30}/{index % 30:02}.png" for index in gone)
    classes = pd.read_csv(folder / "report/tables/classes.csv")
    assert set(classes.groupby("row")["test_images"].sum()) == {57}, "recall is on the same images"
    (table,) = (folder / "report/tables").glob("sweep*.csv")
    second = pd.read_csv(table).set_index("row").loc["kernel_size=5"]
    means = runs.groupby("row")["compared_top1"].mean()
    assert second["difference"] == pytest.approx(means["kernel_size=5"] - means["kernel_size=3"])
    assert second["compared_images"] == 57
    pages = [folder / "report/index.html", table.with_suffix(".md"), folder / "report/summary.md"]
    for text in (done.stdout, *(path.read_text() for path in pages)):
        words = " ".join(text.split())
        assert "on the 57 of 60 test images that all runs read" in words
    for text in (done.stdout, *(path.read_text() for path in pages[:2])):
        words = " ".join(text.split())
        assert "evaluated on 58 of 60 test images; not read: val/class-0/03.png; val/class-0/08.png" in words


def test_a_study_published_without_its_runs_has_the_same_tables(make: Make, tmp_path: Path) -> None:
    _, folder = make(([3, 8], [40]), (0, 1))
    ablations_here("report", folder, "--to", tmp_path / "live", "--format", "csv,markdown")
    published = tmp_path / "published"
    published.mkdir()
    for name in ("study.yaml", "results.csv"):
        shutil.copy(folder / name, published)
    lines = (published / "results.csv").read_text().splitlines()
    (published / "results.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")  # as if sorted by hand
    done = ablations_here("report", published, "--to", tmp_path / "again", "--format", "csv,markdown")
    assert done.returncode == 0, done.stderr
    for path in sorted((tmp_path / "live/tables").glob("sweep*.*")):  # those per class need the runs' predictions
        assert path.read_text() == (tmp_path / "again" / path.relative_to(tmp_path / "live")).read_text(), path


# ---- runs of earlier versions, and runs that are not of the same data


def as_earlier_version(folder: Path, run: str) -> None:
    """Rewrite a run's files as the versions before indices wrote them."""
    place = folder / "runs" / run
    kept = arrays(folder, run)
    buffer = io.BytesIO()
    np.savez(buffer, predicted=kept["predicted"], labels=kept["labels"])
    write_bytes(place / "predictions.npz", buffer.getvalue())
    result = read_json(place / "result.json")
    for name in ("test_images", "evaluated_images", "chance_top1", "unread", "train_top1"):
        result.pop(name, None)
    write_json(place / "result.json", {**result, "predictions_sha256": sha256(buffer.getvalue()).hexdigest()})


def words_of(folder: Path) -> str:
    done = ablations_here("report", folder, "--format", "table,csv")
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


def test_runs_of_earlier_versions_that_read_every_image_are_compared_by_position(make: Make) -> None:
    study, folder = make(([], [40]))
    as_earlier_version(folder, study.runs[0].name)
    before, after = correct(folder, study.runs[0].name, []), correct(folder, study.runs[1].name, [40])
    lost = sum(before[index] and not after[index] for index in after)
    gained = sum(after[index] and not before[index] for index in after)
    p = stats.binomtest(gained, gained + lost).pvalue
    assert f"McNemar's p = {p:.2g}, on the 59 of 60 images that both read" in networks_words(folder)
    assert "on the 59 of 60 test images that all runs read" in words_of(folder)


def test_a_run_of_an_earlier_version_that_left_out_other_images_is_not_compared_and_says_why(make: Make) -> None:
    study, folder = make(([3], [40]))
    as_earlier_version(folder, study.runs[0].name)
    reason = "evaluated on 59 of 60 test images, and the version that trained it did not record which"
    words = words_of(folder)
    assert f"not compared ({reason})" in words and "1 not compared" in words
    assert "McNemar" not in words
    runs = pd.read_csv(folder / "results.csv").set_index("run")
    assert runs.loc[study.runs[0].name, "not_compared"] == reason
    assert runs["compared_top1"].isna().tolist() == [True, False] and (runs["top1"] > 0).all()
    done = ablations_here("compare", *SIDES, "--results", folder)
    assert done.returncode == 0 and reason in " ".join(done.stdout.split()) and "McNemar" not in done.stdout


def test_runs_of_earlier_versions_that_left_out_the_same_images_are_compared(make: Make) -> None:
    study, folder = make(([3], [3]), (0, 1))
    for run in study.runs:
        as_earlier_version(folder, run.name)
    words = words_of(folder)
    assert "evaluated on 59 of 60 test images; not read: val/class-0/03.png" in words
    assert "4 runs: 4 finished" in words and "not compared" not in words


@pytest.mark.parametrize("fault", ["checksum", "labels", "predictions"])
def test_a_run_with_other_data_or_without_predictions_is_left_out_and_says_why(make: Make, fault: str) -> None:
    study, folder = make(([], [40]), (0, 1))
    odd = study.runs[-1].name
    place = folder / "runs" / odd
    result = read_json(place / "result.json")
    if fault == "checksum":
        write_json(place / "result.json", {**result, "data_checksum": "f" * 64})
        reason = "made with other data: checksum ffffffffffff, most runs "
    elif fault == "predictions":
        (place / "predictions.npz").unlink()
        reason = "runs read different test images, and its predictions are missing"
    else:
        stored, buffer = arrays(folder, odd), io.BytesIO()
        turned = {**stored, "labels": stored["labels"][::-1]}
        np.savez(buffer, allow_pickle=False, **turned)
        write_bytes(place / "predictions.npz", buffer.getvalue())
        write_json(place / "result.json", {**result, "predictions_sha256": sha256(buffer.getvalue()).hexdigest()})
        reason = f"its test labels are not those of run {study.runs[0].name}"
    words = words_of(folder)
    assert reason in words and "4 runs: 3 finished, 1 not compared" in words


def test_two_networks_of_different_data_are_refused() -> None:
    order, labels = np.arange(4), np.array([0, 0, 1, 1])
    one = Predicted("one", labels, labels, order, images=4, data="a")
    for change, message in (
        ({"data": "b"}, "its data is not that of run one"),
        ({"images": 5}, "the number of its test images is not that of run one"),
        ({"labels": labels[::-1]}, "its test labels are not those of run one"),
        ({"indices": None}, "evaluated on 4 of 4 test images, and the version"),
    ):
        with pytest.raises(ReportError, match=message):
            joined(replace(one, name="other", **change), one)


class Torn:
    """Noise images; the test image `flaky` can be read only every second time."""

    def __init__(self, flaky: int = -1):
        self.flaky, self.reads = flaky, 0

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.flaky:
            self.reads += 1
            if self.reads % 2:
                raise DamagedImageError(f"image {index}: torn")
        return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index)), index % 3


def test_trained_and_ema_weights_are_evaluated_on_the_same_images() -> None:
    config = TrainingConfig(max_epochs=1, batch_size=8, learning_rate=0.1, ema_decay=0.5, max_damaged=0.5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    result = Trainer(model, Torn(), Torn(flaky=4), config, device="cpu", callbacks=NullCallbacks()).train()
    assert result.averaged is not None
    for evaluation in (result.evaluation, result.averaged):
        assert evaluation.indices.tolist() == [index for index in range(16) if index != 4]
        assert evaluation.top1 == 100 * float((evaluation.predictions == evaluation.labels).double().mean())
        assert evaluation.loss == pytest.approx(float(evaluation.losses.mean())) and evaluation.images == 16
    assert result.unread == {4: "image 4: torn"}
