"""The published results: every table and every generated part of the pages is what the published CSV files give."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from ablations.studies.folder import read_study
from ablations.studies.load import load_study
from reports.write import write_report

HOME = Path(__file__).parent.parent
RESULTS = HOME / "docs/results"
STUDIES = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("study.yaml"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The one command that makes them again."""
    spec = importlib.util.spec_from_file_location("regenerate", RESULTS / "regenerate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["regenerate"] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_as_generated(script: ModuleType) -> None:
    blocks = script.blocks()
    used: set[str] = set()
    for page in script.PAGES:
        text = page.read_text(encoding="utf-8")
        used |= set(re.findall(r"<!-- ([\w-]+) -->\n", text)) - {"end"}
        assert script.filled(text, blocks) == text, page.name
    assert used == set(blocks)


def test_every_published_table_is_as_generated(script: ModuleType, tmp_path: Path) -> None:
    for name in script.MAIN:
        written = write_report(script.report_of(name), tmp_path / name, ["markdown", "csv", "latex"])
        for path in written:
            assert path.read_bytes() == (RESULTS / name / path.relative_to(tmp_path / name)).read_bytes(), path


@pytest.mark.parametrize("name", STUDIES)
def test_a_published_study_is_the_file_it_was_run_from(name: str) -> None:
    ran, file = read_study(RESULTS / name), load_study(str(RESULTS / "studies" / f"{name}.yaml"), {}, {})
    kept = {"rows", "seeds", "evaluate", "base", "data", "budget"}
    assert ran.model_dump(include=kept) == file.model_dump(include=kept)


def test_all_were_published_and_done(script: ModuleType) -> None:
    files = {
        path.relative_to(RESULTS / "studies").with_suffix("").as_posix() for path in RESULTS.rglob("studies/**/*.yaml")
    }
    assert set(STUDIES) == files
    for name in STUDIES:
        runs = script.report_of(name).runs
        assert (runs["status"] == "done").all(), name
