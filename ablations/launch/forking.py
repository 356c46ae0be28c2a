"""Fork a study's workers from one process that has loaded libraries and images, so that their memory is shared.

A server is forked from the launcher before that has threads; it forks each worker when the launcher asks for one. The
workers are the launcher's own children, as processes are that it starts itself: Linux can hand orphans to an ancestor.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ablations.launch.session import Session
from ablations.machine import STOP, Machine, blocked, give_back_memory
from ablations.streams import end_process
from modernize.user_code import is_call

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
SOFT = 1  # omp_pause_soft of OpenMP 5.0

Train = Callable[[str], int]  # what a worker does on a device; returns its exit status


class ForkedWorker:
    """A forked child of this process; used as `subprocess.Popen` is."""

    def __init__(self, pid: int, stdout: IO[str], stderr: IO[str]):
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.returncode: Any = None  # until the process has ended and was waited for
        self._lock = threading.RLock()  # a signal handler may interrupt its thread in `send_signal`

    def wait(self) -> None:
        """Wait for the end of the process, and set its exit status, negative if a signal ended it."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            if self.returncode is None:
                self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended and its id may be another's."""
        with self._lock:
            if self.returncode is None:
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The launcher's end of a process that forks workers."""

    def __init__(self, pid: int, channel: socket.socket):
        self.pid, self.channel = pid, channel

    def start(self, device: str) -> ForkedWorker | None:
        """Fork a worker; None if that is not possible, as when the server was killed."""
        output, errors = os.pipe(), os.pipe()
        streams = [os.fdopen(read, encoding="utf-8", errors="replace") for read, _ in (output, errors)]
        pid = 0
        _adopt_orphans(True)
        try:
            socket.send_fds(self.channel, [device.encode()], [output[1], errors[1]])
            pid = int(self.channel.recv(100) or 0)
            if self.channel.recv(100):  # once the worker is this process's child
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                return ForkedWorker(pid, *streams)
        except OSError:  # of waitid too, if the kernel gave the worker to another process
            pass
        finally:
            _adopt_orphans(False)
            os.close(output[1])
            os.close(errors[1])
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # nobody would follow this worker, nor end it
        for stream in streams:
            stream.close()
        return None

    def close(self) -> None:
        """End the server."""
        self.channel.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@contextmanager
def fork_server(session: Session, machine: Machine, train: Train) -> Iterator[ForkServer | None]:
    """Offer a process that forks workers, which call `train`; None if they need interpreters of their own."""
    if not _can_fork(session, machine):
        yield None
        return
    importlib.import_module("ablations.launch.worker")
    importlib.import_module("torch._dynamo")  # which any optimizer imports
    give_back_memory()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server = None
    try:
        with blocked(*STOP), warnings.catch_warnings():  # the workers inherit blocked signals, and unblock them
            warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # OpenBLAS ends its own threads
            with suppress(OSError):  # the system has no memory, or no process, for another
                pid = os.fork()
                if not pid:
                    _serve(there, train)
                server = ForkServer(pid, here)
        there.close()
        yield server
    finally:
        if server:
            server.close()
        here.close()


def _can_fork(session: Session, machine: Machine) -> bool:
    """Whether workers may be forks: on Linux without a GPU, without other threads, and with all images in memory.

    A user's code may hold what processes cannot share, such as an open file with its position.
    """
    if sys.platform != "linux" or machine.devices != ("cpu",) or threading.active_count() > 1:
        return False
    import torch

    from ablations.data.datasets import Split

    runs = session.study.runs
    if any(run.plugins or is_call(run.data) or is_call(run.reference or "") or run.recipe.compile for run in runs):
        return False
    library = ctypes.CDLL(None)
    if torch.cuda.is_available() or not hasattr(library, "omp_pause_resource_all"):
        return False
    data = {id(one): one for one in map(session.load, runs)}
    if not all(isinstance(split, Split) for one in data.values() for split in (one.train, one.test)):
        return False
    for one in data.values():
        _ = isinstance(one.train, Split) and one.train.measured  # computed once for all workers
    # ends the threads of torch, which a fork would lack
    return library.omp_pause_resource_all(SOFT) == 0 and _adopt_orphans(False)


def _adopt_orphans(on: bool) -> bool:
    """Have the kernel hand this process the orphans among its descendants; return whether it can."""
    return ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0


# ---- in the server and its forks


def _serve(channel: socket.socket, train: Train) -> None:
    """Fork workers until the launcher closes its end, or ends; never return.

    A process in between forks each worker and ends, so that the worker is an orphan, which the launcher adopts.
    """
    status = 1
    try:
        os.setpgid(0, 0)  # Ctrl-C in a terminal is for the launcher
        for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if number > 2 and number != channel.fileno():
                with suppress(OSError):  # the one that listed them
                    os.close(number)
        gc.freeze()  # what the launcher holds is neither collected here nor written to by the collector
        while True:
            message, descriptors, _, _ = socket.recv_fds(channel, 100, 2)
            if not message:
                status = 0
                break
            middle = os.fork()
            if not middle:
                middle = os.getpid()
                pid = os.fork()
                if not pid:
                    channel.close()
                    while os.getppid() == middle:  # a worker ends without its launcher
                        time.sleep(0.001)
                    _work(train, message.decode(), *descriptors)
                channel.send(str(pid).encode())
                os._exit(0)
            if os.waitpid(middle, 0)[1]:
                break  # no memory for another process
            channel.send(b"forked")
            for descriptor in descriptors:
                os.close(descriptor)
    finally:
        os._exit(status)


def _work(train: Train, device: str, output: int, errors: int) -> None:
    """Be a worker as if started anew: with streams, signal handlers and exit handlers of its own; never return."""
    status = 1
    try:
        os.setsid()
        for descriptor, number in ((output, 1), (errors, 2)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _forget_exit_handlers()
        if not sys.flags.safe_path and sys.path[0] in ("", str(Path.cwd())):  # as with -P
            del sys.path[0]
        status = train(device)
    except SystemExit as leaving:
        status = _status(leaving)
    except BaseException:
        traceback.print_exc()
    finally:
        end_process(status)


def _status(leaving: SystemExit) -> int:
    """Return the exit status that Python ends with."""
    code: Any = leaving.code
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def _forget_exit_handlers() -> None:
    """Drop the launcher's exit handlers, which would delete its temporary files; keep those that end processes."""
    from multiprocessing import util

    from ablations.data.loader import end_all_workers

    atexit._clear()
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    atexit.register(util._exit_function)  # type: ignore[attr-defined]
    atexit.register(end_all_workers)
