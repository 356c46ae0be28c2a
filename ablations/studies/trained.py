"""Load the trained network of a run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError, one_line
from ablations.store import DamagedError
from ablations.studies.own_code import kept_reference
from ablations.studies.plugin_files import read_with_plugins
from ablations.studies.run import RunConfig, State, read_state

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["load_run"]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run: its configuration, its result and its network, in evaluation mode.

    Attributes:
        folder: The run's folder.
        config: What was trained, and how.
        result: The contents of `result.json`.
        network: The network with the run's weights.
        classes: Number of classes.
        channels: Channels of the images.
        image_size: Resolution of the images in pixels; None if an earlier version did not record it.
    """

    folder: Path
    config: RunConfig
    result: dict[str, Any]
    network: nn.Module
    classes: int
    channels: int
    image_size: int | None


def load_run(folder: str | Path, *, averaged: bool = False) -> nn.Module:
    """Load the trained network of a run of `ablations train`, or of a study's run.

    The dataset is not needed. The checkpoint is read without running code in it, and its weights are verified against
    the checksum in the run's result. Of a network FILE.py:FUNCTION, the run's copy of FILE.py is executed.

    Args:
        folder: The run's folder: `runs/DESIGN-sSEED`, or `STUDY/runs/ROW-sSEED` of a study.
        averaged: Load the EMA weights, which the recipe's `ema_decay` adds.

    Returns:
        The network in evaluation mode, on the CPU: a `modernize` network, or a reference model. It
        maps images (N, C, H, W) to logits (N, classes).

    Raises:
        RequestError: If the folder holds no finished run, or its checkpoint is missing or corrupt.
    """
    from ablations.training.arguments import read_path

    return read_trained(read_path(folder), averaged).network


def read_trained(folder: Path, averaged: bool = False) -> TrainedRun:
    """Read a finished run and load its network; raises RequestError as `load_run` does."""
    config = read_config(folder)
    if averaged and config.recipe.ema_decay is None:
        raise RequestError(f"run {folder} has no averaged (EMA) weights: its recipe sets no ema_decay")
    state = read_state(folder)
    if state.status != "done":
        raise RequestError(f"run {folder} {_unfinished(state, folder)}")
    result, checkpoint = state.result, _read_checkpoint(folder)
    _verify(folder, checkpoint["model"], result)
    weights = _averaged(checkpoint["averaged"]) if averaged else checkpoint["model"]
    image_size = result.get("image_size", config.recipe.image_size)
    classes, channels = _outputs_and_inputs(config, result, weights)
    network = _network(folder, config, classes, channels, image_size)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RequestError(f"run {folder}: its checkpoint does not fit its config.yaml ({_brief(error)})") from None
    return TrainedRun(folder, config, result, network.eval(), classes, channels, image_size)


def read_config(folder: Path) -> RunConfig:
    """Read a run's configuration; raises RequestError if the folder is not a run's."""
    if not folder.exists():
        raise RequestError(f"{folder}: no such folder; give the folder of a run")
    if not folder.is_dir():
        raise RequestError(f"{folder} is a file; give the folder of a run")
    path = folder / "config.yaml"
    if path.is_file():
        return read_with_plugins(RunConfig, path, "run")
    runs = sorted(path.parent for place in (folder, folder / "runs") for path in place.glob("*/config.yaml"))
    what = "the folder of a study" if (folder / "study.yaml").is_file() else "not the folder of a run"
    if not runs:
        lacks = "its runs are not here" if what.endswith("study") else "it has no config.yaml"
        raise RequestError(f"{folder} is {what}: {lacks}")
    more = f" ({len(runs)} runs)" if len(runs) > 3 else ""
    raise RequestError(f"{folder} is {what}; give a run, such as {', '.join(map(str, runs[:3]))}{more}")


def _unfinished(state: State, folder: Path) -> str:
    """Return the error for a run without a trained network: its status and, if it failed, the reason."""
    if state.status == "failed":
        return f"failed ({state.result['reason']}); it has no trained network"
    from ablations.training.checkpoint import checkpoints, step_of

    newest = next(iter(checkpoints(folder / "checkpoints")), None)
    reached = f"newest checkpoint: step {step_of(newest)}" if newest else "no checkpoint yet"
    if state.status == "running":
        return f"is still running ({reached}); wait until it has finished"
    return f"is not finished ({reached}); rerun its command to resume it"


def _read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read a finished run's checkpoint; raises RequestError if it is missing or corrupt."""
    from ablations.training.checkpoint import checkpoints, read_checkpoint

    paths = checkpoints(folder / "checkpoints")
    if not paths:
        raise RequestError(
            f"run {folder}: no checkpoint in {folder / 'checkpoints'}; copy that folder from where the run was trained"
        )
    try:
        return read_checkpoint(paths[0])
    except DamagedError as error:
        raise RequestError(f"run {folder}: {error}") from None
    except OSError as error:
        raise RequestError(f"run {folder}: {paths[0]} cannot be read ({error.strerror})") from None


def _verify(folder: Path, weights: dict[str, Tensor], result: dict[str, Any]) -> None:
    """Raise RequestError if the weights are not those that the run's result was measured with."""
    from ablations.training.checkpoint import weights_sha256

    if weights_sha256(weights) != result["weights_sha256"]:
        raise RequestError(
            f"run {folder}: the weights of its checkpoint are not those of its result.json (weights_sha256 differs)"
        )


def _averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's weights of an AveragedModel's state dict."""
    return {key.removeprefix("module."): value for key, value in state.items() if key != "n_averaged"}


def _outputs_and_inputs(config: RunConfig, result: dict[str, Any], weights: dict[str, Tensor]) -> tuple[int, int]:
    """Return the number of classes and channels; version 0.1 recorded neither, and trained no reference models."""
    if config.reference is not None:
        return result["num_classes"], result["in_channels"]
    return weights["head.linear.weight"].shape[0], weights["stem.conv.weight"].shape[1]


def _network(folder: Path, config: RunConfig, classes: int, channels: int, image_size: int | None) -> nn.Module:
    """Build the run's network, without changing torch's global RNG."""
    import torch

    from modernize.models import build

    rate = config.recipe.drop_path_rate
    with torch.random.fork_rng(devices=[]):
        if config.reference is not None:
            return _reference(kept_reference(config, folder), classes, channels, rate, image_size or 224)
        return build(config.design, classes, channels, drop_path_rate=rate)


def _reference(name: str, *arguments: Any) -> nn.Module:
    """Build a reference model; raises RequestError, as for timm if it is not installed."""
    from modernize.design import DesignError
    from modernize.reference import build_reference

    try:
        return build_reference(name, *arguments)
    except DesignError as error:
        raise RequestError(str(error)) from None


def _brief(error: Exception) -> str:
    return one_line(error)[:200]
