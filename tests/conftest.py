"""What several test files share: real data, and one thread for small networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from ablations.data.datasets import _find_fashion, load
from ablations.errors import RequestError
from modernize.plugins import load_plugin, plugins, unload_plugin

settings.register_profile("shared machine", deadline=None)  # other processes may slow one example down
settings.load_profile("shared machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", action="append", default=[], help="file with design flags, for random designs too")


def pytest_configure(config: pytest.Config) -> None:
    for file in config.getoption("--plugin"):
        load_plugin(file)


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
