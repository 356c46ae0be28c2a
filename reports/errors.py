"""Errors of reports, and how a reason is shown on one line."""

from __future__ import annotations


class ReportError(ValueError):
    """Runs that cannot be reported together: one line saying what and where."""


def shortened(reason: str) -> str:
    """A reason on one line, cut where it runs on; the raw table keeps all of it."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(reason.split()))
    return line if len(line) <= 200 else f"{line[:199]}…"
