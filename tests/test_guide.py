"""Every command of the guide runs as written, those of a block one after the other in one folder; its links lead on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from test_readme import HOME, imagenet, run_module

__all__ = ["imagenet"]  # a fixture

GUIDE = (HOME / "docs/guide.md").read_text(encoding="utf-8")
BLOCKS = [
    [line.removeprefix("$ ") for line in block.splitlines()]
    for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL)
]


@pytest.fixture(scope="module")
def mydata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in a folder for each class."""
    place = tmp_path_factory.mktemp("mydata")
    for part, images in (("train", 12), ("val", 4)):
        for number, name in enumerate(("cats", "dogs")):
            (place / part / name).mkdir(parents=True)
            for index in range(images):
                Image.new("RGB", (40, 36), (180 * number, 40, 10 * index)).save(place / part / name / f"{index}.png")
    return place


def test_the_commands_are_found() -> None:
    assert len(BLOCKS) >= 8 and all(line.startswith("ablations ") for block in BLOCKS for line in block)


@pytest.mark.parametrize("block", BLOCKS, ids=[block[0] for block in BLOCKS])
def test_a_block_runs_as_written(block: list[str], tmp_path: Path, imagenet: Path, mydata: Path) -> None:
    for name, place in (("imagenet", imagenet), ("mydata", mydata)):
        (tmp_path / name).symlink_to(place)
    for command in block:
        done = run_module(*shlex.split(command), cwd=tmp_path)
        assert done.returncode == 0 and done.stdout, done.stderr
    if block is BLOCKS[0]:
        assert "inconclusive" in done.stdout and (tmp_path / "runs/sweep/report/index.html").exists()


def test_links_lead_somewhere() -> None:
    for page in ("docs/guide.md", "docs/results/README.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", (HOME / page).read_text(encoding="utf-8")):
            assert (HOME / page).parent.joinpath(link).exists(), (page, link)
