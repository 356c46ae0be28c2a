"""A design: the flags that say how a network differs from ResNet and nears ConvNeXt."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# More is a slip of the keyboard, and sizes that no integer of torch's holds.
LARGEST = 100_000
LARGEST_KERNEL = 999
LARGEST_DEPTH = 1000
MOST_STAGES = 16


class DesignError(ValueError):
    """A design that cannot be: one line naming the flag and the nearest value that works."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` where one of the known names is close, else the names themselves."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"


@dataclass(frozen=True)
class Design:
    """One network design; the defaults are ResNet-50. Raises DesignError on a value that cannot be built."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem: str = "resnet"
    stem_stride: int = 4
    depthwise: bool = False
    inverted_bottleneck: bool = False
    depthwise_first: bool = False
    kernel_size: int = 3
    activation: str = "relu"
    fewer_activations: bool = False
    norm: str = "bn"
    fewer_norms: bool = False
    separate_downsampling: bool = False
    layer_scale: float | None = None
    grn: bool = False

    def __post_init__(self) -> None:
        for flag in FLAGS:
            object.__setattr__(self, flag.name, flag.read(getattr(self, flag.name)))
        doubled = 2 ** (len(self.depths) - 1)
        if self.width * doubled > LARGEST:
            raise DesignError(
                f"width={self.width}: its {len(self.depths)} stages would end at more than {LARGEST} channels; "
                f"the nearest value that works is {LARGEST // doubled}"
            )

    def with_flags(self, flags: Mapping[str, Any]) -> Design:
        """This design with some flags set, each by its value or by the text a user types for it."""
        for name in flags:
            if name not in BY_NAME:
                raise DesignError(f"unknown flag {name!r}: {nearest(str(name), BY_NAME)}")
        return dataclasses.replace(self, **flags)

    def flags(self) -> dict[str, Any]:
        """Every flag and its value as plain YAML would hold it: depths as `3-4-6-3`, no layer scale as `off`."""
        return {flag.name: plain(getattr(self, flag.name)) for flag in FLAGS}

    def differences(self, base: Design) -> dict[str, Any]:
        """The flags, as plain values, in which this design differs from `base`."""
        before = base.flags()
        return {name: value for name, value in self.flags().items() if value != before[name]}


def read_settings(settings: Iterable[str], name: str) -> dict[str, str]:
    """Flags and their texts from the `flag=value` parts of a name; raises DesignError."""
    found: dict[str, str] = {}
    for setting in settings:
        flag, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise DesignError(f"{setting!r} in {name!r}: write flag=value, such as kernel_size=7")
        if flag in found:
            raise DesignError(f"{flag} is in {name!r} twice; once is enough")
        found[flag] = value
    return found


@dataclass(frozen=True)
class Flag:
    """A flag of the design: its name, what it takes, what it means and how a value of it is read."""

    name: str
    accepts: str
    meaning: str
    parse: Callable[[Any], Any]

    def read(self, value: Any) -> Any:
        """The value of the flag that `value`, typed or from YAML, stands for."""
        try:
            return self.parse(value)
        except ValueError as error:
            raise DesignError(f"{self.name}={printable(plain(value))}: {error}") from None


def plain(value: Any) -> Any:
    """A flag's value as YAML holds it and as a user types it."""
    if value is None:
        return "off"
    return "-".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def printable(value: Any) -> str:
    """A value on one line, whatever a user or a file put into it."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def text(value: Any) -> str:
    """A flag's value as a user types it: `3-3-9-3`, `on`, `off`, `1e-06`."""
    return ("on" if value else "off") if isinstance(value, bool) else str(plain(value))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _positive(value: Any) -> int:
    number = _whole(value)
    if not 1 <= number <= LARGEST:
        raise ValueError(f"must be from 1 to {LARGEST}; the nearest value that works is {min(max(number, 1), LARGEST)}")
    return number


def _odd(value: Any) -> int:
    number = _whole(value)
    if not 1 <= number <= LARGEST_KERNEL:
        nearest_odd = 1 if number < 1 else LARGEST_KERNEL
        raise ValueError(f"must be odd, from 1 to {LARGEST_KERNEL}; the nearest value that works is {nearest_odd}")
    if number % 2 == 0:
        raise ValueError(f"must be odd; the nearest values that work are {number - 1} and {number + 1}")
    return number


def _depths(value: Any) -> tuple[int, ...]:
    parts = value.split("-") if isinstance(value, str) else [value] if isinstance(value, int) else value
    form = "must be the blocks of each stage, such as 3-3-9-3"
    if isinstance(value, bool) or not isinstance(parts, (list, tuple)) or not parts:
        raise ValueError(form)
    try:
        depths = tuple(_whole(part) for part in parts)
    except ValueError:
        raise ValueError(form) from None
    if min(depths) < 1 or max(depths) > LARGEST_DEPTH or len(depths) > MOST_STAGES:
        works = plain(tuple(min(max(depth, 1), LARGEST_DEPTH) for depth in depths[:MOST_STAGES]))
        limits = f"every stage needs 1 block or more, {LARGEST_DEPTH} and {MOST_STAGES} stages at most"
        raise ValueError(f"{limits}; the nearest value that works is {works}")
    return depths


def _switch(value: Any) -> bool:
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("must be on or off")
    return words[str(value).lower()]


def _one_of(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return parse


def _scale(value: Any) -> float | None:
    if value is None or value is False or value == "off":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not 1e-30 <= number <= 1e3:
        raise ValueError("must be off or a number from 1e-30 to 1000, such as 1e-6")
    return number


FLAGS = (
    Flag("depths", "3-4-6-3, …", "blocks in each stage; one stage is an isotropic network", _depths),
    Flag("width", "1, 2, …", "channels of the first stage's blocks; each later stage doubles it", _positive),
    Flag(
        "stem",
        "resnet, patchify",
        "7×7 convolution, norm, activation and 3×3 max-pool; or one non-overlapping convolution",
        _one_of("resnet", "patchify"),
    ),
    Flag(
        "stem_stride",
        "1, 2, …",
        "total stride of the stem: 4 for 224 px, 2 or 1 for small images, 16 for isotropic networks",
        _positive,
    ),
    Flag("depthwise", "on, off", "the spatial convolution has one group a channel", _switch),
    Flag("inverted_bottleneck", "on, off", "the block goes narrow–wide–narrow (×4), not wide–narrow–wide", _switch),
    Flag("depthwise_first", "on, off", "the spatial convolution comes before both 1×1 convolutions", _switch),
    Flag("kernel_size", "1, 3, 5, 7, …", "of the spatial convolution", _odd),
    Flag("activation", "relu, gelu", "the non-linearity", _one_of("relu", "gelu")),
    Flag(
        "fewer_activations",
        "on, off",
        "one activation a block, before the last 1×1 convolution; none after the sum",
        _switch,
    ),
    Flag("norm", "bn, ln", "BatchNorm, or LayerNorm over channels (eps 1e-6)", _one_of("bn", "ln")),
    Flag("fewer_norms", "on, off", "one norm a block, after the spatial convolution", _switch),
    Flag(
        "separate_downsampling",
        "on, off",
        "a norm and a 2×2 stride-2 convolution between stages; a norm after the stem and after the pooling",
        _switch,
    ),
    Flag("layer_scale", "off, 1e-6, …", "a learned factor a channel at the end of the residual branch", _scale),
    Flag("grn", "on, off", "global response normalisation before the last 1×1 convolution (ConvNeXt V2)", _switch),
)
BY_NAME = {flag.name: flag for flag in FLAGS}
