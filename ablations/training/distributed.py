"""Several processes at one run: who they are, and what they sum, agree on and tell each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
PATIENCE = timedelta(minutes=30)  # for another process, which may be listing a large data set


@dataclass(frozen=True)
class Group:
    """The processes of one run; `rank` 0 alone writes."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of all processes' values."""
        if self.size > 1:
            import torch.distributed as dist

            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process: all act on it at the same step."""
        if self.size == 1:
            return flags
        import torch
        import torch.distributed as dist

        found = torch.tensor(flags, dtype=torch.int32)  # on the CPU: no GPU is waited for
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return tuple(map(bool, found.tolist()))

    def by_main(self, act: Callable[[], Value]) -> Value:
        """What rank 0 gets by acting, for all; what it raises is raised in all."""
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
        """Every process's value, by rank."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


ALONE = Group()


def processes() -> int:
    """How many processes torchrun, or a cluster's job of several tasks, has started for a run; 1 where none did."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def is_main() -> bool:
    """Whether this process is the one that speaks and writes."""
    return processes() == 1 or os.environ["RANK"] == "0"


def local_rank() -> int:
    """This process's place among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) if processes() > 1 else 0


def local_processes() -> int:
    """The processes of its run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes() > 1 else 1


def _attempt() -> str:
    """Which of torchrun's starts of a run this is, where `--max-restarts` allows several.

    Its store outlives them, and in it the addresses of processes that are gone. Machines count restarts each for
    itself, so that of several it cannot be told.
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if alone else "0"


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """The group that this process belongs to, for as long as it lasts; by itself where nothing launched it."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        import torch

        torch.cuda.set_device(device)  # else what pins memory opens the first GPU, too
    if processes() == 1:
        yield ALONE
        return
    import torch.distributed as dist

    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    store = dist.PrefixStore(_attempt(), store)
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=size)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
