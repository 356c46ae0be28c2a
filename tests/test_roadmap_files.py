"""Roadmaps of one's own: a YAML file where a roadmap's name may stand, kept in the study's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ablations_here
from made_up import made_up_study

import modernize
from ablations.errors import RequestError
from ablations.reporting import read_report
from ablations.studies.folder import open_folder, read_study
from ablations.studies.load import load_study
from modernize import DesignError
from modernize.roadmap import NAMES, roadmap, stored_roadmap
from modernize.roadmap_file import is_roadmap, parse_roadmap, shipped
from reports.formats import markdown

FIRST = {"depths": "1-1", "width": 4, "stem": "patchify", "stem_stride": 2}
MINE: dict[str, Any] = {
    "source": "Somebody et al. 2025, ImageNet at 224 px",
    "base": FIRST,
    "image_size": 16,
    "in_channels": 1,
    "num_classes": 10,
    "steps": [
        {"name": "start", "label": "tiny ResNet", "printed": {"top1": 76.1, "top1_std": 0.1, "gflops": 4.09}},
        {
            "name": "wide",
            "label": "wide kernels",
            "group": "spatial",
            "flags": {"depthwise": True, "kernel_size": 7},
            "printed": {"top1": 77.0},
        },
        {"name": "wider", "group": "spatial", "flags": {"kernel_size": 9}, "adopted": False, "printed": {"top1": 77.1}},
        {"name": "ln", "flags": {"norm": "ln"}, "printed": {"top1": 76.9}},
    ],
}


def written(folder: Path, contents: Any = MINE, name: str = "my-roadmap.yaml") -> str:
    text = contents if isinstance(contents, str) else yaml.safe_dump(contents, sort_keys=False)
    (folder / name).write_text(text)
    return str(folder / name)


def changed(step: int | None = None, **changes: Any) -> dict[str, Any]:
    """The file with keys changed, or those of a step; None removes one."""
    contents: dict[str, Any] = json.loads(json.dumps(MINE))
    (contents if step is None else contents["steps"][step]).update(changes)
    place = contents if step is None else contents["steps"][step]
    for key in [key for key, value in place.items() if value is None]:
        del place[key]
    return contents


def without_numbers() -> dict[str, Any]:
    steps = [{key: value for key, value in step.items() if key != "printed"} for step in MINE["steps"]]
    return {key: value for key, value in MINE.items() if key != "source"} | {"steps": steps}


def test_a_file_is_a_roadmap(tmp_path: Path) -> None:
    path = written(tmp_path)
    steps = roadmap(path)
    first = modernize.Design().with_flags(FIRST)
    assert [row.name for row in steps.rows] == ["start", "wide", "wider", "ln"]
    assert [row.label for row in steps.rows] == ["tiny ResNet", "wide kernels", "wider", "ln"]
    wide = first.with_flags({"depthwise": True, "kernel_size": 7})
    designs = [first, wide, wide.with_flags({"kernel_size": 9}), wide.with_flags({"norm": "ln"})]
    assert [row.design for row in steps.rows] == designs  # a side branch is not built on
    assert modernize.design(path) == first and modernize.design(f"{path}@ln,width=8").width == 8
    assert steps.source.short == "Somebody et al. 2025" and (steps.image_size, steps.num_classes) == (16, 10)
    assert roadmap(f"{path},width=8,depths=2-2").row("ln").design.depths == (2, 2)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_roadmaps_are_files_as_a_users(name: str, tmp_path: Path) -> None:
    source = Path(modernize.__file__).parent / "roadmaps" / f"{name}.yaml"
    copied = roadmap(written(tmp_path, source.read_text()))
    assert (copied.rows, copied.extras, copied.source) == (roadmap(name).rows, roadmap(name).extras, copied.source)
    contents = shipped(name)
    assert parse_roadmap(contents.as_values(), "x").as_values() == contents.as_values()
    assert str(parse_roadmap(contents.as_values(), "x")) == str(contents)  # NaN is where it was


def test_a_base_may_be_a_row_or_another_file_but_not_itself(tmp_path: Path) -> None:
    path = written(tmp_path)
    other = written(tmp_path, changed(base=f"{path}@ln", steps=[{"name": "start"}]), "other.yaml")
    assert modernize.design(other) == modernize.design(f"{path}@ln")
    assert (
        roadmap(written(tmp_path, changed(base="pocket@gelu", steps=[{"name": "a"}]), "b.yaml"))
        .rows[0]
        .design.activation
        == "gelu"
    )
    loop = written(tmp_path, changed(base=f"{other}@start"), "my-roadmap.yaml")
    with pytest.raises(DesignError, match="base: the file leads to itself"):
        roadmap(loop)


BROKEN: dict[str, tuple[Any, str]] = {
    "no YAML": ("steps: [", "line 1: not YAML"),
    "no mapping": ("- 1", "must contain keys and values"),
    "no steps": (changed(steps=None), "steps is missing: a list of steps"),
    "empty steps": (changed(steps=[]), "steps=[]: must be a list of steps"),
    "a step that is text": (changed(steps=["wide"]), "step 1=wide: must contain keys and values"),
    "unknown key": (changed(in_chanels=3), "unknown key 'in_chanels': did you mean 'in_channels'?"),
    "unknown key of a step": (changed(1, flag={}), "step 2: unknown key 'flag': did you mean 'flags'?"),
    "no base": (changed(base=None), "base is missing: the first row's design, such as base: resnet50"),
    "unknown base": (changed(base="resnet51"), "base: unknown design 'resnet51': did you mean 'resnet50'?"),
    "wrong base": (changed(base={"width": 0}), "base: width=0: must be from 1 to 100000; nearest valid value: 1"),
    "no name": (changed(1, name=None), "step 2: name is missing, such as name: wide"),
    "name of a folder": (changed(1, name="a/b"), "step 2: name=a/b: use letters, digits and - _ . only"),
    "name twice": (changed(1, name="ln"), "step ln: the name is there twice; each row needs its own"),
    "unknown flag": (changed(1, flags={"kernel": 7}), "step wide: unknown flag 'kernel': did you mean 'kernel_size'?"),
    "wrong value": (changed(1, flags={"kernel_size": 8}), "step wide: kernel_size=8: must be odd; nearest valid"),
    "value as it was": (changed(1, flags={"norm": "bn"}), "step wide: norm=bn is the value already; leave it out"),
    "first step": (changed(0, flags={"norm": "ln"}), "step start: the first step is the base and changes nothing"),
    "first step aside": (changed(0, adopted=False), "step start: adopted=false: the first step is the base"),
    "switch": (changed(2, adopted="no"), "step wider: adopted=no: must be true or false"),
    "label": (changed(2, label=5), "step wider: label=5: must be text; put it in quotes"),
    "image size": (changed(image_size="224 px"), "image_size=224 px: must be an integer"),
    "too many channels": (changed(in_channels=0), "in_channels=0: must be from 1 to 100000"),
    "unknown result": (changed(1, printed={"top5": 9}), "step wide: printed: unknown key 'top5': did you mean 'top1'?"),
    "result as text": (changed(1, printed={"top1": "77%"}), "step wide: printed: top1=77%: must be a number (percent"),
    "impossible result": (changed(1, printed={"top1": 770}), "step wide: printed: top1=770: must be a number (percent"),
    "deviation alone": (changed(1, printed={"top1_std": 0.1}), "step wide: printed: top1_std=0.1: only beside top1"),
    "source": (changed(source=[1]), "source=[1]: must contain keys and values, such as text: …"),
    "key of the source": (changed(source={"txt": "x"}), "source: unknown key 'txt': did you mean 'text'?"),
    "too small": (changed(image_size=1), "step start: "),
    "flags of a recipe": (changed(1, flags={"recipe.mixup": 1}), "step wide: recipe.mixup: write it under recipe"),
    "recipe as text": (changed(1, recipe="quick"), "step wide: recipe=quick: must be settings and values"),
    "number without end": (changed(1, printed={"gflops": float("inf")}), "step wide: printed: gflops=inf: must be a"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_line_with_file_place_and_right_value(case: str, tmp_path: Path) -> None:
    contents, words = BROKEN[case]
    path = written(tmp_path, contents)
    for command in (("run", "roadmap", "--base", path, "--dry-run"), ("count", "--roadmap", path)):
        done = ablations_here(*command)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
        assert path in done.stderr and words in done.stderr


def test_a_file_of_flags_is_no_roadmap_and_a_missing_one_is_missed(tmp_path: Path) -> None:
    design = written(tmp_path, FIRST, "design.yaml")
    assert not is_roadmap(FIRST)
    for name, words in (
        (design, f"roadmap {design}: holds a design's flags and no steps"),
        (str(tmp_path / "no.yaml"), "no.yaml: no such file"),
    ):
        done = ablations_here("count", "--roadmap", name)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1
    done = ablations_here("count", f"{written(tmp_path)}@wid")
    assert done.returncode == 2 and "unknown row 'wid' of roadmap" in done.stderr and "'wide'" in done.stderr


def test_commands_take_a_file_where_a_roadmaps_name_may_stand(tmp_path: Path) -> None:
    path = written(tmp_path)
    counted = json.loads(ablations_here("count", "--roadmap", path, "--format", "json").stdout)
    assert [row["row"] for row in counted] == ["start", "wide", "wider", "ln"]
    assert [row.get("paper_gflops") for row in counted] == [4.09, None, None, None]
    shown = ablations_here("show", f"{path}@wide").stdout
    assert "1×16×16" in shown and "7×7" in shown
    compared = " ".join(ablations_here("compare", f"{path}@start", f"{path}@wide").stdout.split())
    assert "top-1 (%), Somebody et al. 2025" in compared and "Somebody et al. 2025, ImageNet at 224 px" in compared
    assert "the paper" not in compared.lower()


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("one-in", ["base", "with-depthwise", "with-kernel_size", "with-norm"]),
        ("one-out", ["end", "without-depthwise", "without-kernel_size", "without-norm"]),
        ("screen", None),
        ("orders", None),
    ],
)
def test_studies_of_flags_start_at_the_file_and_end_at_its_last_row(
    kind: str, rows: list[str] | None, tmp_path: Path
) -> None:
    path = written(tmp_path, MINE | {"steps": [*MINE["steps"], {"name": "k", "flags": {"width": 8}, "adopted": False}]})
    study = load_study(kind, {"base": path, "data": "digits"}, {})
    assert rows is None or [row.row for row in study.rows] == rows
    flags = list(study.screen.flags) if study.screen else study.orders[0] if study.orders else None
    assert flags is None or flags == ["depthwise", "kernel_size", "norm"]  # in the file's order
    assert study.steps.base == path and all(row.flags["width"] == 4 for row in study.rows)


def test_a_folder_keeps_the_roadmap_that_its_file_may_lose(tmp_path: Path) -> None:
    path, folder = written(tmp_path), tmp_path / "study"
    made_up_study(folder, base=path, seeds=(0, 1))
    Path(path).unlink()
    study = read_study(folder)
    assert study.steps.rows == stored_roadmap(path, parse_roadmap(study.roadmap or {}, "x")).rows
    assert ablations_here("report", folder, "--format", "html").returncode == 0
    assert ablations_here("status", folder).returncode == 0
    assert load_study(str(folder), {"seeds": [0, 1, 2]}, {}).rows == study.rows


def test_words_and_results_may_change_and_steps_be_added_but_no_step_that_was_run(tmp_path: Path) -> None:
    folder = tmp_path / "study"

    def again(contents: dict[str, Any]) -> None:
        written(tmp_path, contents)
        open_folder(load_study("roadmap", {"base": path, "data": "digits"}, {}), folder)

    path = written(tmp_path)
    again(MINE)
    again(changed(1, printed={"top1": 78.0}, group="convolutions"))
    assert read_study(folder).steps.row("wide").printed.top1 == 78.0
    again(MINE | {"steps": [*MINE["steps"], {"name": "gelu", "flags": {"activation": "gelu"}}]})
    assert [row.row for row in read_study(folder).rows][-2:] == ["ln", "gelu"]
    with pytest.raises(RequestError, match=r"lacks row gelu; rows\.wide\.flags\.kernel_size was 7 and is now 5"):
        again(changed(1, flags={"depthwise": True, "kernel_size": 5}))


def test_a_report_speaks_of_its_source(tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", base=written(tmp_path), seeds=(0, 1))
    report = read_report(study, tmp_path / "study")
    table = markdown(report.tables[0])
    assert "top-1 (%) (Somebody et al. 2025)" in table and "Printed: Somebody et al. 2025, ImageNet at 224 px" in table
    notes = " ".join(report.summary.notes)
    assert "Agreement with Somebody et al. 2025: Spearman's rank correlation of the changes over 2 adopted" in notes
    assert "4 rows of one recipe ordered as in Somebody et al. 2025" in notes and "Simulated re-runs of" in notes
    plots = {plot.name: plot for plot in report.plots}
    words = " ".join([table, notes, *(f"{plot.title} {plot.caption}" for plot in report.plots)])
    assert "paper" not in words and "in Somebody et al. 2025" in plots["against-paper"].title
    drawn = [text.get_text() for axes in plots["against-paper"].figure.axes for text in [axes.xaxis.label]]
    assert "change in top-1 in Somebody et al. 2025 (pp)" in drawn
    assert any(text.get_text() == "Somebody et al. 2025" for text in plots["roadmap"].figure.texts)


def test_a_report_without_printed_results_has_none(tmp_path: Path) -> None:
    study = made_up_study(tmp_path / "study", base=written(tmp_path, without_numbers()), seeds=(0, 1))
    report = read_report(study, tmp_path / "study")
    assert [column.name for column in report.tables[0].columns][-1] == "change"
    assert "against-paper" not in [plot.name for plot in report.plots]
    assert not any("greement" in note for note in report.summary.notes)
    figure = report.plots[0].figure
    assert len(figure.axes) == 2 and "source" not in " ".join(text.get_text() for text in figure.texts)
    assert "source" not in markdown(report.tables[0])


def test_the_docs_show_the_file_that_their_commands_use() -> None:
    docs = Path(__file__).parent.parent / "docs"
    assert f"```yaml\n{(docs / 'my-roadmap.yaml').read_text()}```" in (docs / "roadmaps.md").read_text()
