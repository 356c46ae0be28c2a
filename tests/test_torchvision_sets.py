"""torchvision's sets are read by torchvision's own classes from files in each set's own format; errors are one line."""

from __future__ import annotations

import bz2
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ablations_here
from PIL import Image
from torchvision import datasets as torchvisions

from ablations.data import datasets as data
from ablations.data.datasets import DataSet, Split
from ablations.data.image_files import ImageFiles
from ablations.data.torchvision_sets import SETS
from ablations.errors import RequestError

RANDOM = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def picture(path: Path, width: int, height: int, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width, 3)).save(path, **options)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    sums = {}
    for split, count in (("train", 12), ("test", 6)):
        labels = np.arange(1, count + 1).reshape(-1, 1) % 10
        savemat(root / f"{split}_32x32.mat", {"X": pixels(32, 32, 3, count), "y": np.where(labels == 0, 10, labels)})
        sums[split] = [*torchvisions.SVHN.split_list[split][:2], md5(root / f"{split}_32x32.mat")]
    patch.setattr(torchvisions.SVHN, "split_list", sums)


def idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}i", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


def emnist(root: Path, _: pytest.MonkeyPatch) -> None:
    for kind, first, classes in (("balanced", 0, 47), ("letters", 1, 26)):
        for split, count in (("train", 60), ("test", 30)):
            idx(root / f"EMNIST/raw/emnist-{kind}-{split}-images-idx3-ubyte", pixels(count, 28, 28))
            labels = np.arange(count) % classes + first
            idx(root / f"EMNIST/raw/emnist-{kind}-{split}-labels-idx1-ubyte", labels)


def mnist(name: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def write(root: Path, _: pytest.MonkeyPatch) -> None:
        for part, count in (("train", 20), ("t10k", 10)):
            idx(root / f"{name}/raw/{part}-images-idx3-ubyte", pixels(count, 28, 28))
            idx(root / f"{name}/raw/{part}-labels-idx1-ubyte", np.arange(count) % 10)

    return write


def usps(root: Path, _: pytest.MonkeyPatch) -> None:
    for name, count in (("usps.bz2", 20), ("usps.t.bz2", 10)):
        rows = [
            f"{number % 10 + 1} " + " ".join(f"{place + 1}:{(number * place) % 3 - 1}" for place in range(256))
            for number in range(count)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(rows).encode()))


def stl10(root: Path, patch: pytest.MonkeyPatch) -> None:
    place = root / "stl10_binary"
    place.mkdir()
    for split, count in (("train", 10), ("test", 5), ("unlabeled", 1)):
        pixels(count, 3, 96, 96).tofile(place / f"{split}_X.bin")
        (np.arange(count) % 10 + 1).astype(np.uint8).tofile(place / f"{split}_y.bin")
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (place / "class_names.txt").write_text("\n".join(names))
    for name, files in (("train_list", torchvisions.STL10.train_list), ("test_list", torchvisions.STL10.test_list)):
        patch.setattr(torchvisions.STL10, name, [[file, md5(place / file)] for file, _ in files])


def flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    place = root / "flowers-102"
    for number in range(1, 13):
        picture(place / f"jpg/image_{number:05d}.jpg", 40 + number, 48)
    savemat(place / "imagelabels.mat", {"labels": np.array([[1, 102, 3] * 4])})
    savemat(place / "setid.mat", {"trnid": [[1, 2, 3, 4]], "valid": [[7, 8]], "tstid": [[5, 6, 9, 10, 11, 12]]})
    files = {
        key: (name, md5(place / name) if key != "image" else "")
        for key, (name, _) in torchvisions.Flowers102._file_dict.items()
    }
    patch.setattr(torchvisions.Flowers102, "_file_dict", files)


def pets(root: Path, _: pytest.MonkeyPatch) -> None:
    for split, numbers in (("trainval", range(1, 5)), ("test", range(5, 8))):
        lines = []
        for number in numbers:
            for label, breed in ((1, "Abyssinian"), (2, "great_pyrenees")):
                picture(root / f"oxford-iiit-pet/images/{breed}_{number}.jpg", 50, 44 + number)
                lines.append(f"{breed}_{number} {label} {label} 1")
        place = root / f"oxford-iiit-pet/annotations/{split}.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text("\n".join(lines) + "\n")


def food101(root: Path, _: pytest.MonkeyPatch) -> None:
    (root / "food-101/meta").mkdir(parents=True)
    for split, numbers in (("train", range(3)), ("test", range(3, 5))):
        listed = {food: [f"{food}/{number}" for number in numbers] for food in ("apple_pie", "waffles")}
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(listed))
        for path in (path for paths in listed.values() for path in paths):
            picture(root / f"food-101/images/{path}.jpg", 64, 48)


def eurosat(root: Path, _: pytest.MonkeyPatch) -> None:
    for name in ("AnnualCrop", "Forest"):
        for number in range(1, 11):
            picture(root / f"eurosat/2750/{name}/{name}_{number}.jpg", 64, 64)


def imagenette(root: Path, _: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n02102040"):
            for number in range(count):
                picture(root / f"imagenette2-160/{split}/{wnid}/{number}.JPEG", 160, 170 + number, format="JPEG")


def gtsrb(root: Path, _: pytest.MonkeyPatch) -> None:
    for label in (0, 42):
        for number in range(3):
            picture(root / f"gtsrb/GTSRB/Training/{label:05d}/{number:05d}.ppm", 29 + number, 30)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, label in enumerate((42, 0)):
        picture(root / f"gtsrb/GTSRB/Final_Test/Images/{number:05d}.ppm", 31, 33)
        rows.append(f"{number:05d}.ppm;31;33;5;5;25;25;{label}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(rows) + "\n")


def country211(root: Path, _: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 3), ("valid", 1), ("test", 2)):
        for code in ("AD", "ZW"):
            for number in range(count):
                picture(root / f"country211/{split}/{code}/{number}.jpg", 70, 60)


def dtd(root: Path, _: pytest.MonkeyPatch) -> None:
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{texture}/{texture}_{number}.jpg" for texture in ("banded", "zigzagged")]
        for name in names:
            picture(root / f"dtd/dtd/images/{name}", 300, 310)
        place = root / f"dtd/dtd/labels/{split}2.txt"
        place.parent.mkdir(exist_ok=True)
        place.write_text("\n".join(names) + "\n")


def aircraft(root: Path, _: pytest.MonkeyPatch) -> None:
    place = root / "fgvc-aircraft-2013b/data"
    for number, split in enumerate(("trainval", "test")):
        lines = []
        for label, maker in enumerate(("Airbus", "De Havilland")):
            picture(place / f"images/{number}{label}.jpg", 90, 60)
            lines.append(f"{number}{label} {maker}")
        (place / f"images_manufacturer_{split}.txt").write_text("\n".join(lines) + "\n")
    (place / "manufacturers.txt").write_text("Airbus\nDe Havilland\n")


# The name; what writes it; training and test images, classes, the first and the last one, the size where it is common.
FORMATS: dict[str, tuple[Callable[..., None], int, int, int, str, str, int | None]] = {
    "SVHN": (svhn, 12, 6, 10, "0", "9", 32),
    "EMNIST": (emnist, 60, 30, 47, "0", "t", 28),
    "EMNIST(split=letters)": (emnist, 60, 30, 26, "a", "z", 28),
    "MNIST": (mnist("MNIST"), 20, 10, 10, "0 - zero", "9 - nine", 28),
    "KMNIST": (mnist("KMNIST"), 20, 10, 10, "o", "wo", 28),
    "USPS": (usps, 20, 10, 10, "0", "9", 16),
    "STL10": (stl10, 10, 5, 10, "airplane", "truck", 96),
    "Flowers102": (flowers102, 6, 6, 102, "pink primrose", "blackberry lily", None),
    "OxfordIIITPet": (pets, 8, 6, 2, "Abyssinian", "Great Pyrenees", None),
    "Food101": (food101, 6, 4, 2, "apple_pie", "waffles", None),
    "EuroSAT": (eurosat, 16, 4, 2, "AnnualCrop", "Forest", 64),
    "Imagenette(size=160px)": (imagenette, 6, 4, 2, "tench", "English springer", None),
    "GTSRB": (gtsrb, 6, 2, 43, "0", "42", None),
    "Country211": (country211, 8, 4, 2, "AD", "ZW", None),
    "DTD(partition=2)": (dtd, 4, 2, 2, "banded", "zigzagged", None),
    "FGVCAircraft(annotation_level=manufacturer)": (aircraft, 2, 2, 2, "Airbus", "De Havilland", None),
}


def test_every_set_of_the_table_is_written_here() -> None:
    assert {name.partition("(")[0] for name in FORMATS} | {"FakeData"} == set(SETS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_set_is_read_from_its_own_format(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, train, test, classes, first, last, own = FORMATS[name]
    write(tmp_path, monkeypatch)
    found = data.load(f"torchvision:{name}", tmp_path, own or 24)
    assert isinstance(found.train, Split) and isinstance(found.test, Split)
    assert (len(found.train), len(found.test), len(found.classes)) == (train, test, classes)
    assert (found.classes[0], found.classes[-1], found.own_size) == (first, last, own)
    assert found.train.images.shape[1:3] == (own or 24, own or 24) and found.image_size == (own or 24)
    assert found.name == f"torchvision:{name}" and found.origin in str(found.notice)
    again = data.load(f"torchvision:{name}", tmp_path, own or 24)
    assert again.checksum == found.checksum and torch.equal(again.test.labels, found.test.labels)
    looked_at = ablations_here("data", f"torchvision:{name}", "--data-dir", tmp_path)
    assert looked_at.returncode == 0 and f"splits: {found.origin}" in looked_at.stdout
    if own is None:
        with pytest.raises(RequestError, match=r"differ in size, or do not fit in memory; set one, for example"):
            data.load(f"torchvision:{name}", tmp_path)


@pytest.mark.parametrize(("name", "make"), [("SVHN", torchvisions.SVHN), ("STL10", torchvisions.STL10)])
def test_pixels_and_labels_are_those_that_torchvision_gives(
    name: str, make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FORMATS[name][0](tmp_path, monkeypatch)
    found = data.load(f"torchvision:{name}", tmp_path)
    for split, ours in (("train", found.train), ("test", found.test)):
        theirs = make(tmp_path, split=split)
        for index in range(len(theirs)):
            image, label = ours[index]
            assert isinstance(image, torch.Tensor) and label == theirs[index][1]
            assert np.array_equal(image.permute(1, 2, 0), np.asarray(theirs[index][0]))


def test_files_are_left_in_files_for_recipes_that_crop_and_have_one_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flowers102(tmp_path, monkeypatch)
    name = "torchvision:Flowers102"
    files = data.load(name, tmp_path, 24, as_they_are=True)
    assert isinstance(files.train, ImageFiles) and files.train.name(0).endswith("flowers-102/jpg/image_00001.jpg")
    theirs = [torchvisions.Flowers102(tmp_path, split=split) for split in ("train", "val")]
    listed = [(np.asarray(image), label) for part in theirs for image, label in part]
    ours = [(np.asarray(image), label) for image, label in (files.train[index] for index in range(6))]
    assert all(np.array_equal(one, other) and a == b for (one, a), (other, b) in zip(ours, listed, strict=True))
    assert data.load(name, tmp_path, 24).checksum == files.checksum, "recipes that differ must stay comparable"
    held_out = data.load(name, tmp_path, 24, evaluate="validation", as_they_are=True)
    assert (len(held_out.train), len(held_out.test)) == (5, 1)
    picture(tmp_path / "flowers-102/jpg/image_00012.jpg", 50, 50)
    assert data.load(name, tmp_path, 24, as_they_are=True).checksum != files.checksum


def test_transparent_and_turned_files_are_shown_as_viewers_show_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eurosat(tmp_path, monkeypatch)
    path = tmp_path / "eurosat/2750/Forest/Forest_10.jpg"
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(path, format="PNG")
    found = data.load("torchvision:EuroSAT", tmp_path)
    parts = found.train, found.test
    white = [bool((np.asarray(part[index][0]) == 255).all()) for part in parts for index in range(len(part))]
    assert sum(white) == 1


def test_a_set_without_a_test_split_gets_a_fixed_fifth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eurosat(tmp_path, monkeypatch)
    found = data.load("torchvision:EuroSAT", tmp_path)
    assert found.origin == "a fixed fifth of the 20 images is the test split; torchvision has none"
    digests = [
        {hashlib.sha256(np.asarray(part[index][0]).tobytes()).digest() for index in range(len(part))}
        for part in (found.train, found.test)
    ]
    assert [*map(len, digests)] == [16, 4] and not digests[0] & digests[1]


def test_random_images_need_no_files(tmp_path: Path) -> None:
    found = data.load("torchvision:FakeData(size=10,image_size=8,num_classes=3)", tmp_path / "nothing")
    assert (len(found.train), len(found.test), found.classes) == (10, 2, ("0", "1", "2"))
    theirs = torchvisions.FakeData(10, (3, 8, 8), 3)
    image, label = found.train[4]
    assert label == theirs[4][1] and np.array_equal(np.asarray(image).transpose(1, 2, 0), np.asarray(theirs[4][0]))
    assert not (tmp_path / "nothing").exists()


def refused(name: str, folder: Path, size: int | None = 24) -> str:
    with pytest.raises(RequestError) as caught:
        data.load(name, folder, size)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_wrong_names_and_settings_are_one_line(tmp_path: Path) -> None:
    for name, words in {
        "torchvision:SVNH": "did you mean 'SVHN'?",
        "torchvision:svhn": "did you mean 'SVHN'?",
        "torchvision:CIFAR10": "write cifar10",
        "torchvision:": "of torchvision: known: Country211, DTD",
        "torchvision:Kinetics": "known: Country211, DTD",
        "svhn": "write torchvision:SVHN",
        "flowers102": "write torchvision:Flowers102",
        "torchvisoin:SVHN": "unknown dataset",
        "torchvision:SVHN(split=extra)": "no setting 'split': it has none",
        "torchvision:EMNIST(split=letter)": "split: must be one of balanced, byclass",
        "torchvision:EMNIST(spilt=letters)": "no setting 'spilt': did you mean 'split'?",
        "torchvision:FakeData(size=0)": "size: must be a positive integer",
        "torchvision:FakeData(10)": "'10' is no setting; write setting=value",
        "": "unknown dataset ''",
    }.items():
        assert words in refused(name, tmp_path), name
    assert not list(tmp_path.iterdir())


def test_missing_and_incomplete_files_are_one_line_that_says_where_they_were_sought(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    for name, one in SETS.items():
        if name == "FakeData":
            continue
        message = refused(f"torchvision:{name}", tmp_path)
        files = one.files({key: values[0] for key, values in one.settings.items()})
        assert f"{tmp_path} does not contain {' and '.join(files)}" in message, name
        assert f"torchvision.datasets.{name} downloads" in message
        assert not list(tmp_path.iterdir()), "a failed download leaves nothing"
    svhn(tmp_path, monkeypatch)
    (tmp_path / "test_32x32.mat").unlink()
    assert "does not contain test_32x32.mat, and" in refused("torchvision:SVHN", tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"other")
    assert "incomplete or corrupt (Dataset not found or corrupted.); remove it" in refused("torchvision:SVHN", tmp_path)
    food101(tmp_path, monkeypatch)
    (tmp_path / "food-101/images/waffles/1.jpg").unlink()
    assert "food-101/images/waffles/1.jpg" in refused("torchvision:Food101", tmp_path)


def test_a_download_is_moved_into_the_data_folder_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(self: Any) -> None:
        if not Path(self._data_folder).exists():
            eurosat(Path(self.root), monkeypatch)

    monkeypatch.setattr(torchvisions.EuroSAT, "download", download)
    found: DataSet = data.load("torchvision:EuroSAT", tmp_path)
    assert len(found.train) == 16 and [path.name for path in tmp_path.iterdir()] == ["eurosat"]
