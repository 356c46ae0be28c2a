"""Imports run one way: modernize, reports, ablations; and within ablations from the command line down to errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from import_graph import PACKAGES, cycles, folder_graph, import_graph, levels

HOME = Path(__file__).parent.parent
GRAPH = import_graph(HOME)
# From the lowest: each folder may import only folders of the lines above its own.
LAYERS = (
    ("modernize",),
    ("reports",),
    ("ablations.streams",),
    ("ablations.errors", "ablations.reach", "ablations.seeding", "ablations.progress", "ablations.store"),
    ("ablations.training_config",),
    ("ablations.machine", "ablations.recipes"),
    ("ablations.recipe_checks",),
    ("ablations.data",),
    ("ablations.training",),
    ("ablations.bench", "ablations.distributed", "ablations.studies"),
    ("ablations.combined_reporting", "ablations.export", "ablations.launch", "ablations.reporting"),
    ("ablations.study_data",),
    ("ablations",),
    ("ablations.cli", "ablations.cluster"),
    ("ablations.__main__",),
)
LONGEST_FILE, LONGEST_FUNCTION = 450, 60
FILES = sorted(path for package in PACKAGES for path in (HOME / package).rglob("*.py"))


def test_every_folder_has_a_layer() -> None:
    assert {folder for layer in LAYERS for folder in layer} == set(folder_graph(GRAPH))


def test_imports_run_down_the_layers() -> None:
    place = {folder: number for number, layer in enumerate(LAYERS) for folder in layer}
    wrong = [
        f"{folder} imports {other}"
        for folder, imported in folder_graph(GRAPH).items()
        for other in sorted(imported)
        if place[other] >= place[folder]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycles(GRAPH) == []


def test_cycles_and_levels_of_a_known_graph() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set[str](), "e": {"a", "d"}}
    known = {module: frozenset(imported) for module, imported in graph.items()}
    assert cycles(known) == [frozenset({"b", "c"})]
    assert levels(known) == {"a": 3, "b": 2, "c": 2, "d": 1, "e": 4}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(HOME)) for path in FILES])
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name
