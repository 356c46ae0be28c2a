"""Derive every random seed from (seed, purpose, epoch, step); store no RNG state.

A resumed run therefore repeats the same random numbers, whatever was computed before it was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch


def seed_of(*key: int | str) -> int:
    """Hash a key such as (seed, "augment", epoch, step) to a 63-bit seed."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Create a torch generator on `device`, seeded by the key."""
    return torch.Generator(device).manual_seed(seed_of(*key))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators of Python, NumPy and torch within the block; restore their states afterwards."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])
