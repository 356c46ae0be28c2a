"""Accelerated networks: what is swapped, what is not, and that it is undone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import ablations_here
from torch import Tensor, nn

import modernize
from ablations import Trainer, TrainingConfig
from ablations.training.callbacks import NullCallbacks
from modernize.acceleration import ChannelsLastGELU, DepthwiseConv2d, InPlaceBlock, InPlaceSequential, accelerated
from modernize.network import Block, Network

FASTER = (ChannelsLastGELU, DepthwiseConv2d, InPlaceBlock, InPlaceSequential)
SMALL = "depths=1-1,width=4"
LAST, FIRST = f"pocket@separate-downsampling,{SMALL}", f"pocket,{SMALL}"


def drawn(design: str = LAST) -> Network:
    torch.manual_seed(0)
    return modernize.build(design, 10, 1)


def kinds(network: nn.Module) -> list[type]:
    return [type(module) for module in network.modules()]


def faster(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, FASTER)]


def gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    y = network(x)
    return [y, *torch.autograd.grad(y.float().square().sum(), list(network.parameters()))]


def assert_near(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= tolerance * other.norm() + 1e-6


def test_a_network_is_built_of_torchs_own_modules_and_no_relu_overwrites() -> None:
    for row in modernize.roadmap("pocket").rows:
        network = modernize.build(row.design, 10, 1)
        assert faster(network) == []
        assert not any(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))
        assert {type(module) for module in network.modules() if isinstance(module, nn.Conv2d)} == {nn.Conv2d}


def test_what_is_swapped_keeps_its_name_and_parameters() -> None:
    network = drawn()
    names, parameters = [name for name, _ in network.named_modules()], list(network.parameters())
    assert modernize.accelerate(network) is network
    assert [name for name, _ in network.named_modules()] == names
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    block = "stages.0.blocks.0"
    assert faster(network)[:3] == [block, f"{block}.residual.spatial", f"{block}.residual.pointwise1_activation"]


@pytest.mark.parametrize("design", [FIRST, LAST])
def test_deceleration_undoes_acceleration(design: str) -> None:
    network = drawn(design)
    before, state = kinds(network), repr(network)
    modernize.accelerate(modernize.accelerate(network))
    assert faster(network)
    assert modernize.decelerate(network) is network
    assert kinds(network) == before and repr(network) == state
    assert kinds(modernize.decelerate(network)) == before


def test_a_context_leaves_what_was_accelerated_before() -> None:
    plain, fast = drawn(), modernize.accelerate(drawn())
    expected = kinds(fast)
    with pytest.raises(RuntimeError, match="inside"), accelerated(plain, fast):
        assert kinds(plain) == kinds(fast) == expected
        raise RuntimeError("inside")
    assert faster(plain) == [] and kinds(fast) == expected


def set_dilation(conv: nn.Conv2d) -> None:
    conv.dilation, conv.padding = (2, 2), (6, 6)


def set_stride(conv: nn.Conv2d) -> None:
    conv.stride = (2, 2)


def set_no_padding(conv: nn.Conv2d) -> None:
    conv.padding = (0, 0)


def set_circular(conv: nn.Conv2d) -> None:
    conv.padding_mode = "circular"


@pytest.mark.parametrize("change", [set_dilation, set_circular, set_stride, set_no_padding])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_changed_convolution_computes_what_torch_computes(when: str, change: Callable[[nn.Conv2d], None]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 7, padding=3, groups=4)
    block = drawn().stages[0].get_submodule("blocks.0")
    assert isinstance(block, Block)
    block.residual.spatial = conv
    if when == "after":
        modernize.accelerate(block)
        assert type(conv) is DepthwiseConv2d
    change(conv)
    modernize.accelerate(block)
    x = torch.randn(2, 4, 15, 15)
    theirs = copy.deepcopy(conv)
    theirs.__class__ = nn.Conv2d
    assert_near(gradients(conv, x), gradients(theirs, x), 0)


def test_a_relu_whose_input_is_read_elsewhere_is_not_applied_in_place() -> None:
    network = drawn(FIRST)
    block = network.stages[0].get_submodule("blocks.0")
    assert isinstance(block, Block)
    for index in range(2):  # the first ReLU reads the block's input, as the shortcut does
        block.residual[index] = nn.Identity()
    block.residual.spatial = nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(2, 1, 16, 16)
    plain = gradients(network, x)
    assert_near(gradients(modernize.accelerate(network), x), plain, 1e-5)


def test_a_residual_branch_that_is_its_input_is_not_added_to_in_place() -> None:
    network = drawn()
    block = network.stages[0].get_submodule("blocks.0")
    assert isinstance(block, Block)
    x = torch.randn(2, 4, 8, 8)
    for branch in (nn.Identity(), nn.Sequential(), nn.Sequential(nn.ReLU(inplace=True), nn.Identity())):
        block.add_module("residual", branch)
        before = x.clone()
        plain = block(x.clone())
        assert torch.equal(modernize.accelerate(block)(x), plain) and (
            torch.equal(x, before) or nn.ReLU in kinds(branch)
        )
        modernize.decelerate(block)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bfloat16_autocast_has_the_fast_gradient(layout: torch.memory_format) -> None:
    network = drawn().to(memory_format=layout)
    x = torch.randn(4, 1, 16, 16).contiguous(memory_format=layout)
    exact = gradients(network, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = gradients(network, x)
        modernize.accelerate(network)
        y = network.stages[0].get_submodule("blocks.0.residual.spatial")(torch.randn(2, 4, 8, 8))
        fast = gradients(network, x)
    assert y.dtype is torch.bfloat16 and "Depthwise" in y.grad_fn.name()
    assert {one.dtype for one in fast[1:]} == {torch.float32}
    error, usual = (
        [(one.float() - other).norm() for one, other in zip(found, exact, strict=True)] for found in (fast, plain)
    )
    assert all(one <= 2 * other + 1e-4 for one, other in zip(error, usual, strict=True))


def test_the_trainer_hands_the_network_back_as_it_was() -> None:
    network, seen = drawn(), []
    network.head.get_submodule("pool").register_forward_hook(lambda *_: seen.append(len(faster(network))))
    data = torch.utils.data.TensorDataset(torch.randn(8, 1, 16, 16), torch.arange(8))
    config = TrainingConfig(max_epochs=1, batch_size=4, learning_rate=1e-3)
    before = kinds(network)
    Trainer(network, data, data, config, callbacks=NullCallbacks()).train()
    assert kinds(network) == before and seen[0] == len(faster(modernize.accelerate(network))) > 0


def test_torch_func_holds_for_an_accelerated_network() -> None:
    plain = drawn().eval()
    fast = modernize.accelerate(copy.deepcopy(plain))
    x = torch.randn(3, 1, 16, 16)
    weights = {name: one.detach() for name, one in plain.named_parameters()}

    def answers(network: nn.Module) -> list[Tensor]:
        def loss(weights: dict[str, Tensor], images: Tensor) -> Tensor:
            return torch.func.functional_call(network, weights, (images,)).square().sum()

        def loss_of_one(weights: dict[str, Tensor], image: Tensor) -> Tensor:
            return loss(weights, image[None])

        each = torch.func.vmap(torch.func.grad(loss_of_one), (None, 0))

        def slope(images: Tensor) -> Tensor:
            return torch.func.grad(loss, argnums=1)(weights, images)

        curvature = torch.func.jvp(slope, (x,), (x.flip(0),))[1]
        return [
            *each(weights, x).values(),
            *torch.func.jvp(loss, (weights, x), (weights, x)),
            torch.func.jacrev(network)(x),
            torch.func.jacfwd(network)(x[:1]),
            torch.autograd.functional.jacobian(network, x, vectorize=True),
            curvature,
        ]

    assert_near(answers(fast), answers(plain), 1e-4)


@pytest.mark.parametrize(
    ("design", "settings", "said"),
    [(LAST, {"precision": "bf16"}, True), (FIRST, {"precision": "bf16"}, False), (LAST, {}, False)],
)
def test_a_run_that_an_earlier_version_began_says_so_if_it_rounds_otherwise(
    design: str, settings: dict[str, str], said: bool, tmp_path: Path
) -> None:
    from ablations.store import read_json, write_json
    from ablations.studies.older import older_versions

    options = [value for key, text in settings.items() for value in ("--set", f"{key}={text}")]
    command = ("train", design, "--data", "digits", "--set", "image_size=16", "--set", "max_epochs=0.1", *options)
    done = ablations_here(*command, "--set", "batch_size=32", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    (tmp_path / "run/result.json").unlink()
    assert older_versions([tmp_path / "run", tmp_path / "none"]) == []
    sessions = read_json(tmp_path / "run/environment.json")
    del sessions["sessions"][0]["rounding"]
    write_json(tmp_path / "run/environment.json", sessions)
    found = older_versions([tmp_path / "run", tmp_path / "none"])
    assert len(found) == said and all("round differently" in text for text in found)
