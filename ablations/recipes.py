"""Recipes: everything about training that is not the network or the data, read from YAML and checked."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ablations.errors import RequestError
from modernize.design import nearest
from modernize.yaml_file import YamlFileError, read_mapping

Model = TypeVar("Model", bound=BaseModel)


def _no_switch(value: Any) -> Any:
    """Refuses `yes` and the like where a number belongs: it would count as 1."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


Number = Annotated[float, BeforeValidator(_no_switch)]
Whole = Annotated[int, BeforeValidator(_no_switch), Field(lt=2**31)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Part = Annotated[Number, Field(gt=0, le=1)]
Chance = Annotated[Number, Field(ge=0, le=1)]

# What only one optimizer or schedule reads, with its default there; anywhere else it is refused, not ignored.
_BELONGS: dict[str, tuple[str, str, Any]] = {
    "momentum": ("optimizer", "sgd", 0.9),
    "betas": ("optimizer", "adamw", (0.9, 0.999)),
    "step_epochs": ("schedule", "step", 30.0),
    "step_factor": ("schedule", "step", 0.1),
}
# What only has a meaning beside another setting, with its default there.
_BESIDE: dict[str, tuple[tuple[str, ...], Any]] = {
    "randaugment_std": (("randaugment",), 0.5),
    "mix_switch": (("mixup", "cutmix"), 0.5),
    "mix_probability": (("mixup", "cutmix"), 1.0),
}


class TrainingConfig(BaseModel):
    """How a network is trained. Epochs may be fractions of a pass over the training set.

    The settings that `MAY_CHANGE` names say how a run is carried out, and it may go on with others. Of these only
    `accumulation` reaches what comes out: BatchNorm's statistics, and the pairs that are mixed, are of one part.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_epochs: Number = Field(gt=0, le=1e6, description="passes over the training set")
    batch_size: Whole = Field(ge=2, description="images a step, over all processes and accumulated parts")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Number = Field(gt=0, description="its peak, at `learning_rate_batch` images a step")
    learning_rate_batch: Whole | None = Field(default=None, ge=1, description="none: at batch_size, whatever that is")
    momentum: Share | None = None
    betas: tuple[Share, Share] | None = None
    weight_decay: Number = Field(default=0.0, ge=0, description="not on biases, norms and layer scale")
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: Number = Field(default=0.0, ge=0, le=1e6, description="of linear growth from 0")
    step_epochs: Number | None = Field(default=None, ge=1e-6, description="between the drops of the step schedule")
    step_factor: Number | None = Field(default=None, gt=0, le=1)
    clip_norm: Number | None = Field(default=None, gt=0, description="the longest that a step's gradient may be")
    label_smoothing: Share = 0.0
    image_size: Whole | None = Field(default=None, ge=1, description="pixels a side; none: the data's own")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_padding: Whole = Field(default=0, ge=0, description="pixels around the image, for a random crop of each")
    crop_scale: tuple[Part, Part] | None = Field(
        default=None, description="least and most of an image's area in a random resized crop; none: no such crop"
    )
    evaluation_crop: Part = Field(default=1.0, description="the centre crop's side over the resized image's")
    horizontal_flip: bool = False
    randaugment: Number | None = Field(default=None, gt=0, le=10, description="its magnitude, of 10; none: off")
    randaugment_std: Number | None = Field(default=None, ge=0, description="of the magnitude, drawn for each operation")
    erasing: Share = Field(default=0.0, description="probability that a rectangle of an image becomes noise")
    mixup: Number = Field(default=0.0, ge=0, description="alpha of the Beta distribution of shares; 0: no Mixup")
    cutmix: Number = Field(default=0.0, ge=0, description="alpha of the Beta distribution of areas; 0: no CutMix")
    mix_switch: Chance | None = Field(default=None, description="probability of CutMix where both may be")
    mix_probability: Chance | None = Field(default=None, description="that a batch is mixed at all")
    drop_path_rate: Share = 0.0
    init: Literal["trunc_normal", "kaiming"] = "trunc_normal"
    ema_decay: Share | None = Field(
        default=None, description="of a moving average of the weights, evaluated beside them"
    )
    sync_batchnorm: bool = Field(default=False, description="BatchNorm over the images of all processes")
    precision: Literal["float32", "bf16", "fp16"] = Field(default="float32", description="of the forward pass")
    channels_last: bool = True
    compile: bool = Field(default=False, description="by torch.compile")
    activation_checkpointing: bool = Field(default=False, description="blocks computed again, to save memory")
    accumulation: Whole = Field(default=1, ge=1, description="equal parts in which a process goes through its share")
    workers: Whole | None = Field(
        default=None, ge=0, le=1024, description="processes that prepare images; none: a GPU run's threads, 0 on a CPU"
    )
    max_damaged: Share = Field(default=0.001, description="share of images that may be damaged before a run fails")
    checkpoint_seconds: Number = Field(default=60.0, gt=0)
    checkpoint_steps: Whole | None = Field(default=None, ge=1)
    checkpoint_every: Number | None = Field(default=None, gt=0, description="epochs between checkpoints kept for good")

    @property
    def peak_learning_rate(self) -> float:
        """The peak at this batch size: in proportion to it, as the paper's (Table 5 and Goyal et al., 2017)."""
        return self.learning_rate * self.batch_size / (self.learning_rate_batch or self.batch_size)

    @property
    def image_by_image(self) -> bool:
        """Whether images must be prepared one by one, rather than in whole batches."""
        return self.crop_scale is not None or self.randaugment is not None or self.evaluation_crop < 1

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Gives the settings of the chosen optimizer and schedule their defaults, and refuses the others'."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for name, (owner, choice, default) in _BELONGS.items():
            chosen = values.get(owner, cls.model_fields[owner].default)
            if chosen == choice:
                filled[name] = default if filled.get(name) is None else filled[name]
            elif filled.get(name) is not None and chosen in get_args(cls.model_fields[owner].annotation):
                raise ValueError(f"{name}: only {owner}={choice} uses it, and {owner} is {chosen}")
        for name, (owners, default) in _BESIDE.items():
            if any(values.get(owner) for owner in owners):
                filled[name] = default if filled.get(name) is None else filled[name]
            elif filled.get(name) is not None:
                use = "uses" if len(owners) == 1 else "use"
                raise ValueError(f"{name}: only {' and '.join(owners)} {use} it, and there is none; set it to null")
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        """Refuses settings that cannot hold together."""
        if self.crop_scale and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale={list(self.crop_scale)}: the smaller share comes first")
        if self.crop_scale and self.crop_padding:
            raise ValueError("crop_padding: crop_scale crops already; give one of the two")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation={self.accumulation}: it does not divide batch_size={self.batch_size}; "
                f"the nearest value that works is {nearest_divisor(self.batch_size, self.accumulation)}"
            )
        return self


# Settings that say how a run is carried out: it may be taken up again with others.
MAY_CHANGE = (
    "accumulation",
    "workers",
    "max_damaged",
    "activation_checkpointing",
    "checkpoint_seconds",
    "checkpoint_steps",
    "checkpoint_every",
)


def nearest_divisor(number: int, wish: int) -> int:
    """The divisor of a number that is nearest to a wish."""
    return min((part for part in range(1, number + 1) if number % part == 0), key=lambda part: abs(part - wish))


def recipe_names() -> list[str]:
    """The recipes that come with the project."""
    return sorted(Path(entry.name).stem for entry in files("ablations").joinpath("shipped", "recipes").iterdir())


def load_recipe(name: str, overrides: Mapping[str, str] | None = None) -> TrainingConfig:
    """The recipe that `NAME[,key=value]…` names, NAME a shipped one or a YAML file, with `--set` values over it.

    Another `max_epochs` stretches its schedule. Raises RequestError naming the file, the key and the right value.
    """
    base, *settings = name.split(",")
    if base.endswith((".yaml", ".yml")):
        values = read_yaml(Path(base), "recipe")
    elif base in recipe_names():
        values = yaml.safe_load(
            files("ablations").joinpath("shipped", "recipes", f"{base}.yaml").read_text(encoding="utf-8")
        )
    else:
        raise RequestError(f"unknown recipe {base!r} (and no YAML file): {nearest(base, recipe_names())}")
    given = _settings_of(name, settings)
    given |= {key: parse_value(text, f"--set {_shown(key)}") for key, text in (overrides or {}).items()}
    recipe = check(TrainingConfig, values | given, f"recipe {name}")
    if "max_epochs" not in given:
        return recipe
    whole = stretched(check(TrainingConfig, values, f"recipe {base}"), recipe.max_epochs).model_dump()
    schedule = {key: whole[key] for key in ("warmup_epochs", "step_epochs") if getattr(recipe, key) is not None}
    return check(TrainingConfig, recipe.model_dump() | schedule | given, f"recipe {name}")


def _settings_of(name: str, settings: list[str]) -> dict[str, Any]:
    """The settings in a recipe's name; raises RequestError."""
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        if not key or not equals or not value:
            raise RequestError(f"recipe {name}: {setting!r}: write key=value, such as learning_rate=2e-3")
        if key in found:
            raise RequestError(f"recipe {name}: {key} is there twice; once is enough")
        found[key] = parse_value(value, f"recipe {name}: {_shown(key)}")
    return found


def stretched(recipe: TrainingConfig, epochs: float) -> TrainingConfig:
    """The recipe over another number of epochs, its warm-up and the steps of its schedule in the same proportion.

    Raises RequestError on a number that no recipe may have.
    """
    factor = epochs / recipe.max_epochs
    changed: dict[str, Any] = {"max_epochs": epochs, "warmup_epochs": recipe.warmup_epochs * factor}
    if recipe.step_epochs is not None:
        changed["step_epochs"] = recipe.step_epochs * factor
    return check(TrainingConfig, recipe.model_dump() | changed, f"a budget of {epochs:g} epochs")


def parse_value(text: str, place: str) -> Any:
    """What `text` means in YAML; raises RequestError."""
    try:
        return yaml.safe_load(text)
    except Exception:  # not YAMLError alone: `2000-13-45` is a ValueError, `!!bool x` a KeyError
        raise RequestError(f"{place}: {_shown(text)} is not a YAML value") from None


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; raises RequestError with the file and the line."""
    try:
        return read_mapping(path)
    except YamlFileError as error:
        raise RequestError(f"{what} {error}") from None


def first_line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def _shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:
        return "(a number of thousands of digits)"


def check(model: type[Model], values: Mapping[str, Any], place: str) -> Model:
    """`values` as a model; raises RequestError naming the place, the first bad key and the nearest right one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # a misspelt key may leave the right one missing: it is named first
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            problem = f"unknown key {key!r}: {nearest(key, model.model_fields)}"
        elif first["type"] == "missing":
            problem = f"{key} is missing"
        elif first["type"] == "value_error":
            problem = " ".join(filter(None, [f"{key}:" if key else "", str(first["ctx"]["error"])]))
        else:
            problem = f"{key}={_shown(first['input'])}: {first['msg'].replace('Input should', 'must')}"
        raise RequestError(" ".join(f"{place}: {problem}".split())) from None
