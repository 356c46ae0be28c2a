"""Plain training loops train what the Trainer trains, on images augmented alike, to the same accuracy; only then do
their speeds compare."""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from commands import ablations, ablations_here
from torch import Tensor, nn

from ablations.bench import Setting
from ablations.bench.loops import (
    LoopMeasurement,
    TimedLoop,
    _network,
    loop_rows,
    processor_seconds,
    run_loop,
    timed_loops,
    work_loop,
)
from ablations.bench.plain_loops import LOOPS, loader_workers
from ablations.data.batches import mean_and_std
from ablations.data.datasets import DataSet, load
from ablations.data.splits import Split
from ablations.recipes import load_recipe
from ablations.training.callbacks import NullCallbacks
from ablations.training.trainer import Trainer
from ablations.training_config import TrainingConfig

TINY = "pocket,depths=1-1,width=8"
RECIPE = load_recipe(
    "quick,batch_size=32,learning_rate=4e-3,max_epochs=4,image_size=16,crop_padding=1,horizontal_flip=false,workers=0"
)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"), 16)


def loops(recipe: TrainingConfig = RECIPE, against: tuple[str, ...] = ("tensor", "dataloader")) -> list[TimedLoop]:
    """Return loops that end after the recipe's epochs, as measured ones do not."""
    timed = timed_loops([TINY], against, "digits", Path("unused"), recipe, Setting(threads=1))
    return [replace(one, recipe=recipe) for one in timed]


def test_all_loops_have_the_initialization_of_the_recipe(digits: DataSet) -> None:
    for loop in loops(RECIPE.model_copy(update={"zero_init_residual": True})):
        norms = [one for one in _network(loop, digits).modules() if isinstance(one, nn.BatchNorm2d)]
        assert any(not norm.weight.any() for norm in norms), loop.words


def test_all_loops_train_the_network_to_the_same_accuracy(digits: DataSet) -> None:
    """On real images; an error in a loop's labels, crops, normalization or schedule costs more than seeds differ by."""
    found = {}
    for loop in loops():
        steps: list[None] = []
        network = run_loop(loop, partial(steps.append, None))
        found[loop.words] = Trainer(network, digits.train, digits.test, RECIPE).evaluate(network).top1
        assert len(steps) == 4 * (len(digits.train) // 32) - (loop.words == "Trainer")  # which ends after its last
    assert len(found) == 4
    assert min(found.values()) > 95 and max(found.values()) - min(found.values()) < 3, found


class Seen(nn.Module):
    """A network that keeps the batches which it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []
        self.head = nn.Linear(1, 10)

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(images)
        return self.head(images.mean((1, 2, 3))[:, None])


def restored(batch: Tensor, split: Split) -> Tensor:
    """Return a normalized batch as uint8 values, (N, H, W)."""
    mean, std = mean_and_std(split)
    values = batch[:, 0] * std + mean
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)
    return values.round().to(torch.uint8)


@pytest.mark.parametrize("name", ["trainer", *LOOPS])
def test_each_batch_has_crops_of_images_some_of_them_mirrored(name: str) -> None:
    """Each image is one of the possible crops of one training image, and no image is in an epoch twice."""
    recipe = RECIPE.model_copy(
        update={"batch_size": 8, "image_size": None, "crop_padding": 2, "horizontal_flip": True, "max_epochs": 1}
    )
    train = Split(torch.randint(256, (16, 6, 6, 1), dtype=torch.uint8), torch.arange(16) % 10)
    network = Seen()
    if name == "trainer":
        trainer = Trainer(network, train, train, recipe, device="cpu", callbacks=NullCallbacks())
        for _ in range(2):
            trainer.train_step()
            trainer.step += 1
    else:
        list(LOOPS[name](network, train, recipe))
    padded = nn.functional.pad(train.images[..., 0], (2, 2, 2, 2))
    crops = padded.unfold(1, 6, 1).unfold(2, 6, 1).flatten(1, 2)  # (16, 25, 6, 6)
    assert [tuple(batch.shape) for batch in network.batches] == [(8, 1, 6, 6)] * 2
    owners, mirrored = [], []
    for image in restored(torch.cat(network.batches), train):
        straight, flipped = ((crops == one).all(-1).all(-1).any(1).nonzero() for one in (image, image.flip(1)))
        owners += [*straight.flatten().tolist(), *flipped.flatten().tolist()]
        mirrored.append(len(flipped) > 0)
    assert sorted(owners) == list(range(16))
    assert len(set(mirrored)) == 2


@pytest.mark.parametrize("name", LOOPS)
def test_the_learning_rate_is_the_trainers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablations.training.optimizer import learning_rate

    rates: list[float] = []
    real = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return real(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    recipe = RECIPE.model_copy(update={"batch_size": 4, "image_size": None, "max_epochs": 3.5, "warmup_epochs": 1.0})
    train = Split(torch.randint(256, (18, 6, 6, 1), dtype=torch.uint8), torch.arange(18) % 10)
    list(LOOPS[name](Seen(), train, recipe))
    assert rates == pytest.approx([learning_rate(recipe, step, 4, 14) for step in range(14)])


def test_the_trainers_speedup_is_over_each_loop_of_the_same_design_round_by_round() -> None:
    trainer, accelerated, plain, other = loops()
    elsewhere = [replace(one, name="elsewhere") for one in (trainer, plain)]
    ones, tens = (1.0, 1.0, 1.0), (10.0, 10.0, 10.0)
    speeds = [(10.0, 20.0, 40.0), (5.0, 20.0, 10.0), tens, ones, ones, (4.0, 2.0, 1.0)]
    subjects = [trainer, accelerated, plain, other, *elsewhere]
    measured = [
        LoopMeasurement(one, rounds, tuple(8 / speed for speed in rounds), 1.0)
        for one, rounds in zip(subjects, speeds, strict=True)
    ]
    rows = loop_rows(measured)
    assert [row.ratio for row in rows] == [
        "",
        *("2.00 (1.00 to 4.00)", "2.00 (1.00 to 4.00)", "20.00 (10.00 to 40.00)"),
        *("", "0.50 (0.25 to 1.00)"),
    ]
    assert [row.processor_ratio for row in rows] == [row.ratio for row in rows]
    assert [row.processor_seconds for row in rows[:2]] == [0.4, 0.8]
    assert [(row.train_images_per_second, row.low, row.high) for row in rows[:2]] == [(20, 10, 40), (10, 5, 20)]
    assert [row.label for row in rows[:4]] == [
        f"{TINY} (Trainer)",
        f"{TINY} (tensor loop, accelerated network)",
        f"{TINY} (tensor loop)",
        f"{TINY} (DataLoader loop)",
    ]


OWN = """
import torch

def mine(network, train, recipe):
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    images, labels = train.images[: recipe.batch_size].permute(0, 3, 1, 2) / 255, train.labels[: recipe.batch_size]
    while True:
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        yield

def short(network, train, recipe):
    yield from range(3)

def wrong(network, train, recipe):
    yield
    raise KeyError("lost")
"""
RECIPE_NAME = "quick,image_size=8,batch_size=16,workers=1"
QUICK = ("--data", "digits", "--recipe", RECIPE_NAME, "--threads", "1", "--repeats", "2")


@pytest.mark.slow
def test_the_command_measures_loops_with_processes_and_one_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    arguments = ("--against", "dataloader,own.py:mine", "--format", "csv", "--out", "all.json")
    done = ablations("loops", "pocket,depths=1-1,width=4", *QUICK, *arguments, cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    whole = json.loads((tmp_path / "all.json").read_text())["measured"]
    assert [one["loop"] for one in whole] == ["trainer", "dataloader", "own.py:mine"]
    assert all(len(one["training"]) == 2 and min(one["training"]) > 0 for one in whole)
    table = pd.read_csv(io.StringIO(done.stdout))
    assert table["train_images_per_second"].tolist() == pytest.approx([median(one["training"]) for one in whole])


def worked(name: str, requests: int) -> list[Any]:
    """Return what a worker sends when a loop is asked for rounds of two steps, and then no more."""
    (loop,) = loops(RECIPE.model_copy(update={"batch_size": 8}), against=(name,))[1:]
    ours, theirs = multiprocessing.Pipe()
    for _ in range(requests):
        ours.send(("train_step", 2, 1))
    thread = Thread(target=work_loop, args=(replace(loop, setting=replace(loop.setting, warmup=1)), theirs, ()))
    with patch("signal.signal"):
        thread.start()
        received = [ours.recv() for _ in range(requests + 1)]
        ours.close()
        thread.join()
    return received


@pytest.mark.linux
def test_processor_time_counts_worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as worker:
        monkeypatch.setattr(multiprocessing, "active_children", lambda: [worker])
        begun = time.monotonic()
        while (processor_seconds() or 0.0) - time.process_time() < 0.2:
            assert time.monotonic() - begun < 60
            time.sleep(0.02)
        worker.kill()
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [worker])  # ended
    assert processor_seconds() is None


def test_a_worker_times_a_loop_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    start, first, second = worked("own.py:mine", 2)
    assert start > 0 and min(*first, *second) > 0 and len(first) == len(second) == 2  # seconds, and processor time
    assert worked("own.py:short", 1)[-1].reason == "RunError: the loop has ended; it must go on until it is closed"
    assert worked("own.py:wrong", 1)[-1].reason.endswith("own.py, line 17, in wrong: KeyError: 'lost'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pockett",), "unknown design 'pockett'"),
        (("--against", "airbench"), "--against airbench: unknown; choose tensor, dataloader or FILE.py:FUNCTION"),
        (("--against", "none.py:loop"), "--against none.py"),
        (("--recipe", "desk_enhanced"), "the loop lacks erasing=0.25 of the recipe"),
        (("--recipe", "quick,precision=fp16"), "the loop lacks precision=fp16"),
        (("--recipe", "quik"), "unknown recipe 'quik'"),
        (("--data", "digitts"), "unknown dataset 'digitts'"),
        (("--device", "cuda:99"), "device cuda:99"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = ablations_here("loops", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert words in done.stderr


def test_a_round_begins_after_the_batches_that_the_loaders_workers_had_prepared() -> None:
    many = RECIPE.model_copy(update={"workers": 16})
    assert {one.setting.warmup for one in loops(many)} == {48}, "16 workers prepare 32 batches while they wait"
    assert {one.setting.warmup for one in loops()} == {12}
    by_cores = RECIPE.model_copy(update={"workers": None})
    cores, shared = loader_workers(by_cores), loader_workers(by_cores, 2)
    assert (shared, loader_workers(many, 2)) == (max(cores // 2, 1), 16), "processes in parallel share the cores"
