"""torchvision's classification datasets, as torchvision:NAME: found, downloaded, and read by torchvision's own classes.

To add one, add a line to `SETS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.data.downloads import download_folder
from ablations.data.held import held
from ablations.data.image_files import ImageFiles
from ablations.data.map_images import map_images
from ablations.data.splits import DataSet, Images, Wanted, a_fifth, assemble
from ablations.errors import RequestError, one_line
from modernize.design import printable
from modernize.names import nearest, one_of, similar
from modernize.user_code import UserCodeError, read_settings

PREFIX = "torchvision:"
Options = dict[str, Any]
OURS = {"CIFAR10": "cifar10", "CIFAR100": "cifar100", "FashionMNIST": "fashion_mnist", "ImageNet": "imagenet"}


@dataclass(frozen=True)
class TorchvisionSet:
    """How a dataset's class is called.

    Attributes:
        files: Paths below the data folder, from the settings; what is missing is downloaded.
        train: The options of each split that is trained on.
        test: The options of the test split; None if there is none, and a fixed fifth of the training split is taken.
        settings: What a user may choose, with the valid values, the default first; "integer" after a default one.
        classes: Number of classes, if the class does not know their names.
        in_files: Whether its images are files.
    """

    files: Callable[[Options], tuple[str, ...]]
    train: tuple[Options, ...] = ({"split": "train"},)
    test: Options | None = field(default_factory=lambda: {"split": "test"})
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    classes: int | None = None
    in_files: bool = True

    def origin(self, images: int) -> str:
        """Say which of torchvision's splits are the training and the test split."""
        if self.test is None:
            return f"a fixed fifth of the {images:,} images is the test split; torchvision has none"
        train = " and ".join(_split_name(options) for options in self.train)
        return f"trains on torchvision's split {train}, tests on its split {_split_name(self.test)}"


def _split_name(options: Options) -> str:
    return options.get("split") or ("train" if options["train"] else "test")


def _at(*paths: str) -> Callable[[Options], tuple[str, ...]]:
    return lambda settings: paths


_BY_TRAIN: dict[str, Any] = {"train": ({"train": True},), "test": {"train": False}, "in_files": False}
_TRAIN_AND_VAL = ({"split": "train"}, {"split": "val"})
SETS: dict[str, TorchvisionSet] = {
    "Country211": TorchvisionSet(_at("country211"), ({"split": "train"}, {"split": "valid"})),
    "DTD": TorchvisionSet(_at("dtd"), _TRAIN_AND_VAL, settings={"partition": tuple(range(1, 11))}),
    "EMNIST": TorchvisionSet(
        _at("EMNIST/raw"),
        settings={"split": ("balanced", "byclass", "bymerge", "letters", "digits", "mnist")},
        **_BY_TRAIN,
    ),
    "EuroSAT": TorchvisionSet(_at("eurosat"), ({},), None),
    "FakeData": TorchvisionSet(
        _at(),
        ({},),
        settings={"size": (1000, "integer"), "image_size": (32, "integer"), "num_classes": (10, "integer")},
        in_files=False,
    ),
    "FGVCAircraft": TorchvisionSet(
        _at("fgvc-aircraft-2013b"),
        ({"split": "trainval"},),
        settings={"annotation_level": ("variant", "family", "manufacturer")},
    ),
    "Flowers102": TorchvisionSet(_at("flowers-102"), _TRAIN_AND_VAL),
    "Food101": TorchvisionSet(_at("food-101")),
    "GTSRB": TorchvisionSet(_at("gtsrb"), classes=43),
    "Imagenette": TorchvisionSet(
        lambda settings: ({"full": "imagenette2"}.get(settings["size"], f"imagenette2-{settings['size'][:3]}"),),
        test={"split": "val"},
        settings={"size": ("full", "320px", "160px")},
    ),
    "KMNIST": TorchvisionSet(_at("KMNIST/raw"), **_BY_TRAIN),
    "MNIST": TorchvisionSet(_at("MNIST/raw"), **_BY_TRAIN),
    "OxfordIIITPet": TorchvisionSet(_at("oxford-iiit-pet"), ({"split": "trainval"},)),
    "STL10": TorchvisionSet(_at("stl10_binary"), classes=10, in_files=False),
    "SVHN": TorchvisionSet(_at("train_32x32.mat", "test_32x32.mat"), classes=10, in_files=False),
    "USPS": TorchvisionSet(_at("usps.bz2", "usps.t.bz2"), classes=10, **_BY_TRAIN),
}


def check_name(name: str) -> tuple[str, Options]:
    """Return the class and the settings of torchvision:NAME(setting=value); raises RequestError if there is none."""
    written, bracket, rest = name.removeprefix(PREFIX).partition("(")
    if written not in SETS:
        if written in OURS:
            raise RequestError(f"unknown dataset {printable(name)!r}: write {OURS[written]}")
        close = [repr(OURS.get(one, one)) for one in similar(written, [*SETS, *OURS])]
        words = f"did you mean {one_of(close)}?" if close else f"known: {', '.join(SETS)}"
        raise RequestError(f"unknown dataset {printable(name)!r} of torchvision: {words}")
    try:
        asked = read_settings(bracket + rest, name)
    except UserCodeError as error:
        raise RequestError(f"dataset {error}") from None
    known = SETS[written].settings
    for key, value in asked.items():
        if key not in known:
            words = nearest(key, known) if known else "it has none"
            raise RequestError(f"dataset {printable(name)}: no setting {key!r}: {words}")
        if "integer" in known[key]:
            if type(value) is not int or value < 1:
                raise RequestError(f"dataset {printable(name)}: {key}: must be a positive integer")
        elif value not in known[key]:
            raise RequestError(f"dataset {printable(name)}: {key}: must be one of {', '.join(map(str, known[key]))}")
    return written, {key: values[0] for key, values in known.items()} | asked


def torchvision_set(name: str) -> Callable[[Path, Wanted], DataSet]:
    """Return the function that loads torchvision:NAME(setting=value); raises RequestError for an unknown name."""
    written, settings = check_name(name)
    one = SETS[written]

    def load(data_dir: Path, wanted: Wanted) -> DataSet:
        if written == "FakeData":
            return _fake(name, settings, wanted)
        train, test = _opened(name, written, settings, data_dir)
        classes = _classes(name, train, test, one)
        place = data_dir / (one.files(settings)[0] if len(one.files(settings)) == 1 else "")
        if one.in_files:
            split = _files(train, data_dir)
            splits: tuple[Images, Images] = (split, _files([test], data_dir)) if test is not None else a_fifth(split)
            origin = one.origin(len(split))
            return held(name, *splits, classes, place, wanted, origin)  # type: ignore[arg-type]
        missing = classes[0] == "N/A"  # EMNIST's letters, whose labels begin at 1
        parts = [_arrays(part, int(missing)) for part in (*train, test)]
        data = assemble(name, parts[0], parts[-1], classes[int(missing) :], place)
        return replace(data, origin=one.origin(len(data.train)))

    return load


def _classes(name: str, train: list[Any], test: Any, one: TorchvisionSet) -> list[str]:
    """Return the names of the classes; raises RequestError if the splits have other ones."""
    found = [list(part.classes) for part in (*train, test) if hasattr(part, "classes")]
    if not found:
        return [str(number) for number in range(one.classes or 0)]
    if any(names != found[0] for names in found):
        raise RequestError(f"dataset {name}: its splits do not have the same classes; some of its files are missing")
    return [names[0] if isinstance(names, tuple) else str(names) for names in found[0]]


def _arrays(part: Any, first_label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a split's images, (N, H, W) or (N, H, W, C), and its labels from 0."""
    images = np.asarray(part.data)
    labels = np.asarray(part.labels if hasattr(part, "labels") else part.targets).astype(np.int64)
    return (images.transpose(0, 2, 3, 1) if images.ndim == 4 else images), labels - first_label


def _files(parts: list[Any], data_dir: Path) -> ImageFiles:
    """Return the files of one or several splits, without decoding an image: their loader returns the path."""
    samples: list[tuple[Any, int]] = []
    for part in parts:
        if hasattr(part, "loader"):
            samples += [part[index] for index in range(len(part))]
        elif hasattr(part, "_samples"):  # GTSRB, which decodes images itself
            samples += part._samples
        else:  # OxfordIIITPet, likewise
            samples += zip(part._images, part._labels, strict=True)
    root = data_dir.absolute()
    names = [Path(path).absolute().relative_to(root).as_posix().encode() for path, _ in samples]
    return ImageFiles(root, np.array(names), torch.tensor([label for _, label in samples]))


def _fake(name: str, settings: Options, wanted: Wanted) -> DataSet:
    """Make torchvision's random images; a fifth as many others are the test split."""
    from torchvision.datasets import FakeData

    size, side = settings["size"], settings["image_size"]
    options = {"image_size": (3, side, side), "num_classes": settings["num_classes"]}
    parts = FakeData(size, **options), FakeData(max(size // 5, 1), random_offset=size, **options)
    classes = [str(number) for number in range(settings["num_classes"])]
    splits = []
    for split, part in zip(("training", "test"), parts, strict=True):
        images, labels = zip(*(part[index] for index in range(len(part))), strict=True)
        splits.append(map_images(name, split, images, torch.tensor(labels)))
    origin = f"{size:,} random images train, {len(parts[1]):,} others are the test split; nothing can be learned"
    return held(name, splits[0], splits[1], classes, "torchvision", wanted, origin)


# ---- files and downloads


def _opened(name: str, written: str, settings: Options, data_dir: Path) -> tuple[list[Any], Any]:
    """Open the splits that are trained on and the test split, downloaded if missing; raises RequestError."""
    one = SETS[written]
    files = one.files(settings)
    missing = [file for file in files if not (data_dir / file).exists()]
    if missing:
        _download(name, written, settings, data_dir, missing)
    try:
        return _constructed(written, settings, data_dir)
    except Exception as error:  # torchvision's readers raise anything
        raise RequestError(
            f"dataset {name}: {' and '.join(str(data_dir / file) for file in files)}: incomplete or corrupt "
            f"({one_line(error).partition(' You can use')[0][:150]}); remove it to download it again"
        ) from None


def _constructed(written: str, settings: Options, root: Path, **options: Any) -> tuple[list[Any], Any]:
    from torchvision import datasets

    one = SETS[written]
    if one.in_files and "loader" in _parameters(written):
        options["loader"] = Path
    make = getattr(datasets, written)
    train = [make(root, **part, **settings, **options) for part in one.train]
    return train, None if one.test is None else make(root, **one.test, **settings, **options)


def _parameters(written: str) -> Mapping[str, Any]:
    import inspect

    from torchvision import datasets

    return inspect.signature(getattr(datasets, written)).parameters


def _download(name: str, written: str, settings: Options, data_dir: Path, missing: list[str]) -> None:
    """Download a dataset into a temporary folder, and move what is missing once all is there."""
    try:
        with download_folder(data_dir) as scratch:
            _constructed(written, settings, scratch, download=True)
            for file in missing:
                (data_dir / file).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # another process has just put it there
                    (scratch / file).rename(data_dir / file)
    except Exception as error:  # a download may raise anything
        raise RequestError(
            f"dataset {name}: {data_dir} does not contain {' and '.join(missing)}, and torchvision's download failed "
            f"({one_line(error)[:120]}). Copy there what torchvision.datasets.{written} downloads on another machine"
        ) from None
