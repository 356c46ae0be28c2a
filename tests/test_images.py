"""Image transforms: RandAugment equals timm's, crops and evaluation equal torchvision's, noise is per pixel."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats
from timm.data import auto_augment
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from ablations.data.batches import Batches, MicroBatch
from ablations.data.datasets import Split
from ablations.data.preprocessing import evaluation_steps
from ablations.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPERATIONS_BY_NAME,
    RandAugment,
    evaluation_transform,
    training_transform,
)
from ablations.recipes import TrainingConfig, load_recipe
from ablations.seeding import seeded

# Our operations and timm's of the "increasing" RandAugment.
TIMMS = {
    "auto contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear x": "ShearX",
    "shear y": "ShearY",
    "move x": "TranslateXRel",
    "move y": "TranslateYRel",
}
AROUND = ("rotate", "shear x", "shear y", "move x", "move y")  # these interpolate, or bring in what is outside
FILL = [124, 116, 104]


def recipe(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 1, "batch_size": 2, "learning_rate": 0.1, "image_size": 32, **changes})


def photograph(width: int = 61, height: int = 47, mode: str = "RGB") -> Image.Image:
    """Make an image of smooth shapes and some noise, which interpolation changes little."""
    chance = np.random.default_rng(3)
    noise = Image.fromarray(chance.integers(0, 256, (height, width, 3), dtype=np.uint8))
    smooth = np.asarray(noise.filter(ImageFilter.GaussianBlur(4)), dtype=float)
    stretched = (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 240 + 7
    return Image.fromarray(stretched.astype(np.uint8)).convert(mode)


def pixels(image: Any) -> np.ndarray:
    """Return an image as int32 (H, W, C)."""
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).numpy()
    found = np.asarray(image).astype(np.int32)
    return found if found.ndim == 3 else found[:, :, None]


# RandAugment ---------------------------------------------------------------------------------------------------------


def test_the_operations_are_those_of_timms_increasing_policy() -> None:
    assert list(TIMMS) == list(OPERATIONS_BY_NAME)
    assert list(TIMMS.values()) == auto_augment._RAND_INCREASING_TRANSFORMS


@pytest.mark.parametrize("level", [0, 1, 4.5, 8.7, 9, 9.3, 10])
@pytest.mark.parametrize("name", TIMMS)
def test_an_operations_strength_at_a_level_is_timms(name: str, level: float) -> None:
    operation, timms = OPERATIONS_BY_NAME[name], auto_augment.LEVEL_TO_ARG[TIMMS[name]]
    strength = operation.strength(level / 10)
    if timms is None:
        assert strength is None
        return
    random.seed(0)
    wanted = {timms(level, {})[0] for _ in range(40)}  # the sign is drawn within
    signs = (1, -1) if operation.either_way else (1,)
    if name in ("color", "contrast", "brightness", "sharpness"):
        ours = {max(0.1, 1 + sign * strength) for sign in signs}
    else:
        ours = {sign * strength for sign in signs}
    assert sorted(ours) == pytest.approx(sorted(wanted), abs=1e-12)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("level", [0, 3, 9, 10])
@pytest.mark.parametrize("name", TIMMS)
def test_an_operation_does_to_an_image_what_timms_does(name: str, level: float, mode: str) -> None:
    image = photograph(mode=mode)
    fill = FILL if mode == "RGB" else FILL[:1]
    operation = OPERATIONS_BY_NAME[name]
    timms: Any = auto_augment.NAME_TO_OP[TIMMS[name]]
    strength = operation.strength(level / 10)
    for sign in (1, -1) if operation.either_way else (1,):
        signed = None if strength is None else sign * strength
        found = pixels(operation.apply(image, signed, RandAugment(9, 0.5, fill)))
        argument: tuple[Any, ...] = () if signed is None else (signed,)
        if name in ("color", "contrast", "brightness", "sharpness"):
            argument = (max(0.1, 1 + sign * strength),)
        if name == "rotate" or name.startswith("move"):  # to the other side, which the drawn sign makes the same
            argument = (-strength * sign,)
        colour = tuple(fill) if mode == "RGB" else fill[0]
        if name == "posterize" and signed == 0:  # timm leaves it to Pillow, which now refuses it
            assert not found.any()
            continue
        wanted = pixels(timms(image, *argument, fillcolor=colour, resample=Image.Resampling.BILINEAR))
        if name in AROUND:
            near = np.abs(found - wanted).max(-1) <= 12  # of half a pixel, where it may be rounded
            assert near.mean() > 0.95, f"{name} {signed}: {near.mean():.2f} of the pixels are as timm's"
        else:
            assert np.abs(found - wanted).max() <= 1, f"{name} {signed}"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("level", [0, 3, 9, 10])
@pytest.mark.parametrize("name", TIMMS)
def test_an_operation_does_to_a_tensor_what_it_does_to_the_image(name: str, level: float, channels: int) -> None:
    """Images in memory are uint8 tensors."""
    image = photograph(mode="RGB" if channels == 3 else "L")
    tensor = torch.from_numpy(pixels(image).astype(np.uint8)).permute(2, 0, 1)
    operation, chosen = OPERATIONS_BY_NAME[name], RandAugment(9, 0.5, FILL[:channels])
    strength = operation.strength(level / 10)
    found, wanted = (operation.apply(one, strength, chosen) for one in (tensor, image))
    assert found.dtype == torch.uint8 and found.shape == tensor.shape
    near = np.abs(pixels(found) - pixels(wanted)).max(-1) <= (16 if name in AROUND else 2)
    # torchvision's sharpening of tensors leaves out other pixels at the rim than PIL's
    assert near.mean() > 0.9 if name in (*AROUND, "sharpness") else near.all()


def test_pixels_from_outside_the_image_have_the_mean_color() -> None:
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    for name in AROUND:
        operation = OPERATIONS_BY_NAME[name]
        found = pixels(operation.apply(white, operation.strength(1.0), RandAugment(9, 0.5, FILL)))
        assert (found == FILL).all(-1).any(), name


def drawn(policy: Any, monkeypatch: pytest.MonkeyPatch, images: int) -> list[list[tuple[str, Any]]]:
    """Record the operations applied to each image and their strengths."""
    applied: list[tuple[str, Any]] = []
    for name, operation in OPERATIONS_BY_NAME.items():

        def note(image: Any, strength: Any, _: Any, name: str = name) -> Any:
            applied.append((name, strength))
            return image

        changed = type(operation)(note, operation.strength, operation.either_way)
        monkeypatch.setitem(OPERATIONS_BY_NAME, name, changed)
    found = []
    with seeded(1):
        for _ in range(images):
            applied.clear()
            policy(None)
            found.append(list(applied))
    return found


def test_two_operations_are_sampled_and_each_is_applied_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    images = 4000
    found = drawn(RandAugment(9, 0.5, FILL), monkeypatch, images)
    counts = Counter(len(one) for one in found)
    assert set(counts) == {0, 1, 2}
    for count, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert abs(counts[count] - share * images) < 5 * (images * share * (1 - share)) ** 0.5
    each = Counter(name for one in found for name, _ in one)
    assert set(each) == set(OPERATIONS_BY_NAME)
    assert stats.chisquare(list(each.values())).pvalue > 1e-4  # all fifteen as often
    assert any(one[0][0] == one[1][0] for one in found if len(one) == 2)  # with replacement, as timm's


def test_the_magnitude_has_mean_9_standard_deviation_0_5_and_maximum_10(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotation is 3 degrees per level to either side; each operation has its own magnitude."""
    settings = load_recipe("paper_enhanced")
    assert settings.randaugment is not None and settings.randaugment_std is not None
    found = drawn(RandAugment(settings.randaugment, settings.randaugment_std, FILL), monkeypatch, 12_000)
    turns = np.array([by for one in found for name, by in one if name == "rotate"]) / 3
    levels = np.abs(turns)
    assert abs((turns > 0).mean() - 0.5) < 5 * (0.25 / len(turns)) ** 0.5
    assert levels.max() == pytest.approx(10, abs=1e-5) and levels.min() > 6
    # below the cut at 10 it is normal: of the whole, 2.3 in a hundred are above
    below = levels[levels < 9.999]
    assert stats.kstest(below, stats.truncnorm(-18, 2, 9, 0.5).cdf).pvalue > 1e-4
    assert abs((levels >= 9.999).mean() - stats.norm.sf(2)) < 5 * (0.0228 / len(levels)) ** 0.5
    both = [(a[1], b[1]) for a, b in (one for one in found if len(one) == 2) if a[0] == b[0] == "rotate"]
    assert both and all(abs(one) != abs(other) for one, other in both if abs(one) < 29.99)


def test_probability_spread_and_number_of_operations_are_those_of_timms_policy() -> None:
    timms = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": tuple(FILL)})
    assert [op.prob for op in timms.ops] == [0.5] * 15 and timms.num_layers == 2
    assert all((op.magnitude, op.magnitude_std) == (9, 0.5) for op in timms.ops)


def test_without_standard_deviation_the_magnitude_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    found = drawn(RandAugment(5, 0.0, FILL), monkeypatch, 400)
    assert {abs(by) for one in found for name, by in one if name == "rotate"} == {15.0}
    assert {by for one in found for name, by in one if name == "posterize"} == {2}


# Crops, the evaluation -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 400), (500, 256), (256, 256), (120, 90)])
@pytest.mark.parametrize("name", ["paper_enhanced", "paper_original"])
def test_evaluation_is_torchvisions_resize_256_and_center_crop_224_pixel_for_pixel(
    name: str, size: tuple[int, int]
) -> None:
    smooth = transforms.InterpolationMode.BICUBIC if name == "paper_enhanced" else transforms.InterpolationMode.BILINEAR
    plain = transforms.Compose(
        [
            transforms.Resize(256, smooth),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    image = photograph(*size)
    found = evaluation_transform(evaluation_steps(load_recipe(name), 224, IMAGENET_MEAN, IMAGENET_STD))(image)
    torch.testing.assert_close(found, plain(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_random_resized_crop_is_torchvisions_with_the_same_seed(interpolation: str) -> None:
    image = photograph(90, 70)
    ours = training_transform(
        recipe(crop_scale=[0.3, 0.6], interpolation=interpolation), 32, IMAGENET_MEAN, IMAGENET_STD
    )
    smooth = transforms.InterpolationMode(interpolation)
    for seed in range(5):
        with seeded(seed):
            found = ours(image)
        with seeded(seed):
            place = transforms.RandomResizedCrop.get_params(image, [0.3, 0.6], [3 / 4, 4 / 3])
        top, left, height, width = place
        crop = image.crop((left, top, left + width, top + height))
        resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
        wanted = np.asarray(crop.resize((32, 32), resample), dtype=np.float64) / 255
        wanted = ((wanted - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
        assert smooth.value == interpolation
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_the_crops_areas_are_within_the_recipes_scale() -> None:
    """Infer crops from an image whose pixels contain their column and row; crops need not be square."""
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.fromarray(np.stack([columns, rows, columns * 0], -1).astype(np.uint8))
    settings = load_recipe("paper_enhanced", {"randaugment": "null", "randaugment_std": "null", "erasing": "0"})
    ours = training_transform(settings, 64, (0, 0, 0), (1, 1, 1))
    areas, mirrored, ratios = [], 0, []
    with seeded(0):
        for _ in range(600):
            across, down = (ours(image) * 255)[:2]
            mirrored += bool(across[0, 0] > across[0, -1])
            width = (across.max() - across.min()).item() + 1
            height = (down.max() - down.min()).item() + 1
            areas.append(width * height / 256**2)
            ratios.append(width / height)
    assert 0.07 < min(areas) < 0.1 and 0.95 < max(areas) <= 1.0
    assert 0.72 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.4
    with seeded(1):
        places = [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    assert abs(np.mean(areas) - np.mean([height * width for _, _, height, width in places]) / 256**2) < 0.05
    assert abs(mirrored - 300) < 5 * 150**0.5


def test_padded_crops_of_single_images_are_the_images_shifted() -> None:
    image = photograph(32, 32)
    plain = training_transform(recipe(crop_padding=2), 32, (0,) * 3, (1,) * 3)
    padded = np.pad(pixels(image), ((2, 2), (2, 2), (0, 0)))
    seen = set()
    with seeded(0):
        for _ in range(80):
            found = pixels((plain(image) * 255).round())
            places = [
                (top, left)
                for top in range(5)
                for left in range(5)
                if np.array_equal(padded[top : top + 32, left : left + 32], found)
            ]
            assert places
            seen |= set(places)
    assert len(seen) > 20


# Random erasing ------------------------------------------------------------------------------------------------------


def boxes(images: Tensor) -> list[tuple[float, float] | None]:
    """Return area and ratio (height / width) of each image's nonzero rectangle; None if there is none."""
    found: list[tuple[float, float] | None] = []
    for image in images:
        rows, columns = (image != 0).any(0).nonzero(as_tuple=True)
        if not len(rows):
            found.append(None)
            continue
        height, width = int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1
        assert len(rows) == height * width  # a whole rectangle, in all channels
        found.append((height * width / image[0].numel(), height / width))
    return found


def erased_in_batches(count: int, size: int, share: float) -> Tensor:
    """Erase gray images, which are 0 after normalization."""
    split = Split(torch.full((1, size, size, 3), 128, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    held = Batches(split, torch.full((3,), 128.0), torch.full((3,), 64.0), torch.device("cpu"))
    config = recipe(batch_size=count, erasing=share, image_size=size)
    return held.augmented(MicroBatch(0, 0, 0, torch.zeros(count, dtype=torch.int64)), config, seed=4)[0]


def erased_one_by_one(count: int, size: int, share: float) -> Tensor:
    grey = Image.new("RGB", (size, size), (102, 102, 102))
    ours = training_transform(recipe(erasing=share, image_size=size), size, (0.4,) * 3, (0.2,) * 3)
    with seeded(5):
        images = torch.stack([ours(grey) for _ in range(count)])
    return torch.where(images.abs() < 1e-5, 0.0, images)


@pytest.mark.parametrize("way", [erased_in_batches, erased_one_by_one])
def test_a_quarter_of_the_images_has_a_rectangle_of_normal_noise(way: Any) -> None:
    count = 1600
    images = way(count, 32, 0.25)
    found = boxes(images)
    erased = sum(box is not None for box in found)
    assert abs(erased - count / 4) < 5 * (count * 3 / 16) ** 0.5
    noise = images[images != 0]  # a draw for each pixel and channel, after the normalisation: of deviation 1
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert stats.kstest(noise[:: len(noise) // 5000].numpy(), "norm").pvalue > 1e-4
    assert len(noise.unique()) > 0.95 * len(noise)


def test_rectangles_of_batches_are_torchvisions_in_distribution() -> None:
    batched = [box for box in boxes(erased_in_batches(1500, 48, 0.999)) if box]
    plain = v2.RandomErasing(1.0, scale=(0.02, 0.33), ratio=(0.3, 3.3), value="random")
    with seeded(6):
        single = [box for box in boxes(torch.stack([plain(torch.zeros(3, 48, 48)) for _ in range(1500)])) if box]
    for mine, theirs in zip(zip(*batched, strict=True), zip(*single, strict=True), strict=True):
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
    assert min(area for area, _ in batched) < 0.025 and 0.3 < max(area for area, _ in batched) < 0.35


def test_erasing_does_not_change_crop_and_flip() -> None:
    chance = torch.Generator().manual_seed(0)
    split = Split(torch.randint(256, (64, 16, 16, 3), generator=chance, dtype=torch.uint8), torch.arange(64))
    held = Batches(split, torch.full((3,), 100.0), torch.full((3,), 50.0), torch.device("cpu"), 2)
    part = MicroBatch(0, 0, 0, torch.arange(64))
    with_it, without = (
        held.augmented(part, recipe(batch_size=64, erasing=share, horizontal_flip=True, crop_padding=2), 0)[0]
        for share in (0.5, 0.0)
    )
    changed = (with_it != without).flatten(1).any(1)
    assert 16 < changed.sum() < 48
    assert torch.equal(with_it[~changed], without[~changed])


def test_a_recipe_without_augmentation_does_not_change_an_image() -> None:
    image = photograph(32, 32)
    found = training_transform(recipe(), 32, (0, 0, 0), (1, 1, 1))(image)
    np.testing.assert_array_equal(pixels((found * 255).round()), pixels(image))


def test_the_papers_transforms_give_normalized_floats(tmp_path: Path) -> None:
    photograph(300, 260).save(tmp_path / "one.jpg")
    ours = training_transform(load_recipe("paper_enhanced"), 224, IMAGENET_MEAN, IMAGENET_STD)
    with Image.open(tmp_path / "one.jpg") as image:
        with seeded(3):
            one = ours(image)
        with seeded(3):
            again = ours(image)
        with seeded(4):
            other = ours(image)
    assert (one.shape, one.dtype) == ((3, 224, 224), torch.float32)
    assert torch.equal(one, again) and not torch.equal(one, other)
