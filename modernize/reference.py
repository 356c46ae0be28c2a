"""Reference models, which have no design flags: networks of torchvision, of timm, or of a function in a user's file.

Their names are `torchvision:NAME`, `timm:NAME` and `FILE.py:FUNCTION(setting=value)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from modernize.arguments import MOST_CLASSES, Size, read_channels, read_integer, read_rate, read_size
from modernize.design import DesignError, printable, read_object
from modernize.fresh_thread import in_fresh_thread
from modernize.names import nearest
from modernize.own_network import (
    build_own,
    check_logits,
    check_new,
    check_own,
    has_own_stochastic_depth,
    run_own,
    shown_own,
    takes_image_size,
)
from modernize.plan import Cost
from modernize.timm_network import PREFIX as TIMM
from modernize.timm_network import build_timm, check_timm, has_timm_stochastic_depth, is_timm, takes_img_size
from modernize.user_code import is_call
from modernize.zero_init import zero_reference

if TYPE_CHECKING:
    import torch
    from torch import nn

PREFIX = "torchvision:"


def is_reference(name: str) -> bool:
    """Return whether a name is a reference model's rather than a design's."""
    return name.startswith((PREFIX, TIMM)) or is_call(name)


def check_reference(name: str) -> str:
    """Return the name, that of a user's file as an absolute path; raises DesignError if there is no such network."""
    read_object("name", name, str, f"a model's name, such as {PREFIX}swin_t")
    if is_call(name):
        return check_own(name)
    if name.startswith(TIMM):
        return check_timm(name)
    from torchvision import models

    known = models.list_models(module=models)
    if not is_reference(name):
        raise DesignError(
            f"{printable(name)!r}: write {PREFIX}NAME, such as {PREFIX}swin_t, or {TIMM}NAME, or FILE.py:FUNCTION"
        )
    model = name.removeprefix(PREFIX)
    if model not in known:
        raise DesignError(f"unknown torchvision model {printable(model)!r}: {nearest(model, known)}")
    return name


def reference_named(model: str) -> str | None:
    """Return the reference model of a name without its package; None if neither torchvision nor timm has it."""
    from torchvision import models

    if model in models.list_models(module=models):
        return f"{PREFIX}{model}"
    return f"{TIMM}{model}" if is_timm(model) else None


def origin(name: str) -> str:
    """Name who a reference model is of: `torchvision`, `timm`, or the user's file."""
    return shown_own(name).partition(":")[0] if is_call(name) else name.partition(":")[0]


def shown_reference(name: str) -> str:
    """Return a reference model's name without the folder of a user's file."""
    return shown_own(name) if is_call(name) else name


def build_reference(
    name: str,
    num_classes: int = 1000,
    in_channels: int = 3,
    drop_path_rate: float = 0.0,
    image_size: int | tuple[int, int] = 224,
    head_init_scale: float = 1.0,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Build a reference model with its own initialization (global torch RNG).

    With one input channel, torchvision's models repeat the channel three times. Stochastic depth rates of
    torchvision's models, if they have any, rise linearly to `drop_path_rate` at the last block; timm's models and
    users' functions, if they take a rate, decide themselves. `head_init_scale` is a factor on the classifier's initial
    weights and bias; `zero_init_residual` starts residual branches at zero. Raises DesignError for an invalid name,
    channels or image size, and for a network whose residual branches are not known.
    """
    import torch

    classes, channels = read_integer("num_classes", num_classes, most=MOST_CLASSES), read_channels(in_channels)
    images, rate = read_size(image_size), read_rate("drop_path_rate", drop_path_rate)
    build = build_own if is_call(name) else build_timm if name.startswith(TIMM) else _build_torchvisions
    network = build(name, classes, channels, rate, images)
    if head_init_scale != 1.0:
        scaled = classifier_keys(name, network, channels, images)
        if not scaled:
            raise DesignError(f"{shown_reference(name)}: head_init_scale: no weights depend on the number of classes")
        with torch.no_grad():
            for key, weights in network.named_parameters():
                if key in scaled:
                    weights.mul_(head_init_scale)
    if zero_init_residual:
        zero_reference(shown_reference(name), network)
    return network


def _build_torchvisions(
    name: str, num_classes: int, in_channels: int, drop_path_rate: float, images: Size
) -> nn.Module:
    """Build torchvision's model; raises DesignError."""
    from torchvision import models
    from torchvision.ops import StochasticDepth

    if in_channels not in (1, 3):
        raise DesignError(f"{name}: torchvision's models take images of 1 or 3 channels, not {in_channels}")
    options: dict[str, Any] = {"num_classes": num_classes}
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
        block.p = drop_path_rate * index / max(len(blocks) - 1, 1)
    return network


def takes_one_size(name: str) -> bool:
    """Return whether a reference model takes only images of the size that it is built for, such as ViT and MaxViT."""
    if is_call(name):
        return takes_image_size(name)
    if name.startswith(TIMM):
        return _timm_takes_one_size(name)
    return name.removeprefix(PREFIX).startswith(("vit_", "maxvit_"))


@functools.cache
def _timm_takes_one_size(name: str) -> bool:
    with _weightless():
        return takes_img_size(name)


def classifier(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the path and the module of a torchvision model's classifier: its last linear or convolutional layer."""
    from torch.nn import Conv2d, Linear

    *_, last = (named for named in network.named_modules() if isinstance(named[1], (Conv2d, Linear)))
    return last


def classifier_keys(
    name: str, network: nn.Module, in_channels: int, image_size: int | tuple[int, int]
) -> frozenset[str]:
    """Return the names of the tensors of a reference model's classifier.

    In torchvision's models it is the last linear or convolutional layer. Elsewhere it is every tensor whose shape
    depends on the number of classes.
    """
    if name.startswith(PREFIX):
        last, _ = classifier(network)
        return frozenset(key for key in network.state_dict() if key.startswith(f"{last}."))
    few, more = (
        without_weights(name, classes, in_channels, image_size=image_size).state_dict() for classes in (101, 103)
    )
    return frozenset(key for key in few if key not in more or few[key].shape != more[key].shape)


def has_stochastic_depth(name: str) -> bool:
    """Return whether a reference model has stochastic depth."""
    return has_own_stochastic_depth(name) if is_call(name) else _has_stochastic_depth(name)


@functools.cache
def _has_stochastic_depth(name: str) -> bool:
    from torchvision.ops import StochasticDepth

    if name.startswith(TIMM):
        return has_timm_stochastic_depth(without_weights(name, drop_path_rate=0.1))
    return any(isinstance(module, StochasticDepth) for module in without_weights(name).modules())


def count_reference(
    name: str, image_size: int | tuple[int, int] = 224, in_channels: int = 3, num_classes: int = 1000
) -> Cost:
    """Count parameters, MACs and activations with torch's own counter, which includes attention.

    Images are `image_size` pixels high and wide, or (height, width). Raises DesignError if the model refuses them.
    """
    return in_fresh_thread(_count, name, read_size(image_size), in_channels, num_classes)


def _count(name: str, images: Size, in_channels: int, num_classes: int) -> Cost:
    """Count a reference model for images of a size."""
    import torch

    if min(images) < 1:
        raise DesignError(f"image_size={images}: must be at least 1")
    if is_call(name):
        return _count_own(name, images, in_channels, num_classes)
    network = without_weights(name, num_classes, in_channels, image_size=images).eval()
    try:
        counts = _counts(network, torch.empty(1, in_channels, *images, device="meta"))
    except Exception as error:  # torchvision's and timm's networks raise many types
        raise _refused(name, images, error) from None
    return Cost(sum(weights.numel() for weights in network.parameters()), *counts)


def _count_own(name: str, images: Size, in_channels: int, num_classes: int) -> Cost:
    """Count a user's network, and check what it computes; on the CPU if it needs the values of its weights."""
    import torch

    def counted(device: str) -> Cost:
        with _weightless() if device == "meta" else nullcontext():
            network, other = (build_own(name, num_classes, in_channels, 0.0, images) for _ in range(2))
        check_new(name, network, other)
        network.to(device)
        check_logits(name, network, torch.zeros(2, in_channels, *images, device=device), num_classes)
        counts = _counts(lambda one: run_own(name, network, one), torch.zeros(1, in_channels, *images, device=device))
        return Cost(sum(weights.numel() for weights in network.parameters()), *counts)

    with torch.random.fork_rng(devices=[]):
        try:
            return counted("meta")
        except DesignError:
            return counted("cpu")


def _counts(network: Callable[[torch.Tensor], Any], image: torch.Tensor) -> tuple[int, int]:
    """Count MACs and activations of a call of the network with torch's own counter.

    Attention has the activations of its two matrix products, as in timm's published counts.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    def elements(*_: Any, out_shape: torch.Size, **__: Any) -> int:
        return math.prod(out_shape)

    def of_attention(query: torch.Size, key: torch.Size, *_: Any, out_shape: tuple[torch.Size, ...], **__: Any) -> int:
        return math.prod(query[:-1]) * key[-2] + math.prod(out_shape[0])

    macs = FlopCounterMode(display=False)
    outputs = {one: of_attention if "attention" in str(one) else elements for one in flop_registry}
    activations = FlopCounterMode(display=False, custom_mapping=outputs)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation, which the counter does not know
    try:
        with macs, activations, torch.no_grad():
            network(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return macs.get_total_flops() // 2, activations.get_total_flops()


def without_weights(name: str, *arguments: Any, **options: Any) -> nn.Module:
    """Build a reference model on the meta device, in general without allocating its weights."""
    import torch

    with torch.random.fork_rng(devices=[]):
        try:
            with _weightless():
                network = build_reference(name, *arguments, **options)
        except DesignError:  # a user's function may need the values of its weights
            if not is_call(name):
                raise
            network = build_reference(name, *arguments, **options)
        return network.to("meta")


def _weightless() -> AbstractContextManager[Any]:
    """Return a mode that makes weights on the meta device.

    Only `torch.empty`, which makes weights, is redirected: RegNet computes its widths with tensors and reads them.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Weightless(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            placed = {**(kwargs or {}), "device": "meta"} if function is torch.empty else kwargs or {}
            return function(*args, **placed)

    return Weightless()


def _refused(name: str, images: Size, error: Exception) -> DesignError:
    """Return the one-line error for a model that refused images of that size."""
    reason = " ".join(str(error).split())[:100]
    return DesignError(f"{name}: does not take images of {images} px ({reason})")


def _repeat_channel(_: nn.Module, inputs: tuple) -> tuple:
    """Repeat the channel of a batch (N, 1, H, W) three times."""
    return (inputs[0].expand(-1, 3, -1, -1),)
