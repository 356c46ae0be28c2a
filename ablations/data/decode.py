"""Decode images: whatever a file holds becomes upright, opaque 8-bit sRGB pixels, or an error that names the file.

Depths whose range is known (up to 16 bits) are rescaled; others (floats, 32-bit integers) are refused. EXIF
orientation, embedded color profiles and PNG's gamma are applied. Transparent pixels are composited on white. Of several
frames or pages the first is taken.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageFile, Jpeg2KImagePlugin, PngImagePlugin, UnidentifiedImageError
from PIL.Image import Transpose

from ablations.errors import RequestError, one_line

VERSION = 2  # raise it if a file gives other pixels; a run's environment.json holds it
MAX_PIXELS = "ABLATIONS_MAX_PIXELS"  # environment variable: max pixels of an image, instead of Pillow's limit
METADATA = 2**26  # max bytes of a PNG's profile or XMP; Pillow's 2**20 refuses photographs with an editing history
GRAY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes without color
SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # what a color profile calls each mode's space
NEAR = 2  # levels: a profile whose colors differ from sRGB by no more is one of sRGB's many variants
BITS, PHOTOMETRIC, ORIENTATION, PLANES, COLORMAP, SAMPLE_FORMAT = 258, 262, 274, 284, 320, 339  # TIFF tags
SEPARATE, SIGNED = 2, 2  # a value of PLANES, and one of SAMPLE_FORMAT
JPEG2000 = b"\xff\x4f\xff\x51"  # the markers before the header of a codestream
TURNS = {  # what makes an image of each EXIF orientation upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class DamagedImageError(ValueError):
    """An image cannot be decoded, or the range of its values is unknown; the message begins with its name."""


@dataclass(frozen=True)
class Header:
    """What a file says about its image before a pixel is decoded: Pillow's format and mode, and the size in pixels."""

    format: str
    mode: str
    width: int
    height: int


def header(file: BinaryIO, name: str) -> Header:
    """Read an image's header; raise DamagedImageError if it is no image, or as `decoded` does for what it tells."""
    with _opened(file, name) as image:
        # Pillow turns TIFF itself; of a PNG without EXIF it would have to decode the pixels first
        known = image.format not in ("TIFF", "PNG") or (image.format == "PNG" and "exif" in image.info)
        turned = known and _orientation(image) in (5, 6, 7, 8)
        return Header(image.format or "", image.mode, *(image.size[::-1] if turned else image.size))


def decoded(data: bytes, name: str, mode: str = "RGB") -> Image.Image:
    """Decode an image to mode RGB or L.

    Raise DamagedImageError if it is corrupt, too large, in color where L is wanted, or of values of unknown range.
    """
    if not data:
        raise DamagedImageError(f"{name}: an empty file")
    with _opened(io.BytesIO(data), name) as image:
        _check_mode(image, mode)
        found = _shown(image, mode)
    found.info = {}
    return found


def shown(image: Image.Image, name: str, mode: str = "RGB") -> Image.Image:
    """Return an image that is open or in memory as a viewer shows it, in mode RGB or L.

    Raise DamagedImageError if it is corrupt, in color where L is wanted, or of values of unknown range.
    """
    if image.mode == mode and not image.info and not isinstance(image, ImageFile.ImageFile):
        return image
    with _faults(name):
        _check_mode(image, mode)
        _check(image)
        found = _shown(image, mode)
    found = found.copy() if found is image else found
    found.info = {}  # so that it is not turned again
    return found


def as_uint8(values: np.ndarray) -> np.ndarray:
    """Return an array of image values as uint8, rescaled if it is of 1 or 16 bits; raise ValueError if of others."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype == np.uint16:
        return _levels(2**16 - 1, None)[values]
    raise ValueError(f"images of type {values.dtype}, whose range is unknown; convert them to uint8 (0 to 255)")


def max_pixels() -> int | None:
    """Return the number of pixels above which an image is refused; None if unlimited.

    It is the environment's, else Pillow's. Raise RequestError if the environment's is invalid.
    """
    text = os.environ.get(MAX_PIXELS)
    if text is None:
        return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    if not text.isdecimal() or not int(text):
        raise RequestError(f"environment variable {MAX_PIXELS}={text!r}: must be a positive integer")
    return int(text)


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open an image whose header allows to decode it; turn any fault into DamagedImageError."""
    limit = max_pixels()
    with _faults(name), Image.open(file) as image:
        pixels = image.width * image.height
        if limit is not None and pixels > limit:
            raise ValueError(
                f"{image.width}×{image.height} pixels, more than {limit}; "
                f"to decode it, set the environment variable {MAX_PIXELS}={pixels}"
            )
        _check(image)
        yield image


@contextlib.contextmanager
def _faults(name: str) -> Iterator[None]:
    """Turn any fault of an image into DamagedImageError; suspend Pillow's warnings and limits meanwhile."""
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual metadata
            Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, METADATA
            yield
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise DamagedImageError(f"{name}: not an image that Pillow can read") from None
    except Exception as error:  # Pillow's decoders may raise anything
        raise DamagedImageError(f"{name}: {one_line(error)}") from None
    finally:
        Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = limits


def _shown(image: Image.Image, mode: str) -> Image.Image:
    """Return an image as a viewer shows it, in mode RGB or L; the image itself if nothing has to change."""
    _correct(image)
    image.load()
    color, alpha = _color_and_alpha(image)
    profile = image.info.get("icc_profile")
    transform = _to_srgb(profile, color.mode) if profile else None
    if transform:
        color = transform(color)
    found = color if color.mode == mode else color.convert(mode)
    if alpha:
        found = Image.composite(found, Image.new(mode, found.size, "white"), alpha)
    if (orientation := _orientation(image)) in TURNS:
        found = found.transpose(TURNS[orientation])
    return found


def _check_mode(image: Image.Image, mode: str) -> None:
    """Raise ValueError for an image in color where a gray one is wanted."""
    if mode == "L" and image.mode not in GRAY:
        raise ValueError(f"mode {image.mode}, but the dataset's first image is gray; convert all to one mode")


def _check(image: Image.Image) -> None:
    """Raise ValueError if the range of an image's values is unknown, or if Pillow misreads them."""
    tags = getattr(image, "tag_v2", {})
    kind = ""
    if image.mode == "F":
        kind = "floats"
    elif SIGNED in tags.get(SAMPLE_FORMAT, ()):
        kind = "signed integers"
    elif image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these, 16 bits
        kind = "32-bit integers"
    if kind:
        raise ValueError(f"its values are {kind}, whose range is unknown; convert it to 8 or 16 bits per channel")
    if tags.get(PLANES) == SEPARATE:
        deep = 16 in tags.get(BITS, ()) and image.info["compression"] == "raw"
        if deep or image.mode in ("LA", "La", "PA"):
            raise ValueError("its channels are stored one after another, which Pillow misreads; interleave them")
    if isinstance(image, Jpeg2KImagePlugin.Jpeg2KImageFile) and image.tile and image.fp:
        _check_jpeg2000(image.fp)
    if _raw_mode(image) == "RGB;16B" and "transparency" in image.info:
        raise ValueError("it has a transparent color of 16 bits per channel, which Pillow cannot match")


def _check_jpeg2000(file: IO[bytes]) -> None:
    """Raise ValueError for JPEG 2000 of signed values, or deep ones of several channels, whose white turns black."""
    place = file.tell()
    file.seek(0)
    _, _, header = file.read().partition(JPEG2000)  # its length, 34 bytes of sizes, the number of channels
    file.seek(place)
    channels = header[38 : 38 + 3 * int.from_bytes(header[36:38]) : 3]
    if any(depth & 128 for depth in channels):
        raise ValueError("its values are signed integers, whose range is unknown; convert it to 8 bits per channel")
    if len(channels) > 1 and (deepest := max(channels) + 1) > 8:
        raise ValueError(f"it has {deepest} bits per channel, which Pillow misreads in JPEG 2000; convert it to 8 bits")


def _correct(image: Image.Image) -> None:
    """Correct a transparent color and a palette that Pillow takes for another depth than the file's."""
    scale = {"1": 255, "L;2": 85, "L;4": 17}.get(_raw_mode(image))
    if scale and "transparency" in image.info:
        image.info["transparency"] = min(image.info["transparency"] * scale, 255)
    colors = getattr(image, "tag_v2", {}).get(COLORMAP, ())
    if image.mode in ("P", "PA") and 0 < max(colors, default=0) < 256:  # of 8 bits; libtiff corrects this too
        image.putpalette(bytes(colors), "RGB;L")


def _raw_mode(image: Image.Image) -> str:
    """Return how a PNG's pixels are stored, in Pillow's terms; nothing once they are decoded."""
    return str(image.tile[0].args) if isinstance(image, PngImagePlugin.PngImageFile) and image.tile else ""


def _color_and_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return an image's 8-bit colors (mode L, RGB or CMYK) and its alpha channel (L), or None if it is opaque."""
    if image.mode.startswith("I"):
        return _rescaled(image)
    if image.mode in ("La", "RGBa"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    alpha = None
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        color, alpha = whole.convert("RGB"), whole.getchannel("A")
        if image.mode in GRAY:
            color = whole.getchannel("R")
    elif image.mode in SPACES:
        color = image
    else:
        color = image.convert("L" if image.mode in GRAY else "RGB")
    if gamma := _gamma(image):
        color = color.point(_levels(255, gamma).tolist() * len(color.getbands()))
    box = getattr(image, "dispose_extent", None)  # of a GIF's frame; viewers leave the rest of its screen transparent
    if box and box != (0, 0, *image.size):
        whole = Image.new("L", image.size, 0)
        whole.paste(alpha.crop(box) if alpha else 255, box)
        alpha = whole
    return color, alpha


def _rescaled(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return an image of 16-bit gray values, rescaled to 8 bits, and its alpha channel or None."""
    tags = getattr(image, "tag_v2", {})
    largest = 2**12 - 1 if tags.get(BITS) == (12,) else 2**16 - 1
    values = np.asarray(image).astype(np.int64)
    alpha = None
    if "transparency" in image.info:
        alpha = Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    if tags.get(PHOTOMETRIC) == 0:  # 0 is white; Pillow inverts up to 8 bits only
        values = largest - values
    return Image.fromarray(_levels(largest, _gamma(image))[values.clip(0, largest)]), alpha


def _gamma(image: Image.Image) -> float | None:
    """Return the exponent of a PNG's values where it differs from sRGB's about 1/2.2 and no profile replaces it."""
    gamma = image.info.get("gamma")
    if not gamma or image.info.keys() & {"icc_profile", "srgb"} or abs(2.2 * gamma - 1) < 0.05:  # as libpng
        return None
    return gamma


@functools.lru_cache(maxsize=8)
def _levels(largest: int, gamma: float | None) -> np.ndarray:
    """Return the 8-bit sRGB level of each value up to `largest`."""
    levels = np.arange(largest + 1) / largest
    if gamma:
        linear = levels ** (1 / gamma)
        levels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (255 * levels + 0.5).astype(np.uint8)


@functools.lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Return the transform of a color profile to sRGB; None if it is sRGB, broken, or of another space than `mode`."""
    # LittleCMS's faster, interpolated transform of gray levels is up to 10 levels off in dark images.
    flags = ImageCms.Flags.NOOPTIMIZE if mode == "L" else ImageCms.Flags.NONE
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags)
    except Exception:  # a profile may be of any bytes; viewers ignore what they cannot use
        return None
    if mode == "CMYK":
        return transform.apply
    steps = np.arange(0, 256, 1 if mode == "L" else 5, dtype=np.uint8)
    grid = steps[None] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(len(steps), -1, 3)
    converted = transform.apply(Image.fromarray(grid))
    if mode == "L":
        levels = np.asarray(converted.convert("L"))
        return None if _near(levels, grid) else lambda image: image.point(levels[0].tolist())
    return None if _near(np.asarray(converted), grid) else transform.apply


def _near(levels: np.ndarray, others: np.ndarray) -> bool:
    return bool(np.abs(levels.astype(int) - others).max() <= NEAR)


def _orientation(image: Image.Image) -> int:
    """Return an image's EXIF orientation, 1 if it has none or a broken one; only 1 to 8 have a meaning."""
    if image.info.keys().isdisjoint(("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")):
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF may be of any bytes
        return 1
