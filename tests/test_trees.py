"""What lies in a dataset's folders and shards: which files are images, and that each other file is accounted for."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from commands import ablations_here
from PIL import Image

from ablations.data.datasets import DataSet, load
from ablations.data.inventory import Inventory
from ablations.errors import RequestError

NAMES = ("folder", "imagenet")


def encoded(number: int, form: str = "JPEG", size: tuple[int, int] = (12, 10)) -> bytes:
    """A picture whose pixels follow from its number."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


PICTURE = encoded(0)


def put(place: Path, *paths: str, data: bytes = PICTURE) -> Path:
    """Write files below a folder."""
    for path in paths:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(data)
    return place


def tree(place: Path, per_class: int = 4) -> Path:
    """Two classes with that many images each in train/ and val/."""
    for part in ("train", "val"):
        put(place, *(f"{part}/{name}/{index}.jpg" for name in "ab" for index in range(per_class)))
    return place


def shard(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(*labels: int, key: str = "{}") -> list[tuple[str, bytes]]:
    """An image and a class for each label."""
    return [
        (f"{key.format(number)}.{kind}", PICTURE if kind == "jpg" else str(label).encode())
        for number, label in enumerate(labels)
        for kind in ("jpg", "cls")
    ]


def refused(name: str, place: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load(name, place, 8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def skipped(inventory: Inventory) -> dict[str, int]:
    return {one.reason: one.files for one in inventory.skipped}


def counted(data: DataSet) -> tuple[int, int]:
    """Images, and files, of the training split."""
    assert data.account is not None
    assert data.account.train.images == len(data.train) and data.account.test.images == len(data.test)
    return len(data.train), data.account.train.files


# ---- folders


@pytest.mark.parametrize("name", NAMES)
def test_a_hidden_folder_is_no_class(tmp_path: Path, name: str) -> None:
    plain = load(name, tree(tmp_path), 8)
    put(tmp_path, "train/.ipynb_checkpoints/0-checkpoint.jpg", "val/.ipynb_checkpoints/0-checkpoint.jpg")
    put(tmp_path, "train/a/.ipynb_checkpoints/0-checkpoint.jpg")
    data = load(name, tmp_path, 8)
    assert data.classes == ("a", "b") and data.checksum == plain.checksum
    assert counted(data) == (8, 10) and data.account is not None
    assert skipped(data.account.train) == {"hidden": 2} and skipped(data.account.test) == {"hidden": 1}


@pytest.mark.parametrize("name", NAMES)
def test_thumbnails_of_network_storage_and_resource_forks_are_no_images(tmp_path: Path, name: str) -> None:
    plain = load(name, tree(tmp_path), 8)
    for index in range(4):
        put(tmp_path, f"train/a/@eaDir/{index}.jpg/SYNOPHOTO_THUMB_M.jpg", f"train/a/@eaDir/{index}.jpg/S.jpg")
        put(tmp_path, f"train/a/._{index}.jpg", f"train/b/#recycle/{index}.jpg", f"train/b/__MACOSX/{index}.jpg")
    put(tmp_path, "train/@eaDir/a/x.jpg", "train/Thumbs.db", "train/a/desktop.ini", "val/$RECYCLE.BIN/x.jpg")
    data = load(name, tmp_path, 8)
    assert data.checksum == plain.checksum and counted(data) == (8, 31)
    assert data.account is not None
    assert skipped(data.account.train) == {"hidden": 4, "system files": 19}


@pytest.mark.parametrize("name", NAMES)
def test_a_link_to_a_folder_that_is_read_already_adds_no_images(tmp_path: Path, name: str) -> None:
    plain = load(name, tree(tmp_path), 8)
    (tmp_path / "train/a/self").symlink_to(tmp_path / "train/a")
    (tmp_path / "train/a/parent").symlink_to("..")
    (tmp_path / "train/a/dataset").symlink_to("../..")
    (tmp_path / "train/b/root").symlink_to("/")
    (tmp_path / "train/b/sibling").symlink_to("../a")
    (tmp_path / "train/c").symlink_to("a")
    data = load(name, tmp_path, 8)
    assert data.checksum == plain.checksum and counted(data) == (8, 14)
    assert data.account is not None
    assert skipped(data.account.train) == {"links to a folder that is read already": 6}


@pytest.mark.parametrize("name", NAMES)
def test_links_to_files_and_folders_elsewhere_are_data(tmp_path: Path, name: str) -> None:
    plain = load(name, tree(tmp_path / "plain"), 8)
    place = tmp_path / "links"
    for part in ("train", "val"):
        (place / part / "b").mkdir(parents=True)
        (place / part / "a").symlink_to(tmp_path / "plain" / part / "a")
        for path in sorted((tmp_path / "plain" / part / "b").iterdir()):
            (place / part / "b" / path.name).symlink_to(path)
    data = load(name, place, 8)
    assert data.checksum == plain.checksum and counted(data) == (8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_linked_folder_that_leads_back_is_read_once(tmp_path: Path, name: str) -> None:
    """The store of a linked class holds a link to the folder that contains it."""
    place = tree(tmp_path / "data")
    put(tmp_path / "store", "c/1.jpg", "other/1.jpg")
    (tmp_path / "store/c/up").symlink_to("..")
    (tmp_path / "store/c/data").symlink_to(place)
    for part in ("train", "val"):
        (place / part / "c").symlink_to(tmp_path / "store/c")
    assert counted(load(name, place, 8)) == (9, 11)


FORMS = {"jfif": "JPEG", "jpe": "JPEG", "gif": "GIF", "avif": "AVIF", "jp2": "JPEG2000", "tga": "TGA", "dib": "DIB"}


@pytest.mark.parametrize("name", NAMES)
def test_every_suffix_of_an_image_that_pillow_reads_is_taken(tmp_path: Path, name: str) -> None:
    tree(tmp_path)
    for suffix, form in FORMS.items():
        put(tmp_path, f"train/a/x.{suffix}", f"train/a/y.{suffix.upper()}", data=encoded(1, form))
    put(tmp_path, "train/a/notes.txt", "train/a/photo.heic", "train/b/no suffix", "train/b/x.jpg.part")
    data = load(name, tmp_path, 8)
    assert counted(data) == (8 + 2 * len(FORMS), 12 + 2 * len(FORMS)) and data.account is not None
    assert skipped(data.account.train) == {
        **{f"not an image suffix: {suffix}": 1 for suffix in (".heic", ".part", ".txt")},
        "no suffix": 1,
    }
    assert {one.examples for one in data.account.train.skipped} >= {("b/no suffix",), ("a/photo.heic",)}


@pytest.mark.parametrize("name", NAMES)
def test_sockets_and_pipes_are_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    os.mkfifo(tmp_path / "train/a/pipe.jpg")
    (tmp_path / "train/a/linked pipe.jpg").symlink_to("pipe.jpg")
    (tmp_path / "train/a/zeros.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path / "train/b")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
    data = load(name, tmp_path, 8)
    assert counted(data) == (8, 12) and data.account is not None
    assert skipped(data.account.train) == {"not a regular file": 4}


@pytest.mark.parametrize("name", NAMES)
def test_links_to_nowhere_are_refused_among_the_classes_and_counted_below(tmp_path: Path, name: str) -> None:
    tree(tmp_path)
    for link, target in (("a/part 2", "/unmounted/part"), ("b/loop", "loop")):
        (tmp_path / "train" / link).symlink_to(target)
    assert counted(load(name, tmp_path, 8)) == (8, 10)
    (tmp_path / "val/c").symlink_to("/unmounted/c")
    assert f"{tmp_path}/val/c is a link to nowhere" in refused(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_may_be_composed_in_one_split_and_decomposed_in_the_other(tmp_path: Path, name: str) -> None:
    """As where one split was copied from macOS; of the second class, whose place among the names is another."""
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for number, (part, odd) in enumerate((("train", composed), ("val", decomposed))):
        put(tmp_path, f"{part}/{odd}/0.jpg", data=encoded(number))
        put(tmp_path, f"{part}/f/0.jpg", f"{part}/f/1.jpg", data=encoded(5 + number))
    data = load(name, tmp_path, 8)
    assert data.classes == ("f", composed)
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 0, 1]
    put(tmp_path, f"train/{decomposed}/0.jpg")
    assert "two class folders 'é', written with different Unicode characters" in refused(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ours", "other"), [("Cat", "cat"), ("cat ", "cat"), ("ﬁsh", "fish")])
def test_classes_that_differ_little_are_refused_with_both_names(
    tmp_path: Path, name: str, ours: str, other: str
) -> None:
    put(tree(tmp_path), f"train/{ours}/0.jpg", f"val/{other}/0.jpg")
    message = refused(name, tmp_path)
    assert "is in only one of" in message and f"'{ours}'" in message and f"'{other}'" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_images_is_refused_with_what_it_holds(tmp_path: Path, name: str) -> None:
    put(tree(tmp_path), "train/c/1.heic", "train/c/2.heic", "val/c/1.jpg")
    assert f"class folder {tmp_path}/train/c contains no images; left out: not an image suffix: .heic (c/1.heic)" in (
        refused(name, tmp_path)
    )


@pytest.mark.parametrize("name", NAMES)
def test_names_with_newlines_and_undecodable_bytes_are_one_line(tmp_path: Path, name: str) -> None:
    for part in ("train", "val"):
        put(
            tmp_path, f"{part}/a\nb/x\n.jpg", f"{part}/a\nb/y\n.txt", os.fsdecode(os.fsencode(part) + b"/caf\xe9/1.jpg")
        )
    data = load(name, tmp_path, 8)
    assert counted(data) == (2, 3) and data.account is not None
    assert data.account.train.skipped[0].examples == (r"a\nb/y\n.txt",)
    put(tmp_path, os.fsdecode(b"train/\xff\n/1.jpg"))
    assert r"class '\xff\n' is in only one of" in refused(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_too_deep_to_be_read_is_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path)
    monkeypatch.chdir(tmp_path / "train/a")
    for depth in range(1100):  # deeper than Python's recursion
        Path("d").mkdir()
        monkeypatch.chdir("d")
        if depth == 1050:
            Path("1.jpg").write_bytes(PICTURE)
    assert counted(load(name, tmp_path, 8)) == (9, 9)
    for _ in range(80):
        Path("d" * 40).mkdir()
        monkeypatch.chdir("d" * 40)
    message = refused(name, tmp_path)
    assert "cannot be read (File name too long)" in message and len(message) < 500


# ---- shards


def test_samples_whose_keys_have_dots_are_not_dropped(tmp_path: Path) -> None:
    plain = samples(*range(4))
    dotted = samples(*range(4), key="img.v{}")
    shard(tmp_path / "train.tar", [*plain, *dotted])
    shard(tmp_path / "val.tar", dotted)
    data = load("imagenet", tmp_path, 8)
    assert counted(data) == (8, 16)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and data.test.labels.tolist() == [0, 1, 2, 3]


def test_splits_of_shards_have_the_same_classes(tmp_path: Path) -> None:
    shard(tmp_path / "train.tar", samples(1, 2))
    shard(tmp_path / "val.tar", samples(0, 1))
    assert "class 0 is in only one of" in refused("imagenet", tmp_path)


# ---- runs


RUN = ("--set", "image_size=32", "--set", "batch_size=4", "--budget", "8images", "--dry-run", "--seeds", "0,1,2")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_says_in_one_line_what_is_left_out(tmp_path: Path, name: str) -> None:
    command = (
        "run",
        "one-in",
        "--base",
        "pocket",
        "--flags",
        "depthwise",
        "--data",
        name,
        *RUN,
        "--data-dir",
        tmp_path,
    )
    tree(tmp_path)
    before = ablations_here(*command)
    assert before.returncode == 0 and "left out" not in before.stdout, before.stderr
    put(tmp_path, "train/a/.0.jpg", "train/a/notes.txt", "val/Thumbs.db")
    done = ablations_here(*command)
    assert done.returncode == 0 and not done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "left out" in line]
    assert line.startswith(
        f"{name}: 3 of 19 files are left out (1 hidden; 1 not an image suffix: .txt; 1 system files)"
    )
    assert line.endswith(f"see ablations data {name} --data-dir {tmp_path}")
