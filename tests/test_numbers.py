"""How numbers are rounded: equal numbers print alike, whatever the order of the sum that they come from."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reports.numbers import fixed, rounded, signed
from reports.tables import interval, mean_sd

# Top-1 of four seeds in hundredths of a percent, as of 10,000 test images: every other mean of two lies on a tie.
counts = st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=4)


@given(counts)
def test_means_are_rounded_as_exact_fractions_with_ties_away_from_0(counts: list[int]) -> None:
    exact = (Decimal(sum(counts)) / 100 / len(counts)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    sums = [
        float(np.mean([count / 100 for count in counts])),
        float(100 * np.mean([count / 10_000 for count in counts])),
    ]
    sums += [sum(count / 100 / len(counts) for count in reversed(counts))]
    shown = f"{exact if exact else abs(exact)}".replace("-", "−")
    for mean in sums:
        assert fixed(mean, 2) == shown
        assert signed(mean, 2) == (shown if exact <= 0 else f"+{shown}")
        assert rounded(mean, 2) == float(exact)


def test_a_tie_prints_alike_from_every_sum() -> None:
    top1 = [78.9, 79.1, 79.2, 79.14]
    assert (
        float(np.nextafter(76.185, 0)) != 76.185
        and fixed(float(np.nextafter(76.185, 0)), 2) == fixed(76.185, 2) == "76.19"
    )
    assert mean_sd(float(np.mean(top1)), None) == mean_sd(sum(reversed(top1)) / 4, None) == "79.09"
    assert interval(-1.125, 0.0) == "−1.13 to 0.00"
