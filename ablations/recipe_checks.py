"""Settings that make a number meaningless on a dataset, as one-line warnings; what cannot be met at all is refused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ablations.errors import RequestError
from ablations.training_config import TrainingConfig

FIRST_WEIGHTS = 0.1  # share of the first step's weights in the EMA weights from which these are below the trained ones
MIN_STEPS = 10
MIN_TEST_IMAGES = 100
DROPPED = 0.25  # share of the training images that an epoch may leave out
ENLARGED = 8  # times an image's own side, above which pixels only repeat
MAX_RATE = {"adamw": 0.1, "sgd": 10.0}
SHIPPED_RATES = {"adamw": (1e-3, 4e-3), "sgd": (0.0125, 0.5)}  # learning rates of the shipped recipes
LOW_SGD, HIGH_ADAMW = 5e-3, 0.02  # rates that are usual for the other optimizer alone
MIN_MOVEMENT = 1e-3  # sum of the learning rates of all steps, below which weights stay as they were initialized


@dataclass(frozen=True)
class Facts:
    """What the checks know of a run besides its recipe; None or 0 if unknown.

    Attributes:
        train: Number of training images.
        test: Number of test images.
        classes: Number of classes.
        image_size: The images' own resolution in pixels.
        processes: Number of processes of the run.
        batch_norm: Whether the network has BatchNorm.
        from_weights: Whether training starts from weights rather than from a new initialization.
        smallest_fan_in: Smallest fan-in of the weights whose learning rate `mup_fan_in` sets.
    """

    train: int
    test: int = 0
    classes: int = 0
    image_size: int | None = None
    processes: int = 1
    batch_norm: bool = False
    from_weights: bool | None = None
    smallest_fan_in: int = 0


def refuse_contradictions(recipe: TrainingConfig, place: str) -> None:
    """Raise RequestError if settings that a user writes contradict each other; stored runs that have them resume."""
    if recipe.warmup_epochs > recipe.max_epochs:
        raise RequestError(
            f"{place}: warmup_epochs={recipe.warmup_epochs:g}: longer than the training, which would end at the peak "
            f"learning rate; set it below max_epochs={recipe.max_epochs:g}"
        )


def doubts(recipe: TrainingConfig, facts: Facts) -> list[str]:
    """Return a sentence for each setting that makes the results meaningless, or has no effect on them."""
    steps = total_steps(recipe, facts)
    return [
        *_of_data(recipe, facts, steps),
        *_of_batches(recipe, facts),
        *_of_schedule(recipe, steps, facts.train // recipe.batch_size),
        *_of_optimizer(recipe, facts),
        *_of_layers(recipe, facts),
        *_of_averaging(recipe, steps, facts.train // recipe.batch_size),
        *_of_augmentation(recipe, facts),
    ]


def unused(recipe: TrainingConfig) -> list[str]:
    """Return a sentence for each setting that has no effect, and does not concern the results."""
    if recipe.checkpoint_every is not None and recipe.checkpoint_every > recipe.max_epochs:
        return [
            f"checkpoint_every={recipe.checkpoint_every:g} is beyond max_epochs={recipe.max_epochs:g}: none is kept"
        ]
    return []


def total_steps(recipe: TrainingConfig, facts: Facts) -> int:
    """Return the number of training steps."""
    return max(round(recipe.max_epochs * (facts.train // recipe.batch_size)), 1)


def _of_data(recipe: TrainingConfig, facts: Facts, steps: int) -> Iterator[str]:
    if facts.classes == 1:
        yield "the dataset has one class, so every prediction is right"
    elif facts.train < facts.classes:
        yield f"the training set has {facts.train} images for {facts.classes} classes"
    if 0 < facts.test < MIN_TEST_IMAGES:
        yield f"the test set has {facts.test} images: one image is {100 / facts.test:.2g} pp of top-1"
    if steps < MIN_STEPS:
        yield (
            f"training ends after {steps} {'step' if steps == 1 else 'steps'} of batch_size={recipe.batch_size}; "
            "use smaller batches or more epochs"
        )


def _of_batches(recipe: TrainingConfig, facts: Facts) -> Iterator[str]:
    batch = recipe.batch_size
    per_epoch, left = divmod(facts.train, batch)
    if per_epoch and left > DROPPED * facts.train:
        yield f"batch_size={batch} leaves {left} of {facts.train} training images out of each epoch, as a partial batch"
    elif per_epoch == 1:
        yield f"batch_size={batch} leaves one training step per epoch of {facts.train} images"
    images = batch // (facts.processes * recipe.accumulation)
    if images == 1 and (recipe.mixup or recipe.cutmix):
        yield f"mixup, cutmix: not applied, because a micro-batch has one image ({_divided(recipe, facts)})"
    shared = images * facts.processes if recipe.sync_batchnorm else images
    if shared <= 2 and facts.batch_norm:
        yield f"BatchNorm's statistics are of micro-batches of {_images(shared)} ({_divided(recipe, facts)})"


def _divided(recipe: TrainingConfig, facts: Facts) -> str:
    processes = f", {facts.processes} processes" if facts.processes > 1 else ""
    return f"batch_size={recipe.batch_size}, accumulation={recipe.accumulation}{processes}"


def _images(number: int) -> str:
    return "one image" if number == 1 else f"{number} images"


def _of_schedule(recipe: TrainingConfig, steps: int, per_epoch: int) -> Iterator[str]:
    epochs, peak = recipe.max_epochs, recipe.peak_learning_rate
    if recipe.schedule == "step":
        assert recipe.step_epochs is not None and recipe.step_factor is not None
        if recipe.step_epochs * per_epoch > steps - 1 or recipe.step_factor == 1:
            yield (
                f"step_epochs={recipe.step_epochs:g}, step_factor={recipe.step_factor:g}: the learning rate never "
                f"drops in max_epochs={epochs:g}"
            )
        elif recipe.step_factor ** (epochs / 2 / recipe.step_epochs) < 1e-4:
            yield (
                f"step_epochs={recipe.step_epochs:g}: from half of max_epochs={epochs:g} on, the learning rate is "
                "below 1/10000 of its peak"
            )
    warmup, falling = round(recipe.warmup_epochs * per_epoch), 1 if recipe.schedule == "cosine" else 0
    if warmup and warmup + falling >= steps:  # the cosine's first step is at the peak, too
        yield f"warmup_epochs={recipe.warmup_epochs:g}: training (max_epochs={epochs:g}) ends at the peak learning rate"
    if recipe.schedule_updates == "epoch" and (epochs < 3 or 0 < recipe.warmup_epochs < 1):
        yield f"schedule_updates=epoch: the learning rate changes once per epoch, of {epochs:g}; set it to step"
    if peak > MAX_RATE[recipe.optimizer]:
        yield f"a peak learning rate of {peak:g}{_scaled(recipe)} is too large for {recipe.optimizer}"
    elif peak * steps < MIN_MOVEMENT:
        yield (
            f"with a peak learning rate of {peak:g}{_scaled(recipe)}, {steps} steps hardly change the initial weights"
        )
    if peak * recipe.weight_decay > 0.1:
        yield (
            f"weight_decay={recipe.weight_decay:g} at a learning rate of {peak:g} removes "
            f"{min(100 * peak * recipe.weight_decay, 100):.0f}% of each weight per step"
        )
    inertia = recipe.momentum if recipe.optimizer == "sgd" else recipe.betas and recipe.betas[0]
    if inertia is not None and inertia > 0.99 and 1 / (1 - inertia) >= steps:
        name = "momentum" if recipe.optimizer == "sgd" else "betas[0]"
        yield f"{name}={inertia:g} averages gradients over more steps than the training has ({steps})"
    if recipe.clip_norm is not None and recipe.optimizer == "sgd" and recipe.clip_norm * peak * steps < MIN_MOVEMENT:
        yield f"clip_norm={recipe.clip_norm:g}: {steps} steps hardly change the initial weights"


def _of_optimizer(recipe: TrainingConfig, facts: Facts) -> Iterator[str]:
    """Name a learning rate that is that of the other optimizer; fine-tuning with SGD may have a low one."""
    peak = recipe.peak_learning_rate
    low = recipe.optimizer == "sgd" and peak < LOW_SGD and not facts.from_weights
    if low or (recipe.optimizer == "adamw" and HIGH_ADAMW < peak <= MAX_RATE["adamw"]):
        least, most = SHIPPED_RATES[recipe.optimizer]
        yield (
            f"optimizer={recipe.optimizer}: a peak learning rate of {peak:g} is {'low' if low else 'high'}; shipped "
            f"recipes with {recipe.optimizer} have {least:g} to {most:g}, so tune it before you compare optimizers"
        )


def _of_layers(recipe: TrainingConfig, facts: Facts) -> Iterator[str]:
    if recipe.layer_decay not in (None, 1) and facts.from_weights is False:
        yield (
            f"layer_decay={recipe.layer_decay:g}: layers near the input learn slowly from their initialization; "
            "start from --weights"
        )
    if recipe.zero_init_residual and facts.from_weights:
        yield "zero_init_residual: residual branches start from --weights, not at zero"
    if recipe.mup_fan_in is not None and facts.smallest_fan_in:
        rate = recipe.peak_learning_rate * recipe.mup_fan_in / facts.smallest_fan_in
        if rate > MAX_RATE[recipe.optimizer] >= recipe.peak_learning_rate:
            yield (
                f"mup_fan_in={recipe.mup_fan_in}: a peak learning rate of {rate:.2g}, that of weights with fan-in "
                f"{facts.smallest_fan_in}, is too large for {recipe.optimizer}"
            )


def _scaled(recipe: TrainingConfig) -> str:
    if recipe.learning_rate_batch in (None, recipe.batch_size):
        return ""
    return (
        f" (learning_rate={recipe.learning_rate:g}, scaled from learning_rate_batch={recipe.learning_rate_batch} to "
        f"batch_size={recipe.batch_size})"
    )


def _of_averaging(recipe: TrainingConfig, steps: int, per_epoch: int) -> Iterator[str]:
    if recipe.ema_decay is None or recipe.ema_warmup:
        return
    first = min(round(recipe.warmup_epochs * per_epoch), steps) if recipe.ema_scaled else 0
    updates = _ema_updates(recipe, steps, per_epoch) - _ema_updates(recipe, first, per_epoch)
    share = recipe.ema_decay_per_update ** max(updates - 1, 0)
    if share > FIRST_WEIGHTS:
        remedy = "ema_steps=1" if recipe.ema_scaled else "ema_warmup=true"
        yield (
            f"ema_decay={recipe.ema_decay:g}: after {steps} steps, {100 * share:.0f}% of the EMA weights are those of "
            f"the first {'update' if recipe.ema_scaled or recipe.ema_steps > 1 else 'step'}; set {remedy}"
        )


def _ema_updates(recipe: TrainingConfig, steps: int, per_epoch: int) -> int:
    """Count the updates of the EMA weights in the first `steps` steps; each epoch's first step is one."""
    epochs, left = divmod(steps, max(per_epoch, 1))
    return epochs * math.ceil(per_epoch / recipe.ema_steps) + math.ceil(left / recipe.ema_steps)


def _of_augmentation(recipe: TrainingConfig, facts: Facts) -> Iterator[str]:
    size, own = recipe.image_size or facts.image_size, facts.image_size
    if size is not None and recipe.crop_padding >= size / 2:
        seen = 100 * max(1 - recipe.crop_padding / size, 0)
        yield f"crop_padding={recipe.crop_padding}: crops of {size} px may show {seen:.0f}% of an image's width"
    if size is not None and recipe.crop_scale and recipe.crop_scale[0] ** 0.5 * (own or size) < 4:
        yield (f"crop_scale={list(recipe.crop_scale)}: crops may be smaller than 4 px of an image of {own or size} px")
    if size is not None and own is not None and size >= ENLARGED * own:
        yield (f"image_size={size} is {size / own:.0f} times the images' own {own} px: it adds cost and no detail")
    if recipe.evaluation_crop < 0.5:
        seen = 100 * recipe.evaluation_crop**2
        yield f"evaluation_crop={recipe.evaluation_crop:g}: networks see {seen:.0f}% of each test image"
    random = recipe.crop_padding or recipe.crop_scale or recipe.horizontal_flip or recipe.erasing
    if recipe.repeated_augmentation > 1 and not (random or recipe.randaugment or recipe.trivialaugment):
        yield (
            f"repeated_augmentation={recipe.repeated_augmentation}: no random transform is on, so the copies of an "
            "image are equal"
        )
    if recipe.mix_probability == 0:
        yield "mix_probability=0: mixup and cutmix are never applied"
    elif recipe.mixup and recipe.cutmix and recipe.mix_switch in (0, 1):
        yield f"mix_switch={recipe.mix_switch:g}: {'mixup' if recipe.mix_switch else 'cutmix'} is never applied"
    if recipe.label_smoothing > 0.5 and facts.classes != 1:
        yield f"label_smoothing={recipe.label_smoothing:g}: most of each target is spread over all classes"
    if recipe.drop_path_rate > 0.8:
        yield f"drop_path_rate={recipe.drop_path_rate:g}: most images skip the last block"
