"""Whole-batch augmentation equals torchvision's image by image; mean and standard deviation equal NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import functional as transforms

from ablations.data.batches import Batches, MicroBatch, mean_and_std
from ablations.data.datasets import Split
from ablations.recipes import TrainingConfig

CPU = torch.device("cpu")


def noise(count: int, size: int, channels: int, seed: int = 0) -> Split:
    """Noise images, whose labels are their indices."""
    chance = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, size, size, channels), generator=chance, dtype=torch.uint8)
    return Split(images, torch.arange(count))


def batches(split: Split, padding: int = 0, mean: float = 0.0, std: float = 1.0) -> Batches:
    channels = split.images.shape[-1]
    return Batches(split, torch.full((channels,), mean), torch.full((channels,), std), CPU, padding)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augmented(held: Batches, indices: Tensor, flip: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Augment one batch of these images."""
    recipe = TrainingConfig(max_epochs=1, batch_size=max(len(indices), 2), learning_rate=0.1, horizontal_flip=flip)
    return held.augmented(MicroBatch(epoch=0, position=0, first=0, indices=indices), recipe, seed)


def draws(count: int, size: int, padding: int, indices: Tensor, flip: bool, seed: int) -> list[tuple[int, int, bool]]:
    """Infer each image's crop and flip from images whose pixels contain their row and column."""
    places = torch.arange(1, size + 1, dtype=torch.uint8)
    coordinates = torch.stack(torch.meshgrid(places, places, indexing="ij"), dim=-1).expand(count, -1, -1, -1)
    split = Split(coordinates.contiguous(), torch.arange(count))
    images = augmented(batches(split, padding), indices, flip, seed)[0].int()
    found = []
    for rows, columns in images:
        mirrored = bool((columns[columns > 0].unique().numel() > 1) and _falls(columns))
        middle = size // 2
        column = size - 1 - middle if mirrored else middle
        top = int(rows[middle, column]) - 1 - middle + padding
        left = int(columns[middle, column]) - 1 - (size - 1 - column if mirrored else column) + padding
        found.append((top, left, mirrored))
    return found


def _falls(columns: Tensor) -> bool:
    """Whether columns count from the right; padding is 0."""
    row = columns[len(columns) // 2]
    kept = row[row > 0]
    return bool(kept[0] > kept[-1])


def reference(image: Tensor, top: int, left: int, mirrored: bool, padding: int) -> Tensor:
    """Pad, crop and flip one image (H, W, C) by torchvision; return it as (C, H, W)."""
    size = image.shape[0]
    cropped = transforms.crop(transforms.pad(image.permute(2, 0, 1), [padding]), top, left, size, size)
    return transforms.hflip(cropped) if mirrored else cropped


@given(
    size=st.integers(5, 12),
    padding=st.integers(0, 2),
    channels=st.sampled_from([1, 2, 3]),
    flip=st.booleans(),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_augmented_is_torchvisions_crop_and_flip_of_each_image(
    size: int, padding: int, channels: int, flip: bool, seed: int, count: int
) -> None:
    split = noise(20, size, channels)
    indices = torch.randint(20, (count,), generator=seeded(seed + 1))
    drawn = draws(20, size, padding, indices, flip, seed)
    assert all(0 <= top <= 2 * padding and 0 <= left <= 2 * padding for top, left, _ in drawn)
    assert flip or not any(mirrored for _, _, mirrored in drawn)
    images, labels = augmented(batches(split, padding), indices, flip, seed)
    wanted = [reference(split.images[index], *draw, padding) for index, draw in zip(indices, drawn, strict=True)]
    assert torch.equal(images, torch.stack(wanted).float())
    assert labels.tolist() == indices.tolist()


def test_each_image_is_sampled_independently_and_all_crops_occur() -> None:
    padding, count = 2, 5_000
    indices = torch.zeros(count, dtype=torch.int64)
    drawn = draws(1, 6, padding, indices, True, seed=0)
    cells, counts = np.unique(np.array(drawn, dtype=int), axis=0, return_counts=True)
    assert len(cells) == 5 * 5 * 2  # every offset, mirrored or not
    expected = count / 50
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 49 + 5 * (2 * 49) ** 0.5
    numbers = np.array([top * 10 + left * 2 + mirrored for top, left, mirrored in drawn])
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.08  # an image's draw says nothing of the next one's


def test_half_of_the_images_are_flipped() -> None:
    count = 40_000
    split = Split(torch.tensor([[0, 1], [0, 1]], dtype=torch.uint8).reshape(1, 2, 2, 1), torch.tensor([0]))
    images, _ = augmented(batches(split), torch.zeros(count, dtype=torch.int64), True, 0)
    assert abs(int(images[:, 0, 0, 0].sum()) - count / 2) < 5 * (count / 4) ** 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_without_padding_and_flip_it_is_the_identity(channels: int) -> None:
    split = noise(12, 7, channels)
    indices = torch.randperm(12, generator=seeded(1))
    held = batches(split, mean=120.0, std=60.0)
    plain, labels = held.plain(indices)
    same, same_labels = augmented(held, indices, False, 0)
    assert torch.equal(plain, same)
    assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_unaugmented_images_do_not_depend_on_the_padding(padding: int) -> None:
    split = noise(50, 9, 3)
    mean, std = mean_and_std(split)
    indices = torch.tensor([4, 4, 0, 49])
    images, labels = Batches(split, mean, std, CPU, padding).plain(indices)
    wanted = (split.images[indices].double() - mean.double()) / std.double()
    torch.testing.assert_close(images.double(), wanted.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    assert labels.tolist() == [4, 4, 0, 49]
    assert len(Batches(split, mean, std, CPU, padding)) == 50


def test_padding_is_black_before_normalization() -> None:
    split = Split(torch.full((40, 4, 4, 1), 200, dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    images, _ = augmented(batches(split, 2, mean=100.0, std=50.0), torch.arange(40), False, 0)
    assert images.unique().tolist() == pytest.approx([-2.0, 2.0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_batches_are_channels_last_floats(channels: int, padding: int) -> None:
    held = batches(noise(8, 6, channels), padding)
    for images in (held.plain(torch.arange(5))[0], augmented(held, torch.arange(5), True, 0)[0]):
        assert images.shape == (5, channels, 6, 6)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert images.stride()[1:] == (1, 6 * channels, channels)


def test_augmentation_depends_on_the_seed_alone() -> None:
    held = batches(noise(64, 8, 3), 2)
    indices = torch.arange(64)
    torch.manual_seed(0)
    one = augmented(held, indices, True, 5)[0]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(augmented(held, indices, True, 5)[0], one)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(augmented(held, indices, True, 6)[0], one)


def test_flipping_does_not_change_the_crop() -> None:
    indices = torch.arange(30)
    with_flip, without = (draws(30, 9, 2, indices, flip, seed=3) for flip in (True, False))
    assert [draw[:2] for draw in with_flip] == [draw[:2] for draw in without]


def test_the_split_is_not_modified() -> None:
    split = noise(10, 6, 3)
    before = split.images.clone()
    images, _ = augmented(batches(split), torch.arange(10), True, 0)
    images.zero_()
    assert torch.equal(split.images, before)


# Mean and standard deviation -----------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32), st.integers(2, 256))
@settings(max_examples=60, deadline=None)
def test_mean_and_std_are_numpys(count: int, size: int, channels: int, seed: int, values: int) -> None:
    pixels = np.random.default_rng(seed).integers(256 - values, 256, (count, size, size, channels), dtype=np.uint8)
    mean, std = mean_and_std(Split(torch.tensor(pixels), torch.zeros(count, dtype=torch.int64)))
    assert (mean.shape, std.shape) == ((channels,), (channels,))
    assert (mean.dtype, std.dtype) == (torch.float32, torch.float32)
    exact = pixels.astype(np.float64)
    wanted = exact.std((0, 1, 2))
    np.testing.assert_allclose(mean.numpy(), exact.mean((0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(std.numpy(), np.where(wanted == 0, 1, wanted), rtol=1e-7, atol=1e-12)


def test_the_mean_is_exact_where_float_sums_are_not() -> None:
    """Summed in 32-bit floats, 255 · 3·10⁶ would be off in the fourth digit or so."""
    pixels = torch.full((300, 100, 100, 1), 255, dtype=torch.uint8)
    pixels[0, 0, 0, 0] = 254
    mean, std = mean_and_std(Split(pixels, torch.zeros(300, dtype=torch.int64)))
    share = 1 / 3_000_000
    assert mean.item() == np.float32(255 - share)
    assert std.item() == pytest.approx((share * (1 - share)) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("value", [0, 3, 128, 255])
def test_a_constant_channel_has_standard_deviation_1(value: int) -> None:
    """Divided by almost 0, the padding around it would be in the millions."""
    split = noise(10, 6, 2)
    split.images[..., 1] = value
    mean, std = mean_and_std(split)
    assert (mean[1].item(), std[1].item()) == (value, 1.0)
    held = Batches(split, mean, std, CPU, 2)
    assert (held.plain(torch.arange(10))[0][:, 1] == 0).all()
    assert augmented(held, torch.arange(10), True, 0)[0].abs().max() <= 255
