"""What every launcher shares: how a study starts and ends, and how its runs appear on the display."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ablations.progress import Display
from ablations.training.callbacks import Callbacks


class DisplayCallbacks(Callbacks):
    """Show the runs of one process on the display."""

    def __init__(self, display: Display, stopping: Callable[[], bool] = lambda: False):
        super().__init__(stopping)
        self.display = display
        self.run: str | None = None

    def start(self, run: str) -> None:
        self.run = run
        self.display.start(run)

    def log(self, line: dict[str, Any]) -> None:
        self.display.log(self.run or "", line)

    def end(self, result: dict[str, Any]) -> None:
        self.display.end(self.run or "", result)
        self.run = None

    def warn(self, message: str) -> None:
        self.display.say(message)
