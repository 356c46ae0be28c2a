"""The network of a run: build it with or without weights, count it, and find its classifier."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

from modernize.design import Design
from modernize.plan import Cost, compile_plan, total_cost, trace
from modernize.zero_init import zeroed_layers

if TYPE_CHECKING:
    from torch import nn

    from ablations.data.datasets import DataSet
    from ablations.training_config import TrainingConfig


class HasNetwork(Protocol):
    """A run, as far as its network is concerned."""

    @property
    def reference(self) -> str | None: ...

    @property
    def code_sha256(self) -> str | None: ...

    @property
    def design(self) -> Design: ...

    @property
    def recipe(self) -> TrainingConfig: ...


def build_network(config: HasNetwork, data: DataSet) -> nn.Module:
    """Build the run's network for this dataset, with weights initialized from torch's global RNG."""
    from modernize.models import build
    from modernize.reference import build_reference

    classes, recipe = len(data.classes), config.recipe
    scale, rate, zeroed = recipe.head_init_scale, recipe.drop_path_rate, recipe.zero_init_residual
    if config.reference is not None:
        return build_reference(config.reference, classes, data.channels, rate, data.image_size, scale, zeroed)
    return build(config.design, classes, data.channels, rate, scale, recipe.init, zeroed)


def check_network(config: HasNetwork, data: DataSet) -> None:
    """Raise DesignError or ValueError if the recipe has settings of layers that the run's network does not know."""
    from ablations.training.layer_decay import learning_rate_factors
    from ablations.training.mup import mup_factors

    recipe = config.recipe
    if config.reference is None:
        if recipe.zero_init_residual:
            zeroed_layers(compile_plan(config.design))
        return
    if recipe.layer_decay is None and recipe.mup_fan_in is None and not recipe.zero_init_residual:
        return
    network = _without_weights(config.reference, data, recipe.zero_init_residual)
    if recipe.layer_decay is not None:
        learning_rate_factors(network, recipe.layer_decay)
    if recipe.mup_fan_in is not None:
        mup_factors(network, recipe.mup_fan_in)


def empty_network(config: HasNetwork, data: DataSet) -> nn.Module:
    """Build the run's network for this dataset without initializing its weights."""
    import torch

    if config.reference is not None:
        network = _without_weights(config.reference, data)
    else:
        with torch.device("meta"):
            network = build_network(config, data)
    return network.to_empty(device="cpu")


def _without_weights(reference: str, data: DataSet, zero_init_residual: bool = False) -> nn.Module:
    from modernize.reference import without_weights

    images = (len(data.classes), data.channels, 0.0, data.image_size)
    return without_weights(reference, *images, zero_init_residual=zero_init_residual)


def classifier_of(config: HasNetwork, network: nn.Module, data: DataSet) -> frozenset[str]:
    """Return the names of a reference model's tensors that depend on the classes; none for a design's network."""
    from modernize.reference import classifier_keys

    if config.reference is None:
        return frozenset()
    return classifier_keys(config.reference, network, data.channels, data.image_size)


def has_batch_norm(config: HasNetwork, data: DataSet) -> bool:
    """Whether the run's network has BatchNorm."""
    if config.reference is None:
        return config.design.norm == "bn"
    from torch.nn.modules.batchnorm import _BatchNorm

    return any(isinstance(module, _BatchNorm) for module in _without_weights(config.reference, data).modules())


def least_fan_in(config: HasNetwork, data: DataSet) -> int:
    """Return the smallest fan-in of the run's weights whose learning rate the recipe sets by it; 0 if it does not."""
    import torch

    from ablations.training.mup import smallest_fan_in
    from modernize.models import build

    if config.recipe.mup_fan_in is None:
        return 0
    if config.reference is not None:
        return smallest_fan_in(_without_weights(config.reference, data))
    with torch.device("meta"):
        return smallest_fan_in(build(config.design))


def count_network(config: HasNetwork, data: DataSet, image_size: int) -> Cost:
    """Count what a run's network costs at a resolution; raises DesignError if the images do not fit the network."""
    images = (image_size, data.channels, len(data.classes))
    if config.reference is None:
        return count_design(config.design, *images)
    return _count_reference(config.reference, config.code_sha256, *images)


@functools.cache
def count_design(design: Design, image_size: int, in_channels: int, num_classes: int) -> Cost:
    """Count what a design costs."""
    return total_cost(trace(compile_plan(design, in_channels, num_classes), image_size))


@functools.cache
def _count_reference(name: str, code_sha256: str | None, image_size: int, in_channels: int, num_classes: int) -> Cost:
    """Count a reference model; `code_sha256` makes the cache forget another content of a user's file."""
    from modernize.reference import count_reference

    return count_reference(name, image_size, in_channels, num_classes)
