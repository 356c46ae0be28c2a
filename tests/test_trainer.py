"""The trainer learns, resumes bit-exactly at any step, stops cleanly and detects divergence."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modernize
from ablations.data.batches import Batches, MicroBatch, mean_and_std
from ablations.data.datasets import DataSet, Images, Split, load
from ablations.recipes import TrainingConfig
from ablations.seeding import generator, seed_of
from ablations.store import read_log
from ablations.training.checkpoint import checkpoints
from ablations.training.precision import Placement
from ablations.training.trainer import LOG_STEPS, DivergedError, Interrupted, Result, Trainer

DESIGN = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def config(**changes: Any) -> TrainingConfig:
    values = {"max_epochs": 2, "batch_size": 64, "learning_rate": 5e-3, "crop_padding": 1}
    return TrainingConfig(**{**values, **changes})


def network(design: str = DESIGN, drop_path_rate: float = 0.2) -> nn.Module:
    torch.manual_seed(7)
    return modernize.build(design, num_classes=10, in_channels=1, drop_path_rate=drop_path_rate)


def trainer(data: DataSet, folder: Path | None, design: str = DESIGN, seed: int = 3, **changes: Any) -> Trainer:
    return Trainer(network(design), data.train, data.test, config(**changes), seed=seed, folder=folder)


def held(split: Images, data: DataSet, crop_padding: int = 0) -> Batches:
    """Make a split's batches, normalized with the training split's statistics."""
    assert isinstance(split, Split) and isinstance(data.train, Split)
    return Batches(split, *mean_and_std(data.train), torch.device("cpu"), crop_padding)


def stop_after(run: Trainer, step: int) -> None:
    run.callbacks.stopping = lambda: run.step == step


def without_times(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in read_log(folder)]


def same(one: Result, other: Result) -> bool:
    mine, theirs = one.evaluation, other.evaluation
    exact = (mine.top1, mine.loss, one.weights_sha256) == (theirs.top1, theirs.loss, other.weights_sha256)
    return exact and torch.equal(mine.predictions, theirs.predictions)


def test_it_learns_digits(digits: DataSet) -> None:
    torch.manual_seed(0)
    model = modernize.build(DESIGN.replace("width=4", "width=16"), num_classes=10, in_channels=1)
    result = Trainer(model, digits.train, digits.test, config(max_epochs=10)).train()
    assert result.evaluation.top1 > 75  # chance is 10
    assert result.images_seen == 10 * (len(digits.train) // 64) * 64


def test_a_training_step_equals_a_plain_pytorch_step(digits: DataSet) -> None:
    recipe = config(label_smoothing=0.1, optimizer="sgd", momentum=0.9, weight_decay=0.01)
    ours = Trainer(network(drop_path_rate=0.0), digits.train, digits.test, recipe, seed=3)
    plain = network(drop_path_rate=0.0)
    decayed = [p for n, p in plain.named_parameters() if n.endswith("weight") and p.ndim in (2, 4)]
    others = [p for p in plain.parameters() if not any(p is d for d in decayed)]
    optimizer = torch.optim.SGD(
        ({"params": decayed, "weight_decay": 0.01}, {"params": others}), lr=recipe.learning_rate, momentum=0.9
    )
    batches = held(digits.train, digits, crop_padding=1)
    order = torch.randperm(len(digits.train), generator=generator(3, "order", 0))
    for step in range(3):
        ours.train_step()
        ours.step += 1
        images, labels = batches.augmented(MicroBatch(0, step, 0, order[64 * step :][:64]), recipe, 3)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = ours.optimizer.param_groups[0]["lr"]
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels, label_smoothing=0.1).backward()
        optimizer.step()
    for one, other in zip(ours.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer", [{"optimizer": "adamw"}, {"optimizer": "sgd", "schedule": "step", "step_epochs": 1}]
)
@pytest.mark.parametrize("design", [DESIGN, "pocket,depths=1-1,width=4,stem_stride=1"])
def test_a_run_resumed_at_any_step_equals_an_uninterrupted_one(
    digits: DataSet, tmp_path: Path, design: str, optimizer: dict[str, Any]
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    expected = trainer(digits, whole, design, max_epochs=3, **optimizer).train()
    steps = 3 * (len(digits.train) // 64)
    for stop_at in (1, 21, 22, 23, LOG_STEPS, LOG_STEPS + 1, steps - 1):
        folder = tmp_path / f"stopped-{stop_at}"
        folder.mkdir()
        first = trainer(digits, folder, design, max_epochs=3, **optimizer)
        stop_after(first, stop_at)
        with pytest.raises(Interrupted):
            first.train()
        second = trainer(digits, folder, design, max_epochs=3, **optimizer)
        resumed = second.train()
        assert same(resumed, expected)
        earlier, later = second.processor.before, second.processor.own
        assert earlier and later and resumed.processor_seconds == earlier + later
        assert without_times(folder) == without_times(whole)


def test_a_stop_at_the_last_step_still_gives_the_result(digits: DataSet, tmp_path: Path) -> None:
    last = trainer(digits, tmp_path, max_epochs=1)
    last.callbacks.stopping = lambda: last.step == last.total_steps
    assert last.train().images_seen == last.total_steps * 64


def test_corrupt_checkpoints_are_reported_and_the_previous_one_is_used(digits: DataSet, tmp_path: Path) -> None:
    expected = trainer(digits, None).train()
    damages = (lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b"")
    for number, damage in enumerate(damages):
        folder = tmp_path / str(number)
        folder.mkdir()
        stopped = trainer(digits, folder, checkpoint_steps=10)
        stop_after(stopped, 37)
        with pytest.raises(Interrupted):
            stopped.train()
        newest, before = checkpoints(folder / "checkpoints")
        newest.write_bytes(damage(newest.read_bytes()))
        resumed = trainer(digits, folder, checkpoint_steps=10)
        with pytest.warns(UserWarning, match=f"{newest.name} is corrupt.*the previous checkpoint is used$"):
            resumed.resume()
        assert f"{resumed.step:09d}" in before.name
        assert same(resumed.train(), expected)


def test_with_all_checkpoints_corrupt_the_run_restarts(digits: DataSet, tmp_path: Path) -> None:
    expected = trainer(digits, None).train()
    stopped = trainer(digits, tmp_path, checkpoint_steps=10)
    stop_after(stopped, 37)
    with pytest.raises(Interrupted):
        stopped.train()
    for path in checkpoints(tmp_path / "checkpoints"):
        path.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="corrupt.*the run restarts$"):
        assert same(trainer(digits, tmp_path, checkpoint_steps=10).train(), expected)


def test_seeds_differ_and_repeat(digits: DataSet) -> None:
    one, again, other = (trainer(digits, None, seed=seed).train() for seed in (1, 1, 2))
    assert same(one, again) and one.weights_sha256 != other.weights_sha256


def test_the_global_generator_does_not_affect_results(digits: DataSet) -> None:
    torch.manual_seed(0)
    one = trainer(digits, None).train()
    run = trainer(digits, None)
    torch.manual_seed(12345)
    assert same(run.train(), one)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_divergence_is_noticed_and_no_such_checkpoint_written(digits: DataSet, tmp_path: Path, poison: float) -> None:
    run = trainer(digits, tmp_path, checkpoint_steps=7)
    step = run.train_step

    def poisoned() -> None:
        step()
        if run.step == 12:
            with torch.no_grad():
                next(run.model.parameters()).fill_(poison)

    run.train_step = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match="the loss is"):
        run.train()
    assert [path.name[:14] for path in checkpoints(tmp_path / "checkpoints")] == ["step-000000007"]


def test_a_batch_larger_than_the_data_is_refused(digits: DataSet) -> None:
    with pytest.raises(ValueError, match=r"batch_size=5000.*1438"):
        trainer(digits, None, batch_size=5000)


def test_evaluation_counts_every_image_once(digits: DataSet) -> None:
    run = trainer(digits, None)
    result = run.evaluate(run.model)
    run.model.eval()
    batches = held(digits.test, digits)
    images, labels = batches.plain(torch.arange(len(digits.test)))
    with torch.no_grad():
        logits = run.model(images)
    assert result.top1 == 100 * int((logits.argmax(1) == labels).sum()) / len(labels)
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert torch.equal(result.predictions, logits.argmax(1)) and torch.equal(result.labels, labels)


def test_seeds_of_different_purposes_differ() -> None:
    keys = [(0, "order", 0), (0, "augment", 0, 0), (0, "network", 0, 0), (0, "augment", 0, 1), (1, "order", 0), (0, 1)]
    assert len({seed_of(*key) for key in keys}) == len(keys)


# ---- bf16 on the CPU


def test_convolutions_whose_gradients_a_cpu_gets_wrong_in_bf16_are_refused(digits: DataSet) -> None:
    """oneDNN reads memory that it has not written; see the slow test below."""
    small = "resnet50,depths=1-1-1-1,width=8,stem_stride=2"  # its last stage has feature maps of 1×1
    run = trainer(digits, None, small, max_epochs=0.05, precision="bf16")
    with pytest.raises(ValueError, match=r"^precision=bf16: .* stages\.3\..* of stride 2 on feature maps of 1×1; set"):
        run.train()
    assert not any(module._forward_pre_hooks for module in run.model.modules())
    trainer(digits, None, small, max_epochs=0.05).train()


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_a_cpu_computes_right_gradients_in_bf16_of_convolutions_that_are_not_refused(stride: int) -> None:
    placement = Placement(torch.device("cpu"), torch.float32, True, "bf16")
    checked = 0
    for kernel, channels, groups, size in itertools.product(
        (2, 3, 5, 7), (8, 16, 48), (1, 0), ((1, 1), (2, 1), (2, 2), (3, 3), (4, 4))
    ):
        layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=groups or channels, bias=False)
        images = torch.randn(8, channels, *size).contiguous(memory_format=torch.channels_last)
        with placement.right_gradients(layer):
            try:
                with placement.autocast():
                    layer(images)
            except ValueError:
                continue
        torch.manual_seed(0)
        expected = layer(images)
        upstream = torch.randn_like(expected)
        expected.backward(upstream)
        right = layer.weight.grad
        assert right is not None
        for number in range(4):
            del [torch.full((1000 + 97 * number,), 1e30) for _ in range(30)][:]  # what is read if it is not written
            layer.weight.grad = None
            with placement.autocast():
                layer(images).backward(upstream.bfloat16())
            assert layer.weight.grad is not None
            torch.testing.assert_close(layer.weight.grad, right, rtol=0.05, atol=0.05 * float(right.abs().max()))
        checked += 1
    assert checked >= 24
