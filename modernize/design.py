"""Designs: the flags that turn a ResNet into a ConvNeXt, how each is read, and how a design is named."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, NamedTuple

from modernize.names import unknown_flag
from modernize.numbers import parse_number

# Larger values are typing errors, and would overflow torch's integers.
LARGEST = 100_000
LARGEST_KERNEL = 999
LARGEST_DEPTH = 1000
SMALLEST_SCALE, LARGEST_SCALE = 1e-30, 1000.0
MOST_STAGES = 16
RECIPE = "recipe."  # begins the name of a recipe's setting where design flags stand too: recipe.mixup


class DesignError(ValueError):
    """An invalid design, in one line: the flag, what is wrong with its value, and the nearest valid value."""


def read_object(name: str, value: Any, kind: type, wanted: str) -> Any:
    """Return an argument of a type; raises DesignError, which says with `wanted` what the argument must be."""
    if not isinstance(value, kind):
        raise DesignError(f"{name}: must be {wanted}, not {type(value).__name__}")
    return value


def plain(value: Any) -> Any:
    """Return a flag's value as YAML stores it: depths as `3-4-6-3`, None as `off`."""
    if value is None:
        return "off"
    return "-".join(map(str, value)) if isinstance(value, (tuple, list)) else value


def printable(value: Any) -> str:
    """Return a value as one line of text, with control characters escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(value))


def shortened(line: str, most: int = 60) -> str:
    """Return a line, cut to a number of characters."""
    return line if len(line) <= most else f"{line[: most - 1]}…"


def text(value: Any) -> str:
    """Return a flag's value as a user types it: `3-3-9-3`, `on`, `off`, `1e-06`."""
    return ("on" if value else "off") if isinstance(value, bool) else str(plain(value))


# Parsers: each takes a typed or YAML value and raises ValueError with the reason, to which `Flag.read` adds the flag.


def integer(value: Any) -> int:
    """Read an integer; raises ValueError."""
    number = value
    if isinstance(value, str):
        try:
            number = parse_number(value)
        except ValueError as error:
            raise ValueError(str(error).replace("a number", "an integer")) from None
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise ValueError("must be an integer")
    return int(number)


def _positive(value: Any) -> int:
    number = integer(value)
    if not 1 <= number <= LARGEST:
        raise ValueError(f"must be from 1 to {LARGEST}; nearest valid value: {min(max(number, 1), LARGEST)}")
    return number


def _odd(value: Any) -> int:
    number = integer(value)
    if not 1 <= number <= LARGEST_KERNEL:
        nearest_odd = 1 if number < 1 else LARGEST_KERNEL
        raise ValueError(f"must be odd, from 1 to {LARGEST_KERNEL}; nearest valid value: {nearest_odd}")
    if number % 2 == 0:
        raise ValueError(f"must be odd; nearest valid values: {number - 1} and {number + 1}")
    return number


def _depths(value: Any) -> tuple[int, ...]:
    parts = value.split("-") if isinstance(value, str) else [value] if isinstance(value, Integral) else value
    form = "must be the number of blocks per stage, such as 3-3-9-3"
    if isinstance(value, bool) or not isinstance(parts, (list, tuple)) or not parts:
        raise ValueError(form)
    try:
        depths = tuple(integer(part) for part in parts)
    except ValueError:
        raise ValueError(form) from None
    if min(depths) < 1 or max(depths) > LARGEST_DEPTH or len(depths) > MOST_STAGES:
        valid = plain(tuple(min(max(depth, 1), LARGEST_DEPTH) for depth in depths[:MOST_STAGES]))
        limits = f"must have 1 to {LARGEST_DEPTH} blocks per stage and at most {MOST_STAGES} stages"
        raise ValueError(f"{limits}; nearest valid value: {valid}")
    return depths


def read_switch(value: Any) -> bool:
    """Read a switch, such as `on`; raises ValueError."""
    words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError("must be on or off")
    return words[str(value).lower()]


def _scale(value: Any) -> float | None:
    if value is None or value is False or str(value).lower() in ("off", "no", "false"):
        return None
    try:
        number = float(parse_number(value) if isinstance(value, str) else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not isinstance(value, (str, Real)) or not SMALLEST_SCALE <= number <= LARGEST_SCALE:
        raise ValueError("must be off or a number from 1e-30 to 1000, such as 1e-6")
    return number


Value = str | int | float | bool
_BODY = ("body",)
_ANYWHERE = ("stem", "body")


@dataclass(frozen=True)
class Flag:
    """A design flag, built in or of a plugin.

    A plugin's flag has functions that change the plan: each takes a part of it and the flag's value, and returns the
    changed part. They are not called for the first of `values`, which is the default and changes nothing.

    Attributes:
        name: Name, also of the attribute of `Design`.
        meaning: What the flag sets, in one line.
        values: The values to offer; all valid values unless `examples` is set. `False` and `True` are off and on.
        examples: Further valid values, for the list of flags. Empty if `values` is complete.
        parse: Reads a typed or YAML value and raises ValueError with the reason; None accepts `values` alone.
        stem: Changes the stem, a tuple of layers.
        block: Changes a block, a `BlockPlan`.
        network: Changes the whole `Plan`, after stem and blocks.
        parts: The parts of the network that the flag changes: `stem`, and `body` for all that follows the stem. Of a
            plugin's flag they follow from its functions.
    """

    name: str
    meaning: str
    values: tuple[Value, ...]
    examples: str = ""
    parse: Callable[[Any], Any] | None = None
    stem: Callable[[Any, Any], Any] | None = None
    block: Callable[[Any, Any], Any] | None = None
    network: Callable[[Any, Any], Any] | None = None
    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            parts = _ANYWHERE if self.network else ("stem",) * bool(self.stem) + _BODY * bool(self.block)
            object.__setattr__(self, "parts", parts)

    @property
    def accepts(self) -> str:
        """The valid values, for the list of flags."""
        return ", ".join([*map(text, self.values), *([self.examples] if self.examples else [])])

    @property
    def default(self) -> Any:
        """The value of a plugin's flag in designs that do not set it."""
        return self.read(self.values[0])

    def read(self, value: Any) -> Any:
        """Return the field's value for a typed or YAML value; raises DesignError."""
        try:
            return self.parse(value) if self.parse else self._one_of_values(value)
        except ValueError as error:
            shown = "None" if value is None else shortened(printable(plain(value)))
            raise DesignError(f"{self.name}={shown}: {error}") from None

    def _one_of_values(self, value: Any) -> Value:
        for known in self.values:
            if (isinstance(value, str) and value == text(known)) or (type(value) is type(known) and value == known):
                return known
            if isinstance(known, bool) and _switched(value) is known:
                return known
        raise ValueError(f"must be one of {self.accepts}")


def _switched(value: Any) -> bool | None:
    """Return a switch's value, and None for anything else."""
    try:
        return read_switch(value)
    except ValueError:
        return None


def _flag(
    default: Any,
    meaning: str,
    values: tuple[str, ...] = (),
    parse: Callable[[Any], Any] | None = None,
    parts: tuple[str, ...] = _BODY,
    examples: str = "",
) -> Any:
    """Declare a flag of `Design`; see `Flag` for the arguments."""
    described = {"meaning": meaning, "values": values, "examples": examples, "parts": parts, "parse": parse}
    return field(default=default, metadata=described)


def _on_off(meaning: str, parts: tuple[str, ...] = _BODY) -> Any:
    """Declare a flag that is on or off, and off by default."""
    return _flag(False, meaning, ("on", "off"), read_switch, parts)


@dataclass(frozen=True)
class Design:
    """One network design, a value per flag. The defaults are ResNet-50's.

    Each built-in flag is declared here and nowhere else. The flags and their meanings are in `FLAGS`. Flags of plugins
    are attributes too; `added` has the values of those that are not at their default.

    Raises:
        DesignError: If a value is invalid.
    """

    depths: tuple[int, ...] = _flag(
        (3, 4, 6, 3),
        "blocks per stage; one stage makes an isotropic network",
        parse=_depths,
        parts=_ANYWHERE,
        examples="3-4-6-3, …",
    )
    width: int = _flag(
        64,
        "channels of the blocks of the first stage; each later stage doubles them",
        parse=_positive,
        parts=_ANYWHERE,
        examples="1, 2, …",
    )
    stem: str = _flag(
        "resnet",
        "7×7 convolution, norm, activation and 3×3 max-pool; or one non-overlapping convolution",
        ("resnet", "patchify"),
        parts=("stem",),
    )
    stem_stride: int = _flag(
        4,
        "total stride of the stem: 4 for 224 px, 2 or 1 for small images, 16 for isotropic networks",
        parse=_positive,
        parts=("stem",),
        examples="1, 2, …",
    )
    depthwise: bool = _on_off("depthwise spatial convolution: one group per channel")
    inverted_bottleneck: bool = _on_off("blocks are narrow–wide–narrow (×4) instead of wide–narrow–wide")
    depthwise_first: bool = _on_off("spatial convolution before both 1×1 convolutions")
    kernel_size: int = _flag(3, "kernel size of the spatial convolution", parse=_odd, examples="1, 3, 5, 7, …")
    activation: str = _flag("relu", "activation function", ("relu", "gelu"), parts=_ANYWHERE)
    fewer_activations: bool = _on_off("one activation per block, before the last 1×1 convolution; none after the sum")
    norm: str = _flag("bn", "BatchNorm, or LayerNorm over channels (eps 1e-6)", ("bn", "ln"), parts=_ANYWHERE)
    fewer_norms: bool = _on_off("one norm per block, after the spatial convolution")
    separate_downsampling: bool = _on_off(
        "norm and 2×2 stride-2 convolution between stages; norm after the stem and after the pooling", _ANYWHERE
    )
    layer_scale: float | None = _flag(
        None,
        "initial value of the learnable per-channel scale at the end of the residual branch",
        ("off", "1e-6"),
        _scale,
        examples="…",
    )
    grn: bool = _on_off("global response normalization before the last 1×1 convolution (ConvNeXt V2)")
    added: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        for name in _BUILT_IN:
            object.__setattr__(self, name, BY_NAME[name].read(getattr(self, name)))
        added = ((name, _known(name).read(value)) for name, value in sorted(self.added))
        object.__setattr__(self, "added", tuple(pair for pair in added if pair[1] != BY_NAME[pair[0]].default))
        doubled = 2 ** (len(self.depths) - 1)
        if self.width * doubled > LARGEST:
            raise DesignError(
                f"width={self.width}: the last of {len(self.depths)} stages would have more than {LARGEST} channels; "
                f"nearest valid value: {LARGEST // doubled}"
            )

    def with_flags(self, flags: Mapping[str, Any]) -> Design:
        """Return this design with some flags changed.

        Args:
            flags: New value per flag, as the field holds it or as a user types it.

        Raises:
            DesignError: If a flag is unknown or its value invalid.
        """
        read_object("flags", flags, Mapping, "a mapping of flags to values, such as {'width': 96}")
        built_in = {name: value for name, value in flags.items() if _known(name).name in _BUILT_IN}
        added = dict(self.added) | {name: value for name, value in flags.items() if name not in built_in}
        return dataclasses.replace(self, **built_in, added=tuple(added.items()))

    def __getattr__(self, name: str) -> Any:
        """Return the value of a plugin's flag."""
        if name.startswith("_") or name not in BY_NAME:
            raise AttributeError(f"a Design has no attribute {name!r}")
        return dict(self.added).get(name, BY_NAME[name].default)

    def flags(self) -> dict[str, Any]:
        """Return the value of every flag as YAML stores it: depths as `3-4-6-3`, no layer scale as `off`.

        Flags of plugins are left out at their default, so that designs do not depend on which plugins are loaded.
        """
        return {name: plain(getattr(self, name)) for name in _BUILT_IN} | {
            name: plain(value) for name, value in self.added
        }

    def differences(self, base: Design) -> dict[str, Any]:
        """Return the flags in which this design differs from `base`, with this design's values as YAML stores them."""
        read_object("base", base, Design, "a Design")
        values = ((flag.name, plain(getattr(self, flag.name)), plain(getattr(base, flag.name))) for flag in FLAGS)
        return {name: value for name, value, before in values if value != before}


_BUILT_IN = tuple(declared.name for declared in dataclasses.fields(Design) if declared.metadata)
BY_NAME = {
    declared.name: Flag(declared.name, **declared.metadata)
    for declared in dataclasses.fields(Design)
    if declared.metadata
}
FLAGS: Collection[Flag] = BY_NAME.values()  # with those of plugins, once they are loaded


def _known(name: Any) -> Flag:
    """Return the flag of a name; raises DesignError."""
    if name not in BY_NAME:
        raise DesignError(f"unknown flag {shortened(repr(name))}: {unknown_flag(str(name), BY_NAME)}")
    return BY_NAME[name]


class DesignName(NamedTuple):
    """The parts of a design's name `BASE[@ROW][,flag=value]…`; `row` is None without `@`."""

    base: str
    row: str | None
    settings: list[str]


def split_name(name: str) -> DesignName:
    """Split `BASE[@ROW][,flag=value]…` at its signs; nothing is checked."""
    head, *settings = split_commas(name)
    if is_file(head):  # whose folders may have an @ in their names
        return DesignName(head, None, settings)
    base, at, row = head.rpartition("@") if ".y" in head else head.partition("@")
    return DesignName(base, row, settings) if at else DesignName(head, None, settings)


def split_commas(text: str) -> list[str]:
    """Split at commas, except of those within brackets: `recipe.crop_scale=[0.25, 1],norm=ln`."""
    return re.split(r",(?![^\[\]]*\])", text)


def is_file(base: str) -> bool:
    """Whether the base of a design's name is the path of a YAML file."""
    return base.endswith((".yaml", ".yml"))


def setting(flag: str, value: Any) -> str:
    """Write a flag and its value as in a design's name: `kernel_size=7`."""
    return f"{flag}={text(BY_NAME[flag].read(value))}"


def read_settings(settings: Iterable[str], name: str) -> dict[str, str]:
    """Return the value as typed per flag for the `flag=value` parts of a design's name; raises DesignError."""
    values: dict[str, str] = {}
    for setting in settings:
        flag, equals, value = (part.strip(" ") for part in setting.partition("="))
        if not equals:
            raise DesignError(f"{setting!r} in {name!r}: write flag=value, such as kernel_size=7")
        if flag in values:
            raise DesignError(f"{name!r}: {flag} is set twice")
        values[flag] = value
    return values
