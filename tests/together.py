"""Processes of one group, forked from a server that has torch already.

They join as torchrun's do, by what stands in their environment; the store they meet in is the caller's, on a free port.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

SECONDS = 120  # for an answer


def together(size: int, act: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return the results of `act(group, *arguments)` in each process of a group, by rank."""
    from torch.distributed import TCPStore

    context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(
        ["ablations.training.trainer", "ablations.data.batches", "modernize.models", "sklearn.datasets"]
    )
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, waiting, answers = [], {}, {}
    try:
        for rank in range(size):
            mine, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_begin, args=(rank, size, store.port, theirs, act, arguments))
            process.start()
            theirs.close()
            processes.append(process)
            waiting[mine] = rank
        while waiting:
            ready = wait(list(waiting), SECONDS)
            assert ready, f"no answer in {SECONDS} s"
            for end in ready:
                assert isinstance(end, Connection)
                trouble, answers[waiting.pop(end)] = end.recv()
                assert trouble is None, trouble
        return [answers[rank] for rank in range(size)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _begin(rank: int, size: int, port: int, answer: Connection, act: Callable[..., Any], arguments: Any) -> None:
    import torch

    from ablations.training.distributed import joined

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    try:
        with joined("cpu") as group:
            answer.send((None, act(group, *arguments)))
            group.any(False)  # none leaves while another is at work
    except BaseException:
        answer.send((f"process {rank}: {traceback.format_exc()}", None))
