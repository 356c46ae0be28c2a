"""How the statuses of runs are printed; files keep the words on the left."""

from __future__ import annotations

SHOWN = {"done": "finished", "running": "running", "stopped": "interrupted", "failed": "failed", "left": "pending"}
NOT_COMPARED = "not compared"  # status in a report of a finished run whose results are on other images


def shown(status: str) -> str:
    """Print a run's status, or what a row without runs has for one."""
    return SHOWN.get(status, status)
