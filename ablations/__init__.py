"""Trains the designs of `modernize` fairly, one flag apart, and keeps what comes out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.recipes import TrainingConfig
    from ablations.training.trainer import Trainer

__all__ = ["Trainer", "TrainingConfig"]

_WHERE = {
    "Trainer": "training.trainer",
    "TrainingConfig": "recipes",
}  # imported when asked for: the command line starts at once


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ablations' has no attribute {name!r}")
    return getattr(import_module(f"ablations.{_WHERE[name]}"), name)
