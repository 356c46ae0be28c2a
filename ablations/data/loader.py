"""Images prepared one by one in worker processes: the same samples in the same order, however many there are."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ablations.data.batches import Batch, Batches, Damaged, Part, mean_and_std
from ablations.data.datasets import Split
from ablations.data.image_files import DamagedImageError, ImageFiles
from ablations.recipes import TrainingConfig
from ablations.seeding import seed_of, seeded


class MapStyle(Protocol):
    """What torch calls a map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Prepared(Dataset):
    """A data set asked for (index, seed): the item, its image transformed, all chance in it drawn from the seed."""

    def __init__(self, items: MapStyle, transform: Callable[[Any], Tensor]):
        self.items, self.transform = items, transform

    def __getitem__(self, draw: tuple[int, int]) -> tuple[int, Tensor, int] | Damaged:
        index, seed = draw
        with seeded(seed):
            try:
                image, label = self.items[index]
            except DamagedImageError as error:
                return Damaged(index, str(error))
            return index, self.transform(image), int(label)


class Items:
    """Batches of a map-style data set, its items loaded and transformed in worker processes.

    The workers live as long as an iterator does; one goes through all epochs of training.
    """

    def __init__(self, items: MapStyle, transform: Callable[[Any], Tensor], workers: int, device: torch.device):
        self.items, self.transform, self.workers, self.device = items, transform, workers, device

    def __len__(self) -> int:
        return len(self.items)

    def training(self, parts: Iterable[Part], config: TrainingConfig, seed: int) -> Iterator[Batch]:
        """Each part's images and labels; what is drawn for an image follows from seed, epoch and index."""
        return self._batches(
            [(index, seed_of(seed, "image", part.epoch, index)) for index in part.indices.tolist()] for part in parts
        )

    def evaluation(self, indices: Tensor, most: int) -> Iterator[Batch]:
        """The images of these indices, at most so many at once."""
        return self._batches([(index, 0) for index in chosen.tolist()] for chosen in indices.split(most))

    def _batches(self, draws: Iterable[list[tuple[int, int]]]) -> Iterator[Batch]:
        loader = DataLoader(
            Prepared(self.items, self.transform),
            batch_sampler=draws,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_begin_worker,
        )
        return iter(loader)


Feed = Batches | Items


def collate(samples: Sequence[tuple[int, Tensor, int] | Damaged]) -> Batch:
    """The whole images of a part as one batch."""
    whole = [sample for sample in samples if not isinstance(sample, Damaged)]
    images = torch.stack([image for _, image, _ in whole]) if whole else torch.empty(0)
    labels = torch.tensor([label for _, _, label in whole], dtype=torch.int64)
    indices = torch.tensor([index for index, _, _ in whole], dtype=torch.int64)
    return Batch(images, labels, indices, tuple(sample for sample in samples if isinstance(sample, Damaged)))


def _begin_worker(worker: int) -> None:
    """Ctrl-C reaches the whole terminal, SIGTERM of torchrun or Slurm all processes of a run: the run ends its workers.

    It has a checkpoint to write first, and could not once one of them is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def feeds(train: MapStyle, test: MapStyle, config: TrainingConfig, device: torch.device) -> tuple[Feed, Feed]:
    """Where batches of two data sets come from, as the recipe prepares them.

    Images in memory go in whole batches where the recipe allows; PIL and uint8 images one by one; tensors of floats are
    taken as they come. Raises ValueError where the recipe asks for what cannot be done with them.
    """
    if isinstance(train, Split) and isinstance(test, Split) and not config.image_by_image:
        mean, std = mean_and_std(train)
        return Batches(train, mean, std, device, config.crop_padding), Batches(test, mean, std, device)
    workers = config.workers
    if workers is None:
        workers = torch.get_num_threads() if device.type == "cuda" else 0
    if not isinstance(train, (Split, ImageFiles)) and _is_prepared(train):
        asked = [name for name in _OF_IMAGES if getattr(config, name) != TrainingConfig.model_fields[name].default]
        if asked:
            raise ValueError(f"{asked[0]}: the data set's images are tensors of floats, prepared already; leave it out")
        return Items(train, _as_it_is, workers, device), Items(test, _as_it_is, workers, device)
    from ablations.data.transforms import evaluation_transform, training_transform

    size, (mean, std) = _size(train, config), _normalisation(train)
    train_items = Items(train, training_transform(config, size, mean, std), workers, device)
    return train_items, Items(test, evaluation_transform(config, size, mean, std), workers, device)


# What a recipe does to single images.
_OF_IMAGES = (
    "crop_padding",
    "crop_scale",
    "evaluation_crop",
    "horizontal_flip",
    "randaugment",
    "erasing",
    "image_size",
    "interpolation",
)


def _is_prepared(items: MapStyle) -> bool:
    image, _ = items[0]
    if not isinstance(image, (Tensor, Image)):
        raise ValueError(f"the data set's images are {type(image).__name__}s; they must be PIL images or torch tensors")
    return isinstance(image, Tensor) and image.is_floating_point()


def _as_it_is(image: Tensor) -> Tensor:
    return image


def _size(items: MapStyle, config: TrainingConfig) -> int:
    """The side of the images that a network sees."""
    if config.image_size is not None:
        return config.image_size
    if isinstance(items, Split):
        return items.images.shape[1]
    raise ValueError("image_size is missing: images prepared one by one need it; such as image_size=224")


def _normalisation(items: MapStyle) -> tuple[Any, Any]:
    """Mean and standard deviation, a channel each: the split's own where it is in memory, else ImageNet's or 0.5."""
    if isinstance(items, Split):
        mean, std = mean_and_std(items)
        return mean / 255, std / 255
    from torchvision.transforms.v2.functional import get_num_channels

    from ablations.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    channels = 3 if isinstance(items, ImageFiles) else get_num_channels(items[0][0])
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
