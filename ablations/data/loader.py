"""Choose how a dataset becomes batches; prepare images one by one in worker processes.

Samples and their order do not depend on the number of workers.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ablations.data.batches import Batch, Batches, Damaged, MicroBatch, mean_and_std
from ablations.data.datasets import Images, Split
from ablations.data.decode import GRAY, DamagedImageError, as_uint8, shown
from ablations.data.image_files import ImageFiles
from ablations.data.labels import check_classes, label_of
from ablations.data.map_images import MapImages
from ablations.data.preprocessing import Preprocessing, evaluation_steps
from ablations.errors import RequestError, one_line
from ablations.machine import STOP, blocked
from ablations.seeding import seed_of, seeded
from ablations.training_config import TrainingConfig

TRAINING, TEST = "training set", "test set"  # as errors name the splits


class MapStyle(Protocol):
    """A map-style dataset: `len(dataset)`, and `dataset[index]` as (image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


class Prepared(Dataset):
    """A dataset indexed by (index, seed): loads and transforms an item, all random numbers derived from the seed.

    `mode` is Pillow's mode of the images to transform, L or RGB; None for float tensors, which are used unchanged.
    """

    def __init__(self, items: MapStyle, split: str, transform: Callable[[Any], Tensor], mode: str | None = None):
        self.items, self.split, self.transform, self.mode = items, split, transform, mode

    def __getitem__(self, index_and_seed: tuple[int, int]) -> tuple[int, Tensor, int] | Damaged:
        index, seed = index_and_seed
        with seeded(seed):
            try:
                image, label = _pair(self.items[index], self.split, index)
                image = _picture(image, f"image {index}", self.mode) if self.mode else image
            except DamagedImageError as error:
                return Damaged(index, str(error))
            return index, self.transform(image), label_of(label, self.split, index)


class Items:
    """Batches of a map-style dataset whose items are loaded and transformed in worker processes.

    The workers live as long as an iterator; a single one runs through all epochs of training.
    """

    def __init__(self, prepared: Prepared, workers: int, device: torch.device):
        self.prepared, self.workers, self.device = prepared, workers, device
        self.labels = prepared.items.labels if isinstance(prepared.items, Images) else None

    def __len__(self) -> int:
        return len(self.prepared.items)

    def training(self, micro_batches: Iterable[MicroBatch], config: TrainingConfig, seed: int) -> Iterator[Batch]:
        """Yield each micro-batch's images and labels; an image's seed depends on seed, epoch, index and copy alone."""
        return self._batches(_indices_and_seeds(one, seed) for one in micro_batches)

    def evaluation(self, indices: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield the images of these indices, at most `batch_size` at once."""
        return self._batches([(index, 0) for index in chosen.tolist()] for chosen in indices.split(batch_size))

    def no_images(self) -> Batch:
        """Return a batch of no images (0, C, H, W), in the shape of the first readable one.

        Raises DamagedImageError if none is readable.
        """
        none = torch.empty(0, dtype=torch.int64)
        for index in range(len(self)):
            sample = self.prepared[index, 0]
            if not isinstance(sample, Damaged):
                return Batch(sample[1][None][:0], none, none)
        raise DamagedImageError(f"all {len(self)} images are unreadable")

    def _batches(self, indices_and_seeds: Iterable[list[tuple[int, int]]]) -> Iterator[Batch]:
        loader = DataLoader(
            self.prepared,
            batch_sampler=indices_and_seeds,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=collate,
            pin_memory=self.device.type != "cpu",
            worker_init_fn=_begin_worker,
        )
        with blocked(*STOP):  # until `_begin_worker` is called in processes that take seconds to start
            batches = _started(loader)
        _RUNNING.add(batches)
        try:
            yield from batches
        except RequestError as error:  # a worker's has a traceback before its message
            last = str(error).strip().splitlines()[-1]
            raise RequestError(last.partition("RequestError: ")[2] or last) from None
        finally:
            _end_workers(batches)


def _started(loader: DataLoader[Any]) -> Any:
    """Start a loader's worker processes, which get the dataset pickled unless they are forks of this process."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got pickle error")  # torch's, in several lines
            return iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:  # as the object is of a function, or unpicklable
        raise RequestError(
            f"the dataset cannot be sent to the processes that load images ({one_line(error)}); define its classes and "
            "functions at the top level of a file, or set workers=0"
        ) from None


Feed = Batches | Items


def _indices_and_seeds(micro_batch: MicroBatch, seed: int) -> list[tuple[int, int]]:
    """Return the images of a micro-batch, each with the seed of its transform; the first copy's is that of no copy."""
    indices = micro_batch.indices.tolist()
    copies = [0] * len(indices) if micro_batch.copies is None else micro_batch.copies.tolist()
    return [
        (index, seed_of(seed, "image", micro_batch.epoch, index, *([copy] if copy else [])))
        for index, copy in zip(indices, copies, strict=True)
    ]


def collate(samples: Sequence[tuple[int, Tensor, int] | Damaged]) -> Batch:
    """Stack the readable images of a micro-batch, and list the corrupt ones."""
    readable = [sample for sample in samples if not isinstance(sample, Damaged)]
    images = torch.stack([image for _, image, _ in readable]) if readable else torch.empty(0)
    labels = torch.tensor([label for _, _, label in readable], dtype=torch.int64)
    indices = torch.tensor([index for index, _, _ in readable], dtype=torch.int64)
    return Batch(images, labels, indices, tuple(sample for sample in samples if isinstance(sample, Damaged)))


def _begin_worker(worker: int) -> None:
    """Ignore SIGINT and SIGTERM, which a terminal, torchrun or Slurm sends to every process of a run.

    The run must write a checkpoint first, which fails if a worker is gone; it ends its workers itself. If it is killed,
    torch's workers end with their parent, but that of a forkserver's is the server, which waits for them.
    """
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    run = multiprocessing.parent_process()
    if run is not None and multiprocessing.get_start_method() == "forkserver":
        threading.Thread(target=_end_with, args=(run,), daemon=True).start()


def _end_with(run: BaseProcess) -> None:
    """End this process when the process that asked for it has ended."""
    run.join()
    os._exit(1)


_RUNNING: weakref.WeakSet[Any] = weakref.WeakSet()  # iterators of loaders


def _end_workers(batches: Any) -> None:
    """End the workers of a loader's iterator; kill those that hang, as they ignore the SIGTERM that torch sends."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()
        for worker in batches._workers:
            if worker.is_alive():
                worker.kill()


@atexit.register
def end_all_workers() -> None:
    """Before Python waits at its exit for processes that it started, and for ever for one that hangs."""
    for batches in list(_RUNNING):
        _end_workers(batches)


class Feeds(NamedTuple):
    """The batches of a run: training images, test images, and training images without augmentation.

    `preprocessing` describes the test images; it is None for float tensors, which are used unchanged.
    """

    train: Feed
    test: Feed
    plain: Feed
    preprocessing: Preprocessing | None

    def check_labels(self, batch: Batch, classes: int, first: bool) -> None:
        """Raise RequestError if a label is not one of so many classes: of a batch; at first, all that are known."""
        for feed, split in ((self.train, TRAINING), (self.test, TEST)) if first else ():
            if feed.labels is not None:
                check_classes(feed.labels, torch.arange(len(feed)), classes, split)
        if self.train.labels is None:
            check_classes(batch.labels, batch.indices, classes, TRAINING)


def feeds(train: MapStyle, test: MapStyle, config: TrainingConfig, device: torch.device) -> Feeds:
    """Choose how training and test batches are prepared.

    Images in memory are augmented in whole batches if the recipe allows it. PIL and uint8 images are transformed one by
    one. Float tensors are used unchanged. Raise ValueError if the recipe asks for a transform that they do not allow.
    """
    if isinstance(train, Split) and isinstance(test, Split) and not config.image_by_image:
        mean, std = mean_and_std(train)
        training = Batches(train, mean, std, device, config.crop_padding)
        steps = evaluation_steps(config, training.size, mean / 255, std / 255)
        return Feeds(training, Batches(test, mean, std, device), training, steps)
    workers = config.workers
    if workers is None:
        workers = torch.get_num_threads() if device.type == "cuda" else 0
    first = None if isinstance(train, (Split, ImageFiles)) else _first(train)
    if isinstance(first, Tensor) and first.is_floating_point():
        not_applicable = [
            name for name in _IMAGE_SETTINGS if getattr(config, name) != TrainingConfig.model_fields[name].default
        ]
        if not_applicable:
            raise ValueError(
                f"{not_applicable[0]}: the dataset's images are float tensors, which are used unchanged; leave it out"
            )
        unchanged = Items(Prepared(train, TRAINING, _unchanged), workers, device)
        return Feeds(unchanged, Items(Prepared(test, TEST, _unchanged), workers, device), unchanged, None)
    from ablations.data.transforms import evaluation_transform, training_transform

    mode = "L" if isinstance(first, Image) and first.mode in GRAY else "RGB"
    size, (mean, std) = _size(train, config), _normalization(train, first, mode)
    steps = evaluation_steps(config, config.evaluated_at(size), mean, std)
    augment, plain = training_transform(config, size, mean, std), evaluation_transform(steps)
    trained_on, evaluated, unaugmented = (
        Items(prepared, workers, device)
        for prepared in (
            Prepared(train, TRAINING, augment, mode),
            Prepared(test, TEST, plain, mode),
            Prepared(train, TRAINING, plain, mode),
        )
    )
    return Feeds(trained_on, evaluated, unaugmented, steps)


# The settings of a recipe that transform single images.
_IMAGE_SETTINGS = (
    "crop_padding",
    "crop_scale",
    "evaluation_crop",
    "horizontal_flip",
    "randaugment",
    "trivialaugment",
    "erasing",
    "image_size",
    "evaluation_size",
    "interpolation",
)


def _pair(item: Any, split: str, index: int) -> tuple[Any, Any]:
    """Return an item's image and label; raise ValueError if it is no such pair."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(
            f"the {split}'s item {index} has type {type(item).__name__}; items must be pairs (image, label)"
        )
    return item[0], item[1]


def _first(items: MapStyle) -> Image | Tensor:
    """Return a dataset's first readable image; raise ValueError if it is of an unknown type, or none is readable."""
    for index in range(len(items)):
        try:
            image, _label = _pair(items[index], TRAINING, index)
        except DamagedImageError:
            continue
        if not isinstance(image, (Tensor, Image)):
            raise ValueError(
                f"the dataset's images have type {type(image).__name__}; they must be PIL images or torch tensors"
            )
        if isinstance(image, Tensor) and not image.is_floating_point():
            as_uint8(image.numpy())
        return image
    raise DamagedImageError(f"all {len(items)} images are unreadable")


def _picture(image: Image | Tensor, name: str, mode: str) -> Image | Tensor:
    """Return an image's 8-bit pixels; raise DamagedImageError if a PIL image is corrupt, ValueError if a tensor is."""
    if isinstance(image, Image):
        return shown(image, name, mode)
    return image if image.dtype == torch.uint8 else torch.from_numpy(as_uint8(image.numpy()))


def _unchanged(image: Tensor) -> Tensor:
    return image


def _size(items: MapStyle, config: TrainingConfig) -> int:
    """Return the resolution of the images that the network sees, in pixels."""
    if config.image_size is not None:
        return config.image_size
    if isinstance(items, Split):
        return items.images.shape[1]
    raise ValueError("image_size is missing: images transformed one by one need it; for example image_size=224")


def _normalization(items: MapStyle, first: Image | Tensor | None, mode: str) -> tuple[Any, Any]:
    """Mean and standard deviation per channel: the split's own if it has one, else ImageNet's, or 0.5."""
    if isinstance(items, Split):
        mean, std = mean_and_std(items)
        return mean / 255, std / 255
    if isinstance(items, MapImages) and items.normalization is not None:
        mean, std = items.normalization
        return mean / 255, std / 255
    from ablations.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    channels = first.shape[-3] if isinstance(first, Tensor) else len(mode)
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
