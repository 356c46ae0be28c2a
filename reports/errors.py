"""Errors of reports, and reasons shortened to one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ReportError(ValueError):
    """Runs that cannot be reported together: one line saying what and where."""


class FigureError(RuntimeError):
    """A figure cannot be drawn: one line saying which and why."""


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Raise FigureError if the block, which draws or encodes a figure, raises anything."""
    try:
        yield
    except FigureError:
        raise
    except Exception as error:
        raise FigureError(f"figure {name} cannot be drawn ({type(error).__name__}: {shortened(str(error))})") from error


def shortened(reason: str) -> str:
    """Shorten a reason to one line of at most 200 characters; the raw table keeps all of it."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(reason.split()))
    return line if len(line) <= 200 else f"{line[:199]}…"
