"""Runs made by version 0.1, which saved layer scale and GRN with shape (C, 1, 1), resume to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import modernize
from ablations import Trainer, TrainingConfig
from ablations.data.datasets import load
from ablations.training.checkpoint import checkpoints, read_checkpoint, write_checkpoint
from ablations.training.trainer import Interrupted
from modernize.network import GlobalResponseNorm, LayerScale, Network

DESIGN = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1,grn=on,layer_scale=0.1"


def network() -> Network:
    torch.manual_seed(7)
    return modernize.build(DESIGN, num_classes=10, in_channels=1)


def trainer(folder: Path | None, **changes: Any) -> Trainer:
    data = load("digits", Path("unused"))
    recipe = {"max_epochs": 1, "batch_size": 64, "learning_rate": 5e-3, "ema_decay": 0.9, **changes}
    return Trainer(network(), data.train, data.test, TrainingConfig(**recipe), seed=3, folder=folder)


def old_names() -> set[str]:
    """The weights that had shape (C, 1, 1)."""
    vectors = [
        (path, one) for path, one in network().named_modules() if isinstance(one, LayerScale | GlobalResponseNorm)
    ]
    return {f"{path}.{name}" for path, one in vectors for name, _ in one.named_parameters()}


def as_saved_by_version_0_1(state: dict[str, Any], run: Trainer) -> dict[str, Any]:
    """The checkpoint with the old shapes, in the model, its averaged weights and the optimizer."""
    old = old_names()
    for name in old:
        state["model"][name] = state["model"][name].view(-1, 1, 1)
        state["averaged"][f"module.{name}"] = state["averaged"][f"module.{name}"].view(-1, 1, 1)
    del state["processor_seconds"]
    names = {id(weights): name for name, weights in run.model.named_parameters()}
    weights = [weights for group in run.optimizer.param_groups for weights in group["params"]]
    for number, moments in state["optimizer"]["state"].items():
        if names[id(weights[number])] in old:
            moments |= {key: one.view(-1, 1, 1) for key, one in moments.items() if key != "step"}
    return state


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_run_of_version_0_1_resumes_to_the_same_bits(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer(None, optimizer=optimizer)
    expected = whole.train()
    stopped = trainer(tmp_path, optimizer=optimizer)
    monkeypatch.setattr(stopped.callbacks, "stopping", lambda: stopped.step == 9)
    with pytest.raises(Interrupted):
        stopped.train()
    (path,) = checkpoints(tmp_path / "checkpoints")
    old = as_saved_by_version_0_1(read_checkpoint(path), stopped)
    path.unlink()
    write_checkpoint(tmp_path / "checkpoints", 9, old)
    resumed = trainer(tmp_path, optimizer=optimizer)
    result = resumed.train()
    assert result.weights_sha256 == expected.weights_sha256 and resumed.began == 9
    assert result.processor_seconds is None and expected.processor_seconds  # that version did not record it
    assert resumed.averaged and whole.averaged
    for mine, theirs in zip(resumed.averaged.parameters(), whole.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("load", [Network.load_state_dict, modernize.load_weights])
def test_a_state_dict_of_version_0_1_is_loaded(load: Any) -> None:
    weights = {key: torch.randn(value.shape) for key, value in network().state_dict().items() if value.ndim}
    old = {key: value.view(-1, 1, 1) if key in old_names() else value for key, value in weights.items()}
    ours = network()
    load(ours, old)
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in weights.items())
