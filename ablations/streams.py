"""Standard output and standard error: encodings without all of Unicode, closed pipes and full disks."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import io
import os
import sys
import threading
from typing import IO, Any, NoReturn

import click

from reports.plain_text import REPLACE

# ASCII under a name of our own: click writes UTF-8 to a stream whose encoding is called "ascii".
_ASCII = "plain_ascii"


def prepare_streams() -> None:
    """Make all text printable: what an encoding lacks is replaced, as `×` by `x`.

    A closed standard stream is opened, so that no other file gets its number, to which anything may print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ASCII if ascii_only else None, errors=REPLACE)


def is_unicode(stream: IO[str] | None) -> bool:
    """Whether a stream shows all of Unicode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"  # a StringIO has none
    return codecs.lookup(encoding).name.startswith("utf")


def is_interactive(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal on which the cursor can be moved."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def flush() -> OSError | None:
    """Write what standard output still holds; return the error if it cannot be written, except to a closed pipe."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it again at its end
        return None if isinstance(error, BrokenPipeError) else error
    return None


def end_process(status: int) -> NoReturn:
    """End this process with its exit handlers, and without the rest of what Python does at its end.

    There, a thread of torch.distributed that still frees a tensor of Python's aborts the process, whose work is done
    (pytorch issue 190489); and a forked process would free what it shares with others.

    Args:
        status: Exit status.
    """
    for act in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # type: ignore[attr-defined]
        with contextlib.suppress(BaseException):  # the next must not be left out
            act()
    os._exit(status & 0xFF)


def say(text: str) -> None:
    """Print a line if it can be printed; a study goes on without it."""
    with contextlib.suppress(OSError):
        click.echo(text)


class Lasting:
    """A stream whose text may be lost: training goes on if a pipe is closed, or the disk of a log file is full."""

    def __init__(self, stream: IO[str]):
        self._stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, or forget it."""
        try:
            return self._stream.write(text) if self.lost is None else len(text)
        except OSError as error:
            self.lost = error
            return len(text)

    def flush(self) -> None:
        """Flush the stream, or give it up."""
        try:
            if self.lost is None:
                self._stream.flush()
        except OSError as error:
            self.lost = error


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode,
        known.decode,
        known.streamreader,
        known.streamwriter,
        known.incrementalencoder,
        known.incrementaldecoder,
        name=_ASCII,
    )


codecs.register(_find_codec)
