"""How a study's frame and files write the statuses of runs and several baselines, and how statuses are printed."""

from __future__ import annotations

SHOWN = {"done": "finished", "running": "running", "stopped": "interrupted", "failed": "failed", "left": "pending"}
PENDING = ("running", "stopped", "left")
BETWEEN = "; "  # the names of several baselines
NOT_COMPARED = "not compared"  # status in a report of a finished run whose results are on other images


def shown(status: str) -> str:
    """Print a run's status, or what a row without runs has for one."""
    return SHOWN.get(status, status)
