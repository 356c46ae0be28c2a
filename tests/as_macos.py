"""Makes Python look as it does on macOS: import it before anything else, as `sitecustomize` does in `other_system`.

What Linux alone has is gone, from Python's modules and from /proc; processes are spawned, and none may fork.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import sysconfig
from types import ModuleType, SimpleNamespace
from typing import Any

OF_LINUX = {
    os: (
        *("sched_getaffinity", "sched_setaffinity", "sched_getscheduler", "posix_fadvise", "posix_fallocate"),
        *("fdatasync", "pipe2", "memfd_create", "eventfd", "copy_file_range", "splice", "getrandom", "getxattr"),
        *("unshare", "setns", "O_DIRECT", "O_TMPFILE", "pidfd_open"),
    ),
    signal: ("SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT", "SIGPOLL", "sigtimedwait", "sigwaitinfo"),
}


def refuse_linux(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to open what is below /proc, and to fork."""
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(arguments[0]))
    if event == "os.fork":
        raise RuntimeError("a process that has threads must not fork on macOS")


def usage_in_bytes(who: int) -> SimpleNamespace:
    """Return what a process has used, with its peak memory in bytes, as on macOS; Linux has KiB."""
    found = USAGE(who)
    values = {name: getattr(found, name) for name in dir(found) if name.startswith("ru_")}
    return SimpleNamespace(**{**values, "ru_maxrss": found.ru_maxrss * 1024})


USAGE = resource.getrusage
os.environ["_PYTHON_SYSCONFIGDATA_NAME"] = vars(sysconfig)["_get_sysconfigdata_name"]()  # Linux's, which is there
sys.platform = "darwin"
for module, names in OF_LINUX.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
vars(resource)["getrusage"] = usage_in_bytes
# Python's own part of macOS, which asks for proxies, is not on Linux; triton, which torch imports, is on Linux only.
proxies = ModuleType("_scproxy")
vars(proxies).update(_get_proxies=dict, _get_proxy_settings=dict)
sys.modules["_scproxy"] = proxies
sys.modules["triton"] = None  # type: ignore[assignment]
sys.addaudithook(refuse_linux)
