"""Temporary folders of downloads, within the data folder; what a killed download has left is removed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX, _LOCK = ".download-", ".lock"
_LONGEST = 86400.0  # seconds of a download; an older folder without a lock is one of an earlier version


@contextmanager
def download_folder(data_dir: Path) -> Iterator[Path]:
    """Yield a temporary folder in the data folder; remove it at the end, and those that no process holds at once."""
    data_dir.mkdir(parents=True, exist_ok=True)
    for folder in data_dir.glob(f"{_PREFIX}*"):
        if _is_left(folder):
            shutil.rmtree(folder, ignore_errors=True)  # a program that the killed process started may still write
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=_PREFIX) as scratch, FileLock(Path(scratch, _LOCK)):
        yield Path(scratch)


def _is_left(folder: Path) -> bool:
    """Whether no process downloads into the folder; the lock of a dead process is free."""
    try:
        if not (folder / _LOCK).exists():
            return time.time() - folder.stat().st_mtime > _LONGEST
        with FileLock(folder / _LOCK).acquire(blocking=False):
            return True
    except (OSError, Timeout):
        return False
