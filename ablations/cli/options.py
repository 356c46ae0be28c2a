"""The options that several commands share, and how their values are parsed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablations.errors import RequestError
from ablations.reach import reached_settings
from modernize.design import LARGEST, split_commas

if TYPE_CHECKING:
    from modernize.arguments import Size
    from modernize.roadmap import Roadmap


class Integer(click.IntRange):
    """An option's integer, read as in YAML files: 010 and 1_000 are refused."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        from modernize.design import integer

        try:
            return super().convert(integer(value), param, context)
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, context)


class ImageSize(Integer):
    """An option's resolution in pixels, or height and width, as in 384x640."""

    def __init__(self) -> None:
        super().__init__(1, LARGEST)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        edges = value.split("x") if isinstance(value, str) else [value]
        if len(edges) > 2 or "" in edges[1:]:
            self.fail(f"{value!r} must be an integer, or height and width, such as 384x640.", param, context)
        height, *width = (super(ImageSize, self).convert(edge, param, context) for edge in edges)
        return (height, *width) if width else height


class Positive(click.FloatRange):
    """An option's positive number, read as in YAML files: 010, nan and inf are refused."""

    def __init__(self) -> None:
        super().__init__(0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        from modernize.numbers import parse_number

        try:
            number = parse_number(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(f"{value!r} {error}.", param, context)
        if not math.isfinite(number):
            self.fail(f"{value!r} must be finite.", param, context)
        return super().convert(number, param, context)


class Location(click.Path):
    """A path; an empty one, as from a shell variable that is not set, would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("'' is not a path; write . for the current folder.", param, context)
        return super().convert(value, param, context)


TABLE_FORMATS = ("table", "json", "csv", "markdown", "latex")


def read_settings(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Parse every --set key=value; the last of a key counts. `recipes.load_recipe` validates keys and values."""
    pairs = [value.partition("=") for value in values]
    for key, equals, value in pairs:
        if not key or not equals or not value:
            raise RequestError(f"--set {key}: write key=value, such as --set max_epochs=5")
    return {key: value for key, _, value in pairs}


def read_seeds(_: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    from modernize.design import integer

    try:
        return None if value is None else [integer(seed.strip(" ")) for seed in value.split(",")]
    except ValueError:
        raise RequestError(f"--seeds {value}: write integers, such as --seeds 0,1,2") from None


def read_svg_path(_: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix != ".svg":
        raise RequestError(f"--diagram {value}: a diagram is an SVG file; write {value.with_suffix('.svg').name}")
    return value


def load_plugins(_: click.Context, option: click.Parameter, files: tuple[str, ...]) -> None:
    """Load the plugins of installed packages, and those of --plugin."""
    from modernize.plugins import load_installed_plugins, load_plugin

    load_installed_plugins()
    for file in files:
        load_plugin(file)


_OPTIONS: dict[str, Callable] = {
    "data": click.option(
        "--data",
        metavar="NAME",
        help="Dataset: fashion_mnist, cifar10, cifar100, digits, folder, imagenet, torchvision:NAME, hf:NAME[:SPLIT] "
        "or FILE.py:FUNCTION.",
    ),
    "data_dir": click.option(
        "--data-dir",
        metavar="FOLDER",
        type=Location(),
        default=Path("data"),
        show_default=True,
        help="Folder that contains the datasets.",
    ),
    "recipe": click.option(
        "--recipe", metavar="NAME|FILE[,KEY=VALUE]…", help="Training recipe: its name or YAML file, with changes."
    ),
    "settings": click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        callback=read_settings,
        help="Override a setting of the recipe. Repeatable. A roadmap's original recipe takes only "
        f"{', '.join(reached_settings())}.",
    ),
    "evaluate": click.option(
        "--evaluate",
        type=click.Choice(["test", "validation"]),
        help="Evaluation split: test, or validation (10% held out).",
    ),
    "weights": click.option(
        "--weights",
        metavar="FILE|torchvision:NAME",
        help="Weights to start from: a state dict or checkpoint, or torchvision's. [default: new initialization]",
    ),
    "device": click.option(
        "--device", default="auto", metavar="NAME", show_default=True, help="Device: cpu, cuda, cuda:1, …"
    ),
    "tensorboard": click.option(
        "--tensorboard", is_flag=True, help="Also write a TensorBoard log to each run's folder."
    ),
    "wandb": click.option(
        "--wandb", is_flag=True, help="Also log each run to Weights & Biases; offline if WANDB_MODE=offline."
    ),
    "plugin": click.option(
        "--plugin",
        metavar="FILE.py",
        multiple=True,
        is_eager=True,  # designs may name its flags
        expose_value=False,
        callback=load_plugins,
        help="File with design flags of your own. Repeatable.",
    ),
    "debug": click.option("--debug", is_flag=True, expose_value=False, help="Print a traceback with an error."),
    "diagram": click.option(
        "--diagram",
        metavar="FILE.svg",
        type=Location(),
        callback=read_svg_path,
        help="Also draw the design as an SVG file.",
    ),
    "image_size": click.option(
        "--image-size",
        metavar="PIXELS|HEIGHTxWIDTH",
        type=ImageSize(),
        help="Input resolution in pixels, or height and width, as in 384x640. [default: 224; pocket: 32]",
    ),
    "square_image_size": click.option(
        "--image-size", type=Integer(1, LARGEST), help="Input resolution in pixels. [default: 224; pocket: 32]"
    ),
    "in_channels": click.option(
        "--in-channels", type=Integer(1, LARGEST), help="Input channels. [default: 3; pocket: 1]"
    ),
    "num_classes": click.option(
        "--num-classes",
        type=Integer(0, LARGEST),
        help="Number of classes; 0 leaves out the classifier. [default: 1000; pocket: 10]",
    ),
    "classifier_classes": click.option(
        "--num-classes", type=Integer(1, LARGEST), help="Number of classes. [default: 1000; pocket: 10]"
    ),
}


# The options of commands that train.
TRAINING = (
    *("data", "data_dir", "recipe", "settings", "evaluate", "weights", "plugin", "device", "tensorboard", "wandb"),
    "debug",
)


def with_options(*names: str) -> Callable:
    """Return a decorator that adds these options to a command."""

    def decorate(command: Callable) -> Callable:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return decorate


def read_names(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else value.split(",")


def read_designs(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    """Parse --designs convnext_tiny,resnet50,norm=ln: flag=value belongs to the design before it."""
    from ablations.studies.design_list import split_designs

    return None if value is None else split_designs(value)


def read_references(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    """Parse --references torchvision:swin_t,my_models.py:net(width=8,norm=bn)."""
    from modernize.user_code import split_settings

    return None if value is None else split_settings(value)


def read_recipes(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    """Parse --recipes quick,quick,learning_rate=2e-3: key=value changes the recipe before it."""
    recipes: list[str] = []
    for part in split_commas(value) if value is not None else ():
        if recipes and "=" in part:
            recipes[-1] += f",{part}"
        else:
            recipes.append(part)
    return recipes or None


def read_over(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Any]]:
    """Parse --over: the settings of `bench` to vary, with their values."""
    if not values:
        return {}
    from ablations.bench.models import OVER

    varied: dict[str, list[Any]] = {}
    for value in values:
        name, _sign, texts = value.partition("=")
        if name.replace("-", "_") in varied:
            raise RequestError(f"--over {value}: {name} is set twice")
        if name not in OVER:
            raise RequestError(f"--over {value}: {name!r} is unknown; choose from {', '.join(OVER)}")
        try:
            varied[name.replace("-", "_")] = [OVER[name](one) for one in texts.split(",")]
        except ValueError as error:
            raise RequestError(f"--over {value}: each value of {name} must be {error}") from None
    return varied


def image_settings(
    design: str | Roadmap, size: int | tuple[int, int] | None, channels: int | None, classes: int | None
) -> tuple[Size, int, int]:
    """Return resolution, channels and classes: as passed, else those of a roadmap, or of that at a design's base."""
    from modernize.arguments import read_size
    from modernize.roadmap import roadmap, roadmap_of

    of = (roadmap_of(design) or roadmap("resnet50")) if isinstance(design, str) else design
    classes = of.num_classes if classes is None else classes
    return read_size(size or of.image_size), channels or of.in_channels, classes


def read_flags(_: click.Context, option: click.Parameter, value: str | None) -> list[str] | dict[str, list[str]] | None:
    """Parse --flags depthwise,norm or --flags kernel_size=3:5:7,norm=bn:ln."""
    if value is None:
        return None
    pairs = [part.partition("=") for part in split_commas(value)]
    if any(not flag.strip() for flag, _, _ in pairs) or len({bool(equals) for _, equals, _ in pairs}) > 1:
        raise RequestError(
            f"--flags {value}: write names, such as depthwise,norm, or values, such as kernel_size=3:5:7"
        )
    if not pairs[0][1]:
        return [flag for flag, _, _ in pairs]
    names = [flag.strip() for flag, _, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(f"--flags {value}: {name} is set twice; write all its values once, as in {name}=A:B")
    return {flag: values.split(":") for flag, _, values in pairs}


def checked_logs(tensorboard: bool, wandb: bool) -> dict[str, bool]:
    """Return which other programs runs are logged for; print where W&B logs.

    Raises RequestError if one of them is not installed, or W&B has no account.
    """
    from importlib.util import find_spec

    from ablations.streams import say
    from ablations.training.distributed import is_main

    logs = {"tensorboard": tensorboard, "wandb": wandb}
    for name, wanted in logs.items():
        if wanted and find_spec(name) is None:
            raise RequestError(f"--{name}: not installed; run pip install 'modernize-convnets[{name}]'")
    if wandb:
        from ablations.launch.loggers import check_account

        where = check_account()
        if is_main():
            say(where)
    return logs


def read_formats(_: click.Context, option: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Parse --format markdown,png or --format markdown --format png; none means all."""
    from modernize.names import nearest

    chosen = [name.strip() for value in values for name in value.split(",")]
    for name in chosen:
        if name not in REPORTS:
            raise RequestError(f"--format {name}: unknown format: {nearest(name, REPORTS)}")
    return chosen or list(REPORTS)


REPORTS = ("table", "markdown", "csv", "latex", "png", "svg", "pdf", "html")
