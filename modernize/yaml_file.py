"""Read and write YAML 1.2: files of keys and values, and single values from the command line.

PyYAML reads YAML 1.1, where `010` is 8, `1:30` is 90, `no` is false, and `1e-3` is text. Here plain values are those of
YAML 1.2's core schema; numbers that only some readers know stay text (see `modernize.numbers`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from modernize.design import printable
from modernize.numbers import FLOAT, INTEGER, parse_number


class YamlFileError(ValueError):
    """A file that is not a YAML mapping, in one line: the file, and the line in it if known."""


def read_mapping(path: Path) -> dict[Any, Any]:
    """Read the mapping in a YAML file; raises YamlFileError."""
    shown = printable(path)
    try:
        written = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise YamlFileError(f"{shown}: no such file") from None
    except UnicodeDecodeError as error:
        raise YamlFileError(f"{shown}: not YAML ({error})") from None
    except (OSError, ValueError) as error:
        raise YamlFileError(f"{shown}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        values = yaml.load(written, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlFileError(f"{shown}{line}: not YAML ({_line(error.problem)})") from None
    except Exception as error:  # PyYAML raises other types too, such as RecursionError
        raise YamlFileError(f"{shown}: not YAML ({_line(error) or type(error).__name__})") from None
    if not isinstance(values, dict):
        raise YamlFileError(f"{shown}: must contain keys and values, such as `depths: 3-3-9-3` or `seeds: [0]`")
    return values


def parse_yaml(text: str) -> Any:
    """Parse a YAML value, as from the command line; raises ValueError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except Exception as error:  # not YAMLError alone, as in `read_mapping`
        raise ValueError(_line(error)) from None


def as_yaml(values: Mapping[str, Any]) -> str:
    """Write plain values as YAML that both versions of YAML read as these values."""
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if _LINE_ENDS.search(text):  # PyYAML writes these as they are, and reads them as spaces
        text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)
    return text


def _line(text: object) -> str:
    return printable(" ".join(str(text).split()))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema and merge keys, with an error for duplicate keys (PyYAML silently keeps the last)."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value[:80]!r} is set twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; texts that are numbers in YAML 1.2 alone, such as 1e-3, are quoted too."""


_BOOLEAN = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_DIGITS = [*"-+0123456789"]


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | float:
    """Read a number, also one that a tag such as `!!int` declares."""
    kind = int if node.tag.endswith(":int") else (int, float)
    try:
        number = parse_number(node.value)
    except ValueError as error:
        raise _error(node, _line(error)) from None
    if not isinstance(number, kind):
        raise _error(node, "must be an integer")
    return number if kind is int else float(number)


def _boolean(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    if not isinstance(node, yaml.ScalarNode) or not _BOOLEAN.match(node.value):
        raise _error(node, "must be true or false")
    return node.value.lower() == "true"


def _error(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    shown = repr(node.value[:80]) if isinstance(node, yaml.ScalarNode) else node.tag
    return yaml.constructor.ConstructorError(None, None, f"{shown}: {problem}", node.start_mark)


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {}  # without those of YAML 1.1
_Loader.add_implicit_resolver(f"{_TAG}null", _NULL, ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}bool", _BOOLEAN, [*"tTfF"])
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<\Z"), ["<"])
for _which in (_Loader, _Dumper):
    _which.add_implicit_resolver(f"{_TAG}int", INTEGER, _DIGITS)
    _which.add_implicit_resolver(f"{_TAG}float", FLOAT, [*_DIGITS, "."])
_Loader.add_constructor(f"{_TAG}int", _number)
_Loader.add_constructor(f"{_TAG}float", _number)
_Loader.add_constructor(f"{_TAG}bool", _boolean)
