"""Every tool for torch networks works on ours, and finds what it finds in a network of torchvision's modules."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from peers import peer, randomize
from random_designs import Case, cases
from torch import Tensor, nn
from torch.func import functional_call

import modernize
from modernize.network import Block, Network

ROWS = {row.name: row.design for row in (*modernize.roadmap("pocket").rows, *modernize.roadmap("pocket").extras)}


def case_of(row: str) -> Case:
    return Case(ROWS[row].with_flags({"depths": "1-1", "width": 4, "layer_scale": None}), 16, 1, 3)


def drawn(case: Case, rate: float = 0.0) -> Network:
    torch.manual_seed(0)
    network = modernize.build(case.design, case.num_classes, case.in_channels, drop_path_rate=rate)
    randomize(network)
    return network


def images(case: Case, number: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number, case.in_channels, case.image_size, case.image_size, generator=generator)


def assert_near(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-10) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        error, size = (one.double() - other.double()).norm(), other.double().norm()
        assert error <= tolerance * size + tolerance, (error.item(), size.item())


def gradients(network: Any, x: Tensor, names: Iterable[str] | None = None) -> list[Tensor]:
    """The logits, and the gradients of the images and of the weights, in the order of their names if given."""
    x = x.detach().requires_grad_()
    y = network(x)
    weights = network.parameters() if names is None else map(network.get_parameter, names)
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), [x, *weights])]


# One check per tool: it takes a network, and its peer of torchvision's modules ---------------------------------------


def traced(network: nn.Module, other: nn.Module, case: Case) -> None:
    x, more = images(case), images(case, 3)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, x), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for batch in (x, more, x):
        assert_near([loaded(batch)], [other(batch)], 1e-4)
    assert_near(gradients(loaded, more), gradients(other, more), 1e-3)


def exported(network: nn.Module, other: nn.Module, case: Case) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (images(case),), dynamic_shapes=({0: batch},)).module()
    for number in (2, 5, 2):
        x = images(case, number)
        assert_near(gradients(program, x), gradients(other, x), 1e-3)


def transformed(network: nn.Module, case: Case) -> list[Tensor]:
    """What torch.func and vectorized jacobians give."""
    x = images(case)
    weights = {name: one.detach() for name, one in network.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(network, weights, (x,)).square().sum()

    def loss_of_one(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return loss(weights, image[None])

    def along(steps: Tensor) -> Tensor:
        return network(x + steps[0] * x.flip(0) + steps[1])

    def sharpness(steps: Tensor) -> Tensor:
        return along(steps).square().sum()

    head = {name: one for name, one in weights.items() if name.startswith("head.linear")}
    here = x.new_zeros(2)
    return [
        *torch.func.grad(loss)(weights, x).values(),
        *torch.func.grad(loss)(head, x).values(),
        *torch.func.vmap(torch.func.grad(loss_of_one), (None, 0))(weights, x).values(),
        *torch.func.jvp(loss, (weights, x), (weights, x.flip(0))),
        torch.func.jacrev(along)(here),
        torch.func.jacfwd(along)(here),
        torch.func.hessian(sharpness)(here),
        torch.autograd.functional.jacobian(network, x[:1], vectorize=True),
    ]


def differentiated(network: nn.Module, other: nn.Module, case: Case) -> None:
    assert_near(transformed(network, case), transformed(other, case), 1e-2)


def seen_by_hooks(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Keep, without copies, what hooks see: inputs, outputs and gradients of the modules that ours and peers share."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, which: int) -> Any:
        def hook(*values: Any) -> None:
            seen[name] = values[which][0] if isinstance(values[which], tuple) else values[which]

        return hook

    for name, module in network.named_modules():
        module.register_forward_pre_hook(keep(f"{name} input", 1))
        module.register_forward_hook(keep(f"{name} output", 2))
        module.register_full_backward_hook(keep(f"{name} gradient", 2))
    network(x).square().sum().backward()
    return seen


def hooked(network: nn.Module, other: nn.Module, case: Case) -> None:
    x = images(case)
    found, wanted = seen_by_hooks(copy.deepcopy(network), x), seen_by_hooks(other, x)
    assert found.keys() == wanted.keys()
    assert_near([found[name] for name in wanted], list(wanted.values()), 1e-3)


def symbolically_traced(network: nn.Module, other: nn.Module, case: Case) -> None:
    graph = torch.fx.symbolic_trace(network)
    leaves = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    layers = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.GELU, nn.MaxPool2d)
    assert leaves >= {name for name, module in network.named_modules() if type(module) in layers}
    again = torch.fx.symbolic_trace(graph)
    assert len(again.graph.nodes) == len(graph.graph.nodes)
    again.recompile()
    x = images(case, 3)
    names = [name for name, _ in network.named_parameters()]
    assert_near(gradients(again, x, names), gradients(other, x), 1e-3)


def macs(network: nn.Module, case: Case) -> int:
    analysis = FlopCountAnalysis(network, images(case, 1)).unsupported_ops_warnings(False)
    counted = analysis.uncalled_modules_warnings(False).by_operator()
    return int(counted["conv"] + counted["linear"])


def counted(network: nn.Module, other: nn.Module, case: Case) -> None:
    assert torch.is_grad_enabled()
    of_design = modernize.count(case.design, case.image_size, case.in_channels, case.num_classes)
    assert macs(network, case) == macs(other, case) == of_design.macs


def saved(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def copied(network: nn.Module, other: nn.Module, case: Case) -> None:
    x = images(case)
    wanted = gradients(network, x)
    for same in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), saved(network)):
        assert [type(module) for module in same.modules()] == [type(module) for module in network.modules()]
        assert_near(gradients(same, x), wanted, 0)


def of_other_types(network: nn.Module, other: nn.Module, case: Case) -> None:
    x = images(case)
    assert_near(gradients(network, x), gradients(other, x), 1e-2)  # LayerNorm over one channel magnifies rounding
    wide, exact = copy.deepcopy(network).double(), gradients(copy.deepcopy(other).double(), x.double())
    assert_near(gradients(wide, x.double()), exact)
    for layout in (torch.channels_last, torch.contiguous_format):
        laid_out = copy.deepcopy(wide).to(memory_format=layout)
        assert_near(gradients(laid_out, x.double().contiguous(memory_format=layout)), exact)
    with torch.inference_mode():
        assert_near([wide(x.double())], exact[:1])
    narrow = copy.deepcopy(network).bfloat16()(x.bfloat16())
    assert narrow.dtype is torch.bfloat16
    assert (narrow - exact[0]).norm() <= 0.5 * exact[0].norm() + 0.05
    empty = copy.deepcopy(network).to("meta")
    outputs = empty(x.to("meta"))
    outputs.sum().backward()
    assert outputs.shape == exact[0].shape and all(one.grad is not None for one in empty.parameters())


TOOLS = {
    check.__name__: check
    for check in (traced, differentiated, hooked, symbolically_traced, counted, copied, of_other_types)
}


# Rows that together have each kind of layer. Plain networks are of torch's own layers.
KINDS = ("resnet", "depthwise-first", "kernel-7", "layer-norm", "separate-downsampling", "grn")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("row", "accelerated"),
    [
        *(pytest.param(row, True, id=f"{row}-accelerated") for row in ROWS),
        *(pytest.param(row, False, id=f"{row}-plain") for row in KINDS),
    ],
)
def test_each_row_is_what_a_tool_expects(row: str, tool: str, accelerated: bool) -> None:
    check(TOOLS[tool], case_of(row), accelerated)


@pytest.mark.parametrize("row", ["depthwise", "kernel-7", "layer-norm", "separate-downsampling", "grn"])
def test_rows_with_depthwise_convolutions_are_exported_with_any_batch_size(row: str) -> None:
    check(exported, case_of(row), True)


@pytest.mark.parametrize(
    "designs", [pytest.param(40, marks=pytest.mark.slow), pytest.param(200, marks=pytest.mark.simulation)]
)
@pytest.mark.parametrize("tool", [*TOOLS, "exported"])
def test_random_designs_are_what_each_tool_expects(tool: str, designs: int) -> None:
    @seed(tool)
    @settings(max_examples=designs, database=None, phases=[Phase.generate])
    @given(case=cases(), accelerated=st.booleans())
    def each(case: Case, accelerated: bool) -> None:
        check({**TOOLS, "exported": exported}[tool], case, accelerated)

    each()


def check(tool: Callable[[Network, nn.Module, Case], None], case: Case, accelerated: bool) -> None:
    network = drawn(case).eval()
    other = peer(network)
    if accelerated:
        modernize.accelerate(network)
    tool(network, other, case)


# Convolutions whose attributes change after they are built --------------------------------------------------------


def make_circular(conv: nn.Conv2d) -> None:
    conv.padding_mode = "circular"


def dilate(conv: nn.Conv2d) -> None:
    margin = conv.kernel_size[0] - 1
    conv.dilation, conv.padding = (2, 2), (margin, margin)
    conv._reversed_padding_repeated_twice = [margin] * 4


def do_not_stride(conv: nn.Conv2d) -> None:
    conv.stride = (1, 1)


def widen(conv: nn.Conv2d) -> None:
    wider = nn.functional.pad(conv.weight.detach(), (1, 2, 2, 1), value=0.1)[..., 1:, 1:]
    conv.weight, conv.padding = nn.Parameter(wider), (conv.kernel_size[0] // 2 + 1,) * 2


WITH_CONVOLUTIONS = ("resnet", "depthwise", "depthwise-first", "kernel-7", "layer-norm", "grn")


@pytest.mark.parametrize("change", [make_circular, dilate, do_not_stride, widen])
@pytest.mark.parametrize(
    ("row", "when"),
    [*itertools.product(WITH_CONVOLUTIONS, ("before", "after")), ("resnet", "plain"), ("kernel-7", "plain")],
)
def test_a_changed_convolution_is_torchs_with_and_without_gradients(
    row: str, when: str, change: Callable[[nn.Conv2d], None]
) -> None:
    case = case_of(row)
    network = drawn(case).eval()
    other = peer(network)
    if when == "after":
        modernize.accelerate(network)
    for one in (network, other):
        for module in list(one.modules()):
            if isinstance(module, nn.Conv2d) and (module.kernel_size[0] > 2 or change is do_not_stride):
                change(module)
    if when == "before":
        modernize.accelerate(network)
    x = images(case)
    assert_near(gradients(network, x), gradients(other, x), 1e-3)
    with torch.no_grad():
        wanted = [other(x)]
        assert_near([network(x)], wanted, 1e-4)
        assert_near([torch.jit.trace(network, x)(x)], wanted, 1e-4)
        if when == "plain" and row == "kernel-7":
            assert_near([torch.export.export(network, (x,)).module()(x)], wanted, 1e-4)


# Training mode -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerated"])
@pytest.mark.parametrize("row", ROWS)
def test_training_with_stochastic_depth_is_torchvisions(row: str, accelerated: bool) -> None:
    case = case_of(row)
    network = drawn(case, 0.5)
    other = peer(network, 0.5)
    if accelerated:
        modernize.accelerate(network)
    found: list[Tensor] = []
    wanted: list[Tensor] = []
    for one, steps in ((network, found), (other, wanted)):
        torch.manual_seed(1)
        steps += [*gradients(one, images(case, 6)), *gradients(one, images(case, 5)), *one.buffers()]
    assert_near(found, wanted, 1e-3)


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerated"])
def test_each_sample_is_dropped_on_its_own_or_with_all_under_vmap(accelerated: bool) -> None:
    case = case_of("separate-downsampling")
    network = drawn(case, 0.5)
    if accelerated:
        modernize.accelerate(network)
    weights = {name: one.detach() for name, one in network.named_parameters()}
    x = images(case, 1).expand(32, -1, -1, -1)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(network, weights, (image[None],)).square().sum()

    for randomness, kinds in (("different", 2), ("same", 1)):
        each = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness=randomness)(weights, x)
        assert len(each["head.linear.bias"].unique(dim=0)) == kinds


def test_a_rate_of_one_drops_every_branch() -> None:
    network = drawn(case_of("separate-downsampling"), 0.5)
    block = network.stages[1].get_submodule("blocks.0")
    assert isinstance(block, Block)
    block.drop_path.rate = 1.0
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("row", ["resnet", "layer-norm", "separate-downsampling", "grn"])
def test_a_scripted_network_is_the_network(row: str) -> None:
    case = case_of(row)
    network = drawn(case._replace(design=case.design.with_flags({"layer_scale": 0.5})), 0.2).eval()
    assert_near([torch.jit.script(network)(images(case))], [network(images(case))], 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
@pytest.mark.parametrize(("row", "when"), [("kernel-7", "before"), ("grn", "after")])
def test_a_compiled_network_is_torchvisions(row: str, when: str) -> None:
    case = case_of(row)
    network = drawn(case).eval()
    other, x = peer(network), images(case)
    if when == "before":
        modernize.accelerate(network)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True)
    assert_near(gradients(compiled, x), gradients(other, x), 1e-3)
    if when == "after":
        modernize.accelerate(network)
        assert_near(gradients(compiled, x), gradients(other, x), 1e-3)


def test_the_head_can_be_cut_and_extended() -> None:
    case = case_of("separate-downsampling")
    network = drawn(case).eval()
    other: Any = peer(network)
    x = images(case)
    for one in (network, other):
        one.head.append(nn.Softmax(1))
    assert_near([network(x)], [other(x)], 1e-5)
    assert_near([network.head[:-2](network.stages(network.stem(x)))], [other.head[:-2](other[:2](x))], 1e-5)
