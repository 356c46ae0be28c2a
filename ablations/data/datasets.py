"""Datasets: find or download them, verify them, and hold their images in memory as uint8 or leave them in files.

To add a dataset, write a function that returns a `DataSet` and name it in `LOADERS`; for one of torchvision's, add a
line to `SETS` in `torchvision_sets`.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ablations.data import hugging_face, own_data, torchvision_sets
from ablations.data.cifar import cifar
from ablations.data.decode import DamagedImageError, decoded, max_pixels
from ablations.data.downloads import download_folder
from ablations.data.folders import ClassFolders, account_for, class_folders, is_folder
from ablations.data.inventory import Account, shown
from ablations.data.shards import check_labels, shard_notes, shard_paths, shards
from ablations.data.splits import PART, DataSet, Images, Loader, Split, Wanted, assemble, check_memory
from ablations.errors import RequestError, one_line
from ablations.seeding import generator
from modernize.design import printable
from modernize.names import one_of, similar
from modernize.user_code import is_call

__all__ = ["LOADERS", "DataSet", "Images", "Split", "load", "loader_of"]


def loader_of(name: str) -> Loader:
    """Return the function that loads a dataset by name; raises RequestError if the name is unknown or not well formed.

    Names are the keys of `LOADERS`, torchvision:NAME, hf:NAME[:SPLIT] and FILE.py:FUNCTION.
    """
    if name in LOADERS:
        return LOADERS[name]
    if is_call(name):
        return own_data.own_data(name)
    for kind, loader in (
        (torchvision_sets.PREFIX, torchvision_sets.torchvision_set),
        (hugging_face.PREFIX, hugging_face.hugging_face),
    ):
        if name.startswith(kind):
            return loader(name)
    raise RequestError(f"unknown dataset {printable(name)!r}: {_meant(name)}")


def _meant(name: str) -> str:
    """Return what an unknown name may mean: a dataset of ours or of torchvision, or a folder of images."""
    torchvisions = {known.lower(): known for known in torchvision_sets.SETS}
    if name.lower() in torchvisions:
        return f"write torchvision:{torchvisions[name.lower()]}"
    if name and Path(name).is_dir():
        return f"write --data folder --data-dir {printable(name)} for a folder of images"
    close = similar(name.rpartition(":")[2], [*LOADERS, *torchvision_sets.SETS])
    if not close:
        return f"known: {', '.join([*LOADERS, 'torchvision:NAME', 'hf:NAME', 'FILE.py:FUNCTION'])}"
    return f"did you mean {one_of([repr(one if one in LOADERS else f'torchvision:{one}') for one in close])}?"


def load(
    name: str,
    data_dir: Path,
    image_size: int | None = None,
    evaluate: str = "test",
    as_they_are: bool = False,
    interpolation: str = "bilinear",
    differing: int | None = None,
) -> DataSet:
    """Load a dataset by name; download it if it is missing.

    Args:
        name: A key of `LOADERS`, torchvision:NAME, hf:NAME[:SPLIT] or FILE.py:FUNCTION.
        data_dir: Folder that holds the dataset, or into which it is downloaded.
        image_size: Resolution in pixels; None keeps the dataset's own.
        evaluate: "test", or "validation", which replaces the test split with a fixed tenth of the training split.
        as_they_are: Keep the size of images in memory, for a recipe that transforms images one by one.
        interpolation: "bilinear" or "bicubic".
        differing: Resolution if `image_size` is None and the images differ in size; None refuses such datasets.

    Returns:
        The dataset. Images in memory are resized to `image_size` unless `as_they_are`.

    Raises:
        RequestError: If the dataset cannot be found, downloaded or read, or is corrupt.
    """
    data = loader_of(name)(data_dir, Wanted(image_size, as_they_are, interpolation, differing))
    if evaluate == "validation":
        data = _hold_out(data)
    if image_size in (None, data.image_size):
        return data
    size = int(image_size or 0)
    return replace(data, image_size=size) if as_they_are else _resized(data, size, interpolation)


def _hold_out(data: DataSet) -> DataSet:
    """Replace the test split with a fixed tenth of the training images."""
    order = torch.randperm(len(data.train), generator=generator("validation split"))
    held = max(len(data.train) // 10, 1)
    return replace(data, train=data.train.take(order[held:]), test=data.train.take(order[:held]))


def _resized(data: DataSet, size: int, interpolation: str) -> DataSet:
    """Resize the images of both splits, with antialiasing."""
    check_memory(data.name, len(data.train), data.channels, size)
    assert isinstance(data.train, Split) and isinstance(data.test, Split)

    def resize(split: Split) -> Split:
        resized = split.images.new_empty(len(split), size, size, data.channels)
        for images, place in zip(split.images.split(PART), resized.split(PART), strict=True):
            channels_first = images.permute(0, 3, 1, 2)
            place[:] = torch.nn.functional.interpolate(
                channels_first, (size, size), mode=interpolation, antialias=True
            ).permute(0, 2, 3, 1)
        return replace(split, images=resized)

    return replace(data, train=resize(data.train), test=resize(data.test), image_size=size)


# ---- Fashion-MNIST

_FASHION_CLASSES = ["T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
# sha256 of the unpacked files: Debian packs the same contents differently.
_FASHION_FILES = {
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}
_FASHION_PACKAGE = "dataset-fashion-mnist"
_FASHION_UNPACKED = Path("usr/share/datasets/fashion-mnist")


def _fashion_mnist(data_dir: Path, wanted: Wanted) -> DataSet:
    place = _find_fashion(data_dir) or _download_fashion(data_dir)
    train, test = ([_read_idx(place, f"{part}-{kind}", data_dir) for kind in _IDX_KINDS] for part in ("train", "t10k"))
    return assemble("fashion_mnist", (train[0], train[1]), (test[0], test[1]), _FASHION_CLASSES, place)


_IDX_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def _find_fashion(data_dir: Path) -> Path | None:
    """Return the first folder that holds all four files: within the data folder, else where Debian installs them."""
    folders = [*_fashion_places(data_dir), Path("/") / _FASHION_UNPACKED]
    return next(filter(_holds_fashion, folders), None)


def _fashion_places(data_dir: Path) -> list[Path]:
    return [data_dir, data_dir / "FashionMNIST/raw", data_dir / _FASHION_UNPACKED]


def _holds_fashion(place: Path) -> bool:
    return all(_idx_path(place, name).exists() for name in _FASHION_FILES)


def _idx_path(place: Path, name: str) -> Path:
    """Return the path of an IDX file: the plain file if it exists, else the packed one."""
    return place / name if (place / name).exists() else place / f"{name}.gz"


def _download_fashion(data_dir: Path) -> Path:
    """Download the files into the data folder: by torchvision, else from Debian's package without installing it.

    They are downloaded into a temporary folder, and moved once all are verified.
    """
    failures = [f"{data_dir} and {Path('/') / _FASHION_UNPACKED} do not contain it"]
    for source, download in (("torchvision's download", _torchvision_fashion), ("apt-get download", _apt_fashion)):
        try:
            with download_folder(data_dir) as scratch:
                download(scratch)
                folder = next(filter(_holds_fashion, _fashion_places(scratch)), None)
                if folder:
                    return _moved(folder, data_dir / folder.relative_to(scratch))
            failures.append(f"{source} contains no such files")
        except Exception as error:  # a download may raise anything; the next source is tried
            failures.append(f"{source} failed ({one_line(error)[:120]})")
    raise RequestError(
        f"dataset fashion_mnist: {'; '.join(failures)}. Run `apt-get install {_FASHION_PACKAGE}`, or put its four "
        f"files ({', '.join(_FASHION_FILES)}, plain or .gz) into {data_dir}"
    )


def _moved(source: Path, place: Path) -> Path:
    """Verify the four files and move them to `place`; raise ValueError, and move none, if one is corrupt."""
    paths = [_idx_path(source, name) for name in _FASHION_FILES]
    for path in paths:
        _unpacked(path)
    place.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.replace(place / path.name)
    return place


def _torchvision_fashion(data_dir: Path) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(data_dir, download=True)


def _apt_fashion(data_dir: Path) -> None:
    """Download Debian's package and unpack it into the data folder; needs no root."""
    with tempfile.TemporaryDirectory(dir=data_dir) as scratch:
        for command in (
            ["apt-get", "download", _FASHION_PACKAGE],
            ["dpkg-deb", "-x", "PACKAGE", str(data_dir.resolve())],
        ):
            package = next((path.name for path in Path(scratch).glob("*.deb")), "")
            arguments = [package if word == "PACKAGE" else word for word in command]
            process = subprocess.run(
                arguments, cwd=scratch, capture_output=True, encoding="utf-8", errors="replace", timeout=600
            )
            if process.returncode:
                raise RuntimeError((process.stderr or process.stdout).strip().splitlines()[-1])


def _unpacked(path: Path) -> bytes:
    """Read an IDX file, plain or packed; raise ValueError if its contents are not Fashion-MNIST's."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is corrupt ({one_line(error)})") from None
    actual, expected = hashlib.sha256(data).hexdigest(), _FASHION_FILES[path.name.removesuffix(".gz")]
    if actual != expected:
        raise ValueError(f"{path} is corrupt (its contents have sha256 {actual[:12]}…, expected {expected[:12]}…)")
    return data


def _read_idx(place: Path, name: str, data_dir: Path) -> np.ndarray:
    """Read an IDX file, plain or packed, verify its checksum and return its array."""
    try:
        data = _unpacked(_idx_path(place, name))
    except ValueError as error:
        remedy = f"delete it and run `ablations data fashion_mnist --data-dir {data_dir}`"
        raise RequestError(f"dataset fashion_mnist: {error}: {remedy}") from None
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape([int(size) for size in shape])


# ---- digits, folders


def _digits(data_dir: Path, wanted: Wanted) -> DataSet:
    """Load scikit-learn's 1,797 digits of 8×8 pixels; a fixed fifth of them is the test split."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images, labels = (digits.images * (255 / 16)).round().astype(np.uint8), digits.target
    order = torch.randperm(len(labels), generator=generator("digits split")).numpy()
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    classes = [str(digit) for digit in digits.target_names]
    return assemble("digits", (images[train], labels[train]), (images[test], labels[test]), classes, "scikit-learn")


def _folder(data_dir: Path, wanted: Wanted) -> DataSet:
    """Read train/ and val/, one folder per class; resize each image's shorter side and crop its center."""
    size = wanted.size("folder")
    splits = class_folders("folder", data_dir)
    files = hashlib.sha256()
    train, test = (_read_folder(split, size, wanted.interpolation, files) for split in splits)
    data = assemble("folder", train, test, splits[0].classes, data_dir)
    return replace(data, account=account_for(*splits), files_checksum=files.hexdigest())


def _read_folder(
    split: ClassFolders, size: int, interpolation: str, digest: hashlib._Hash
) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of a split in torchvision's order: by class, folder and file name; digest files and labels."""
    from torchvision.transforms import functional as transforms

    def opened(path: str) -> np.ndarray:
        try:
            data = Path(path).read_bytes()
            digest.update(hashlib.sha256(data).digest())
            image = decoded(data, shown(path))
        except OSError as error:
            raise RequestError(f"dataset folder: {shown(path)}: {error.strerror}") from None
        except DamagedImageError as error:
            raise RequestError(f"dataset folder: {error}") from None
        resized = transforms.resize(image, size, transforms.InterpolationMode(interpolation))
        return np.asarray(transforms.center_crop(resized, [size, size]))

    files = [
        (path, label)
        for label, paths in enumerate(split.images.values())
        for path in sorted(paths, key=lambda path: path.rpartition("/")[::2])
    ]
    check_memory(f"folder: {split.place}", len(files), 3, size)
    images = np.empty((len(files), size, size, 3), np.uint8)
    for index, (path, _) in enumerate(files):
        images[index] = opened(f"{split.place}/{path}")
    labels = np.array([label for _, label in files])
    digest.update(labels.tobytes())
    return images, labels


# ---- ImageNet


def _imagenet(data_dir: Path, wanted: Wanted) -> DataSet:
    """List train/ and val/, one folder per class, or WebDataset shards *train*.tar and *val*.tar."""
    size = wanted.size("imagenet")
    max_pixels()  # raises now rather than in a worker process
    if all(is_folder("imagenet", data_dir / part) for part in ("train", "val")):
        splits = class_folders("imagenet", data_dir)
        train, test = (split.files() for split in splits)
        account, classes = account_for(*splits), splits[0].classes
    else:
        (train, ours), (test, others) = map(shards, shard_paths(data_dir))
        classes = check_labels(data_dir, train, test)
        account = Account(ours, others, shard_notes(data_dir, train, test))
    checksum = hashlib.sha256(train.digest() + test.digest()).hexdigest()
    return DataSet("imagenet", train, test, tuple(classes), checksum, str(data_dir), size, 3, account)


LOADERS: dict[str, Loader] = {
    "fashion_mnist": _fashion_mnist,
    "cifar10": cifar("cifar10"),
    "cifar100": cifar("cifar100"),
    "digits": _digits,
    "folder": _folder,
    "imagenet": _imagenet,
}
