"""The settings of torchvision's ResNet-50 recipes do what torchvision's references/classification does.

Oracles are torchvision's own transforms and torch's schedulers; the sampler and the EMA are restated here from
`RASampler` and `train.py` of the references, which the package does not contain.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ablations_here
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR
from torch.optim.swa_utils import AveragedModel
from torchvision import transforms
from torchvision.ops._utils import split_normalization_params
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op
from torchvision.transforms.functional import InterpolationMode

import modernize
from ablations.data.batches import MicroBatch
from ablations.data.datasets import DataSet, Split, load
from ablations.data.loader import Items, feeds
from ablations.data.order import epoch_order
from ablations.data.preprocessing import evaluation_steps
from ablations.data.transforms import IMAGENET_MEAN, IMAGENET_STD, TrivialAugment, evaluation_transform
from ablations.errors import RequestError
from ablations.launch.estimate import describe_plan, seconds_to_prepare
from ablations.launch.session import Session
from ablations.machine import Machine
from ablations.progress import clock
from ablations.recipe_checks import Facts, doubts
from ablations.recipes import TrainingConfig, load_recipe, without_newer
from ablations.store import read_json
from ablations.studies.evaluated_images import read_predictions
from ablations.studies.load import load_study
from ablations.studies.precision import describe_power
from ablations.studies.run import RunConfig, execute
from ablations.studies.run_times import after_training
from ablations.training.optimizer import (
    averaged_model,
    ema_decay,
    learning_rate,
    parameter_groups,
    update_average,
)
from ablations.training.trainer import Interrupted, Trainer
from modernize.models import design
from modernize.reference import without_weights
from modernize.roadmap import roadmap

# The blog post's table, and the settings that it prints for each row, by the names of `train.py`.
SOURCE: list[tuple[str, float, dict[str, Any]]] = [
    (
        "ResNet50 Baseline",
        76.130,
        {
            **{"batch_size": 8 * 32, "epochs": 90, "opt": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 1e-4},
            **{"lr_scheduler": "steplr", "lr_step_size": 30, "lr_gamma": 0.1, "interpolation": "bilinear"},
            **{"val_resize_size": 256, "val_crop_size": 224, "train_crop_size": 224},
        },
    ),
    (
        "LR optimizations",
        76.494,
        {
            **{"batch_size": 8 * 128, "lr": 0.5, "lr_scheduler": "cosineannealinglr", "lr_warmup_epochs": 5},
            **{"lr_warmup_method": "linear", "lr_warmup_decay": 0.01},
        },
    ),
    ("TrivialAugment", 76.806, {"auto_augment": "ta_wide"}),
    ("Long Training", 78.606, {"epochs": 600}),
    ("Random Erasing", 78.796, {"random_erase": 0.1}),
    ("Label Smoothing", 79.114, {"label_smoothing": 0.1}),
    ("Mixup", 79.232, {"mixup_alpha": 0.2}),
    ("Cutmix", 79.510, {"cutmix_alpha": 1.0}),
    ("Weight Decay tuning", 80.036, {"weight_decay": 2e-5, "norm_weight_decay": 0.0}),
    ("FixRes mitigations", 80.196, {"val_crop_size": 224, "train_crop_size": 176}),
    ("EMA", 80.450, {"model_ema": True, "model_ema_steps": 32, "model_ema_decay": 0.99998}),
    ("Inference Resize tuning", 80.674, {"val_resize_size": 232}),
    ("Repeated Augmentation", 80.858, {"ra_sampler": True, "ra_reps": 4}),
]
# What `train.py` does if a row does not set it.
DEFAULTS: dict[str, Any] = {
    **{"lr_warmup_epochs": 0, "lr_warmup_method": "constant", "lr_warmup_decay": 0.01, "auto_augment": None},
    **{"random_erase": 0.0, "label_smoothing": 0.0, "mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    **{"norm_weight_decay": None, "model_ema": False, "ra_sampler": False},
}


def as_theirs(recipe: TrainingConfig) -> dict[str, Any]:
    """A recipe as options of torchvision's `train.py`; fails if it has no such options."""
    size = recipe.image_size
    assert size is not None
    steps = evaluation_steps(recipe, recipe.evaluated_at(size), IMAGENET_MEAN, IMAGENET_STD)
    assert recipe.peak_learning_rate == recipe.learning_rate
    assert recipe.schedule_updates == "epoch" and recipe.horizontal_flip and recipe.crop_scale == (0.08, 1.0)
    assert recipe.mix_probability in (None, 1) and recipe.mix_switch in (None, 0.5)
    assert (recipe.init == "kaiming" and not recipe.erasing) or recipe.erasing_fill == "zero"
    found: dict[str, Any] = {
        **{
            "batch_size": recipe.batch_size,
            "epochs": recipe.max_epochs,
            "opt": recipe.optimizer,
            "lr": recipe.learning_rate,
        },
        **{"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "interpolation": recipe.interpolation},
        "lr_scheduler": {"step": "steplr", "cosine": "cosineannealinglr"}[recipe.schedule],
        "lr_warmup_epochs": recipe.warmup_epochs,
        "auto_augment": "ta_wide" if recipe.trivialaugment else None,
        **{"random_erase": recipe.erasing, "label_smoothing": recipe.label_smoothing},
        **{"mixup_alpha": recipe.mixup, "cutmix_alpha": recipe.cutmix},
        "norm_weight_decay": {"nothing": None, "norms": 0.0}[recipe.no_weight_decay],
        **{"train_crop_size": size, "val_crop_size": steps.image_size, "val_resize_size": steps.resize},
        **{"model_ema": recipe.ema_decay is not None, "ra_sampler": recipe.repeated_augmentation > 1},
    }
    if recipe.schedule == "step":
        found |= {"lr_step_size": recipe.step_epochs, "lr_gamma": recipe.step_factor}
    if recipe.warmup_epochs:
        found |= {"lr_warmup_method": "linear", "lr_warmup_decay": recipe.warmup_factor}
    if recipe.ema_decay is not None:
        assert recipe.ema_scaled and recipe.evaluated_weights == "ema"
        found |= {"model_ema_steps": recipe.ema_steps, "model_ema_decay": recipe.ema_decay}
    return found | ({"ra_reps": recipe.repeated_augmentation} if recipe.repeated_augmentation > 1 else {})


def theirs(rows: int) -> dict[str, Any]:
    """The settings of the source's first so many rows, each on top of those before."""
    found = dict(DEFAULTS)
    for _, _, changes in SOURCE[:rows]:
        found |= changes
    if found["lr_scheduler"] != "steplr":
        found = {key: value for key, value in found.items() if key not in ("lr_step_size", "lr_gamma")}
    if not found["lr_warmup_epochs"]:
        found = {key: value for key, value in found.items() if key not in ("lr_warmup_method", "lr_warmup_decay")}
    return found


@pytest.mark.parametrize(("name", "rows"), [("torchvision_original", 1), ("torchvision_enhanced", len(SOURCE))])
def test_the_first_and_the_last_recipe_are_the_sources(name: str, rows: int) -> None:
    recipe = load_recipe(name)
    assert as_theirs(recipe) == theirs(rows)
    off = {"clip_norm", "layer_decay", "drop_path_rate", "crop_padding", "randaugment", "precise_bn", "head_init_scale"}
    off |= {"sync_batchnorm", "precision"}
    assert all(getattr(recipe, key) == TrainingConfig.model_fields[key].default for key in off)


def differing(one: TrainingConfig, other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings of a recipe that are not those of another, but for rounding."""
    pairs = {key: (value, other[key]) for key, value in one.model_dump().items()}
    return {
        key: (mine, their)
        for key, (mine, their) in pairs.items()
        if not (mine == their or (isinstance(mine, float) and mine == pytest.approx(their)))
    }


def recipes_of(name: str, start: str) -> list[TrainingConfig]:
    """The recipes of a roadmap's rows, for a study that starts from a recipe."""
    values = load_recipe(start).model_dump()
    return [TrainingConfig.model_validate({**values, **row.recipe}) for row in roadmap(name).rows]


@pytest.mark.parametrize("number", range(1, len(SOURCE) + 1), ids=[name for name, _, _ in SOURCE])
def test_every_row_of_the_roadmap_is_the_sources(number: int) -> None:
    rows, recipes = roadmap("torchvision_recipe").rows, recipes_of("torchvision_recipe", "torchvision_original")
    assert len(rows) == len(SOURCE)
    label, top1, _ = SOURCE[number - 1]
    row = rows[number - 1]
    assert as_theirs(recipes[number - 1]) == theirs(number)
    assert row.printed.top1 == top1 and math.isnan(row.printed.top1_std)
    assert row.label.lower() == label.replace("ResNet50", "ResNet-50").lower()
    assert row.design == modernize.design("resnet50") and row.adopted


def test_rows_are_counted_at_the_resolution_of_evaluation() -> None:
    """As in a study's results, and as torchvision counts its network, which trains at 176 px and infers at 224."""
    for name in ("torchvision_recipe@fixres", "resnet50,recipe.image_size=176,recipe.evaluation_size=224"):
        assert "4,089,184,256" in ablations_here("count", name).stdout
    assert ablations_here("count", "--roadmap", "torchvision_recipe").stdout.count("4,089,184,256") == len(SOURCE)
    assert "2,608,132,096" in ablations_here("count", "resnet50,recipe.image_size=176").stdout


def test_a_plan_that_detects_little_says_how_many_seeds_detect_more() -> None:
    """Each row has a recipe of its own, so that no two share their noise model."""
    study = load_study("torchvision_recipe_small", {}, {})
    told = describe_power(study)
    assert told is not None and "with 3 seeds per row" in told
    (more, size) = re.findall(r"; effects are rarely so large: (\d) seeds per row would detect ([\d.]+), or", told)[0]
    assert int(more) == 4 and 3 < float(size) <= 5


def test_the_roadmaps_of_recipes_end_at_the_shipped_ones() -> None:
    assert recipes_of("torchvision_recipe", "torchvision_original")[-1] == load_recipe("torchvision_enhanced")
    assert recipes_of("paper_recipe", "paper_original")[-1] == load_recipe("paper_enhanced")
    paper, taken_apart = roadmap("resnet50"), roadmap("paper_recipe")
    assert [taken_apart.rows[0].design, taken_apart.rows[-1].design] == [row.design for row in paper.rows[:2]]
    assert [taken_apart.rows[0].printed, taken_apart.rows[-1].printed] == [row.printed for row in paper.rows[:2]]
    assert all(math.isnan(row.printed.top1) for row in taken_apart.rows[1:-1])


def test_the_small_roadmap_is_torchvisions_in_small() -> None:
    whole = recipes_of("torchvision_recipe", "torchvision_original")
    small = recipes_of("torchvision_recipe_small", "torchvision_small")
    divided = {"max_epochs": 400, "warmup_epochs": 400, "step_epochs": 400, "batch_size": 8, "learning_rate_batch": 8}
    divided |= {"learning_rate": 8, "image_size": 8, "evaluation_size": 8}
    for mine, their in zip(small, whole, strict=True):
        scaled = {
            key: value / divided[key] if key in divided and value is not None else value
            for key, value in their.model_dump().items()
        }
        scaled |= {"schedule_updates": "step"}  # of the few epochs that there are
        scaled |= {key: getattr(mine, key) for key in ("ema_decay", "ema_steps")}
        assert differing(mine, scaled) == {}
    mine, their = small[-1], whole[-1]  # the sum of the updates' weights, before they decay
    assert (1 - mine.ema_decay_per_update) * 1.5 * 468 / 8 == pytest.approx(
        (1 - their.ema_decay_per_update) * 600 * 1251 / 32, rel=0.1
    )


def test_the_papers_small_recipe_is_the_desks_with_randaugment() -> None:
    small = recipes_of("paper_recipe_small", "desk_original,max_epochs=0.45")
    desk = load_recipe("desk_enhanced,max_epochs=1.5")
    assert differing(small[-1], desk.model_dump() | {"randaugment": 9, "randaugment_std": 0.5}) == {}


# Weight decay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "swin_t", "squeezenet1_0"])
def test_norms_alone_are_exempt_as_in_torchvision(name: str) -> None:
    model = without_weights(f"torchvision:{name}")
    norms, others = split_normalization_params(model)
    groups = {group["weight_decay"]: group["params"] for group in parameter_groups(model, 0.1, None, "norms")}
    assert {id(weights) for weights in groups.get(0.0, ())} == {id(weights) for weights in norms}
    assert {id(weights) for weights in groups[0.1]} == {id(weights) for weights in others}
    (whole,) = parameter_groups(model, 0.1, None, "nothing")
    assert whole["weight_decay"] == 0.1 and len(whole["params"]) == len(list(model.parameters()))


def test_the_norms_of_our_networks_are_exempt_and_biases_decay() -> None:
    for name in ("pocket,depths=1-1,width=4", "pocket@separate-downsampling,depths=1-1,width=4,layer_scale=0.1"):
        net = modernize.build(name, num_classes=3)
        names = {id(weights): name for name, weights in net.named_parameters()}
        (exempt,) = [one["params"] for one in parameter_groups(net, 0.1, None, "norms") if not one["weight_decay"]]
        assert {names[id(weights)] for weights in exempt} == {name for name in names.values() if "norm" in name}


# The learning rate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torchvision_original", "torchvision_enhanced"])
def test_the_rate_of_every_epoch_is_torchs(name: str) -> None:
    config, per_epoch = load_recipe(name), 3
    epochs = int(config.max_epochs)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    schedule: LRScheduler
    if name == "torchvision_original":
        schedule = StepLR(optimizer, step_size=30, gamma=0.1)
    else:
        linear = LinearLR(optimizer, start_factor=0.01, total_iters=5)
        schedule = SequentialLR(optimizer, [linear, CosineAnnealingLR(optimizer, T_max=epochs - 5)], milestones=[5])
    for epoch in range(epochs):
        (expected,) = {group["lr"] for group in optimizer.param_groups}
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            assert learning_rate(config, step, per_epoch, epochs * per_epoch) == pytest.approx(expected, rel=1e-6)
        optimizer.step()
        schedule.step()


def test_warm_up_from_a_fraction_may_change_in_every_step() -> None:
    config = load_recipe("torchvision_enhanced", {"schedule_updates": "step"})
    rates = [learning_rate(config, step, 10, 6000) for step in range(51)]
    assert rates == pytest.approx([0.5 * (0.01 + 0.99 * step / 50) for step in range(51)])


# EMA ------------------------------------------------------------------------------------------------------------------


def test_the_average_is_that_of_torchvisions_training_loop() -> None:
    """`train.py`: update if i % steps == 0; while the epoch is one of the warm-up, set n_averaged to 0 afterwards."""
    per_epoch, epochs, warmup = 7, 6, 2
    recipe: dict[str, Any] = {"max_epochs": epochs, "batch_size": 16, "learning_rate": 1, "warmup_epochs": warmup}
    config = TrainingConfig(**recipe, ema_decay=0.99, ema_steps=3, ema_scaled=True)
    alpha = min(1.0, (1 - 0.99) * (16 * 3 / epochs))
    assert ema_decay(config, 0) == pytest.approx(1 - alpha) and 0 < alpha < 1
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    other = AveragedModel(net, avg_fn=lambda mean, value, n: (1 - alpha) * mean + alpha * value, use_buffers=True)
    ours = averaged_model(net)
    step = 0
    for epoch in range(epochs):
        for i in range(per_epoch):
            net(torch.randn(5, 3))
            with torch.no_grad():
                for weights in net.parameters():
                    weights.add_(torch.randn_like(weights))
            if i % 3 == 0:
                other.update_parameters(net)
                if epoch < warmup:
                    other.n_averaged.fill_(0)
            update_average(ours, net, config, step, per_epoch)
            step += 1
        for mine, expected in zip(ours.module.parameters(), other.module.parameters(), strict=True):
            torch.testing.assert_close(mine, expected)
        for buffer, expected_buffer in zip(ours.module.buffers(), other.module.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected_buffer)
    assert not torch.equal(next(ours.module.parameters()), next(net.parameters()))


def test_the_scaled_decay_of_torchvisions_recipe() -> None:
    config = load_recipe("torchvision_enhanced")
    assert 1 - config.ema_decay_per_update == pytest.approx(2e-5 * 1024 * 32 / 600)
    assert load_recipe("torchvision_enhanced", {"max_epochs": "0.1"}).ema_decay_per_update == 0


# Repeated augmentation ------------------------------------------------------------------------------------------------


def their_sampler(order: list[int], processes: int, rank: int, repetitions: int) -> list[int]:
    """A process's images in an epoch, from the shuffled order, as RASampler selects them."""
    repeated = [index for index in order for _ in range(repetitions)]
    total = math.ceil(len(order) * repetitions / processes) * processes
    repeated += repeated[: total - len(repeated)]
    return repeated[rank:total:processes][: len(order) // 256 * 256 // processes]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(256, 1500),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([8, 16, 32]),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_each_steps_images_are_those_that_torchvision_gives_its_processes(
    images: int, processes: int, each: int, repetitions: int, seed: int
) -> None:
    batch = processes * each
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).tolist()
    order = epoch_order(images, batch, repetitions, torch.Generator().manual_seed(seed))
    assert order.copies is not None
    assert len(order.indices) == images // batch * batch  # as long as without repetition
    ranks = [their_sampler(shuffled, processes, rank, repetitions) for rank in range(processes)]
    for step in range(images // 256 * 256 // batch):
        expected = Counter(index for rank in ranks for index in rank[step * each : (step + 1) * each])
        part = order.part(step * batch, (step + 1) * batch)
        assert part[1] is not None
        assert Counter(part[0].tolist()) == expected
        assert len(set(zip(part[0].tolist(), part[1].tolist(), strict=True))) == batch  # no copy twice
        if processes % repetitions == 0 and batch % repetitions == 0:  # no process has two copies
            assert all(len(set(part[0][first : first + each].tolist())) == each for first in range(0, batch, each))
        if batch % repetitions == 0 and batch > repetitions:  # Mixup pairs each image with its neighbor
            assert (part[0] != part[0].roll(1)).all()


def test_without_repetition_the_order_is_the_shuffled_one() -> None:
    order = epoch_order(100, 8, 1, torch.Generator().manual_seed(3))
    assert order.copies is None and torch.equal(
        order.indices, torch.randperm(100, generator=torch.Generator().manual_seed(3))
    )


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


@pytest.mark.parametrize("how", [{"crop_padding": 2}, {"crop_scale": (0.3, 1.0)}], ids=["in memory", "one by one"])
def test_each_copy_has_a_transform_of_its_own_and_the_first_that_of_no_copy(
    digits: DataSet, how: dict[str, Any]
) -> None:
    config = TrainingConfig(max_epochs=1, batch_size=8, learning_rate=1, image_size=8, workers=0, **how)
    feed = feeds(digits.train, digits.test, config, torch.device("cpu")).train
    assert isinstance(feed, Items) == ("crop_scale" in how)
    indices, copies = torch.tensor([5, 9] * 4), torch.arange(4).repeat_interleave(2)
    (repeated,) = feed.training([MicroBatch(0, 0, 0, indices, copies)], config, seed=1)
    pictures = {repeated.images[place].numpy().tobytes() for place in range(0, 8, 2)}
    assert len(pictures) == 4 and repeated.labels.unique_consecutive().numel() > 1
    (plain,) = feed.training([MicroBatch(0, 0, 0, indices[:2])], config, seed=1)
    assert torch.equal(plain.images, repeated.images[:2])


# Transforms -----------------------------------------------------------------------------------------------------------


def test_trivialaugment_is_torchvisions_every_operation_and_strength_alike() -> None:
    """Its results are those of torchvision's first implementation, whose 14 operations have 31 strengths each.

    Of solarize's thresholds, multiples of 17, the two implementations differ in the last bit: no value is one.
    """
    values = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(values - (values % 17 == 0) + 2 * (values == 0).astype(np.uint8))
    expected: Counter[bytes] = Counter()
    space = TrivialAugmentWide()._augmentation_space(31)
    assert len(space) == 14
    for name, (strengths, signed) in space.items():
        for strength in strengths.tolist() if strengths.ndim else [0.0] * 31:
            for sign in (1, -1):
                after = _apply_op(picture, name, strength * (sign if signed else 1), InterpolationMode.BILINEAR, None)
                expected[after.tobytes()] += 1
    transform, draws = TrivialAugment(InterpolationMode.BILINEAR), 8000
    torch.manual_seed(0)
    found = Counter(transform(picture).tobytes() for _ in range(draws))
    assert set(found) <= set(expected)
    results = list(expected)
    common = [result for result in results if expected[result] * draws / 868 >= 5]
    rest = draws - sum(found[result] for result in common)
    shares = [expected[result] / 868 for result in common]
    if rest:
        common, shares = [*common, b"rest"], [*shares, 1 - sum(shares)]
    observed = [found[result] if result in expected else rest for result in common]
    assert stats.chisquare(observed, [share * draws for share in shares]).pvalue > 1e-3


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_trivialaugment_takes_tensors_too(interpolation: str, shape: tuple[int, int, int]) -> None:
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    transform = TrivialAugment(InterpolationMode(interpolation))
    torch.manual_seed(0)
    results = [transform(images) for _ in range(100)]
    assert all(result.shape == shape and result.dtype == torch.uint8 for result in results)
    assert sum(torch.equal(result, images) for result in results) < 50


@pytest.mark.parametrize("how", [{}, {"crop_scale": (0.99, 1.0)}], ids=["in memory", "one by one"])
def test_erased_pixels_are_noise_or_zero(digits: DataSet, how: dict[str, Any]) -> None:
    recipe = {"max_epochs": 1, "batch_size": 64, "learning_rate": 1, "image_size": 8, "workers": 0, **how}
    before, noise, zero = (
        next(iter(feeds(digits.train, digits.test, made, torch.device("cpu")).train.training([part], made, 0))).images
        for made in (
            TrainingConfig(**recipe),
            TrainingConfig(**recipe, erasing=0.9),
            TrainingConfig(**recipe, erasing=0.9, erasing_fill="zero"),
        )
        for part in [MicroBatch(0, 0, 0, torch.arange(64))]
    )
    changed = (zero != before).flatten(1).any(1)
    assert 0.7 < changed.float().mean() <= 1
    assert ((zero == before) | (zero == 0)).all()
    assert (noise != before).flatten(1).any(1).float().mean() > 0.7
    assert (noise[noise != before] != 0).all()
    if not how:  # the same boxes
        assert torch.equal(noise != before, zero != before)


def test_the_resolutions_of_torchvisions_recipe_are_those_of_its_presets() -> None:
    config = load_recipe("torchvision_enhanced", {"workers": "0"})
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 251, 3), dtype=np.uint8))
    items = [(picture, 0)] * 2
    all_feeds = feeds(items, items, config, torch.device("cpu"))
    (batch,) = all_feeds.train.training([MicroBatch(0, 0, 0, torch.tensor([0]))], config, 0)
    assert batch.images.shape == (1, 3, 176, 176)
    preset = transforms.Compose(
        [
            *(transforms.Resize(232, InterpolationMode.BILINEAR), transforms.CenterCrop(224)),
            *(transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float)),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    for feed in (all_feeds.test, all_feeds.plain):
        (batch,) = feed.evaluation(torch.tensor([0]), 1)
        torch.testing.assert_close(batch.images[0], preset(picture), rtol=0, atol=1e-6)
    assert all_feeds.preprocessing is not None
    assert torch.equal(evaluation_transform(all_feeds.preprocessing)(picture), batch.images[0])


# Runs -----------------------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    **{"max_epochs": 2, "batch_size": 32, "learning_rate": 0.05, "learning_rate_batch": 32, "warmup_epochs": 0.2},
    **{"schedule_updates": "step", "crop_scale": (0.3, 1.0), "image_size": 7, "evaluation_size": 8},
    **{"ema_steps": 2, "ema_decay": 0.98, "repeated_augmentation": 4, "workers": 0},
}


def enhanced(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**load_recipe("torchvision_enhanced").model_dump(), **SMALL, **changes})


def network() -> nn.Module:
    torch.manual_seed(7)
    return modernize.build("pocket,depths=1-1,width=4,stem_stride=1", num_classes=10, in_channels=1)


@pytest.mark.parametrize("split", [{}, {"accumulation": 2}])
def test_a_run_with_torchvisions_settings_resumes_to_the_same_bits(
    digits: DataSet, tmp_path: Path, split: dict[str, Any]
) -> None:
    assert isinstance(digits.train, Split) and isinstance(digits.test, Split)
    few = digits.train.take(torch.arange(300)), digits.test.take(torch.arange(100))
    expected = Trainer(network(), *few, enhanced(**split), seed=3, device="cpu").train()
    for stop_at in (2, 11):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        first = Trainer(network(), *few, enhanced(**split), seed=3, folder=folder, device="cpu")
        first.callbacks.stopping = lambda run=first, stop_at=stop_at: run.step == stop_at  # type: ignore[misc]
        with pytest.raises(Interrupted):
            first.train()
        second = Trainer(network(), *few, enhanced(**split, workers=1), seed=3, folder=folder, device="cpu").train()
        assert second.weights_sha256 == expected.weights_sha256
        assert second.averaged and expected.averaged and second.averaged.loss == expected.averaged.loss
        assert second.averaged.loss != second.evaluation.loss


def a_run(**changes: Any) -> RunConfig:
    recipe = enhanced(max_epochs=1, **changes)
    flags = design("pocket,depths=1-1,width=4,stem_stride=1").flags()
    return RunConfig(row="r", label="r", flags=flags, recipe_name="t", recipe=recipe, data="digits", seed=0)


def test_a_result_has_the_resolution_of_evaluation_and_the_weights_that_the_recipe_reports(
    digits: DataSet, tmp_path: Path
) -> None:
    results = {}
    for weights in ("ema", "trained"):
        config, folder = a_run(evaluated_weights=weights, ema_decay=0.998, evaluation_size=10), tmp_path / weights
        folder.mkdir()
        results[weights] = execute(config, folder, digits)
        assert read_json(folder / "result.json")["image_size"] == 10
        predicted = read_predictions(folder, results[weights])
        assert predicted is not None and 100 * predicted.correct.mean() == pytest.approx(results[weights]["top1"])
    ema, trained = results["ema"], results["trained"]
    assert ema["weights_sha256"] == trained["weights_sha256"]
    assert ema["loss"] == ema["ema_loss"] == trained["ema_loss"] != trained["loss"]
    assert ema["top1"] == ema["ema_top1"] == trained["ema_top1"] and trained["top1"] == ema["trained_top1"]
    assert "trained_top1" not in trained
    assert ema["preprocessing"]["image_size"] == 10
    evaluated, trained_at = (config.cost(digits, training) for training in (False, True))
    assert evaluated.macs > trained_at.macs and ema["macs"] == evaluated.macs


def test_a_reference_of_one_image_size_is_not_evaluated_at_another(digits: DataSet) -> None:
    config = a_run(image_size=32, evaluation_size=64).model_copy(update={"reference": "torchvision:vit_b_16"})
    with pytest.raises(RequestError, match=r"evaluation_size=64: .*vit_b_16 takes images of one size, here 32"):
        config.check(replace(digits, image_size=32))


# Errors and warnings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"erasing_fill": "zero"}, "erasing_fill: only erasing uses it, and it is off"),
        ({"ema_steps": "32"}, "ema_steps: only ema_decay uses it, and it is off"),
        ({"ema_scaled": "true"}, "ema_scaled: only ema_decay uses it, and it is off"),
        ({"evaluated_weights": "ema"}, "evaluated_weights: only ema_decay uses it, and it is off"),
        ({"warmup_epochs": "0", "warmup_factor": "0.01"}, "warmup_factor: only warmup_epochs uses it, and it is off"),
        ({"warmup_factor": "1"}, "warmup_factor=1: must be less than 1"),
        ({"trivialaugment": "true", "randaugment": "9"}, "trivialaugment: randaugment is on too; set one of them to"),
        ({"ema_decay": "0.9", "ema_scaled": "true", "ema_warmup": "true"}, "ema_scaled: ema_warmup is on too; set one"),
        ({"repeated_augmentation": "0"}, "repeated_augmentation=0: must be greater than or equal to 1"),
        ({"repeated_augmentation": "129"}, "repeated_augmentation=129: .* a batch; nearest valid value: 128"),
        ({"no_weight_decay": "norm"}, "no_weight_decay='norm': must be 'biases_and_norms', 'norms' or 'nothing'"),
        ({"evaluation_size": "0"}, "evaluation_size=0: must be greater than or equal to 1"),
    ],
)
def test_settings_without_effect_or_out_of_range_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=f"^recipe quick: {message}"):
        load_recipe("quick", changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schedule_updates": "epoch"}, "schedule_updates=epoch: the learning rate changes once per epoch, of 1"),
        (
            {"repeated_augmentation": "4", "crop_padding": "0", "horizontal_flip": "false"},
            "repeated_augmentation=4: no random transform is on",
        ),
        ({"ema_decay": "0.999", "ema_steps": "32"}, "ema_decay=0.999: after 468 steps, 99% .* of the first update"),
        ({"ema_decay": "0.99998", "ema_steps": "32", "ema_scaled": "true"}, ".* first update; set ema_steps=1"),
    ],
)
def test_settings_that_make_no_sense_for_a_budget_are_warned_of(changes: dict[str, str], said: str) -> None:
    (warning,) = doubts(load_recipe("quick", changes), Facts(60_000, 10_000, 10, 28))
    assert re.match(said, warning), warning


def test_images_as_float_tensors_are_not_augmented(digits: DataSet) -> None:
    floats = [(torch.rand(1, 8, 8), 0)] * 64
    for changes in ({"trivialaugment": True}, {"evaluation_size": 9}):
        config = TrainingConfig(max_epochs=1, batch_size=2, learning_rate=1, **changes)
        with pytest.raises(ValueError, match=f"^{next(iter(changes))}: the dataset's images are float tensors"):
            feeds(floats, floats, config, torch.device("cpu"))


def test_a_folder_older_than_the_settings_has_them_off() -> None:
    recipe = load_recipe("torchvision_enhanced")
    stored = recipe.model_dump(mode="json")
    newer = {"no_weight_decay", "schedule_updates", "warmup_factor", "evaluation_size", "trivialaugment"}
    newer |= {"erasing_fill", "repeated_augmentation", "ema_steps", "ema_scaled", "evaluated_weights"}
    older = TrainingConfig.model_validate({key: value for key, value in stored.items() if key not in newer})
    opened = without_newer(recipe, [older])
    assert all(getattr(opened, key) == TrainingConfig.model_fields[key].default for key in newer)
    assert opened == older


def test_the_estimate_of_a_dry_run_has_the_transforms_of_single_images(
    digits: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(jobs=1, threads=1, devices=("cpu",))
    slow = a_run()
    assert 0 < seconds_to_prepare(slow, digits, machine) < 0.1
    fast = slow.model_copy(update={"recipe": load_recipe("quick", {"batch_size": "32", "image_size": "8"})})
    assert seconds_to_prepare(fast, digits, machine) == 0
    monkeypatch.setattr("ablations.launch.estimate.images_per_second", lambda *_: 100.0)
    monkeypatch.setattr("ablations.launch.estimate.seconds_to_prepare", lambda *_: 0.04)
    study = load_study(
        "recipes", {"base": "pocket,width=4", "data": "digits", "recipes": ["quick", "desk_original"], "seeds": [0]}, {}
    )
    images = sum(run.images(digits) for run in study.runs)
    said = describe_plan(Session(study, tmp_path / "study", tmp_path, lambda _: digits), machine)
    evaluated = [after_training(run, len(digits.train), len(digits.test)) for run in study.runs]
    evaluation = sum(evaluated) * 0.01 + len(study.runs) * len(digits.test) * 0.04
    assert f"about {clock(images * 0.05 + evaluation)} with" in said and "and of transforms of single images)" in said


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("torchvision_recipe", "torchvision_original"),
        ("torchvision_recipe_small", "torchvision_small"),
        ("paper_recipe", "paper_original"),
        ("paper_recipe_small", "desk_original,max_epochs=0.45"),
    ],
)
def test_a_shipped_study_trains_the_recipes_of_its_roadmap(name: str, start: str) -> None:
    study = load_study(name, {}, {})
    assert [row.row for row in study.rows] == [row.name for row in roadmap(name).rows]
    for row, expected in zip(study.rows, recipes_of(name, start), strict=True):
        assert differing(study.recipes[row.recipe], expected.model_dump()) == {}
    facts = Facts(60_000, 10_000, 10, 28) if name.endswith("small") else Facts(1_281_167, 50_000, 1000)
    assert not any(row.same_as for row in study.rows) and len({run.name for run in study.runs}) == 3 * len(study.rows)
    assert {row.row: said for row in study.rows if (said := doubts(study.recipes[row.recipe], facts))} == {}
