"""The published results: every table and every generated part of the pages is what the published CSV files give."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ablations.studies.combined import load_combined
from ablations.studies.folder import read_study
from ablations.studies.load import load_study
from reports.write import write_report

HOME = Path(__file__).parent.parent
RESULTS = HOME / "docs/results"
STUDIES = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("study.yaml"))
EDITIONS = ("first-edition", "second edition")


@pytest.fixture(scope="module")
def module() -> Iterator[Callable[[str], ModuleType]]:
    """Import a module beside the one command that makes them again."""
    sys.path.insert(0, str(RESULTS))
    yield importlib.import_module
    sys.path.remove(str(RESULTS))


def file_of(name: str) -> Path:
    """The file that a published study was run from."""
    if name.startswith("first-edition/"):
        return RESULTS / "first-edition/studies" / f"{name.removeprefix('first-edition/')}.yaml"
    if name.startswith("settings/"):
        return RESULTS / "settings/studies" / f"{name.removeprefix('settings/')}.yaml"
    return RESULTS / "studies" / f"{name}.yaml"


@pytest.mark.parametrize("place", range(2), ids=EDITIONS)
def test_the_pages_are_as_generated(module: Callable[[str], ModuleType], place: int) -> None:
    edition = module("regenerate").EDITIONS[place]
    blocks = edition.blocks()
    used: set[str] = set()
    for page in edition.pages:
        text = page.read_text(encoding="utf-8")
        used |= set(re.findall(r"<!-- ([\w-]+) -->\n", text)) - {"end"}
        assert module("edition").filled(text, blocks) == text, page.name
    assert used == set(blocks) or (place == 1 and used < set(blocks))


@pytest.mark.parametrize("place", range(2), ids=EDITIONS)
def test_every_published_table_is_as_generated(module: Callable[[str], ModuleType], place: int, tmp_path: Path) -> None:
    edition = module("regenerate").EDITIONS[place]
    for name in edition.studies:
        written = write_report(edition.report(name), tmp_path / name, ["markdown", "csv", "latex"])
        for path in written:
            assert path.read_bytes() == (edition.folder / name / path.relative_to(tmp_path / name)).read_bytes(), path


@pytest.mark.parametrize("name", STUDIES)
def test_a_published_study_is_the_file_it_was_run_from(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HOME)  # where the paths in the files start
    ran, file = read_study(RESULTS / name), load_study(str(file_of(name)), {}, {})
    kept = {"rows", "evaluate", "base", "data", "budget"}
    assert ran.model_dump(include=kept) == file.model_dump(include=kept)
    assert (ran.stages[0].seeds if ran.precision else ran.seeds) == file.seeds and ran.precision == file.precision


def test_the_studies_that_ship_are_those_published_with_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HOME)
    shipped = [load_study("quick", {}, {}), *load_combined("desk", {}, {}).studies.values()]
    files = ["roadmap", *(f"desk/{name}" for name in ("01", "03", "10", "12"))]
    for study, name in zip(shipped, files, strict=True):
        published = load_study(str(RESULTS / f"studies/{name}.yaml"), {}, {})
        kept = {"rows", "recipes", "evaluate", "base", "data", "budget", "measure"}
        assert study.model_dump(include=kept) == published.model_dump(include=kept)
        assert not set(study.seeds) & set(published.seeds)


def test_all_were_published_and_done(module: Callable[[str], ModuleType]) -> None:
    first = RESULTS / "first-edition/studies"
    files = {f"first-edition/{path.relative_to(first).with_suffix('')}" for path in first.rglob("*.yaml")}
    assert {name for name in STUDIES if name.startswith("first-edition/")} == files
    for name in STUDIES:
        assert (module("edition").report_of(RESULTS / name).runs["status"] == "done").all(), name


def test_each_step_is_counted_by_its_verdict_and_its_sign(module: Callable[[str], ModuleType]) -> None:
    report = module("edition").report_of(RESULTS / "first-edition/confirmation")
    parts = module("second_edition").roadmap_blocks(report, "one")
    _head, _marks, *lines = parts["steps-one"].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    verdicts = report.tables[-1].frame["verdict"]
    significant = verdicts.isin(["better", "worse"]).sum()
    assert f"Significant here: {significant} of {len(lines)} steps." in parts["steps-one"] and len(lines) == 16
    for _label, small, large, here, _interval, _verdict, same_small, same_large in cells:
        for paper, same in ((small, same_small), (large, same_large)):
            assert same == ("–" if paper == "0.00" else "same" if paper[0] == here[0] else "opposite")
    assert f"ResNet-50 regime: {sum(line[6] == 'same' for line in cells)} of 16 steps" in parts["steps-one"]
    assert parts["agreement-table-one"].count("ResNet-200 regime |") == 3  # by two measures, and the two regimes
