"""Check before anything trains that every row can take the weights that a study starts from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ablations.errors import RequestError
from ablations.studies.folder import read_study, run_folder
from ablations.studies.networks import classifier_of, empty_network
from ablations.studies.run import RunConfig, finished
from ablations.studies.schema import Study
from ablations.studies.starting_weights import Weights, fit, read, to_download

if TYPE_CHECKING:
    from torch import Tensor

    from ablations.data.datasets import DataSet

_LISTED = 3  # rows whose reasons an error gives


def with_weights(study: Study, folder: Path, datasets: Mapping[str, DataSet]) -> Study:
    """Return the study with the weights that its runs start from, checked; `datasets` by the names of runs.

    Raises RequestError as `fitted` does.
    """
    if study.weights is None:
        return study
    before = study.weights if study.weights.sha256 else None
    if before is None and (folder / "study.yaml").is_file():
        before = read_study(folder).weights
    runs = {run_folder(folder, run): (run, datasets[run.name]) for run in study.runs}
    return study.model_copy(update={"weights": fitted(study.weights, before, runs)})


def fitted(weights: Weights, before: Weights | None, runs: Mapping[Path, tuple[RunConfig, DataSet]]) -> Weights:
    """Return the weights with their checksum, and with what is done to fit them to the networks of the runs.

    Args:
        weights: The weights that are asked for.
        before: Those with which an earlier session began; a file that is gone since is needed only for runs that have
            neither a checkpoint nor a result.
        runs: The runs and their datasets, by folder.

    Raises:
        RequestError: If the weights cannot be read, or naming the rows that they do not fit.
    """
    from ablations.training.checkpoint import checkpoints

    rows = {run.row: (run, data) for run, data in runs.values()}
    if (alike := to_download(weights)) is not None:
        _remarks(weights, alike, rows)  # which refuses weights that do not fit before they are downloaded
    try:
        found, tensors = read(weights)
    except RequestError:
        begun = all(finished(folder) or checkpoints(folder / "checkpoints") for folder in runs)
        if before is not None and before.source == weights.source and begun:
            return before
        raise
    return found.model_copy(update={"notes": tuple(_notes(_remarks(found, tensors, rows), len(rows)))})


def _remarks(
    weights: Weights, tensors: Mapping[str, Tensor], rows: Mapping[str, tuple[RunConfig, DataSet]]
) -> dict[str, list[str]]:
    """Return what is done to fit weights to networks, each with its rows; raises RequestError if a row cannot."""
    from modernize.weights import WeightsError

    refused: dict[str, str] = {}
    remarks: dict[str, list[str]] = defaultdict(list)  # the rows that each is about
    for row, (run, data) in rows.items():
        try:
            network = empty_network(run, data)
            head = classifier_of(run, network, data)
            for remark in fit(network, tensors, head, reset_classifier=run.recipe.reset_classifier):
                remarks[remark].append(row)
        except WeightsError as error:
            refused[row] = str(error).removeprefix("the state dict").lstrip(": ")
    if refused:
        raise RequestError(f"weights {weights.name}: {_refusal(refused, len(rows))}")
    return remarks


def _notes(remarks: Mapping[str, list[str]], rows: int) -> Iterator[str]:
    """Yield each remark, with the rows that it is about if it is not about all."""
    for remark, about in remarks.items():
        named = ", ".join(about) if len(about) <= _LISTED else f"{len(about)} rows"
        yield remark if len(about) == rows else f"{remark} in {named}"


def _refusal(refused: Mapping[str, str], rows: int) -> str:
    """Name the rows that cannot take the weights, the first with their reasons."""
    names, reasons = list(refused), list(dict.fromkeys(refused.values()))
    if len(names) == rows and len(reasons) == 1:
        who = f"{names[0]} cannot" if rows == 1 else "no row can"
        return f"{who} start from them: {reasons[0]}"
    listed = "; ".join(f"{row} ({refused[row]})" for row in names[:_LISTED])
    more = f"; and {len(names) - _LISTED} more: {', '.join(names[_LISTED:])}" if names[_LISTED:] else ""
    return f"{len(names)} of {rows} rows cannot start from them: {listed}{more}"
