"""Errors of reports, and reasons shortened to one line."""

from __future__ import annotations


class ReportError(ValueError):
    """Runs that cannot be reported together: one line saying what and where."""


def shortened(reason: str) -> str:
    """Shorten a reason to one line of at most 200 characters; the raw table keeps all of it."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(reason.split()))
    return line if len(line) <= 200 else f"{line[:199]}…"
