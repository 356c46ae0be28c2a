"""The two ways a command ends badly; the command line turns each into one line and an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class RequestError(ValueError):
    """The request was wrong: one line naming the value, its place and what would be right. Exit status 2."""


class RunError(RuntimeError):
    """A run failed, or its folder could not be written: one line naming which, and the cause. Exit status 1."""


def one_line(message: object, limit: int | None = None) -> str:
    """Put a message on one line; an error without one is named by its type."""
    return " ".join(str(message).split())[:limit] or type(message).__name__


@contextmanager
def writing(what: str | Path) -> Iterator[None]:
    """Turn an OSError within the block into a RunError: `what` cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what}: cannot be written ({error.strerror or error})") from error
