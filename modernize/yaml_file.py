"""Read YAML files of keys and values; errors are one line that names the file and the line in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from modernize.design import printable


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
        values = yaml.load(written, Loader=_UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise YamlFileError(f"{shown}{line}: not YAML ({_line(error.problem)})") from None
    except Exception as error:  # PyYAML raises other types too: `!!bool x` is a KeyError
        raise YamlFileError(f"{shown}: not YAML ({_line(error) or type(error).__name__})") from None
    if not isinstance(values, dict):
        raise YamlFileError(f"{shown}: must contain keys and values, such as `depths: 3-3-9-3` or `seeds: [0]`")
    return values


def _line(text: object) -> str:
    return printable(" ".join(str(text).split()))


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, with an error for duplicate keys (PyYAML silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value[:80]!r} is set twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | str:
    """Read an integer. 12:30:00 stays text; YAML 1.1 reads it as 45000."""
    return node.value if ":" in node.value else loader.construct_yaml_int(node)


_UniqueKeys.add_constructor("tag:yaml.org,2002:int", _integer)
