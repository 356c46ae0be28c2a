"""Write files atomically, and read JSON and log files safely.

A file is written under a temporary name and renamed into place, so it is either complete or absent. JSON files carry a
checksum that is verified on reading.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


class DamagedError(ValueError):
    """A file is corrupt: its contents are not what was written."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically and durably: at every instant either the old or the complete new file is on disk."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    if sys.platform == "win32":  # whose folders cannot be opened
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writes have left in a folder and its subfolders."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as JSON with a `checksum` of them."""
    write_bytes(path, _json_bytes(values, _json_sum(values)))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file written by `write_json`; raise DamagedError if it is corrupt, FileNotFoundError if absent."""
    data = path.read_bytes()
    try:
        values = json.loads(data)
        checksum = values.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise DamagedError(f"{path} is corrupt: not the JSON that was written") from None
    if checksum != _json_sum(values) or data != _json_bytes(values, checksum):
        raise DamagedError(f"{path} is corrupt: its checksum does not match")
    return values


def _json_bytes(values: dict[str, Any], checksum: str) -> bytes:
    return (json.dumps({**values, "checksum": checksum}, indent=1) + "\n").encode()


def _json_sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def append_log(folder: Path, line: dict[str, Any]) -> None:
    """Append a line to a run's log."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cut_log(folder: Path, step: int) -> None:
    """Remove the lines after training step `step` from a run's log; create the log if it is missing."""
    kept = [json.dumps(line) for line in read_log(folder) if line["step"] <= step]
    write_bytes(folder / "log.jsonl", "".join(f"{line}\n" for line in kept).encode())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's log up to the first incomplete one, which a killed process may leave."""
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for written in text.splitlines():
        try:
            line = json.loads(written)
        except ValueError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        lines.append(line)
    return lines
