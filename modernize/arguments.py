"""Arguments of the public functions, read by one set of rules: a reader returns the value, or raises DesignError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from modernize.design import LARGEST, LARGEST_SCALE, SMALLEST_SCALE, DesignError, printable, shortened

MOST_CLASSES = 10_000_000


class Size(NamedTuple):
    """Height and width in pixels, of an image or a feature map."""

    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    def __str__(self) -> str:
        """Return the size as a user types it: `224`, `384x640`."""
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


def read_integer(name: str, value: Any, least: int = 1, most: int = LARGEST) -> int:
    """Return an integer argument within its bounds; NumPy's integers count, booleans do not."""
    if not _is_integer(value):
        raise DesignError(f"{name}={_shown(value)}: must be an integer")
    number = int(value)
    if number < least:
        raise DesignError(f"{name}={_shown(number)}: must be at least {least}; nearest valid value: {least}")
    if number > most:
        raise DesignError(f"{name}={_shown(number)}: must be at most {most}; nearest valid value: {most}")
    return number


def read_classes(value: Any) -> int:
    """Return `num_classes`; 0 stands for no classifier."""
    return read_integer("num_classes", value, 0, MOST_CLASSES)


def read_channels(value: Any) -> int:
    """Return `in_channels`."""
    return read_integer("in_channels", value)


def read_size(value: Any) -> Size:
    """Return `image_size`, an integer or a pair (height, width), as a size; sizes below 1 are left to `trace`."""
    edges = value if isinstance(value, (tuple, list)) else (value, value)
    if len(edges) != 2 or not all(map(_is_integer, edges)):
        raise DesignError(f"image_size={_shown(value)}: must be an integer or (height, width)")
    size = Size(*map(int, edges))
    if max(size) > LARGEST:
        raise DesignError(
            f"image_size={_shown(size)}: must be at most {LARGEST}; "
            f"nearest valid value: {Size(*(min(edge, LARGEST) for edge in size))}"
        )
    return size


def read_rate(name: str, value: Any) -> float:
    """Return a rate, from 0 to below 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise DesignError(f"{name}={_shown(value)}: must be a number, at least 0 and below 1")
    return float(value)


def read_factor(name: str, value: Any) -> float:
    """Return a finite number."""
    try:
        number = float(value) if _is_number(value) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DesignError(f"{name}={_shown(value)}: must be a finite number")
    return number


def read_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return one of several words."""
    if not isinstance(value, str) or value not in choices:
        raise DesignError(f"{name}={_shown(value)}: must be one of {', '.join(choices)}")
    return value


def read_switch(name: str, value: Any) -> bool:
    """Return whether a switch is on; True and False, not what counts as them."""
    if not isinstance(value, bool):
        raise DesignError(f"{name}={_shown(value)}: must be True or False")
    return value


def read_layer_scale(name: str, value: Any) -> float | None:
    """Return the initial value of layer scale; 0 and None turn it off."""
    if value is None or (isinstance(value, Real) and value == 0):
        return None
    if not _is_number(value) or not SMALLEST_SCALE <= value <= LARGEST_SCALE:
        raise DesignError(f"{name}={_shown(value)}: must be 0, or from {SMALLEST_SCALE:g} to {LARGEST_SCALE:g}")
    return float(value)


def read_stages(value: Any, number: int) -> tuple[int, ...]:
    """Return the numbers of some of a network's stages in order; None stands for all."""
    if value is None:
        return tuple(range(number))
    chosen = value if isinstance(value, (tuple, list, range)) else ()
    if not chosen or not all(map(_is_integer, chosen)) or len(set(chosen)) < len(chosen):
        raise DesignError(f"stages={_shown(value)}: must be stages, each once, such as (1, 2, 3)")
    if min(chosen) < 0 or max(chosen) >= number:
        raise DesignError(f"stages={_shown(value)}: the network has stages 0 to {number - 1}")
    return tuple(sorted(map(int, chosen)))


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Return a value as one short line, texts in quotes."""
    return shortened(printable(repr(value) if isinstance(value, str) else value))
