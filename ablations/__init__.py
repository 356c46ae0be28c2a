"""Train the designs of `modernize` under one recipe, one flag apart, and store the results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.studies.trained import load_run
    from ablations.study_data import load_study
    from ablations.training.trainer import Trainer
    from ablations.training_config import TrainingConfig

__all__ = ["Trainer", "TrainingConfig", "load_run", "load_study"]

# imported on first use, so that the command line starts quickly
_MODULES = {
    "Trainer": "training.trainer",
    "TrainingConfig": "training_config",
    "load_run": "studies.trained",
    "load_study": "study_data",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'ablations' has no attribute {name!r}")
    return getattr(import_module(f"ablations.{_MODULES[name]}"), name)
