"""Which recipes of a study `--set` changes: the main one; others only in budget, data and execution."""

from __future__ import annotations

BUDGET = ("max_epochs",)
DATA = ("image_size", "evaluation_size", "crop_padding", "horizontal_flip")
EXECUTION = (
    *("precision", "channels_last", "compile", "sync_batchnorm", "workers", "max_damaged", "activation_checkpointing"),
    *("checkpoint_seconds", "checkpoint_steps", "checkpoint_every"),
)


def reached_settings(all_recipes: bool = False) -> tuple[str, ...]:
    """Name the settings that `--set` changes in an original recipe too, or in `all_recipes` of a study of recipes.

    A batch size and its micro-batches belong to one recipe, as its learning rate does. Where all recipes are compared,
    none is the main one, and `--set batch_size` changes all.
    """
    return (*BUDGET, *(("batch_size",) if all_recipes else ()), *DATA, *EXECUTION)
