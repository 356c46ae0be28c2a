"""Images of a map-style dataset: encoded, in files, PIL images or arrays, turned into PIL images when they are read."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ablations.data.decode import GRAY, DamagedImageError, Header, as_uint8, decoded, header, shown
from ablations.data.inventory import shown as printed
from ablations.errors import RequestError, one_line
from ablations.seeding import seed_of, seeded

if TYPE_CHECKING:
    from PIL.Image import Image

Normalization = tuple[Tensor, Tensor]  # mean and standard deviation per channel, in units of uint8 values


class Pictures(Protocol):
    """Images by row: bytes or the path of an encoded image, a PIL image, an array (H, W[, C]), a tensor (C, H, W)."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any: ...


@dataclass(frozen=True)
class MapImages:
    """Images of a map-style dataset, decoded when they are read, and their labels, int64 (N).

    `what` names the dataset and the split in errors, and `rows` (N) are the rows of `pictures` that belong to it.
    Images have the mode `mode`, L or RGB. `normalization` is as in `Split`.
    """

    what: str
    pictures: Pictures
    rows: Tensor
    labels: Tensor
    mode: str
    normalization: Normalization | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        """Return a decoded image and its label; raise DamagedImageError if it is corrupt."""
        return as_picture(self._stored(index), self.name(index), self.mode), int(self.labels[index])

    def _stored(self, index: int) -> Any:
        return self.pictures[int(self.rows[index])]

    def name(self, index: int) -> str:
        """Name an image by its row."""
        return f"{self.what} image {int(self.rows[index])}"

    def read(self, index: int) -> bytes:
        """Return an image's encoded bytes, or its pixels; random numbers of the dataset are the same at each call."""
        with seeded(seed_of("stored image", int(self.rows[index]))):
            stored = self._stored(index)
            if isinstance(stored, bytes):
                return stored
            if isinstance(stored, (str, Path)):
                return Path(stored).read_bytes()
            picture = as_picture(stored, self.name(index), self.mode)
        return repr(picture.size).encode() + picture.tobytes()

    def header(self, index: int) -> Header:
        """Return an image's format, mode and size; raise OSError or DamagedImageError if it cannot be read."""
        return _header(self._stored(index), self.name(index))

    def lengths(self) -> np.ndarray:
        """Return an array (N) of one number for all images: their lengths are not known before they are read."""
        return np.zeros(len(self), np.int64)

    def take(self, indices: Tensor) -> MapImages:
        """Return the images of these indices."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def digest(self) -> bytes:
        """Return a checksum of the labels; the images have no names."""
        return hashlib.sha256(self.labels.numpy().tobytes()).digest()


def map_images(dataset: str, split: str, pictures: Pictures, labels: Tensor, mode: str | None = None) -> MapImages:
    """Return the images of a split, gray ones with one channel if the first image is gray, or as `mode` says.

    Raises RequestError if there are none, or the first one is none.
    """
    what = f"{split} split"
    if not len(labels):
        raise RequestError(f"dataset {dataset}: the {what} has no images")
    try:
        mode = mode or ("L" if _header(pictures[0], f"{what}: image 0").mode in GRAY else "RGB")
    except (OSError, DamagedImageError) as error:
        raise RequestError(f"dataset {dataset}: {one_line(error)}") from None
    return MapImages(what, pictures, torch.arange(len(labels)), labels, mode)


def as_picture(stored: Any, name: str, mode: str) -> Image:
    """Return an image in mode L or RGB as a viewer shows it; raise DamagedImageError if it cannot be decoded."""
    from PIL.Image import Image

    if isinstance(stored, bytes):
        return decoded(stored, name, mode)
    if isinstance(stored, (str, Path)):
        name = f"{name}, {printed(str(stored))}"
        try:
            return decoded(Path(stored).read_bytes(), name, mode)
        except OSError as error:
            raise DamagedImageError(f"{name}: {one_line(error.strerror or error)}") from None
    if not isinstance(stored, Image):
        stored = _of_array(stored, name)
    return shown(stored, name, mode)


def _of_array(stored: Any, name: str) -> Image:
    """Return an array (H, W[, C]) or a tensor ([C, ]H, W) of 1 or 3 channels as a PIL image."""
    from PIL import Image

    if not isinstance(stored, (np.ndarray, Tensor)):
        kinds = "a PIL image, a uint8 array (H, W, C) or tensor (C, H, W), bytes, or a file's path"
        raise DamagedImageError(f"{name} has type {type(stored).__name__}; it must be {kinds}")
    values = stored.movedim(0, -1).numpy() if isinstance(stored, Tensor) and stored.ndim == 3 else np.asarray(stored)
    values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
    if values.ndim != 2 and (values.ndim != 3 or values.shape[-1] != 3):
        layout = "a tensor (C, H, W)" if isinstance(stored, Tensor) else "an array (H, W) or (H, W, C)"
        shape = "×".join(map(str, stored.shape))
        raise DamagedImageError(f"{name} is {shape}; it must be {layout} of 1 or 3 channels")
    if values.dtype.kind == "f":
        raise DamagedImageError(
            f"{name} has type {values.dtype}; return it before it is converted and normalized, as uint8 or a PIL "
            "image: the recipe does both"
        )
    try:
        return Image.fromarray(as_uint8(values))
    except ValueError as error:
        raise DamagedImageError(f"{name}: {one_line(error)}") from None


def _header(stored: Any, name: str) -> Header:
    """Return an image's format (none if it is not encoded), mode and size."""
    from PIL.Image import Image

    if isinstance(stored, bytes):
        return header(io.BytesIO(stored), name)
    if isinstance(stored, (str, Path)):
        with Path(stored).open("rb") as file:
            return header(file, f"{name}, {printed(str(stored))}")
    picture = stored if isinstance(stored, Image) else _of_array(stored, name)
    return Header(picture.format or "", picture.mode, *picture.size)
