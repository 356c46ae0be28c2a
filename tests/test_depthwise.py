"""The depthwise convolution and the GELU are torch's in all but speed, and a prepared process keeps its memory."""

from __future__ import annotations

import copy
import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from itertools import compress, product
from typing import Any, NamedTuple

import pytest
import torch
from commands import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import modernize
from ablations.machine import prepare_process
from modernize import depthwise
from modernize.acceleration import ChannelsLastGELU, DepthwiseConv2d
from modernize.depthwise import runs

Forward = Callable[[Tensor], Tensor]
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced")


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values, N×C×H×W, in another order or with gaps in memory."""
    match layout:
        case "channels_last":
            return x.contiguous(memory_format=torch.channels_last)
        case "transposed":
            return x.transpose(2, 3).contiguous().transpose(2, 3)
        case "sliced":
            wide = x.new_zeros(x.shape[0], x.shape[1], x.shape[2] + 1, 2 * x.shape[3])
            return wide[:, :, 1:, ::2].copy_(x)
    return x.contiguous()


def depthwise_conv(channels: int, kernel: int, stride: int = 1, bias: bool = True) -> DepthwiseConv2d:
    return DepthwiseConv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias)


def drawn(channels: int, kernel: int, stride: int = 1, bias: bool = True) -> DepthwiseConv2d:
    """A convolution whose weights are as large as its inputs."""
    torch.manual_seed(0)
    conv = depthwise_conv(channels, kernel, stride, bias)
    for weights in conv.parameters():
        nn.init.normal_(weights)
    return conv


def reference(conv: nn.Conv2d) -> nn.Conv2d:
    """torch's own module with the same weights."""
    same: dict[str, Any] = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "groups")}
    ours = nn.Conv2d(conv.in_channels, conv.out_channels, bias=conv.bias is not None, **same)
    ours.load_state_dict(conv.state_dict())
    return ours.to(conv.weight.dtype)


def answers(forward: Forward, x: Tensor, weights: Iterable[Tensor], grad: Tensor | None = None) -> list[Tensor]:
    """The output, and the gradients of x and of the weights; `grad` is that of the output, drawn unless given."""
    x = x.detach().requires_grad_()
    y = forward(x)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *weights], grad)]


def assert_near(found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    """Within float32's rounding of the largest value."""
    assert found.shape == wanted.shape
    error, largest = ((found.double() - wanted.double()).abs().max(), wanted.double().abs().max())
    assert error <= tolerance * largest + 1e-6, (error.item(), largest.item())


def all_near(found: Iterable[Tensor], wanted: Iterable[Tensor], tolerance: float = 2e-5) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert_near(one, other, tolerance)


def all_equal(found: Iterable[Tensor], wanted: Iterable[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def is_fast(y: Tensor) -> bool:
    """Whether our own backward pass follows this output."""
    return y.grad_fn is not None and "Depthwise" in y.grad_fn.name()


# Values and gradients -------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    batch: int
    channels: int
    height: int
    width: int
    kernel: int
    stride: int
    bias: bool
    layout: str
    weight_format: torch.memory_format
    grad_layout: str


CASES = st.builds(
    Case,
    batch=st.integers(1, 4),
    channels=st.integers(1, 40) | st.sampled_from([1, 15, 16, 17, 32]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 5, 7, 9, 11, 13]),
    stride=st.sampled_from([1, 1, 1, 2]),
    bias=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    weight_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    grad_layout=st.sampled_from([*LAYOUTS, "expanded"]),
)


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(CASES)
def test_values_and_gradients_are_conv2ds(case: Case) -> None:
    conv = drawn(case.channels, case.kernel, case.stride, case.bias).to(memory_format=case.weight_format)
    x = laid_out(torch.randn(case.batch, case.channels, case.height, case.width), case.layout)
    exact = reference(conv).double()
    shape = exact(x.double()).shape
    if case.grad_layout == "expanded":
        grad = torch.tensor(1.5).expand(shape)
    else:
        grad = laid_out(torch.randn(shape), case.grad_layout)
    found = answers(conv, x, conv.parameters(), grad)
    assert {one.dtype for one in found} == {torch.float32}
    all_near(found, answers(exact, x.double(), exact.parameters(), grad.double()))


@pytest.mark.parametrize(("height", "width"), [*product((1, 2, 6, 7, 12, 13, 14, 25), repeat=2)])
def test_gradients_are_conv2ds_where_the_kernel_is_larger_or_smaller_than_the_image(height: int, width: int) -> None:
    for kernel in (5, 7, 13, 25):
        conv = drawn(3, kernel)
        exact = reference(conv).double()
        x = torch.randn(2, 3, height, width)
        found = answers(conv, x, conv.parameters())
        all_near(found, answers(exact, x.double(), exact.parameters()))


def test_an_empty_batch_has_gradients_of_zero() -> None:
    conv = drawn(4, 7)
    y, for_x, *for_weights = answers(conv, torch.randn(0, 4, 9, 9), conv.parameters())
    assert y.shape == for_x.shape == (0, 4, 9, 9)
    assert not any(grad.any() for grad in for_weights)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [5, 7, 11])
def test_two_backward_passes_agree_to_the_bit(kernel: int, layout: str) -> None:
    conv = drawn(24, kernel)
    x = laid_out(torch.randn(4, 24, 15, 13), layout)
    first, *others = (answers(conv, x, conv.parameters()) for _ in range(4))
    assert all(all_equal(other, first) for other in others)


# When the fast backward pass is taken --------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [5, 7, 9, 11, 13])
def test_float32_training_with_a_wide_kernel_is_fast(kernel: int) -> None:
    x = torch.randn(2, 8, 9, 9)
    assert is_fast(drawn(8, kernel)(x))
    assert is_fast(drawn(8, kernel, bias=False)(x.requires_grad_()))
    assert is_fast(drawn(8, kernel).eval()(x))


@pytest.mark.parametrize(
    ("kernel", "stride", "dtype", "context"),
    [
        (3, 1, torch.float32, nullcontext()),
        (1, 1, torch.float32, nullcontext()),
        (7, 2, torch.float32, nullcontext()),
        (7, 1, torch.float64, nullcontext()),
        (7, 1, torch.float16, nullcontext()),
        (7, 1, torch.float32, torch.autocast("cpu", dtype=torch.float16)),
    ],
    ids=["kernel-3", "kernel-1", "stride-2", "float64", "float16", "autocast"],
)
def test_elsewhere_it_is_conv2d_to_the_bit(
    kernel: int, stride: int, dtype: torch.dtype, context: AbstractContextManager[None]
) -> None:
    conv = drawn(8, kernel, stride).to(dtype)
    theirs = reference(conv)
    x = torch.randn(2, 8, 9, 11, dtype=dtype)

    def forward(module: nn.Module) -> Forward:
        def call(x: Tensor) -> Tensor:
            with context:
                y = module(x)
            assert not is_fast(y) and y.grad_fn is not None
            return y

        return call

    found = answers(forward(conv), x, conv.parameters())
    assert all_equal(found, answers(forward(theirs), x, theirs.parameters()))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_it_is_conv2d(context: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise._Depthwise, "apply", None)
    conv = drawn(8, 7)
    x = torch.randn(2, 8, 9, 11, requires_grad=True)
    with context():
        y = conv(x)
        assert y.grad_fn is None and not y.requires_grad
        assert torch.equal(y, reference(conv)(x))
    monkeypatch.undo()
    frozen = conv.requires_grad_(False)
    assert not frozen(x.detach()).requires_grad


def refuse(*_: Tensor) -> Tensor:
    raise AssertionError("a gradient that nobody wants")


LEAVES = ("x", "weight", "bias")


@pytest.mark.parametrize(
    "wanted",
    [wanted for wanted in product((False, True), repeat=3) if any(wanted)],
    ids=lambda wanted: "-".join(compress(LEAVES, wanted)),
)
def test_only_the_gradients_that_are_wanted_are_computed(
    wanted: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leaves(module: nn.Conv2d) -> list[Tensor]:
        assert module.bias is not None
        x = torch.randn(2, 8, 9, 11, generator=torch.Generator().manual_seed(2))
        found = [x, module.weight, module.bias]
        for leaf, flag in zip(found, wanted, strict=True):
            leaf.requires_grad_(flag)
        module(x).square().sum().backward()
        return found

    conv = drawn(8, 7)
    theirs = leaves(reference(conv))
    if not wanted[0]:
        monkeypatch.setattr(depthwise, "input_gradient", refuse)
    if not wanted[1]:
        monkeypatch.setattr(depthwise, "weight_gradient", refuse)
    for leaf, other, flag in zip(leaves(conv), theirs, wanted, strict=True):
        assert (leaf.grad is not None) == flag
        if leaf.grad is not None and other.grad is not None:
            assert_near(leaf.grad, other.grad)


@pytest.mark.parametrize("columns", range(21))
def test_runs_cover_every_column_once_three_at_a_time(columns: int) -> None:
    found = runs(columns)
    covered = [column for first, last in found for column in range(first, last + 1)]
    assert sorted(covered) == list(range(-columns, columns + 1))
    assert all(1 <= last - first + 1 <= 3 for first, last in found)
    assert sorted((-last, -first) for first, last in found) == sorted(found)
    assert sum(first == -last for first, last in found) == 1


def test_one_column_is_one_run() -> None:
    assert runs(0) == [(0, 0)]


# With the rest of autograd --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_checkpointing_changes_no_bit(layout: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(depthwise_conv(8, 7), ChannelsLastGELU(), depthwise_conv(8, 5), ChannelsLastGELU())
    x = laid_out(torch.randn(3, 8, 11, 9), layout)
    plain = answers(network, x, network.parameters())
    kept = answers(lambda x: checkpoint(network, x, use_reentrant=False), x, network.parameters())
    assert all_equal(kept, plain)


def penalised(forward: Forward, x: Tensor, weight: Tensor, loss: Forward, ask: str) -> list[Tensor]:
    """The gradients of a loss and of the square of its gradient for x, which takes second derivatives."""
    x = x.detach().requires_grad_()
    value = loss(forward(x))
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    total = value + slope.square().sum()
    if ask == "grad":
        return list(torch.autograd.grad(total, [x, weight]))
    total.backward()
    assert x.grad is not None and weight.grad is not None
    return [x.grad, weight.grad]


def squares(y: Tensor) -> Tensor:
    return y.square().sum()


@pytest.mark.parametrize("ask", ["backward", "grad"])
@pytest.mark.parametrize("loss", [squares, torch.sum])
@pytest.mark.parametrize("shape", [(2, 4, 9, 8), (2, 4, 2, 3)])
def test_second_derivatives_are_conv2ds(shape: tuple[int, ...], loss: Forward, ask: str) -> None:
    conv = drawn(4, 7)
    theirs = reference(conv)
    x = torch.randn(shape)
    assert is_fast(conv(x))
    all_near(penalised(conv, x, conv.weight, loss, ask), penalised(theirs, x, theirs.weight, loss, ask))


def test_an_image_without_a_batch_is_taken_as_by_torch() -> None:
    ours = drawn(6, 7, bias=True)
    x = torch.randn(6, 9, 9, requires_grad=True)
    ours(x).square().sum().backward()
    alone, x.grad = x.grad, None
    ours(x[None]).square().sum().backward()
    assert alone is not None and x.grad is not None
    torch.testing.assert_close(alone, x.grad)


def test_autocast_at_the_backward_pass_alone_changes_nothing() -> None:
    conv = drawn(8, 7)
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    y = conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.autograd.grad(y, [x, *conv.parameters()], torch.ones_like(y))
    all_near(found, answers(conv, x, conv.parameters(), torch.ones_like(y))[1:])


# As a module ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_the_state_is_conv2ds(bias: bool) -> None:
    ours, theirs = drawn(6, 7, bias=bias), nn.Conv2d(6, 6, 7, padding=3, groups=6, bias=bias)
    shapes = [[(name, tensor.shape) for name, tensor in one.state_dict().items()] for one in (ours, theirs)]
    assert shapes[0] == shapes[1]
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 9, 9)
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("design", "fast"),
    [("pocket@separate-downsampling", 7), ("pocket@kernel-11", 7), ("pocket@inverted-bottleneck", 0)],
)
def test_an_accelerated_network_is_the_plain_one(design: str, fast: int, layout: str) -> None:
    torch.manual_seed(0)
    network = modernize.build(design, 10, 1)
    if layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)
    x = laid_out(torch.randn(8, 1, 32, 32), layout)
    seen: list[bool] = []
    accelerated = modernize.accelerate(copy.deepcopy(network))
    convs = [module for module in accelerated.modules() if isinstance(module, DepthwiseConv2d)]
    for conv in convs:
        conv.register_forward_hook(lambda module, inputs, y: seen.append(is_fast(y)))

    def trained(network: nn.Module) -> list[Tensor]:
        """The outputs, gradients and statistics of a step, and the outputs after it."""
        network = copy.deepcopy(network)
        found = answers(network, x, network.parameters())
        with torch.no_grad():
            return [*found, *network.buffers(), network.eval()(x)]

    ours = trained(accelerated)
    taken = sum(layout == "channels_last" or conv.stride == (1, 1) for conv in convs)
    assert len(convs) == fast and seen.count(True) == taken
    all_near(ours, trained(network), 1e-4)
    all_near(trained(modernize.decelerate(accelerated)), trained(network), 0)
    assert seen.count(True) == taken


# GELU -----------------------------------------------------------------------------------------------------------------


def assert_gelu(x: Tensor) -> None:
    ours, theirs = answers(ChannelsLastGELU(), x, []), answers(nn.GELU(), x.double(), [])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-6, atol=1e-6)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9)),
    layout=st.sampled_from(LAYOUTS),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
)
def test_gelu_is_torchs_however_the_tensor_lies(shape: tuple[int, ...], layout: str, scale: float) -> None:
    torch.manual_seed(0)
    x = laid_out(scale * torch.randn(shape), layout)
    assert_gelu(x)
    assert_gelu(x.detach().permute(3, 0, 2, 1))
    y = ChannelsLastGELU()(x)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        if x.is_contiguous(memory_format=memory_format):
            assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 8), (3, 4, 5), (2, 3, 4, 5, 6)])
def test_gelu_is_torchs_for_any_number_of_dimensions(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert_gelu(x)
    assert_gelu(x.permute(tuple(reversed(range(x.ndim)))))


def test_gelu_can_be_added_to_in_place() -> None:
    x = laid_out(torch.randn(2, 8, 5, 5), "channels_last")
    ours = answers(lambda x: ChannelsLastGELU()(x).add_(x), x, [])
    all_near(ours, answers(lambda x: nn.GELU()(x).add_(x), x, []))


# The process ----------------------------------------------------------------------------------------------------------

ROUNDS = 5
COUNT_FAULTS = f"""
import json, resource, sys, torch
from ablations.machine import prepare_process

def faults(numbers, rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(numbers)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

prepared = sys.argv[1] == "prepared"
if prepared:
    prepare_process(3)
found = 0
for numbers in (1 << 24, 1 << 25):  # 64 and 128 MB
    faults(numbers, 20 * prepared)  # the heap grows to what it needs
    found += faults(numbers, {ROUNDS})
print(json.dumps([found, torch.get_num_threads()]))
"""


def faults_and_threads(process: str) -> tuple[int, int]:
    """The page faults of a process as it takes large tensors again and again, and torch's threads there."""
    command = [sys.executable, "-c", COUNT_FAULTS, process]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    faults, threads = json.loads(done.stdout)
    return faults, threads


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_a_prepared_process_has_its_threads_and_keeps_its_memory() -> None:
    (plain, one), (prepared, three) = map(faults_and_threads, ("plain", "prepared"))
    assert (one, three) == (1, 3)
    assert plain > 75 * ROUNDS  # at least one for each page of 2 MB; with pages of 4 kB many thousand
    assert prepared < plain / 25


def test_a_process_whose_c_library_cannot_keep_memory_still_has_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    before = torch.get_num_threads()
    try:
        prepare_process(before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
