"""Train a run: one design under one recipe with one seed, recorded in a folder of its own."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict

from ablations.errors import RequestError, writing
from ablations.machine import cores_in_words
from ablations.recipe_checks import Facts, doubts
from ablations.recipes import as_stored, read_yaml
from ablations.studies.networks import (
    build_network,
    check_network,
    classifier_of,
    count_network,
    has_batch_norm,
    least_fan_in,
)
from ablations.studies.own_code import check_code, keep_code
from ablations.studies.plugin_files import PluginFiles, check_plugins, keep_plugins
from ablations.studies.starting_weights import Weights, load
from ablations.training.callbacks import Callbacks, NullCallbacks
from ablations.training.distributed import ALONE, Group, another_process_ended, is_going_to_restart
from ablations.training_config import TrainingConfig
from modernize.design import Design, DesignError
from modernize.plan import Cost
from modernize.yaml_file import as_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ablations.data.datasets import DataSet
    from ablations.data.preprocessing import Preprocessing
    from ablations.training.result import Result

NAME_BYTES = 255  # of a file
PACKAGES = ("torch", "torchvision", "pillow", "numpy", "fvcore", "pandas", "pydantic")


def _whole(flags: dict[str, Any]) -> dict[str, Any]:
    """Return all flags of a design; a folder older than a flag has it off."""
    return Design().with_flags(flags).flags() if flags else {}


Flags = Annotated[dict[str, Any], AfterValidator(_whole)]


class RunConfig(BaseModel):
    """Everything that determines a run's result, except the machine.

    `flags` is the whole design; if empty, `reference` names a reference model. `code_sha256` is the checksum of the
    user's files that a reference model comes from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    row: str
    label: str
    plugins: PluginFiles = []
    flags: Flags
    reference: str | None = None
    code_sha256: str | None = None
    recipe_name: str
    recipe: TrainingConfig
    data: str
    evaluate: Literal["test", "validation"] = "test"
    seed: int
    weights: Weights | None = None

    @property
    def name(self) -> str:
        """Name the run's folder, in at most as many bytes as a file's name may have."""
        name, end = f"{self.row}-s{self.seed}", f"-s{self.seed}"
        if len(name.encode()) <= NAME_BYTES:
            return name
        end = f"-{hashlib.sha256(name.encode()).hexdigest()[:16]}{end}"
        return name.encode()[: NAME_BYTES - len(end)].decode(errors="ignore") + end

    @property
    def design(self) -> Design:
        return Design().with_flags(self.flags)

    def image_size(self, data: DataSet) -> int:
        """Return the resolution in pixels at which this run is evaluated, and for which its cost is counted."""
        return self.recipe.evaluated_at(data.image_size)

    def cost(self, data: DataSet, training: bool = False) -> Cost:
        """Count what the network costs for this dataset; raises RequestError if its images are too small.

        MACs and activations are at the resolution of evaluation, or at that of `training`.
        """
        size = data.image_size if training else self.image_size(data)
        try:
            return count_network(self, data, size)
        except DesignError as error:
            raise RequestError(f"{self.row} on {data.name}: {error}") from None

    def images(self, data: DataSet) -> int:
        """Return the number of training images seen, counting repeats."""
        return self.images_of(len(data.train))

    def images_of(self, train: int) -> int:
        """Return the number of training images seen, repeats included, with a training set of `train` images."""
        steps_per_epoch = train // self.recipe.batch_size
        return max(round(self.recipe.max_epochs * steps_per_epoch), 1) * self.recipe.batch_size

    def check(self, data: DataSet, processes: int = 1) -> None:
        """Raise RequestError if design or recipe do not fit the dataset or the number of processes."""
        from ablations.training.arguments import check_batch
        from modernize.reference import shown_reference, takes_one_size

        check_code(self)
        check_plugins(self.plugins, self.row)
        for training in (True, False):
            self.cost(data, training)
        if self.reference is not None and takes_one_size(self.reference) and self.image_size(data) != data.image_size:
            raise RequestError(
                f"evaluation_size={self.image_size(data)}: {shown_reference(self.reference)} takes images of one size, "
                f"here {data.image_size}; set evaluation_size to null"
            )
        try:
            check_batch(self.recipe, len(data.train), processes)
            check_network(self, data)
        except ValueError as error:
            raise RequestError(f"{error} ({self.row} on {data.name}, recipe {self.recipe_name})") from None

    def doubts(self, data: DataSet, processes: int = 1) -> list[str]:
        """Return a sentence for each setting that makes the results on this dataset meaningless."""
        facts = Facts(
            train=len(data.train),
            test=len(data.test),
            classes=len(data.classes),
            image_size=data.own_size,
            processes=processes,
            batch_norm=has_batch_norm(self, data),
            from_weights=self.weights is not None,
            smallest_fan_in=least_fan_in(self, data),
        )
        return doubts(self.recipe, facts)

    @property
    def note(self) -> str | None:
        """Describe how this run differs from the others of its study, if it does."""
        from modernize.reference import has_stochastic_depth, origin

        if self.reference is None:
            return None
        without = " and without stochastic depth, which it lacks"
        lacks = self.recipe.drop_path_rate and not has_stochastic_depth(self.reference)
        initialization = " and initialization" if self.weights is None else ""
        return f"{origin(self.reference)}'s network{initialization}{without if lacks else ''}"


@dataclass(frozen=True)
class State:
    """A run's status (`done`, `failed`, `running`, `stopped` or `left`), its result and its last log line."""

    status: str
    result: dict[str, Any]
    last: dict[str, Any]


def read_state(folder: Path) -> State:
    """Read the state of a run's folder, which may not exist, or may be in use."""
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
        reason = str(error).replace(str(folder / "result.json"), "result.json")  # for readers on other machines
        return State("failed", {"reason": reason}, {})


def finished(folder: Path) -> bool:
    """Whether the run has a result, `done` or `failed`."""
    return (folder / "result.json").exists()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock the run's folder and yield whether that succeeded; the lock of a dead process is free."""
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
    """Whether a process holds the run; False in a read-only folder, whose lock cannot be tried."""
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
    """Train a run, from its last checkpoint if it has one; return its result and write it to `result.json`.

    A run that diverges or crashes has a result too: `status` failed, with the reason. In a group all processes call
    this, and rank 0 writes; a rank that crashes writes that the run failed, and raises its error. Raises Interrupted if
    the callbacks stop it, RequestError if the recipe does not fit the data, RunError if the folder cannot be written.
    """
    from ablations.store import read_log, write_json
    from ablations.studies.evaluated_images import train_top1, write_predictions
    from ablations.studies.failures import exits_as_errors, record_failure
    from ablations.studies.measured import measured, reported
    from ablations.training.gpu import give_back
    from ablations.training.trainer import DamagedDataError, DivergedError, Interrupted

    check_code(config)
    check_plugins(config.plugins, f"run {folder}")
    facts = {"row": config.row, "seed": config.seed, **asdict(config.cost(data)), "data_checksum": data.checksum}
    facts |= {"image_size": config.image_size(data), "in_channels": data.channels, "num_classes": len(data.classes)}
    facts["classes"] = list(data.classes)
    facts |= {"files_checksum": data.files_checksum} if data.files_checksum else {}
    facts |= {"code_sha256": config.code_sha256} if config.code_sha256 else {}
    facts |= {"plugins": [one.model_dump() for one in config.plugins]} if config.plugins else {}
    facts |= {"note": config.note} if config.note else {}
    facts |= {"weights": config.weights.model_dump(mode="json")} if config.weights else {}
    facts |= {"warnings": warnings} if (warnings := config.doubts(data, group.size)) else {}
    with writing(f"run {folder}"), exits_as_errors(config.name):
        group.by_main(lambda: _begin(config, folder, environment(device, config, data, group.size)))
        try:
            trained, steps = _train(config, folder, data, device, callbacks or NullCallbacks(), group)
            result = {"status": "done", **measured(trained, config.recipe, data)}
            result |= {"train_top1": train_top1(read_log(folder)), **facts}
            result |= {"preprocessing": asdict(steps)} if steps else {}
        except (OSError, Interrupted, RequestError):
            raise
        except (Exception, SystemExit) as error:  # a network of the user's may call sys.exit
            everywhere = group.size == 1 or isinstance(error, (DivergedError, DamagedDataError))
            if not everywhere and (another_process_ended(error) or is_going_to_restart() or finished(folder)):
                raise
            reason = record_failure(error, folder, config.recipe, device, group)
            result = {"status": "failed", "reason": reason, **facts}
            if not everywhere:  # the other processes wait for this one, so all must end
                write_json(folder / "result.json", result)
                raise

        def end() -> None:
            if result["status"] == "done":
                result["predictions_sha256"] = write_predictions(folder, reported(trained, config.recipe), data)
            write_json(folder / "result.json", result)

        group.by_main(end)
    give_back(device, config.recipe.compile)
    return result


def _begin(config: RunConfig, folder: Path, session: dict[str, Any]) -> None:
    """Clean a run's folder and write its configuration and this session's environment."""
    from ablations.store import remove_leftovers, write_bytes

    remove_leftovers(folder)
    path = folder / "config.yaml"
    try:
        before = [read_yaml(path, "run")["recipe"]] if path.exists() else []
    except RequestError:  # damaged: written anew
        before = []
    values = config.model_dump(mode="json") | {"recipe": as_stored(config.recipe, before)}
    values = values if config.plugins else {key: value for key, value in values.items() if key != "plugins"}
    write_bytes(path, as_yaml(values).encode())
    keep_code(config, folder)
    keep_plugins(config.plugins, folder)
    _record_session(folder / "environment.json", session)


def _train(
    config: RunConfig, folder: Path, data: DataSet, device: str, callbacks: Callbacks, group: Group
) -> tuple[Result, Preprocessing | None]:
    """Train the run's network; return its results and how its test images were prepared."""
    import torch

    from ablations.seeding import seed_of
    from ablations.training.trainer import Trainer

    torch.manual_seed(seed_of(config.seed, "initialisation"))
    network = build_network(config, data)
    if config.weights is not None and not group.by_main(lambda: _has_checkpoint(folder, callbacks)):
        head = classifier_of(config, network, data)
        load(network, config.weights, head, reset_classifier=config.recipe.reset_classifier)
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
    return trainer.train(), trainer.feeds.preprocessing


def _has_checkpoint(folder: Path, callbacks: Callbacks) -> bool:
    """Whether a run resumes from an intact checkpoint; report and delete corrupt ones."""
    from ablations.training.checkpoint import newest_checkpoint

    return newest_checkpoint(folder / "checkpoints", callbacks.warn) is not None


def _record_session(path: Path, session: dict[str, Any]) -> None:
    """Append this session's environment to those of earlier sessions."""
    from ablations.store import DamagedError, read_json, write_json

    try:
        sessions = read_json(path)["sessions"]
    except (FileNotFoundError, DamagedError):
        sessions = []
    if sessions and sessions[0]["data"] != session["data"]:
        raise RequestError(
            f"run {path.parent} was started with other data, or by a version that read it differently; "
            f"restore that data, or choose another --out"
        )
    write_json(path, {"sessions": [*sessions, session]})


def mark_failed(config: RunConfig, folder: Path, reason: str) -> bool:
    """Write a failed result for a run whose process died; return False if another process has taken the run."""
    from ablations.store import write_json

    with locked(folder) as free:
        if free and not finished(folder):
            write_json(
                folder / "result.json", {"status": "failed", "reason": reason, "row": config.row, "seed": config.seed}
            )
        return free


def load_data(run: RunConfig, data_dir: Path) -> DataSet:
    """Load the dataset of a run, as its recipe asks; raises RequestError."""
    from ablations.data.datasets import load

    if run.data == "folder" and (setting := run.recipe.crops_whole_images):
        raise RequestError(
            f"dataset folder holds images that are already cropped to image_size, and recipe {run.recipe_name} crops "
            f"whole images ({setting}); use --data imagenet, which reads the same folders"
        )
    return load(run.data, data_dir, **data_wanted(run), evaluate=run.evaluate)


def data_wanted(run: RunConfig) -> dict[str, Any]:
    """Return what a recipe asks of the images; runs that ask the same may share a dataset."""
    recipe = run.recipe
    return {
        "image_size": recipe.image_size,
        "as_they_are": recipe.image_by_image,
        "interpolation": recipe.interpolation,
    }


def environment(device: str, config: RunConfig, data: DataSet, processes: int) -> dict[str, Any]:
    """Describe what produces a run: code, packages, machine, device, threads, seed and data."""
    import torch

    from ablations.data.decode import VERSION
    from modernize.acceleration import ROUNDING

    cuda = device.startswith("cuda")
    return {
        "code": metadata.version("modernize-convnets"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {cores_in_words()}",
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu ({torch.backends.cpu.get_cpu_capability()})",
        **({"float32": "tf32" if config.recipe.precision == "tf32" else "ieee"} if cuda else {}),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "seed": config.seed,
        "data": {
            **{"name": data.name, "checksum": data.checksum, "train": len(data.train), "test": len(data.test)},
            **({"folder": Path(data.place).resolve().name} if data.account else {}),  # of the user's own images
        },
        "images": {"size": data.image_size, "channels": data.channels, "classes": len(data.classes)},
        "decoder": VERSION,
        "rounding": ROUNDING,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _commit() -> str | None:
    """Return the code's git commit, with `+` if files differ from it; None outside a checkout."""
    place = Path(__file__).parent
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, encoding="utf-8", errors="replace", timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
