"""What several test files share: a temporary folder, real data, and one thread for small networks."""

from __future__ import annotations

import gc
import multiprocessing.util
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from ablations.data.datasets import _find_fashion, load
from ablations.errors import RequestError
from ablations.machine import usable_cores
from modernize.plugins import load_plugin, plugins, unload_plugin

settings.register_profile("shared machine", deadline=None)  # other processes may slow one example down
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", action="append", default=[], help="file with design flags, for random designs too")


OWN_FOLDER = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # else it has that of the process that started it
        config.stash[OWN_FOLDER] = Path(tempfile.mkdtemp(prefix="tests-"))
        config.stash[OWN_FOLDER].chmod(0o755)  # for tests that run as another user
        os.environ["TMPDIR"] = str(config.stash[OWN_FOLDER])  # for other programs, too
        tempfile.tempdir = None  # what was read before
    for file in config.getoption("--plugin"):
        load_plugin(file)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests and the programs that they start have left; --basetemp=FOLDER keeps the files of tests."""
    if folder := config.stash.get(OWN_FOLDER, None):
        os.environ["TMPDIR"] = str(folder.parent)
        tempfile.tempdir = None
        vars(multiprocessing.util)["_run_finalizers"]()  # which would miss their folder
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if sys.platform != "linux" and item.get_closest_marker("linux"):
            item.add_marker(pytest.mark.skip(reason="needs what only Linux has"))


def pytest_collection_finish() -> None:
    """Take what the test files imported out of later garbage collections; each study that is launched here does one."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start as many processes as there are cores that this one may use."""
    return usable_cores()


@pytest.fixture(autouse=True)
def plugins_of_a_test() -> Iterator[None]:
    """Commands that run in this process load plugins, which other tests must not see."""
    before = plugins()
    yield
    for one in plugins():
        if one not in before:
            unload_plugin(one)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks as small as the tests' are faster on one; commands that run in this process may leave another number."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fashion_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder from which Fashion-MNIST loads: $ABLATIONS_DATA, the project's data/, or one fetched now."""
    project = Path(__file__).parent.parent / "data"
    given = os.environ.get("ABLATIONS_DATA")
    folder = Path(given) if given else project if _find_fashion(project) else tmp_path_factory.mktemp("data")
    try:
        load("fashion_mnist", folder)
    except RequestError as error:
        if given:
            raise
        pytest.skip(str(error))
    return folder
