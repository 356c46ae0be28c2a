"""The processor time of a run's training, over all its processes, threads, workers and sessions."""

from __future__ import annotations

import os
import time
from typing import Any

from ablations.training.distributed import Group


class ProcessorTime:
    """Processor time of the training steps (s), which checkpoints store; unknown if an earlier version did not."""

    def __init__(self) -> None:
        self.before: float | None = 0.0  # all processes in earlier sessions
        self.started: float | None = None  # of this process in this session
        self.own = 0.0

    def start(self) -> None:
        """Count from now on."""
        self.started = _used()

    def stop(self) -> None:
        """Count no further; workers count if they have ended."""
        self.own, self.started = self._counted(), None

    def _counted(self) -> float:
        return self.own if self.started is None else _used() - self.started

    def total(self, group: Group) -> float | None:
        """Return the time of all processes and sessions; None if a session did not record its time."""
        own = sum(group.gathered(self._counted()))
        return None if self.before is None else self.before + own

    def load(self, state: dict[str, Any]) -> None:
        """Take over the time of the sessions before a checkpoint."""
        self.before = state.get("processor_seconds")


def _used() -> float:
    """Return the processor time of this process, its threads and its ended children (s)."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system
