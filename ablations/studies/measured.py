"""The numbers of a run's result, of the trained weights or of the EMA weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ablations.studies.evaluated_images import evaluated, per_class
from ablations.training_config import TrainingConfig

if TYPE_CHECKING:
    from ablations.data.splits import DataSet
    from ablations.training.evaluation import Evaluation
    from ablations.training.result import Result


def reported(trained: Result, recipe: TrainingConfig) -> Evaluation:
    """Return the evaluation of the weights that the recipe reports."""
    if recipe.evaluated_weights == "trained":
        return trained.evaluation
    assert trained.averaged is not None
    return trained.averaged


def measured(trained: Result, recipe: TrainingConfig, data: DataSet) -> dict[str, Any]:
    """Return the numbers of a result; `trained_top1` is there if `top1` is of other weights."""
    averaged, chosen = trained.averaged, reported(trained, recipe)
    return {
        "top1": chosen.top1,
        "loss": chosen.loss,
        **({} if chosen is trained.evaluation else {"trained_top1": trained.evaluation.top1}),
        **({"ema_top1": averaged.top1, "ema_loss": averaged.loss} if averaged else {}),
        "images_seen": trained.images_seen,
        "seconds": trained.seconds,
        "processor_seconds": trained.processor_seconds,
        "images_per_second": trained.images_per_second,
        "evaluation_seconds": trained.evaluation_seconds,
        "weights_sha256": trained.weights_sha256,
        **({"damaged": list(trained.damaged)} if trained.damaged else {}),
        **evaluated(trained.evaluation, trained.unread),
        **per_class(chosen, data),
    }
