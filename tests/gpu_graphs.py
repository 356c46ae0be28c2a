"""Print the images/s of pocket training, data included: eager, compiled, and as CUDA graphs, in interleaved rounds.

`python tests/gpu_graphs.py DATA_DIR`; it trains the first and the last network of the pocket roadmap on Fashion-MNIST.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

import modernize
from ablations.bench.workers import synchronize
from ablations.data.datasets import DataSet, load
from ablations.recipes import load_recipe
from ablations.training.callbacks import NullCallbacks
from ablations.training.gpu_arithmetic import gpu_arithmetic
from ablations.training.trainer import Trainer
from modernize.acceleration import accelerated

WAYS = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}  # torch.compile's mode
NETWORKS = ("pocket", "pocket@separate-downsampling")
STEPS, ROUNDS, WARMUP = 100, 5, 10
RECIPE = load_recipe("quick,precision=bf16,max_epochs=1000")


def trainer_of(design: str, data: DataSet, mode: str | None, device: str) -> Trainer:
    """Make a trainer whose network is compiled in a mode, or not."""
    torch.manual_seed(0)
    network = modernize.build(design, len(data.classes), data.channels)
    trainer = Trainer(network, data.train, data.test, RECIPE, device=device, callbacks=NullCallbacks())
    if mode is not None:
        trainer.model.compile(mode=mode)
    return trainer


def seconds_of(trainer: Trainer, steps: int) -> float:
    """Return the time of some training steps."""
    synchronize(str(trainer.device))
    begun = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
        trainer.step += 1
    synchronize(str(trainer.device))
    return time.perf_counter() - begun


def measured(design: str, data: DataSet, device: str, ways: Mapping[str, str | None] = WAYS) -> dict[str, float]:
    """Return the median images/s of each way."""
    torch.compiler.reset()
    trainers = {way: trainer_of(design, data, mode, device) for way, mode in ways.items()}
    rounds: dict[str, list[float]] = {way: [] for way in ways}
    faster = accelerated(*(trainer.model for trainer in trainers.values()))
    with gpu_arithmetic(device, RECIPE.precision), faster:
        for trainer in trainers.values():
            seconds_of(trainer, WARMUP)  # compiles
        for _ in range(ROUNDS):
            for way, trainer in trainers.items():
                rounds[way].append(STEPS * RECIPE.batch_size / seconds_of(trainer, STEPS))
    return {way: statistics.median(speeds) for way, speeds in rounds.items()}


def main(data_dir: str, device: str = "cuda:0") -> None:
    """Print one line per network."""
    data = load("fashion_mnist", Path(data_dir), RECIPE.image_size)
    print(f"{'pocket training (images/s)':<30}", *(f"{way:>12}" for way in WAYS))
    for design in NETWORKS:
        print(f"{design:<30}", *(f"{speed:12,.0f}" for speed in measured(design, data, device).values()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
