"""muP's learning rates: factors by fan-in, changes that do not grow with the width, and what they are combined with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import modernize
from ablations.data.datasets import DataSet, load
from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe
from ablations.studies.run import RunConfig
from ablations.training.layer_decay import learning_rate_factors
from ablations.training.mup import mup_factors
from ablations.training.optimizer import make_optimizer, parameter_groups, set_learning_rate
from ablations.training.trainer import Trainer
from modernize.network import LayerScale

CONVNEXT = "pocket@separate-downsampling,depths=1-1,width=8,stem_stride=2,layer_scale=0.5,grn=on"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 1, "batch_size": 64, "learning_rate": 1e-3, "mup_fan_in": 16, **values})


def network(design: str = CONVNEXT) -> nn.Module:
    torch.manual_seed(0)
    return modernize.build(design, 10, 1, init="lecun_normal")


def by_name(model: nn.Module, groups: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Return what the group of each parameter has under a key."""
    names = {id(weights): name for name, weights in model.named_parameters()}
    return {names[id(weights)]: group[key] for group in groups for weights in group["params"]}


@pytest.mark.parametrize("design", [CONVNEXT, "pocket,width=8,depths=1-1", "pocket@depthwise,depths=1-1"])
def test_weights_whose_fan_in_grows_with_the_width_have_a_rate_by_it_and_others_the_full_one(design: str) -> None:
    net, wide = network(design), modernize.build(modernize.design(design).with_flags({"width": 64}), 10, 1)
    factors = by_name(net, parameter_groups(net, 0.05, mup_fan_in=16), "lr_scale")
    assert factors.keys() == dict(net.named_parameters()).keys()
    grew = 0
    for name, weights in net.named_parameters():
        if weights.ndim < 2:
            assert factors[name] == 1, name
            continue
        fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weights)
        grows = nn.init._calculate_fan_in_and_fan_out(wide.get_parameter(name))[0] > fan_in
        assert factors[name] == (16 / fan_in if grows else 1), name
        grew += grows
    assert grew >= 6
    assert any(isinstance(module, LayerScale) for module in net.modules()) == ("layer_scale" in design)


@pytest.mark.parametrize(
    ("name", "stem", "head", "fan_in"),
    [("resnet50", "conv1", "fc", 2048), ("convnext_tiny", "features.0.0", "classifier.2", 768)],
)
def test_torchvisions_networks_have_the_factors_of_ours(name: str, stem: str, head: str, fan_in: int) -> None:
    with torch.device("meta"):
        theirs, ours = torchvision.models.get_model(name), modernize.build(name)
    found, own = mup_factors(theirs, 64), mup_factors(ours, 64)
    assert sorted(found.values()) == sorted(own.values())
    assert f"{stem}.weight" not in found
    assert found[f"{head}.weight"] == own["head.linear.weight"] == 64 / fan_in


def moved(width: int, **settings: Any) -> dict[str, float]:
    """Return by how much an Adam step changes the outputs of each convolution and of the classifier."""
    net = network(f"pocket@separate-downsampling,depths=1-1,stem_stride=1,width={width},kernel_size=3")
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    inputs: dict[str, torch.Tensor] = {}
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):

            def note(module: nn.Module, given: Any, out: torch.Tensor, name: str = name) -> None:
                inputs.setdefault(name, given[0].detach())

            module.register_forward_hook(note)
    recipe = config(learning_rate=1e-2, **settings)
    optimizer = make_optimizer(net, recipe)
    set_learning_rate(optimizer, recipe, 0, 1, 10)
    nn.functional.cross_entropy(net(images), labels).backward()
    layers = {name: net.get_submodule(name) for name in inputs}
    before = {name: layer(inputs[name]).detach() for name, layer in layers.items()}
    optimizer.step()
    return {name: (layer(inputs[name]) - before[name]).abs().mean().item() for name, layer in layers.items()}


def test_outputs_of_layers_change_alike_at_every_width() -> None:
    """The coordinate check of the paper's appendix D.1: with one rate, changes grow with the width."""
    hidden = ("residual.pointwise1", "residual.pointwise2", "downsampling.conv", "head.linear")
    narrow, wide = moved(16), moved(128)
    plain_narrow, plain_wide = moved(16, mup_fan_in=None), moved(128, mup_fan_in=None)
    for name in narrow:
        growth, plain = wide[name] / narrow[name], plain_wide[name] / plain_narrow[name]
        if name.endswith(hidden):
            assert growth < 1.6 < 3 < plain, (name, growth, plain)
        else:
            assert growth == pytest.approx(plain) and growth < 1.6, name
    assert sum(name.endswith(hidden) for name in narrow) == 6


def test_a_rate_by_fan_in_is_dividing_the_logits_by_it() -> None:
    """Tables 3 and 8 of the paper: under Adam, output weights with rate / n, or logits / n at the full rate."""
    torch.manual_seed(0)
    features, targets, n = torch.randn(64, 32, dtype=torch.float64), torch.arange(64) % 10, 32
    start = torch.randn(10, 32, dtype=torch.float64) / n
    trained = []
    for divided in (False, True):
        weights = nn.Parameter(start * n if divided else start.clone())
        optimizer = torch.optim.AdamW([weights], lr=0.01 if divided else 0.01 / n, weight_decay=0, eps=1e-14)
        for _ in range(20):
            optimizer.zero_grad()
            logits = features @ weights.T / (n if divided else 1)
            nn.functional.cross_entropy(logits, targets).backward()
            optimizer.step()
        trained.append((weights / n if divided else weights).detach())
    torch.testing.assert_close(*trained)
    assert not torch.allclose(trained[0], start, rtol=1e-2)


def test_the_product_of_rate_and_weight_decay_does_not_depend_on_the_fan_in() -> None:
    net = network()
    groups = make_optimizer(net, config(weight_decay=0.05)).param_groups
    rates, decays = by_name(net, groups, "lr_scale"), by_name(net, groups, "weight_decay")
    assert {round(rates[name] * decay, 12) for name, decay in decays.items()} == {0, 0.05}
    assert {name for name, decay in decays.items() if decay} == {
        name for name, one in net.named_parameters() if one.ndim > 1
    }


def test_it_multiplies_the_factors_of_layers_and_the_last_group_has_the_schedules_rate() -> None:
    net = network()
    groups = parameter_groups(net, 0.05, 0.5, mup_fan_in=16)
    layers, widths = learning_rate_factors(net, 0.5), mup_factors(net, 16)
    assert by_name(net, groups, "lr_scale") == {name: layers[name] * widths.get(name, 1) for name in layers}
    decays = by_name(net, groups, "weight_decay")
    assert all(decay in (0, 0.05 / widths.get(name, 1)) for name, decay in decays.items())
    for one in (groups, parameter_groups(net, 0.05, mup_fan_in=10**6), parameter_groups(net, 0.05, mup_fan_in=1)):
        assert one[-1]["lr_scale"] == 1
        assert sorted(id(weights) for group in one for weights in group["params"]) == sorted(map(id, net.parameters()))


def test_without_it_groups_are_as_before() -> None:
    """A checkpoint of an earlier version must load."""
    net = network()
    assert [sorted(group) for group in parameter_groups(net, 0.05)] == [["params", "weight_decay"]] * 2
    assert len(make_optimizer(net, config(mup_fan_in=None)).param_groups) == 2


def test_a_warning_names_a_rate_that_the_factor_makes_too_large(digits: DataSet) -> None:
    for what, least in (("pocket", 12), ("torchvision:resnet18", 64)):
        named: dict[str, Any] = {"flags": {}, "reference": what} if ":" in what else {}
        named = named or {"flags": modernize.design(what).flags()}
        for factor, warned in ((100, False), (101, True)):
            run = RunConfig(
                **{"row": "r", "label": "r", **named, "recipe_name": "mine", "data": "digits", "seed": 0},
                recipe=config(mup_fan_in=factor * least),
            )
            words = (
                f"mup_fan_in={factor * least}: a peak learning rate of 0.1, that of weights with fan-in {least}, is "
            )
            assert run.doubts(digits) == ([f"{words}too large for adamw"] if warned else [])
    with pytest.warns(
        UserWarning, match=r"^mup_fan_in=1212: a peak learning rate of 0\.1, that of weights with fan-in 12,"
    ):
        Trainer(network("pocket"), digits.train, digits.test, config(mup_fan_in=1212), device="cpu")


@pytest.mark.parametrize("what", ["torchvision:swin_t", "torchvision:mobilenet_v2", "timm:test_resnet"])
def test_other_networks_are_refused_before_anything_trains(digits: DataSet, what: str) -> None:
    run = RunConfig(
        row="r", label="r", flags={}, reference=what, recipe_name="mine", recipe=config(), data="digits", seed=0
    )
    with pytest.raises(
        RequestError, match=r"^mup_fan_in: the hidden weights of \w+ are not known; it .*\(r on digits, recipe mine\)$"
    ):
        run.check(digits)


def test_sgd_is_refused_in_one_line() -> None:
    with pytest.raises(
        RequestError,
        match=r"^recipe quick_original,mup_fan_in=64: mup_fan_in: only optimizer=adamw uses it, and optimizer is sgd$",
    ):
        load_recipe("quick_original,mup_fan_in=64")
