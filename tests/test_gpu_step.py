"""On a GPU, pretended in Python, a training step gives the CPU's results and does not wait for the device."""

from __future__ import annotations

from typing import Any

import pytest
from fake_runs import RUNS, run

TOLERANCE = {"fp16": 5e-3}  # autocast lowers other operations on a CPU


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What happened in each run."""
    return run()


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_trains_and_evaluates_as_the_cpu_does(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes[name]["difference"] < TOLERANCE.get(name, 1e-6)
    assert outcomes[name]["loss"] < TOLERANCE.get(name, 1e-6)
