"""List the images of WebDataset shards: which members are a sample's image and class, and why others are left out."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.data.image_files import ImageFiles
from ablations.data.inventory import (
    CLASSES,
    Inventory,
    Skipped,
    Tally,
    is_image_name,
    parted,
    reason_to_skip,
    shown,
    some,
)
from ablations.errors import RequestError, one_line

_RULES = "2"  # of what is a sample; a stored index made by other rules is not read

Span = tuple[int, int, int]  # shard number, first byte, length


def shard_paths(data_dir: Path) -> tuple[list[Path], list[Path]]:
    """Return the shards *train*.tar and *val*.tar of a folder; raise RequestError unless each split has its own."""
    train, test = (
        sorted(path for path in data_dir.glob(f"*{split}*.tar") if _is_shard(path)) for split in ("train", "val")
    )
    if not train or not test:
        packed = sorted(path.name for path in data_dir.glob("*") if _COMPRESSED.search(path.name))
        raise RequestError(
            f"dataset imagenet: {data_dir} contains neither folders train and val, each with one folder of images "
            f"per class, nor WebDataset shards *train*.tar and *val*.tar"
            + (f"; decompress the shards ({some(packed)})" if packed else "")
        )
    both = set(train) & set(test)
    if both:
        raise RequestError(
            f"dataset imagenet: {min(both)} is named as a shard of both splits; its name must contain only one "
            f"of train and val"
        )
    return train, test


_COMPRESSED = re.compile(r"(train|val).*\.(tar\.(gz|bz2|xz|zst)|tgz)$")
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # of gzip, bzip2, xz and zstd


def _is_shard(path: Path) -> bool:
    """Whether a path is a file that is not hidden, or a link to nowhere, which cannot be read."""
    return reason_to_skip(path.name) is None and (path.is_file() or not path.exists())


def shards(paths: Sequence[Path]) -> tuple[ImageFiles, Inventory]:
    """List the images of WebDataset shards, in the shards' order; raise RequestError if a shard cannot be read.

    A sample is a key with an image (`.jpg`, `.png`…) and its class as an integer (`.cls`). Positions are read once from
    the shards' headers, and stored in an index file beside the shards if possible.
    """
    place = paths[0].parent
    try:
        stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    except OSError as error:
        raise RequestError(f"dataset imagenet: shard {error.filename} cannot be read ({one_line(error)})") from None
    stamp = hashlib.sha256(repr((_RULES, stamps)).encode())
    index = place / f".index-{stamp.hexdigest()[:16]}.npz"
    try:
        with np.load(index) as stored:
            names, labels, spans = stored["names"], stored["labels"], stored["spans"]
            inventory = _inventory(json.loads(str(stored["inventory"])))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        tally = Tally()
        samples = [sample for number, path in enumerate(paths) for sample in _samples(number, path, tally)]
        names = np.array([os.fsencode(sample.key) for sample in samples])
        labels = np.array([sample.label for sample in samples], np.int64)
        spans = np.array([sample.span for sample in samples], np.int64).reshape(-1, 3)
        inventory = Inventory(len(samples), len(samples), tally.skipped)
        _write_index(
            index, names=names, labels=labels, spans=spans, inventory=json.dumps(dataclasses.asdict(inventory))
        )
    return ImageFiles(place, names, torch.tensor(labels), tuple(paths), spans), inventory


def check_labels(data_dir: Path, train: ImageFiles, test: ImageFiles) -> list[str]:
    """Return the names of the classes, 0 to the largest; raise RequestError if the splits have different classes."""
    ours, others = (set(split.labels.unique().tolist()) for split in (train, test))
    if ours != others:
        odd = min(ours ^ others)
        raise RequestError(
            f"dataset imagenet: class {odd} is in only one of the shards {data_dir}/*train*.tar and "
            f"{data_dir}/*val*.tar ({'train' if odd in ours else 'val'})"
        )
    return [str(label) for label in range(max(ours) + 1)]


def shard_notes(data_dir: Path, train: ImageFiles, test: ImageFiles) -> tuple[str, ...]:
    """Say which classes have no images, which shards are missing or in both splits, and what only looks like one."""
    notes = []
    there = set(train.labels.unique().tolist())
    missing = [str(label) for label in range(max(there)) if label not in there]
    if missing:
        notes.append(f"{len(missing)} of {max(there) + 1} classes have no images ({some(missing)})")
    both = {path.resolve() for path in train.shards} & {path.resolve() for path in test.shards}
    if both:
        notes.append(f"shards of both splits: {some(sorted(path.name for path in both))}")
    absent = [name for split in (train, test) for name in _absent(split.shards)]
    if absent:
        notes.append(f"missing among the numbered shards: {some(absent)}")
    used = {path.name for path in (*train.shards, *test.shards)}
    others = sorted(
        path.name
        for path in data_dir.iterdir()
        if path.name not in used and re.search(r"(train|val).*\.(tar|tgz)\b", path.name)
    )
    if others:
        notes.append(f"left out, though named as shards: {some(others)}")
    return tuple(notes)


def _absent(paths: Sequence[Path]) -> list[str]:
    """Return the shards whose numbers are missing between the first and the last of the same name."""
    names = {path.name for path in paths}
    numbered: dict[str, list[str]] = {}
    for name in names:
        if match := re.fullmatch(r"(.*?)([0-9]+)\.tar", name):
            numbered.setdefault(match[1], []).append(match[2])
    expected = (
        f"{stem}{number:0{min(map(len, numbers))}}.tar"
        for stem, numbers in sorted(numbered.items())
        for number in range(min(map(int, numbers)), min(max(map(int, numbers)), _MOST_SHARDS))
    )
    return [name for name in expected if name not in names]


_MOST_SHARDS = 100_000  # larger numbers are dates and the like, not counts


def _inventory(values: dict[str, Any]) -> Inventory:
    skipped = (Skipped(one["reason"], one["files"], tuple(one["examples"])) for one in values["skipped"])
    return Inventory(values["images"], values["labels"], tuple(skipped))


@dataclass(frozen=True)
class _Sample:
    key: str
    label: int
    span: Span


def _samples(number: int, path: Path, tally: Tally) -> list[_Sample]:
    """Return the samples of a shard, in the order of its images; tally its other files."""
    try:
        images, labels = _read_members(number, path, tally)
        keys = _keys(list(images), labels.keys(), path, tally)
        return [_Sample(key, _label(key, labels[key]), images[name]) for name, key in keys.items()]
    except _ShardError as error:
        raise RequestError(f"dataset imagenet: shard {path}: {error}") from None
    except (tarfile.TarError, OSError, ValueError) as error:
        reason = "it is compressed; decompress it" if _is_compressed(path) else one_line(error)
        raise RequestError(f"dataset imagenet: shard {path} cannot be read ({reason})") from None


def _is_compressed(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(6).startswith(_MAGIC)
    except OSError:
        return False


class _ShardError(ValueError):
    """A shard can be read, but does not hold one image and one class per sample."""


def _read_members(number: int, path: Path, tally: Tally) -> tuple[dict[str, Span], dict[str, bytes]]:
    """Return the images of a shard, and the contents of its classes by name without `.cls`; tally its other files."""
    spans: dict[str, Span] = {}  # of all regular files, to which hard links lead
    images: dict[str, Span] = {}
    labels: dict[str, bytes] = {}
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            if member.isdir():
                continue
            name = member.name
            if member.isreg():
                spans[name] = (number, member.offset_data, member.size)
            reason = _reason_to_skip(member)
            if reason is not None:
                tally.skip(reason, f"{path.name}/{name}")
                continue
            if name not in spans and member.linkname not in spans:
                raise _ShardError(f"{shown(name)} is a hard link to {shown(member.linkname)}, which is not before it")
            span = spans.get(name) or spans[member.linkname]
            stem, suffix = parted(name)
            if is_image_name(name):
                if name in images:
                    raise _ShardError(f"{shown(name)} is in it twice; remove one")
                images[name] = span
            elif suffix.lower() == ".cls":
                if stem in labels:
                    raise _ShardError(f"{shown(name)} is in it twice; remove one")
                file = shard.extractfile(member)
                labels[stem] = file.read(_LONGEST_LABEL + 1) if file else b""
            else:
                tally.skip_suffix(f"{path.name}/{name}")
    _check_end(path, shard.offset)
    return images, labels


def _reason_to_skip(member: tarfile.TarInfo) -> str | None:
    """Return why a member is neither image nor class, whatever its suffix."""
    parts = (part for part in member.name.split("/") if part not in (".", ".."))
    reason = next((reason for part in parts if (reason := reason_to_skip(part)) is not None), None)
    if reason is None and member.issym():
        return "symbolic links in a shard"
    return reason if reason or ((member.isreg() or member.islnk()) and not member.issparse()) else "not a regular file"


def _keys(images: list[str], labels: Collection[str], path: Path, tally: Tally) -> dict[str, str]:
    """Return the key of each image that is a sample's, in order; tally further images, and classes without one.

    An image and a class of the same name are a sample, also if the name has dots (`a.v3.jpg`, `a.v3.cls`). Other images
    belong to the sample that WebDataset puts them into, whose key ends at the first dot of the file name.
    """
    named: dict[str, str] = {}  # the image of each key
    others: dict[str, list[str]] = {}
    for name in images:
        key = parted(name)[0]
        if key not in labels:
            folder, slash, file = name.rpartition("/")
            others.setdefault(f"{folder}{slash}{file.partition('.')[0]}", []).append(name)
        elif key in named:
            raise _two_images(key, named[key], name)
        else:
            named[key] = name
    for key, names in others.items():
        if key not in labels:
            raise _ShardError(f"{shown(key)} has no class (a .cls file)")
        if key not in named and len(names) > 1:
            raise _two_images(key, *names[:2])
        if key in named:
            for name in names:
                tally.skip("further images of a sample", f"{path.name}/{name}")
        else:
            named[key] = names[0]
    if not named:
        raise _ShardError("it contains no images with a class (a .cls file of the same name)")
    for key in labels:
        if key not in named:
            tally.skip("classes (.cls) without an image", f"{path.name}/{key}.cls")
    keys = {name: key for key, name in named.items()}
    return {name: keys[name] for name in images if name in keys}


def _two_images(key: str, first: str, second: str) -> _ShardError:
    return _ShardError(f"sample {shown(key)} has two images ({shown(first)} and {shown(second)}); keep one")


_LONGEST_LABEL = 100  # bytes


def _label(key: str, data: bytes) -> int:
    """Return the class in a `.cls` file; raise _ShardError if it is not an integer from 0."""
    text = data.strip()
    if not re.fullmatch(rb"[0-9]+", text):
        words = shown(os.fsdecode(text[:20])) or "empty"
        raise _ShardError(f"the class of {shown(key)} is {words}; classes must be integers from 0 to {CLASSES - 1}")
    if int(text) >= CLASSES:
        raise _ShardError(f"{shown(key)} has class {text.decode()}; classes must be from 0 to {CLASSES - 1}")
    return int(text)


def _check_end(path: Path, end: int) -> None:
    """Raise ValueError if no end of file follows a tar file's last sample, which `tarfile` does not check."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"it is truncated or corrupt at byte {end}")


def _write_index(path: Path, **arrays: Any) -> None:
    from ablations.store import write_bytes

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with contextlib.suppress(OSError):  # the folder is often read-only: the next run reads the headers again
        write_bytes(path, buffer.getvalue())
