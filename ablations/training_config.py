"""The settings of a recipe: every setting of training except network and dataset, with its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from modernize.names import SETTINGS
from modernize.numbers import is_doubtful, parse_number

__all__ = ["TrainingConfig"]


def _read_number(kind: str, value: Any) -> Any:
    """Read a number from text as YAML does, and refuse booleans; pydantic would read 100 from 0100, and 1 from true."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    if not isinstance(value, str):
        return value
    try:
        return parse_number(value)
    except ValueError as error:
        problem = str(error) if is_doubtful(value) else f"Input should be a valid {kind}"
        raise PydanticCustomError("number", "{problem}", {"problem": problem}) from None


def _refuse_doubtful(value: Any) -> Any:
    return _read_number("integer", value) if isinstance(value, str) and is_doubtful(value) else value


Number = Annotated[float, BeforeValidator(partial(_read_number, "number"))]
Whole = Annotated[int, BeforeValidator(partial(_read_number, "integer")), Field(lt=2**31)]
Seed = Annotated[int, BeforeValidator(_refuse_doubtful), Field(ge=0, lt=2**31, strict=True)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
Fraction = Annotated[Number, Field(gt=0, le=1)]
Probability = Annotated[Number, Field(ge=0, le=1)]

# Settings that only one optimizer or schedule uses, with their default there. Elsewhere they are refused, not ignored.
USED_BY: dict[str, tuple[str, str, Any]] = {
    "momentum": ("optimizer", "sgd", 0.9),
    "betas": ("optimizer", "adamw", (0.9, 0.999)),
    "step_epochs": ("schedule", "step", 30.0),
    "step_factor": ("schedule", "step", 0.1),
}
# Settings that have a meaning only if another setting is on, with their default then.
REQUIRES: dict[str, tuple[tuple[str, ...], Any]] = {
    "randaugment_std": (("randaugment",), 0.5),
    "mix_switch": (("mixup", "cutmix"), 0.5),
    "mix_probability": (("mixup", "cutmix"), 1.0),
}
# Settings that have a meaning only if another setting is on, and are off by default.
_PART_OF = {
    "erasing_fill": "erasing",
    "ema_warmup": "ema_decay",
    "ema_steps": "ema_decay",
    "ema_scaled": "ema_decay",
    "evaluated_weights": "ema_decay",
    "warmup_factor": "warmup_epochs",
}

OWNED = (*USED_BY, *REQUIRES)


class TrainingConfig(BaseModel):
    """The settings of training: schedule, optimizer, augmentation, regularization and execution.

    Epochs may be fractions of a pass over the training set. `model_fields` describes every setting. The settings named
    in `MAY_CHANGE` may change when a run resumes. Of these only `accumulation` changes results: BatchNorm statistics
    and Mixup pairs are per micro-batch.

    Raises:
        pydantic.ValidationError: If a setting is unknown, out of range, or contradicts another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_epochs: Number = Field(gt=0, le=1e6, description="passes over the training set")
    batch_size: Whole = Field(ge=2, description="images per training step, over all processes and micro-batches")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Number = Field(gt=0, description="peak learning rate for a batch of `learning_rate_batch` images")
    learning_rate_batch: Whole | None = Field(
        default=None, ge=1, description="batch size that `learning_rate` is for; none: batch_size"
    )
    momentum: BelowOne | None = None
    betas: tuple[BelowOne, BelowOne] | None = None
    weight_decay: Number = Field(default=0.0, ge=0, description="weight decay")
    no_weight_decay: Literal["biases_and_norms", "norms", "nothing"] = Field(
        default="biases_and_norms", description="weights without decay; layer scale counts as a bias"
    )
    layer_decay: Fraction | None = Field(
        default=None, description="factor of the learning rate per layer below the head; none: one rate for all"
    )
    mup_fan_in: Whole | None = Field(
        default=None,
        ge=1,
        description="fan-in at which weights have the full learning rate; that of others is multiplied by mup_fan_in / "
        "fan-in, but for the stem and depthwise convolutions (muP, AdamW only); none: one rate for all",
    )
    schedule: Literal["cosine", "step"] = "cosine"
    min_learning_rate: Number = Field(
        default=0.0, ge=0, description="learning rate at the end of the cosine schedule, at any batch size"
    )
    schedule_updates: Literal["step", "epoch"] = Field(default="step", description="when the learning rate changes")
    warmup_epochs: Number = Field(default=0.0, ge=0, le=1e6, description="epochs of linear warm-up")
    warmup_factor: BelowOne = Field(default=0.0, description="fraction of the peak learning rate that warm-up is from")
    step_epochs: Number | None = Field(default=None, ge=1e-6, description="epochs between drops of the step schedule")
    step_factor: Number | None = Field(default=None, gt=0, le=1, description="factor of each drop")
    clip_norm: Number | None = Field(default=None, gt=0, description="maximum gradient norm; none: no clipping")
    label_smoothing: BelowOne = 0.0
    image_size: Whole | None = Field(default=None, ge=1, description="resolution in pixels; none: the dataset's own")
    evaluation_size: Whole | None = Field(
        default=None, ge=1, description="resolution in evaluation, in pixels; none: that of training"
    )
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_padding: Whole = Field(default=0, ge=0, description="pixels of padding around an image before its random crop")
    crop_scale: tuple[Fraction, Fraction] | None = Field(
        default=None, description="min and max area of a random resized crop, as fractions; none: no such crop"
    )
    evaluation_crop: Fraction = Field(default=1.0, description="center crop's side divided by the resized image's side")
    horizontal_flip: bool = False
    randaugment: Number | None = Field(default=None, gt=0, le=10, description="magnitude, up to 10; none: off")
    randaugment_std: Number | None = Field(default=None, ge=0, description="standard deviation of the magnitude")
    trivialaugment: bool = Field(default=False, description="apply one random operation of random strength per image")
    erasing: BelowOne = Field(default=0.0, description="probability of random erasing")
    erasing_fill: Literal["noise", "zero"] = Field(default="noise", description="normalized values of erased pixels")
    repeated_augmentation: Whole = Field(
        default=1, ge=1, description="differently augmented copies of each image in a batch; epochs keep their length"
    )
    mixup: Number = Field(default=0.0, ge=0, description="alpha of the Beta distribution of weights; 0: no Mixup")
    cutmix: Number = Field(default=0.0, ge=0, description="alpha of the Beta distribution of areas; 0: no CutMix")
    mix_switch: Probability | None = Field(default=None, description="probability of CutMix if Mixup is on too")
    mix_probability: Probability | None = Field(default=None, description="probability that a batch is mixed")
    drop_path_rate: BelowOne = 0.0
    init: Literal["trunc_normal", "kaiming", "lecun_normal"] = Field(
        default="trunc_normal",
        description="of a design's weights: standard deviation 0.02, variance 2 / fan-out (torchvision's ResNet; not "
        "divided by groups), or variance 1 / fan-in",
    )
    zero_init_residual: bool = Field(
        default=False, description="start the last norm or convolution of each residual branch at zero"
    )
    head_init_scale: Number = Field(default=1.0, gt=0, description="factor on the classifier's initial weights")
    reset_classifier: bool = Field(
        default=False, description="initialize the classifier even if the weights to start from have one that fits"
    )
    ema_decay: BelowOne | None = Field(
        default=None, description="decay of EMA weights, which are evaluated too; none: off"
    )
    ema_warmup: bool = Field(default=False, description="raise the decay of EMA weights from 0, as timm does")
    ema_steps: Whole = Field(default=1, ge=1, description="training steps between updates of EMA weights")
    ema_scaled: bool = Field(
        default=False,
        description="multiply 1 - ema_decay by batch_size x ema_steps / max_epochs, and average from the end of the "
        "warm-up on, as torchvision does",
    )
    evaluated_weights: Literal["trained", "ema"] = Field(default="trained", description="weights of a run's result")
    precise_bn: Whole | None = Field(
        default=None,
        ge=2,
        description="training images on which BatchNorm statistics are recomputed before evaluation; none: off",
    )
    sync_batchnorm: bool = Field(default=False, description="compute BatchNorm statistics over all processes")
    precision: Literal["float32", "tf32", "bf16", "fp16"] = Field(
        default="float32", description="of the forward pass: tf32 of all products on a GPU, bf16 and fp16 by autocast"
    )
    deterministic: bool = Field(default=False, description="choose a GPU's algorithms so that results repeat")
    channels_last: bool = True
    compile: bool = Field(default=False, description="use torch.compile")
    activation_checkpointing: bool = Field(default=False, description="recompute activations to save memory")
    accumulation: Whole = Field(default=1, ge=1, description="micro-batches per process and training step")
    workers: Whole | None = Field(
        default=None, ge=0, le=1024, description="data loader processes; none: threads on a GPU, 0 on a CPU"
    )
    max_damaged: BelowOne = Field(default=0.001, description="fraction of unreadable images above which a run fails")
    checkpoint_seconds: Number = Field(default=60.0, gt=0, description="max seconds between checkpoints")
    checkpoint_steps: Whole | None = Field(default=None, ge=1, description="also every so many steps")
    checkpoint_every: Number | None = Field(default=None, gt=0, description="epochs between permanent checkpoints")

    @property
    def peak_learning_rate(self) -> float:
        """Scale the peak learning rate linearly with the batch size (paper, Table 5; Goyal et al., 2017)."""
        return self.learning_rate * self.batch_size / (self.learning_rate_batch or self.batch_size)

    @property
    def ema_decay_per_update(self) -> float:
        """Return the decay of EMA weights at each update, scaled as pycls and torchvision do if `ema_scaled`."""
        assert self.ema_decay is not None
        if not self.ema_scaled:
            return self.ema_decay
        return 1 - min((1 - self.ema_decay) * self.batch_size * self.ema_steps / self.max_epochs, 1.0)

    @property
    def image_by_image(self) -> bool:
        """Whether images must be transformed one by one rather than in whole batches."""
        return self.crops_whole_images is not None or self.randaugment is not None or self.trivialaugment

    @property
    def crops_whole_images(self) -> str | None:
        """Name a setting that crops images at their own size, before they are resized; None if no setting does."""
        if self.crop_scale is not None:
            return "crop_scale"
        if self.evaluation_size not in (None, self.image_size):
            return "evaluation_size"
        return "evaluation_crop" if self.evaluation_crop < 1 else None

    def evaluated_at(self, image_size: int) -> int:
        """Return the resolution in evaluation of a network trained at `image_size`, in pixels."""
        return self.evaluation_size or image_size

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Set defaults for the chosen optimizer and schedule, and refuse settings of the others."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for name, (owner, choice, default) in USED_BY.items():
            chosen = values.get(owner, cls.model_fields[owner].default)
            if chosen == choice:
                filled[name] = default if filled.get(name) is None else filled[name]
            elif filled.get(name) is not None and chosen in get_args(cls.model_fields[owner].annotation):
                raise ValueError(f"{name}: only {owner}={choice} uses it, and {owner} is {chosen}")
        for name, (owners, default) in REQUIRES.items():
            if any(values.get(owner) for owner in owners):
                filled[name] = default if filled.get(name) is None else filled[name]
            elif filled.get(name) is not None:
                problem = "uses it, and it is off" if len(owners) == 1 else "use it, and both are off"
                raise ValueError(f"{name}: only {' and '.join(owners)} {problem}; set {name} to null")
        return filled

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingConfig:
        """Refuse settings that contradict each other."""
        if self.crop_scale and self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale={list(self.crop_scale)}: the smaller fraction must come first")
        if self.crop_scale and self.crop_padding:
            raise ValueError("crop_padding: crop_scale crops already; set crop_padding to 0, or crop_scale to null")
        if self.trivialaugment and self.randaugment is not None:
            raise ValueError("trivialaugment: randaugment is on too; set one of them to false or null")
        if self.ema_scaled and self.ema_warmup:
            raise ValueError("ema_scaled: ema_warmup is on too; set one of them to false")
        if self.min_learning_rate and self.schedule != "cosine":
            raise ValueError(f"min_learning_rate: only schedule=cosine uses it, and schedule is {self.schedule}")
        if self.mup_fan_in is not None and self.optimizer != "adamw":
            raise ValueError(f"mup_fan_in: only optimizer=adamw uses it, and optimizer is {self.optimizer}")
        if self.min_learning_rate > self.peak_learning_rate:
            raise ValueError(
                f"min_learning_rate={self.min_learning_rate:g}: the peak learning rate is {self.peak_learning_rate:g}"
            )
        if self.repeated_augmentation > self.batch_size:
            raise ValueError(
                f"repeated_augmentation={self.repeated_augmentation}: more copies than images in a batch; "
                f"nearest valid value: {self.batch_size}"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation={self.accumulation}: it does not divide batch_size={self.batch_size}; "
                f"nearest valid value: {nearest_divisor(self.batch_size, self.accumulation)}"
            )
        return self

    @model_validator(mode="after")
    def _is_used(self) -> TrainingConfig:
        """Refuse settings whose owner is off, rather than ignore them."""
        fields = type(self).model_fields
        for name, owner in _PART_OF.items():
            if getattr(self, name) != fields[name].default and getattr(self, owner) == fields[owner].default:
                raise ValueError(f"{name}: only {owner} uses it, and it is off")
        return self


SETTINGS[:] = TrainingConfig.model_fields
# Settings that may change when a run resumes.
MAY_CHANGE = (
    "accumulation",
    "workers",
    "max_damaged",
    "activation_checkpointing",
    "checkpoint_seconds",
    "checkpoint_steps",
    "checkpoint_every",
)


def nearest_divisor(number: int, target: int) -> int:
    """Return the divisor of `number` nearest to `target`."""
    divisors = (candidate for candidate in range(1, number + 1) if number % candidate == 0)
    return min(divisors, key=lambda divisor: abs(divisor - target))
