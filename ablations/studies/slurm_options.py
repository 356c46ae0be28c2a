"""What each run of a study asks a Slurm cluster for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from ablations.recipes import Number, Whole

if TYPE_CHECKING:
    pass


Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_YEAR = 366 * 24 * 60  # minutes, which is longer than clusters let a job run
# sbatch's options that stand for keys of ours, and those that every job has already or that would hide its number.
_OURS = {
    **{key: key for key in ("partition", "time", "nodes", "constraint", "gpus")},
    **{"gpus-per-node": "gpus", "gpus-per-task": "gpus", "ntasks-per-node": "processes", "cpus-per-task": "cpus"},
    **{"ntasks": "processes", "mem": "memory"},
}
_TAKEN = (
    *("array", "signal", "output", "error", "job-name", "requeue", "no-requeue", "open-mode"),
    *("parsable", "quiet", "test-only", "wait", "wrap"),
)


class Cluster(BaseModel):
    """What each run asks a Slurm cluster for. `options` are further ones of sbatch, such as {qos: long}."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    partition: Word | None = None
    time: str | int = Field(default=60, description="minutes, or as Slurm writes it: 2-00:00:00")
    nodes: Whole = Field(default=1, ge=1)
    gpus: Whole = Field(default=0, ge=0, description="of each node")
    processes: Whole | None = Field(default=None, ge=1, description="on each node; none: one for each GPU, or one")
    cpus: Whole = Field(default=1, ge=1, description="of each process")
    memory: Number | None = Field(default=None, ge=0.001, le=1e6, description="GB of each node")
    constraint: Word | None = None
    options: dict[str, str | int | bool] = {}
    setup: list[str] = Field(default=[], description="shell lines before the run, such as `module load cuda`")

    @model_validator(mode="after")
    def _fits_together(self) -> Cluster:
        """Refuses processes that would have no GPU: each job would wait in the queue, and fail."""
        if self.gpus and self.processes_each > self.gpus:
            raise ValueError(f"processes={self.processes}: there must be a GPU for each, and gpus={self.gpus}")
        return self

    @property
    def processes_each(self) -> int:
        """The processes of a run on each node."""
        return self.processes or max(self.gpus, 1)

    @field_validator("time", mode="before")
    @classmethod
    def _check_time(cls, time: Any) -> Any:
        """Refuses what is no time, or longer than a year."""
        asked = minutes(time)
        if asked < 1:
            raise ValueError(f"{time!r} is no time: write minutes, or days-hours:minutes:seconds such as 2-00:00:00")
        if asked > _YEAR:
            raise ValueError(f"{time!r} is longer than a year; a run out of time is requeued, and goes on")
        return time

    @field_validator("options")
    @classmethod
    def _check_options(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        """Refuses what is a key of its own here, or what every job is submitted with."""
        for key in options:
            name = key.replace("_", "-")
            if name in _OURS:
                raise ValueError(f"{key}: write it as cluster.{_OURS[name]}")
            if name in _TAKEN:
                raise ValueError(f"{key}: each job is submitted with its own; leave it out")
        return options


def minutes(time: str | int) -> int:
    """A time limit in whole minutes, as Slurm reads it: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; 0 for none."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time))
    if not match:
        return 0
    days, first, second, third = (int(part) if part else 0 for part in match.groups())
    if match[1] or match[4]:  # the first is hours
        return days * 24 * 60 + first * 60 + second + (third > 0)
    return first + (second > 0)
