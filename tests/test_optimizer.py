"""The schedule equals its formulas and torch's; weight decay applies to convolutions and linear layers only."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import example, given, settings
from hypothesis import strategies as st
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

import modernize
from ablations.recipes import TrainingConfig, load_recipe
from ablations.training.optimizer import learning_rate, make_optimizer, parameter_groups


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 10, "batch_size": 8, "learning_rate": 0.4, **values})


def rates(config: TrainingConfig, steps_per_epoch: int, total: int) -> list[float]:
    return [learning_rate(config, step, steps_per_epoch, total) for step in range(total)]


# The schedules -------------------------------------------------------------------------------------------------------


def test_a_cosine_falls_from_the_peak_to_almost_0() -> None:
    found = rates(config(), 10, 100)
    assert found[0] == 0.4
    assert found[25] == pytest.approx(0.4 * (2 + math.sqrt(2)) / 4)
    assert found[50] == pytest.approx(0.2)
    assert found[99] == pytest.approx(0.4 * math.sin(math.pi / 200) ** 2)
    assert 0 < found[99] < 0.4 / 1000
    assert all(later < earlier for earlier, later in itertools.pairwise(found))


def test_warm_up_is_linear_from_near_0_to_the_peak_and_the_cosine_takes_the_rest() -> None:
    found = rates(config(warmup_epochs=2), 10, 100)
    assert found[:20] == pytest.approx([0.4 * share / 20 for share in range(1, 21)])
    assert found[20] == 0.4
    assert found[60] == pytest.approx(0.2)  # the middle of the 80 steps left
    assert found[99] == pytest.approx(0.4 * math.sin(math.pi / 160) ** 2)


def test_step_drops_come_at_their_epochs() -> None:
    found = rates(config(schedule="step", step_epochs=3), 10, 100)
    for start, end, rate in ((0, 30, 0.4), (30, 60, 0.04), (60, 90, 0.004), (90, 100, 0.0004)):
        assert found[start:end] == pytest.approx([rate] * (end - start))


def test_warm_up_does_not_move_the_drops() -> None:
    found = rates(config(schedule="step", step_epochs=3, step_factor=0.5, warmup_epochs=1), 10, 100)
    assert found[:10] == pytest.approx([0.04 * share for share in range(1, 11)])
    assert (found[29], found[30], found[59], found[60]) == pytest.approx((0.4, 0.2, 0.2, 0.1))


def test_parts_of_epochs_count() -> None:
    """Of 468 steps: 0.1 epochs are 47 steps of warm-up, and drops each 0.34 epochs come at steps 160 and 319."""
    found = rates(config(warmup_epochs=0.1), 468, 468)
    assert found[46] == found[47] == 0.4
    assert found[45] == pytest.approx(0.4 * 46 / 47)
    assert found[48] == pytest.approx(0.4 * math.cos(math.pi / 2 / 421) ** 2)
    found = rates(config(schedule="step", step_epochs=0.34), 468, 468)
    assert [step for step in range(1, 468) if found[step] != found[step - 1]] == [160, 319]


def test_a_warm_up_longer_than_training_is_cut_off() -> None:
    found = rates(config(warmup_epochs=100), 10, 50)
    assert found == pytest.approx([0.4 * share / 50 for share in range(1, 51)])


@given(st.integers(1, 500), st.integers(1, 400), st.integers(1, 30))
@example(3, 20, 5)
@settings(deadline=None, max_examples=300)
def test_a_drop_comes_at_the_first_step_past_its_epoch_exactly(per_epoch: int, hundredths: int, drop: int) -> None:
    """In floats 3 / (0.2 · 3) is less than 5, which would put the fifth drop a step late."""
    stepped = config(schedule="step", step_epochs=hundredths / 100, step_factor=0.5)
    period = Fraction(hundredths, 100) * per_epoch
    at = math.ceil(drop * period)
    for step in (at - 1, at):
        assert learning_rate(stepped, step, per_epoch, at + 1) == pytest.approx(0.4 * 0.5 ** math.floor(step / period))


def scheduled(scheduler: str, total: int, **values: Any) -> list[float]:
    """Return the rate of torch's scheduler at each step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **values)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("least", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(("warmup", "total"), [(0, 90), (7, 90), (0, 1), (3, 4)])
def test_the_cosine_is_torchs_and_timms(warmup: int, total: int, least: float) -> None:
    found = rates(config(warmup_epochs=warmup / 10, min_learning_rate=least), 10, total)[warmup:]
    steps = total - warmup
    assert found == pytest.approx(scheduled("CosineAnnealingLR", steps, T_max=steps, eta_min=least), rel=1e-9)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    timms = CosineLRScheduler(optimizer, t_initial=steps, lr_min=least)
    assert found == pytest.approx([timms._get_lr(step)[0] for step in range(steps)], rel=1e-9)


def test_the_rate_at_the_end_must_be_below_the_peak_and_of_a_cosine() -> None:
    with pytest.raises(ValueError, match=r"min_learning_rate=0\.5: the peak learning rate is 0\.4"):
        config(min_learning_rate=0.5)
    with pytest.raises(ValueError, match="min_learning_rate: only schedule=cosine uses it, and schedule is step"):
        config(schedule="step", min_learning_rate=0.1)


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_the_steps_are_torchs(epochs: int) -> None:
    found = rates(config(schedule="step", step_epochs=epochs, step_factor=0.3), 7, 140)
    assert found == pytest.approx(scheduled("StepLR", 140, step_size=7 * epochs, gamma=0.3), rel=1e-9)


@given(
    st.sampled_from(["cosine", "step"]),
    st.floats(0, 20),
    st.integers(1, 500),
    st.integers(1, 2000),
    st.floats(0, 1, exclude_max=True),
)
@settings(deadline=None, max_examples=300)
def test_the_rate_is_positive_and_never_above_its_peak(
    schedule: str, warmup: float, per_epoch: int, total: int, place: float
) -> None:
    found = learning_rate(config(schedule=schedule, warmup_epochs=warmup), int(place * total), per_epoch, total)
    assert 0 < found <= 0.4 * (1 + 1e-15)


# Which weights decay -------------------------------------------------------------------------------------------------

DESIGNS = [
    "resnet50,width=8",
    "resnet50,width=8,layer_scale=1e-6",
    "convnext_tiny,width=8",
    "convnext_tiny,width=8,layer_scale=off",
    "convnext_tiny,width=8,norm=bn",
    "convnext_isotropic_small,width=8",
    "convnextv2_atto,width=8",
    "pocket",
    "pocket@kernel-7",
    "pocket,norm=ln",
    "resnet50,depths=1-1,width=1,depthwise=true,kernel_size=1,layer_scale=1e-6",
    "convnext_tiny,depths=1-1,width=1,kernel_size=1",
]


@pytest.fixture(params=[*DESIGNS, "torchvision convnext_tiny", "torchvision resnet18"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.device("meta"):
        if request.param.startswith("torchvision "):
            return getattr(torchvision.models, request.param.split()[1])()
        return modernize.build(request.param, num_classes=10, in_channels=1)


def weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """List the weights that decay: those of convolutions and linear layers."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield f"{path}.weight", module.weight


def named(model: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return sorted(names[id(parameter)] for parameter in parameters)


def test_convolutions_and_linear_maps_decay_and_nothing_else_does(model: nn.Module) -> None:
    decayed, undecayed = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.05, 0.0)
    assert named(model, decayed["params"]) == sorted(name for name, _ in weights(model))
    both = named(model, decayed["params"]) + named(model, undecayed["params"])
    assert sorted(both) == sorted(name for name, _ in model.named_parameters())  # each once


def test_what_does_not_decay_is_there_to_be_tested() -> None:
    """Biases, weights of both norms and layer scale all occur among the designs above."""
    with torch.device("meta"):
        networks = [modernize.build(design, num_classes=10, in_channels=1) for design in DESIGNS]
        undecayed = {name for net in networks for name in named(net, parameter_groups(net, 0.1)[1]["params"])}
    assert any("layer_scale" in name for name in undecayed)
    assert any("norm" in name and name.endswith(".weight") for name in undecayed)
    assert any("conv" in name and name.endswith(".bias") for name in undecayed)


def test_layer_scale_and_grn_of_other_implementations_do_not_decay() -> None:
    """torchvision's layer scale, (C, 1, 1), timm's, (C,), and GRN of the official ConvNeXt V2, (1, 1, 1, C)."""

    class GRN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.zeros(1, 1, 1, 2))
            self.beta = nn.Parameter(torch.zeros(1, 1, 1, 2))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)
            self.gamma = nn.Parameter(torch.ones(2))
            self.grn = GRN()
            self.layer_scale = nn.Parameter(torch.ones(2, 1, 1))
            self.norm = nn.GroupNorm(1, 2)

    decayed, undecayed = parameter_groups(Block(), 0.05)
    assert [weights.shape for weights in decayed["params"]] == [(2, 2, 1, 1)]
    assert len(undecayed["params"]) == 7


def test_norms_of_any_library_do_not_decay() -> None:
    class Norm(nn.Module):
        """As in ConvNeXt's own code: no subclass of torch's."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.bias = nn.Parameter(torch.zeros(3))

    for norm in (Norm(), nn.LayerNorm((3, 4, 4)), nn.BatchNorm1d(3), nn.BatchNorm3d(3), nn.SyncBatchNorm(3)):
        (undecayed,) = parameter_groups(norm, 0.05)
        assert (undecayed["weight_decay"], len(undecayed["params"])) == (0.0, 2)


def test_an_empty_group_is_left_out() -> None:
    assert [group["weight_decay"] for group in parameter_groups(nn.BatchNorm2d(3), 0.05)] == [0.0]
    assert [group["weight_decay"] for group in parameter_groups(nn.Conv2d(3, 3, 1, bias=False), 0.05)] == [0.05]


# The optimizers ------------------------------------------------------------------------------------------------------


def stepped(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> dict[str, Tensor]:
    """Return the weights after steps with noise gradients."""
    chance = torch.Generator().manual_seed(0)
    for _ in range(steps):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=chance)
        optimizer.step()
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_fused_optimizers_are_torchs_plain_ones(kind: str, steps: int) -> None:
    """Weight decay is large, so that a weight in the wrong group is detected."""
    torch.manual_seed(0)
    net = modernize.build("pocket@depthwise,depths=1-1,width=4,layer_scale=0.1", num_classes=10, in_channels=1)
    twin = copy.deepcopy(net)
    chosen: dict[str, Any] = {"momentum": 0.8} if kind == "sgd" else {"betas": (0.8, 0.95)}
    optimizer = make_optimizer(net, config(optimizer=kind, learning_rate=0.01, weight_decay=0.5, **chosen))
    assert optimizer.defaults["fused"]
    own = {id(weight) for _, weight in weights(twin)}
    groups = [
        {"params": [weight for weight in twin.parameters() if id(weight) in own], "weight_decay": 0.5},
        {"params": [weight for weight in twin.parameters() if id(weight) not in own], "weight_decay": 0.0},
    ]
    plain = torch.optim.SGD if kind == "sgd" else torch.optim.AdamW
    other = plain(groups, lr=0.01, foreach=False, fused=False, **chosen)
    before = copy.deepcopy(net.state_dict())
    found, wanted = stepped(net, optimizer, steps), stepped(twin, other, steps)
    for name in found:
        assert not torch.equal(found[name], before[name])
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_the_shipped_recipes_make_their_optimizers() -> None:
    net = nn.Conv2d(1, 1, 1)
    recipes = [load_recipe(name) for name in ("quick", "quick_original")]
    adamw, sgd = (make_optimizer(net, recipe) for recipe in recipes)
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["betas"], adamw.defaults["lr"]) == (recipes[0].betas, recipes[0].learning_rate)
    assert isinstance(sgd, torch.optim.SGD)
    assert (sgd.defaults["momentum"], sgd.defaults["lr"]) == (recipes[1].momentum, recipes[1].learning_rate)
    assert not sgd.defaults["nesterov"]
    for optimizer, recipe in zip((adamw, sgd), recipes, strict=True):
        assert optimizer.param_groups[0]["weight_decay"] == recipe.weight_decay
