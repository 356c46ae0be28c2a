"""Inspect a dataset: images per class, what is left out, sizes and modes, and images that both splits contain."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablations.data.datasets import DataSet, Images, Split
from ablations.data.decode import DamagedImageError, header
from ablations.data.folders import class_folders
from ablations.data.image_files import ImageFiles
from ablations.data.inventory import Account, Inventory, shown, some
from ablations.data.map_images import MapImages

HEADERS = 5_000  # of each split that are read for sizes and modes
READS = 20_000  # files that are read to find images of both splits
EXAMPLES = 3
Files = ImageFiles | MapImages
LISTED = 20  # classes that are listed one by one


@dataclass(frozen=True)
class ClassCount:
    """A class and the number of its images."""

    label: int
    name: str
    train: int
    test: int


@dataclass(frozen=True)
class Headers:
    """How many images of a split have each size, mode and format, by their headers; which are unreadable.

    `examined` images were looked at, spread evenly over the split.
    """

    examined: int
    sizes: Counter[tuple[int, int]]  # width and height in pixels
    modes: Counter[str]
    formats: Counter[str]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """A test image that equals a training image: the names or indices of both, and whether their classes agree."""

    test: str
    train: str
    same_class: bool


@dataclass(frozen=True)
class Duplicates:
    """The test images that the training split contains too, of those that were compared with the whole of it."""

    compared: int
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Inspection:
    """What `ablations data` prints of a dataset; `account` is None for datasets that are no folders of files."""

    name: str
    place: str
    checksum: str
    shape: tuple[int, int, int]  # channels, height and width that the network sees
    classes: tuple[ClassCount, ...]
    account: Account | None
    misnamed: tuple[str, ...]  # images by their contents, among the examples of files left out for their suffix
    headers: dict[str, Headers]  # by split
    duplicates: Duplicates
    origin: str  # which images are the training and the test split, if that is a choice

    @property
    def images(self) -> tuple[int, int]:
        """Return the number of training and test images."""
        return sum(one.train for one in self.classes), sum(one.test for one in self.classes)


def inspect(data: DataSet) -> Inspection:
    """Inspect a dataset. Images in files are opened again; of large datasets, a part is examined."""
    counts = [np.bincount(split.labels.numpy(), minlength=len(data.classes)) for split in (data.train, data.test)]
    classes = tuple(
        ClassCount(label, name, int(train), int(test))
        for label, (name, train, test) in enumerate(zip(data.classes, *counts, strict=True))
    )
    train, test = _files(data)
    if isinstance(train, Split) and isinstance(test, Split):
        duplicates = _duplicate_arrays(train, test)
    else:
        assert not isinstance(train, Split) and not isinstance(test, Split)
        duplicates = _duplicate_files(train, test)
    headers = {"train": _headers(train), "test": _headers(test)}
    shape = (data.channels, data.image_size, data.image_size)
    misnamed = tuple(_misnamed(data))
    found = data.name, data.place, data.checksum, shape, classes, data.account, misnamed, headers, duplicates
    return Inspection(*found, data.origin)


def _files(data: DataSet) -> tuple[Images, Images]:
    """Return the splits; those of `folder`, which are held in memory at another size, as files."""
    if data.name != "folder":
        return data.train, data.test
    train, test = class_folders("folder", Path(data.place))
    return train.files(), test.files()


def _misnamed(data: DataSet) -> Iterator[str]:
    """Yield the examples of files left out of class folders for their suffix that are images by their contents."""
    if data.account is None or (isinstance(data.train, ImageFiles) and data.train.shards):
        return
    for split, inventory in (("train", data.account.train), ("val", data.account.test)):
        for name in (name for one in inventory.skipped if "suffix" in one.reason for name in one.examples):
            with contextlib.suppress(OSError, DamagedImageError), Path(data.place, split, name).open("rb") as file:
                header(file, name)
                yield f"{split}/{name}"


def _headers(split: Images) -> Headers:
    if isinstance(split, Split):
        count, height, width, channels = split.images.shape
        mode = {1: "L", 3: "RGB"}.get(channels, f"{channels} channels")
        return Headers(count, Counter({(width, height): count}), Counter({mode: count}), Counter(), ())
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    unreadable = []
    chosen = _spread(len(split), HEADERS)
    for index in chosen:
        try:
            found = split.header(index)
        except (OSError, DamagedImageError):
            unreadable.append(split.name(index))
            continue
        sizes[found.width, found.height] += 1
        modes[found.mode] += 1
        formats.update([found.format] if found.format else [])
    return Headers(len(chosen), sizes, modes, formats, tuple(unreadable))


def _spread(count: int, limit: int) -> list[int]:
    """Return at most `limit` of `count` indices, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int)).tolist()


def _duplicate_arrays(train: Split, test: Split) -> Duplicates:
    def digests(split: Split) -> Iterator[bytes]:
        return (hashlib.sha256(image.tobytes()).digest() for image in split.images.numpy())

    there: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests(train)):
        there.setdefault(digest, []).append(index)
    labels = train.labels.tolist(), test.labels.tolist()
    twins = ((index, there[digest]) for index, digest in enumerate(digests(test)) if digest in there)
    pairs = (_pair(index, twins, *labels) for index, twins in twins)
    return Duplicates(len(test), tuple(Pair(f"test {index}", f"train {twin}", same) for index, twin, same in pairs))


def _pair(index: int, twins: list[int], train: list[int], test: list[int]) -> tuple[int, int, bool]:
    """Return a test image, one of its twins, if possible of its class, and whether it is."""
    same = [twin for twin in twins if train[twin] == test[index]]
    return index, (same or twins)[0], bool(same)


def _duplicate_files(train: Files, test: Files) -> Duplicates:
    """Compare files of equal length by their contents, reading at most `READS` files."""
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(train.lengths().tolist()):
        by_length.setdefault(length, []).append(index)
    labels = train.labels.tolist(), test.labels.tolist()
    lengths = test.lengths().tolist()
    read: dict[int, dict[bytes, list[int]]] = {}  # by length, training images of each digest
    left, compared, pairs = READS, 0, []
    for index in _spread(len(test), READS):
        length = lengths[index]
        candidates = by_length.get(length, []) if length >= 0 else []
        needed = (1 if length in read else 1 + len(candidates)) if candidates else 0
        if needed > left:
            continue
        left -= needed
        compared += 1
        if candidates and length not in read:
            read[length] = {}
            for candidate in candidates:
                read[length].setdefault(_digest(train, candidate), []).append(candidate)
        if candidates and (twins := read[length].get(_digest(test, index))):
            _, twin, same = _pair(index, twins, *labels)
            pairs.append(Pair(test.name(index), train.name(twin), same))
    return Duplicates(compared, tuple(pairs))


def _digest(files: Files, index: int) -> bytes:
    """Return the digest of an image's file; of one that cannot be read, a digest that no other has."""
    try:
        return hashlib.sha256(files.read(index)).digest()
    except (OSError, DamagedImageError):
        return files.name(index).encode()


# ---- text


def describe(found: Inspection) -> str:
    """Describe a dataset in a few lines."""
    channels, height, width = found.shape
    train, test = found.images
    sizes = {size for one in found.headers.values() for size in one.sizes}
    lines = [
        f"{found.name}: {train} training and {test} test images of {channels}×{height}×{width} in "
        f"{len(found.classes)} classes, checksum {found.checksum[:12]}, in {found.place}",
        f"  classes (training and test images): {_describe_classes(found.classes)}",
    ]
    lines += [f"  splits: {found.origin}"] if found.origin else []
    if found.account is not None:
        lines += [f"  {note}" for note in found.account.notes]
        for split, inventory in (("training", found.account.train), ("test", found.account.test)):
            lines += _describe_inventory(split, inventory)
    if found.misnamed:
        lines.append(f"  left out for their suffix, but images by their contents: {some(found.misnamed)}")
    lines += [_describe_headers("training", found.headers["train"], train)]
    lines += [_describe_headers("test", found.headers["test"], test)]
    lines += [f"  unreadable images: {text}" for text in _describe_unreadable(found.headers.values())]
    if sizes - {(width, height)}:
        lines.append(f"  {height}×{width}: what images are resized to, unless the recipe has another image_size")
    return "\n".join([*lines, _describe_duplicates(found.duplicates, test)])


def _describe_classes(classes: Sequence[ClassCount]) -> str:
    if len(classes) <= LISTED:
        return ", ".join(f"{_quoted(one.name)} {one.train} and {one.test}" for one in classes)
    counts = (("training", [one.train for one in classes]), ("test", [one.test for one in classes]))
    spread = "; ".join(f"{split} {min(n)} to {max(n)}, median {float(np.median(n)):g}" for split, n in counts)
    return f"{_quoted(classes[0].name)} to {_quoted(classes[-1].name)}; per class {spread}"


def _quoted(name: str) -> str:
    """Return a name on one line, in quotes if it has commas or spaces."""
    return f'"{shown(name)}"' if re.search(r"[,\s]", name) else shown(name)


def _describe_inventory(split: str, inventory: Inventory) -> list[str]:
    labels = f" and {inventory.labels} classes" if inventory.labels else ""
    lines = [f"  {split} files: {inventory.files} = {inventory.images} images{labels} + {inventory.left_out} left out"]
    for one in inventory.skipped:
        more = ", …" if one.files > len(one.examples) else ""
        lines.append(f"    {one.files} {one.reason}: {', '.join(one.examples)}{more}")
    return lines


def _describe_headers(split: str, found: Headers, images: int) -> str:
    readable = list(found.sizes.elements())
    sizes = "none readable"
    if readable:
        width, height = (sorted(side) for side in zip(*readable, strict=True))
        middle = len(readable) // 2
        sizes = f"{width[0]} to {width[-1]} wide (median {width[middle]}), "
        sizes += f"{height[0]} to {height[-1]} high (median {height[middle]})"
        if len(found.sizes) == 1:
            sizes = f"{width[0]}×{height[0]}"
    kinds = "; ".join(
        ", ".join(f"{name} {count}" for name, count in counter.most_common())
        for counter in (found.modes, found.formats)
    )
    part = "" if found.examined == images else f", {found.examined} of {images} examined"
    return f"  {split} images{part} (width×height, pixels): {sizes}; {kinds.removesuffix('; ')}"


def _describe_unreadable(headers: Iterable[Headers]) -> Iterator[str]:
    names = [name for one in headers for name in one.unreadable]
    if names:
        yield f"{len(names)}, such as {', '.join(names[:EXAMPLES])}"


def _describe_duplicates(found: Duplicates, test: int) -> str:
    if not found.compared:
        return "  duplicates: not searched for, since too many images have files of the same length"
    part = "" if found.compared == test else f" ({found.compared} of {test} were compared)"
    text = f"  duplicates: {len(found.pairs)} test images equal a training image exactly{part}"
    if not found.pairs:
        return text
    other = sum(not pair.same_class for pair in found.pairs)
    labels = f", {other} of them under another class" if other else ""
    return f"{text}{labels}, such as {found.pairs[0].test} = {found.pairs[0].train}"


def as_json(found: Inspection) -> dict[str, Any]:
    """Return everything that was found as plain values."""
    values = dataclasses.asdict(found)
    values["images"] = dict(zip(("train", "test"), found.images, strict=True))
    for split, headers in found.headers.items():
        values["headers"][split] = {
            "examined": headers.examined,
            "sizes": [{"width": w, "height": h, "images": n} for (w, h), n in sorted(headers.sizes.items())],
            "modes": dict(headers.modes),
            "formats": dict(headers.formats),
            "unreadable": list(headers.unreadable),
        }
    if found.account is not None:
        for split, inventory in (("train", found.account.train), ("test", found.account.test)):
            values["account"][split] |= {"files": inventory.files, "left_out": inventory.left_out}
    return values
