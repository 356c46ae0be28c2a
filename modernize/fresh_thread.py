"""Run a function without torch's modes: they are kept per thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Returned = TypeVar("Returned")


def in_fresh_thread(function: Callable[..., Returned], *arguments: Any) -> Returned:
    """Call a function where the caller's default device, fake tensors, inference mode and autocast do not apply."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments).result()
