"""Commands work in any environment: locales, terminals, backends, launchers' variables, closed and full outputs."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from commands import command, environment
from made_up import made_up_study

from ablations.cli import main
from modernize.design import FLAGS

TRAIN: tuple[str, ...] = (
    "train",
    "pocket@separate-downsampling,depths=1-1,width=4",
    "--data",
    "digits",
    "--device",
    "cpu",
)
TRAIN += ("--threads", "1", "--set", "image_size=8", "--set", "batch_size=256", "--set", "max_epochs=1")
CAPTURED: Any = {"capture_output": True, "text": True}
PATHS = ("--to", "PATH/report", "--out", "PATH/out")


class Stream(io.TextIOWrapper):
    """Standard output in memory, of any encoding, that may be a terminal."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    @property
    def text(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(errors="replace")


Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the program in this process with other standard streams and environment variables."""

    def act(*arguments: str | Path, out: Stream | None = None, **variables: str) -> SimpleNamespace:
        out, err = out or Stream(), Stream()
        with monkeypatch.context() as patch:
            for name in ("RANK", "WORLD_SIZE", "FORCE_COLOR", "NO_COLOR"):
                patch.delenv(name, raising=False)
            for name, value in {"COLUMNS": "120", "TERM": "xterm", **variables}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "argv", ["ablations", *(str(one).replace("PATH", str(tmp_path)) for one in arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        return SimpleNamespace(status=ended.value.code, out=out.text, err=err.text)

    return act


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose results are made up, with rows that have footnotes."""
    folder = tmp_path_factory.mktemp("made up") / "study"
    made_up_study(folder, extras=["grn"])
    return folder


# ---- locales


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", "--help"),
        ("flags",),
        ("show", "pocket@grn"),
        ("count", "--roadmap", "pocket"),
        ("compare", "pocket", "pocket@grn"),
        ("data", "digits"),
        ("run", "one-in", "--base", "pocket", "--data", "digits", "--seeds", "0", "--dry-run"),
        (*TRAIN, "--out", "PATH/×"),
        ("status", "STUDY"),
        ("report", "STUDY", "--to", "PATH/report", "--format", "table,markdown,csv,latex"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_every_command_prints_in_a_locale_without_unicode(
    run: Run, study: Path, arguments: tuple[str, ...], encoding: str, tmp_path: Path
) -> None:
    arguments = tuple(str(study) if one == "STUDY" else one for one in arguments)
    done = run(*arguments, out=Stream(encoding))
    assert (done.status, done.err) == (0, "") and done.out
    assert encoding != "ascii" or done.out.isascii()
    assert "\\u" not in done.out, "a sign without a replacement"
    if arguments[0] == "report":
        assert "±" in (tmp_path / "report/tables/roadmap.md").read_text(encoding="utf-8")


def test_a_process_in_a_c_locale_prints_ascii_and_writes_utf_8(tmp_path: Path, study: Path) -> None:
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = command("report", study, "--to", tmp_path / "report", "--format", "table,markdown")
    done = subprocess.run(arguments, capture_output=True, env={**environment(), **variables}, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"+/-" in done.stdout and done.stdout.isascii()
    assert "±" in (tmp_path / "report/tables/roadmap.md").read_text(encoding="utf-8")


def test_a_file_name_that_is_not_text_can_be_printed(run: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    done = run("show", "pocket", "--diagram", tmp_path / f"{name}.svg")
    assert (done.status, done.err) == (0, "") and done.out.endswith("caf\\xe9.svg\n")


# ---- matplotlib


def test_a_report_does_not_depend_on_the_backend_of_a_notebook(tmp_path: Path) -> None:
    study = Path(__file__).parent.parent / "docs/results/first-edition/recipes"
    backend = "module://matplotlib_inline.backend_inline"
    arguments = command("report", study, "--to", tmp_path, "--format", "table,png")
    done = subprocess.run(
        arguments, capture_output=True, env={**environment(), "MPLBACKEND": backend}, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and len(list((tmp_path / "figures").glob("*.png"))) > 1


@pytest.mark.parametrize("backend", ["pdf", "nonsense", ""])
def test_the_backend_of_a_program_that_draws_our_figures_stays(backend: str) -> None:
    code = "import os, reports.figures.style, matplotlib; print(os.environ['MPLBACKEND'], matplotlib.get_backend())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**environment(), "MPLBACKEND": backend},
        text=True,
        timeout=60,
    )
    assert (
        done.returncode == 0
        and done.stdout.split() == (["pdf", "pdf"] if backend == "pdf" else [backend, "agg"])[not backend :]
    ), done.stdout + done.stderr


def test_tables_are_printed_before_a_figure_that_fails(
    run: Run, study: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("no room\nfor pixels")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    done = run("report", study, "--to", tmp_path / "report")
    assert done.status == 1 and "roadmap" in done.out and "Top-1: mean over seeds" in done.out
    assert done.err.count("\n") == 1 and "Traceback" not in done.err
    assert "cannot be drawn (MemoryError: no room for pixels); --format markdown,csv,latex" in done.err


# ---- terminals and log files


@pytest.mark.parametrize(
    ("terminal", "variables", "live"),
    [
        (False, {"FORCE_COLOR": "1"}, False),
        (False, {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}, False),
        (False, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "unknown", "FORCE_COLOR": "1"}, False),
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, True),
    ],
    ids=str,
)
def test_only_a_terminal_that_can_redraw_gets_bars(
    run: Run, terminal: bool, variables: dict[str, str], live: bool
) -> None:
    done = run(*TRAIN, "--out", "PATH/run", out=Stream(terminal=terminal), **variables)
    assert (done.status, done.err) == (0, "")
    assert bool(re.search(r"\x1b\[[\d;?]*[A-Za-ln-z]", done.out)) == live, "a movement of the cursor"
    assert (": started" in done.out) != live and "top-1" in done.out
    assert not variables.get("NO_COLOR") or "\x1b[3" not in done.out.replace("\x1b[39", ""), "a color"


def test_training_goes_on_if_its_output_cannot_be_written(run: Run, tmp_path: Path) -> None:
    class Full(Stream):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    done = run(*TRAIN, "--out", tmp_path / "run", out=Full())
    assert (done.status, done.err) == (0, "")  # nothing is left to be flushed
    assert (tmp_path / "run/result.json").exists()
    study = ("run", "grid", "--base", TRAIN[1], "--flags", "norm=ln", *TRAIN[2:], "--jobs", "1", "--seeds", "0")
    assert run(*study, "--out", tmp_path / "study", out=Full()).status == 0
    assert (tmp_path / "study/runs/norm=ln-s0/result.json").exists()


@pytest.mark.linux
@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        (">/dev/full", 1, "ablations: the output cannot be written (No space left on device)\n"),
        (">&-", 0, ""),
        ("<&-", 0, ""),
    ],
)
def test_outputs_that_are_full_or_closed_are_no_traceback(redirection: str, status: int, message: str) -> None:
    line = ["bash", "-c", f'"$@" {redirection}', "bash", *command("flags")]
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize("columns", ["0", "1", "60", "nonsense"])
def test_nothing_is_lost_in_a_narrow_terminal(run: Run, columns: str) -> None:
    shown = {one: " ".join(run(*one, COLUMNS="200").out.split()) for one in (("flags",), ("show", "pocket"))}
    for arguments, whole in shown.items():
        done = run(*arguments, COLUMNS=columns)
        assert done.status == 0 and "…" not in done.out.replace(", …", "")
        assert all(word in "".join(done.out.split()) for word in whole.split())
        assert columns != "60" or arguments == ("show", "pocket") or max(map(len, done.out.splitlines())) <= 60


def test_a_design_longer_than_a_file_name_is_trained(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = {flag.name: flag.name for flag in FLAGS} | {"depths": "1-1", "width": "4", "stem": "patchify"}
    flags |= {"stem_stride": "1", "kernel_size": "3", "activation": "gelu", "norm": "ln", "layer_scale": "1e-6"}
    settings = ",".join(f"{name}={'off' if value == name else value}" for name, value in flags.items())
    for row in ("separate-downsampling", "depthwise-first"):
        design = f"pocket@{row},{settings}"
        assert len(f"{design}-s0") > 255
        done = run("train", design, *TRAIN[2:])
        assert (done.status, done.err) == (0, "")
    assert len(list((tmp_path / "runs").iterdir())) == 2


# ---- variables of other programs


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=: must be an integer of at least 1"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK=: must be an integer of at least 0"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE=: must be an integer"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE=two: must be an integer"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be an integer of at least 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1: must be an integer of at least 0"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: must be less than WORLD_SIZE=2"),
        ({"RANK": "0"}, "WORLD_SIZE: missing, but RANK is set"),
        ({"WORLD_SIZE": "4"}, "RANK: missing, but WORLD_SIZE is set"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK: missing"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK=x: must be an integer"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
            "LOCAL_RANK=1: must be less than LOCAL_WORLD_SIZE",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "MASTER_PORT: missing"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": "1"}, "MASTER_ADDR: missing"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ""},
            "MASTER_PORT=: must be an integer",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "70000"},
            "MASTER_PORT=70000: the largest port is 65535",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "no such host", "MASTER_PORT": "9"},
            "MASTER_ADDR=no such host: unknown host",
        ),
    ],
    ids=str,
)
def test_a_launchers_variables_that_make_no_sense_are_one_line(
    run: Run, variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)
    done = run(*TRAIN, "--out", "PATH/run", **variables)
    assert done.status == 2 and done.err.count("\n") == 1 and f"ablations: {words}" in done.err, done.err
    assert "start the processes with torchrun, or unset RANK and WORLD_SIZE" in done.err
    assert run("flags", **variables).status == 0


@pytest.mark.parametrize(
    "variables",
    [
        {"OMP_NUM_THREADS": "0"},
        {"OMP_NUM_THREADS": "many", "MKL_NUM_THREADS": ""},
        {"PYTHONWARNINGS": "error", "TZ": "Nowhere/Land", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "7"},
    ],
    ids=str,
)
def test_other_programs_variables_change_nothing(variables: dict[str, str]) -> None:
    done = subprocess.run(
        command("count", "pocket"), capture_output=True, text=True, env={**environment(), **variables}, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "") and "338,686" in done.stdout


def test_a_study_runs_where_warnings_are_errors(tmp_path: Path) -> None:
    arguments = ("run", "grid", "--base", TRAIN[1], "--flags", "norm=ln", *TRAIN[2:], "--jobs", "1", "--seeds", "0")
    done = subprocess.run(
        command(*arguments, "--out", tmp_path / "study"),
        capture_output=True,
        text=True,
        env={**environment(), "PYTHONWARNINGS": "error"},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_temporary_files_lie_in_a_folder_of_the_test_session() -> None:
    printed = subprocess.run([sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], **CAPTURED)
    for folder in (Path(tempfile.gettempdir()), Path(printed.stdout.strip())):
        assert re.fullmatch(r"tests-\w+", folder.name) and folder.is_dir()


LEAVES = """
import tempfile
from multiprocessing.util import get_temp_dir

def test_leaves(tmp_path):
    tempfile.mkdtemp()
    (tmp_path / "file").touch()
    assert get_temp_dir().startswith(tempfile.gettempdir())
"""


@pytest.mark.slow
def test_a_test_session_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    for folder in ("temporary", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tests/test_it.py").write_text(LEAVES)
    (tmp_path / "tests/conftest.py").write_bytes((Path(__file__).parent / "conftest.py").read_bytes())
    variables = {name: value for name, value in environment().items() if not name.startswith("PYTEST_")}
    variables |= {"TMPDIR": str(tmp_path / "temporary"), "PYTHONPATH": str(Path(__file__).parent.parent)}
    session = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(session, cwd=tmp_path, env=variables, **CAPTURED)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    assert not [*(tmp_path / "temporary").iterdir()]


@pytest.mark.xdist_group("alone")
def test_tests_of_one_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """pytest-xdist marks their names; with a pytest whose names it cannot change, it shares them out like others."""
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("tests are not shared out by group")
    assert request.node.nodeid.endswith("@alone")
