"""Data sets too large for memory: images in class folders or in WebDataset shards, decoded when asked for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ablations.errors import RequestError
from ablations.recipes import first_line

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = 2**16  # that a data set may have at most: predictions are kept in two bytes
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".pgm")


class DamagedImageError(ValueError):
    """An image that cannot be decoded, by name."""


@dataclass(frozen=True)
class ImageFiles:
    """Images in files or inside shards, and their labels as int64 N.

    `names` are bytes, a path below `place` for a file and the sample's key for a shard's; `shards` and `spans` (N×3:
    shard, first byte, length) say where in which shard an image lies.
    """

    place: Path
    names: np.ndarray
    labels: Tensor
    shards: tuple[Path, ...] = ()
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        """A decoded image and its label; raises DamagedImageError."""
        try:
            data = self.read(index)
        except OSError as error:
            raise DamagedImageError(f"{self.name(index)}: {first_line(error)}") from None
        return decoded(data, self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """What an image is called, in letters that any screen can show: its path, or its shard and key."""
        name = bytes(self.names[index]).decode(errors="backslashreplace")
        place = self.place if self.spans is None else self.shards[self.spans[index][0]]
        return f"{place.name}/{name}"

    def read(self, index: int) -> bytes:
        """An image's file."""
        if self.spans is None:
            return (self.place / os.fsdecode(self.names[index])).read_bytes()
        shard, first, length = (int(number) for number in self.spans[index])
        with self.shards[shard].open("rb") as file:
            file.seek(first)
            return file.read(length)

    def take(self, indices: Tensor) -> ImageFiles:
        """The images of these indices."""
        chosen = indices.numpy()
        spans = None if self.spans is None else self.spans[chosen]
        return replace(self, names=self.names[chosen], labels=self.labels[indices], spans=spans)

    def digest(self) -> bytes:
        """A checksum over names, places and labels; the images themselves would take hours to read."""
        spans = b"" if self.spans is None else self.spans.tobytes()
        return hashlib.sha256(self.names.tobytes() + spans + self.labels.numpy().tobytes()).digest()


def decoded(data: bytes, name: str) -> Image:
    """An image in RGB; raises DamagedImageError where it is not one, or cut short."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            with Image.open(io.BytesIO(data)) as image:
                return image.convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise DamagedImageError(f"{name}: {'not an image' if data else 'an empty file'}") from None
    except Exception as error:  # PIL's decoders raise whatever they stumble over
        raise DamagedImageError(f"{name}: {first_line(error)}") from None


def class_folders(place: Path) -> tuple[ImageFiles, list[str]]:
    """The images of a folder of class folders, in the order of their names, and the classes; raises RequestError."""
    classes = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
    if not classes:
        raise RequestError(f"data set imagenet: {place} holds no class folders")
    names, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(_image_names(place / name, name))
        if not found:
            raise RequestError(
                f"data set imagenet: class folder {place / name} holds no images ({', '.join(SUFFIXES)})"
            )
        names += found
        labels += [label] * len(found)
    return ImageFiles(place, np.array([os.fsencode(name) for name in names]), torch.tensor(labels)), classes


def _image_names(folder: Path, below: str) -> list[str]:
    """The images in a folder and the folders in it, their paths beginning with `below`."""
    names = []
    for entry in os.scandir(folder):
        path = f"{below}/{entry.name}"
        if entry.is_dir():
            names += _image_names(folder / entry.name, path)
        elif entry.name.lower().endswith(SUFFIXES):
            names.append(path)
    return names


def shards(paths: Sequence[Path]) -> ImageFiles:
    """The images of WebDataset shards in the shards' order; raises RequestError.

    A sample is a key with an image (`.jpg`, `.jpeg`, `.png`…) and its class as a number (`.cls`). Where the samples lie
    is found once, by reading the shards' headers, and kept beside them where that may be written.
    """
    place = paths[0].parent
    stamp = hashlib.sha256(repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]).encode())
    index = place / f".index-{stamp.hexdigest()[:16]}.npz"
    try:
        with np.load(index) as kept:
            names, labels, spans = kept["names"], kept["labels"], kept["spans"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        found = [sample for number, path in enumerate(paths) for sample in _samples(number, path)]
        names = np.array([os.fsencode(key) for key, _, _ in found])
        labels = np.array([label for _, label, _ in found], np.int64)
        spans = np.array([span for _, _, span in found], np.int64).reshape(-1, 3)
        _keep_index(index, names, labels, spans)
    return ImageFiles(place, names, torch.tensor(labels), tuple(paths), spans)


def _samples(number: int, path: Path) -> list[tuple[str, int, tuple[int, int, int]]]:
    """Key, class and span of each image in a shard."""
    images: dict[str, tuple[int, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isdir():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")  # WebDataset's: a key ends at its name's first dot
                key = f"{folder}{slash}{stem}"
                if f".{suffix.lower()}" in SUFFIXES:
                    images[key] = (number, member.offset_data, member.size)
                elif suffix.lower() == "cls":
                    file = shard.extractfile(member)
                    labels[key] = int(file.read()) if file else -1
        _check_end(path, shard.offset)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise RequestError(f"data set imagenet: shard {path} cannot be read ({first_line(error)})") from None
    bare = [key for key in images if labels.get(key, -1) < 0]
    beyond = [key for key in images if labels.get(key, -1) >= CLASSES]
    if bare or beyond or not images:
        problem = f"{bare[0]} has no class (a .cls file)" if bare else "it holds no images"
        if beyond:
            problem = f"{beyond[0]} has class {labels[beyond[0]]}; they are numbered from 0, and at most {CLASSES - 1}"
        raise RequestError(f"data set imagenet: shard {path}: {problem}")
    return [(key, labels[key], span) for key, span in images.items()]


def _check_end(path: Path, end: int) -> None:
    """Raises ValueError where a shard's last sample is not followed by a tar file's end: `tarfile` does not mind."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"it is cut short or damaged at byte {end}")


def _keep_index(path: Path, names: np.ndarray, labels: np.ndarray, spans: np.ndarray) -> None:
    from ablations.store import write_bytes

    buffer = io.BytesIO()
    np.savez(buffer, names=names, labels=labels, spans=spans)
    with contextlib.suppress(OSError):  # shards are often where one may not write: the next run reads them again
        write_bytes(path, buffer.getvalue())
