"""Studies of several studies: one file and one folder, each study as it is alone, and one line for what is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from commands import ablations_here, environment
from commands import command as command_line

from ablations.cli import combined as command
from ablations.errors import RequestError, RunError
from ablations.launch import claim
from ablations.studies import combined
from ablations.studies.combined import CombinedStudy, is_combined, load_combined, read_combined, study_folders
from ablations.studies.folder import read_study

# Two networks of a few thousand parameters, under settings in which each trains for three or four steps.
DESIGNS = [{"design": "pocket,depths=1-1,width=4", "name": "bn"}, {"design": "pocket,depths=1-1,width=4,norm=ln"}]
SMALL = {"kind": "designs", "recipe": "quick,learning_rate=2e-3", "budget": "96 images"}
LONG = {"kind": "designs", "recipe": "quick,init=kaiming", "budget": "128 images"}
FILE: dict[str, Any] = {"kind": "combined", "studies": {"small": SMALL, "long": LONG}, "designs": DESIGNS}
FILE |= {"data": "digits", "seeds": [0]}
SET = ("--set", "batch_size=32", "--set", "precise_bn=64", "--jobs", "1", "--threads", "1")
RESULTS = ("weights_sha256", "top1", "loss", "images_seen")


def written(folder: Path, values: dict[str, Any], name: str = "two.yaml") -> Path:
    (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / name


def changed(**studies: Any) -> dict[str, Any]:
    """The file with keys of its studies changed."""
    return FILE | {"studies": {name: one | studies.get(name, {}) for name, one in FILE["studies"].items()}}


def ran(folder: Path) -> dict[str, dict[str, Any]]:
    """What determines a study's results, and their checksums, by run."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("runs/*/result.json")}
    return {name: {key: result.get(key) for key in RESULTS} for name, result in sorted(found.items())}


def statuses(folder: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["status"] for path in folder.glob("runs/*/result.json")}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the file was run to its end; tests that change it copy it."""
    place = tmp_path_factory.mktemp("combined")
    said = ablations_here("run", written(place, FILE), "--out", place / "two", *SET)
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    begins = [lines.index(f"two: study {number} of 2: {name}") for number, name in ((1, "small"), (2, "long"))]
    assert lines[begins[0] + 1].startswith("small: 2 runs, 0 finished") and begins[0] < begins[1]
    assert [line for line in lines[begins[1] :] if line == "two: each design against the baseline"], (
        said.stdout
    )  # the table of means
    return place / "two"


@pytest.fixture
def copied(done: Path, tmp_path: Path) -> Path:
    return shutil.copytree(done, tmp_path / "two")


# ---- the folder


def test_a_folder_has_an_ordinary_folder_per_study(done: Path) -> None:
    assert list(study_folders(done)) == ["small", "long"]
    for name, (study, folder) in read_combined(done).items():
        assert study == read_study(folder) and (study.name, study.seeds) == (name, [0])
        assert [row.row for row in study.rows] == ["bn", "pocket,depths=1-1,width=4,norm=ln"]
        assert set(statuses(folder).values()) == {"done"} and (folder / "results.csv").exists()
    assert {path.name for path in done.iterdir() if path.name[0] != "."} == {"small", "long", "combined.yaml"}


def test_a_study_of_several_is_the_same_as_alone(done: Path, tmp_path: Path) -> None:
    for name, keys in FILE["studies"].items():
        alone = written(tmp_path, {**keys, "designs": DESIGNS, "data": "digits"}, f"{name}.yaml")
        assert ablations_here("run", alone, "--out", tmp_path / name, *SET).returncode == 0
        assert ran(tmp_path / name) == ran(done / name) and len(ran(done / name)) == 2
        study, alike = read_study(tmp_path / name), read_study(done / name)
        assert study.model_copy(update={"asked": None, "stages": []}) == alike.model_copy(
            update={"asked": None, "stages": []}
        )


def test_a_finished_folder_is_shown_resumed_and_run_again_by_its_file(copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("result.json")}
    status = ablations_here("status", copied).stdout.splitlines()
    assert status[0].startswith("two: 2 studies, 4 runs: 4 finished, 0 running")
    assert [line.split(":")[0] for line in status[1:]] == ["  small  2 runs", "  long   2 runs"]
    planned = ablations_here("run", copied, "--dry-run")
    assert planned.returncode == 0 and planned.stdout.endswith("two: 2 studies, 4 runs\nnothing is left to train\n")
    for again in (copied, written(copied.parent, FILE), copied / "combined.yaml"):
        options = ("--out", copied, *SET) if again.name == "two.yaml" else ("--jobs", "1")
        said = ablations_here("run", again, *options)
        assert said.returncode == 0, said.stderr
        assert "small: 2 runs, 2 finished" in said.stdout and "started" not in said.stdout
    assert {path: path.read_bytes() for path in copied.rglob("result.json")} == before


def test_a_study_of_a_folder_is_one_like_any_other(copied: Path, tmp_path: Path) -> None:
    for arguments in (("status",), ("pack", "--to", tmp_path / "small.zip"), ("report", "--format", "csv")):
        said = ablations_here(arguments[0], copied / "small", *arguments[1:])
        assert said.returncode == 0, said.stderr
    for name in ("pack", "export"):
        said = ablations_here(name, copied)
        assert said.returncode == 2 and said.stderr.count("\n") == 1, said.stderr
    assert f"name one of them, such as {copied / 'long'}" in ablations_here("pack", copied).stderr


def test_the_report_of_a_folder_has_the_means_over_its_studies(copied: Path) -> None:
    said = ablations_here("report", copied, "--format", "table,csv")
    assert said.returncode == 0 and "mean over 2 studies" in " ".join(said.stdout.split()), said.stderr
    means = pd.read_csv(copied / "report/tables/combined.csv")
    tops = [[ran(folder)[f"{row}-s0"]["top1"] for row in means["row"]] for _, folder in read_combined(copied).values()]
    assert list(means["mean"]) == pytest.approx([sum(pair) / 2 for pair in zip(*tops, strict=True)])
    again = ablations_here("run", written(copied.parent, FILE), "--out", copied, "--dry-run", *SET)
    assert again.returncode == 0, again.stderr  # beside a report, too


def test_seeds_are_added_to_every_study(copied: Path) -> None:
    before = {name: ran(copied / name) for name in ("small", "long")}
    said = ablations_here("run", copied, "--seeds", "0,5", "--jobs", "1", "--threads", "1")
    assert said.returncode == 0, said.stderr
    for name, (study, folder) in read_combined(copied).items():
        assert study.seeds == [0, 5] and len(study.stages) == 2
        assert len(ran(folder)) == 4 and before[name].items() <= ran(folder).items()


def test_a_folder_is_begun_anew_elsewhere(copied: Path, tmp_path: Path) -> None:
    said = ablations_here("run", copied / "combined.yaml", "--out", tmp_path / "new", "--seeds", "4", "--dry-run")
    assert said.returncode == 0 and "two: 2 studies, 4 runs" in said.stdout, said.stderr
    assert "seed 4 of each row" in said.stdout and not (tmp_path / "new").exists()


# ---- interrupted, failed


def test_interrupted_between_studies_it_stops_and_resumes(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.run_stages

    def interrupted(session: Any, launcher: Any) -> int:
        if session.study.name == "long":
            raise KeyboardInterrupt
        return real(session, launcher)

    with monkeypatch.context() as patch:
        patch.setattr(command, "run_stages", interrupted)
        said = ablations_here("run", written(tmp_path, FILE), "--out", tmp_path / "out", *SET)
    assert said.returncode == 130 and said.stderr == "ablations: interrupted; rerun the command to resume\n"
    assert ran(tmp_path / "out/small") == ran(done / "small") and ran(tmp_path / "out/long") == {}
    status = ablations_here("status", tmp_path / "out").stdout
    assert "out: 2 studies, 4 runs: 2 finished" in status and "2 pending" in status
    planned = ablations_here("run", tmp_path / "out", "--dry-run").stdout
    assert "about " in planned and "long: 2 runs of 2 rows on digits\n" in planned
    assert ablations_here("run", tmp_path / "out", "--jobs", "1", "--threads", "1").returncode == 0
    assert ran(tmp_path / "out/long") == ran(done / "long")


# Ctrl-C as the first checkpoint is written. The signal reaches the worker before its next step, so the run stops after
# two of its three steps, however fast they are.
CTRL_C = """
import os, signal, sys, time
sent = []
def hook(event, args):
    if event == "os.rename" and "/checkpoints/" in str(args[1]) and not sent:
        sent.append(os.getppid())
        came, handler = [], signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, lambda *args: came.append(handler(*args)))
        os.kill(sent[0], signal.SIGINT)
        while not came and os.getppid() == sent[0]:
            time.sleep(0.01)
sys.addaudithook(hook)
"""


def test_interrupted_within_a_study_it_stops_and_resumes(done: Path, tmp_path: Path) -> None:
    """The first study is interrupted within its first run; the second is not begun."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(CTRL_C)
    said = subprocess.run(
        command_line("run", written(tmp_path, FILE), "--out", tmp_path / "out", "--set", "checkpoint_steps=1", *SET),
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{Path(__file__).parent.parent}"},
        timeout=600,
    )
    assert (said.returncode, said.stderr) == (130, "ablations: interrupted; rerun the command to resume\n")
    assert "study 2" not in said.stdout and not (tmp_path / "out/long/runs").exists()
    assert statuses(tmp_path / "out/small") == {}
    assert [one.seeds for one, _ in read_combined(tmp_path / "out").values()] == [[0], [0]]
    assert not list(tmp_path.rglob("*.tmp"))
    status = ablations_here("status", tmp_path / "out").stdout
    assert "out: 2 studies, 4 runs: 0 finished, 0 running, 1 interrupted" in status
    again = ablations_here("run", tmp_path / "out", "--jobs", "1", "--threads", "1")
    assert again.returncode == 0 and "small: 2 runs, 0 finished" in again.stdout, again.stderr
    for name in ("small", "long"):
        assert ran(tmp_path / "out" / name) == ran(done / name) and len(ran(done / name)) == 2


def test_failed_runs_are_reported_and_the_other_studies_go_on(tmp_path: Path) -> None:
    file = written(tmp_path, changed(small={"recipe": "quick,learning_rate=1e30,clip_norm=null"}))
    said = ablations_here("run", file, "--out", tmp_path / "out", *SET)
    assert said.returncode == 1 and "run bn-s0 failed: " in said.stderr
    assert "failed" in statuses(tmp_path / "out/small").values()
    assert set(statuses(tmp_path / "out/long").values()) == {"done"}


def test_a_study_that_cannot_be_run_does_not_keep_the_others_from_it(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given_up(session: Any, launcher: Any) -> int:
        begun.append(session.study.name)
        raise RunError("no worker can start")

    begun: list[str] = []
    monkeypatch.setattr(command, "run_stages", given_up)
    said = ablations_here("run", copied, "--jobs", "1")
    assert (said.returncode, begun) == (1, ["small", "long"])
    assert said.stderr == "ablations: small: no worker can start\nablations: long: no worker can start\n"


# ---- planned


def test_a_dry_run_counts_all_and_writes_nothing(tmp_path: Path) -> None:
    said = ablations_here("run", written(tmp_path, FILE), "--seeds", "0,1", "--dry-run", *SET, cwd=tmp_path)
    lines = [line for line in said.stdout.splitlines() if ": warning: " not in line]
    assert said.returncode == 0, said.stderr
    assert lines[0] == "small: 4 runs of 2 rows on digits" and "seeds 0, 1 of each row; budget 96 images" in lines[1]
    assert lines[2] == "long: 4 runs of 2 rows on digits" and "recipe quick,init=kaiming" in lines[3]
    assert lines[4] == "two: 2 studies, 8 runs" and lines[5].startswith("about ")
    jobs = ablations_here("run", "two.yaml", "--cluster", "local", "--cpus", "2", "--dry-run", cwd=tmp_path).stdout
    assert jobs.splitlines()[-1] == "one job per run on local, 1 at once, 1 processes each: cpus 2"
    assert [path.name for path in tmp_path.iterdir()] == ["two.yaml"]


def test_keys_beside_studies_hold_for_those_that_lack_them(tmp_path: Path) -> None:
    (tmp_path / "settings").mkdir()
    other = {"kind": "designs", "designs": DESIGNS, "seeds": [7], "data": "digits"}
    written(tmp_path / "settings", other, "other.yaml")
    values = changed(long={"seeds": [3]}) | {"seeds": [1, 2], "evaluate": "validation"}
    values["studies"] |= {"other": "settings/other.yaml"}
    found = loaded(tmp_path, values)
    assert [(one.name, one.seeds, one.evaluate) for one in found.studies.values()] == [
        ("small", [1, 2], "validation"),
        ("long", [3], "validation"),
        ("other", [7], "validation"),
    ]
    assert found.name == "two" and found.studies["other"].data == "digits"
    over = load_combined(str(tmp_path / "two.yaml"), {"seeds": [5], "budget": "1 epoch"}, {"batch_size": "64"})
    assert {(*one.seeds, one.budget) for one in over.studies.values()} == {(5, "1 epoch")}
    assert {one.batch_size for study in over.studies.values() for one in study.recipes.values()} == {64}


def loaded(folder: Path, values: dict[str, Any]) -> CombinedStudy:
    name = str(written(folder, values))
    assert is_combined(name)
    return load_combined(name, {}, {})


def test_a_shipped_study_may_be_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combined, "study_names", lambda: ["several"])
    monkeypatch.setattr(combined, "shipped", lambda folder, name: FILE)
    assert is_combined("several")
    found = load_combined("several", {"seeds": [2]}, {})
    assert (found.name, [one.seeds for one in found.studies.values()]) == ("several", [[2], [2]])
    with pytest.raises(RequestError, match="study several: --data: not for several studies at once; write a study"):
        load_combined("several", {"data": "cifar10"}, {})


# ---- wrong requests

ROADMAP = {"kind": "roadmap", "base": "pocket"}
NAMED = "must be valid for a folder, such as "
WRONG_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "no studies": ({"kind": "combined"}, "studies is missing"),
    "one": ({"kind": "combined", "studies": {"a": ROADMAP}}, "studies: write at least two"),
    "a list": (
        {"kind": "combined", "studies": ["a.yaml", "b.yaml"]},
        "studies: write the keys of each study under its",
    ),
    "a path": ({**FILE, "studies": {"a": SMALL, "b/c": LONG}}, f"studies: name 'b/c' {NAMED}'b-c'"),
    "above": ({**FILE, "studies": {"a": SMALL, "..": LONG}}, f"studies: name '..' {NAMED}'first'"),
    "a number": ({**FILE, "studies": {1: SMALL, "b": LONG}}, "studies: a name is text; write '1' in quotes"),
    "taken": ({**FILE, "studies": {"report": SMALL, "b": LONG}}, "studies: name 'report' is reserved"),
    "long": ({**FILE, "studies": {"a" * 300: SMALL, "b": LONG}}, "has 300 characters; choose one of at most 240"),
    "alike": ({**FILE, "studies": {"a": SMALL, "A": LONG}}, "studies: 'a' names two studies on disks"),
    "no keys": ({**FILE, "studies": {"a": SMALL, "b": 3}}, "studies: b: write the keys of a study, or the path"),
    "a name": ({**FILE, "studies": {"a": SMALL, "b": "quick"}}, "studies: b: write the keys of a study, or the path"),
    "no file": ({**FILE, "studies": {"a": SMALL, "b": "no.yaml"}}, "no.yaml: no such file"),
    "combined": ({**FILE, "studies": {"a": SMALL, "b": FILE}}, "studies: b: a combined study cannot be part of"),
    "itself": ({**FILE, "studies": {"a": SMALL, "b": "two.yaml"}}, "studies.b: two.yaml: a combined study cannot be"),
    "a key": ({**FILE, "seedz": [0]}, "unknown key 'seedz': did you mean 'seeds'?"),
    "an inner key": (changed(long={"seedz": [0]}), "studies.long: unknown key 'seedz': did you mean 'seeds'?"),
    "a value": (changed(long={"budget": "5"}), "studies.long: budget '5': write epochs or images"),
    "rows": (changed(long={"designs": [*DESIGNS, "pocket"]}), "'pocket'"),
    "comparisons": (changed(long={"compared_with": DESIGNS[1]["design"]}), "long compares row 'bn' with"),
    "measure": (changed(long={"measure": "loss"}), "measure is loss"),
    "precision": (changed(small={"precision": 0.5}), "studies.small: precision: more seeds may never"),
    "orders": (
        {"kind": "combined", "base": "pocket", "flags": ["norm", "depthwise"], "data": "digits"}
        | {"studies": {"a": {"kind": "orders"}, "b": {"kind": "orders", "budget": "1 epoch"}}},
        "orders",
    ),
    "too few images": (changed(long={"recipe": "quick,batch_size=5000"}), "batch_size=5000"),
}
WRONG_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "base": (("--base", "pocket"), "study two.yaml: --base: not for several studies at once; edit it in two.yaml"),
    "flags": (("--flags", "norm"), "--flags: not for several studies"),
    "recipe": (("--recipe", "quick"), "--recipe: not for several studies"),
    "data": (("--data", "cifar10"), "--data: not for several studies"),
    "max seeds": (("--max-seeds", "4"), "--max-seeds: not for several studies"),
    "precision": (("--precision", "0.5"), "--precision: not for several studies"),
    "set": (("--set", "learning_rat=1"), "unknown key 'learning_rat'"),
    "seeds": (("--seeds", "0,0"), "seeds=[0, 0]: list each once"),
    "resolve": (("--resolve", "norm:stem"), "only for the kind screen"),
    "device": (("--device", "cpux"), "cpux"),
    "partition": (("--partition", "gpu"), "--partition: only with --cluster"),
}


def refused(said: subprocess.CompletedProcess[str], says: str) -> None:
    assert said.returncode == 2 and said.stderr.count("\n") == 1 and says in said.stderr, said.stderr
    assert said.stderr.startswith("ablations: ") and "Traceback" not in said.stderr


@pytest.mark.parametrize("wrong", WRONG_FILES)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["run", "dry"])
def test_a_wrong_file_starts_nothing(wrong: str, dry: tuple[str, ...], tmp_path: Path) -> None:
    values, says = WRONG_FILES[wrong]
    written(tmp_path, values)
    refused(ablations_here("run", "two.yaml", *dry, cwd=tmp_path), says)
    assert [path.name for path in tmp_path.iterdir()] == ["two.yaml"]


@pytest.mark.parametrize("wrong", WRONG_OPTIONS)
def test_a_wrong_option_starts_nothing(wrong: str, tmp_path: Path) -> None:
    options, says = WRONG_OPTIONS[wrong]
    written(tmp_path, FILE)
    refused(ablations_here("run", "two.yaml", *options, cwd=tmp_path), says)
    assert [path.name for path in tmp_path.iterdir()] == ["two.yaml"]


def test_the_folder_of_another_study_is_refused_before_data_is_loaded(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(run: Any, data_dir: Path) -> Any:
        raise RequestError("data was loaded")

    monkeypatch.setattr(claim, "load_data", loaded)
    before = sorted(copied.rglob("*"))
    file = written(tmp_path, FILE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    for folder, says in {
        tmp_path / "mine": "is not empty and contains no combined.yaml; choose another --out",
        copied / "small": "is the folder of a single study; choose another --out",
        file: "is a file; choose another --out",
    }.items():
        refused(ablations_here("run", file, "--out", folder, *SET), says)
    three = FILE | {"studies": FILE["studies"] | {"third": SMALL}}
    says = "was made with the studies small, long, and not small, long, third; choose another --out"
    refused(ablations_here("run", written(tmp_path, three, "three.yaml"), "--out", copied, *SET), says)
    longer = written(tmp_path, changed(long={"budget": "640 images"}), "longer.yaml")
    refused(ablations_here("run", longer, "--out", copied, *SET), "budget was 128 images and is now 640 images")
    alone = written(tmp_path, {**SMALL, "designs": DESIGNS, "data": "digits"}, "alone.yaml")
    refused(ablations_here("run", alone, "--out", copied, *SET), "is not empty and contains no study.yaml")
    refused(ablations_here("run", alone, "--out", file, *SET), "two.yaml is a file; choose another --out")
    other = "long was made with another configuration: name was long and is now alone; budget was 128 images"
    refused(ablations_here("run", alone, "--out", copied / "long", *SET), other)
    refused(ablations_here("run", alone, "--out", tmp_path / "new", *SET), "data was loaded")
    refused(ablations_here("run", copied, "--budget", "5epochs"), "--budget: the study of a folder is fixed")
    refused(ablations_here("run", copied, "--out", tmp_path / "new"), "the study stays in its folder")
    shutil.rmtree(copied / "long")
    refused(ablations_here("run", "combined"), "kind combined: it needs a study file with its studies")
    for name in ("run", "status"):
        refused(ablations_here(name, copied), "long is missing; rerun the command that made the folder")
    assert [path for path in before if "long" not in path.parts] == sorted(copied.rglob("*"))
