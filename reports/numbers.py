"""How numbers are rounded and signed, alike in tables, figures, page and summary."""

from __future__ import annotations

import math

_EQUAL = 1e-9  # numbers that lie closer together are equal: means of the same values, summed in another order


def rounded(value: float, digits: int) -> float:
    """Round to decimals, a tie away from 0: 79.085 to 79.09, also where the last bits of the sum are below the tie."""
    return round(value + math.copysign(_EQUAL, value), digits) if math.isfinite(value) else value


def fixed(value: float, digits: int) -> str:
    """Format with `digits` decimals and a minus sign, not a hyphen."""
    return f"{rounded(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0: no −0.00


def signed(value: float, digits: int) -> str:
    """Format with `digits` decimals and the sign, not a hyphen; what rounds to 0 has none."""
    near = rounded(value, digits)
    return f"{near:+.{digits}f}".replace("-", "−") if near else f"{0:.{digits}f}"
