"""What a GPU asks of runs: memory is given back, errors end what they must, and each process takes its own GPU."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import modernize
from ablations.data.datasets import DataSet, load
from ablations.recipes import TrainingConfig
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.callbacks import NullCallbacks
from ablations.training.trainer import Trainer

TINY = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


# ---- Memory


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Free only what nothing refers to; the collector may come long after the GPU has no memory left."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "settings",
    [{}, {"activation_checkpointing": True}, {"ema_decay": 0.9}, {"mixup": 0.8, "clip_norm": 1.0}],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_no_weight_outlives_its_run(settings: dict[str, Any], digits: DataSet, without_collector: None) -> None:
    def run() -> list[weakref.ref]:
        config = TrainingConfig(max_epochs=0.05, batch_size=32, learning_rate=1e-3, workers=0, **settings)
        network = modernize.build(TINY, 10, 1)
        trainer = Trainer(network, digits.train, digits.test, config, device="cpu", callbacks=NullCallbacks())
        trainer.train()
        averages = trainer.averaged.module.parameters() if trainer.averaged else ()
        return [weakref.ref(one) for one in (*network.modules(), *network.parameters(), *averages)]

    left = run()
    assert len(left) > 20 and not [one() for one in left if one() is not None]


def test_a_network_with_activation_checkpointing_is_copied_and_pickled() -> None:
    torch.manual_seed(0)
    network = modernize.build(TINY, 10, 1)
    recompute_blocks(network)
    network.train()
    images = torch.randn(4, 1, 8, 8)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        calls = []
        other.stages[0].blocks[0].residual[0].register_forward_hook(lambda *_, calls=calls: calls.append(1))
        other(images).sum().backward()
        assert torch.equal(other(images), network(images))
        assert len(calls) == 3, "the first block was not computed anew in the backward pass"
        assert not {id(one) for one in other.modules()} & {id(one) for one in network.modules()}
