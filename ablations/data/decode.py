"""Decode images: the bytes of a file become 8-bit RGB pixels, or an error that names the file."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ablations.errors import one_line

if TYPE_CHECKING:
    from PIL.Image import Image


class DamagedImageError(ValueError):
    """An image cannot be decoded; the message begins with its name."""


@dataclass(frozen=True)
class Header:
    """What a file says about its image before a pixel is decoded: Pillow's format and mode, and the size in pixels."""

    format: str
    mode: str
    width: int
    height: int


def header(file: BinaryIO, name: str) -> Header:
    """Read an image's header; raise DamagedImageError if the file is no image."""
    with _opened(file, name) as image:
        return Header(image.format or "", image.mode, *image.size)


def decoded(data: bytes, name: str) -> Image:
    """Decode an image to RGB; raise DamagedImageError if it is truncated or no image."""
    with _opened(io.BytesIO(data), name) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about unusual metadata
                return image.convert("RGB")
        except MemoryError:
            raise
        except Exception as error:  # PIL's decoders may raise anything
            raise DamagedImageError(f"{name}: {one_line(error)}") from None


def _opened(file: BinaryIO, name: str) -> Image:
    """Open an image without decoding it; raise DamagedImageError if the file is no image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata
            return Image.open(file)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        file.seek(0)
        raise DamagedImageError(f"{name}: {'not an image' if file.read(1) else 'an empty file'}") from None
    except Exception as error:  # PIL's decoders may raise anything
        raise DamagedImageError(f"{name}: {one_line(error)}") from None
