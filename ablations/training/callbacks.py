"""Callbacks of a run: its progress, its warnings, and whether it should stop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


class Callbacks:
    """Follow the runs that a process trains, one after the other; override the methods you need.

    Args:
        stopping: Called after every training step; True has the trainer write a checkpoint and raise Interrupted.
    """

    def __init__(self, stopping: Callable[[], bool] = lambda: False):
        self.stopping = stopping

    def start(self, run: str) -> None:
        """Called when a run starts or resumes; a Trainer used by itself never calls it."""

    def log(self, line: dict[str, Any]) -> None:
        """Called with each line of the log; `began` is the step that the run resumed from."""

    def end(self, result: dict[str, Any]) -> None:
        """Called with the contents of `result.json`; a Trainer used by itself never calls it."""

    def warn(self, message: str) -> None:
        """Called with what a user should know, such as a corrupt image."""
        warnings.warn(message, stacklevel=3)


class NullCallbacks(Callbacks):
    """Report nothing, as ranks other than 0 do."""

    def warn(self, message: str) -> None:
        pass
