"""Logs of a run for other programs, beside its own: TensorBoard, and Weights & Biases (W&B)."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.errors import RequestError, one_line
from ablations.studies.run import RunConfig, read_state
from ablations.training.callbacks import Callbacks

if TYPE_CHECKING:
    import wandb
    from torch.utils.tensorboard import SummaryWriter

PROJECT = "modernize-convnets"  # unless WANDB_PROJECT names another
NAME_LETTERS = 128  # of a W&B run or group
INIT_SECONDS = 20  # that a run waits for W&B's server before it logs offline
FINISH_SECONDS = 60  # that a run waits for its last upload; what is left can be synced later
INTERRUPTED = 255  # exit status that W&B shows as killed


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """Return what is plotted of a line of the log."""
    values = {f"training/{name}": line[name] for name in ("loss", "top1", "learning_rate")}
    return {**values, "training/images_per_second": line["images"] / max(line["seconds"], 1e-9)}


class TensorBoard(Callbacks):
    """Write the log for TensorBoard too, in the run's folder."""

    def __init__(self, callbacks: Callbacks, folder: Path):
        super().__init__(callbacks.stopping)
        self.callbacks, self.folder = callbacks, folder
        self.writer: SummaryWriter | None = None

    def warn(self, message: str) -> None:
        self.callbacks.warn(message)

    def log(self, line: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.callbacks.log(line)
        # purge_step hides what an earlier session wrote after its last checkpoint.
        self.writer = self.writer or SummaryWriter(str(self.folder / "tensorboard"), purge_step=line["step"])
        for name, value in scalars(line).items():
            self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()


class WeightsAndBiases(Callbacks):
    """Log to W&B too, within a `with` block; whatever fails there is one warning and changes nothing else.

    Every session of a run has the same W&B id. Steps that W&B lacks are read from the log in the
    run's folder: online, those after the server's last step; offline, all, since a later offline session replaces an
    earlier one when they are synced.
    """

    def __init__(self, callbacks: Callbacks, config: RunConfig, folder: Path, study: str | None):
        super().__init__(callbacks.stopping)
        self.callbacks, self.config, self.folder, self.study = callbacks, config, folder, study
        self.run: wandb.Run | None = None
        self.next_step = 0  # steps before it have been logged
        self.caught_up = False

    def __enter__(self) -> WeightsAndBiases:
        with self._harmless():
            self.run = self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        with self._harmless():
            self._end(interrupted=error[0] is not None)

    def warn(self, message: str) -> None:
        self.callbacks.warn(message)

    def log(self, line: dict[str, Any]) -> None:
        self.callbacks.log(line)
        with self._harmless():
            self._send(line)

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Turn an error of W&B into a warning, and log no more of this run."""
        try:
            yield
        except Exception as error:
            self.run = None
            self.warn(f"{self.config.name}: warning: not logged to W&B: {_reason(error)}")
            _give_up()

    def _begin(self) -> wandb.Run | None:
        mode = _settings().mode
        if mode == "disabled":
            return None
        if mode in ("offline", "dryrun"):
            return self._init(mode="offline")
        try:
            run = self._init(mode="online", resume="allow")
        except Exception as error:
            self.warn(f"{self.config.name}: warning: logged offline: W&B: {_reason(error)}")
            _give_up()
            _settings()
            return self._init(mode="offline")
        self.next_step = run.step
        return run

    def _init(self, **how: Any) -> wandb.Run:
        import wandb

        settings = wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS)
        return wandb.init(
            project=project(),
            group=self.study and self.study[:NAME_LETTERS],
            name=self.config.name[:NAME_LETTERS],
            id=_stable_id(self.folder),
            config=self.config.model_dump(mode="json"),
            dir=None if os.environ.get("WANDB_DIR") else self.folder,
            settings=settings,
            **how,
        )

    def _send(self, line: dict[str, Any] | None = None) -> None:
        """Log a line that was just written to the run's log, and first the earlier ones that W&B lacks."""
        from ablations.store import read_log

        if self.run is None:
            return
        lines = read_log(self.folder) if not self.caught_up else [line] if line else []
        self.caught_up = True
        for one in lines:
            if one["step"] >= self.next_step:
                self.run.log(scalars(one), step=one["step"])

    def _end(self, interrupted: bool) -> None:
        self._send()
        if self.run is None:
            return
        result = read_state(self.folder).result
        self.run.summary.update({key: value for key, value in result.items() if isinstance(value, int | float | str)})
        status = INTERRUPTED if interrupted else 0 if result["status"] == "done" else 1
        self.run.finish(exit_code=status)


def project() -> str:
    """Return the name of the W&B project."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def check_account() -> str:
    """Describe where W&B logs; raise RequestError if no account is set up and the mode needs one. Never prompt."""
    import wandb

    try:
        settings = _settings()
        if settings.mode == "disabled":
            return "W&B: disabled by WANDB_MODE"
        if settings.mode in ("offline", "dryrun"):
            place = os.environ.get("WANDB_DIR") or "the runs' folders"
            return f"W&B: project {project()}; offline, in {place}: upload with wandb sync"
        wandb.login(verify=False)
    except Exception as error:
        raise RequestError(f"--wandb: {_reason(error)}; run wandb login, or set WANDB_MODE=offline") from None
    return f"W&B: project {project()}, on {settings.base_url}"


def _settings() -> wandb.Settings:
    """Return W&B's settings from the environment and its files; from now on it prints nothing and asks nothing."""
    import wandb

    return wandb.setup(wandb.Settings(silent=True)).settings


def _give_up() -> None:
    """End W&B's process, whatever state it is in; the next run starts another."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown(1)


def _stable_id(folder: Path) -> str:
    """Return the W&B id of a run, kept in its folder; a new one if it has none yet."""
    from ablations.store import DamagedError, read_json, write_json

    path = folder / "wandb.json"
    try:
        return read_json(path)["id"]
    except (FileNotFoundError, DamagedError):
        write_json(path, {"id": secrets.token_hex(8)})
    return read_json(path)["id"]


def _reason(error: Exception) -> str:
    """Return an error of W&B on one line."""
    return one_line(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)[:300]
