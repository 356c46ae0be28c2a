"""Other people's networks as reference rows: any classification model of torchvision, as `torchvision:NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modernize.design import DesignError, nearest, printable

if TYPE_CHECKING:
    from torch import nn

    from modernize.cost import Cost

PREFIX = "torchvision:"


def is_reference(name: str) -> bool:
    """Whether a name is that of another project's network rather than a design's."""
    return name.startswith(PREFIX)


def check_reference(name: str) -> str:
    """The name as it is; raises DesignError where torchvision has no such classification model."""
    from torchvision import models

    known = models.list_models(module=models)
    if not is_reference(name):
        raise DesignError(f"{printable(name)!r}: write {PREFIX}NAME, such as {PREFIX}swin_t")
    model = name.removeprefix(PREFIX)
    if model not in known:
        raise DesignError(f"unknown torchvision model {printable(model)!r}: {nearest(model, known)}")
    return name


def build_reference(
    name: str, num_classes: int = 1000, in_channels: int = 3, drop_path_rate: float = 0.0, image_size: int = 224
) -> nn.Module:
    """torchvision's model of `torchvision:NAME`, initialised as torchvision does, from torch's global generator.

    One of one channel is shown images of three times that channel. Its stochastic depth, where it has any, grows
    linearly to `drop_path_rate` at the last block. Raises DesignError for a name, channels or a size it cannot have.
    """
    from torchvision import models
    from torchvision.ops import StochasticDepth

    if in_channels not in (1, 3):
        raise DesignError(f"{name}: torchvision's models take images of 1 or 3 channels, not {in_channels}")
    options: dict[str, Any] = {"num_classes": num_classes}
    model = check_reference(name).removeprefix(PREFIX)
    if model in ("googlenet", "inception_v3"):  # they have more than one classifier unless told not to
        options |= {"aux_logits": False, "init_weights": True}
    if model.startswith("vit_"):  # these two are made for images of one size
        options["image_size"] = image_size
    elif model == "maxvit_t":
        options["input_size"] = (image_size, image_size)
    try:
        network = models.get_model(model, weights=None, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _refused(name, image_size, error) from None
    if in_channels == 1:
        network.register_forward_pre_hook(_thrice)
    blocks = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for index, block in enumerate(blocks):
        block.p = drop_path_rate * index / max(len(blocks) - 1, 1)
    return network


def has_stochastic_depth(name: str) -> bool:
    """Whether a torchvision model leaves out blocks in training."""
    from torchvision.ops import StochasticDepth

    return any(isinstance(module, StochasticDepth) for module in _without_weights(name).modules())


def count_reference(name: str, image_size: int = 224, in_channels: int = 3, num_classes: int = 1000) -> Cost:
    """Parameters and multiply-adds for one image, attention's matrix products among them, by torch's own counter.

    Raises DesignError where images of that size do not go through.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from modernize.cost import Cost

    network = _without_weights(name, num_classes, in_channels, image_size=image_size).eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            network(torch.empty(1, in_channels, image_size, image_size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise _refused(name, image_size, error) from None
    return Cost(sum(weights.numel() for weights in network.parameters()), counter.get_total_flops() // 2)


def _without_weights(name: str, *arguments: Any, **options: Any) -> nn.Module:
    """The reference on the meta device, its weights never allocated.

    Only `torch.empty`, which makes weights, is sent there: RegNet computes its widths by tensors and reads them.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Weightless(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            placed = {**(named or {}), "device": "meta"} if function is torch.empty else named or {}
            return function(*given, **placed)

    with torch.random.fork_rng(devices=[]), Weightless():
        return build_reference(name, *arguments, **options).to("meta")


def _refused(name: str, image_size: int, error: Exception) -> DesignError:
    reason = " ".join(str(error).split())[:100]
    return DesignError(f"{name}: images of {image_size} pixels do not go through ({reason})")


def _thrice(_: nn.Module, inputs: tuple) -> tuple:
    return (inputs[0].expand(-1, 3, -1, -1),)
