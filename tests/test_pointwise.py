"""1×1 and strided convolutions with a fast gradient are torch's; on one thread of AVX-512, to the bit."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from test_depthwise import all_equal, all_near, answers
from torch import Tensor, nn

import modernize
from modernize.acceleration import DepthwiseConv2d, PointwiseConv2d
from modernize.depthwise import depthwise_conv2d
from modernize.pointwise import pointwise_conv2d

NHWC = torch.channels_last
# channels, output channels, resolution, stride: what the pocket roadmap has
POCKET = [(48, 24, 16, 1), (72, 18, 16, 1), (144, 36, 8, 1), (48, 96, 16, 2), (18, 36, 16, 2), (192, 384, 4, 2)]


def is_fast(y: Tensor) -> bool:
    return y.grad_fn is not None and "Pointwise" in y.grad_fn.name()


def accelerated(conv: nn.Conv2d) -> nn.Conv2d:
    block = copy.deepcopy(modernize.build("pocket,depths=1-1", 10, 1).stages[0].get_submodule("blocks.0"))
    block.residual = nn.Sequential(conv)
    modernize.accelerate(block)
    return conv


@pytest.mark.parametrize(("channels", "outputs", "side", "stride"), POCKET)
def test_a_pointwise_convolutions_gradients_are_conv2ds(channels: int, outputs: int, side: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, outputs, 1, stride, bias=False).to(memory_format=NHWC)
    conv = accelerated(copy.deepcopy(plain))
    assert type(conv) is PointwiseConv2d
    x = torch.randn(32, channels, side, side).to(memory_format=NHWC)
    grad = torch.randn_like(plain(x))
    assert is_fast(conv(x))
    exact = copy.deepcopy(plain).double()
    all_near(
        answers(conv, x, conv.parameters(), grad),
        answers(exact, x.double(), exact.parameters(), grad.double()),
    )


@pytest.mark.parametrize(
    ("shape", "stride", "change"),
    list(product([(15, 64, 8, 8), (16, 64, 9, 9), (16, 64, 32, 32)], [2], ["none"]))
    + [((16, 64, 8, 8), 1, change) for change in ("contiguous", "float64", "padding", "groups", "wide", "bias")],
)
def test_elsewhere_a_pointwise_convolution_is_torchs(shape: tuple[int, ...], stride: int, change: str) -> None:
    outputs = 96 if change == "wide" else 32
    conv = PointwiseConv2d(
        64, outputs, 1, stride, int(change == "padding"), groups=1 + (change == "groups"), bias=change == "bias"
    )
    x = torch.randn(shape).to(memory_format=torch.contiguous_format if change == "contiguous" else NHWC)
    if change == "float64":
        conv, x = conv.double(), x.double()
    assert not is_fast(conv(x))


def test_a_strided_depthwise_convolution_is_torchs_unless_images_are_channels_last() -> None:
    conv = DepthwiseConv2d(8, 8, 7, 2, 3, groups=8, bias=False)
    x = torch.randn(16, 8, 8, 8)
    fast, plain = (conv(images).grad_fn.name() for images in (x.to(memory_format=NHWC), x))
    assert "Depthwise" in fast and "Depthwise" not in plain
    assert type(accelerated(nn.Conv2d(8, 8, 15, 2, 7, groups=8, bias=False))) is nn.Conv2d


@pytest.mark.parametrize(("kernel", "side"), [(7, 1), (7, 2), (11, 3), (13, 5)])
def test_a_strided_kernel_may_be_much_larger_than_the_image(kernel: int, side: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, 2, kernel // 2, groups=8, bias=False).double()
    x = torch.randn(16, 8, side, side, dtype=torch.float64)
    grad = torch.randn_like(plain(x))
    ours = depthwise_conv2d(leaf := x.clone().requires_grad_(), plain.weight, None, 2)
    found = torch.autograd.grad(ours, (leaf, plain.weight), grad)
    expected = torch.autograd.grad(plain(leaf), (leaf, plain.weight), grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_pointwise_convolution_has_first_and_second_derivatives(stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64).to(memory_format=NHWC).requires_grad_()
    weight = torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, weight: pointwise_conv2d(x, weight, stride), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, weight: pointwise_conv2d(x, weight, stride), (x, weight))


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="oneDNN sums in another order")
def test_on_one_thread_the_gradients_are_torchs_to_the_bit() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases: list[tuple[nn.Conv2d, int, int]] = [
            (nn.Conv2d(channels, outputs, 1, stride, bias=False), channels, side)
            for channels, outputs, side, stride in POCKET
        ]
        for kernel, (channels, side) in product((5, 7, 9, 11), ((18, 16), (36, 8), (72, 4))):
            conv = nn.Conv2d(channels, channels, kernel, 2, kernel // 2, groups=channels, bias=False)
            cases.append((conv, channels, side))
        for plain, channels, side in cases:
            plain = plain.to(memory_format=NHWC)
            conv = accelerated(copy.deepcopy(plain))
            assert type(conv) in (PointwiseConv2d, DepthwiseConv2d)
            x = torch.randn(128, channels, side, side).to(memory_format=NHWC)
            grad = torch.randn_like(plain(x))
            ours = answers(conv, x, conv.parameters(), grad)
            assert all_equal(ours, answers(plain, x, plain.parameters(), grad)), plain
    finally:
        torch.set_num_threads(threads)
