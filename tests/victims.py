"""Runs in processes that tests kill."""

from __future__ import annotations

from pathlib import Path

from ablations.data.datasets import load
from ablations.recipes import TrainingConfig
from ablations.studies.run import RunConfig, execute
from modernize.models import design

DESIGN = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1"
RECIPE = TrainingConfig(
    max_epochs=2, batch_size=32, learning_rate=4e-3, crop_padding=1, drop_path_rate=0.2, checkpoint_steps=2
)


def config() -> RunConfig:
    """Make a run of a few seconds that often writes checkpoints."""
    return RunConfig(
        row="victim",
        label="victim",
        flags=design(DESIGN).flags(),
        recipe_name="r",
        recipe=RECIPE,
        data="digits",
        seed=5,
    )


def train(folder: Path) -> None:
    """Train the run from its newest checkpoint."""
    import torch

    torch.set_num_threads(1)
    execute(config(), folder, load("digits", Path("unused")))
