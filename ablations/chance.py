"""Chance that is counted, not carried: every draw comes from a seed that (seed, purpose, epoch, step) determine."""

from __future__ import annotations

from hashlib import blake2b

import torch


def seed_of(*key: int | str) -> int:
    """A 63-bit seed for a key such as (seed, "augment", epoch, step)."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A generator on the CPU, seeded by the key."""
    return torch.Generator().manual_seed(seed_of(*key))
