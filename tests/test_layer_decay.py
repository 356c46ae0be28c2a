"""Layer-wise learning-rate decay: the official ConvNeXt's factors, one rule for all designs, off by default."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from commands import ablations_here
from recorder import Recorder
from torch import nn

import modernize
from ablations.data.datasets import DataSet, load
from ablations.recipes import TrainingConfig
from ablations.store import read_log
from ablations.training.layer_decay import learning_rate_factors
from ablations.training.optimizer import learning_rate, make_optimizer, parameter_groups
from ablations.training.trainer import Interrupted, Trainer

POCKET = "pocket@separate-downsampling,depths=1-4,width=4,stem_stride=1,layer_scale=0.5"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 1, "batch_size": 64, "learning_rate": 5e-3, **values})


def network(design: str = POCKET) -> nn.Module:
    torch.manual_seed(7)
    return modernize.build(design, num_classes=10, in_channels=1)


def without_weights(name: str) -> nn.Module:
    with torch.device("meta"):
        return torchvision.models.get_model(name)


# The factors ---------------------------------------------------------------------------------------------------------


def official_layer(name: str, layers: int) -> int:
    """Return the layer of a parameter by the official code.

    As `get_num_layer_for_convnext` of ConvNeXt's `optim_factory.py`, where `layers` is 12; its detection code has 6 for
    ConvNeXt-T.
    """
    part, *numbers = name.split(".")
    if part == "downsample_layers":
        return (0, 2, 3, layers)[int(numbers[0])]
    if part == "stages":
        stage, block = int(numbers[0]), int(numbers[1])
        return (1, 2, 3 + block // 3, layers)[stage]
    return layers + 1


@pytest.mark.parametrize(
    ("model", "layers", "decay"),
    [("convnext_tiny", 6, 0.8), ("convnext_small", 12, 0.7), ("convnext_base", 12, 0.8), ("convnextv2_tiny", 6, 0.9)],
)
def test_the_factors_are_the_official_ones(model: str, layers: int, decay: float) -> None:
    """Each parameter is filled with its own number, by which it is found again in the official layout."""
    net = modernize.build(f"{model},width=1,kernel_size=1,grn=off,layer_scale=1e-6", num_classes=2)
    names = [name for name, _ in net.named_parameters()]
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.fill_(number)
    official = {
        names[int(weights.flatten()[0])]: decay ** (layers + 1 - official_layer(name, layers))
        for name, weights in modernize.export_weights(net, "official").items()
    }
    assert official == learning_rate_factors(net, decay)
    assert len(official) == len(names) and len(set(official.values())) == layers + 2


def layers_of(model: nn.Module) -> dict[str, int]:
    """Return the layer of each parameter, counted from the stem, which is 0."""
    factors = learning_rate_factors(model, 0.5)
    numbers = {factor: number for number, factor in enumerate(sorted(set(factors.values())))}
    assert sorted(numbers) == [0.5**power for power in reversed(range(len(numbers)))]
    return {name: numbers[factor] for name, factor in factors.items()}


@pytest.mark.parametrize(
    ("design", "layers"),
    [
        ("resnet50", [[1], [2, 3], [4, 5], [6]]),
        ("resnet50@depthwise,depths=1-2-7", [[1], [2], [3, 4, 5]]),
        ("convnext_isotropic_small", [[1, 2, 3, 4, 5, 6]]),
        ("pocket", [[1], [2], [3], [4]]),
        ("pocket@grn,depths=4-1", [[1, 2], [3]]),
    ],
)
def test_three_blocks_of_a_stage_and_the_downsampling_before_them_are_a_layer(
    design: str, layers: list[list[int]]
) -> None:
    with torch.device("meta"):
        net = modernize.build(design)
    last = layers[-1][-1] + 1
    for name, layer in layers_of(net).items():
        if match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
            assert layer == layers[int(match[1])][int(match[2]) // 3]
        elif match := re.match(r"stages\.(\d+)\.downsampling\.", name):
            assert layer == layers[int(match[1])][0]
        else:
            assert layer == (0 if name.startswith("stem.") else last)
            assert name.startswith(("stem.", "head."))


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_torchvisions_networks_have_the_layers_of_ours(name: str) -> None:
    """Parameters of both are matched by number, through torchvision's layout."""
    net = modernize.build(f"{name},width=1" if name == "resnet50" else f"{name},width=1,kernel_size=1", num_classes=2)
    names = [name for name, _ in net.named_parameters()]
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.fill_(number)
    theirs = layers_of(without_weights(name))
    for key, weights in modernize.export_weights(net, "torchvision").items():
        if key in theirs:
            assert theirs[key] == layers_of(net)[names[int(weights.flatten()[0])]]


def test_layers_of_vit_and_swin_are_single_blocks_as_in_mae_and_simmim() -> None:
    vit = layers_of(without_weights("vit_b_16"))
    assert {vit[name] for name in ("class_token", "conv_proj.bias", "encoder.pos_embedding")} == {0}
    assert vit["encoder.layers.encoder_layer_11.ln_1.bias"] == 12
    assert {vit[name] for name in ("encoder.ln.weight", "heads.head.weight")} == {13}
    swin = layers_of(without_weights("swin_t"))  # depths 2-2-6-2
    assert swin["features.0.0.weight"] == swin["features.0.2.weight"] == 0
    assert [swin[f"features.{2 * s + 1}.1.norm1.weight"] for s in range(4)] == [2, 4, 6, 12]
    assert [swin[f"features.{2 * s}.reduction.weight"] for s in (1, 2, 3)] == [2, 4, 10]
    assert swin["norm.weight"] == swin["head.weight"] == 13


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: without_weights("mobilenet_v2")])
def test_a_network_whose_layers_are_not_known_is_refused_in_one_line(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(
        ValueError, match=r"^layer_decay: the layers of \w+ are not known; it supports designs, and .*$"
    ):
        parameter_groups(make(), 0.05, 0.8)


@pytest.mark.parametrize(
    "command",
    [
        "run sweep --base pocket --flags norm=bn --references torchvision:mobilenet_v2",
        "train torchvision:mobilenet_v2",
    ],
)
def test_a_run_of_such_a_network_is_refused_before_anything_trains(tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    settings = ("--set", "batch_size=32", "--set", "layer_decay=0.8")
    done = ablations_here(*command.split(), "--data", "digits", *settings, "--out", out)
    assert done.returncode == 2
    assert "layer_decay: the layers of MobileNetV2 are not known" in done.stderr
    assert done.stderr.endswith("mobilenet_v2 on digits, recipe quick)\n") and done.stderr.count("\n") == 1
    assert not out.exists()


# Training with them --------------------------------------------------------------------------------------------------


def test_groups_are_split_by_layer_and_weight_decay() -> None:
    net = network()
    factors = learning_rate_factors(net, 0.5)
    names = {id(weights): name for name, weights in net.named_parameters()}
    plain = [{id(weights) for weights in group["params"]} for group in parameter_groups(net, 0.05)]
    groups = parameter_groups(net, 0.05, 0.5)
    assert len(groups) == 2 * 5  # stem, two stages of which the second has two layers, head
    for group in groups:
        assert {factors[names[id(weights)]] for weights in group["params"]} == {group["lr_scale"]}
        assert {id(weights) for weights in group["params"]} <= plain[group["weight_decay"] == 0]
    assert sorted(id(weights) for group in groups for weights in group["params"]) == sorted(names)


def test_without_it_the_optimizers_state_is_as_before() -> None:
    """A checkpoint of an earlier version must load."""
    groups = make_optimizer(network(), config()).state_dict()["param_groups"]
    assert len(groups) == 2
    assert not any("lr_scale" in group for group in groups)


def test_every_layer_has_its_share_of_the_schedules_rate_and_the_log_has_the_heads(digits: DataSet) -> None:
    recipe, recorder = config(layer_decay=0.5, warmup_epochs=0.5), Recorder()
    run = Trainer(network(), digits.train, digits.test, recipe, callbacks=recorder)
    used: list[list[float]] = []
    run.optimizer.register_step_pre_hook(lambda one, *_: used.append([group["lr"] for group in one.param_groups]))
    run.train()
    scales = sorted(set(learning_rate_factors(run.model, 0.5).values()))
    for step, rates in enumerate(used):
        rate = learning_rate(recipe, step, run.steps_per_epoch, run.total_steps)
        assert sorted(set(rates)) == pytest.approx([rate * scale for scale in scales])
    assert len(used) == run.total_steps
    last = learning_rate(recipe, run.total_steps - 1, run.steps_per_epoch, run.total_steps)
    assert recorder.lines[-1]["learning_rate"] == last


def test_a_step_of_sgd_moves_each_layer_by_its_factor(digits: DataSet) -> None:
    moved = {}
    for decay in (None, 0.5):
        recipe = config(optimizer="sgd", momentum=0.0, learning_rate=100, layer_decay=decay)
        run = Trainer(network(), digits.train, digits.test, recipe)
        before = {name: weights.detach().clone() for name, weights in run.model.named_parameters()}
        run.train_step()
        moved[decay] = {name: weights.detach() - before[name] for name, weights in run.model.named_parameters()}
    for name, factor in learning_rate_factors(network(), 0.5).items():
        torch.testing.assert_close(moved[0.5][name], factor * moved[None][name], rtol=1e-3, atol=1e-7)
        assert moved[None][name].abs().max() > 1e-5


@pytest.mark.parametrize("stop", [1, 13])
def test_a_run_with_it_resumes_to_the_same_bits(digits: DataSet, tmp_path: Path, stop: int) -> None:
    def trainer(name: str) -> Trainer:
        (tmp_path / name).mkdir(exist_ok=True)
        recipe = config(layer_decay=0.7, mup_fan_in=16, ema_decay=0.8, weight_decay=0.05)
        return Trainer(network(), digits.train, digits.test, recipe, folder=tmp_path / name)

    whole = trainer("whole").train()
    first = trainer("stopped")
    first.callbacks.stopping = lambda: first.step == stop
    with pytest.raises(Interrupted):
        first.train()
    resumed = trainer("stopped")
    assert resumed.train().weights_sha256 == whole.weights_sha256
    assert resumed.began == stop
    rates = [[line["learning_rate"] for line in read_log(tmp_path / name)] for name in ("whole", "stopped")]
    assert rates[0] == rates[1]
