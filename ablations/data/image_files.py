"""Datasets too large for memory: images in class folders or WebDataset shards, decoded when they are read."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from torch import Tensor

from ablations.data.decode import DamagedImageError, Header, decoded, header
from ablations.data.inventory import shown
from ablations.errors import one_line

if TYPE_CHECKING:
    from PIL.Image import Image


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
        name = shown(os.fsdecode(bytes(self.names[index])))
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

    def header(self, index: int) -> Header:
        """Return an image's format, mode and size; raise OSError or DamagedImageError if its file cannot be read."""
        with self._opened(index) as file:
            return header(file, self.name(index))

    def _opened(self, index: int) -> BinaryIO:
        """Open an image's file; a shard's sample is read."""
        if self.spans is None:
            return (self.place / os.fsdecode(self.names[index])).open("rb")
        return io.BytesIO(self.read(index))

    def lengths(self) -> np.ndarray:
        """Return the length of each image's file in bytes, int64 (N); -1 if it is not there."""
        if self.spans is not None:
            return self.spans[:, 2]
        return np.array([_length(self.place, os.fsdecode(name)) for name in self.names], np.int64)

    def take(self, indices: Tensor) -> ImageFiles:
        """Return the images of these indices."""
        chosen = indices.numpy()
        spans = None if self.spans is None else self.spans[chosen]
        return replace(self, names=self.names[chosen], labels=self.labels[indices], spans=spans)

    def digest(self) -> bytes:
        """Return a checksum of names, spans and labels; to read the images themselves would take hours."""
        spans = b"" if self.spans is None else self.spans.tobytes()
        return hashlib.sha256(self.names.tobytes() + spans + self.labels.numpy().tobytes()).digest()


def _length(place: Path, name: str) -> int:
    try:
        return os.stat(f"{place}/{name}").st_size  # noqa: PTH116  a million paths take a minute as Path objects
    except OSError:
        return -1
