"""Networks of a function in a user's file: `FILE.py:FUNCTION(setting=value)` returns a torch.nn.Module.

The function is called with `num_classes` and `in_channels`, and with `image_size` and `drop_path_rate` if it has
parameters of these names. All its other parameters are settings.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modernize.arguments import Size
from modernize.design import DesignError, printable, read_switch
from modernize.user_code import Call, call_function, function_of, located, read_call
from modernize.user_sources import UserCodeError

if TYPE_CHECKING:
    import torch
    from torch import nn

REQUIRED = ("num_classes", "in_channels")
GIVEN = (*REQUIRED, "image_size", "drop_path_rate")  # what a run passes: they follow from its data and recipe


def check_own(name: str) -> str:
    """Return the name with the file's absolute path; raises DesignError if the function cannot be called."""
    try:
        call = read_call(name)
        call = _typed(call, _parameters(call))
    except UserCodeError as error:
        raise DesignError(str(error)) from error
    return _written(call, str(call.file.resolve()))


def shown_own(name: str) -> str:
    """Return the name without the file's folder: `my_models.py:net(width=8)`."""
    call = read_call(name)
    return printable(_written(call, call.file.name))


def file_of(name: str) -> Path:
    """Return the file of a name."""
    return read_call(name).file


def moved_to(name: str, file: Path) -> str:
    """Return the name with the function in another file."""
    return _written(read_call(name), str(file))


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings in a name."""
    return read_call(name).settings


def identity(name: str) -> str:
    """Return a text that is the same for names of the same network, whether defaults are written or not."""
    call = read_call(name)
    defaults = {key: one.default for key, one in _parameters(call).items() if one.default is not one.empty}
    return f"{call.file}:{call.function}{sorted({**defaults, **call.settings}.items())}"


def with_settings(name: str, settings: Mapping[str, Any]) -> str:
    """Return the name with some settings changed, as `check_own` does; texts are read as YAML."""
    from modernize.yaml_file import parse_yaml

    call = read_call(name)
    settings = {key: parse_yaml(value) if isinstance(value, str) else value for key, value in settings.items()}
    return check_own(_written(replace(call, settings={**call.settings, **settings}), str(call.file)))


def value_of(name: str, setting: str) -> Any:
    """Return the value of a setting: as in the name, else the function's default; raises DesignError without either."""
    try:
        call = read_call(name)
        parameters = _parameters(replace(call, settings={**call.settings, setting: None}))
    except UserCodeError as error:
        raise DesignError(str(error)) from error
    if setting in call.settings:
        return call.settings[setting]
    default = parameters[setting].default if setting in parameters else inspect.Parameter.empty
    if default is inspect.Parameter.empty:
        raise DesignError(f"{call.place}: {setting} has no default; give a value, as in {call.function}({setting}=…)")
    return default


def shown_value(value: Any) -> str:
    """Write a setting's value so that reading it as YAML gives the value."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    if not isinstance(value, str):
        return json.dumps(value)
    from modernize.yaml_file import parse_yaml

    try:
        plain = parse_yaml(value) == value and not any(sign in value for sign in ",()[]{}")
    except ValueError:
        plain = False
    return value if plain else json.dumps(value)


def build_own(name: str, num_classes: int, in_channels: int, drop_path_rate: float, images: Size) -> nn.Module:
    """Call the function and return its network; raises DesignError naming the line of the file that fails."""
    from torch import nn
    from torch.nn.parameter import UninitializedParameter

    try:
        call = read_call(name)
        offered = {
            "num_classes": num_classes,
            "in_channels": in_channels,
            "image_size": images.height if images.height == images.width else tuple(images),
            "drop_path_rate": drop_path_rate,
        }
        taken = _parameters(call)
        given = {key: value for key, value in offered.items() if key in REQUIRED or key in taken}
        network = call_function(call, **given)
    except UserCodeError as error:
        raise DesignError(str(error)) from error
    if not isinstance(network, nn.Module):
        raise DesignError(f"{call.place}: must return a torch.nn.Module, not {type(network).__name__}")
    if any(isinstance(weights, UninitializedParameter) for weights in network.parameters()):
        raise DesignError(f"{call.place}: lazy modules are not supported; give every layer its sizes")
    if not any(weights.requires_grad for weights in network.parameters()):
        raise DesignError(f"{call.place}: the network has no weights to train")
    return network


def has_own_stochastic_depth(name: str) -> bool:
    """Whether the function takes the recipe's stochastic depth rate."""
    return "drop_path_rate" in _parameters(read_call(name))


def takes_image_size(name: str) -> bool:
    """Whether the function builds its network for one resolution."""
    return "image_size" in _parameters(read_call(name))


def check_new(name: str, network: nn.Module, other: nn.Module) -> None:
    """Raise DesignError if two calls of the function returned the same weights, which several runs would train."""
    shared = {id(weights) for weights in network.parameters()} & {id(weights) for weights in other.parameters()}
    if shared:
        raise DesignError(f"{shown_own(name)}: must build new layers at each call, but returned the same ones twice")


def check_logits(name: str, network: nn.Module, images: torch.Tensor, num_classes: int) -> None:
    """Raise DesignError unless the network maps these images to logits (N, num_classes), in both modes."""
    import torch
    from torch import Tensor

    shown = shown_own(name)
    for mode in (True, False):
        with torch.no_grad():
            logits = run_own(name, network.train(mode), images)
        if not isinstance(logits, Tensor):
            raise DesignError(f"{shown}: the network must return a tensor of logits, not {type(logits).__name__}")
        if logits.shape != (len(images), num_classes):
            wanted, found = ((len(images), num_classes), tuple(logits.shape))
            raise DesignError(f"{shown}: the network must return logits of shape {wanted}, not {found}")


def run_own(name: str, network: nn.Module, images: torch.Tensor) -> Any:
    """Return the network's outputs; raises DesignError naming the line of the file that fails."""
    try:
        return network(images)
    except Exception as error:  # a user's code may raise anything
        size = Size(*images.shape[2:])
        where = located(error, file_of(name))
        raise DesignError(f"{shown_own(name)}: fails on images of {images.shape[1]}×{size} px ({where})") from error


def _parameters(call: Call) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the function; raises UserCodeError if it cannot be called as a run calls it."""
    wrong = next((key for key in call.settings if key in GIVEN), None)
    if wrong:
        source = "recipe" if wrong == "drop_path_rate" else "recipe and dataset" if wrong == "image_size" else "dataset"
        raise UserCodeError(f"{call.place}: {wrong} is no setting: it follows from the {source}")
    function = function_of(call)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some built-in classes
        return {}
    parameters = signature.parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return parameters
    for key in REQUIRED:
        if key not in parameters or parameters[key].kind is inspect.Parameter.POSITIONAL_ONLY:
            raise UserCodeError(
                f"{call.place}: must take {key}, as in def {call.function}(num_classes, in_channels, setting=value)"
            )
    without = [
        key
        for key, one in parameters.items()
        if one.default is one.empty and one.kind is not one.VAR_POSITIONAL and key not in (*GIVEN, *call.settings)
    ]
    if without:
        raise UserCodeError(f"{call.place}: {without[0]} needs a value, as in {call.function}({without[0]}=…)")
    return parameters


def _typed(call: Call, parameters: Mapping[str, inspect.Parameter]) -> Call:
    """Return the call with `on` and `off` read as booleans for switches: the text would count as true either way."""
    settings = dict(call.settings)
    for key, value in settings.items():
        one = parameters.get(key)
        if one is not None and (isinstance(one.default, bool) or one.annotation in (bool, "bool")):
            try:
                settings[key] = read_switch(value)
            except ValueError as error:
                raise UserCodeError(f"{call.place}: {key}={printable(value)}: {error}") from None
    return replace(call, settings=settings)


def _written(call: Call, file: str) -> str:
    """Write a call as a name, its file as given."""
    settings = ",".join(f"{key}={shown_value(value)}" for key, value in call.settings.items())
    return f"{file}:{call.function}" + (f"({settings})" if settings else "")
