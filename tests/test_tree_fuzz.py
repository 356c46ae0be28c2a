"""Random folders and shards: a dataset or one line of refusal, and every file of a dataset is accounted for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import socket
import tarfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_trees import encoded

from ablations.data.datasets import DataSet, load
from ablations.data.inspection import as_json, describe, inspect
from ablations.data.inventory import Inventory
from ablations.errors import RequestError

# Names of files and folders: Unicode, markup, options, shell, undecodable bytes, control characters, other systems.
ODD = [
    "a",
    "é",
    "e\u0301",
    "鯨",
    "🌞",
    "x y ",
    " x",
    "-rf",
    "%s",
    "[red]b",
    "'q'",
    '"',
    "*",
    "~",
    "x\ny",
    "\t",
    "CON",
]
ODD += ["\u202egpj", "ß", "SS", "\u200b", "{0}", "$HOME", "`id`", "\\n", "x" * 200, "a.b.c", "1.0"]
ODD += [os.fsdecode(b"\xff\xfe"), os.fsdecode(b"caf\xe9")]
IMAGES = ("jpg", "JPG", "jpeg", "jfif", "png", "gif", "webp", "bmp", "tif", "ppm", "avif", "tga", "jp2")
OTHERS = (".txt", "", ".heic", ".jpg~", ".zip", ".jpg.part", ".JPG ", ".😀", ".py", ".xml", ".mp4", ".npy")
FORMS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF")
PICTURES = [encoded(number, form) for number, form in enumerate(FORMS)]
ROOT = os.geteuid() == 0  # may read everything


@dataclass
class Grown:
    """What is written, and what must be found in it; `store` is a folder outside the dataset, to which links lead."""

    chance: random.Random
    store: Path
    images: int = 0
    labels: int = 0
    files: int = 0
    names: int = 0
    unreadable: bool = False  # an image cannot be decoded
    locked: bool = False  # a folder may be read by root only
    refused: bool = False

    def name(self, suffix: str = "") -> str:
        """An odd name that is new, whatever the normalization and case."""
        self.names += 1
        return f"{self.chance.choice(ODD)}{self.names}{suffix}"

    def picture(self) -> bytes:
        data = self.chance.choice(PICTURES)
        if self.chance.random() < 0.9:
            return data
        self.unreadable = True
        return self.chance.choice([b"", data[: len(data) // 2], b"<html>404</html>", bytes(100), data[::-1]])

    def matches(self, found: Inventory) -> None:
        assert (found.images, found.labels, found.files) == (self.images, self.labels, self.files)
        assert found.images + found.labels + sum(one.files for one in found.skipped) == found.files
        assert all(one.files >= 0 and one.examples for one in found.skipped)


def grow(grown: Grown, folder: Path, depth: int) -> None:
    """Fill a folder that lies that deep below a class."""
    for _ in range(grown.chance.randrange(1, 6)):
        grown.chance.choice(OPERATIONS)(grown, folder, depth)


def image(grown: Grown, folder: Path, depth: int) -> None:
    path = folder / grown.name(f".{grown.chance.choice(IMAGES)}")
    path.write_bytes(grown.picture())
    if grown.chance.random() < 0.05:
        path.chmod(0)
        grown.unreadable = True
    grown.images += 1
    grown.files += 1


def other(grown: Grown, folder: Path, depth: int) -> None:
    (folder / grown.name(grown.chance.choice(OTHERS))).write_bytes(grown.chance.choice([b"", *PICTURES]))
    grown.files += 1


def hidden(grown: Grown, folder: Path, depth: int) -> None:
    (folder / (grown.chance.choice([".", "._"]) + grown.name(".jpg"))).write_bytes(PICTURES[0])
    grown.files += 1


def system(grown: Grown, folder: Path, depth: int) -> None:
    """A file or folder of an operating system: every file in it is left out, however it is called."""
    file, place = grown.chance.choice(["Thumbs.db", "desktop.ini"]), grown.chance.choice(["@eaDir", "#recycle", ".git"])
    if not (folder / file).exists():
        (folder / file).write_bytes(b"x")
        grown.files += 1
    if not (folder / place).exists():
        (folder / place / "below").mkdir(parents=True)
        (folder / place / "below/loop").symlink_to("..")
        (folder / place / "below/1.jpg").write_bytes(PICTURES[0])
        grown.files += 2


def below(grown: Grown, folder: Path, depth: int) -> None:
    place = folder / grown.name(grown.chance.choice(["", ".jpg", "."]))
    place.mkdir()
    if depth < 4:
        grow(grown, place, depth + 1)


def loop(grown: Grown, folder: Path, depth: int) -> None:
    ups = ["/".join([".."] * number) for number in range(1, depth + 4)]
    (folder / grown.name()).symlink_to(grown.chance.choice([".", "/", *ups]))
    grown.files += 1


def linked_file(grown: Grown, folder: Path, depth: int) -> None:
    target = Path("/dev/zero")
    if grown.chance.random() < 0.7:
        target = grown.store / grown.name(".dat")
        target.write_bytes(grown.picture())
        grown.images += 1
    (folder / grown.name(".jpg")).symlink_to(target)
    grown.files += 1


def linked_folder(grown: Grown, folder: Path, depth: int) -> None:
    """A folder elsewhere, which leads back to itself, to the folder that contains it, and to the dataset."""
    target = grown.store / grown.name()
    target.mkdir()
    grow(grown, target, 5)
    for back in (target, target.parent, folder):
        (target / grown.name()).symlink_to(back)
        grown.files += 1
    (folder / grown.name()).symlink_to(target)


def nowhere(grown: Grown, folder: Path, depth: int) -> None:
    """A link to nowhere is an image that cannot be read, if it is named as one."""
    suffix = grown.chance.choice([".jpg", "", ".txt"])
    name = grown.name(suffix)
    (folder / name).symlink_to(grown.chance.choice(["/not/there", name]))
    grown.files += 1
    if suffix == ".jpg":
        grown.images += 1
        grown.unreadable = True


def special(grown: Grown, folder: Path, depth: int) -> None:
    grown.names += 1
    name = f"{grown.names}.png"
    if grown.chance.random() < 0.5:
        os.mkfifo(folder / name)
    else:
        with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(folder):
            listening.bind(name)
    grown.files += 1


def locked(grown: Grown, folder: Path, depth: int) -> None:
    if grown.chance.random() < 0.1:
        (folder / grown.name()).mkdir(mode=0)
        grown.locked = True


OPERATIONS: list[Callable[[Grown, Path, int], None]] = [
    *([image] * 6),
    *(other, hidden, system, below, below, loop, linked_file, linked_folder, nowhere, special, locked),
]


def grow_split(grown: Grown, place: Path, classes: list[str]) -> None:
    """Write a split's class folders, and what lies beside them."""
    chance = grown.chance
    place.mkdir()
    for name in classes:
        folder = place / name
        if chance.random() < 0.1:
            folder = grown.store / grown.name()
            (place / name).symlink_to(folder)
        folder.mkdir()
        before = grown.images
        grow(grown, folder, 0)
        if grown.images == before and chance.random() < 0.95:
            image(grown, folder, 0)
        grown.refused |= grown.images == before
    for stray in (other, hidden, system, special, loop, nowhere):
        if chance.random() < 0.08:
            counted, unreadable = grown.images, grown.unreadable
            stray(grown, place, -1)
            grown.images, grown.unreadable = counted, unreadable  # beside the class folders nothing is an image
            grown.refused |= stray is nowhere


def check(name: str, place: Path, train: Grown, test: Grown) -> str:
    """Load a dataset and inspect it; return what became of it."""
    must = train.refused or test.refused or ((train.locked or test.locked) and not ROOT)
    may = name == "folder" and (train.unreadable or test.unreadable)
    try:
        data = load(name, place, 8)
    except RequestError as error:
        assert must or may, error
        assert str(error).replace(str(place), "").isprintable() and len(str(error)) < 1000
        return "refused"
    assert not must
    look_at(data)
    assert data.account is not None
    train.matches(data.account.train)
    test.matches(data.account.test)
    assert (len(data.train), len(data.test)) == (train.images, test.images)
    return "read"


def look_at(data: DataSet) -> None:
    """Print all of a dataset in lines that any terminal prints."""
    found = inspect(data)
    assert all(line.isprintable() for line in describe(found).splitlines())
    assert json.loads(json.dumps(as_json(found)))["images"] == {"train": len(data.train), "test": len(data.test)}
    assert data.notice is None or data.notice.isprintable()


def fuzz_folders(place: Path, seed: int) -> str:
    chance = random.Random(seed)
    store, data = place / "store", place / "data"
    store.mkdir(parents=True)
    data.mkdir()
    splits = Grown(chance, store), Grown(chance, store)
    splits[1].names = 1000
    classes = [f"{chance.choice(ODD)}{number}" for number in range(chance.randrange(1, 4))]
    grow_split(splits[0], data / "train", classes)
    if chance.random() < 0.1:
        classes = [unicodedata.normalize(chance.choice(["NFC", "NFD"]), name) for name in classes]
    if chance.random() < 0.05:
        classes = [*classes[1:], "other"]
        splits[1].refused = True
    grow_split(splits[1], data / "val", classes)
    outcome = check("imagenet", data, *splits)
    if seed % 4 == 0:
        outcome += check("folder", data, *splits)
    shutil.rmtree(place)
    return outcome


# ---- shards


def fuzz_shards(place: Path, seed: int) -> str:
    chance = random.Random(seed)
    place.mkdir()
    splits = Grown(chance, place), Grown(chance, place)
    for grown, split in zip(splits, ("train", "val"), strict=True):
        for number in range(chance.randrange(1, 3)):
            path = place / f"{split}-{number}.tar"
            with tarfile.open(path, "w", format=chance.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as tar:
                grow_shard(grown, tar)
            if chance.random() < 0.03:
                path.write_bytes(path.read_bytes()[: chance.randrange(512, 2048)])
                grown.refused = True
    outcome = check("imagenet", place, *splits)
    assert check("imagenet", place, *splits) == outcome  # from the stored index
    shutil.rmtree(place)
    return outcome


def grow_shard(grown: Grown, tar: tarfile.TarFile) -> None:
    """Write two samples of each class, and others of random kinds."""

    def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
        member = tarfile.TarInfo(name)
        member.size, member.type, member.linkname = len(data), kind, link
        tar.addfile(member, io.BytesIO(data))
        grown.files += kind != tarfile.DIRTYPE

    def sample(key: str, label: str) -> None:
        members = [(f"{key}.{chance.choice(IMAGES)}", grown.picture()), (f"{key}.cls", label.encode())]
        chance.shuffle(members)
        for name, data in members:
            add(name, data)
        grown.images += 1
        grown.labels += 1

    chance = grown.chance
    below = chance.choice(["", "./", "train/", "a.b/", f"{grown.name()}/"])
    for number in range(chance.randrange(1, 9)):
        key = below + grown.name()
        sample(key, str(number % 2) if number > 1 else f" {number}\n")
        if number == 0:
            sample(below + grown.name(), "1")
        match chance.randrange(16):
            case 0:
                add(f"{key}.json", b"{}")
            case 1:
                add(f"{key}.seg{number}.png", PICTURES[1])  # a mask of the sample, or of the key before its first dot
                first = key.rpartition("/")[2].partition(".")[0]
                grown.refused |= first != key.rpartition("/")[2]
            case 2:
                add(f"{below}._{number}.jpg", b"x")
            case 3:
                add(f"{below}@eaDir/{number}.jpg", b"x")
            case 4:
                add(f"{below}{grown.name()}.cls", b"0")
            case 5:
                add(f"{below}{grown.name()}", kind=tarfile.DIRTYPE)
            case 6:
                add(f"{below}{grown.name('.jpg')}", kind=tarfile.FIFOTYPE)
            case 7:
                add(f"{below}{grown.name('.jpg')}", kind=tarfile.SYMTYPE, link="a.jpg")
            case 8:
                name = f"{below}{grown.name()}"
                add(
                    f"{name}.jpg",
                    kind=tarfile.LNKTYPE,
                    link=next(one for one in tar.getnames() if not one.endswith(".cls")),
                )
                add(f"{name}.cls", kind=tarfile.LNKTYPE, link=f"{key}.cls")
                grown.images += 1
                grown.labels += 1
            case 9 if chance.random() < 0.1:
                add(f"{key}.cls", b"0")
                grown.refused = True
            case 10 if chance.random() < 0.1:
                add(f"{below}{grown.name()}.jpg", PICTURES[0])
                grown.refused = True
            case 11 if chance.random() < 0.1:
                sample(below + grown.name(), chance.choice(["", "tench", "-1", "1.5", "1e3", "٣", "0x1", "9" * 5000]))
                grown.refused = True


# ---- tests


@pytest.mark.parametrize("fuzz", [fuzz_folders, fuzz_shards])
def test_each_file_of_200_random_trees_is_an_image_or_is_left_out_with_a_reason(
    tmp_path: Path, fuzz: Callable[[Path, int], str]
) -> None:
    outcomes = [fuzz(tmp_path / f"{seed}", seed) for seed in range(200)]
    assert 0.5 < sum("read" in outcome for outcome in outcomes) / 200 < 1


@pytest.mark.slow
@pytest.mark.parametrize("fuzz", [fuzz_folders, fuzz_shards])
def test_each_file_of_1000_random_trees_is_an_image_or_is_left_out_with_a_reason(
    tmp_path: Path, fuzz: Callable[[Path, int], str]
) -> None:
    for seed in range(200, 1_200):
        fuzz(tmp_path / f"{seed}", seed)
