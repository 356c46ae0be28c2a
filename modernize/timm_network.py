"""Networks of timm, as `timm:NAME`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modernize.arguments import Size
from modernize.design import DesignError, printable
from modernize.names import nearest

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"


def check_timm(name: str) -> str:
    """Return the name unchanged; raises DesignError if timm is not installed or has no such network."""
    timm, model = _timm(name), name.removeprefix(PREFIX)
    known = timm.list_models()
    if model not in known:
        base, _, tag = model.partition(".")
        if base in known:
            raise DesignError(
                f"{printable(name)!r}: {printable(tag)!r} names weights, which are not loaded; write {PREFIX}{base}"
            )
        close = nearest(model, known)
        hint = close if close.startswith("did") else f"timm.list_models() lists the {len(known)} names"
        raise DesignError(f"unknown timm model {printable(model)!r}: {hint}")
    return name


def is_timm(model: str) -> bool:
    """Whether timm is installed and has a network of this name."""
    from importlib.util import find_spec

    if find_spec("timm") is None:
        return False
    import timm

    return timm.is_model(model)


def build_timm(name: str, num_classes: int, in_channels: int, drop_path_rate: float, images: Size) -> nn.Module:
    """Build a network with timm's initialization (global torch RNG); raises DesignError if timm refuses.

    The resolution is passed to networks that depend on it, and the stochastic depth rate to those that have one.
    """
    import torch

    timm, model = _timm(name), check_timm(name).removeprefix(PREFIX)
    random = torch.get_rng_state()
    options: dict[str, Any] = {"img_size": tuple(images)}
    options |= {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    while True:
        try:
            return timm.create_model(model, num_classes=num_classes, in_chans=in_channels, **options)
        except TypeError as error:
            refused = [option for option in options if f"'{option}'" in str(error)]
            if not refused:
                raise _refused(name, images, error) from error
            del options[refused[0]]
            torch.set_rng_state(random)
        except Exception as error:  # timm's networks raise many types
            raise _refused(name, images, error) from error


def has_timm_stochastic_depth(network: nn.Module) -> bool:
    """Whether a network, built with a rate above 0, has stochastic depth."""
    from timm.layers import DropPath

    return any(isinstance(module, DropPath) and module.drop_prob for module in network.modules())


def takes_img_size(name: str) -> bool:
    """Whether timm builds a network for one resolution, as it does transformers."""
    import torch

    model = check_timm(name).removeprefix(PREFIX)
    try:
        with torch.random.fork_rng(devices=[]):
            _timm(name).create_model(model, img_size=224)
    except TypeError as error:
        return "'img_size'" not in str(error)
    except Exception:  # it takes the option, but not this size
        return True
    return True


def _refused(name: str, images: Size, error: Exception) -> DesignError:
    reason = " ".join(str(error).split())[:100] or type(error).__name__
    return DesignError(f"{name}: does not take images of {images} px ({reason})")


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError:
        raise DesignError(
            f"{printable(name)}: timm is not installed; run pip install 'modernize-convnets[timm]'"
        ) from None
    return timm
