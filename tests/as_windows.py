"""Makes Python look as it does on Windows to modules that are imported from then on.

Other packages, which have code of their own for Windows, must have been imported before.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

OF_UNIX = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")
MISSING = {
    os: (
        *("fork", "forkpty", "getpgid", "getuid", "geteuid", "killpg", "mkfifo", "nice", "setsid", "statvfs", "uname"),
        *("sched_getaffinity", "sched_setaffinity", "getloadavg", "sync", "O_DIRECTORY", "O_NONBLOCK", "WNOHANG"),
    ),
    signal: (
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2"),
        *("alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "siginterrupt", "sigpending", "sigwait"),
    ),
}


def refuse_folders(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to open a folder as a file."""
    if event == "open" and isinstance(arguments[0], (str, Path)) and Path(arguments[0]).is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(arguments[0]))


def take_unix_away() -> None:
    """Remove what Windows lacks."""
    for name in OF_UNIX:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in MISSING.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    library = ctypes.CDLL

    def load(name: str | None, *arguments: Any, **options: Any) -> ctypes.CDLL:
        if name is None:
            raise TypeError("argument of type 'NoneType' is not iterable")
        return library(name, *arguments, **options)

    vars(ctypes)["CDLL"] = load
    sys.addaudithook(refuse_folders)
    # Files are UTF-8 on any system only if their encoding is given.
    warnings.filterwarnings("error", category=EncodingWarning, module=r"(ablations|modernize|reports)\b")
    sys.platform = "win32"
