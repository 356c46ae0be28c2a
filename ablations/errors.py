"""The two errors that a command prints as one line, and how any error becomes one line."""

__all__ = ["RequestError", "RunError", "one_line"]


class RequestError(ValueError):
    """A request cannot be met. One line names the fault, its place and the right value; exit status 2."""


class RunError(RuntimeError):
    """A run failed, or its folder cannot be written. One line names the run and the cause; exit status 1."""


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or the name of its type if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__
