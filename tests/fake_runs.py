"""Runs of the trainer on the device of `fake_device`, each beside the same run on the CPU; prints the outcomes as JSON.

This is a program, since the device stays in the process that imports it: `run()` starts it and returns what it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DESIGN = "pocket@separate-downsampling,depths=1-1,width=8,stem_stride=1"
STEPS = 3
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "erasing, clipping and EMA": {"erasing": 0.25, "clip_norm": 1.0, "ema_decay": 0.9},
    "Mixup and CutMix": {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1},
    "SGD, accumulation": {"optimizer": "sgd", "accumulation": 2},
    "activation checkpointing": {"activation_checkpointing": True},
    "fp16": {"precision": "fp16", "clip_norm": 1.0},
    "BatchNorm": {"design": "resnet50,depths=1-1-1-1,width=8", "ema_decay": 0.9, "precise_bn": 32},
    "images one by one": {"crop_padding": 0, "crop_scale": [0.5, 1.0], "randaugment": 5, "workers": 0},
}

WAITING = (
    "x.sum().item()",
    "x.cpu()",
    "x.tolist()",
    "bool(x.sum() > 3)",
    "x.nonzero()",
    "x[x > 0]",
    "x.masked_select(x > 0)",
    "x[torch.tensor([1, 2])]",
    "torch.equal(x, x)",
    "torch.allclose(x, x)",
    "x.unique()",
    "x.unique_consecutive()",
    "x.long().bincount()",
    "x.repeat_interleave(x.long())",
    "x.__setitem__(x > 0, x + 1)",
    "repr(x)",
    "torch.tensor(1.0, device='fake')",
    "torch.ones(2).to('fake')",
    "torch.ones(2).to('fake', non_blocking=True)",  # not pinned
    "torch.ones(2).pin_memory().to('fake')",
)
NOT_WAITING = (
    "torch.ones(2).pin_memory().to('fake', non_blocking=True)",
    "x[torch.ones(2, dtype=torch.int64, device='fake')] + x.fill_(2)[0]",
    "torch.where(x > 0, x, 0.0).sum().add_(1)",
    "torch.full((2,), 3.0, device='fake').mul_(2)",
)


def run() -> dict[str, Any]:
    """Return the outcome of each run, that of one resumed, and what is counted, from a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, __file__], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def main() -> None:
    """Print the outcomes."""
    import fake_device

    runs = {name: _outcome(fake_device.counted, **changes) for name, changes in RUNS.items()}
    counted = _counted(fake_device.counted)
    print(json.dumps({"runs": runs, "resumed": _resumed(), "counted": counted, "arithmetic": _arithmetic()}))


def _outcome(counted: Any, **changes: Any) -> dict[str, Any]:
    """Train on both devices; return what waited on the fake one, and the largest difference of weights and losses."""
    cpu, fake = trainer("cpu", **changes), trainer("fake", **changes)
    waits = {}
    for one in (cpu, fake):
        with counted() as found:
            for _ in range(STEPS):
                one.train_step()
                one.step += 1
        waits["steps"] = dict(found.counted)
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


def _resumed() -> dict[str, str]:
    """Train with every part of the state; return the checksums of the weights, uninterrupted and resumed."""
    from ablations.training.checkpoint import weights_sha256
    from ablations.training.trainer import Interrupted

    changes: dict[str, Any] = {"ema_decay": 0.9, "erasing": 0.25, "mixup": 0.8, "clip_norm": 1.0, "precision": "fp16"}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = trainer("fake", folder=Path(one), **changes)
        whole.train()
        first = trainer("fake", folder=Path(other), **changes)
        first.callbacks.stopping = lambda: first.step == 2
        with contextlib.suppress(Interrupted):
            first.train()
        rest = trainer("fake", folder=Path(other), **changes)
        rest.train()
    assert rest.began == 2
    return {
        name: weights_sha256(run.model.state_dict()) + weights_sha256(run.averaged.module.state_dict())
        for name, run in (("whole", whole), ("resumed", rest))
    }


def _arithmetic() -> dict[str, dict[str, Any]]:
    """Return how torch is set up before, while and after it trains, by precision."""
    return {precision: _set_up(precision, precision == "float32") for precision in ("float32", "tf32")}


def _set_up(precision: str, deterministic: bool) -> dict[str, Any]:
    found = {"before": arithmetic()}
    run = trainer("fake", precision=precision, deterministic=deterministic)
    run.callbacks.log = lambda line: found.update(training=arithmetic())
    run.train()
    return {**found, "after": arithmetic()}


def arithmetic() -> dict[str, Any]:
    """Return torch's settings of float32 products, as itself and as torch.compile reads them, and of determinism."""
    import torch

    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    return {
        "products": [cuda.matmul.fp32_precision, cudnn.conv.fp32_precision],
        "compiled": [cuda.matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()],
        "deterministic": [torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark],
        "filled": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    }


def _counted(counted: Any) -> dict[str, int]:
    """Return how often each statement, with a tensor `x` of the device, waits for it."""
    import torch

    found = {}
    for statement in WAITING + NOT_WAITING:
        x = torch.ones(4, device="fake")
        with counted() as waits:
            exec(statement, {"torch": torch, "x": x})
        found[statement] = waits.total
    return found


def trainer(device: str, design: str = DESIGN, folder: Path | None = None, **changes: Any) -> Any:
    """Make the trainer of a small network on random images."""
    import torch

    import modernize
    from ablations.recipes import TrainingConfig
    from ablations.training.callbacks import NullCallbacks
    from ablations.training.trainer import Trainer

    torch.set_num_threads(1)
    torch.manual_seed(7)
    model = modernize.build(design, num_classes=10, in_channels=3, drop_path_rate=0.1)
    values = {"max_epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "crop_padding": 1, "horizontal_flip": True}
    recipe = TrainingConfig(**{**values, **changes})
    data = _split(64), _split(32)
    return Trainer(model, *data, recipe, seed=3, folder=folder, device=device, callbacks=NullCallbacks())


def _split(images: int) -> Any:
    import torch

    from ablations.data.datasets import Split

    random = torch.Generator().manual_seed(images)
    return Split(
        torch.randint(0, 256, (images, 12, 12, 3), dtype=torch.uint8, generator=random), torch.arange(images) % 10
    )


if __name__ == "__main__":
    main()
