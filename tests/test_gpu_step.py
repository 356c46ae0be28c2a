"""On a GPU, pretended in Python, a training step gives the CPU's results and does not wait for the device."""

from __future__ import annotations

from typing import Any

import pytest
from fake_runs import NOT_WAITING, RUNS, WAITING, run

TOLERANCE = {"fp16": 5e-3}  # autocast lowers other operations on a CPU


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What happened in a process that has the device."""
    return run()


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_trains_and_evaluates_as_the_cpu_does(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes["runs"][name]["difference"] < TOLERANCE.get(name, 1e-6)
    assert outcomes["runs"][name]["loss"] < TOLERANCE.get(name, 1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_training_step_does_not_wait_for_the_gpu(outcomes: dict[str, Any], name: str) -> None:
    waits = outcomes["runs"][name]["waits"]
    assert waits["step"] == {}
    assert sum(waits["log"].values()) == 1  # loss and top-1 are read together
    assert sum(waits["evaluation"].values()) == 3  # labels, predictions and losses, however many batches


def test_a_run_on_a_gpu_resumes_to_the_same_bits(outcomes: dict[str, Any]) -> None:
    assert outcomes["resumed"]["resumed"] == outcomes["resumed"]["whole"]


def test_what_waits_for_the_pretended_gpu_is_counted(outcomes: dict[str, Any]) -> None:
    assert [statement for statement in WAITING if not outcomes["counted"][statement]] == []
    assert [statement for statement in NOT_WAITING if outcomes["counted"][statement]] == []
