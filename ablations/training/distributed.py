"""Data-parallel runs: the group of processes, its collective operations, and torchrun's environment variables."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from ablations.errors import RequestError, RunError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store

__all__ = ["joined"]

Value = TypeVar("Value")
entered: list[int] = []  # ranks of the process groups that this process has joined
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
    """Return the number of processes that torchrun or a Slurm job started for this run; 1 without them.

    Raises RequestError if the environment variables of such a launcher are incomplete or contradict each other.
    """
    given = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not given:
        return 1
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    if rank >= size:
        raise RequestError(f"RANK={rank}: must be less than WORLD_SIZE={size}{_REMEDY}")
    if size > 1 and (place := _number("LOCAL_RANK", 0)) >= _number("LOCAL_WORLD_SIZE", 1, default=place + 1):
        raise RequestError(f"LOCAL_RANK={place}: must be less than LOCAL_WORLD_SIZE{_REMEDY}")
    return size


_REMEDY = "; start the processes with torchrun, or unset RANK and WORLD_SIZE"


def _number(name: str, least: int, default: int | None = None) -> int:
    """Read an integer that a launcher sets; raises RequestError if it is missing or invalid."""
    value = os.environ.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise RequestError(f"{name}: missing, but {'RANK' if 'RANK' in os.environ else 'WORLD_SIZE'} is set{_REMEDY}")
    if not (value.isascii() and value.isdigit() and int(value) >= least):
        raise RequestError(f"{name}={value}: must be an integer of at least {least}{_REMEDY}")
    return int(value)


def is_main() -> bool:
    """Whether this process is rank 0, which prints and writes files."""
    return processes() == 1 or os.environ["RANK"] == "0"


def local_rank() -> int:
    """Return this process's rank on its machine."""
    return int(os.environ["LOCAL_RANK"]) if processes() > 1 else 0


def local_processes() -> int:
    """Return the number of the run's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes() > 1 else 1


def device_of_rank(device: str) -> str:
    """Return this process's own device: `cuda` and `auto` are the GPU of its rank on the machine, if there are GPUs.

    Raises RequestError if this machine has no such GPU.
    """
    if device not in ("cuda", "auto"):
        return device
    import torch

    gpus, place = torch.cuda.device_count(), local_rank()
    if device == "auto" and not gpus:
        return "cpu"
    if place >= gpus:
        have = ", ".join(("cpu", *(f"cuda:{index}" for index in range(gpus))))
        raise RequestError(f"device {device}: process {place} has no GPU; this machine has {have}")
    return f"cuda:{place}"


def is_going_to_restart() -> bool:
    """Whether torchrun starts all processes again if this one fails."""
    count, most = (os.environ.get(f"TORCHELASTIC_{name}", "0") for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return int(count) < int(most)


def another_process_ended(error: BaseException) -> bool:
    """Whether an error says that another process of the run has ended, or has not answered in time."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def _store(rank: int, size: int) -> Store:
    """Connect to the store where the processes meet: torchrun's, or one in rank 0; raises RequestError if it cannot."""
    from torch.distributed import TCPStore

    host, port = os.environ.get("MASTER_ADDR", ""), _number("MASTER_PORT", 1)
    if port > 65535:
        raise RequestError(f"MASTER_PORT={port}: the largest port is 65535{_REMEDY}")
    try:
        socket.getaddrinfo(host or None, port)
    except (OSError, UnicodeError) as error:
        raise RequestError(f"MASTER_ADDR={host}: unknown host ({error}){_REMEDY}") from None
    if not host:
        raise RequestError(f"MASTER_ADDR: missing, but WORLD_SIZE={size}{_REMEDY}")
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(host, port, None if hosted else size, is_master=not hosted and rank == 0, timeout=TIMEOUT)


def _store_of_this_start(store: Store, rank: int, size: int) -> Store:
    """Return a part of the store that no earlier start of the processes has written to.

    torchrun's store outlives a restart (`--max-restarts`) and holds the addresses of ended processes. The number of
    the restart does not tell starts apart, because each machine counts its own. So each process has a name of its own,
    and the others take the part named after rank 0 as soon as rank 0 lists them by their new names.
    """
    from torch.distributed import DistStoreError, PrefixStore

    name = uuid4().hex
    store.set(f"start/{rank}", name)
    listed, deadline = "", time.monotonic() + TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        names = [store.get(f"start/{other}").decode() for other in range(size)] if rank == 0 else []
        if names and " ".join(names) != listed:
            listed = " ".join(names)
            store.set("start/all", listed)
        elif names and store.check([f"start/{name}/{other}" for other in names[1:]]):
            return PrefixStore(name, store)
        elif not names and name in (known := store.get("start/all").decode().split()):
            store.set(f"start/{known[0]}/{name}", "here")
            return PrefixStore(known[0], store)
        time.sleep(0.05)
    raise DistStoreError("the processes have not met")


@contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the process group of a data-parallel run; leave it at the end of the block.

    Args:
        device: Device of this process: `cpu`, `cuda:N`, or `cuda` or `auto` for the GPU of its rank on its machine.

    Yields:
        The group, for `Trainer(group=...)`; a group of one process unless torchrun or Slurm started several.

    Raises:
        RequestError: If this machine has no such GPU, or the environment variables of torchrun are invalid.
        RunError: If another process ends, or does not answer in time.
    """
    device = device_of_rank(device)
    on_gpu = device.startswith("cuda")
    if on_gpu:
        import torch

        torch.cuda.set_device(device)  # otherwise pinning memory would open the first GPU, too
    if processes() == 1:
        yield ALONE
        return
    import torch.distributed as dist

    rank, size = int(os.environ["RANK"]), processes()
    try:
        store = _store_of_this_start(_store(rank, size), rank, size)
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        entered.append(rank)
        dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=size)
        yield Group(dist.get_rank(), dist.get_world_size())
    except Exception as error:
        if not another_process_ended(error):
            raise
        limit = f"{TIMEOUT.total_seconds() / 60:g} minutes"
        raise RunError(
            f"rank {rank}: another process of the run has ended, or has not answered for {limit}; see its error"
        ) from error
    # Not after an error: on GPUs this waits for the other processes, which wait for this one.
    dist.destroy_process_group()
