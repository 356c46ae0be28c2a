"""Workers that are forked from a process with everything loaded end, and are ended, like processes that are started."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.launch import forking
from ablations.launch.forking import ForkedWorker

pytestmark = [pytest.mark.linux, pytest.mark.filterwarnings("ignore:.*fork")]


def act(device: str) -> int:
    """What a worker does, under the name of its device."""
    print(f"{device} of {os.getppid()}")
    if device == "exit":
        sys.exit("no")
    if device == "raise":
        raise ValueError("broken")
    if device == "wait":
        time.sleep(100)
    return int(device)


def ended(worker: ForkedWorker | None) -> tuple[int, str, str]:
    assert worker
    worker.wait()
    worker.send_signal(signal.SIGKILL)  # of an ended process, whose id may be another's
    with worker.stdout, worker.stderr:
        return worker.returncode, worker.stdout.read(), worker.stderr.read()


def until(condition: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.01)


def children() -> list[str]:
    """The process ids of this process's children."""
    pid = os.getpid()
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def no_memory() -> int:
    raise BlockingIOError("Resource temporarily unavailable")


def test_a_forked_worker_is_a_child_with_the_streams_and_the_end_of_one_that_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forking, "_can_fork", lambda *_: True)
    monkeypatch.setattr(forking, "give_back_memory", lambda: None)
    here = os.getpid()
    with forking.fork_server(None, None, act) as server:  # type: ignore[arg-type]
        assert server
        assert ended(server.start("7")) == (7, f"7 of {here}\n", "")
        assert ended(server.start("exit")) == (1, f"exit of {here}\n", "no\n")
        status, _, error = ended(server.start("raise"))
        assert status == 1 and error.startswith("Traceback") and error.endswith("ValueError: broken\n")
        waiting = server.start("wait")
        assert waiting
        until(lambda: os.getsid(waiting.pid) == waiting.pid, "it has the terminal of its launcher")
        waiting.send_signal(signal.SIGTERM)  # waits until the worker handles signals
        assert os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        waiting.kill()
        assert ended(waiting)[0] == -signal.SIGKILL
        os.kill(server.pid, signal.SIGKILL)
        assert server.start("7") is None, "the pool cannot know that it must start workers otherwise"
    assert str(server.pid) not in children()
    others = set(children())
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # inherited from who started it: no child can be waited for
    try:
        with forking.fork_server(None, None, act) as server:  # type: ignore[arg-type]
            assert server and server.start("wait") is None
        until(lambda: not set(children()) - others, "a worker is left that nobody follows")
    finally:
        signal.signal(signal.SIGCHLD, before)
    monkeypatch.setattr(os, "fork", no_memory)
    monkeypatch.setattr(sys, "stdout", None)  # closed, as by `>&-`
    with forking.fork_server(None, None, act) as server:  # type: ignore[arg-type]
        assert server is None
