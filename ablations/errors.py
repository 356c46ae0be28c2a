"""The two errors that a command prints as one line, and how any error becomes one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["RequestError", "RunError", "one_line", "writing"]


class RequestError(ValueError):
    """A request cannot be met. One line names the fault, its place and the right value; exit status 2."""


class RunError(RuntimeError):
    """A run failed, or its folder cannot be written. One line names the run and the cause; exit status 1."""


def one_line(error: BaseException | str) -> str:
    """Return an error's message on one line, or the name of its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Raise RunError if the block raises OSError: `what` cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what}: cannot be written ({error.strerror or error})") from error
