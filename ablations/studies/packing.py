"""Pack a study's folder into a zip file without checkpoints, from which a report needs neither dataset nor networks."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ablations.errors import RequestError, writing
from ablations.store import write_bytes
from ablations.studies.folder import is_published, read_study, run_folder
from ablations.studies.results import results_csv, study_runs
from ablations.studies.run import is_locked

_OF_STUDY = ("study.yaml", "results.csv", "bench.json")
_OF_RUN = ("config.yaml", "environment.json", "log.jsonl", "result.json", "predictions.npz", "traceback.txt")
_CODE = "code"  # of a study's or run's folder: the files of the user's flags and networks
_DATE = (1980, 1, 1, 0, 0, 0)  # of every file, so that the same study gives the same bytes


@dataclass(frozen=True)
class Packed:
    """A written zip file: its path, its size (bytes), the folder that it unpacks to, and its numbers of runs."""

    path: Path
    size: int
    folder: str
    runs: int
    finished: int


def pack(folder: Path, to: Path | None = None) -> Packed:
    """Write a study's folder without checkpoints as a zip file, by default beside the folder.

    Args:
        folder: The study's folder.
        to: The file to write.

    Returns:
        What was written. The same contents give the same bytes.

    Raises:
        RequestError: If the folder is not a study's, or one of its runs is running.
        RunError: If a file cannot be read or the zip file cannot be written.
    """
    study, name = read_study(folder), folder.resolve().name
    path = folder.resolve().parent / f"{name}.zip" if to is None else to
    if path.is_dir() or path.suffix != ".zip":
        raise RequestError(f"--to {path}: write the name of a file, such as {path.with_suffix('') / name}.zip")
    running = [run.name for run in study.runs if is_locked(run_folder(folder, run))]
    if running:
        many = f"{len(running)} runs, such as {running[0]}, are" if running[1:] else f"run {running[0]} is"
        raise RequestError(f"study folder {folder}: {many} running; pack it when they have ended, or stop them")
    runs = study_runs(study, folder)
    with writing(f"zip file {path}"):
        files = dict(_files(folder))
        if not is_published(folder):
            files["results.csv"] = results_csv(runs)
        content = _zipped({f"{name}/{place}": files[place] for place in sorted(files)})
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    distinct = runs.drop_duplicates("run")
    return Packed(path, len(content), name, len(distinct), int((distinct["status"] == "done").sum()))


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path below the study's folder, and the contents, of each file that a report reads or explains."""
    kept = sorted(folder.glob("results-*.csv"))  # results of runs whose folders are gone
    for path in (*(folder / name for name in _OF_STUDY), *kept, *sorted((folder / _CODE).rglob("*"))):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
    for run in sorted((folder / "runs").glob("*/")):
        for path in (*(run / name for name in _OF_RUN), *sorted((run / _CODE).rglob("*"))):
            if path.is_file():
                yield path.relative_to(folder).as_posix(), path.read_bytes()


def _zipped(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type, entry.external_attr, entry.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
            archive.writestr(entry, content)
    return written.getvalue()
