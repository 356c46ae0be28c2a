"""Reference models: any classification model of torchvision, as `torchvision:NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modernize.design import DesignError, nearest, printable
from modernize.plan import Cost, check_size

if TYPE_CHECKING:
    from torch import nn

PREFIX = "torchvision:"


def is_reference(name: str) -> bool:
    """Return whether a name is a reference model's rather than a design's."""
    return name.startswith(PREFIX)


def check_reference(name: str) -> str:
    """Return the name unchanged; raises DesignError if torchvision has no such classification model."""
    from torchvision import models

    known = models.list_models(module=models)
    if not is_reference(name):
        raise DesignError(f"{printable(name)!r}: write {PREFIX}NAME, such as {PREFIX}swin_t")
    model = name.removeprefix(PREFIX)
    if model not in known:
        raise DesignError(f"unknown torchvision model {printable(model)!r}: {nearest(model, known)}")
    return name


def build_reference(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    drop_path_rate: float = 0.0,
    image_size: int = 224,
    head_init_scale: float = 1.0,
) -> nn.Module:
    """Build torchvision's model `torchvision:NAME` with torchvision's initialization (global torch RNG).

    With one input channel, the channel is repeated three times. Stochastic depth rates, if the model has any, rise
    linearly to `drop_path_rate` at the last block. `head_init_scale` is a factor on the classifier's initial weights
    and bias. Raises DesignError for an invalid name, channels or image size.
    """
    from torchvision import models
    from torchvision.ops import StochasticDepth

    if in_channels not in (1, 3):
        raise DesignError(f"{name}: torchvision's models take images of 1 or 3 channels, not {printable(in_channels)}")
    options: dict[str, Any] = {"num_classes": num_classes}
    model = check_reference(name).removeprefix(PREFIX)
    if model in ("googlenet", "inception_v3"):  # by default they have more than one classifier
        options |= {"aux_logits": False, "init_weights": True}
    if model.startswith("vit_"):  # ViT and MaxViT take images of one size
        options["image_size"] = image_size
    elif model == "maxvit_t":
        options["input_size"] = (image_size, image_size)
    try:
        network = models.get_model(model, weights=None, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _refused(name, image_size, error) from None
    if in_channels == 1:
        network.register_forward_pre_hook(_repeat_channel)
    blocks = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for index, block in enumerate(blocks):
        block.p = drop_path_rate * index / max(len(blocks) - 1, 1)
    if head_init_scale != 1.0:
        for weights in classifier(network)[1].parameters():
            weights.detach().mul_(head_init_scale)
    return network


def classifier(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the path and the module of a reference model's classifier: its last linear or convolutional layer."""
    from torch.nn import Conv2d, Linear

    *_, last = (named for named in network.named_modules() if isinstance(named[1], (Conv2d, Linear)))
    return last


def has_stochastic_depth(name: str) -> bool:
    """Return whether a reference model has stochastic depth."""
    from torchvision.ops import StochasticDepth

    return any(isinstance(module, StochasticDepth) for module in without_weights(name).modules())


def count_reference(name: str, image_size: int = 224, in_channels: int = 3, num_classes: int = 1000) -> Cost:
    """Count parameters and MACs with torch's own counter, which includes attention.

    Raises DesignError if the model does not take images of that size.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    for argument, value in {"image_size": image_size, "num_classes": num_classes}.items():
        check_size(argument, value)
    network = without_weights(name, num_classes, in_channels, image_size=image_size).eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            network(torch.empty(1, in_channels, image_size, image_size, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise _refused(name, image_size, error) from None
    return Cost(sum(weights.numel() for weights in network.parameters()), counter.get_total_flops() // 2)


def without_weights(name: str, *arguments: Any, **options: Any) -> nn.Module:
    """Build a reference model on the meta device, without allocating its weights.

    Only `torch.empty`, which makes weights, is redirected: RegNet computes its widths with tensors and reads them.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Weightless(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            placed = {**(kwargs or {}), "device": "meta"} if function is torch.empty else kwargs or {}
            return function(*args, **placed)

    with torch.random.fork_rng(devices=[]), Weightless():
        return build_reference(name, *arguments, **options).to("meta")


def _refused(name: str, image_size: int, error: Exception) -> DesignError:
    """Return the one-line error for a model that refused images of that size."""
    reason = " ".join(str(error).split())[:100]
    return DesignError(f"{name}: does not take images of {image_size} px ({reason})")


def _repeat_channel(_: nn.Module, inputs: tuple) -> tuple:
    """Repeat the channel of a batch (N, 1, H, W) three times."""
    return (inputs[0].expand(-1, 3, -1, -1),)
