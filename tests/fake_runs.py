"""Runs of the trainer on the device of `fake_device`, each beside the same run on the CPU; prints the outcomes as JSON.

This is a program, since the device stays in the process that imports it: `run()` starts it and returns what it prints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DESIGN = "pocket@separate-downsampling,depths=1-1,width=8,stem_stride=1"
STEPS = 3  # that are trained; the last is counted
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "erasing, clipping and EMA": {"erasing": 0.25, "clip_norm": 1.0, "ema_decay": 0.9},
    "Mixup and CutMix": {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
    "SGD, accumulation": {"optimizer": "sgd", "accumulation": 2},
    "activation checkpointing": {"activation_checkpointing": True},
    "fp16": {"precision": "fp16", "clip_norm": 1.0},
    "BatchNorm": {"design": "resnet50,depths=1-1-1-1,width=8", "ema_decay": 0.9},
}


def run(names: tuple[str, ...] = tuple(RUNS)) -> dict[str, Any]:
    """Return the outcome of each run, from a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, __file__, *names], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main(names: list[str]) -> None:
    """Print the outcome of each run."""
    import fake_device

    print(json.dumps({name: _outcome(fake_device.counted, **RUNS[name]) for name in names}))


def _outcome(counted: Any, **changes: Any) -> dict[str, Any]:
    """Train on both devices; return what waited on the fake one, and the largest difference of weights and losses."""
    cpu, fake = trainer("cpu", **changes), trainer("fake", **changes)
    waits = {}
    for one in (cpu, fake):
        for _ in range(STEPS):
            with counted() as found:
                one.train_step()
            waits["step"] = dict(found.counted)
            one.step += 1
        with counted() as found:
            one.log()
        waits["log"] = dict(found.counted)
        with counted() as found:
            evaluation = one.evaluate(one.averaged.module if one.averaged else one.model)
        waits["evaluation"] = dict(found.counted)
        one.loss = evaluation.loss
    weights = zip(cpu.model.state_dict().values(), fake.model.state_dict().values(), strict=True)
    difference = max(float((one.double() - other.cpu().double()).abs().max()) for one, other in weights)
    return {"waits": waits, "difference": difference, "loss": abs(cpu.loss - fake.loss)}


def trainer(device: str, design: str = DESIGN, folder: Path | None = None, **changes: Any) -> Any:
    """Make the trainer of a small network on random images."""
    import torch

    import modernize
    from ablations.recipes import TrainingConfig
    from ablations.training.trainer import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = modernize.build(design, num_classes=10, in_channels=3, drop_path_rate=0.1)
    values = {"max_epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "crop_padding": 1, "horizontal_flip": True}
    recipe = TrainingConfig(**{**values, **changes})
    return Trainer(model, _split(64), _split(32), recipe, seed=3, folder=folder, device=device)


def _split(images: int) -> Any:
    import torch

    from ablations.data.datasets import Split

    random = torch.Generator().manual_seed(images)
    return Split(
        torch.randint(0, 256, (images, 12, 12, 3), dtype=torch.uint8, generator=random), torch.arange(images) % 10
    )


if __name__ == "__main__":
    main(sys.argv[1:])
