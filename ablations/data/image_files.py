"""Datasets too large for memory: images in class folders or WebDataset shards, decoded when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ablations.data.decode import DamagedImageError, decoded
from ablations.errors import RequestError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = 2**16  # maximum per dataset: predictions are stored in two bytes
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".pgm")


@dataclass(frozen=True)
class ImageFiles:
    """Images in files or shards, and their labels, int64 (N).

    `names` are bytes: a file's path below `place`, or the key of a shard's sample. For shards, `spans` (N, 3) holds
    the shard number, first byte and length of each image.
    """

    place: Path
    names: np.ndarray
    labels: Tensor
    shards: tuple[Path, ...] = ()
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        """Return a decoded image and its label; raise DamagedImageError if it is corrupt."""
        try:
            data = self.read(index)
        except OSError as error:
            raise DamagedImageError(f"{self.name(index)}: {one_line(error)}") from None
        return decoded(data, self.name(index)), int(self.labels[index])

    def name(self, index: int) -> str:
        """Return an image's path, or its shard and key, with undecodable bytes escaped."""
        name = bytes(self.names[index]).decode(errors="backslashreplace")
        place = self.place if self.spans is None else self.shards[self.spans[index][0]]
        return f"{place.name}/{name}"

    def read(self, index: int) -> bytes:
        """Read the bytes of an image's file."""
        if self.spans is None:
            return (self.place / os.fsdecode(self.names[index])).read_bytes()
        shard, first, length = (int(number) for number in self.spans[index])
        with self.shards[shard].open("rb") as file:
            file.seek(first)
            return file.read(length)

    def take(self, indices: Tensor) -> ImageFiles:
        """Return the images of these indices."""
        chosen = indices.numpy()
        spans = None if self.spans is None else self.spans[chosen]
        return replace(self, names=self.names[chosen], labels=self.labels[indices], spans=spans)

    def digest(self) -> bytes:
        """Return a checksum of names, spans and labels; to read the images themselves would take hours."""
        spans = b"" if self.spans is None else self.spans.tobytes()
        return hashlib.sha256(self.names.tobytes() + spans + self.labels.numpy().tobytes()).digest()


def class_folders(place: Path) -> tuple[ImageFiles, list[str]]:
    """List the images of class folders, sorted by name, and the classes; raise RequestError if there are none."""
    classes = sorted(entry.name for entry in os.scandir(place) if entry.is_dir())
    if not classes:
        raise RequestError(f"dataset imagenet: {place} contains no class folders")
    names, labels = [], []
    for label, name in enumerate(classes):
        images = sorted(_image_names(place / name, name))
        if not images:
            raise RequestError(
                f"dataset imagenet: class folder {place / name} contains no images ({', '.join(SUFFIXES)})"
            )
        names += images
        labels += [label] * len(images)
    return ImageFiles(place, np.array([os.fsencode(name) for name in names]), torch.tensor(labels)), classes


def _image_names(folder: Path, below: str) -> list[str]:
    """List the images in a folder and its subfolders; their paths begin with `below`."""
    names = []
    for entry in os.scandir(folder):
        path = f"{below}/{entry.name}"
        if entry.is_dir():
            names += _image_names(folder / entry.name, path)
        elif entry.name.lower().endswith(SUFFIXES):
            names.append(path)
    return names


def shards(paths: Sequence[Path]) -> ImageFiles:
    """List the images of WebDataset shards, in the shards' order; raise RequestError if a shard cannot be read.

    A sample is a key with an image (`.jpg`, `.jpeg`, `.png`…) and its class as an integer (`.cls`). Positions are
    read once from the shards' headers, and stored in an index file beside the shards if possible.
    """
    place = paths[0].parent
    stamp = hashlib.sha256(repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]).encode())
    index = place / f".index-{stamp.hexdigest()[:16]}.npz"
    try:
        with np.load(index) as stored:
            names, labels, spans = stored["names"], stored["labels"], stored["spans"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        samples = [sample for number, path in enumerate(paths) for sample in _samples(number, path)]
        names = np.array([os.fsencode(key) for key, _, _ in samples])
        labels = np.array([label for _, label, _ in samples], np.int64)
        spans = np.array([span for _, _, span in samples], np.int64).reshape(-1, 3)
        _write_index(index, names, labels, spans)
    return ImageFiles(place, names, torch.tensor(labels), tuple(paths), spans)


def _samples(number: int, path: Path) -> list[tuple[str, int, tuple[int, int, int]]]:
    """Return key, class and span of each image in a shard."""
    images: dict[str, tuple[int, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isdir():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")  # as WebDataset: a key ends at the first dot of the file name
                key = f"{folder}{slash}{stem}"
                if f".{suffix.lower()}" in SUFFIXES:
                    images[key] = (number, member.offset_data, member.size)
                elif suffix.lower() == "cls":
                    file = shard.extractfile(member)
                    labels[key] = int(file.read()) if file else -1
        _check_end(path, shard.offset)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise RequestError(f"dataset imagenet: shard {path} cannot be read ({one_line(error)})") from None
    unlabeled = [key for key in images if labels.get(key, -1) < 0]
    too_large = [key for key in images if labels.get(key, -1) >= CLASSES]
    if unlabeled or too_large or not images:
        problem = f"{unlabeled[0]} has no class (a .cls file)" if unlabeled else "it contains no images"
        if too_large:
            problem = f"{too_large[0]} has class {labels[too_large[0]]}; classes must be from 0 to {CLASSES - 1}"
        raise RequestError(f"dataset imagenet: shard {path}: {problem}")
    return [(key, labels[key], span) for key, span in images.items()]


def _check_end(path: Path, end: int) -> None:
    """Raise ValueError if no end of file follows a tar file's last sample, which `tarfile` does not check."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"it is truncated or corrupt at byte {end}")


def _write_index(path: Path, names: np.ndarray, labels: np.ndarray, spans: np.ndarray) -> None:
    from ablations.store import write_bytes

    buffer = io.BytesIO()
    np.savez(buffer, names=names, labels=labels, spans=spans)
    with contextlib.suppress(OSError):  # the folder is often read-only: the next run reads the headers again
        write_bytes(path, buffer.getvalue())
