"""Signals: set handlers for a while, and the flag that stops training at the next step.

With worker processes, `Pool._on_signal` (pool.py) receives Ctrl-C and signals the workers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ablations.machine import STOP

STOPPED = 130  # exit status of a worker that a signal asked to stop
LOST_DEVICE = 75  # of one that can no longer use its GPU; programs rarely end themselves with it


@contextmanager
def handled(handler: Any, *numbers: int) -> Iterator[dict[int, Any]]:
    """Handle signals within the block, as `signal.signal` does; yield the handlers they had before."""
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield previous
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def end_group(leader: int) -> None:
    """Kill what is left of the process group that an ended process led, such as processes that load images."""
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: on macOS, if only zombies are left
        os.killpg(leader, signal.SIGKILL)


class StopFlag:
    """Set by SIGINT and SIGTERM; a second signal raises KeyboardInterrupt.

    In a worker, the end of its launcher sets the flag too, and a second signal is ignored.
    """

    def __init__(self, launcher: int | None = None):
        self.signals = 0
        self.launcher = launcher

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let signals set the flag within the block, also those that came while this process was starting."""
        with handled(self._on_signal, *STOP):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
            yield

    def _on_signal(self, *_: object) -> None:
        self.signals += 1
        if self.launcher is None and self.signals > 1:
            raise KeyboardInterrupt

    def __call__(self) -> bool:
        return self.signals > 0 or (self.launcher is not None and os.getppid() != self.launcher)
