"""Datasets of Hugging Face's `datasets`, made here and read from folders, are trained on; errors are one line.

The package is an optional extra of 180 MB and changes how pandas stores text: only the long tests, which CI runs last,
have it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from commands import ablations_here
from PIL import Image

from ablations.data import datasets as data
from ablations.data import hugging_face
from ablations.data.datasets import Split
from ablations.data.map_images import MapImages
from ablations.errors import RequestError


def refused(name: str, folder: Path = Path("data"), size: int | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        data.load(name, folder, size)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_missing_package_and_wrong_names_are_one_line() -> None:
    for name in ("hf:", "hf::test", "hf:a:b:c", "hf:a(label=x", "hf:a(label=x)y"):
        assert "write hf:NAME, hf:NAME:SPLIT or hf:NAME(label=COLUMN):SPLIT" in refused(name)
    assert "no setting 'lable': did you mean 'label'?" in refused("hf:a(lable=x)")
    assert "'x' is no setting; write setting=value" in refused("hf:a(x)")
    with mock.patch.object(hugging_face, "find_spec", return_value=None):
        message = refused("hf:beans")
    assert message.endswith("is not installed; run pip install 'modernize-convnets[hf]'")


slow = pytest.mark.slow
FIRST = ["ant", "bee", "cow"]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the package `datasets`, with its cache in a folder of the test, which is the current one."""
    package = pytest.importorskip("datasets", reason="needs the extra hf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # else its thread stays, and later studies cannot fork
    yield package


def picture(seed: int, mode: str = "RGB", width: int = 12, height: int = 12) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def part(package: Any, count: int, first: int = 0, **options: Any) -> Any:
    """Return a split of images and classes; `options` are of `picture`."""
    rows = {
        "image": [picture(first + number, **options) for number in range(count)],
        "label": [number % 3 for number in range(count)],
    }
    features = package.Features({"image": package.Image(), "label": package.ClassLabel(names=FIRST)})
    return package.Dataset.from_dict(rows, features=features)


def saved(package: Any, name: str = "insects", **splits: Any) -> str:
    package.DatasetDict(splits).save_to_disk(name)
    return f"hf:{name}"


@slow
def test_a_dataset_on_disk_is_read_with_its_splits_and_classes(made: Any) -> None:
    name = saved(made, train=part(made, 9), validation=part(made, 4, 20), test=part(made, 3, 10))
    found = data.load(name, Path("data"))
    assert (len(found.train), len(found.test), found.classes) == (9, 3, ("ant", "bee", "cow"))
    assert (found.image_size, found.channels, found.own_size) == (12, 3, 12)
    assert isinstance(found.train, Split) and np.array_equal(found.train.images[5], np.asarray(picture(5)))
    assert found.train.labels.tolist() == [0, 1, 2] * 3
    assert found.origin == "trains on the split train, tests on test" and found.origin in str(found.notice)
    other = data.load(f"{name}:validation", Path("data"))
    assert len(other.test) == 4 and other.origin.endswith("tests on validation")
    assert other.checksum != found.checksum == data.load(name, Path("data")).checksum
    in_folder = saved(made, "data/there", train=part(made, 9), test=part(made, 3, 10)).removeprefix("hf:data/")
    assert data.load(f"hf:{in_folder}", Path("data")).checksum == found.checksum, "names are sought in the data folder"


@slow
def test_a_single_split_gets_a_fixed_fifth(made: Any) -> None:
    part(made, 20).save_to_disk("alone")
    found = data.load("hf:alone", Path("data"))
    assert (len(found.train), len(found.test)) == (16, 4)
    assert found.origin == "a fixed fifth of the 20 images is the test split; the dataset has only train"


@slow
def test_gray_images_have_one_channel_and_others_are_decoded_as_files_are(made: Any) -> None:
    gray = data.load(saved(made, "gray", train=part(made, 6, mode="L"), test=part(made, 3, mode="L")), Path("data"))
    assert gray.channels == 1 and isinstance(gray.train, Split) and gray.train.images.shape == (6, 12, 12, 1)
    stored = io.BytesIO()
    turned = picture(0)
    turned.getexif()[274] = 3
    turned.save(stored, "PNG", exif=turned.getexif())
    clear = io.BytesIO()
    Image.new("RGBA", (12, 12), (0, 0, 0, 0)).save(clear, "PNG")
    features = made.Features({"image": made.Image(), "label": made.ClassLabel(names=FIRST)})
    rows = {"image": [{"bytes": one.getvalue(), "path": None} for one in (stored, clear)], "label": [0, 1]}
    both = made.Dataset.from_dict(rows, features=features)
    found = data.load(saved(made, "two", train=both, test=both), Path("data"))
    assert isinstance(found.train, Split)
    assert np.array_equal(found.train.images[0], np.asarray(picture(0))[::-1, ::-1])
    assert (found.train.images[1] == 255).all()


@slow
def test_images_that_differ_are_held_or_left_and_have_one_checksum(made: Any) -> None:
    train = made.concatenate_datasets([part(made, 3), part(made, 3, width=20)])
    name = saved(made, train=train, test=part(made, 3, 10))
    held, left = data.load(name, Path("data"), 8), data.load(name, Path("data"), 8, as_they_are=True)
    assert isinstance(held.train, Split) and held.train.images.shape == (6, 8, 8, 3)
    assert isinstance(left.train, MapImages) and left.train[4][0].size == (20, 12)
    assert held.checksum == left.checksum
    assert "differ in size, or do not fit in memory; set one, for example" in refused(name)


@slow
def test_parquet_and_image_folders_are_read(made: Any) -> None:
    Path("parquet").mkdir()
    for split, count in (("train", 9), ("test", 3)):
        part(made, count).to_parquet(f"parquet/{split}-0.parquet")
    assert data.load("hf:parquet", Path("data")).classes == ("ant", "bee", "cow")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            Path(f"folder/{split}/{name}").mkdir(parents=True)
            for number in range(3):
                picture(number).save(f"folder/{split}/{name}/{number}.png")
    found = data.load("hf:folder", Path("data"))
    assert (len(found.train), len(found.test), found.classes) == (6, 6, ("cat", "dog"))


@slow
def test_a_study_trains_on_it_and_the_inspection_reads_it(made: Any) -> None:
    name = f"{saved(made, train=part(made, 60), validation=part(made, 12, 100))}:validation"
    shown = ablations_here("data", name)
    assert shown.returncode == 0 and "splits: trains on the split train, tests on validation" in shown.stdout
    design = "pocket,depths=1-1,width=4"
    options = ("--data", name, "--set", "batch_size=20", "--seeds", "0", "--budget", "40images", "--jobs", "1")
    study = ("run", "sweep", "--base", design, "--flags", "kernel_size=3:5", "--out", "runs/x")
    done = ablations_here(*study, *options)
    assert done.returncode == 0, done.stderr
    report = ablations_here("report", "runs/x")
    assert report.returncode == 0 and name in report.stdout


@slow
def test_what_a_dataset_lacks_is_one_line(made: Any) -> None:
    good = part(made, 6)
    message = refused("hf:nobody/nothing")
    assert "no folder nobody/nothing or data/nobody/nothing, and the hub did not help" in message
    assert "datasets.load_dataset('nobody/nothing').save_to_disk(FOLDER)" in message
    Path("empty").mkdir()
    assert "hf:empty: empty cannot be read" in refused("hf:empty")
    name = saved(made, train=good, test=good)
    assert "no split 'tset': did you mean 'test'?" in refused(f"{name}:tset")
    assert "train is the split that is trained on" in refused(f"{name}:train")
    assert "no split 'x'" in refused(f"{name}(train=x)")
    assert "no column 'lable': did you mean 'label'?" in refused(f"{name}(label=lable)")
    assert "column 'label' is not of images" in refused(f"{name}(image=label)")
    two = made.DatasetDict({"train": good.add_column("coarse", [0] * 6).cast_column("coarse", made.ClassLabel(2))})
    two.save_to_disk("two")
    assert "several label columns (label, coarse); write, for example, hf:two(label=label)" in refused("hf:two")
    assert data.load("hf:two(label=coarse)", Path("data")).classes == ("0", "1")
    saved(made, "plain", train=good.remove_columns("label"))
    assert "no label column (image)" in refused("hf:plain")
    parts = made.DatasetDict({"a": good, "b": good})
    parts.save_to_disk("parts")
    assert "which split to train on? It has a, b; write, for example, hf:parts(train=a)" in refused("hf:parts")
    assert len(data.load("hf:parts(train=a):b", Path("data")).test) == 6
    hidden = good.cast_column("label", made.Value("int64")).map(lambda row: {"label": -1})
    saved(made, "hidden", train=good, test=hidden)
    assert "label of image 0 is -1" in refused("hf:hidden") and "are they hidden?" in refused("hf:hidden")
