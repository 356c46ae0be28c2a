"""Learning rates that transfer between widths (muP): the factor of each weight's learning rate under Adam.

Yang et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer" (2022), Table 3:
the rate of hidden and of output weights is proportional to 1 / fan-in, that of input weights and biases does not depend
on the width. In Table 8 of the paper output weights have the full rate, but logits are divided by the fan-in; under
Adam the two are the same. Networks here do not divide their logits, so the classifier's rate has the factor.
"""

from __future__ import annotations

import math

from torch import nn

from ablations.training.layer_decay import STEM, positions_of


def mup_factors(model: nn.Module, fan_in: int) -> dict[str, float]:
    """Return the factor of the learning rate of each weight that has one, by name: `fan_in` / its own fan-in.

    Biases, norms, layer scale, the stem and depthwise convolutions have none; the fan-in of the last two does not grow
    with the width. Raise ValueError for a network whose stem is not known, or which has attention.
    """
    from torchvision.models import ConvNeXt, ResNet

    from modernize.network import Network

    if not isinstance(model, (Network, ResNet, ConvNeXt)):
        raise ValueError(
            f"mup_fan_in: the hidden weights of {type(model).__name__} are not known; it supports designs, and "
            "torchvision's ResNet and ConvNeXt"
        )
    position = positions_of(model)
    return {
        f"{path}.weight": fan_in / module.weight[0].numel()
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not _is_depthwise(module)
        if position(f"{path}.weight") != STEM
    }


def smallest_fan_in(model: nn.Module) -> int:
    """Return the smallest fan-in of the weights whose rate has a factor; 0 if there is none, or it is not known."""
    try:
        return round(1 / max(mup_factors(model, 1).values(), default=math.inf))
    except ValueError:
        return 0


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
