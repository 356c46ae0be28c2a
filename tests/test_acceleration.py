"""Accelerated networks: what is swapped, what is not, and that it is undone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from commands import ablations_here
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm

import modernize
from ablations import Trainer, TrainingConfig
from ablations.store import read_json, write_json
from ablations.studies.older import older_versions
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


@pytest.mark.parametrize("design", [LAST, FIRST])
def test_an_accelerated_network_is_traced_without_warnings(design: str) -> None:
    network = modernize.accelerate(drawn(design)).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.jit.trace(network, torch.randn(2, 1, 16, 16), check_trace=False)
    assert [one.message for one in caught if one.category is torch.jit.TracerWarning] == []


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


def parametrized(network: nn.Module) -> None:
    torch.manual_seed(1)
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            spectral_norm(module)  # each reading of the weight takes a step of the power iteration


def old_style(network: nn.Module) -> None:
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            prune.l1_unstructured(module, "weight", 0.5)


def sigmoid_at_the_end(network: nn.Module) -> None:
    first_block(network).residual.append(nn.Sigmoid())  # its gradient needs its output


def shared_relu(network: nn.Module) -> None:
    block, relu = first_block(network), nn.ReLU()
    block.residual = nn.Sequential(relu, *(relu if isinstance(part, nn.ReLU) else part for part in block.residual))


def float32_shortcut(network: nn.Module) -> None:
    block = first_block(network)
    block.shortcut = nn.Sequential(block.shortcut, ToFloat())


class ToFloat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def frozen_branches(network: nn.Module) -> None:
    first_block(network).residual.requires_grad_(False)


def first_block(network: nn.Module) -> Any:
    return network.get_submodule("stages.0.blocks.0")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("design", [FIRST, LAST])
@pytest.mark.parametrize(
    "change", [parametrized, old_style, sigmoid_at_the_end, shared_relu, float32_shortcut, frozen_branches]
)
def test_surgery_before_or_after_acceleration_computes_the_same(
    change: Callable[[nn.Module], None], design: str, when: str
) -> None:
    plain, fast = drawn(design), drawn(design)
    for network in (plain, fast):
        if network is fast and when == "after":
            modernize.accelerate(network)
        change(network)
    modernize.accelerate(fast)
    x = torch.randn(4, 1, 16, 16)
    found: list[Tensor] = []
    wanted: list[Tensor] = []
    for network, answers in ((fast, found), (plain, wanted)):
        y = network(x)
        y.square().sum().backward()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            block = first_block(network)(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
        answers += [y.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]
        answers += [one for one in network.buffers() if one.is_floating_point()]
        answers.append(block)
    assert [one.dtype for one in found] == [one.dtype for one in wanted]
    assert_near(found[:-1], wanted[:-1], 1e-3)
    assert_near(found[-1:], wanted[-1:], 0.02)


@pytest.mark.parametrize("design", [FIRST, LAST])
@pytest.mark.parametrize("of_all", [False, True])
def test_what_wraps_a_module_after_acceleration_keeps_its_tensors(of_all: bool, design: str) -> None:
    kept: list[list[Tensor]] = [[], []]
    for network, outputs in zip((drawn(design), modernize.accelerate(drawn(design))), kept, strict=True):

        def keep(*values: Any, outputs: list[Tensor] = outputs) -> None:
            outputs.append(values[-1])

        def wrapped(x: Tensor, forward: Callable[[Tensor], Tensor], outputs: list[Tensor] = outputs) -> Tensor:
            outputs.append(forward(x))
            return outputs[-1]

        hook = nn.modules.module.register_module_forward_hook(keep) if of_all else None
        for module in [] if of_all else network.modules():
            module.forward = partial(wrapped, forward=module.forward)
        network(torch.ones(2, 1, 16, 16)).sum().backward()
        if hook:
            hook.remove()
    assert_near(kept[1], kept[0], 1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_autocast_leaves_alone_what_torchs_autocast_leaves_alone(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 4, 7, padding=3, groups=4).to(dtype), torch.randn(2, 4, 9, 9).to(dtype)
    block = Block(drawn().plan.stages[0].blocks[0], 0.0)
    block.residual.spatial = conv
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = conv(x)
        modernize.accelerate(block)
        assert type(conv) is DepthwiseConv2d and conv(x).dtype is dtype
        assert torch.equal(conv(x), wanted)


@pytest.mark.parametrize("design", [FIRST, LAST])
def test_forward_mode_and_data_parallelism_are_those_of_the_plain_network(design: str, tmp_path: Path) -> None:
    plain, fast = drawn(design).eval(), modernize.accelerate(drawn(design).eval())
    x, tangents = torch.randn(2, 1, 16, 16), []
    for network in (plain, fast):
        with forward_ad.dual_level():
            tangents.append(forward_ad.unpack_dual(network(forward_ad.make_dual(x, x.flip(0)))).tangent)
    assert_near(tangents[1:], tangents[:1], 1e-4)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(fast)
        assert_near(gradients(parallel, x), gradients(plain, x), 1e-4)
        fully_shard(fast, mesh=init_device_mesh("cpu", (1,)))
        y = fast(x)
        y.square().sum().backward()
        whole = [y.detach(), *(weights.grad.full_tensor() for weights in fast.parameters())]  # type: ignore[union-attr]
    finally:
        dist.destroy_process_group()
    assert_near(whole, gradients(plain, x), 1e-4)


def test_a_run_that_an_earlier_version_began_says_so_if_it_rounds_otherwise(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("image_size=16", "max_epochs=0.1", "batch_size=32", "precision=bf16")
    options = [value for setting in settings for value in ("--set", setting)]
    done = ablations_here("train", LAST, "--data", "digits", *options, "--out", run)
    assert done.returncode == 0, done.stderr
    (run / "result.json").unlink()
    assert older_versions([run, tmp_path / "none"]) == []
    sessions, config = read_json(run / "environment.json"), yaml.safe_load((run / "config.yaml").read_text())
    first = sessions["sessions"][0]
    del first["rounding"]

    def told(
        device: str = "cpu (AVX512)",
        norm: str = "ln",
        kernel: int = 7,
        rounding: int = 1,
        threads: int = 1,
        **recipe: Any,
    ) -> bool:
        session = {**first, "device": device, "rounding": rounding, "threads": threads}
        write_json(run / "environment.json", {"sessions": [session]})
        changed = {
            "recipe": config["recipe"] | {"precise_bn": None} | recipe,
            "flags": config["flags"] | {"norm": norm, "kernel_size": kernel},
        }
        (run / "config.yaml").write_text(yaml.safe_dump(config | changed))
        found = older_versions([run, tmp_path / "none"])
        float32_on_gpu = not device.startswith("cpu") and recipe.get("precision") == "float32"
        assert all(("in TF32" if float32_on_gpu else "round differently") in text for text in found)
        return len(found) == 1

    assert told() and told(kernel=3, compile=True) and told(norm="bn")
    assert not told(kernel=3) and not told(precision="float32") and not told(precision="fp16")
    assert told("NVIDIA A100", kernel=3) and told("NVIDIA A100", precision="fp16")
    assert not told("NVIDIA A100", norm="bn") and not told(rounding=2) and not told("NVIDIA A100", rounding=2)
    assert told("NVIDIA A100", precision="float32") and told("NVIDIA A100", precision="float32", rounding=2)
    assert not told("NVIDIA A100", precision="float32", rounding=3)
    assert told("cpu (AVX2)", precision="float32", rounding=3) and told(threads=2, precision="float32", rounding=3)
    assert not told(threads=2, rounding=3) and not told(threads=2, precision="float32", rounding=4)


def test_a_study_says_so_if_an_earlier_version_recomputed_other_batchnorm_statistics(tmp_path: Path) -> None:
    def told(rounding: int, images: int | None, left: bool) -> list[str]:
        for name in ("one", "other"):
            place = tmp_path / name
            place.mkdir(exist_ok=True)
            session = {"rounding": rounding, "data": {"name": "digits"}, "threads": 1, "device": "cpu (AVX512)"}
            write_json(place / "environment.json", {"sessions": [session]})
            (place / "config.yaml").write_text(yaml.safe_dump({"recipe": {"precise_bn": images}, "flags": {}}))
            write_json(place / "result.json", {})
        return older_versions([tmp_path / "one", tmp_path / "other", *([tmp_path / "new"] if left else [])])

    (line,) = told(4, 2048, left=True)
    assert line.startswith("2 runs began with an earlier version, which recomputed BatchNorm statistics")
    assert not told(4, 2048, left=False), "nothing is left that could differ"
    assert not told(5, 2048, left=True) and not told(4, 128, left=True) and not told(4, None, left=True)
