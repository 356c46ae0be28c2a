"""Data-parallel runs: the group of processes, its collective operations, and torchrun's environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["joined"]

Value = TypeVar("Value")
TIMEOUT = timedelta(minutes=30)  # of a collective operation: another process may be listing a large dataset


@dataclass(frozen=True)
class Group:
    """The processes of one run. Only rank 0 writes files."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        if self.size > 1:
            import torch.distributed as dist

            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, return whether any process sets it, so that all act on it at the same training step."""
        if self.size == 1:
            return flags
        import torch
        import torch.distributed as dist

        maxima = torch.tensor(flags, dtype=torch.int32)  # on the CPU, so that no process waits for its GPU
        dist.all_reduce(maxima, dist.ReduceOp.MAX)
        return tuple(map(bool, maxima.tolist()))

    def by_main(self, act: Callable[[], Value]) -> Value:
        """Call `act` on rank 0 alone; return its value, or raise its error, on all ranks."""
        if self.size == 1:
            return act()
        import torch.distributed as dist

        outcome: list[Any] = [None, None]
        if self.main:
            try:
                outcome[0] = act()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def gathered(self, value: Value) -> list[Value]:
        """Return every process's value, ordered by rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = Group()


def processes() -> int:
    """Return the number of processes that torchrun or a Slurm job started for this run; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_main() -> bool:
    """Whether this process is rank 0, which prints and writes files."""
    return processes() == 1 or os.environ["RANK"] == "0"


def local_rank() -> int:
    """Return this process's rank on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if processes() > 1 else 0


def local_processes() -> int:
    """Return the number of the run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes() > 1 else 1


def _attempt() -> str:
    """Return the number of torchrun's restarts (`--max-restarts`), which separates the keys in its store.

    The store outlives a restart and holds the addresses of ended processes. Each machine counts its own restarts, so
    the number is used on a single machine only.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the process group of a data-parallel run; leave it at the end of the block.

    Args:
        device: Device of this process: `cpu` or `cuda:N`.

    Yields:
        The group, for `Trainer(group=...)`; a group of one process unless torchrun or Slurm started several.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu:
        import torch

        torch.cuda.set_device(device)  # otherwise pinning memory would open the first GPU, too
    if processes() == 1:
        yield ALONE
        return
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    store = dist.PrefixStore(_attempt(), store)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=size)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
