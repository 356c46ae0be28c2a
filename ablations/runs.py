"""A run: one design under one recipe with one seed, in a folder that is the whole record of it."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from ablations.errors import RequestError, RunError
from ablations.recipes import TrainingConfig
from modernize.design import Design, DesignError
from modernize.plan import compile_plan, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ablations.data import DataSet

PACKAGES = ("torch", "torchvision", "numpy", "fvcore", "pandas", "pydantic")


class RunConfig(BaseModel):
    """Everything that a run's result follows from, but for the machine; `flags` is the whole design."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    flags: dict[str, Any]
    recipe_name: str
    recipe: TrainingConfig
    data: str
    evaluate: Literal["test", "validation"] = "test"
    seed: int

    @property
    def name(self) -> str:
        """The run's folder's name."""
        return f"{self.row}-s{self.seed}"

    @property
    def design(self) -> Design:
        return Design().with_flags(self.flags)

    def cost(self, data: DataSet) -> tuple[int, int]:
        """Parameters and multiply-adds on this data; raises RequestError where its images are too small."""
        try:
            steps = trace(compile_plan(self.design, data.channels, len(data.classes)), data.image_size)
        except DesignError as error:
            raise RequestError(f"{self.row} on {data.name}: {error}") from None
        return sum(step.params for step in steps), sum(step.macs for step in steps)

    def images(self, data: DataSet) -> int:
        """Images seen in training on this data."""
        steps_per_epoch = len(data.train) // self.recipe.batch_size
        return max(round(self.recipe.max_epochs * steps_per_epoch), 1) * self.recipe.batch_size

    def check(self, data: DataSet) -> None:
        """Raises RequestError where design or recipe do not fit the data."""
        self.cost(data)
        if self.recipe.batch_size > len(data.train):
            raise RequestError(
                f"batch_size={self.recipe.batch_size}: the training set of {data.name} has {len(data.train)} images; "
                f"the nearest value that works is {len(data.train)}"
            )


@dataclass(frozen=True)
class State:
    """Where a run stands (`done`, `failed`, `running`, `stopped` half-way, `left`), its result, its last log line."""

    status: str
    result: dict[str, Any]
    last: dict[str, Any]


def read_state(folder: Path) -> State:
    """The state of a run's folder, which need not be there and may be being written."""
    from ablations.store import DamagedError, read_json
    from ablations.trainer import read_log

    try:
        result = read_json(folder / "result.json")
        return State(result["status"], result, {})
    except FileNotFoundError:
        log = read_log(folder)
        started = (folder / "config.yaml").exists()
        status = "running" if is_locked(folder) else "stopped" if started else "left"
        return State(status, {}, log[-1] if log else {})
    except DamagedError as error:
        return State("failed", {"reason": str(error)}, {})


def finished(folder: Path) -> bool:
    """Whether the run has a result, good or bad."""
    return (folder / "result.json").exists()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process now holds the run: the lock of a process that died is free."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process is at work in the folder; not where the folder may only be read and so cannot tell."""
    if not (folder / ".lock").exists():
        return False
    try:
        with locked(folder) as free:
            return not free
    except OSError:
        return False


def execute(
    config: RunConfig,
    folder: Path,
    data: DataSet,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] = lambda line: None,
    stopping: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Trains a run, from its last checkpoint if it has one, and returns its result, which stands in `result.json`.

    A run that diverges or breaks is a result too: `status` failed, with the reason. Raises Interrupted when `stopping`
    says so, RequestError where the recipe does not fit the data, RunError where the folder cannot be written.
    """
    from ablations.store import remove_leftovers, write_bytes, write_json
    from ablations.trainer import DivergedError, Interrupted

    params, macs = config.cost(data)
    facts = {"row": config.row, "seed": config.seed, "params": params, "macs": macs, "data_checksum": data.checksum}
    try:
        remove_leftovers(folder)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_bytes(folder / "config.yaml", text.encode())
        _record_session(folder / "environment.json", environment(device, config.seed, data))
        try:
            result = {"status": "done", **_train(config, folder, data, device, report, stopping, say), **facts}
        except (OSError, Interrupted, RequestError):
            raise
        except DivergedError as error:
            result = {"status": "failed", "reason": str(error), **facts}
        except Exception as error:
            write_bytes(folder / "traceback.txt", traceback.format_exc().encode())
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            result = {"status": "failed", "reason": reason, **facts}
        write_json(folder / "result.json", result)
    except OSError as error:
        raise RunError(
            f"run {folder}: cannot be written ({error.strerror or error}); earlier results are whole"
        ) from error
    return result


def _train(
    config: RunConfig,
    folder: Path,
    data: DataSet,
    device: str,
    report: Callable[[dict[str, Any]], None],
    stopping: Callable[[], bool],
    say: Callable[[str], None],
) -> dict[str, Any]:
    import numpy as np
    import torch

    from ablations.chance import seed_of
    from ablations.store import write_bytes
    from ablations.trainer import Trainer
    from modernize.models import build

    torch.manual_seed(seed_of(config.seed, "initialisation"))
    recipe = config.recipe
    network = build(
        config.design, len(data.classes), data.channels, drop_path_rate=recipe.drop_path_rate, init=recipe.init
    )
    trainer = Trainer(network, data.train, data.test, recipe, config.seed, folder, device, report, stopping, say)
    result = trainer.train()
    predictions = io.BytesIO()
    predicted, labels = result.evaluation.predictions.numpy(), data.test.labels.numpy()
    np.savez(predictions, predicted=predicted.astype(np.uint16), labels=labels.astype(np.uint16))
    write_bytes(folder / "predictions.npz", predictions.getvalue())
    return {
        "top1": result.evaluation.top1,
        "loss": result.evaluation.loss,
        "images_seen": result.images_seen,
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "weights_sha256": result.weights_sha256,
        "predictions_sha256": hashlib.sha256(predictions.getvalue()).hexdigest(),
    }


def _record_session(path: Path, session: dict[str, Any]) -> None:
    """Adds what a run now starts or goes on with to what it was started with."""
    from ablations.store import DamagedError, read_json, write_json

    try:
        sessions = read_json(path)["sessions"]
    except (FileNotFoundError, DamagedError):
        sessions = []
    if sessions and sessions[0]["data"] != session["data"]:
        raise RequestError(f"run {path.parent} was started on other data; put that back, or choose another --out")
    write_json(path, {"sessions": [*sessions, session]})


def mark_failed(config: RunConfig, folder: Path, reason: str) -> bool:
    """Gives a run whose process died a result that says so, its checkpoints staying; not where another has taken it."""
    from ablations.store import write_json

    with locked(folder) as free:
        if free and not finished(folder):
            write_json(
                folder / "result.json", {"status": "failed", "reason": reason, "row": config.row, "seed": config.seed}
            )
        return free


def environment(device: str, seed: int, data: DataSet) -> dict[str, Any]:
    """What produced a run: code, packages, machine, device, threads, seed and data."""
    import torch

    cuda = device.startswith("cuda")
    return {
        "code": metadata.version("modernize-convnets"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({torch.backends.cpu.get_cpu_capability()})",
        "threads": torch.get_num_threads(),
        "seed": seed,
        "data": {"name": data.name, "checksum": data.checksum, "train": len(data.train), "test": len(data.test)},
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _commit() -> str | None:
    """The code's git commit, with `+` where files differ from it; none outside a checkout."""
    place = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
