"""Networks to benchmark: designs, and torchvision's and timm's implementations of them with the same weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from ablations.errors import RequestError
from ablations.machine import usable_cores
from ablations.seeding import seed_of
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.precision import PRECISIONS
from modernize.acceleration import accelerate
from modernize.design import integer
from modernize.models import MODELS, build
from modernize.models import design as design_of
from modernize.reference import PREFIX, build_reference, is_reference
from modernize.weights import export_weights

MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def _positive_integer(text: str) -> int:
    try:
        number = integer(text)
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError("a positive integer")
    return number


def _on_or_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


def _precision(text: str) -> str:
    if text not in PRECISIONS:
        raise ValueError(", ".join(PRECISIONS))
    return text


# The settings that `--over` varies, and the parser of each one's values.
OVER: dict[str, Callable[[str], Any]] = {
    "batch-size": _positive_integer,
    "image-size": _positive_integer,
    "jobs": _positive_integer,
    "threads": _positive_integer,
    "recompute": _on_or_off,
    "compile": _on_or_off,
    "precision": _precision,
}


@dataclass(frozen=True)
class Setting:
    """How a network is run.

    Attributes:
        device: `cpu` or `cuda:N`.
        jobs: Processes in parallel.
        threads: Threads per process; 0: cores / jobs.
        precision: `float32`, `tf32`, `bf16` or `fp16`.
        compile: Whether torch.compile is used.
        recompute: Whether activation checkpointing is used.
        batch_size: Images per step and process.
        image_size: Resolution in pixels.
        in_channels: Channels of an image.
        num_classes: Classes of the classifier.
        warmup: Steps before each round that are not timed.
    """

    device: str = "cpu"
    jobs: int = 1
    threads: int = 0
    precision: str = "float32"
    compile: bool = False
    recompute: bool = False
    batch_size: int = 16
    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    warmup: int = 1

    def with_threads(self) -> Setting:
        """Return the setting with its number of threads filled in."""
        return replace(self, threads=self.threads or max(usable_cores() // self.jobs, 1))


@dataclass(frozen=True)
class BenchmarkedModel:
    """A network to measure.

    Attributes:
        name: Name in tables: the design as the user typed it, or a study's row.
        design: Design string, or a reference model such as `torchvision:resnet18`.
        source: Who implements it: `ours`, `torchvision` or `timm`.
        memory_format: `channels_last` or `contiguous`.
        setting: How it is run.
        varied: The values of the settings that the benchmark varies, in words.
    """

    name: str
    design: str
    source: str
    memory_format: str
    setting: Setting
    varied: Annotated[str, Field(alias="under")] = ""  # the key in JSON files

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.name, self.varied)))

    @property
    def label(self) -> str:
        return f"{self.title} ({self.source}, {self.memory_format})"

    @property
    def place(self) -> str:
        return f"bench {self.label}"

    @property
    def smaller(self) -> str:
        return "reduce --batch-size"


def benchmarked_models(
    designs: Mapping[str, str],
    setting: Setting,
    against: Sequence[str] = (),
    memory_format: str | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
) -> list[BenchmarkedModel]:
    """List the networks to measure, each followed by its reference implementations.

    Args:
        designs: Design strings by the names used in tables.
        setting: How every network is run.
        against: Reference implementations: `torchvision`, `timm`.
        memory_format: Format of all networks. Default: channels-last for ours, both formats for references.
        over: Values by field of `Setting`; all combinations are measured.

    Raises:
        RequestError: If a source of reference implementations has none of the designs.
    """
    over = over or {}
    for source in against:
        if not any(reference_implementation(design, source) for design in designs.values()):
            known, first = ", ".join(_implemented(source)), next(iter(designs.values()))
            raise RequestError(f"--against {source}: it does not implement {first!r}; it implements {known}")
    formats = [memory_format] if memory_format else list(MEMORY_FORMATS)
    models = []
    for (name, design), values in itertools.product(designs.items(), itertools.product(*over.values())):
        changes = dict(zip(over, values, strict=True))
        changed = replace(setting, **changes).with_threads()
        varied = ", ".join(f"{field.replace('_', ' ')} {_word(value)}" for field, value in changes.items())
        models.append(BenchmarkedModel(name, design, "ours", memory_format or "channels_last", changed, varied))
        models += [
            BenchmarkedModel(name, design, source, form, changed, varied)
            for source in against
            if reference_implementation(design, source)
            for form in formats
        ]
    return models


def _word(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def reference_implementation(design: str, source: str) -> str | None:
    """Return the name under which `source` implements a design, or None if it does not."""
    if is_reference(design):
        return None
    return next((name for name in _implemented(source) if MODELS[name] == design_of(design)), None)


def _implemented(source: str) -> tuple[str, ...]:
    """List the named designs that `source` implements under the same names."""
    convnexts = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
    return ("resnet50", *convnexts) if source == "torchvision" else ("resnet50", *convnexts, "convnext_xlarge")


def build_benchmarked(model: BenchmarkedModel) -> nn.Module:
    """Build the network on its device; a reference implementation gets the weights of ours."""
    setting = model.setting
    classes, channels = setting.num_classes, setting.in_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("bench"))
        if is_reference(model.design):
            network = build_reference(model.design, classes, channels, image_size=setting.image_size)
        else:
            network = ours = build(model.design, classes, channels)
            if model.source != "ours":
                network = _reference_network(model)
                network.load_state_dict(export_weights(ours, model.source))
    network = network.to(setting.device).to(memory_format=MEMORY_FORMATS[model.memory_format])
    accelerate(network)  # ours only: a reference implementation runs as its users have it
    if setting.recompute:
        recompute_blocks(network)
    if setting.compile:
        network.compile()
    return network


def _reference_network(model: BenchmarkedModel) -> nn.Module:
    name, setting = reference_implementation(model.design, model.source), model.setting
    if model.source == "torchvision":
        return build_reference(f"{PREFIX}{name}", setting.num_classes, setting.in_channels)
    import timm

    return timm.create_model(str(name), num_classes=setting.num_classes, in_chans=setting.in_channels)
