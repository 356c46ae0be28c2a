"""The user's file that a network comes from: its checksum, its copy in a run's folder, and refusals if it changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from ablations.errors import RequestError
from ablations.store import write_bytes
from modernize.own_network import file_of, moved_to
from modernize.user_code import is_call
from modernize.user_sources import UserCodeError, source_files, sources_sha256

_FOLDER = "code"  # of a run's folder, with the copies
_SHOWN = 12  # hexadecimal digits of a checksum in errors


class HasCode(Protocol):
    """A row or a run, whose network may come from a user's file."""

    @property
    def reference(self) -> str | None: ...

    @property
    def code_sha256(self) -> str | None: ...


def code_sha256(reference: str | None) -> str | None:
    """Return the checksum of a network's file and of the files beside it that it imports; None without a file."""
    if reference is None or not is_call(reference):
        return None
    try:
        return sources_sha256(source_files(file_of(reference)))
    except UserCodeError as error:
        raise RequestError(str(error)) from None


def check_code(config: HasCode) -> None:
    """Raise RequestError if the file of a network is not the one that the run was configured with."""
    refuse_changed_code([config], config.reference, code_sha256(config.reference), "the run was configured")


def refuse_other_code(before: Iterable[HasCode], now: Iterable[HasCode], folder: str) -> None:
    """Raise RequestError if the file of a network is not the one that a folder was made with."""
    stored = list(before)
    for one in now:
        refuse_changed_code(stored, one.reference, one.code_sha256, f"{folder} was made")


def refuse_changed_code(before: Iterable[HasCode], reference: str | None, now: str | None, since: str) -> None:
    """Raise RequestError if the same network had another checksum before."""
    for one in before:
        if one.reference == reference and reference and one.code_sha256 and one.code_sha256 != now:
            raise RequestError(
                f"{file_of(reference)}, or a file that it imports, has changed since {since} (sha256 "
                f"{one.code_sha256[:_SHOWN]}, now {str(now)[:_SHOWN]}); restore it, or choose another --out"
            )


def keep_code(config: HasCode, folder: Path) -> None:
    """Copy the file of a run's network, and the files that it imports, into the run's folder."""
    if config.reference is None or not is_call(config.reference):
        return
    copy_sources(file_of(config.reference), folder / _FOLDER)


def copy_sources(file: Path, folder: Path) -> None:
    """Copy a user's file, and the files beside it that it imports, into a folder, unless they are there already."""
    for name, content in source_files(file).items():
        path = folder / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)


def kept_reference(config: HasCode, folder: Path) -> str:
    """Return the name of a run's network, of the copy in its folder if that is intact; raises RequestError."""
    assert config.reference is not None
    if not is_call(config.reference):
        return config.reference
    copy = folder.absolute() / _FOLDER / file_of(config.reference).name
    for file in (copy, file_of(config.reference)):
        try:
            if sources_sha256(source_files(file)) == config.code_sha256:
                return moved_to(config.reference, file)
        except UserCodeError:
            continue
    raise RequestError(
        f"run {folder}: neither {os.path.relpath(copy)} nor {file_of(config.reference)} is the file that it was "
        "trained with (sha256)"
    )
