"""The network: every combination of flags builds, trains a step and counts, and is what the flags say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from random_designs import Case, cases
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import modernize
from modernize import Design, DesignError
from modernize.models import INITS
from modernize.network import (
    Block,
    GlobalResponseNorm,
    LayerNorm2d,
    LayerScale,
    Network,
    initialise,
    linear_rates,
)
from modernize.plan import compile_plan, smallest_image, total_cost, trace

CONVNEXT = modernize.MODELS["convnext_tiny"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# Every combination builds, trains a step and counts ------------------------------------------------------------------


def halved(size: int) -> int:
    """Positions after a padded layer of stride 2."""
    return math.ceil(size / 2)


def closed_form(case: Case) -> tuple[int, int]:
    """Parameters and multiply-adds from the flags alone, by DESIGN.md and not by the plan."""
    design, size, channels, classes = case
    params = macs = 0

    def conv(size: int, fan_in: int, channels: int, kernel: int, bias: bool) -> None:
        nonlocal params, macs
        params += kernel * kernel * fan_in * channels + (channels if bias else 0)
        macs += size * size * kernel * kernel * fan_in * channels

    def norm(channels: int) -> None:
        nonlocal params
        params += 2 * channels

    stride, biased = design.stem_stride, design.norm == "ln"
    if design.stem == "patchify":
        size //= stride
        conv(size, channels, design.width, stride, True)
    else:
        step = stride if stride % 2 else stride // 2
        size = math.ceil(size / step)
        conv(size, channels, design.width, 7 if step <= 4 else 2 * step - 1, False)
        norm(design.width)
        size = size if stride % 2 else halved(size)
    channels = design.width
    if design.separate_downsampling and len(design.depths) > 1:
        norm(channels)
    for stage, depth in enumerate(design.depths):
        narrow, wide = design.width << stage, 4 * design.width << stage
        hidden, out = (wide, narrow) if design.inverted_bottleneck else (narrow, wide)
        if stage and design.separate_downsampling:
            size //= 2
            norm(channels)
            conv(size, channels, out, 2, True)
            channels = out
        for block in range(depth):
            strided = stage > 0 and block == 0 and not design.separate_downsampling
            before, size = size, halved(size) if strided else size
            spatial = channels if design.depthwise_first else hidden
            conv(size, 1 if design.depthwise else spatial, spatial, design.kernel_size, biased)
            conv(size if design.depthwise_first else before, channels, hidden, 1, biased)
            conv(size, hidden, out, 1, biased)
            for normed in [spatial] if design.fewer_norms else [spatial, hidden, out]:
                norm(normed)
            if strided or channels != out:
                conv(size, channels, out, 1, False)
                norm(out)
            params += out if design.layer_scale is not None else 0
            params += 2 * hidden if design.grn else 0
            channels = out
    if design.separate_downsampling:
        norm(channels)
    conv(1, channels, classes, 1, True)
    return params, macs


@pytest.mark.slow
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(cases())
def test_every_combination_builds_trains_a_step_and_counts(case: Case) -> None:
    design, image_size, in_channels, num_classes = case
    torch.manual_seed(0)
    network = modernize.build(design, num_classes, in_channels, drop_path_rate=0.1).train()
    logits = network(torch.randn(2, in_channels, image_size, image_size))
    assert logits.shape == (2, num_classes)
    loss = F.cross_entropy(logits, torch.arange(2) % num_classes)
    assert torch.isfinite(loss)
    loss.backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None and torch.isfinite(weights.grad).all(), name

    params, macs = closed_form(case)
    steps = trace(compile_plan(design, in_channels, num_classes), image_size)
    assert (sum(step.params for step in steps), sum(step.macs for step in steps)) == (params, macs)
    cost = modernize.count(design, image_size, in_channels, num_classes)
    assert (cost.params, cost.macs) == (params, macs)
    assert sum(weights.numel() for weights in network.parameters()) == params


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(cases())
def test_the_plan_gives_every_layer_its_height_and_width(case: Case) -> None:
    design, width, in_channels, num_classes = case
    height = width + 2 * design.stem_stride - 1 + len(design.depths)
    plan = compile_plan(design, in_channels, num_classes)
    network = Network(plan).eval()
    sizes: dict[str, tuple[Any, Any]] = {}

    def note(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.dim() == 4:
                sizes[path] = (inputs[0].shape[2:], output.shape[2:])

        return hook

    steps = trace(plan, (height, width))
    for step in steps:
        network.get_submodule(step.path).register_forward_hook(note(step.path))
    with torch.no_grad():
        network(torch.zeros(1, in_channels, height, width))
    assert sizes == {step.path: (step.in_size, step.out_size) for step in steps if step.path != "head.linear"}


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(cases())
def test_the_smallest_image_is_the_smallest(case: Case) -> None:
    plan = compile_plan(case.design, case.in_channels, case.num_classes)
    smallest = smallest_image(plan)
    assert trace(plan, smallest)
    for too_small in {smallest - 1, smallest // 2, 0, -1}:
        with pytest.raises(DesignError, match=rf"^image_size=\d+x{too_small} .*nearest valid value: 41x{smallest}$"):
            trace(plan, (41, too_small))
        with pytest.raises(DesignError, match=rf"^image_size={too_small} .*nearest valid value: {smallest}$"):
            trace(plan, too_small)
    network = Network(plan).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, case.in_channels, smallest, smallest)).shape == (1, case.num_classes)
        if smallest > 1:
            with pytest.raises(RuntimeError):
                network(torch.zeros(1, case.in_channels, smallest - 1, smallest - 1))


@pytest.mark.parametrize(
    ("name", "value", "least"), [("in_channels", 0, 1), ("in_channels", -3, 1), ("num_classes", -1, 0)]
)
def test_too_few_channels_and_classes_are_refused(name: str, value: int, least: int) -> None:
    given: dict[str, Any] = {name: value}
    for refuse in (modernize.build, modernize.count):
        with pytest.raises(DesignError, match=f"^{name}={value}: .*nearest valid value: {least}$"):
            refuse("pocket", **given)


# Without a classifier ------------------------------------------------------------------------------------------------

WITHOUT = ("pocket", "pocket@kernel-7", "pocket@layer-norm", "pocket@separate-downsampling", "pocket@grn")


@pytest.mark.parametrize("name", [*WITHOUT, "convnext_isotropic_small,depths=2,width=8"])
def test_without_classes_a_network_gives_the_pooled_features(name: str) -> None:
    whole, network = modernize.build(name, 5, 1).eval(), modernize.build(name, 0, 1).eval()
    missing = network.load_state_dict(whole.state_dict(), strict=False)
    assert missing.missing_keys == [] and missing.unexpected_keys == ["head.linear.weight", "head.linear.bias"]
    images = torch.randn(2, 1, 32, 48)
    with torch.no_grad():
        features = network(images)
        assert torch.equal(whole.head.linear(features), whole(images))
        assert torch.equal(whole.head[:-1](whole.stages(whole.stem(images))), features)
    assert features.ndim == 2
    plan = compile_plan(modernize.design(name), 1, 0)
    steps = trace(plan, (32, 48))
    cost = modernize.count(name, (32, 48), 1, 0)
    assert cost == total_cost(steps)
    assert cost.params == sum(weights.numel() for weights in network.parameters())
    five = modernize.count(name, (32, 48), 1, 5)
    assert (five.params - cost.params, five.macs - cost.macs) == (5 * (features.shape[1] + 1), 5 * features.shape[1])


@pytest.mark.parametrize("init", INITS)
def test_a_factor_on_the_classifier_changes_nothing_without_classes(init: str) -> None:
    torch.manual_seed(0)
    plain = modernize.build("pocket", 0, 1, init=init)
    torch.manual_seed(0)
    scaled = modernize.build("pocket", 0, 1, init=init, head_init_scale=0.1)
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), scaled.parameters(), strict=True))


def test_constructors_without_classes_are_timms_and_torchvisions() -> None:
    ours = modernize.convnext_tiny(num_classes=0, layer_scale_init_value=1.0).eval()
    theirs = torchvision.models.convnext_tiny(layer_scale=1.0).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs.classifier[2] = nn.Identity()
        modernize.load_weights(ours, theirs.state_dict())
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)
        pooled = timm.create_model("convnext_tiny", num_classes=0).eval()
        pooled.load_state_dict(modernize.export_weights(ours, "timm"))
        torch.testing.assert_close(ours(images), pooled(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["timm", "torchvision", "official"])
def test_weights_go_in_and_out_without_a_classifier(layout: str) -> None:
    whole, network = (modernize.build("convnext_tiny,width=8,depths=1-1-1-1", classes).eval() for classes in (7, 0))
    with_classifier = modernize.export_weights(whole, layout)
    with pytest.raises(
        modernize.WeightsError, match=r"^[^\n]*unexpected [^\n]*; classifier=False leaves the classifier out$"
    ):
        modernize.load_weights(network, with_classifier)
    modernize.load_weights(network, with_classifier, classifier=False)
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(whole.head.linear(network(images)), whole(images))
    without = modernize.export_weights(network, layout)
    assert len(with_classifier) - len(without) == 2
    again = modernize.build("convnext_tiny,width=8,depths=1-1-1-1", 0).eval()
    modernize.load_weights(again, without)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def test_the_head_is_a_sequence() -> None:
    network = modernize.build("pocket@separate-downsampling", 5, 1).eval()
    maps = torch.randn(2, 144, 3, 5)
    logits = network.head(maps)
    assert torch.equal(network.head[-1](network.head[:-1](maps)), logits)
    assert [name for name, _ in network.head[:-1].named_children()] == ["pool", "norm", "flatten"]
    network.head.append(nn.Softmax(1))
    assert torch.equal(network.head(maps), logits.softmax(1))


# What a block is made of, in each combination of the flags -----------------------------------------------------------

WIDTH, KERNEL, IN_CHANNELS = 4, 5, 3
BLOCK_FLAGS: dict[str, tuple[Any, ...]] = {
    "depthwise": (False, True),
    "inverted_bottleneck": (False, True),
    "depthwise_first": (False, True),
    "activation": ("relu", "gelu"),
    "fewer_activations": (False, True),
    "norm": ("bn", "ln"),
    "fewer_norms": (False, True),
    "separate_downsampling": (False, True),
    "layer_scale": (None, 0.5),
    "grn": (False, True),
}
NORMS = (nn.BatchNorm2d, nn.LayerNorm)
ACTIVATIONS = (nn.ReLU, nn.GELU)


def bare(design: Design, in_channels: int = IN_CHANNELS) -> Network:
    """The network of a design without weights."""
    with torch.device("meta"):
        return Network(compile_plan(design, in_channels, 10))


@cache
def two_stages() -> tuple[Network, ...]:
    """Two stages of two blocks in every combination of the flags that make up a block."""
    return tuple(
        bare(Design(depths=(2, 2), width=WIDTH, kernel_size=KERNEL, **dict(zip(BLOCK_FLAGS, values, strict=True))))
        for values in itertools.product(*BLOCK_FLAGS.values())
    )


class Placed(NamedTuple):
    """A block, the design it is of, and its stage and number there."""

    block: Block
    design: Design
    stage: int
    number: int

    @property
    def opens_stage(self) -> bool:
        """Whether the block comes after another stage."""
        return self.stage > 0 and self.number == 0

    @property
    def stride(self) -> int:
        return 2 if self.opens_stage and not self.design.separate_downsampling else 1

    @property
    def hidden(self) -> int:
        return (WIDTH << self.stage) * (4 if self.design.inverted_bottleneck else 1)

    @property
    def out_channels(self) -> int:
        return (WIDTH << self.stage) * (1 if self.design.inverted_bottleneck else 4)

    @property
    def in_channels(self) -> int:
        if self.number or (self.stage and self.design.separate_downsampling):
            return self.out_channels
        return self.out_channels // 2 if self.stage else WIDTH


def blocks() -> Iterator[Placed]:
    for network in two_stages():
        for s, stage in enumerate(network.stages):
            for b, block in enumerate(stage.get_submodule("blocks").children()):
                assert isinstance(block, Block)
                yield Placed(block, network.plan.design, s, b)


def of(kinds: Any, module: nn.Module) -> list[Any]:
    """The modules of those kinds directly in `module`, in order."""
    return [child for child in module.children() if isinstance(child, kinds)]


def before(layers: list[nn.Module], layer: nn.Module) -> nn.Module:
    return layers[layers.index(layer) - 1]


def spatial(block: Block) -> nn.Conv2d:
    (conv,) = [conv for conv in of(nn.Conv2d, block.residual) if conv.kernel_size != (1, 1)]
    return conv


def pointwise(block: Block) -> list[nn.Conv2d]:
    return [conv for conv in of(nn.Conv2d, block.residual) if conv.kernel_size == (1, 1)]


def test_a_block_has_one_spatial_and_two_pointwise_convolutions() -> None:
    for placed in blocks():
        convs = of(nn.Conv2d, placed.block.residual)
        assert len(convs) == 3
        assert convs.index(spatial(placed.block)) == (0 if placed.design.depthwise_first else 1)
        assert spatial(placed.block).kernel_size == (KERNEL, KERNEL)
        assert placed.block.residual[0] is convs[0]


def test_the_convolutions_have_their_channels() -> None:
    for placed in blocks():
        conv, (first, last) = spatial(placed.block), pointwise(placed.block)
        at = placed.in_channels if placed.design.depthwise_first else placed.hidden
        assert (conv.in_channels, conv.out_channels) == (at, at)
        assert (first.in_channels, first.out_channels) == (placed.in_channels, placed.hidden)
        assert (last.in_channels, last.out_channels) == (placed.hidden, placed.out_channels)


def test_the_spatial_convolution_has_one_group_a_channel_when_depthwise() -> None:
    for placed in blocks():
        conv = spatial(placed.block)
        assert conv.groups == (conv.in_channels if placed.design.depthwise else 1)
        assert [conv.groups for conv in pointwise(placed.block)] == [1, 1]


def test_the_spatial_convolution_carries_the_stride() -> None:
    for placed in blocks():
        conv = spatial(placed.block)
        assert conv.stride == (placed.stride, placed.stride)
        assert conv.padding == (KERNEL // 2, KERNEL // 2)
        for other in pointwise(placed.block):
            assert (other.stride, other.padding) == ((1, 1), (0, 0))


def test_the_convolutions_of_a_block_have_biases_exactly_with_layer_norm() -> None:
    for placed in blocks():
        for conv in of(nn.Conv2d, placed.block.residual):
            assert (conv.bias is not None) == (placed.design.norm == "ln")


def test_a_block_has_three_norms_or_the_one_after_the_spatial_convolution() -> None:
    for placed in blocks():
        layers = list(placed.block.residual)
        norms = of(NORMS, placed.block.residual)
        followed = [before(layers, norm) for norm in norms]
        convs = of(nn.Conv2d, placed.block.residual)
        assert followed == ([spatial(placed.block)] if placed.design.fewer_norms else convs)


def test_a_block_has_three_activations_or_the_one_before_the_last_pointwise() -> None:
    for placed in blocks():
        layers = list(placed.block.residual)
        inside, after = of(ACTIVATIONS, placed.block.residual), list(placed.block.after)
        first, second, last = of(nn.Conv2d, placed.block.residual)
        assert last is pointwise(placed.block)[-1]
        added = before(layers, last)
        assert isinstance(added, GlobalResponseNorm) == placed.design.grn
        assert (before(layers, added) if placed.design.grn else added) is inside[-1]
        assert layers.index(inside[-1]) > layers.index(second)
        if placed.design.fewer_activations:
            assert (len(inside), len(after)) == (1, 0)
        else:
            assert (len(inside), len(after)) == (2, 1)
            assert isinstance(after[0], ACTIVATIONS)
            assert before(layers, second) is inside[0] and layers.index(inside[0]) > layers.index(first)


def test_a_projection_stands_where_stride_or_channels_change() -> None:
    for placed in blocks():
        if placed.stride == 1 and placed.in_channels == placed.out_channels:
            assert len(placed.block.shortcut) == 0
            continue
        conv, norm = placed.block.shortcut
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, NORMS)
        assert (conv.in_channels, conv.out_channels) == (placed.in_channels, placed.out_channels)
        assert (conv.kernel_size, conv.stride, conv.padding) == ((1, 1), (placed.stride,) * 2, (0, 0))
        assert conv.bias is None


def test_layer_scale_ends_the_residual_branch_when_on() -> None:
    for placed in blocks():
        scales = [module for module in placed.block.modules() if isinstance(module, LayerScale)]
        if placed.design.layer_scale is None:
            assert not scales
            continue
        assert scales == [placed.block.residual[-1]]
        assert (scales[0].weight.numel(), scales[0].init) == (placed.out_channels, 0.5)


def test_nothing_else_is_in_a_block() -> None:
    for placed in blocks():
        for part in (placed.block.residual, placed.block.shortcut, placed.block.after):
            assert len(of((nn.Conv2d, LayerScale, GlobalResponseNorm, *NORMS, *ACTIVATIONS), part)) == len(part)


def test_norms_and_activations_are_of_the_kind_asked_for() -> None:
    for network in two_stages():
        design = network.plan.design
        for module in network.modules():
            if isinstance(module, NORMS):
                assert isinstance(module, LayerNorm2d if design.norm == "ln" else nn.BatchNorm2d)
            if isinstance(module, LayerNorm2d):
                assert module.eps == 1e-6
            if isinstance(module, ACTIVATIONS):
                assert isinstance(module, nn.ReLU if design.activation == "relu" else nn.GELU)


def test_separate_downsampling_is_a_norm_and_a_strided_convolution_between_stages() -> None:
    for network in two_stages():
        first, second = (stage.get_submodule("downsampling") for stage in network.stages)
        assert not list(first.children())
        if not network.plan.design.separate_downsampling:
            assert not list(second.children())
            continue
        norm, conv = second.children()
        before_it, after_it = (WIDTH, 2 * WIDTH) if network.plan.design.inverted_bottleneck else (16, 32)
        assert isinstance(norm, NORMS) and isinstance(conv, nn.Conv2d)
        assert next(norm.parameters()).numel() == before_it
        assert (conv.in_channels, conv.out_channels) == (before_it, after_it)
        assert (conv.kernel_size, conv.stride, conv.padding) == ((2, 2), (2, 2), (0, 0))
        assert conv.bias is not None


def test_a_norm_follows_the_pooling_exactly_with_separate_downsampling() -> None:
    for network in two_stages():
        kinds = [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]
        if network.plan.design.separate_downsampling:
            kinds.insert(1, LayerNorm2d if network.plan.design.norm == "ln" else nn.BatchNorm2d)
        assert [type(layer) for layer in network.head] == kinds


@pytest.mark.parametrize("fewer_activations", [False, True])
def test_a_block_adds_its_residual_to_its_shortcut(fewer_activations: bool) -> None:
    torch.manual_seed(0)
    design = Design(depths=(2,), width=4, fewer_activations=fewer_activations)
    projected, identity = Network(compile_plan(design)).eval().stages[0].get_submodule("blocks").children()
    assert isinstance(projected, Block) and isinstance(identity, Block)
    for block, x in ((projected, torch.randn(2, 4, 6, 6)), (identity, torch.randn(2, 16, 6, 6))):
        total = block.residual(x) + (x if block is identity else block.shortcut(x))
        assert torch.equal(block(x), total if fewer_activations else total.relu())


# The stem ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["bn", "ln"])
@pytest.mark.parametrize(
    ("stride", "kernel"), [(1, 7), (2, 7), (3, 7), (4, 7), (5, 9), (8, 7), (10, 9), (12, 11), (16, 15)]
)
def test_the_resnet_stem(stride: int, kernel: int, norm: str) -> None:
    stem = list(bare(Design(stem_stride=stride, norm=norm, activation="gelu")).stem)
    kinds = [nn.Conv2d, LayerNorm2d if norm == "ln" else nn.BatchNorm2d, nn.GELU]
    assert [type(layer) for layer in stem] == kinds + ([nn.MaxPool2d] if stride % 2 == 0 else [])
    conv = stem[0]
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is None and (conv.in_channels, conv.out_channels) == (IN_CHANNELS, 64)
    assert (conv.kernel_size, conv.padding) == ((kernel, kernel), (kernel // 2, kernel // 2))
    total = conv.stride[0]
    for pool in stem[3:]:
        assert isinstance(pool, nn.MaxPool2d)
        assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 1)
        total *= 2
    assert total == stride


@pytest.mark.parametrize("norm", ["bn", "ln"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 7, 16])
def test_the_patchify_stem_is_one_convolution_that_does_not_overlap(stride: int, norm: str) -> None:
    (conv,) = bare(Design(stem="patchify", stem_stride=stride, norm=norm), in_channels=2).stem
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels) == (2, 64)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((stride,) * 2, (stride,) * 2, (0, 0))
    assert conv.bias is not None


@pytest.mark.parametrize("norm", ["bn", "ln"])
@pytest.mark.parametrize("stem", ["resnet", "patchify"])
def test_separate_downsampling_brings_a_norm_after_the_stem_but_in_one_stage_networks(stem: str, norm: str) -> None:
    design = Design(depths=(1, 1), stem=stem, norm=norm)
    plain = [type(layer) for layer in bare(design).stem]
    separate = design.with_flags({"separate_downsampling": True})
    assert [type(layer) for layer in bare(separate).stem] == [*plain, LayerNorm2d if norm == "ln" else nn.BatchNorm2d]
    one_stage = separate.with_flags({"depths": "3"})
    assert [type(layer) for layer in bare(one_stage).stem] == plain
    assert isinstance(bare(one_stage).head[1], NORMS)


# Against the networks that others wrote ------------------------------------------------------------------------------


def total(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(weights.shape) for weights in network.parameters())


def with_weights_of(theirs: nn.Module, state: list[Tensor]) -> nn.Module:
    """Their network with our weights, in the order they stand in."""
    names = theirs.state_dict()
    theirs.load_state_dict(
        {name: value.reshape(names[name].shape) for name, value in zip(names, state, strict=True)}, strict=True
    )
    return theirs


def with_scales_first(network: Network) -> list[Tensor]:
    """Our weights in the order of the official ConvNeXt: a block's layer scale before its other eight."""
    weights = list(network.state_dict().items())
    for index, (name, _) in enumerate(weights):
        if name.endswith("layer_scale.weight"):
            weights.insert(index - 8, weights.pop(index))
    return [value for _, value in weights]


def test_resnet50_is_torchvisions() -> None:
    torch.manual_seed(0)
    ours = modernize.build("resnet50", init="kaiming")
    theirs = torchvision.models.resnet50()
    assert shapes(ours) == shapes(theirs)
    with_weights_of(theirs, list(ours.state_dict().values()))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # in training mode, where BatchNorm is at work
        torch.testing.assert_close(ours.train()(images), theirs.train()(images))


@pytest.mark.parametrize("name", [name for name in modernize.MODELS if name.startswith("convnextv2_")])
def test_convnext_v2_counts_as_timms(name: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert modernize.count(name).params == total(theirs)
    printed = {"convnextv2_atto": 3.7, "convnextv2_tiny": 28.6, "convnextv2_base": 89}  # millions, Woo et al. (2023)
    if name in printed:
        assert round(total(theirs) / 1e6, 1 if printed[name] != 89 else None) == printed[name]


def test_convnext_v2_computes_what_timms_does() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("convnextv2_atto").eval()
    for name, weights in theirs.named_parameters():
        if ".grn." in name:
            nn.init.normal_(weights, std=0.5)  # at 0, where they start, nothing is normalised
    ours = modernize.build("convnextv2_atto").eval()
    assert modernize.load_weights(ours, theirs.state_dict()) == "timm"
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    torch.testing.assert_close(ours(images), theirs(images))
    gradients = [torch.autograd.grad(network(images).square().sum(), images)[0] for network in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_response_norm_starts_as_the_identity_before_the_last_convolution() -> None:
    torch.manual_seed(0)
    with_it = modernize.build("pocket@kernel-7,grn=on", 10, 1).eval()
    without = modernize.build("pocket@kernel-7", 10, 1).eval()
    state = with_it.state_dict()
    without.load_state_dict({name: state[name] for name in without.state_dict()})
    images = torch.randn(2, 1, 32, 32)
    assert torch.equal(with_it(images), without(images))
    for block in compile_plan(with_it.plan.design).stages[0].blocks:
        names = [layer.name for layer in block.residual]
        assert names[names.index("pointwise2") - 1] == "grn"


def test_convnext_tiny_is_timms_and_torchvisions() -> None:
    torch.manual_seed(0)
    ours = modernize.build("convnext_tiny,layer_scale=1.0").eval()
    for theirs in (timm.create_model("convnext_tiny"), torchvision.models.convnext_tiny()):
        assert total(ours) == total(theirs) == 28_589_128
        with_weights_of(theirs, with_scales_first(ours))
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs.eval()(images))


def test_a_named_network_takes_the_official_arguments() -> None:
    network = modernize.convnext_tiny(in_channels=1, num_classes=7, layer_scale_init_value=0.0)
    assert not any(isinstance(module, LayerScale) for module in network.modules())
    assert (network.plan.in_channels, network.head.linear.out_features) == (1, 7)


# Stochastic depth ----------------------------------------------------------------------------------------------------


def all_blocks(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


def residual_block(rate: float) -> Block:
    """A block without batch statistics, so that each image stands for itself."""
    torch.manual_seed(0)
    return Block(compile_plan(CONVNEXT.with_flags({"width": 4, "layer_scale": 1.0})).stages[0].blocks[0], rate)


def added(block: nn.Module, x: Tensor) -> Tensor:
    """What a block whose shortcut is the identity adds to each image."""
    with torch.no_grad():
        return (block(x) - x).flatten(1)


@pytest.mark.parametrize(("depths", "rate"), [((1, 2, 3), 0.5), ((2,), 0.1), ((3, 3, 9, 3), 0.3), ((2, 2), 0.0)])
def test_the_rates_grow_linearly_from_zero_to_the_last(depths: tuple[int, ...], rate: float) -> None:
    network = modernize.build(Design(depths=depths, width=2), drop_path_rate=rate)
    rates = [block.drop_path.rate for block in all_blocks(network)]
    assert len(rates) == sum(depths)
    assert rates == pytest.approx(torch.linspace(0, rate, sum(depths), dtype=torch.float64).tolist())


def test_one_block_alone_is_never_dropped() -> None:
    assert linear_rates(0.5, 1) == [0.0]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_in_training_an_image_loses_its_residual_or_has_it_scaled(rate: float) -> None:
    block, images = residual_block(rate), 2000
    x = torch.randn(images, 4, 2, 2)
    whole, found = added(block.eval(), x), added(block.train(), x)
    dropped = (found == 0).all(dim=1)
    torch.testing.assert_close(found[~dropped], whole[~dropped] / (1 - rate), rtol=1e-4, atol=1e-4)
    deviation = math.sqrt(rate * (1 - rate) / images)
    assert dropped.double().mean().item() == pytest.approx(rate, abs=4 * deviation)


def test_the_mean_residual_stays() -> None:
    block = residual_block(0.3)
    x = torch.randn(1, 4, 2, 2).expand(20_000, -1, -1, -1)
    whole, mean = added(block.eval(), x[:1])[0], added(block.train(), x).mean(dim=0)
    torch.testing.assert_close(mean, whole, rtol=0.025, atol=1e-4)


def test_in_evaluation_nothing_is_dropped() -> None:
    torch.manual_seed(0)
    network = modernize.build("pocket,layer_scale=1.0", 10, 1, drop_path_rate=0.9).eval()
    images = torch.randn(4, 1, 32, 32)
    same = modernize.build("pocket,layer_scale=1.0", 10, 1).eval()
    same.load_state_dict(network.state_dict())
    assert torch.equal(network(images), same(images))


def test_a_rate_of_zero_draws_nothing() -> None:
    block, x = residual_block(0.0).train(), torch.randn(4, 4, 2, 2)
    before_it = torch.get_rng_state()
    whole = added(block, x)
    assert torch.equal(torch.get_rng_state(), before_it)
    assert torch.equal(whole, added(block.eval(), x))


def test_drops_follow_the_seed() -> None:
    block, x = residual_block(0.5).train(), torch.randn(64, 4, 2, 2)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.stack([added(block, x), added(block, x)])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(*drawn(1))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.nan, math.inf])
def test_a_drop_path_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(DesignError, match=f"^drop_path_rate={rate}: .*below 1$"):
        modernize.build("pocket", drop_path_rate=rate)


# Initialisation ------------------------------------------------------------------------------------------------------


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def weighted(network: Network) -> list[nn.Conv2d | nn.Linear]:
    """The layers that have weights to draw."""
    return [*convolutions(network), network.head.linear]


def norms(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, NORMS)]


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50"])
def test_trunc_normal_has_a_deviation_of_a_fiftieth_and_no_biases(name: str) -> None:
    torch.manual_seed(0)
    network = modernize.build(f"{name},width=32", num_classes=100)
    for layer in weighted(network):
        error = 0.02 / math.sqrt(2 * layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(0.02, abs=5 * error)
        assert layer.weight.mean().item() == pytest.approx(0, abs=5 * 0.02 / math.sqrt(layer.weight.numel()))
        assert layer.bias is None or not layer.bias.any()
    for norm in norms(network):
        assert (norm.weight == 1).all() and not norm.bias.any()


@pytest.mark.parametrize("init", INITS)
def test_layer_scale_starts_at_its_value(init: str) -> None:
    network = modernize.build(CONVNEXT.with_flags({"depths": "1-2", "width": 4, "layer_scale": 0.25}), init=init)
    scales = [module for module in network.modules() if isinstance(module, LayerScale)]
    assert len(scales) == 3 and all((scale.weight == 0.25).all() for scale in scales)


def test_kaiming_is_torchvisions() -> None:
    torch.manual_seed(0)
    ours, theirs = modernize.build("resnet50", init="kaiming"), torchvision.models.resnet50()
    for mine, other in zip(convolutions(ours), convolutions(theirs), strict=True):
        assert mine.weight.shape == other.weight.shape
        assert mine.weight.std().item() == pytest.approx(other.weight.std().item(), rel=0.08)
    for name in ("weight", "bias"):
        mine, other = getattr(ours.head.linear, name), getattr(theirs.fc, name)
        assert mine.abs().max().item() == pytest.approx(other.abs().max().item(), rel=0.02)
        assert mine.std().item() == pytest.approx(other.std().item(), rel=0.08)
    for norm in norms(ours):
        assert (norm.weight == 1).all() and not norm.bias.any()


def test_kaiming_zeroes_the_biases_of_convolutions() -> None:
    network = modernize.build(CONVNEXT.with_flags({"depths": "1-1", "width": 8}), init="kaiming")
    assert all(not conv.bias.any() for conv in convolutions(network) if conv.bias is not None)
    assert network.head.linear.bias.any()


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50", "pocket@depthwise"])
def test_lecun_normal_has_variance_one_over_fan_in_per_group_and_no_biases(name: str) -> None:
    torch.manual_seed(0)
    network = modernize.build(f"{name},width=32", num_classes=100, init="lecun_normal")
    for layer in weighted(network):
        wanted = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0] ** -0.5
        assert layer.weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(2 * layer.weight.numel()))
        assert layer.bias is None or not layer.bias.any()
    depthwise = [layer for layer in convolutions(network) if layer.groups > 1]
    assert all(layer.weight.std().item() == pytest.approx(1 / layer.kernel_size[0], rel=0.1) for layer in depthwise)
    assert bool(depthwise) == (name != "resnet50")


def test_initialising_follows_the_seed_and_draws_everything_anew() -> None:
    network = modernize.build("pocket")

    def drawn(scheme: str) -> list[Tensor]:
        torch.manual_seed(3)
        initialise(network, scheme)
        return [layer.weight.detach().clone() for layer in weighted(network)]

    kaiming, normal = drawn("kaiming"), drawn("trunc_normal")
    assert all(torch.equal(a, b) for a, b in zip(kaiming, drawn("kaiming"), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(kaiming, normal, strict=True))


@pytest.mark.parametrize("init", INITS)
def test_head_init_scale_scales_the_classifier_alone(init: str) -> None:
    def built(scale: float) -> dict[str, Tensor]:
        torch.manual_seed(0)
        return modernize.build("pocket", head_init_scale=scale, init=init).state_dict()

    whole, scaled = built(1.0), built(0.25)
    for name, weights in whole.items():
        factor = 0.25 if name in ("head.linear.weight", "head.linear.bias") else 1
        assert torch.equal(scaled[name], weights * factor), name


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(DesignError, match=r"^init='xavier': must be one of trunc_normal, kaiming, lecun_normal$"):
        modernize.build("pocket", init="xavier")


# LayerNorm over channels ---------------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """The names of the operations that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def channel_norm() -> LayerNorm2d:
    torch.manual_seed(0)
    norm = LayerNorm2d(5, eps=1e-6)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(5) + 0.5)
        norm.bias.copy_(torch.randn(5))
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("scale", [1.0, 1e-3])  # at 1e-3 the epsilon shows
def test_channel_norm_is_layer_norm_of_each_position(scale: float, layout: torch.memory_format) -> None:
    norm = channel_norm()
    x = (scale * torch.randn(2, 5, 3, 4)).contiguous(memory_format=layout)
    mean, variance = x.mean(dim=1, keepdim=True), x.var(dim=1, keepdim=True, correction=0)
    by_hand = (x - mean) / (variance + 1e-6).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), by_hand)
    by_torch = F.layer_norm(x.permute(0, 2, 3, 1), (5,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
    assert torch.equal(norm(x), by_torch)


def test_channel_norm_of_channels_last_is_channels_last_without_a_copy() -> None:
    norm, x = channel_norm(), torch.randn(2, 5, 3, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), Operations() as operations:
        y = norm(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert sorted(operations.names) == ["native_layer_norm", "permute", "permute"]
