"""Describe a trained network for whoever uses its file: what it is, its input and its outputs."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from ablations.studies.how_made import full_name
from ablations.studies.trained import TrainedRun
from modernize.design import Design, setting
from modernize.reference import PREFIX, shown_reference

KEY = "modernize"  # of the description, as JSON, in a file's metadata


def describe(run: TrainedRun, averaged: bool) -> dict[str, Any]:
    """Return the description of a run's network as JSON values; None stands for what its folder does not record.

    To classify an image: resize its shorter side to `resize` pixels, crop the `image_size` pixels at its center, divide
    by 255, subtract `mean` and divide by `std`, per channel. The largest logit is that of `classes`.
    """
    config, result = run.config, run.result
    return {
        **_network(run),
        "weights": "averaged" if averaged else "trained",
        "initialized_from": config.weights.name if config.weights else None,
        "num_classes": run.classes,
        "classes": result.get("classes"),
        "in_channels": run.channels,
        **_preprocessing(run),
        "data": config.data,
        "recipe": full_name(config.recipe_name, config.recipe),
        "seed": config.seed,
        "evaluated_on": config.evaluate,
        "top1": result["ema_top1"] if averaged else result.get("trained_top1", result["top1"]),
        "precision": config.recipe.precision,
        "version": metadata.version("modernize-convnets"),
    }


def unknown(description: dict[str, Any]) -> str | None:
    """Say what the description lacks because an earlier version trained the run; None if it is complete."""
    missing = [
        name
        for key, name in {"classes": "the names of the classes", "mean": "the normalization (mean and std)"}.items()
        if description[key] is None
    ]
    if not missing:
        return None
    return f"{' and '.join(missing)}: unknown, since an earlier version trained this run and did not record them"


def _network(run: TrainedRun) -> dict[str, Any]:
    """Name the network so that it can be built again: `modernize.build` takes `design`."""
    config = run.config
    if config.reference is not None:
        # torchvision's networks take 3 channels; a graph contains the repetition
        repeats = {"channel_repeats": 3} if run.channels == 1 and config.reference.startswith(PREFIX) else {}
        code = {"code_sha256": config.code_sha256} if config.code_sha256 else {}
        return {"row": config.row, "reference": shown_reference(config.reference), **code, **repeats}
    flags = config.design.differences(Design())
    name = ",".join(["resnet50", *(setting(flag, value) for flag, value in flags.items())])
    plugins = {"plugins": [one.model_dump() for one in config.plugins]} if config.design.added else {}
    return {"row": config.row, "design": name, "flags": config.design.flags(), **plugins}


def _preprocessing(run: TrainedRun) -> dict[str, Any]:
    """Return how evaluation prepares an image; of an earlier version's run, what its recipe and dataset tell."""
    if "preprocessing" in run.result:
        return run.result["preprocessing"]
    from ablations.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    recipe, size = run.config.recipe, run.image_size
    # Images that are left in files were normalized with ImageNet's statistics, others with the training split's.
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if run.config.data == "imagenet" else (None, None)
    return {
        "resize": None if size is None else round(size / recipe.evaluation_crop),
        "image_size": size,
        "interpolation": recipe.interpolation,
        "mean": mean,
        "std": std,
    }
