"""Print the import graph of the packages in numbers: files, levels, arrows and cycles.

python tests/import_graph.py [FOLDER]     the checkout to measure [this one]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("modernize", "reports", "ablations")
Graph = Mapping[str, frozenset[str]]  # each module and the modules of these packages that it imports


def import_graph(checkout: Path) -> Graph:
    """Read every import of the packages, those inside functions and for type checking included."""
    files = {_module(path, checkout): path for name in PACKAGES for path in (checkout / name).rglob("*.py")}
    graph = {module: frozenset(_imports(path, module, files)) - {module} for module, path in files.items()}
    return {module: imported for module, imported in graph.items() if files[module].stat().st_size}


def folder_graph(graph: Graph) -> Graph:
    """Merge the modules of a folder: `ablations.data.loader` counts as `ablations.data`."""
    folders: dict[str, set[str]] = {}
    for module, imported in graph.items():
        folders.setdefault(_folder(module), set()).update(map(_folder, imported))
    return {folder: frozenset(imported - {folder}) for folder, imported in folders.items()}


def cycles(graph: Graph) -> list[frozenset[str]]:
    """List the strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[frozenset[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in order:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            component = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(component) > 1:
                found.append(frozenset(component))

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return found


def levels(graph: Graph) -> dict[str, int]:
    """Give each module one level more than the highest that it imports; a module of a cycle shares its level."""
    component = {module: group for group in cycles(graph) for module in group}
    known: dict[str, int] = {}

    def level(module: str) -> int:
        if module not in known:
            group = component.get(module, frozenset({module}))
            below = {other for one in group for other in graph.get(one, ()) if other not in group}
            known.update(dict.fromkeys(group, 1 + max(map(level, sorted(below)), default=0)))
        return known[module]

    return {module: level(module) for module in sorted(graph)}


def _module(path: Path, checkout: Path) -> str:
    parts = path.relative_to(checkout).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, module: str, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in files else node.module for name in names if node.module in files)


def _folder(module: str) -> str:
    """The folder of a module; a file directly in a package stands for itself, except in `modernize` and `reports`."""
    parts = module.split(".")
    return parts[0] if parts[0] != "ablations" else ".".join(parts[:2])


def main() -> None:
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    graph = import_graph(checkout)
    for package in PACKAGES:
        part = {module: imported for module, imported in graph.items() if module.split(".")[0] == package}
        inside = {m: frozenset(other for other in imported if other in part) for m, imported in part.items()}
        arrows, inner = sum(map(len, inside.values())), folder_graph(inside)
        print(
            f"{package}: {len(part)} files, {max(levels(inside).values())} levels, {arrows} arrows, "
            f"{len(cycles(inside))} cycles; {len(inner)} folders, {sum(map(len, inner.values()))} arrows between them"
        )
    print(f"together: {len(graph)} files, {max(levels(graph).values())} levels, {len(cycles(graph))} cycles")
    for group in cycles(graph):
        print(f"  cycle: {', '.join(sorted(group))}")


if __name__ == "__main__":
    main()
