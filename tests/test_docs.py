"""Every command of README and docs runs as written, those of a block one after the other in one folder; links work."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from commands import ablations_here, environment
from PIL import Image
from pydantic import TypeAdapter

from ablations.bench import Bench, loops, table_rows
from ablations.recipes import load_recipe
from ablations.studies.folder import open_folder
from ablations.studies.load import load_study
from reports.bench_table import speed_table
from reports.formats import markdown

HOME = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((HOME / "docs").glob("*.md"))))
TEXTS = {page: (HOME / page).read_text(encoding="utf-8") for page in PAGES}
PROGRAMS = {"ablations": "ablations", "torchrun": "torch.distributed.run"}
# CI runs the checks, and the tests are what is running; a shell's own commands have no effect on a test; the tests of
# the image are in test_container.py.
NOT_RUN = ("./run_all.sh", "source ", ".venv/bin/", "docker ", "mkdir ")


@dataclass(frozen=True)
class Block:
    """A block of commands on a page."""

    page: str
    commands: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.page}: {self.commands[0]}"


def blocks(page: str) -> list[Block]:
    """List the blocks of commands of a page, without the comments behind commands."""
    written = re.findall(r"```console\n(.*?)```", TEXTS[page], re.DOTALL)
    lines = [[re.split(r"\s+# ", line.removeprefix("$ "))[0] for line in block.splitlines()] for block in written]
    return [Block(page, tuple(commands)) for commands in lines]


BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block.page, command) for block in BLOCKS for command in block.commands]
# By page, those of one page in one namespace. Those of docs/export.md read files that its commands write:
# test_export.py runs them.
PYTHON = {
    page: code
    for page in PAGES
    if (code := re.findall(r"```python\n(.*?)```", TEXTS[page], re.DOTALL)) and page != "docs/export.md"
}


def trains(command: str) -> bool:
    return command.startswith(("ablations run ", "ablations train ")) and "--dry-run" not in command


def shortened(command: str) -> str:
    """The command with two training steps per run on small images, and few runs. One that resumes has its study's."""
    if "--budget" in command:
        command = re.sub(r"--budget \w+", "--budget 64images", command).replace("--seeds 0,1,2", "--seeds 0,1")
    for long, short in {
        "max_epochs=5": "max_epochs=0.1",
        "--data fashion_mnist": "--data fashion_mnist --set max_epochs=0.01",
        "--recipe finetune": "--recipe finetune,max_epochs=0.1",
        " run recipes ": " run recipes --budget 64images ",
        "--orders 6": "--orders 2",
        "--seeds 0,1,2,3,4": "--seeds 0,1,2",
    }.items():
        command = command.replace(long, short)
    if trains(command) and not re.match(r"ablations run (runs/|screen --resolve)", command):
        command += " --set image_size=16" if "image_size" not in command else ""
        command += " --set precise_bn=64" if " run recipes " not in command else ""
    return command


def run(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; of many processes two start, which each take seconds to import torch."""
    program, *arguments = shlex.split(command.replace("--nproc-per-node 8", "--nproc-per-node 2"))
    module = [sys.executable, "-m", PROGRAMS[program], *arguments]
    return subprocess.run(module, cwd=cwd, capture_output=True, text=True, timeout=600, env=environment())


def run_all(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HOME / "run_all.sh", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In ImageNet's place a tree large enough for the paper's batches: one image under many names."""
    place = tmp_path_factory.mktemp("tree")
    Image.new("RGB", (40, 36), (180, 40, 40)).save(place / "image.jpg")
    for part, images in (("train", 1_100), ("val", 10)):
        for label in range(4):
            folder = place / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for index in range(images):
                (folder / f"{index}.JPEG").hardlink_to(place / "image.jpg")
    return place


@pytest.fixture(scope="session")
def mydata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in one folder per class."""
    place = tmp_path_factory.mktemp("mydata")
    for part, images in (("train", 12), ("val", 4)):
        for number, name in enumerate(("cats", "dogs")):
            (place / part / name).mkdir(parents=True)
            for index in range(images):
                Image.new("RGB", (40, 36), (180 * number, 40, 10 * index)).save(place / part / name / f"{index}.png")
    return place


@pytest.fixture
def workplace(tmp_path: Path, imagenet: Path, mydata: Path) -> Path:
    """A folder where the commands find the data, the published results, and the files that the pages show."""
    for code in (code for page in PYTHON.values() for code in page):
        if (named := re.match(r"# (\w+\.py)\n", code)) is not None:
            (tmp_path / named[1]).write_text(code)
    for name, contents in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", "".join(TEXTS.values()), re.DOTALL):
        (tmp_path / name).write_text(contents)
    for name, place in (("imagenet", imagenet), ("mydata", mydata), ("docs", HOME / "docs")):
        (tmp_path / name).symlink_to(place)
    return tmp_path


def test_the_commands_are_found() -> None:
    assert [command for page, command in COMMANDS if page == "README.md"][:2] == ["./run_all.sh", "./run_all.sh test"]
    assert all(command.startswith((*PROGRAMS, *NOT_RUN)) for _, command in COMMANDS)
    assert not any("#" in command for _, command in COMMANDS)
    marked = [shlex.split(command)[2:4] for _, command in COMMANDS if command.startswith("./run_all.sh test -")]
    assert all(option == "-m" and mark in FILES for option, mark in marked)
    for page in set(PAGES) - {"docs/README.md", "docs/python.md", "docs/statistics.md", "docs/tools.md"}:
        assert any(block.page == page for block in BLOCKS), page
    for words in ("--set accumulation=32", "torchrun --standalone --nproc-per-node 8", "--cluster slurm", "--nodes 4"):
        assert any(
            words in command and "run imagenet " in command and "--dry-run" in command for _, command in COMMANDS
        )


BENCHMARKS = ("ablations bench", "ablations loops")


def quick_commands(block: Block) -> list[str]:
    """The commands of a block that a test runs by default: all but benchmarks, those of other programs, and repeats."""
    earlier = {one for other in BLOCKS[: BLOCKS.index(block)] for one in other.commands if "runs/" not in one}
    repeated = {one for one in earlier if not trains(one)}
    return [one for one in block.commands if not one.startswith((*BENCHMARKS, *NOT_RUN)) and one not in repeated]


def run_block(commands: list[str], workplace: Path, fashion_dir: Path) -> None:
    for command in dict.fromkeys(commands):  # a page may show what is planned, and then train it
        needs_data = re.match(r"ablations (run|train) ", command) and "--data-dir" not in command
        before = set(workplace.rglob("*"))
        command += f" --data-dir {fashion_dir}" if needs_data else ""
        command += " --jobs 1" if command.startswith("ablations run ") and trains(command) else ""
        here = not command.startswith("torchrun ")  # the worker of `ablations run` is a process
        done = ablations_here(*shlex.split(command)[1:], cwd=workplace) if here else run(command, workplace)
        assert done.returncode == 0 and done.stdout, done.stderr
        if "--dry-run" in command:
            assert set(workplace.rglob("*")) == before, "a dry run writes nothing"


def in_turn(command: str) -> list[str]:
    """A command as written; or, if that would train for long, what it plans as written, and then the shortened one."""
    if not trains(command) or (shorter := shortened(command)) == command:
        return [command]
    return [f"{command} --dry-run", shorter] if command.startswith("ablations run ") else [shorter]


@pytest.mark.parametrize("block", [block for block in BLOCKS if quick_commands(block)], ids=lambda block: block.name)
def test_a_block_runs_as_written_but_for_how_long_it_trains(block: Block, workplace: Path, fashion_dir: Path) -> None:
    run_block([one for command in quick_commands(block) for one in in_turn(command)], workplace, fashion_dir)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.page == "README.md" and any(map(trains, block.commands))],
    ids=lambda block: block.name,
)
def test_a_block_of_the_readme_that_trains_runs_as_written(block: Block, workplace: Path, fashion_dir: Path) -> None:
    run_block(quick_commands(block), workplace, fashion_dir)


@pytest.mark.slow
@pytest.mark.parametrize("command", {one: None for _, one in COMMANDS if one.startswith(BENCHMARKS)})
def test_a_benchmark_runs_as_written(command: str, workplace: Path, fashion_dir: Path) -> None:
    """But for the time that it takes: one short round, few and small images, uncompiled, and a small study."""
    if "runs/quick" in command:
        small = {"base": "pocket", "flags": {"norm": ["bn", "ln"]}, "data": "digits"}
        open_folder(load_study("sweep", small, {}), workplace / "runs/quick")
    shorter = command.replace("batch-size=8,32,64", "batch-size=1,2").replace("image-size=16,32,64", "image-size=16,32")
    shorter = shorter.replace("compile=off,on", "compile=off") + " --repeats 1 --threads 1"
    if command.startswith("ablations loops"):
        shorter += f" --jobs 1 --data-dir {fashion_dir}"
    else:
        shorter += " --warmup 0" + ("" if "--over batch-size" in command else " --batch-size 2")
        shorter += " --image-size 64" if "--against" in command else ""
    if ".py" in command:  # workers would seek the file where this process began
        done = run(shorter, workplace)
    else:
        measure = sys.modules["ablations.bench.measure"]  # in the package, this is the function's name
        with mock.patch.object(measure, "ROUND_SECONDS", 0.01), mock.patch.object(loops, "ROUND_SECONDS", 0.01):
            done = ablations_here(*shlex.split(shorter)[1:], cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stdout or "im/s" in done.stdout


# A file with tests of each mark: to import all files takes half a minute.
FILES = {"benchmark": "tests/test_benchmarks.py", "slow": "tests/test_factorial.py"}
FILES["simulation"] = FILES["slow"]


@pytest.mark.slow
@pytest.mark.parametrize("mark", FILES)
def test_what_run_all_is_told_to_test_exists(mark: str) -> None:
    """The tests of each mark are listed once, with the options of every command; `-k` is sought in their names."""
    commands = [
        shlex.split(command)[2:] for _, command in COMMANDS if command.startswith(f"./run_all.sh test -m {mark}")
    ]
    assert commands
    words = {options.pop(options.index("-k") + 1) for options in commands if "-k" in options}
    options = [one for one in dict.fromkeys(itertools.chain(*commands)) if one != "-k"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, FILES[mark], "--collect-only", "-q"],
        cwd=HOME,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert all(word in done.stdout for word in words), done.stdout


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs_as_written(page: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    (workplace / "runs/quick/report/tables").mkdir(parents=True)
    (workplace / "runs/quick/report/tables/confusion.csv").write_text("row,class,predicted,images\nresnet,0,1,2.5\n")
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in PYTHON[page]:
        exec(code, names)
    if page in ("README.md", "docs/python.md"):
        assert names["cost"].params == 28_589_128 and len(names["steps"]) == 17
    if page == "docs/python.md":
        assert names["result"].images_seen == 2 * 64
    if page == "docs/backbone.md":
        assert [set(one) for one in names["detections"]] == [{"boxes", "labels", "scores"}] * 2


def test_networks_and_the_trainer_are_shown() -> None:
    shown = "".join(code for codes in PYTHON.values() for code in codes)
    assert "modernize.build(" in shown and "Trainer(" in shown


@pytest.mark.parametrize(
    ("study", "rows", "recipes", "data"),
    [
        ("imagenet", 17, ["paper_original", "paper_enhanced"], "imagenet"),
        ("imagenet_resnet200", 17, ["paper_original", "paper_enhanced_b"], "imagenet"),
    ],
)
def test_a_shipped_study_is_the_roadmap_under_the_recipes_it_names(
    study: str, rows: int, recipes: list[str], data: str
) -> None:
    loaded = load_study(study, {}, {})
    seeds = [0] if study == "imagenet_resnet200" else [0, 1, 2]  # as the paper
    assert (loaded.kind, loaded.data, loaded.seeds) == ("roadmap", data, seeds)
    assert [row.recipe for row in loaded.rows] == [recipes[0]] + [recipes[1]] * (rows - 1)
    assert loaded.recipes == {recipe: load_recipe(recipe) for recipe in recipes}


def speeds(*names: str) -> str:
    """Render what docs/speed keeps under these names, with the legend, as Markdown."""
    rows = []
    for name in names:
        bench = TypeAdapter(Bench).validate_json((HOME / f"docs/speed/{name}.json").read_bytes())
        rows += table_rows(bench)
    return markdown(speed_table(rows, "")).split("\n\n", 1)[1].strip()


def growth() -> str:
    """Render the table of how cost grows, without the legend."""
    return speeds("batch", "image", "depth", "jobs").split("\n\n")[0].replace("pocket@separate-downsampling", "END")


def runner() -> str:
    """Say what docs/speed keeps of runs, bare steps and plain scripts."""
    bare, plain = (pd.read_csv(HOME / f"docs/speed/{name}.csv") for name in ("runner", "plain"))
    assert len(bare) == len(plain) == 17
    bares, plains = bare["ratio"], plain["run"] / plain["plain"]
    in_all = (1 / plain["plain"]).sum() / (1 / plain["run"]).sum()
    return (
        f"at {bares.min():.2f} to {bares.max():.2f} of the bare step's speed by processor time (median "
        f"{bares.median():.2f}) and at {plains.min():.2f} to {plains.max():.2f} times that of a plain script (median "
        f"{plains.median():.2f}; all 17 together {in_all:.2f})"
    )


def turns() -> str:
    """Say what docs/speed keeps of whole studies by two versions, as the rows of a table."""
    kept = pd.read_csv(HOME / "docs/speed/turns.csv")
    wall = kept[["start", "training", "evaluation", "waiting", "rest"]].sum(axis="columns") / kept["jobs"]
    measured = {
        "one seed of all 17 rows (s)": (wall, 0),
        "processor time per run (s)": (kept["processor"] / kept["runs"], 1),
        "all processes, PSS (MB)": (kept["together"], 0),
        "largest worker, PSS (MB)": (kept["worker_pss"], 0),
        "largest worker, RSS (MB)": (kept["worker_rss"], 0),
    }
    lines = []
    for name, (values, digits) in measured.items():
        both = [values[kept["version"] == version] for version in ("before", "after")]
        cells = [f"{v.median():,.{digits}f} ({v.min():,.{digits}f} to {v.max():,.{digits}f})" for v in both]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_speeds_are_those_that_were_measured() -> None:
    text = TEXTS["docs/speed.md"]
    assert speeds("convnext_tiny", "resnet50") in text
    assert speeds("peers_compiled") in text
    assert growth() in text
    assert turns() in text
    assert runner() in " ".join(text.split())


@pytest.mark.parametrize(
    "page", [*PAGES, "CHANGELOG.md", "docs/results/README.md", "docs/results/first-edition/README.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", (HOME / page).read_text(encoding="utf-8")):
        assert (HOME / page).parent.joinpath(link).exists(), (page, link)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_holds_no_marks_of_an_unfinished_merge(page: str) -> None:
    assert not re.findall(r"^(?:<{7}|>{7}|={7})(?: .*)?$", TEXTS[page], re.MULTILINE)


def test_the_index_lists_every_page() -> None:
    missing = [page for page in PAGES if page.startswith("docs/") and page != "docs/README.md"]
    assert [page for page in missing if f"]({page.removeprefix('docs/')})" not in TEXTS["docs/README.md"]] == []


def test_run_all_explains_itself_from_any_folder(tmp_path: Path) -> None:
    done = run_all("--help", cwd=tmp_path)
    assert done.returncode == 0 and "./run_all.sh STUDY" in done.stdout


def test_run_all_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    done = run_all("--tset", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
