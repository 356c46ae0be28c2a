"""The source of a function in a user's file: that file and the files beside it that it imports, and their checksum."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from modernize.design import printable

_OURS = ("modernize", "ablations", "reports")  # they lie beside a file in the root of this project's checkout


class UserCodeError(ValueError):
    """A user's file or function is missing, is called wrongly, or fails; one line with the file and the line in it."""


def source_files(file: Path) -> dict[str, bytes]:
    """Return the contents of a file and of the files beside it that it imports, by path from its folder.

    The file itself comes first. Imports are those that the text names, also within functions. Raises UserCodeError if
    the file cannot be read.
    """
    try:
        found = {file.name: file.read_bytes()}
    except (OSError, ValueError) as error:
        raise UserCodeError(f"{printable(file)}: {_reason(error)}") from None
    waiting = [file.name]
    while waiting:
        for path in _imported(found[waiting.pop()], file.parent):
            if (name := path.relative_to(file.parent).as_posix()) not in found:
                found[name] = path.read_bytes()
                waiting.append(name)
    return found


def sources_sha256(files: Mapping[str, bytes]) -> str:
    """Return the checksum of files' names and contents."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{hashlib.sha256(files[name]).hexdigest()}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _imported(source: bytes, folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, and in packages there, that a source's import statements name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # importing the file says where
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):  # in a package's file also relative; the package is taken whole
            names = [node.module] if node.module and not node.level else []
        else:
            continue
        for top in {name.partition(".")[0] for name in names} - {*_OURS}:
            if (folder / f"{top}.py").is_file():
                yield folder / f"{top}.py"
            elif (folder / top / "__init__.py").is_file():
                yield from sorted((folder / top).rglob("*.py"))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file in {printable(Path.cwd())}"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"
