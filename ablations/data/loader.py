"""Choose how a dataset becomes batches; prepare images one by one in worker processes.

Samples and their order do not depend on the number of workers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ablations.data.batches import Batch, Batches, Damaged, MicroBatch, mean_and_std
from ablations.data.datasets import Split
from ablations.data.decode import DamagedImageError
from ablations.data.image_files import ImageFiles
from ablations.recipes import TrainingConfig
from ablations.seeding import seed_of, seeded


class MapStyle(Protocol):
    """A map-style dataset: `len(dataset)`, and `dataset[index]` as (image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Prepared(Dataset):
    """A dataset indexed by (index, seed): loads and transforms an item, all random numbers derived from the seed."""

    def __init__(self, items: MapStyle, transform: Callable[[Any], Tensor]):
        self.items, self.transform = items, transform

    def __getitem__(self, index_and_seed: tuple[int, int]) -> tuple[int, Tensor, int] | Damaged:
        index, seed = index_and_seed
        with seeded(seed):
            try:
                image, label = self.items[index]
            except DamagedImageError as error:
                return Damaged(index, str(error))
            return index, self.transform(image), int(label)


class Items:
    """Batches of a map-style dataset whose items are loaded and transformed in worker processes.

    The workers live as long as an iterator; a single one runs through all epochs of training.
    """

    def __init__(self, items: MapStyle, transform: Callable[[Any], Tensor], workers: int, device: torch.device):
        self.items, self.transform, self.workers, self.device = items, transform, workers, device

    def __len__(self) -> int:
        return len(self.items)

    def training(self, micro_batches: Iterable[MicroBatch], config: TrainingConfig, seed: int) -> Iterator[Batch]:
        """Yield each micro-batch's images and labels; an image's seed depends on seed, epoch and index alone."""
        return self._batches(
            [(index, seed_of(seed, "image", one.epoch, index)) for index in one.indices.tolist()]
            for one in micro_batches
        )

    def evaluation(self, indices: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the images of these indices, at most `batch_size` at once."""
        return self._batches([(index, 0) for index in chosen.tolist()] for chosen in indices.split(batch_size))

    def no_images(self) -> Batch:
        """Return a batch of no images (0, C, H, W), in the shape of the first readable one.

        Raises DamagedImageError if none is readable.
        """
        prepared = Prepared(self.items, self.transform)
        none = torch.empty(0, dtype=torch.int64)
        for index in range(len(self)):
            sample = prepared[index, 0]
            if not isinstance(sample, Damaged):
                return Batch(sample[1][None][:0], none, none)
        raise DamagedImageError(f"all {len(self)} images are corrupt")

    def _batches(self, indices_and_seeds: Iterable[list[tuple[int, int]]]) -> Iterator[Batch]:
        loader = DataLoader(
            Prepared(self.items, self.transform),
            batch_sampler=indices_and_seeds,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_ignore_signals,
        )
        return iter(loader)


Feed = Batches | Items


def collate(samples: Sequence[tuple[int, Tensor, int] | Damaged]) -> Batch:
    """Stack the readable images of a micro-batch, and list the corrupt ones."""
    readable = [sample for sample in samples if not isinstance(sample, Damaged)]
    images = torch.stack([image for _, image, _ in readable]) if readable else torch.empty(0)
    labels = torch.tensor([label for _, _, label in readable], dtype=torch.int64)
    indices = torch.tensor([index for index, _, _ in readable], dtype=torch.int64)
    return Batch(images, labels, indices, tuple(sample for sample in samples if isinstance(sample, Damaged)))


def _ignore_signals(worker: int) -> None:
    """Ignore SIGINT and SIGTERM, which a terminal, torchrun or Slurm sends to every process of a run.

    The run must write a checkpoint first, which fails if a worker is gone; it ends its workers itself.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Feeds(NamedTuple):
    """The batches of a run: training images, test images, and training images without augmentation."""

    train: Feed
    test: Feed
    plain: Feed


def feeds(train: MapStyle, test: MapStyle, config: TrainingConfig, device: torch.device) -> Feeds:
    """Choose how training and test batches are prepared.

    Images in memory are augmented in whole batches if the recipe allows it. PIL and uint8 images are transformed one by
    one. Float tensors are used unchanged. Raise ValueError if the recipe asks for a transform that they do not allow.
    """
    if isinstance(train, Split) and isinstance(test, Split) and not config.image_by_image:
        mean, std = mean_and_std(train)
        training = Batches(train, mean, std, device, config.crop_padding)
        return Feeds(training, Batches(test, mean, std, device), training)
    workers = config.workers
    if workers is None:
        workers = torch.get_num_threads() if device.type == "cuda" else 0
    if not isinstance(train, (Split, ImageFiles)) and _is_prepared(train):
        not_applicable = [
            name for name in _IMAGE_SETTINGS if getattr(config, name) != TrainingConfig.model_fields[name].default
        ]
        if not_applicable:
            raise ValueError(
                f"{not_applicable[0]}: the dataset's images are float tensors, which are used unchanged; leave it out"
            )
        unchanged = Items(train, _unchanged, workers, device)
        return Feeds(unchanged, Items(test, _unchanged, workers, device), unchanged)
    from ablations.data.transforms import evaluation_transform, training_transform

    size, (mean, std) = _size(train, config), _normalization(train)
    plain = evaluation_transform(config, size, mean, std)
    augmented = Items(train, training_transform(config, size, mean, std), workers, device)
    return Feeds(augmented, Items(test, plain, workers, device), Items(train, plain, workers, device))


# The settings of a recipe that transform single images.
_IMAGE_SETTINGS = (
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
    """Tell whether the images are float tensors; raise ValueError if they are of an unknown type."""
    image, _ = items[0]
    if not isinstance(image, (Tensor, Image)):
        raise ValueError(
            f"the dataset's images have type {type(image).__name__}; they must be PIL images or torch tensors"
        )
    return isinstance(image, Tensor) and image.is_floating_point()


def _unchanged(image: Tensor) -> Tensor:
    return image


def _size(items: MapStyle, config: TrainingConfig) -> int:
    """Return the resolution of the images that the network sees, in pixels."""
    if config.image_size is not None:
        return config.image_size
    if isinstance(items, Split):
        return items.images.shape[1]
    raise ValueError("image_size is missing: images transformed one by one need it; for example image_size=224")


def _normalization(items: MapStyle) -> tuple[Any, Any]:
    """Mean and standard deviation per channel: the split's own if it is in memory, else ImageNet's, or 0.5."""
    if isinstance(items, Split):
        mean, std = mean_and_std(items)
        return mean / 255, std / 255
    from torchvision.transforms.v2.functional import get_num_channels

    from ablations.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    channels = 3 if isinstance(items, ImageFiles) else get_num_channels(items[0][0])
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
