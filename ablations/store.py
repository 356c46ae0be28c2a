"""Files that are whole or not there: written beside and renamed into place, with a checksum checked on reading."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


class DamagedError(ValueError):
    """A file whose contents are not what was written."""


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that at every instant either the old one or the whole new one is there, on disk."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Removes what writes that were killed have left beside their files."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes values as JSON, with a `checksum` over them."""
    write_bytes(path, _json_bytes(values, _json_sum(values)))


def read_json(path: Path) -> dict[str, Any]:
    """The values of a file that `write_json` wrote; raises DamagedError, or FileNotFoundError."""
    data = path.read_bytes()
    try:
        values = json.loads(data)
        checksum = values.pop("checksum")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise DamagedError(f"{path} is damaged: not the JSON that was written") from None
    if checksum != _json_sum(values) or data != _json_bytes(values, checksum):
        raise DamagedError(f"{path} is damaged: its checksum does not fit")
    return values


def _json_bytes(values: dict[str, Any], checksum: str) -> bytes:
    return (json.dumps({**values, "checksum": checksum}, indent=1) + "\n").encode()


def _json_sum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line cut short, as a kill leaves it, is left out."""
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
