"""Plugins: a user's Python file, or an installed package, that adds design flags.

A plugin is a module with `FLAGS`, a list of `Flag`. Packages name theirs in the entry-point group `modernize.plugins`.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from modernize.design import BY_NAME, RECIPE, Design, DesignError, Flag, printable, text
from modernize.user_code import failures_of, import_file, neighbors
from modernize.user_sources import UserCodeError, source_files, sources_sha256

__all__ = ["GROUP", "Plugin", "load_installed_plugins", "load_plugin", "origin_of", "plugins"]

GROUP = "modernize.plugins"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Plugin:
    """A loaded plugin.

    Attributes:
        name: Absolute path of its file, or the module's name of an installed one.
        sha256: Checksum of its file and of the files beside it that it imports; of an installed one, of its file.
        flags: Its flags.
    """

    name: str
    sha256: str
    flags: tuple[Flag, ...]

    @property
    def file(self) -> Path | None:
        """Path of its file; None for an installed plugin."""
        return Path(self.name) if self.name.endswith(".py") else None

    @property
    def shown(self) -> str:
        """The file's name, or the module's."""
        return printable(self.file.name if self.file else self.name)


_LOADED: dict[str, Plugin] = {}


def plugins() -> tuple[Plugin, ...]:
    """Return the loaded plugins, in their order."""
    return tuple(_LOADED.values())


def plugin_of(flag: str) -> Plugin | None:
    """Return the plugin that a flag comes from; None for built-in and unknown flags."""
    return next((one for one in _LOADED.values() if flag in (known.name for known in one.flags)), None)


def origin_of(flag: str) -> str:
    """Name the file or module of a plugin's flag."""
    found = plugin_of(flag)
    assert found is not None
    return found.shown


def added_values(design: Design) -> list[tuple[Flag, Any]]:
    """Return the flags of plugins that a design sets, with their values, in the order in which they are applied.

    It does not depend on the order of loading: plugins are sorted by file, and a plugin's flags are in its own order.
    """
    values = dict(design.added)
    ordered = (flag for one in sorted(_LOADED.values(), key=lambda one: (one.shown, one.sha256)) for flag in one.flags)
    return [(flag, values[flag.name]) for flag in ordered if flag.name in values]


def load_plugin(file: str | Path) -> Plugin:
    """Load a plugin's file: its flags may then stand wherever a design's flags may.

    Loading the same content again changes nothing; another content of the same file replaces its flags.

    Args:
        file: Python file with `FLAGS`, a list of `Flag`.

    Returns:
        The plugin.

    Raises:
        DesignError: If the file cannot be read or fails, has no flags, or one of its flags is invalid or known already.
    """
    path = Path(file)
    try:
        sha256 = sources_sha256(source_files(path.resolve() if path.is_file() else path))
        for known in _LOADED.values():
            if known.file is not None and known.sha256 == sha256:
                return known
        module = import_file(path)
    except UserCodeError as error:
        raise DesignError(f"plugin {error}") from error
    return _register(Plugin(str(path.resolve()), sha256, _flags(module, printable(path))))


def load_installed_plugins() -> tuple[Plugin, ...]:
    """Load the plugins of installed packages, those of the entry-point group `modernize.plugins`.

    Returns:
        The plugins.

    Raises:
        DesignError: If one fails, has no flags, or one of its flags is invalid or known already.
    """
    from importlib import metadata  # late: a command line's help does not need it

    return tuple(load_installed_plugin(entry.value) for entry in metadata.entry_points(group=GROUP))


def load_installed_plugin(name: str) -> Plugin:
    """Load the plugin that is an installed module; raises DesignError."""
    if name in _LOADED:
        return _LOADED[name]
    try:
        with failures_of(Path(name)):
            module = importlib.import_module(name)
    except UserCodeError as error:
        raise DesignError(f"plugin {error}") from error
    sha256 = hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()
    return _register(Plugin(name, sha256, _flags(module, name)))


def unload_plugin(plugin: Plugin) -> None:
    """Forget a plugin and its flags."""
    del _LOADED[plugin.name]
    for flag in plugin.flags:
        del BY_NAME[flag.name]


@contextmanager
def running(flag: str) -> Iterator[None]:
    """Turn errors of a plugin's code within the block into UserCodeErrors that name the file and the line in it."""
    plugin = plugin_of(flag)
    assert plugin is not None
    if plugin.file is None:
        with failures_of(Path(importlib.import_module(plugin.name).__file__ or "")):
            yield
    else:
        with failures_of(plugin.file), neighbors(plugin.file):
            yield


def _register(plugin: Plugin) -> Plugin:
    """Add a plugin's flags to those that are known; raises DesignError, and adds none, if one of them is taken."""
    before = _LOADED.get(plugin.name)
    own = [flag.name for flag in before.flags] if before else []
    for flag in plugin.flags:
        if flag.name in BY_NAME and flag.name not in own:
            other = plugin_of(flag.name)
            by = f"the plugin {printable(other.name)}" if other else "a built-in flag"
            raise DesignError(f"plugin {plugin.shown}: flag {flag.name} is the name of {by}; rename it")
    if before is not None:
        unload_plugin(before)
    BY_NAME.update({flag.name: flag for flag in plugin.flags})
    _LOADED[plugin.name] = plugin
    return plugin


def _flags(module: ModuleType, place: str) -> tuple[Flag, ...]:
    """Return the flags of a plugin's module; raises DesignError naming what is invalid."""
    flags = getattr(module, "FLAGS", None)
    if not isinstance(flags, (list, tuple)) or not flags or not all(isinstance(flag, Flag) for flag in flags):
        raise DesignError(f"plugin {place}: needs FLAGS, a list of modernize.Flag")
    for number, flag in enumerate(flags):
        problem = _problem(flag, [other.name for other in flags[:number]])
        if problem:
            raise DesignError(f"plugin {place}: flag {printable(flag.name)}: {problem}")
    return tuple(flags)


def _problem(flag: Flag, earlier: list[str]) -> str | None:
    """Return what is invalid in a flag; None if nothing is."""
    if not isinstance(flag.name, str) or not _NAME.fullmatch(flag.name):
        return "a name has lower-case letters, digits and _, such as strip_conv"
    if flag.name in earlier:
        return "is listed twice"
    if (hasattr(Design, flag.name) and flag.name not in BY_NAME) or f"{flag.name}." == RECIPE:
        return "the name is taken; rename it"
    if not isinstance(flag.meaning, str) or not flag.meaning.strip() or "\n" in flag.meaning:
        return "meaning: say in one line what it sets"
    if not isinstance(flag.values, tuple) or len(flag.values) < (1 if flag.examples else 2):
        return "values: give a tuple of at least two, the default first, such as (False, True)"
    if not any((flag.stem, flag.block, flag.network)):
        return "changes nothing: give a function for stem, block or network"
    return _problem_of_values(flag)


def _problem_of_values(flag: Flag) -> str | None:
    """Return which of a flag's values cannot be read back from what is shown of it."""
    read: list[Any] = []
    for value in flag.values:
        if not isinstance(value, (str, int, float, bool)):
            return f"values: {value!r} must be a string, a number or a boolean"
        shown = text(value)
        if not re.fullmatch(r"[\w.+-]+", shown):
            return f"values: {shown!r}: letters, digits and . + - _ only"
        try:
            read.append(flag.read(shown))
        except DesignError as error:
            return f"values: {error}"
        if text(read[-1]) != shown or read[-1] in read[:-1]:
            return f"values: {shown} reads as {read[-1]!r}, which is another value"
    return None
