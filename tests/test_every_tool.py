"""Every tool for torch networks works on ours, and finds what it finds in a network of torchvision's modules."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import peer, randomize
from random_designs import Case, cases
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

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


def gradients(network: nn.Module, x: Tensor, names: Iterable[str] | None = None) -> list[Tensor]:
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
    """What torch.func and vectorized jacobians give, in float64."""
    network = copy.deepcopy(network).double()
    x = images(case).double()
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
    assert_near(transformed(network, case), transformed(other, case), 1e-8)


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
    middle = "stages.0.blocks.0.residual"
    at = [name for name in get_graph_node_names(network)[0] if name.startswith(middle)][-1]
    features = create_feature_extractor(network, {at: "residual"})(x)
    assert features["residual"].shape[0] == 3


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
    assert_near(gradients(network, x), gradients(other, x), 1e-3)
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


@pytest.mark.parametrize("accelerated", [False, True], ids=["plain", "accelerated"])
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("row", ROWS)
def test_each_row_is_what_a_tool_expects(row: str, tool: str, accelerated: bool) -> None:
    case = case_of(row)
    network = drawn(case).eval()
    other = peer(network)
    if accelerated:
        modernize.accelerate(network)
    TOOLS[tool](network, other, case)


import time, collections
SPENT = collections.Counter()

@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(cases(), st.booleans())
def test_random_designs_are_what_tools_expect(case: Case, accelerated: bool) -> None:
    network = drawn(case).eval()
    other = peer(network)
    if accelerated:
        modernize.accelerate(network)
    for check in [*TOOLS.values(), exported]:
        t = time.process_time()
        try:
            check(network, other, case)
        finally:
            SPENT[check.__name__] += time.process_time() - t

def test_zz():
    print(SPENT)
