"""The notebook under docs/ runs, with a smaller budget unless the test is slow, and its outputs are stored."""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import ablations_here
from PIL import Image

NOTEBOOK = Path(__file__).parent.parent / "docs" / "small_study.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]
BUDGET = "--budget 16000images --seeds 0,1,2"


def run_cells(folder: Path, budget: str = BUDGET) -> dict[str, Any]:
    """Run the code cells in a folder, as Jupyter does; return the value of each by its id."""
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        return {cell["id"]: run_cell("".join(cell["source"]).replace(BUDGET, budget), names) for cell in CODE}


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell and return the value of its last expression; None if it ends otherwise."""
    if source.startswith("%%bash\n"):
        for line in source.replace("\\\n", "").splitlines()[1:]:
            program, *arguments = shlex.split(line)
            done = ablations_here(*arguments) if program == "ablations" else subprocess.run([program, *arguments])
            assert done.returncode == 0, (line, done.stderr)
        return None
    *statements, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        statements.append(last)
    exec(compile(ast.Module(statements, []), NOTEBOOK.name, "exec"), names)
    return (
        eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if isinstance(last, ast.Expr) else None
    )


def test_the_notebook_runs(tmp_path: Path) -> None:
    values = run_cells(tmp_path, "--budget 640images --seeds 0,1")
    assert list(values["table"]["verdict"].isna()) == [True, False, False, False]
    for name in ("effects", "cost", "curves"):
        assert min(values[name].size) > 300, name


@pytest.mark.slow
def test_the_notebooks_verdicts_are_those_it_shows(tmp_path: Path) -> None:
    table = run_cells(tmp_path)["table"]
    shown = re.findall(r"<td>(better|worse|inconclusive)</td>", stored("table", "text/html"))
    assert list(table["verdict"].dropna()) == shown == ["worse", "inconclusive", "worse"]


def stored(cell: str, kind: str) -> str:
    """Return a stored output of a cell."""
    (found,) = [one for one in CODE if one["id"] == cell]
    return "".join(next(output["data"][kind] for output in found["outputs"] if kind in output.get("data", {})))


def test_the_notebook_shows_its_outputs_and_is_small() -> None:
    for cell in CODE:
        assert cell["outputs"] and not any(output["output_type"] == "error" for output in cell["outputs"]), cell["id"]
    for name in ("effects", "cost", "curves"):
        assert Image.open(io.BytesIO(base64.b64decode(stored(name, "image/png")))).format == "PNG"
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert not re.search(r"/(home|root|tmp|Users)/|\\u001b", text)  # no machine's paths, no terminal's colors


def test_the_notebooks_links_lead_somewhere() -> None:
    links = re.findall(
        r"\]\(([^)#]+)", "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    )
    assert links
    for link in links:
        assert (NOTEBOOK.parent / link).exists(), link
