"""List the images of class folders: which folders are classes, and why each other file is left out."""

from __future__ import annotations

import heapq
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ablations.data.image_files import ImageFiles
from ablations.data.inventory import (
    CLASSES,
    EXAMPLES,
    Account,
    Inventory,
    Tally,
    is_image_name,
    reason_to_skip,
    shown,
    some,
)
from ablations.errors import RequestError

Identity = tuple[int, int]  # of a folder: device and inode


@dataclass(frozen=True)
class ClassFolders:
    """The images of a split: by class folder, in the order of labels, their paths below `place`, sorted."""

    place: Path
    images: dict[str, list[str]]
    inventory: Inventory
    folders: dict[Identity, str]  # that were read, with their paths below `place`

    @property
    def classes(self) -> list[str]:
        return list(self.images)

    def ordered(self, classes: list[str]) -> ClassFolders:
        """Return the same images with the classes in this order."""
        return replace(self, images={name: self.images[name] for name in classes})

    def files(self) -> ImageFiles:
        """Return the images, to be decoded when they are read."""
        names = [os.fsencode(path) for paths in self.images.values() for path in paths]
        labels = [label for label, paths in enumerate(self.images.values()) for _ in paths]
        return ImageFiles(self.place, np.array(names), torch.tensor(labels))


def class_folders(dataset: str, data_dir: Path) -> tuple[ClassFolders, ClassFolders]:
    """List train/ and val/ below a folder; label N is the Nth class of the training split in the order of code points.

    Class folders match if their names are the same Unicode text, composed or decomposed (macOS).

    Raises:
        RequestError: If a split has no class folders, a class has no images, or the splits' classes differ.
    """
    train, test = (_scanned(dataset, data_dir / split) for split in ("train", "val"))
    if len(train.classes) > CLASSES:
        raise RequestError(
            f"dataset {dataset}: {train.place} contains {len(train.classes)} class folders; maximum: {CLASSES}"
        )
    forms, others = _forms(dataset, train), _forms(dataset, test)
    odd = sorted(forms.keys() ^ others.keys())
    if odd:
        lacking, known = (test, others) if odd[0] in forms else (train, forms)
        other = [one for one in known if _loosely(one) == _loosely(odd[0])]
        link = lacking.place / (forms | others)[odd[0]]
        raise RequestError(
            f"dataset {dataset}: class '{shown(odd[0])}' is in only one of {train.place} and {test.place}"
            + (f", and '{shown(other[0])}' in the other: rename one" if other else "")
            + (f"; {shown(str(link))} is a link to a folder that is read already" if link.is_symlink() else "")
        )
    return train, test.ordered([others[form] for form in forms])


def account_for(train: ClassFolders, test: ClassFolders) -> Account:
    """Account for the files of both splits; say which folders are in both."""
    both = [path for identity, path in train.folders.items() if identity in test.folders]
    notes = (f"folders of {train.place.name} that {test.place.name} contains too: {some(both)}",) if both else ()
    return Account(train.inventory, test.inventory, notes)


def _forms(dataset: str, split: ClassFolders) -> dict[str, str]:
    """Return the name of each class folder by its composed form; raise RequestError if two have the same."""
    forms: dict[str, str] = {}
    for name in split.classes:
        form = unicodedata.normalize("NFC", name)
        if form in forms:
            raise RequestError(
                f"dataset {dataset}: {split.place} contains two class folders '{shown(form)}', "
                f"written with different Unicode characters; rename or merge them"
            )
        forms[form] = name
    return forms


def _loosely(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def is_folder(dataset: str, place: Path) -> bool:
    """Whether there is such a folder; raise RequestError if that may not be known."""
    try:
        return place.is_dir()
    except OSError as error:
        raise _unreadable(dataset, place, error) from None


def _unreadable(dataset: str, place: Path, error: OSError) -> RequestError:
    name = shown(str(place))
    name = name if len(name) <= 300 else f"{name[:150]}…{name[-100:]}"
    return RequestError(f"dataset {dataset}: folder {name} cannot be read ({error.strerror or error})")


def _scanned(dataset: str, place: Path) -> ClassFolders:
    """List the class folders of a split; raise RequestError if there are none, or one has no images."""
    if not is_folder(dataset, place):
        raise RequestError(
            f"dataset {dataset}: no folder {place}; it must contain one folder of images per class"
            + _folders_in(place.parent)
        )
    walk = _Walk(dataset, place)
    walk.run()
    if not walk.images:
        raise RequestError(f"dataset {dataset}: {place} contains no class folders (one folder of images per class)")
    images = {name: sorted(walk.images[name]) for name in sorted(walk.images)}
    inventory = Inventory(sum(map(len, images.values())), skipped=walk.tally.skipped)
    for name in images:
        if not images[name]:
            raise _no_images(dataset, place, name)
    return ClassFolders(place, images, inventory, walk.read)


def _no_images(dataset: str, place: Path, name: str) -> RequestError:
    """Return the error for a class folder without images, which says what it contains instead."""
    walk = _Walk(dataset, place)
    walk.tally = _TallyBelow(folder=name)
    walk.run()
    others = ", ".join(f"{one.reason} ({one.examples[0]})" for one in walk.tally.skipped[:EXAMPLES])
    return RequestError(
        f"dataset {dataset}: class folder {place}/{shown(name)} contains no images"
        + (f"; left out: {others}" if others else "; remove it, or add images such as .jpg or .png")
    )


@dataclass
class _TallyBelow(Tally):
    """Count what is left out in one class folder."""

    folder: str = ""

    def skip(self, reason: str, name: str, files: int = 1) -> None:
        if name.startswith(f"{self.folder}/"):
            super().skip(reason, name, files)


def _folders_in(place: Path) -> str:
    """Say which folders there are, for a user who named another one; nothing if there are none."""
    try:
        names = sorted(path.name for path in place.iterdir() if path.is_dir() and not reason_to_skip(path.name))
    except OSError:
        return ""
    return f" ({place} contains {some(names)})" if names else ""


class _Walk:
    """Walk the class folders of a split; read each folder once, whatever links lead to it.

    Folders that are stored below `place` come first. Links to other folders follow, the shortest path first.
    """

    def __init__(self, dataset: str, place: Path):
        self.dataset, self.place = dataset, place
        self.images: dict[str, list[str]] = {}  # by class folder, paths below `place`
        self.tally = Tally()
        self.links: list[tuple[int, str]] = []  # depth and path of each link to a folder
        real = place.resolve()
        self.visited: set[Identity] = {_identity(folder) for folder in (real, *real.parents)}
        self.read: dict[Identity, str] = {}

    def run(self) -> None:
        """Raise RequestError if a folder cannot be read."""
        self._walk("")
        while self.links:
            _, path = heapq.heappop(self.links)
            if not self._leads_up(path) and self._is_new(path):
                self._walk(path)
            else:
                self.tally.skip("links to a folder that is read already", path)

    def _walk(self, start: str) -> None:
        """Read a folder and the folders in it that are no links."""
        stack = [start]
        while stack:
            folder = stack.pop()
            if folder and "/" not in folder:
                self.images[folder] = []
            for entry in self._entries(folder):
                path = f"{folder}/{entry.name}" if folder else entry.name
                kind = _kind(entry)
                reason = reason_to_skip(entry.name)
                if reason is not None:
                    self._skip(reason, path, kind)
                elif kind == "link to a folder":
                    heapq.heappush(self.links, (path.count("/"), path))
                elif kind == "folder":
                    if self._is_new(path):
                        stack.append(path)
                    else:  # within a link to a folder that contains the dataset, or mounted twice
                        self._skip("folders that are read already", path, kind)
                elif not folder and kind == "link to nowhere":
                    raise RequestError(
                        f"dataset {self.dataset}: {self.place / shown(path)} is a link to nowhere; mend or remove it"
                    )
                elif not folder:
                    self.tally.skip("not in a class folder", path)
                elif kind == "special":
                    self.tally.skip("not a regular file", path)
                elif is_image_name(entry.name):
                    self.images[path.partition("/")[0]].append(path)
                elif kind == "link to nowhere":
                    self.tally.skip("links to nowhere", path)
                else:
                    self.tally.skip_suffix(path)

    def _skip(self, reason: str, path: str, kind: str) -> None:
        """Leave out an entry, if it is a folder with all files in it."""
        if kind == "folder":
            self.tally.skip(reason, f"{path}/", _count(f"{self.place}/{path}"))
        else:
            self.tally.skip(reason, path)

    def _is_new(self, path: str) -> bool:
        """Whether a folder has not been visited; visit it."""
        full = self.place / path
        try:
            identity = _identity(full)
        except OSError as error:
            raise _unreadable(self.dataset, full, error) from None
        if identity in self.visited:
            return False
        self.visited.add(identity)
        self.read[identity] = path
        return True

    def _leads_up(self, path: str) -> bool:
        """Whether a link leads to a folder that contains the link."""
        target, holder = (os.path.realpath(one) for one in (self.place / path, (self.place / path).parent))
        return f"{holder}/".startswith(f"{target.rstrip('/')}/")

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        place = self.place / folder
        try:
            with os.scandir(place) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise _unreadable(self.dataset, place, error) from None


def _identity(folder: Path) -> Identity:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """Return "folder", "link to a folder", "file", "link to nowhere" or "special"."""
    try:
        if entry.is_dir():
            return "link to a folder" if entry.is_symlink() else "folder"
        if entry.is_file():
            return "file"
        if entry.is_symlink():
            entry.stat()
    except OSError:  # nothing is there, the link leads to itself, or its target may not be entered
        return "link to nowhere"
    return "special"


def _count(folder: str) -> int:
    """Count the files in a folder that is left out, and in its subfolders; follow no links."""
    return sum(1 for _ in _files_within(folder))


def _files_within(folder: str) -> Iterator[str]:
    stack = [folder]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
                    else:
                        yield entry.path
        except OSError:  # it is left out anyway
            continue
