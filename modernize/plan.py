"""Plans: a design compiled into an ordered tuple of layer descriptions per part of the network.

The module tree, the layer table, the diagrams and the closed-form cost all read this plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from modernize.arguments import Size, read_channels, read_classes, read_size
from modernize.design import Design, DesignError, read_object
from modernize.layers import (
    Activation,
    BlockPlan,
    Conv,
    CustomLayer,
    GlobalAveragePool,
    GlobalResponseNorm,
    Layer,
    Layers,
    LayerScale,
    Linear,
    MaxPool,
    Norm,
    Plan,
    StagePlan,
)
from modernize.plan_changes import added_flags, changed_by_plugins, unequal_sizes

EXPANSION = 4  # wide over narrow channels of a block, in both ResNet and ConvNeXt


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        params: Number of parameters.
        macs: Multiply-adds of convolutions and linear layers, for one image.
        activations: Elements of the outputs of convolutions and linear layers, for one image, as pycls, timm and fvcore
            count them (Radosavovic et al., 2020).
    """

    params: int
    macs: int
    activations: int

    @property
    def gflops(self) -> float:
        """MACs in billions, which the paper prints as GFLOPs."""
        return self.macs / 1e9


@dataclass(frozen=True)
class Step:
    """One layer of a plan at one image size.

    Attributes:
        path: Path of the layer's module in the network.
        layer: Description of the layer.
        in_size: Height and width of the input in pixels.
        out_size: Height and width of the output in pixels.
        params: Number of parameters.
        macs: Multiply-adds for one image.
        activations: Elements of the output if the layer is a convolution or linear layer, else 0. Those of a plugin's
            layer are those of all convolutions and linear layers in it.
    """

    path: str
    layer: Layer
    in_size: Size
    out_size: Size
    params: int
    macs: int
    activations: int


class LayerCost(NamedTuple):
    """Output size, parameters, MACs and activations of a layer for one input of a size."""

    out_size: Size
    params: int
    macs: int
    activations: int


def total_cost(steps: Sequence[Step]) -> Cost:
    """Sum the cost of all layers of a trace."""
    return Cost(
        sum(step.params for step in steps),
        sum(step.macs for step in steps),
        sum(step.activations for step in steps),
    )


def compile_plan(design: Design, in_channels: int = 3, num_classes: int = 1000) -> Plan:
    """Compile a design into a plan.

    Args:
        design: The design.
        in_channels: Channels of the images.
        num_classes: Number of classes; 0 leaves out the classifier.

    Returns:
        The layers of every part of the network, in order.

    Raises:
        DesignError: If an argument is invalid, or a plugin's flag makes a plan whose layers do not fit.
    """
    read_object("design", design, Design, "a Design, as modernize.design makes from a name")
    in_channels, num_classes = read_channels(in_channels), read_classes(num_classes)
    channels = design.width
    stages = []
    for index, depth in enumerate(design.depths):
        width = design.width * 2**index
        out = width if design.inverted_bottleneck else width * EXPANSION
        downsampling = _downsampling(design, channels, out) if index and design.separate_downsampling else ()
        channels = out if downsampling else channels
        stride = 2 if index and not downsampling else 1
        first = _block(design, channels, width, stride)
        stages.append(StagePlan(downsampling, (first, *[_block(design, out, width, 1)] * (depth - 1))))
        channels = out
    stem = _stem(design, in_channels)
    plan = Plan(design, in_channels, num_classes, stem, tuple(stages), _head(design, channels, num_classes))
    return changed_by_plugins(plan) if design.added else plan


def _stem(design: Design, in_channels: int) -> Layers:
    """Return the stem. ResNet's has a max-pool, which takes half of the stride, only if the stride is even."""
    stride, width = design.stem_stride, design.width
    if design.stem == "patchify":
        layers: Layers = (Conv("conv", in_channels, width, stride, stride, bias=True),)
    else:
        pooled = stride % 2 == 0
        conv_stride = stride // 2 if pooled else stride
        kernel = max(7, 2 * conv_stride - 1)  # at strides above 4 a 7×7 kernel would leave pixels unread
        layers = (
            Conv("conv", in_channels, width, kernel, conv_stride, kernel // 2),
            Norm("norm", design.norm, width),
            Activation("activation", design.activation),
            *((MaxPool("pool"),) if pooled else ()),
        )
    # The official isotropic networks (one stage) have a norm after the pooling, but none after the stem.
    if design.separate_downsampling and len(design.depths) > 1:
        layers += (Norm("final_norm" if design.stem == "resnet" else "norm", design.norm, width),)
    return layers


def _downsampling(design: Design, in_channels: int, out_channels: int) -> Layers:
    return (Norm("norm", design.norm, in_channels), Conv("conv", in_channels, out_channels, 2, 2, bias=True))


def _head(design: Design, channels: int, num_classes: int) -> Layers:
    norm: Layers = (Norm("norm", design.norm, channels),) if design.separate_downsampling else ()
    classifier: Layers = (Linear("linear", channels, num_classes),) if num_classes else ()
    return (GlobalAveragePool("pool"), *norm, *classifier)


def _block(design: Design, in_channels: int, width: int, stride: int) -> BlockPlan:
    wide = width * EXPANSION
    hidden, out = (wide, width) if design.inverted_bottleneck else (width, wide)
    convs = _convs(design, in_channels, hidden, out, stride)
    residual: Layers = ()
    for index, conv in enumerate(convs):
        if design.grn and conv is convs[-1]:
            residual += (GlobalResponseNorm("grn", conv.in_channels),)
        residual += (conv,)
        if not design.fewer_norms or conv.name == "spatial":
            residual += (Norm(f"{conv.name}_norm", design.norm, conv.out_channels),)
        if index == 1 or (index == 0 and not design.fewer_activations):
            residual += (Activation(f"{conv.name}_activation", design.activation),)
    if design.layer_scale is not None:
        residual += (LayerScale("layer_scale", out, design.layer_scale),)
    shortcut: Layers = ()
    if stride > 1 or in_channels != out:
        shortcut = (Conv("conv", in_channels, out, 1, stride), Norm("norm", design.norm, out))
    after: Layers = () if design.fewer_activations else (Activation("activation", design.activation),)
    return BlockPlan(residual, shortcut, after)


def _convs(design: Design, in_channels: int, hidden: int, out: int, stride: int) -> tuple[Conv, Conv, Conv]:
    """Return the block's three convolutions in order."""
    bias, kernel = design.norm == "ln", design.kernel_size
    channels = in_channels if design.depthwise_first else hidden
    groups = channels if design.depthwise else 1
    spatial = Conv("spatial", channels, channels, kernel, stride, kernel // 2, groups, bias)
    first = Conv("pointwise1", in_channels, hidden, bias=bias)
    last = Conv("pointwise2", hidden, out, bias=bias)
    return (spatial, first, last) if design.depthwise_first else (first, spatial, last)


def trace(plan: Plan, image_size: int | tuple[int, int]) -> list[Step]:
    """List every layer of a plan with its sizes and cost.

    Args:
        plan: The plan.
        image_size: Resolution in pixels, or (height, width).

    Returns:
        One step per layer, in order of execution.

    Raises:
        DesignError: If the images are too small for the strides, or an argument is invalid.
    """
    read_object("plan", plan, Plan, "a Plan, as compile_plan makes")
    images = read_size(image_size)
    if min(images) < 1:
        raise _too_small(plan, images)
    steps: list[Step] = []

    def run(path: str, layers: Layers, size: Size) -> Size:
        for layer in layers:
            out_size, *cost = layer_cost(layer, size)
            if min(out_size) < 1:
                raise _too_small(plan, images)
            steps.append(Step(f"{path}.{layer.name}", layer, size, out_size, *cost))
            size = out_size
        return size

    size = run("stem", plan.stem, images)
    for s, stage in enumerate(plan.stages):
        size = run(f"stages.{s}.downsampling", stage.downsampling, size)
        for b, block in enumerate(stage.blocks):
            path = f"stages.{s}.blocks.{b}"
            beside = run(f"{path}.shortcut", block.shortcut, size)
            size = run(f"{path}.residual", block.residual, size)
            if size != beside:
                raise unequal_sizes(plan, path, size, beside)
            size = run(f"{path}.after", block.after, size)
    run("head", plan.head, size)
    return steps


def layer_cost(layer: Layer, size: Size) -> LayerCost:
    """Return what a layer costs for an input of a size; the numbers of a plugin's layer are checked.

    Raises:
        DesignError: If a plugin's layer fails, or its numbers are not those of its module.
    """
    if isinstance(layer, CustomLayer):
        from modernize.custom_layers import checked_cost  # late: it needs torch

        return LayerCost(*checked_cost(layer, size))
    return LayerCost(layer.out_size(size), layer.params, layer.macs(size), layer.activations(size))


def smallest_image(plan: Plan) -> int:
    """Return the lowest resolution, in pixels, that the strides of the plan's built-in layers allow."""
    least = 2 ** (len(plan.stages) - 1) if plan.design.separate_downsampling else 1
    if plan.design.stem == "patchify":
        return plan.design.stem_stride * least
    # ResNet's stem is padded: n output positions need (n - 1) · stride + 1 pixels.
    return plan.design.stem_stride * (least - 1) + 1


def _too_small(plan: Plan, images: Size) -> DesignError:
    """Return the error for images that are too small for the strides."""
    if plan.design.added:
        return DesignError(f"image_size={images} is too small for the strides of the design, with {added_flags(plan)}")
    least = smallest_image(plan)
    valid = Size(max(images.height, least), max(images.width, least))
    return DesignError(
        f"image_size={images} is too small for stem_stride={plan.design.stem_stride} and "
        f"{len(plan.stages)} stages; nearest valid value: {valid}"
    )
