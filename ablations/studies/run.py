"""A run: one design under one recipe with one seed, in a folder that is the whole record of it."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import platform
import subprocess
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict

from ablations.errors import RequestError, one_line, writing
from ablations.recipes import TrainingConfig
from ablations.training.callbacks import Callbacks, NullCallbacks
from ablations.training.distributed import ALONE, Group
from modernize.design import Design, DesignError
from modernize.plan import compile_plan, trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from ablations.data.datasets import DataSet
    from ablations.training.trainer import Result
    from modernize.cost import Cost

PACKAGES = ("torch", "torchvision", "numpy", "fvcore", "pandas", "pydantic")


def _whole(flags: dict[str, Any]) -> dict[str, Any]:
    """All flags of a design: those that an older folder does not know are off in it."""
    return Design().with_flags(flags).flags() if flags else {}


Flags = Annotated[dict[str, Any], AfterValidator(_whole)]


class RunConfig(BaseModel):
    """Everything that a run's result follows from, but for the machine.

    `flags` is the whole design; where there are none, `reference` is another project's network.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    flags: Flags
    reference: str | None = None
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
            if self.reference is not None:
                cost = _count_reference(self.reference, data.image_size, data.channels, len(data.classes))
                return cost.params, cost.macs
            return _count_design(self.design, data.image_size, data.channels, len(data.classes))
        except DesignError as error:
            raise RequestError(f"{self.row} on {data.name}: {error}") from None

    def images(self, data: DataSet) -> int:
        """Images seen in training on this data."""
        steps_per_epoch = len(data.train) // self.recipe.batch_size
        return max(round(self.recipe.max_epochs * steps_per_epoch), 1) * self.recipe.batch_size

    def check(self, data: DataSet, processes: int = 1) -> None:
        """Raises RequestError where design or recipe do not fit the data or so many processes."""
        from ablations.training.trainer import check_batch

        self.cost(data)
        try:
            check_batch(self.recipe, len(data.train), processes)
        except ValueError as error:
            raise RequestError(f"{error} ({self.row} on {data.name})") from None

    @property
    def note(self) -> str | None:
        """What sets this run apart from the others of its study, if anything does."""
        from modernize.reference import has_stochastic_depth

        if self.reference is None:
            return None
        without = " and without stochastic depth, which it does not have"
        lacks = self.recipe.drop_path_rate and not has_stochastic_depth(self.reference)
        return f"torchvision's network, initialised as torchvision does{without if lacks else ''}"


@dataclass(frozen=True)
class State:
    """Where a run stands (`done`, `failed`, `running`, `stopped` half-way, `left`), its result, its last log line."""

    status: str
    result: dict[str, Any]
    last: dict[str, Any]


def read_state(folder: Path) -> State:
    """The state of a run's folder, which need not be there and may be being written."""
    from ablations.store import DamagedError, read_json, read_log

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
    callbacks: Callbacks | None = None,
    group: Group = ALONE,
) -> dict[str, Any]:
    """Trains a run, from its last checkpoint if it has one, and returns its result, which stands in `result.json`.

    A run that diverges or breaks is a result too: `status` failed, with the reason. In a group of processes all call
    this, and rank 0 writes. Raises Interrupted when `stopping` says so, RequestError where the recipe does not fit the
    data, RunError where the folder cannot be written.
    """
    from ablations.store import write_bytes, write_json
    from ablations.training.trainer import DamagedDataError, DivergedError, Interrupted

    params, macs = config.cost(data)
    facts = {"row": config.row, "seed": config.seed, "params": params, "macs": macs, "data_checksum": data.checksum}
    facts |= {"image_size": data.image_size, "in_channels": data.channels, "num_classes": len(data.classes)}
    facts |= {"note": config.note} if config.note else {}
    with writing(f"run {folder}"):
        group.by_main(lambda: _begin(config, folder, environment(device, config.seed, data, group.size)))
        try:
            trained = _train(config, folder, data, device, callbacks or NullCallbacks(), group)
            result = {"status": "done", **_measured(trained), **facts}
        except (OSError, Interrupted, RequestError):
            raise
        except (DivergedError, DamagedDataError) as error:
            result = {"status": "failed", "reason": str(error), **facts}
        except Exception as error:
            if group.size > 1:  # this process alone may be in trouble: the others wait for it, and all must end
                raise
            write_bytes(folder / "traceback.txt", traceback.format_exc().encode())
            # of an error in a process that prepares images, the last line says what it was
            words = str(error).strip().splitlines()[-1] if "Original Traceback" in str(error) else str(error)
            reason = one_line(f"{type(error).__name__}: {words}")[:500]
            result = {"status": "failed", "reason": reason, **facts}

        def end() -> None:
            if result["status"] == "done":
                result["predictions_sha256"] = _write_predictions(folder, trained)
            write_json(folder / "result.json", result)

        group.by_main(end)
    return result


def _begin(config: RunConfig, folder: Path, session: dict[str, Any]) -> None:
    """Puts a run's folder in order, and what it is and now runs on into it."""
    from ablations.store import remove_leftovers, write_bytes

    remove_leftovers(folder)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_bytes(folder / "config.yaml", text.encode())
    _record_session(folder / "environment.json", session)


def _train(config: RunConfig, folder: Path, data: DataSet, device: str, callbacks: Callbacks, group: Group) -> Result:
    import torch

    from ablations.seeding import seed_of
    from ablations.training.trainer import Trainer

    torch.manual_seed(seed_of(config.seed, "initialisation"))
    network = build_network(config, data)
    try:
        trainer = Trainer(
            network,
            data.train,
            data.test,
            config.recipe,
            seed=config.seed,
            folder=folder,
            device=device,
            callbacks=callbacks,
            group=group,
        )
    except ValueError as error:
        raise RequestError(f"{error} ({config.row} on {data.name})") from None
    return trainer.train()


def build_network(config: RunConfig, data: DataSet) -> nn.Module:
    """The run's network for this data, its weights drawn from torch's global generator."""
    from modernize.models import build
    from modernize.reference import build_reference

    classes, rate = len(data.classes), config.recipe.drop_path_rate
    if config.reference is not None:
        return build_reference(config.reference, classes, data.channels, rate, data.image_size)
    return build(config.design, classes, data.channels, drop_path_rate=rate, init=config.recipe.init)


def _measured(trained: Result) -> dict[str, Any]:
    """A result's numbers."""
    averaged = trained.averaged
    return {
        "top1": trained.evaluation.top1,
        "loss": trained.evaluation.loss,
        **({"ema_top1": averaged.top1, "ema_loss": averaged.loss} if averaged else {}),
        "images_seen": trained.images_seen,
        "seconds": trained.seconds,
        "images_per_second": trained.images_per_second,
        "evaluation_seconds": trained.evaluation_seconds,
        "weights_sha256": trained.weights_sha256,
        **({"damaged": list(trained.damaged)} if trained.damaged else {}),
    }


def _write_predictions(folder: Path, trained: Result) -> str:
    """Writes what was predicted for each test image; the file's checksum."""
    import numpy as np

    from ablations.store import write_bytes

    predictions = io.BytesIO()
    predicted, labels = trained.evaluation.predictions.numpy(), trained.evaluation.labels.numpy()
    np.savez(predictions, predicted=predicted.astype(np.uint16), labels=labels.astype(np.uint16))
    write_bytes(folder / "predictions.npz", predictions.getvalue())
    return hashlib.sha256(predictions.getvalue()).hexdigest()


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


def load_data(run: RunConfig, data_dir: Path) -> DataSet:
    """The data of a run, as its recipe wants it; raises RequestError."""
    from ablations.data.datasets import load

    return load(run.data, data_dir, **data_wanted(run), evaluate=run.evaluate)


def data_wanted(run: RunConfig) -> dict[str, Any]:
    """What a run's recipe wants of the images of its data: runs that want the same may share them."""
    recipe = run.recipe
    return {
        "image_size": recipe.image_size,
        "as_they_are": recipe.image_by_image,
        "interpolation": recipe.interpolation,
    }


@functools.cache
def _count_design(design: Design, image_size: int, in_channels: int, num_classes: int) -> tuple[int, int]:
    steps = trace(compile_plan(design, in_channels, num_classes), image_size)
    return sum(step.params for step in steps), sum(step.macs for step in steps)


@functools.cache
def _count_reference(name: str, image_size: int, in_channels: int, num_classes: int) -> Cost:
    from modernize.reference import count_reference

    return count_reference(name, image_size, in_channels, num_classes)


def environment(device: str, seed: int, data: DataSet, processes: int) -> dict[str, Any]:
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
        "processes": processes,
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
