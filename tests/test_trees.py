"""What lies in a dataset's folders and shards: which files are images, and that each other file is accounted for."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ablations_here
from PIL import Image

from ablations.data import folders, inspection
from ablations.data.datasets import DataSet, Split, load
from ablations.data.image_files import ImageFiles
from ablations.data.inspection import describe, inspect
from ablations.data.inventory import Inventory
from ablations.errors import RequestError

NAMES, PARTS = ("folder", "imagenet"), ("train", "val")


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
def test_of_two_links_to_a_folder_the_shorter_path_is_read(tmp_path: Path, name: str) -> None:
    """Whether a class is a link does not depend on a deeper one that is listed before it."""
    place, store = tree(tmp_path / "data"), put(tmp_path / "store", "8.jpg", "9.jpg")
    put(place, "val/c/1.jpg", "train/a/x/y/1.jpg")
    (place / "train/a/x/y/link").symlink_to(store)
    (place / "train/c").symlink_to(store)
    data = load(name, place, 8)
    assert torch.bincount(data.train.labels).tolist() == [5, 4, 2] and data.account is not None
    (one,) = data.account.train.skipped
    assert one.examples == ("a/x/y/link",)


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
    others = [f"train/{other}/{number}.heic" for other in "bdz" for number in range(2)]  # further examples
    put(tmp_path, *others, "train/d/1.jpg", "train/z/1.jpg")
    assert f"class folder {tmp_path}/train/c contains no images; left out: not an image suffix: .heic (c/1.heic)" in (
        refused(name, tmp_path)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_is_a_link_to_another_class_is_named(tmp_path: Path, name: str) -> None:
    put(tree(tmp_path), "val/c/1.jpg")
    (tmp_path / "train/c").symlink_to("a")
    assert f"class 'c' is in only one of {tmp_path}/train and {tmp_path}/val; {tmp_path}/train/c is a link to a " in (
        refused(name, tmp_path)
    )


def test_a_missing_split_is_refused_with_the_folders_that_are_there(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.jpg", "valid/a/1.jpg", ".cache/1.jpg")
    expected = f"no folder {tmp_path}/val; it must contain one folder of images per class ({tmp_path} contains {{}})"
    assert expected.format("train, valid") in refused("folder", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_classes_have_the_names_of_their_folders_in_json_and_one_line_in_text(tmp_path: Path, name: str) -> None:
    names = ["a\nb", "猫", "🐕\u200d🦺"]
    put(tmp_path, *(f"{part}/{one}/1.jpg" for part in PARTS for one in names))
    found = inspect(load(name, tmp_path, 8))
    assert [one["name"] for one in json.loads(json.dumps(inspection.as_json(found)))["classes"]] == names
    assert r'"a\nb" 1 and 1, 猫 1 and 1, 🐕\u200d🦺 1 and 1' in describe(found)


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
def test_a_folder_too_deep_to_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    tree(tmp_path)
    with descended(tmp_path / "train/a") as down:
        down("d", 1_050)  # deeper than Python's recursion
        Path("1.jpg").write_bytes(PICTURE)
        assert counted(load(name, tmp_path, 8)) == (9, 9)
        down("d" * 40, 80)
        message = refused(name, tmp_path)
    assert "cannot be read (File name too long)" in message and len(message) < 500


@contextmanager
def descended(folder: Path) -> Iterator[Callable[[str, int], None]]:
    """Make folders in folders, and remove them again: Python's own removal fails on such a depth."""
    home = Path.cwd()

    def down(name: str, times: int) -> None:
        for _ in range(times):
            Path(name).mkdir()
            os.chdir(name)

    os.chdir(folder)
    try:
        yield down
    finally:
        os.chdir(home)
        subprocess.run(["rm", "-rf", folder], check=True)


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder in which permissions hold, also if the tests are run by root."""
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        try:
            if root:
                os.seteuid(65534)
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_permission_is_one_line(tmp_path: Path, name: str) -> None:
    load(name, tree(tmp_path), 8)  # imports, from folders that others may not read, perhaps
    with unprivileged() as place:
        tree(place / "data")
        put(place, "data/train/a/.trash/1.jpg", "data/train/b/part/1.jpg")
        (place / "data/train/a/.trash").chmod(0)  # it is left out anyway
        assert counted(load(name, place / "data", 8))[0] == 9
        (place / "data/train/b/part").chmod(0)
        message = refused(name, place / "data")
        assert f"folder {place}/data/train/b/part cannot be read (Permission denied)" in message
        (place / "data/train/b/part").chmod(0o700)
        (place / "data/train/b/part/1.jpg").chmod(0)
        (place / "data/val").chmod(0)
        assert f"{place}/data/val cannot be read (Permission denied)" in refused(name, place / "data")
        (place / "data").chmod(0)
        assert f"{place}/data/train cannot be read (Permission denied)" in refused(name, place / "data")
        (place / "data").chmod(0o700)
    assert "cannot be read (File name too long)" in refused(name, Path("x" * 5_000))


def test_more_classes_than_predictions_can_store_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CLASSES", 1)
    assert f"{tmp_path}/train contains 2 class folders; maximum: 1" in refused("imagenet", tree(tmp_path))


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


@pytest.mark.parametrize(("mode", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_shards_are_refused_as_such(tmp_path: Path, mode: str, compress: Callable[[bytes], bytes]) -> None:
    for part in PARTS:
        shard(tmp_path / f"{part}.tar", samples(0, 1))
    (tmp_path / "train.tar").write_bytes(compress((tmp_path / "train.tar").read_bytes()))
    assert f"shard {tmp_path}/train.tar cannot be read (it is compressed; decompress it)" in (
        refused("imagenet", tmp_path)
    )
    (tmp_path / "train.tar").rename(tmp_path / f"train-0.tar.{mode}")
    assert f"nor WebDataset shards *train*.tar and *val*.tar; decompress the shards (train-0.tar.{mode})" in (
        refused("imagenet", tmp_path)
    )


def left_out(place: Path) -> dict[str, int]:
    data = load("imagenet", place, 8)
    assert data.account is not None
    assert data.account.train.files == len(data.train) + data.account.train.labels + data.account.train.left_out
    return skipped(data.account.train)


def test_every_file_of_a_shard_is_a_sample_or_is_left_out_with_a_reason(tmp_path: Path) -> None:
    others = [(name, b"x") for name in ("0.json", "0.txt", "._0.jpg", "__MACOSX/0.jpg", ".ipynb_checkpoints/1.jpg")]
    others += [("0.seg.png", PICTURE), ("photo.heic", PICTURE), ("photo.cls", b"1")]
    shard(tmp_path / "train.tar", [*samples(0, 1), *others])
    shard(tmp_path / "val.tar", samples(0, 1))
    expected = {
        **{f"not an image suffix: {suffix}": 1 for suffix in (".json", ".txt", ".heic")},
        **{"hidden": 2, "system files": 1, "further images of a sample": 1, "classes (.cls) without an image": 1},
    }
    assert left_out(tmp_path) == expected
    assert len(list(tmp_path.glob(".index-*.npz"))) == 2
    assert left_out(tmp_path) == expected  # from the stored index


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", PICTURE), ("a.png", PICTURE), ("a.cls", b"0")], "sample a has two images (a.jpg and a.png)"),
        ([("a.l.jpg", PICTURE), ("a.r.jpg", PICTURE), ("a.cls", b"0")], "two images (a.l.jpg and a.r.jpg)"),
        ([("a.jpg", PICTURE), ("a.cls", b"0"), ("a.jpg", PICTURE)], "a.jpg is in it twice"),
        ([("a.jpg", PICTURE), ("a.cls", b"0"), ("a.cls", b"1")], "a.cls is in it twice"),
        ([("a.v1.jpg", PICTURE), ("a.v2.cls", b"0")], "a has no class (a .cls file)"),
        ([("a\n.jpg", PICTURE), ("a\n.cls", b"x\ny")], r"the class of a\n is x\ny; classes must be integers"),
    ],
)
def test_an_ambiguous_sample_is_refused(tmp_path: Path, members: list[tuple[str, bytes]], words: str) -> None:
    shard(tmp_path / "train.tar", members)
    shard(tmp_path / "val.tar", samples(0))
    message = refused("imagenet", tmp_path)
    assert f"shard {tmp_path}/train.tar: " in message and words in message


def test_a_sample_with_one_image_of_another_field_is_taken(tmp_path: Path) -> None:
    for part in ("train", "val"):
        shard(tmp_path / f"{part}.tar", [("0.image.jpg", PICTURE), ("0.cls", b"0"), ("0.meta.json", b"{}")])
    data = load("imagenet", tmp_path, 8)
    assert len(data.train) == 1 and isinstance(data.train, ImageFiles)
    assert (data.train.name(0), data.train.read(0)) == ("train.tar/0", PICTURE)


def test_hard_links_in_a_shard_are_the_files_they_lead_to(tmp_path: Path) -> None:
    """As tar writes files of which it has stored another link."""
    for part in ("train", "val"):
        shard(tmp_path / f"{part}.tar", samples(0, 1))
    with tarfile.open(tmp_path / "train.tar", "a") as tar:
        for name, target in (("2.jpg", "0.jpg"), ("2.cls", "1.cls")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    images = load("imagenet", tmp_path, 8).train
    assert isinstance(images, ImageFiles) and images.labels.tolist() == [0, 1, 1] and images.read(2) == PICTURE


def test_an_index_of_earlier_rules_is_not_read(tmp_path: Path) -> None:
    """The index that version 0.2.0 stored: its name is a digest of names, sizes and dates, without the rules."""
    for part in ("train", "val"):
        path = shard(tmp_path / f"{part}.tar", samples(0, 1, key="img.v{}"))
        stamp = hashlib.sha256(repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns)]).encode()).hexdigest()
        index = tmp_path / f".index-{stamp[:16]}.npz"
        np.savez(index, names=np.array([b"x"]), labels=np.array([0]), spans=np.array([[0, 0, 1]]))
    assert counted(load("imagenet", tmp_path, 8)) == (2, 4)


def test_what_looks_like_a_shard_and_classes_without_images_are_noted(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", samples(0, 2))
    put(tmp_path, "._train-0.tar", "train-1.tar.gz", "train-2.tgz", "train-3.tar.part", "trainer.txt", data=b"x")
    (tmp_path / "train-4.tar").mkdir()
    os.mkfifo(tmp_path / "train-5.tar")
    (tmp_path / "val.tar").symlink_to("train-0.tar")
    notice = load("imagenet", tmp_path, 8).notice
    assert notice is not None
    assert notice.startswith(
        "imagenet: 1 of 3 classes have no images (1); shards of both splits: train-0.tar; "
        "left out, though named as shards: ._train-0.tar, train-1.tar.gz, train-2.tgz, …; see ablations data imagenet"
    )
    (tmp_path / "train-6.tar").symlink_to("unmounted")
    assert f"shard {tmp_path}/train-6.tar cannot be read" in refused("imagenet", tmp_path)


def test_a_missing_number_among_the_shards_is_noted(tmp_path: Path) -> None:
    """As after a download that was interrupted."""
    for number in (0, 1, 3, 12):
        shard(tmp_path / f"small-train-{number:06}.tar", samples(0))
    for name in ("val-9", "val-10", "val-2012-50000000000", "val"):
        shard(tmp_path / f"{name}.tar", samples(0))
    notice = load("imagenet", tmp_path, 8).notice
    names = "small-train-000002.tar, small-train-000004.tar, small-train-000005.tar, …"
    assert notice is not None and notice.startswith(f"imagenet: missing among the numbered shards: {names}; see ")
    assert "val-" not in notice


# ---- the same as before


def test_checksums_of_clean_datasets_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """As version 0.2.0 computed them: runs on these datasets resume."""
    for part in ("train", "val"):
        paths = ("b/1.PNG", "b/x/0.png", "b/é.png", "a/z.png", "a/y/1.png", "a/y.d/1.png", "A/1.png")
        for number, path in enumerate(paths):
            put(tmp_path, f"{part}/{path}", data=encoded(number, "PNG", (8, 8)))
        shard(tmp_path / f"{part}.tar", [(name, data[:1]) for name, data in samples(1, 0, 2, 1)])
    assert load("folder", tmp_path, 8).checksum[:16] == "d525f338026a397f"
    assert load("imagenet", tmp_path, 8).checksum[:16] == "5187e88970fea6b8"
    for part in ("train", "val"):
        shutil.rmtree(tmp_path / part)
    assert load("imagenet", tmp_path, 8).checksum[:16] == "f92c922dfdb439d4"


# ---- inspection


def inspected(name: str, place: Path) -> dict[str, Any]:
    done = ablations_here("data", name, "--data-dir", place, "--format", "json")
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("layout", ["folder", "imagenet", "shards"])
def test_data_prints_classes_what_is_left_out_sizes_modes_and_duplicates(tmp_path: Path, layout: str) -> None:
    """Of 4 test images, two are training images of another class."""
    pictures = {
        part: [encoded(10 * seed + n, "PNG", (12 + n, 10)) for n in range(6)] for seed, part in enumerate(PARTS)
    }
    pictures["val"][1], pictures["val"][2] = pictures["train"][0], pictures["train"][1]
    for split, count in (("train", 6), ("val", 4)):
        members = []
        for index in range(count):
            label = index % 2
            put(tmp_path, f"{split}/{'ab'[label]}/{index}.png", data=pictures[split][index])
            members += [(f"{index}.png", pictures[split][index]), (f"{index}.cls", b"%d" % label)]
        put(tmp_path, f"{split}/a/notes.txt", f"{split}/a/.0.png")
        if layout == "shards":
            shutil.rmtree(tmp_path / split)
            shard(tmp_path / f"{split}.tar", [*members, ("0.txt", b""), ("._0.png", b"")])
    name = "folder" if layout == "folder" else "imagenet"
    found = inspected(name, tmp_path)
    names = ["0", "1"] if layout == "shards" else ["a", "b"]
    assert [(one["name"], one["train"], one["test"]) for one in found["classes"]] == [(n, 3, 2) for n in names]
    for split in ("train", "test"):
        reasons = {one["reason"]: one["files"] for one in found["account"][split]["skipped"]}
        assert reasons == {"hidden": 1, "not an image suffix: .txt": 1}
        assert found["account"][split]["left_out"] == 2
        headers = found["headers"][split]
        assert headers["modes"] == {"RGB": found["images"][split]} == {"RGB": headers["examined"]}
        assert sum(one["images"] for one in headers["sizes"]) == headers["examined"] and not headers["unreadable"]
    pairs = found["duplicates"]["pairs"]
    assert [pair["same_class"] for pair in pairs] == [False, False] and found["duplicates"]["compared"] == 4
    text = ablations_here("data", name, "--data-dir", tmp_path).stdout
    for words in (
        f"{name}: 6 training and 4 test images of 3×224×224 in 2 classes, checksum ",
        f"{names[0]} 3 and 2, {names[1]} 3 and 2",
        "1 hidden: ",
        "training images (width×height, pixels): 12 to 17 wide (median 15), 10 to 10 high (median 10); RGB 6; PNG 6",
        "duplicates: 2 test images equal a training image exactly, 2 of them under another class, such as ",
    ):
        assert words in text


def test_data_compares_images_in_memory() -> None:
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 4, 4, 1)
    train, test = Split(images[:4], torch.tensor([0, 1, 0, 1])), Split(images[2:], torch.tensor([0, 0, 1]))
    found = inspect(DataSet("made up", train, test, ("x", "y"), "0" * 64, "nowhere", 4, 1))
    pairs = [(pair.test, pair.train, pair.same_class) for pair in found.duplicates.pairs]
    assert pairs == [("test 0", "train 2", True), ("test 1", "train 3", False)] and found.duplicates.compared == 3
    assert "training images (width×height, pixels): 4×4; L 4" in describe(found)
    digits = inspected("digits", Path())
    assert sum(one["test"] for one in digits["classes"]) == 359 and digits["duplicates"]["compared"] == 359


def test_data_claims_no_more_than_it_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, 40)
    monkeypatch.setattr(inspection, "HEADERS", 30)
    monkeypatch.setattr(inspection, "READS", 50)
    data = load("imagenet", tmp_path, 8)
    text = describe(inspect(data))
    assert "duplicates: not searched for, since too many images have files of the same length" in text
    assert "equal a training image" not in text
    monkeypatch.setattr(inspection, "READS", 100)  # the 80 training images, and 20 test images
    text = describe(inspect(data))
    assert "20 test images equal a training image exactly (20 of 80 were compared)" in text
    assert "training images, 30 of 80 examined (width×height, pixels): 12×10; RGB 30; JPEG 30" in text


def test_what_is_examined_of_a_large_dataset_is_spread_over_all_classes() -> None:
    assert inspection._spread(10, 4) == [0, 3, 6, 9] and inspection._spread(3, 9) == [0, 1, 2]
    assert np.diff(inspection._spread(1_281_167, 5_000)).max() == 257


def test_data_names_unreadable_images_and_is_short_for_many_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        put(tmp_path, *(f"{part}/class {label:03}/1.jpg" for label in range(200)))
    put(tmp_path, "train/class 007/1.jpg", data=b"")
    (tmp_path / "val/class 008/2.jpg").symlink_to("nowhere")
    done = ablations_here("data", "imagenet", "--data-dir", tmp_path)
    assert '"class 000" to "class 199"; per class training 1 to 1, median 1; test 1 to 2, median 1' in done.stdout
    assert "unreadable images: 2, such as train/class 007/1.jpg, val/class 008/2.jpg" in done.stdout
    assert len(done.stdout.splitlines()) < 12
    assert len(inspected("imagenet", tmp_path)["classes"]) == 200


@pytest.mark.parametrize("name", NAMES)
def test_data_says_if_files_left_out_for_their_suffix_are_images(tmp_path: Path, name: str) -> None:
    put(tree(tmp_path), "train/a/0a1b2c", "train/b/photo.dat", "val/b/photo.jpg~")
    put(tmp_path, "train/a/notes.txt", "val/a/README", "train/a/.hidden", data=b"words")
    found = ["train/a/0a1b2c", "train/b/photo.dat", "val/b/photo.jpg~"]
    assert sorted(inspected(name, tmp_path)["misnamed"]) == found
    printed = ablations_here("data", name, "--data-dir", tmp_path).stdout
    assert "left out for their suffix, but images by their contents: train/a/0a1b2c, " in printed


def test_folders_of_both_splits_are_noted(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "train/a/more").symlink_to("../../val/a")
    notice = load("imagenet", tmp_path, 8).notice
    assert notice is not None and notice.startswith("imagenet: folders of train that val contains too: a/more; see ")
    assert (
        "folders of train that val contains too: a/more"
        in ablations_here("data", "imagenet", "--data-dir", tmp_path).stdout
    )


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


def test_training_one_design_says_it_too(tmp_path: Path) -> None:
    put(tree(tmp_path / "my data"), "train/a/.0.jpg")
    small = (
        "--set",
        "image_size=16",
        "--set",
        "batch_size=8",
        "--set",
        "max_epochs=1",
        "--device",
        "cpu",
        "--threads",
        "1",
    )
    where = ("--data", "imagenet", "--data-dir", tmp_path / "my data", "--out", tmp_path / "run")
    done = ablations_here("train", "pocket,depths=1-1,width=4", *where, *small, "--threads", "1")
    assert done.returncode == 0 and not done.stderr, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "left out" in line]
    assert line.endswith(f"(1 hidden); see ablations data imagenet --data-dir '{tmp_path}/my data'")
