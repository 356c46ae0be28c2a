"""What a layer's box shows: its shape, its text and its width in channels."""

from __future__ import annotations

from modernize.layers import Activation, Conv, CustomLayer, GlobalAveragePool, Layer, LayerScale, Linear, MaxPool, Norm


def kind(layer: Layer) -> str:
    """Return the CSS class and shape of a layer's box; `norm` covers all norms."""
    if isinstance(layer, Conv):
        if layer.groups > 1:
            return "depthwise"
        return "spatial" if layer.kernel_size > 1 or layer.name == "spatial" else "pointwise"
    if isinstance(layer, (MaxPool, GlobalAveragePool)):
        return "pool"
    if isinstance(layer, LayerScale):
        return "scale"
    if isinstance(layer, Activation):
        return "activation"
    if isinstance(layer, CustomLayer):
        return "custom"
    return "linear" if isinstance(layer, Linear) else "norm"


def labels(layer: Layer) -> tuple[str, ...]:
    """Return the text of a layer's box: one line, or two for layers with input and output channels."""
    if isinstance(layer, Conv):
        size = f"{layer.kernel_size}×{layer.kernel_size}"
        across = _across(layer.in_channels, layer.out_channels)
        stride = f", stride {layer.stride}" if layer.stride > 1 else ""
        return (f"{size} depthwise" if layer.groups > 1 else f"{size} conv", across + stride)
    if isinstance(layer, Linear):
        return ("linear", _across(layer.in_features, layer.out_features))
    if isinstance(layer, Norm):
        return (f"{str(layer).partition(' ')[0]}, {layer.channels}",)
    if isinstance(layer, MaxPool):
        return ("3×3 max-pool", f"stride {layer.stride}")
    return ("average pool",) if isinstance(layer, GlobalAveragePool) else (str(layer),)


def _across(before: int, after: int) -> str:
    return str(after) if before == after else f"{before}→{after}"
