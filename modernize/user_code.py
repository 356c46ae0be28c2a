"""Functions in a user's own Python file, written as FILE.py:FUNCTION or FILE.py:FUNCTION(setting=value,…)."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from modernize.design import printable
from modernize.names import nearest
from modernize.user_sources import UserCodeError, source_files, sources_sha256

_WRITTEN = re.compile(r"(?P<file>.*\.py):(?P<function>[^():=]*)(?P<settings>\(.*\))?", re.DOTALL)
EXAMPLE = "FILE.py:FUNCTION, or FILE.py:FUNCTION(setting=value)"


@dataclass(frozen=True)
class Call:
    """A function in a user's file, and the settings to call it with."""

    file: Path
    function: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Name the file and the function."""
        return f"{printable(self.file)}:{printable(self.function)}"


def is_call(name: str) -> bool:
    """Return whether a name is of a function in a user's file."""
    return ".py:" in name.partition("(")[0] or _WRITTEN.fullmatch(name) is not None  # a folder's name may have brackets


def read_call(name: str) -> Call:
    """Read FILE.py:FUNCTION(setting=value,…); values are YAML's. Raises UserCodeError."""
    found = _WRITTEN.fullmatch(name)
    if found is None or not found["function"].isidentifier():
        raise UserCodeError(f"{printable(name)!r}: write {EXAMPLE}")
    return Call(Path(found["file"]), found["function"], read_settings(found["settings"] or "", name))


def read_settings(written: str, name: str) -> dict[str, Any]:
    """Read the settings (setting=value,…) behind a name, or none; raises UserCodeError."""
    from modernize.yaml_file import parse_yaml  # late: a command line's help reads no YAML

    settings: dict[str, Any] = {}
    inner = written.removeprefix("(").removesuffix(")").strip()
    for part in split_settings(inner) if inner else ():
        key, equals, value = (text.strip() for text in part.partition("="))
        if not equals or not key.isidentifier() or not value:
            raise UserCodeError(f"{printable(name)}: {printable(part.strip())!r} is no setting; write setting=value")
        if key in settings:
            raise UserCodeError(f"{printable(name)}: {key} is set twice")
        try:
            settings[key] = parse_yaml(value)
        except ValueError as error:
            raise UserCodeError(f"{printable(name)}: {key}: {error}") from None
    return settings


def split_settings(text: str) -> list[str]:
    """Split settings at the commas that are not within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def function_of(call: Call) -> Callable[..., Any]:
    """Import the file and return the function; raises UserCodeError if there is none, or it takes no such settings."""
    module = import_file(call.file)
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    function = getattr(module, call.function, None)
    if not callable(function):
        known = nearest(call.function, own) if own else "it defines no functions"
        raise UserCodeError(f"{printable(call.file)} has no function {call.function!r}: {known}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built-in classes
        return function
    try:
        signature.bind_partial(**call.settings)
    except TypeError:
        by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        taken = [name for name, one in signature.parameters.items() if one.kind in by_name]
        unknown = next(key for key in call.settings if key not in taken)
        known = nearest(unknown, taken) if taken else "it takes none"
        raise UserCodeError(f"{call.place} has no setting {unknown!r}: {known}") from None
    return function


def call_function(call: Call, *arguments: Any, **others: Any) -> Any:
    """Call the function with its settings; raises UserCodeError, also for whatever the function raises."""
    function = function_of(call)
    with failures_of(call.file), neighbors(call.file):
        return function(*arguments, **call.settings, **others)


@contextmanager
def failures_of(file: Path) -> Iterator[None]:
    """Turn any error raised within the block into a UserCodeError that names the file and the line in it.

    What the user's code prints goes to stderr: a command's output may be read by a program.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except UserCodeError:
        raise
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a user's code may raise anything, SystemExit too
        raise UserCodeError(located(error, file)) from error


def located(error: BaseException, file: Path) -> str:
    """Describe an error on one line: the last line of the file that led to it, and the error's type and message."""
    path = str(file.resolve())
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = printable(" ".join(text.split()))[:300]
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{printable(file)}, line {error.lineno}: {message}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    if not frames:
        return f"{printable(file)}: {message}"
    within = "" if frames[-1].name == "<module>" else f", in {frames[-1].name}"
    return f"{printable(file)}, line {frames[-1].lineno}{within}: {message}"


def import_file(file: Path) -> ModuleType:
    """Run a file as a module, once per content of it and of the files beside it; raises UserCodeError."""
    path = file.resolve()
    sources = source_files(path if path.is_file() else file)  # of a link, what lies beside its target
    place = hashlib.sha256(f"{path}{sources_sha256(sources)}".encode(errors="surrogateescape")).hexdigest()
    name = f"{file.stem}_{place[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    _forget(_MODULES_BESIDE.keys())
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        with failures_of(file), neighbors(file):
            exec(compile(sources[path.name], path, "exec"), vars(module))
    except UserCodeError:
        del sys.modules[name]
        raise
    return module


class Imported:
    """What imports a user's file again in another process: pickle it before what the file defines."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        folder = self.file.resolve().parent
        beside = [name for name, place in _MODULES_BESIDE.items() if place == folder]
        return _import_again, (self.file.absolute(), beside)  # the other process may be in another folder


def _import_again(file: Path, beside: list[str]) -> Imported:
    import_file(file)
    with neighbors(file):
        for name in beside:
            importlib.import_module(name)
    return Imported(file)


_MODULES_BESIDE: dict[str, Path] = {}  # modules that users' files have imported from their folders


@contextmanager
def neighbors(file: Path) -> Iterator[None]:
    """Let the file import the files beside it, as a script does, and not those of the same name in other folders."""
    folder = file.resolve().parent
    _forget([name for name, place in _MODULES_BESIDE.items() if place != folder])
    sys.path.insert(0, str(folder))
    before = set(sys.modules)
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if set(sys.modules) - before:
            _note_imported(file, folder)


def _note_imported(file: Path, folder: Path) -> None:
    """Remember which modules a user's file has imported from its folder."""
    beside = {Path(path).parts[0].removesuffix(".py") for path in [*source_files(file.resolve())][1:]}
    for name, module in list(sys.modules.items()):
        of_folder = str(getattr(module, "__file__", None) or "").startswith(f"{folder}{os.sep}")
        if of_folder and name.partition(".")[0] in beside:
            _MODULES_BESIDE[name] = folder


def _forget(names: Iterable[str]) -> None:
    """Have modules imported anew."""
    for name in list(names):
        sys.modules.pop(name, None)
        _MODULES_BESIDE.pop(name, None)
