"""Write pictures in every mode, depth, orientation and container, and say by numpy alone what each one shows.

The writers of PNG, TIFF and ICC profiles are our own, for what Pillow cannot save.
"""

from __future__ import annotations

import colorsys
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH, BLOCK = 16, 24, 8  # flat blocks, which JPEG keeps
ORIENTATION = 0x0112
D50 = (0.9642, 1.0, 0.8249)
# Columns: the primaries' XYZ, adapted to D50 (Lindbloom).
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
ADOBE = np.array([[0.6097559, 0.205240, 0.149224], [0.3111242, 0.625656, 0.0632197], [0.0194811, 0.0608902, 0.7448387]])


@dataclass(frozen=True)
class Picture:
    """A file, and what it shows: uint8 (H, W, 3), None if it must be refused; and the largest difference allowed."""

    kind: str
    data: bytes
    suffix: str
    shows: np.ndarray | None
    near: int = 0


# What is shown --------------------------------------------------------------------------------------------------------


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels as EXIF's definition of each orientation says."""
    ways: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return ways[orientation](stored)


def rgb(values: Any) -> np.ndarray:
    """Round levels from 0 to 255, (H, W), (H, W, 1) or (H, W, 3), to uint8 (H, W, 3)."""
    values = np.asarray(values, float)
    values = values[..., None] if values.ndim == 2 else values
    return np.broadcast_to(np.floor(values + 0.5).clip(0, 255).astype(np.uint8), (*values.shape[:2], 3))


def on_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Composite levels (H, W, C) on white; alpha (H, W) is in [0, 1]."""
    return colors * alpha[..., None] + 255 * (1 - alpha[..., None])


def encoded(linear: np.ndarray) -> np.ndarray:
    """Return the sRGB level of linear light in [0, 1]."""
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def from_lab(lab: np.ndarray) -> np.ndarray:
    """Return the sRGB levels of CIELAB (D50) colors (…, 3)."""
    f = np.stack(
        [
            (lab[..., 0] + 16) / 116 + lab[..., 1] / 500,
            (lab[..., 0] + 16) / 116,
            (lab[..., 0] + 16) / 116 - lab[..., 2] / 200,
        ],
        -1,
    )
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return encoded(xyz @ np.linalg.inv(SRGB).T)


def from_cmyk(inks: np.ndarray) -> np.ndarray:
    """Return the levels of inks (H, W, 4) in [0, 255] without a profile: light passes every ink."""
    return (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255


def from_ycbcr(values: np.ndarray) -> np.ndarray:
    """Return the levels of JFIF's YCbCr (H, W, 3)."""
    y, cb, cr = np.moveaxis(values.astype(float), -1, 0)
    cb, cr = cb - 128, cr - 128
    return np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)


# Containers -----------------------------------------------------------------------------------------------------------


def png(values: np.ndarray, depth: int, color_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG of values (H, W) or (H, W, C) of `depth` bits; chunks come before the pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = values.reshape(len(values), -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth)[::-1]) & 1
        packed = np.packbits(bits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", values.shape[1], len(values), depth, color_type, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in body)


def tiff(values: np.ndarray, bits: int, photometric: int, tags: dict[int, Sequence[int]] | None = None) -> bytes:
    """Write an uncompressed little-endian TIFF of values (H, W) or (H, W, C); 12 bits are packed."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    if bits == 12:
        pixels = np.packbits(((values.reshape(-1, 1) >> np.arange(12)[::-1]) & 1).astype(np.uint8)).tobytes()
    else:
        pixels = values.tobytes()
    entries: dict[int, Sequence[int]] = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric], 273: [8],
        277: [channels], 278: [height], 279: [len(pixels)], **(tags or {}),
    }  # fmt: skip
    start = 8 + len(pixels)
    table, extra = b"", b""
    for tag, numbers in sorted(entries.items()):
        kind, code = (4, "I") if tag in (273, 279) else (3, "H")
        data = struct.pack(f"<{len(numbers)}{code}", *numbers)
        if len(data) > 4:
            place = start + 2 + 12 * len(entries) + 4 + len(extra)
            data, extra = struct.pack("<I", place), extra + data
        table += struct.pack("<HHI", tag, kind, len(numbers)) + data.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", start) + pixels + struct.pack("<H", len(entries)) + table + bytes(4) + extra


def exif(orientation: int) -> bytes:
    """Write EXIF with an orientation, for a PNG's eXIf chunk."""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """Write an ICC profile, version 2, of a color space and its tags."""
    header = struct.pack(">4xII4s4s4s", 0, 0x02400000, b"mntr", space, b"Lab " if b"A2B0" in tags else b"XYZ ")
    header += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _xyz(D50)[8:] + bytes(48)
    table, body, place = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    whole = header + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _gamma(exponent: float) -> bytes:
    return b"curv" + struct.pack(">IIH", 0, 1, round(exponent * 256))


def rgb_profile(primaries: np.ndarray, exponent: float) -> bytes:
    """Write the ICC profile of an RGB space, for example Adobe RGB."""
    columns = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(exponent))
    return profile(b"RGB ", {b"wtpt": _xyz(D50), **columns, **curves})


def gray_profile(exponent: float) -> bytes:
    return profile(b"GRAY", {b"wtpt": _xyz(D50), b"kTRC": _gamma(exponent)})


def cmyk_profile(lab: np.ndarray) -> bytes:
    """Write a CMYK profile from the CIELAB colors (2, 2, 2, 2, 3) of no and full ink."""
    table = np.concatenate([lab[..., :1] * 255 / 100, lab[..., 1:] + 128], -1)
    identity = bytes(range(256))
    unit = b"".join(struct.pack(">i", 65536 * value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut = b"mft1" + struct.pack(">IBBBB", 0, 4, 3, 2, 0) + unit
    lut += identity * 4 + np.rint(table).astype(np.uint8).tobytes() + identity * 3
    return profile(b"CMYK", {b"wtpt": _xyz(D50), b"A2B0": lut})


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# Pictures -------------------------------------------------------------------------------------------------------------


def blocks(chance: np.random.Generator, channels: int = 0, top: int = 256) -> np.ndarray:
    """Sample a picture of flat blocks, (H, W) or (H, W, C), of integers below `top`."""
    shape = (HEIGHT // BLOCK, WIDTH // BLOCK, *([channels] if channels else []))
    return chance.integers(0, top, shape).repeat(BLOCK, 0).repeat(BLOCK, 1)


Made = tuple[bytes, np.ndarray | None, int]  # a file, what it shows before it is turned, and the difference allowed
Maker = Callable[[np.random.Generator, int], Made]
EIGHT = np.uint8


def _pngs(depth: int, color_type: int, transparent: bool = False) -> Maker:
    """Make PNGs of one depth and color type, with a transparent color or palette if asked."""

    def make(chance: np.random.Generator, orientation: int) -> Made:
        channels = {0: 0, 2: 3, 3: 0, 4: 2, 6: 4}[color_type]
        top = 2**depth - 1
        values = blocks(chance, channels, top + 1)
        chunks = [(b"eXIf", exif(orientation))] if orientation > 1 else []
        alpha = np.ones(values.shape[:2])
        if color_type == 3:
            palette = chance.integers(0, 256, (top + 1, 3))
            levels = palette[values].astype(float)
            chunks.append((b"PLTE", palette.astype(EIGHT).tobytes()))
            if transparent:
                alphas = chance.integers(0, 256, top + 1)
                alpha = alphas[values] / 255
                chunks.append((b"tRNS", alphas.astype(EIGHT).tobytes()))
        elif color_type in (4, 6):
            levels, alpha = values[..., :-1] * 255 / top, values[..., -1] / top
        else:
            levels = values.reshape(*values.shape[:2], -1) * 255 / top
            if transparent:
                key = values[3, 20]
                alpha = 1.0 - (values == key).reshape(*values.shape[:2], -1).all(-1)
                chunks.append((b"tRNS", np.asarray(key).astype(">u2").tobytes()))
        data = png(values, depth, color_type, *chunks)
        if (depth, color_type, transparent) == (16, 2, True):
            return data, None, 0
        near = int(depth == 16 and color_type > 0) + int(color_type > 3 or transparent)
        return data, rgb(on_white(levels, alpha)), near

    return make


def _tiffs(
    bits: int,
    photometric: int,
    kind: Any,
    shows: Callable[[np.ndarray], Any] | None,
    sample: int = 1,
    channels: int = 0,
    planes: int = 1,
) -> Maker:
    """Make TIFFs that Pillow cannot save; `sample` is their sample format, `planes` is 2 if channels are separate."""

    def make(chance: np.random.Generator, orientation: int) -> Made:
        values = blocks(chance, channels, 2**bits if bits < 32 else 1000).astype(kind)
        data = tiff(
            values, bits, photometric, {339: [sample] * max(channels, 1), ORIENTATION: [orientation], 284: [planes]}
        )
        return data, None if shows is None else rgb(shows(values)), 1 if channels else 0

    return make


def _palette_of_8_bits(chance: np.random.Generator, orientation: int) -> Made:
    """Make a TIFF whose palette has values up to 255 instead of 65,535, as libtiff allows."""
    values, palette = blocks(chance).astype(EIGHT), chance.integers(0, 256, (256, 3))
    data = tiff(values, 8, 3, {320: palette.T.ravel().tolist(), ORIENTATION: [orientation]})
    return data, rgb(palette[values]), 0


def _gray_scale(bits: int, photometric: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the levels of a gray TIFF's values; where `photometric` is 0, the value 0 is white."""

    def levels(values: np.ndarray) -> np.ndarray:
        fraction = values / (2**bits - 1)
        return 255 * (fraction if photometric else 1 - fraction)

    return levels


def _by_pillow(mode: str, form: str, near: int = 0, **options: Any) -> Maker:
    """Make pictures that Pillow saves: `mode` in the container `form`."""

    def make(chance: np.random.Generator, orientation: int) -> Made:
        image, shows, extra = in_mode(mode, chance)
        choices = dict(options)
        if form == "TIFF":
            choices["compression"] = str(chance.choice(["raw", "tiff_lzw", "tiff_adobe_deflate"]))
            choices["tiffinfo"] = {ORIENTATION: orientation}
        elif orientation > 1 and form in ("JPEG", "WEBP") and chance.random() < 0.5:
            choices["xmp"] = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
        elif orientation > 1:
            choices["exif"] = Image.Exif()
            choices["exif"][ORIENTATION] = orientation
        if (mode, form) == ("I", "PPM"):  # 16 bits
            shows = rgb(np.asarray(image) / 257)
        return saved(image, form, **choices), shows, max(near, extra)

    return make


def in_mode(mode: str, chance: np.random.Generator) -> tuple[Image.Image, np.ndarray | None, int]:
    """Make an image of a Pillow mode; return it, what it shows (None if unknown), and the difference allowed."""
    channels = {"LA": 2, "La": 2, "PA": 2, "RGB": 3, "YCbCr": 3, "HSV": 3, "LAB": 3}.get(
        mode, 4 if len(mode) == 4 else 0
    )
    values = blocks(chance, channels)
    alpha = values[..., -1] / 255 if channels in (2, 4) else np.ones(values.shape[:2])
    if mode == "1":
        return Image.fromarray(values > 99), rgb(255 * (values > 99)), 0
    if mode.startswith("I;16"):
        deep = blocks(chance, 0, 2**16)
        kind = {"I;16B": ">u2"}.get(mode, "<u2")
        return Image.frombytes(mode, (WIDTH, HEIGHT), deep.astype(kind).tobytes()), rgb(deep / 257), 0
    if mode == "I":
        return Image.fromarray(blocks(chance, 0, 2**16).astype(np.int32)), None, 0
    if mode == "F":
        return Image.fromarray(values.astype(np.float32)), None, 0
    if mode in ("P", "PA"):
        palette = chance.integers(0, 256, (256, 3))
        image = Image.frombytes(mode, (WIDTH, HEIGHT), values.astype(EIGHT).tobytes())
        image.putpalette(palette.astype(EIGHT).tobytes())
        indices = values[..., 0] if mode == "PA" else values
        return image, rgb(on_white(palette[indices].astype(float), alpha)), int(mode == "PA")
    if mode in ("La", "RGBa"):  # premultiplied: no value exceeds alpha
        values[..., :-1] = values[..., :-1] * values[..., -1:] // 255
    image = Image.frombytes(mode, (WIDTH, HEIGHT), values.astype(EIGHT).tobytes())
    if mode in ("La", "RGBa"):
        return image, rgb(values[..., :-1] + 255 * (1 - alpha[..., None])), 2
    if mode == "CMYK":
        return image, rgb(from_cmyk(values)), 1
    if mode == "YCbCr":
        return image, rgb(from_ycbcr(values)), 1
    if mode == "HSV":
        return image, rgb(np.apply_along_axis(lambda one: colorsys.hsv_to_rgb(*one / 255), -1, values) * 255), 2
    if mode == "LAB":  # colors that sRGB has; a and b are stored signed
        values = (values - 128) * (60, 20, 20) // 128 + 128
        signed = (values - (0, 128, 128)).astype(EIGHT)
        image = Image.frombytes(mode, (WIDTH, HEIGHT), signed.tobytes())
        lab = np.stack([values[..., 0] / 2.55, *(values[..., 1:] - 128).transpose(2, 0, 1)], -1)
        return image, rgb(from_lab(lab)), 12  # LittleCMS interpolates
    if mode == "RGBX":
        return image, rgb(values[..., :3]), 0
    if channels in (2, 4):
        return image, rgb(on_white(values[..., :-1], alpha)), 1
    return image, rgb(values), 0


def _makers() -> dict[str, Maker]:
    """Return what makes each kind of picture; a kind ends with its suffix."""
    makers: dict[str, Maker] = {}
    for depth, color_type in [
        *((depth, 0) for depth in (1, 2, 4, 8, 16)),
        *((depth, 3) for depth in (1, 2, 4, 8)),
        *((depth, kind) for depth in (8, 16) for kind in (2, 4, 6)),
    ]:
        makers[f"{depth} bits type {color_type}.png"] = _pngs(depth, color_type)
        if color_type < 4:
            makers[f"{depth} bits type {color_type} transparent.png"] = _pngs(depth, color_type, True)
    gray_scale = {"white is 0": 0, "black is 0": 1}
    for name, photometric in gray_scale.items():
        for bits, kind in ((8, "u1"), (16, "<u2")):
            makers[f"{bits} bits {name}.tif"] = _tiffs(bits, photometric, kind, _gray_scale(bits, photometric))
    makers["12 bits.tif"] = _tiffs(12, 1, "<u2", lambda values: values / 4095 * 255)
    makers["16 bits rgb.tif"] = _tiffs(16, 2, "<u2", lambda values: values / 257, channels=3)
    makers["16 bits rgb in planes.tif"] = _tiffs(16, 2, "<u2", None, channels=3, planes=2)
    makers["8 bits palette of 8 bits.tif"] = _palette_of_8_bits
    makers["8 bits signed.tif"] = _tiffs(8, 1, "i1", None, sample=2)
    makers["16 bits signed.tif"] = _tiffs(16, 1, "<i2", None, sample=2)
    makers["32 bits.tif"] = _tiffs(32, 1, "<u4", None)
    makers["32 bits signed.tif"] = _tiffs(32, 1, "<i4", None, sample=2)
    makers["32 bits float.tif"] = _tiffs(32, 1, "<f4", None, sample=3)
    makers["32 bits float rgb.tif"] = _tiffs(32, 2, "<f4", None, sample=3, channels=3)
    by_pillow = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"),
        "TIFF": (
            *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"),
            *("I;16", "I;16L", "I;16B", "I", "F"),
        ),
    }
    for form, modes in by_pillow.items():
        for mode in modes:
            makers[f"{form} {mode}.{form.lower()}"] = _by_pillow(mode, form)
    for mode in ("1", "L", "RGB", "I;16", "I"):
        makers[f"PPM {mode}.ppm"] = _by_pillow(mode, "PPM")
    for mode in ("1", "L", "P", "RGB"):
        makers[f"BMP {mode}.bmp"] = _by_pillow(mode, "BMP")
    for mode in ("L", "LA", "RGB", "RGBA", "P"):
        makers[f"WEBP {mode}.webp"] = _by_pillow(mode, "WEBP", 1, lossless=True, exact=True)
    for mode in ("L", "RGB", "CMYK", "YCbCr"):
        makers[f"JPEG {mode}.jpg"] = _by_pillow(mode, "JPEG", 6, quality=100, subsampling=0)
    for mode in ("L", "LA", "RGB", "RGBA"):
        makers[f"AVIF {mode}.avif"] = _by_pillow(mode, "AVIF", 4, quality=100, subsampling="4:4:4")
    others = {
        ("TGA", "tga"): ("1", "L", "LA", "P", "RGB", "RGBA"),
        ("JPEG2000", "jp2"): ("L", "LA", "RGB", "RGBA", "I;16"),
        ("GIF", "gif"): ("1", "L", "P"),
        ("QOI", "qoi"): ("RGB", "RGBA"),
        ("PCX", "pcx"): ("1", "L", "P", "RGB"),
        ("SGI", "sgi"): ("L", "RGB", "RGBA"),
        ("DDS", "dds"): ("L", "LA", "RGB", "RGBA"),
        ("PPM", "pfm"): ("F",),
    }
    for (form, suffix), modes in others.items():
        for mode in modes:
            makers[f"{form} {mode}.{suffix}"] = _by_pillow(mode, form)
    return makers


MAKERS = _makers()
HOLDS_ORIENTATION = (".png", ".tif", ".tiff", ".webp", ".jpg", ".avif")


def picture(kind: str, orientation: int, seed: int) -> Picture:
    """Make a picture of a kind; `orientation` is ignored where the container holds none."""
    suffix = "." + kind.rpartition(".")[2]
    orientation = orientation if suffix in HOLDS_ORIENTATION else 1
    data, shows, near = MAKERS[kind](np.random.default_rng(seed), orientation)
    return Picture(kind, data, suffix, None if shows is None else upright(shows, orientation), near)
