"""The shipped recipes equal the paper's table of settings, and the schedules their closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from recorder import Recorder
from torch import nn

import modernize
from ablations.data.batches import MicroBatch
from ablations.data.datasets import Split
from ablations.data.preprocessing import evaluation_steps
from ablations.data.transforms import APPLIED, evaluation_transform, training_transform
from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe, recipe_names
from ablations.store import read_log
from ablations.training.optimizer import learning_rate, make_optimizer, parameter_groups
from ablations.training.trainer import Trainer

# Table 5, section 2.1 and appendices A and C of arXiv 2201.03545v2: the setting's row, what it is called here, the
# original recipe, the enhanced one for ConvNeXt-T and the ResNet-50 regime, that for ConvNeXt-B and the ResNet-200 one.
TABLE: list[tuple[str, str, Any, Any, Any]] = [
    ("optimizer", "optimizer", "sgd", "adamw", "adamw"),
    ("optimizer: momentum", "momentum", 0.9, None, None),
    ("optimizer: betas", "betas", None, (0.9, 0.999), (0.9, 0.999)),
    ("base learning rate", "learning_rate", 0.1, 4e-3, 4e-3),
    ("base learning rate: at batch", "learning_rate_batch", 256, 4096, 4096),
    ("batch size", "batch_size", 256, 4096, 4096),
    ("weight decay", "weight_decay", 1e-4, 0.05, 0.05),
    ("epochs", "max_epochs", 90, 300, 300),
    ("schedule", "schedule", "step", "cosine", "cosine"),
    ("schedule: every … epochs", "step_epochs", 30, None, None),
    ("schedule: times", "step_factor", 0.1, None, None),
    ("schedule: epochs of linear warm-up", "warmup_epochs", 0, 20, 20),
    ("crop", "image_size", 224, 224, 224),
    ("crop: random resized", "crop_scale", (0.08, 1.0), (0.08, 1.0), (0.08, 1.0)),
    ("crop: no padded one", "crop_padding", 0, 0, 0),
    ("crop: interpolation", "interpolation", "bilinear", "bicubic", "bicubic"),
    ("flip", "horizontal_flip", True, True, True),
    ("RandAugment: magnitude", "randaugment", None, 9, 9),
    ("RandAugment: standard deviation", "randaugment_std", None, 0.5, 0.5),
    ("Mixup", "mixup", 0, 0.8, 0.8),
    ("CutMix", "cutmix", 0, 1.0, 1.0),
    ("Mixup / CutMix: applied to every batch", "mix_probability", None, 1.0, 1.0),
    ("Mixup / CutMix: switched with probability", "mix_switch", None, 0.5, 0.5),
    ("random erasing", "erasing", 0, 0.25, 0.25),
    ("label smoothing", "label_smoothing", 0, 0.1, 0.1),
    ("stochastic depth", "drop_path_rate", 0, 0.1, 0.5),
    ("EMA of weights: off for every row of the roadmap", "ema_decay", None, None, None),
    ("EMA of weights: the same decay throughout", "ema_warmup", False, False, False),
    ("weight initialisation", "init", "kaiming", "trunc_normal", "trunc_normal"),
    ("evaluation: crop ratio", "evaluation_crop", 0.875, 0.875, 0.875),
    # what the table has no row for, and so must be off
    ("no gradient clipping", "clip_norm", None, None, None),
    ("no decay of biases and norms", "no_weight_decay", "biases_and_norms", "biases_and_norms", "biases_and_norms"),
    ("learning rate changes in each step", "schedule_updates", "step", "step", "step"),
    ("warm-up from 0", "warmup_factor", 0, 0, 0),
    ("cosine to 0", "min_learning_rate", 0, 0, 0),
    ("evaluation: resolution", "evaluation_size", None, None, None),
    ("no TrivialAugment", "trivialaugment", False, False, False),
    ("random erasing: per-pixel noise", "erasing_fill", "noise", "noise", "noise"),
    ("no repeated augmentation", "repeated_augmentation", 1, 1, 1),
    ("EMA of weights: updated in each step", "ema_steps", 1, 1, 1),
    ("EMA of weights: decay as written", "ema_scaled", False, False, False),
    ("EMA of weights: not what is reported", "evaluated_weights", "trained", "trained", "trained"),
    ("one learning rate for all layers", "layer_decay", None, None, None),
    ("one learning rate for all widths", "mup_fan_in", None, None, None),
    ("no residual branch starts at zero", "zero_init_residual", False, False, False),
    ("classifier initialized as other layers", "head_init_scale", 1.0, 1.0, 1.0),
    ("no weights to start from, so none of a classifier", "reset_classifier", False, False, False),
    ("BatchNorm's running averages", "precise_bn", None, None, None),
    ("BatchNorm of each process's own", "sync_batchnorm", False, False, False),
]
NAMES = ("paper_original", "paper_enhanced", "paper_enhanced_b")
# Settings that say how a run is carried out, of which the paper's table says nothing.
OF_THE_MACHINE = {
    *("precision", "deterministic", "channels_last", "compile", "activation_checkpointing", "accumulation", "workers"),
    *("max_damaged", "checkpoint_seconds", "checkpoint_steps", "checkpoint_every"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_a_setting_is_the_papers(row: tuple[str, str, Any, Any, Any], name: str) -> None:
    assert getattr(load_recipe(name), row[1]) == row[2 + NAMES.index(name)]


def test_every_setting_is_in_the_table_or_the_machines() -> None:
    listed = [row[1] for row in TABLE]
    assert len(set(listed)) == len(listed)
    assert set(listed) | OF_THE_MACHINE == set(TrainingConfig.model_fields)
    defaults = TrainingConfig(max_epochs=1, batch_size=2, learning_rate=1)
    for name in NAMES:
        assert all(getattr(load_recipe(name), key) == getattr(defaults, key) for key in OF_THE_MACHINE)


def test_layer_scale_is_the_designs_and_comes_with_the_enhanced_recipe() -> None:
    rows = {row.name: row.design for row in modernize.roadmap("resnet50").rows}
    assert rows["resnet"].layer_scale is None
    assert all(design.layer_scale == 1e-6 for name, design in rows.items() if name != "resnet")
    net = modernize.build("convnext_tiny,width=4", num_classes=2)
    scales = [weights for name, weights in net.named_parameters() if "layer_scale" in name]
    assert len(scales) == 18 and all((weights == 1e-6).all() for weights in scales)


def test_the_named_recipes_are_all_there() -> None:
    assert {*NAMES, "desk_original", "desk_enhanced", "quick"} <= set(recipe_names())


def test_the_desk_recipes_keep_what_the_papers_do_where_small_images_allow() -> None:
    """They differ in sizes, rates, epochs, padded crops and RandAugment, for a budget of an hour."""
    other = {"max_epochs", "batch_size", "learning_rate", "learning_rate_batch", "warmup_epochs", "step_epochs"}
    other |= {"image_size", "crop_padding", "crop_scale", "interpolation", "evaluation_crop"}
    other |= {"randaugment", "randaugment_std", "precise_bn"}
    for desk, paper in (("desk_original", "paper_original"), ("desk_enhanced", "paper_enhanced")):
        mine, theirs = load_recipe(desk).model_dump(), load_recipe(paper).model_dump()
        assert {key for key in mine if mine[key] != theirs[key]} <= other
        assert not load_recipe(desk).image_by_image


# The schedules -------------------------------------------------------------------------------------------------------

IMAGENET = 1_281_167


@pytest.mark.parametrize("batch", [1024, 4096, 8192])
@pytest.mark.parametrize("name", ["paper_enhanced", "paper_enhanced_b"])
def test_the_enhanced_rate_warms_up_for_20_epochs_and_falls_as_a_cosine(name: str, batch: int) -> None:
    config = load_recipe(name, {"batch_size": str(batch)})
    per_epoch = IMAGENET // batch
    warm, total = 20 * per_epoch, 300 * per_epoch
    peak = 4e-3 * batch / 4096

    def rate(step: int) -> float:
        return learning_rate(config, step, per_epoch, total)

    for step in (0, 1, per_epoch - 1, warm // 2, warm - 1):
        assert rate(step) == pytest.approx(peak * (step + 1) / warm, rel=1e-12)
    for step in (warm, warm + 1, 100 * per_epoch, 160 * per_epoch, 299 * per_epoch, total - 1):
        share = (step - warm) / (total - warm)
        assert rate(step) == pytest.approx(peak * (1 + math.cos(math.pi * share)) / 2, rel=1e-9)
    assert rate(warm) == rate(warm - 1) == peak >= max(rate(step) for step in range(0, total, per_epoch // 2))
    assert rate(160 * per_epoch) == pytest.approx(peak / 2, rel=1e-9)  # half of the 280 epochs of cosine


@pytest.mark.parametrize("batch", [64, 256, 2048])
def test_the_original_rate_falls_tenfold_every_30_epochs(batch: int) -> None:
    config = load_recipe("paper_original", {"batch_size": str(batch)})
    per_epoch = IMAGENET // batch
    peak = 0.1 * batch / 256
    for step, drops in (
        (0, 0),
        (30 * per_epoch - 1, 0),
        (30 * per_epoch, 1),
        (60 * per_epoch - 1, 1),
        (60 * per_epoch, 2),
        (90 * per_epoch - 1, 2),
    ):
        found = learning_rate(config, step, per_epoch, 90 * per_epoch)
        assert found == pytest.approx(peak / 10**drops, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_another_budget_rescales_warm_up_and_steps(name: str) -> None:
    whole, third = load_recipe(name), load_recipe(name, {"max_epochs": str(load_recipe(name).max_epochs / 3)})
    total = int(whole.max_epochs * 10)  # steps, in three times as many epochs or three times as long ones
    for step in range(0, total, 7):
        mine, theirs = learning_rate(third, step, 30, total), learning_rate(whole, step, 10, total)
        assert mine == pytest.approx(theirs, rel=1e-9)


def test_without_learning_rate_batch_the_rate_is_not_scaled() -> None:
    for batch in (2, 128, 5000):
        assert TrainingConfig(max_epochs=1, batch_size=batch, learning_rate=0.3).peak_learning_rate == 0.3


def images(count: int, size: int = 8, channels: int = 1) -> Split:
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, size, size, channels), generator=chance, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 3)


def small(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 2, "batch_size": 8, "learning_rate": 0.02, **changes})


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def test_the_optimizer_uses_the_schedules_rate_and_the_log_explains_it(tmp_path: Path) -> None:
    config = small(batch_size=8, learning_rate=0.02, learning_rate_batch=32, warmup_epochs=1)
    told = Recorder()
    run = Trainer(linear(), images(40), images(5), config, folder=tmp_path, callbacks=told)
    used: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[-1]["lr"]))
    run.train()
    peak = 0.02 * 8 / 32
    cosine = [peak * (1 + math.cos(math.pi * share / 5)) / 2 for share in range(5)]
    assert used == pytest.approx([peak * part / 5 for part in range(1, 6)] + cosine, rel=1e-12)
    assert told.lines[-1]["peak_learning_rate"] == "0.005, scaled from 0.02 for a batch of 32 images"
    assert read_log(tmp_path)[-1]["peak_learning_rate"] == told.lines[-1]["peak_learning_rate"]
    Trainer(linear(), images(40), images(5), small(), callbacks=told).train()
    assert "peak_learning_rate" not in told.lines[-1]


# Weight decay --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("convnext_tiny", "layer_scale"),
        ("swin_t", "relative_position_bias_table"),
        ("swin_v2_t", "logit_scale"),
        ("maxvit_t", "relative_position_bias_table"),
        ("vit_b_16", "pos_embedding"),
        ("vit_b_16", "class_token"),
        ("efficientnet_b0", "bias"),
    ],
)
def test_of_torchvisions_networks_only_matrices_and_kernels_decay(name: str, off: str) -> None:
    """Position tables and tokens are added to inputs like biases: Swin and timm exempt them too."""
    with torch.device("meta"):
        net = torchvision.models.get_model(name)
    names = {id(weights): key for key, weights in net.named_parameters()}
    kernels = {
        names[id(weights)]
        for module in net.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention)
        for key, weights in module.named_parameters(recurse=False)
        if "weight" in key
    }
    decayed, undecayed = parameter_groups(net, 0.05)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.05, 0.0)
    assert {names[id(weights)] for weights in decayed["params"]} == kernels
    assert len(decayed["params"]) + len(undecayed["params"]) == len(names)
    assert any(off in names[id(weights)] for weights in undecayed["params"])


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_shrinks_kernels_only(name: str) -> None:
    """With zero gradients a step multiplies weights by 1 - rate * decay, for SGD and AdamW alike."""
    config = load_recipe(name)
    net = modernize.build("pocket@separate-downsampling,depths=1-1,width=4,layer_scale=0.1", num_classes=3)
    with torch.no_grad():
        for weights in net.parameters():
            weights.fill_(2.0)
            weights.grad = torch.zeros_like(weights)
    make_optimizer(net, config).step()
    shrunk = 2.0 * (1 - config.peak_learning_rate * config.weight_decay)
    for key, weights in net.named_parameters():
        kernel = key.endswith("weight") and weights.ndim > 1 and "layer_scale" not in key
        torch.testing.assert_close(weights.detach(), torch.full_like(weights, shrunk if kernel else 2.0), msg=key)
        assert kernel or bool((weights == 2.0).all())


# What a recipe has images go through ---------------------------------------------------------------------------------


def test_the_enhanced_transforms_are_the_papers_in_order() -> None:
    chain: Any = training_transform(load_recipe("paper_enhanced"), 224, (0.5,) * 3, (0.2,) * 3)
    names = [type(step).__name__ for step in chain.transforms]
    assert names == [
        *("RandomResizedCrop", "RandomHorizontalFlip", "RandAugment"),
        *("ToImage", "ToDtype", "Normalize", "RandomErasing"),
    ]
    assert (chain.transforms[0].interpolation.value, chain.transforms[0].ratio) == ("bicubic", (3 / 4, 4 / 3))
    assert (chain.transforms[1].p, chain.transforms[-1].p, APPLIED) == (0.5, 0.25, 0.5)
    original: Any = training_transform(load_recipe("paper_original"), 224, (0.5,) * 3, (0.2,) * 3)
    assert [type(step).__name__ for step in original.transforms] == [
        name for name in names if "Rand" not in name or name in names[:2]
    ][:5]
    evaluation: Any = evaluation_transform(evaluation_steps(load_recipe("paper_original"), 224, (0.5,) * 3, (0.2,) * 3))
    assert [type(step).__name__ for step in evaluation.transforms] == [
        *("Resize", "CenterCrop", "ToImage", "ToDtype", "Normalize")
    ]


# What does not go together -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "changes", "says"),
    [
        ("quick", {"randaugment_std": "1"}, "randaugment_std: only randaugment uses it, and it is off; set rand"),
        ("quick", {"mix_switch": "0.5"}, "mix_switch: only mixup and cutmix use it, and both are off; set mix"),
        ("quick", {"mix_probability": "1"}, "mix_probability: only mixup and cutmix use it, and both are off"),
        ("quick", {"momentum": "0.9"}, "momentum: only optimizer=sgd uses it, and optimizer is adamw"),
        ("paper_original", {"betas": "[0.9, 0.99]"}, "betas: only optimizer=adamw uses it, and optimizer is sgd"),
        ("paper_enhanced", {"step_epochs": "3"}, "step_epochs: only schedule=step uses it, and schedule is cosine"),
        ("quick", {"crop_scale": "[0.1, 1]"}, "crop_padding: crop_scale crops already; set crop_padding to 0"),
        ("paper_original", {"crop_padding": "4"}, "crop_padding: crop_scale crops already; set crop_padding to 0"),
        ("paper_original", {"crop_scale": "[1, 0.5]"}, "crop_scale=[1.0, 0.5]: the smaller fraction must come first"),
        ("paper_original", {"crop_scale": "[0, 1]"}, "crop_scale.0=0: must be greater than 0"),
        ("quick", {"accumulation": "3"}, "accumulation=3: it does not divide batch_size=128; nearest valid value"),
        ("quick", {"accumulation": "0"}, "accumulation=0: must be greater than or equal to 1"),
        ("paper_enhanced", {"randaugment": "11"}, "randaugment=11: must be less than or equal to 10"),
        ("quick", {"randaugment": "0"}, "randaugment=0: must be greater than 0"),
        ("paper_enhanced", {"mix_switch": "1.5"}, "mix_switch=1.5: must be less than or equal to 1"),
        ("paper_enhanced", {"erasing": "1"}, "erasing=1: must be less than 1"),
        ("paper_enhanced", {"mixup": "-1"}, "mixup=-1: must be greater than or equal to 0"),
        ("paper_enhanced", {"ema_decay": "1"}, "ema_decay=1: must be less than 1"),
        ("paper_enhanced", {"clip_norm": "0"}, "clip_norm=0: must be greater than 0"),
        ("paper_enhanced", {"precision": "bfloat"}, "precision='bfloat': must be 'float32', 'tf32', 'bf16' or 'fp16'"),
        ("paper_enhanced", {"interpolation": "cubic"}, "interpolation='cubic': must be 'bilinear' or 'bicubic'"),
        ("paper_enhanced", {"evaluation_crop": "0"}, "evaluation_crop=0: must be greater than 0"),
        ("paper_enhanced", {"checkpoint_every": "0"}, "checkpoint_every=0: must be greater than 0"),
        ("paper_enhanced", {"learning_rate_batch": "0"}, "learning_rate_batch=0: must be greater than or equal to 1"),
        ("paper_enhanced", {"workers": "-1"}, "workers=-1: must be greater than or equal to 0"),
        ("paper_enhanced", {"max_damaged": "1"}, "max_damaged=1: must be less than 1"),
        ("paper_enhanced", {"random_erasing": "0.25"}, "unknown key 'random_erasing': did you mean 'erasing'?"),
        ("paper_enhanced", {"ema": "0.9"}, "unknown key 'ema'"),
    ],
)  # fmt: skip
def test_contradicting_settings_are_one_line_naming_key_and_valid_value(
    recipe: str, changes: dict[str, str], says: str
) -> None:
    with pytest.raises(RequestError) as caught:
        load_recipe(recipe, changes)
    assert str(caught.value).startswith(f"recipe {recipe}: {says}")
    assert len(str(caught.value).splitlines()) == 1


def test_null_or_0_turns_a_setting_off() -> None:
    off = {"randaugment": "null", "randaugment_std": "null", "mixup": "0", "cutmix": "0"}
    off |= {"mix_switch": "null", "mix_probability": "null", "erasing": "0"}
    found = load_recipe("paper_enhanced", off)
    assert (found.randaugment, found.mixup, found.cutmix, found.mix_switch) == (None, 0, 0, None)
    alone = load_recipe("paper_enhanced", {"cutmix": "0"})
    assert (alone.mixup, alone.mix_probability) == (0.8, 1.0)


def test_dependent_settings_have_defaults() -> None:
    found = small(mixup=0.2, randaugment=5, optimizer="sgd", schedule="step")
    assert (found.mix_switch, found.mix_probability, found.randaugment_std) == (0.5, 1.0, 0.5)
    assert (found.momentum, found.step_epochs, found.step_factor) == (0.9, 30, 0.1)
    plain = small()
    assert (plain.mix_switch, plain.mix_probability, plain.randaugment_std, plain.momentum) == (None,) * 4


def test_micro_batches_split_the_batch() -> None:
    """A batch of 8 in four micro-batches: together they are the epoch's order."""
    run = Trainer(linear(), images(40), images(5), small(accumulation=4), seed=9)
    parts = list(run.micro_batches())
    assert len(parts) == 4 * 10 and all(isinstance(part, MicroBatch) and len(part.indices) == 2 for part in parts)
    first = torch.cat([part.indices for part in parts[:20]])
    assert sorted(first.tolist()) == list(range(40))
    assert [part.first for part in parts[:5]] == [0, 2, 4, 6, 0]
    assert torch.equal(
        first,
        torch.cat([p.indices for p in Trainer(linear(), images(40), images(5), small(), seed=9).micro_batches()][:5]),
    )
