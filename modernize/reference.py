"""Reference models: any classification model of torchvision, as `torchvision:NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modernize.arguments import MOST_CLASSES, Size, read_channels, read_integer, read_rate, read_size
from modernize.design import DesignError, nearest, printable, read_object
from modernize.fresh_thread import in_fresh_thread
from modernize.plan import Cost

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
    read_object("name", name, str, f"a model's name, such as {PREFIX}swin_t")
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
    image_size: int | tuple[int, int] = 224,
    head_init_scale: float = 1.0,
) -> nn.Module:
    """Build torchvision's model `torchvision:NAME` with torchvision's initialization (global torch RNG).

    With one input channel, the channel is repeated three times. Stochastic depth rates, if the model has any, rise
    linearly to `drop_path_rate` at the last block. `head_init_scale` is a factor on the classifier's initial weights
    and bias. Raises DesignError for an invalid name, channels or image size.
    """
    from torchvision import models
    from torchvision.ops import StochasticDepth

    if read_channels(in_channels) not in (1, 3):
        raise DesignError(f"{name}: torchvision's models take images of 1 or 3 channels, not {in_channels}")
    options: dict[str, Any] = {"num_classes": read_integer("num_classes", num_classes, most=MOST_CLASSES)}
    images, last_rate = read_size(image_size), read_rate("drop_path_rate", drop_path_rate)
    model = check_reference(name).removeprefix(PREFIX)
    if model in ("googlenet", "inception_v3"):  # by default they have more than one classifier
        options |= {"aux_logits": False, "init_weights": True}
    if model.startswith("vit_"):  # ViT and MaxViT take images of one size
        if images.height != images.width:
            raise DesignError(f"{name}: takes square images only, not {images}")
        options["image_size"] = images.height
    elif model == "maxvit_t":
        options["input_size"] = tuple(images)
    try:
        network = models.get_model(model, weights=None, **options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _refused(name, images, error) from None
    if in_channels == 1:
        network.register_forward_pre_hook(_repeat_channel)
    blocks = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for index, block in enumerate(blocks):
        block.p = last_rate * index / max(len(blocks) - 1, 1)
    if head_init_scale != 1.0:
        for weights in classifier(network)[1].parameters():
            weights.detach().mul_(head_init_scale)
    return network


def takes_one_size(name: str) -> bool:
    """Return whether a reference model takes only images of the size that it is built for: ViT and MaxViT."""
    return name.removeprefix(PREFIX).startswith(("vit_", "maxvit_"))


def classifier(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the path and the module of a reference model's classifier: its last linear or convolutional layer."""
    from torch.nn import Conv2d, Linear

    *_, last = (named for named in network.named_modules() if isinstance(named[1], (Conv2d, Linear)))
    return last


def has_stochastic_depth(name: str) -> bool:
    """Return whether a reference model has stochastic depth."""
    from torchvision.ops import StochasticDepth

    return any(isinstance(module, StochasticDepth) for module in without_weights(name).modules())


def count_reference(
    name: str, image_size: int | tuple[int, int] = 224, in_channels: int = 3, num_classes: int = 1000
) -> Cost:
    """Count parameters and MACs with torch's own counter, which includes attention.

    Images are `image_size` pixels high and wide, or (height, width). Raises DesignError if the model refuses them.
    """
    return in_fresh_thread(_count, name, read_size(image_size), in_channels, num_classes)


def _count(name: str, images: Size, in_channels: int, num_classes: int) -> Cost:
    """Count a reference model for images of a size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    if min(images) < 1:
        raise DesignError(f"image_size={images}: must be at least 1")
    network = without_weights(name, num_classes, in_channels, image_size=images).eval()
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            network(torch.empty(1, in_channels, *images, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise _refused(name, images, error) from None
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


def _refused(name: str, images: Size, error: Exception) -> DesignError:
    """Return the one-line error for a model that refused images of that size."""
    reason = " ".join(str(error).split())[:100]
    return DesignError(f"{name}: does not take images of {images} px ({reason})")


def _repeat_channel(_: nn.Module, inputs: tuple) -> tuple:
    """Repeat the channel of a batch (N, 1, H, W) three times."""
    return (inputs[0].expand(-1, 3, -1, -1),)
