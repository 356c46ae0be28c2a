"""Callbacks that keep what they are called with."""

from __future__ import annotations

from typing import Any

from ablations.training.callbacks import Callbacks


class Recorder(Callbacks):
    """Keep the lines of the log and the warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    def log(self, line: dict[str, Any]) -> None:
        self.lines.append(line)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
