"""A recipe's optimizer, its groups by weight decay and layer, the learning-rate schedule, and EMA weights."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ablations.training.layer_decay import learning_rate_factors
from ablations.training.mup import mup_factors
from ablations.training_config import TrainingConfig

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
_UNDECAYED = (
    "bias",
    "layer_scale",  # of torchvision's ConvNeXt, (C, 1, 1)
    *("gamma", "beta"),  # of global response normalization in the official ConvNeXt V2, (1, 1, 1, C)
    # position embeddings, class tokens and scales of attention, in torchvision's and timm's models
    *("relative_position_bias_table", "logit_scale", "class_token", "cls_token", "pos_embedding", "pos_embed"),
)


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float | None = None,
    undecayed: str = "biases_and_norms",
    mup_fan_in: int | None = None,
) -> list[dict[str, Any]]:
    """Split weights by whether they decay; biases, norms and layer scale do not (paper, Table 5, appendix A).

    `undecayed` is a recipe's `no_weight_decay`: "norms" exempts the weights and biases of norms alone, as torchvision's
    references do, and "nothing" none. With `layer_decay`, also split them by layer, from the stem to the head, and with
    `mup_fan_in` by fan-in; `lr_scale` is the factor of the learning rate. AdamW subtracts learning rate x weight decay
    of each weight: that product falls with `layer_decay`, as in the official ConvNeXt, and does not depend on the
    fan-in, as in the authors' package `mup`. The last group has the schedule's rate. Raise ValueError if the network's
    layers are not known.
    """
    by_layer = {} if layer_decay is None else learning_rate_factors(model, layer_decay)
    by_fan_in = {} if mup_fan_in is None else mup_factors(model, mup_fan_in)
    groups: dict[tuple[float, bool, float, bool], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()  # a shared parameter belongs to its first module
    for path, module in model.named_modules():
        for name, weights in module.named_parameters(recurse=False):
            if weights in seen:
                continue
            seen.add(weights)
            exempt = undecayed != "nothing" and isinstance(module, _NORMS)
            exempt |= undecayed == "biases_and_norms" and (weights.ndim < 2 or name in _UNDECAYED)
            full_name = f"{path}.{name}".strip(".")
            width = by_fan_in.get(full_name, 1.0)
            groups[by_layer.get(full_name, 1.0), width == 1, width, exempt].append(weights)
    return [
        {
            "params": groups[key],
            "weight_decay": 0.0 if exempt else weight_decay / width,
            **({"lr_scale": layer * width} if layer_decay is not None or mup_fan_in is not None else {}),
        }
        for key in sorted(groups)
        for layer, _, width, exempt in [key]
    ]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Create the recipe's fused AdamW or SGD with momentum."""
    groups = parameter_groups(model, config.weight_decay, config.layer_decay, config.no_weight_decay, config.mup_fan_in)
    if config.optimizer == "sgd":
        assert config.momentum is not None
        return torch.optim.SGD(groups, lr=config.peak_learning_rate, momentum=config.momentum, fused=True)
    assert config.betas is not None
    return torch.optim.AdamW(groups, lr=config.peak_learning_rate, betas=config.betas, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state dict. In those of version 0.1, layer scale and GRN have shape (C, 1, 1) instead of (C,)."""
    optimizer.load_state_dict(state)
    for weights, moments in optimizer.state.items():
        for name, moment in moments.items():
            if name != "step" and isinstance(moment, Tensor):
                moments[name] = moment.view(weights.shape)


def ema_decay(config: TrainingConfig, step: int) -> float:
    """Return the decay of the EMA weights at a step, counted from 0; with warm-up, that of timm's ModelEmaV3."""
    decay = config.ema_decay_per_update
    return min(decay, 1 - (1 + step) ** (-2 / 3)) if config.ema_warmup else decay


class _MovingAverage(AveragedModel):
    """AveragedModel that does not copy its number of updates to the device, for which the CPU would wait."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Copy the model's weights and buffers at the first update; then average by `multi_avg_fn`."""
        assert self.multi_avg_fn is not None
        by_dtype: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        averages, values = (itertools.chain(one.parameters(), one.buffers()) for one in (self.module, model))
        for average, value in zip(averages, values, strict=True):
            by_dtype[average.dtype].append((average, value))
        for pairs in by_dtype.values():
            ours, theirs = map(list, zip(*pairs, strict=True))
            if self.n_averaged:
                self.multi_avg_fn(ours, theirs, 0)  # which ignores the number of updates
            else:
                torch._foreach_copy_(ours, theirs)
        self.n_averaged += 1


def averaged_model(model: nn.Module) -> AveragedModel:
    """Create the exponential moving average of weights and BatchNorm statistics; `update_average` sets its decay."""
    return _MovingAverage(model, multi_avg_fn=get_ema_multi_avg_fn(), use_buffers=True)


def update_average(
    averaged: AveragedModel, model: nn.Module, config: TrainingConfig, step: int, steps_per_epoch: int
) -> None:
    """Update the EMA weights after a step, counted from 0: every `ema_steps` steps of each epoch.

    If the recipe scales the decay as torchvision does, the weights of the warm-up are copied rather than averaged.
    """
    if step % steps_per_epoch % config.ema_steps:
        return
    averaged.multi_avg_fn = get_ema_multi_avg_fn(ema_decay(config, step))
    averaged.update_parameters(model)
    if config.ema_scaled and step < round(config.warmup_epochs * steps_per_epoch):
        averaged.n_averaged.zero_()  # the next update copies


def learning_rate(config: TrainingConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Return the learning rate of a step, counted from 0: linear warm-up, then a cosine or steps.

    Warm-up from 0 has its first step above 0. If the rate changes once per epoch, each step has that of its epoch's
    first.
    """
    peak, factor = config.peak_learning_rate, config.warmup_factor
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total_steps)
    if config.schedule_updates == "epoch":
        step -= step % steps_per_epoch
    if step < warmup and factor:
        return peak * (factor + (1 - factor) * step / warmup)
    if step < warmup:
        return peak * (step + 1) / warmup
    if config.schedule == "cosine":
        progress = (step - warmup) / max(total_steps - warmup, 1)
        least = config.min_learning_rate
        return least + (peak - least) * 0.5 * (1 + math.cos(math.pi * progress))
    assert config.step_epochs is not None and config.step_factor is not None
    drops = int(step / (config.step_epochs * steps_per_epoch) + 1e-9)  # 3 / (0.2 * 3) is 4.99…
    return peak * config.step_factor**drops


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int, steps_per_epoch: int, total_steps: int
) -> None:
    """Set the learning rate of a step in all groups, multiplied by the factor of the group's layer and fan-in."""
    rate = learning_rate(config, step, steps_per_epoch, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
