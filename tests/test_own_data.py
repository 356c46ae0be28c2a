"""A user's own function gives a dataset: arrays, lists, datasets; whatever it returns instead is one line."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ablations_here
from PIL import Image

from ablations.data import datasets as data
from ablations.data.datasets import Split
from ablations.data.loader import feeds
from ablations.data.map_images import MapImages
from ablations.errors import RequestError
from ablations.launch.claim import Place, work_through
from ablations.recipes import load_recipe
from ablations.studies.load import load_study
from ablations.training.callbacks import NullCallbacks

HEAD = """
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Subset, TensorDataset

def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)

class Pictures(Dataset):
    def __init__(self, count, sizes=(8,), mode="RGB"):
        self.count, self.sizes, self.mode = count, sizes, mode
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        side = self.sizes[index % len(self.sizes)]
        return Image.fromarray(images(1, side, side, 3, seed=index)[0]).convert(self.mode), index % 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(body: str, head: str = HEAD) -> str:
    """Write a file with a function of this body; return the dataset's name."""
    Path("mine.py").write_text(f"{head}\ndef mine(size=8):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n")
    return "mine.py:mine"


def load(body: str, size: int | None = None, **options: Any) -> data.DataSet:
    return data.load(write(body), Path("data"), size, **options)


def refused(body: str, size: int | None = None, head: str = HEAD) -> str:
    with pytest.raises(RequestError) as caught:
        data.load(write(body, head), Path("data"), size)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.startswith(("dataset mine.py", "unknown dataset")), message
    return message


GIVEN = {
    "arrays (N, H, W)": "return (images(9, 8, 8), np.arange(9) % 3), (images(3, 8, 8, seed=1), [0, 1, 2])",
    "arrays (N, H, W, C)": "return (images(9, 8, 8, 3), np.arange(9) % 3), (images(3, 8, 8, 3, seed=1), [0, 1, 2])",
    "tensors (N, C, H, W)": """
        x, y = torch.from_numpy(images(12, 5, 8, 8)), torch.arange(12) % 3
        return (x[:9], y[:9]), (x[9:], y[9:])""",
    "a tensor dataset and parts of it": """
        whole = TensorDataset(torch.from_numpy(images(12, 3, 8, 8)), torch.arange(12) % 3)
        return Subset(whole, range(9)), Subset(whole, range(9, 12))""",
    "a dataset of PIL images": "return Pictures(9), Pictures(3)",
    "a dataset of gray PIL images": 'return Pictures(9, mode="L"), Pictures(3, mode="L")',
    "a list of pairs": "return [Pictures(9)[i] for i in range(9)], [Pictures(9)[i] for i in range(3)]",
    "lists of files and labels": """
        for i in range(12):
            Image.fromarray(images(1, 8, 8, 3, seed=i)[0]).save(f"{i}.png")
        names = [f"{i}.png" for i in range(12)]
        return (names[:9], [0, 1, 2] * 3), ([Path(name) for name in names[9:]], [0, 1, 2])""",
    "encoded bytes": """
        Image.fromarray(images(1, 8, 8)[0]).save("a.png")
        one = Path("a.png").read_bytes()
        return {"train": ([one] * 9, [0, 1, 2] * 3), "test": ([one] * 3, [0, 1, 2])}""",
}
CHANNELS = {"arrays (N, H, W)": 1, "tensors (N, C, H, W)": 5, "a dataset of gray PIL images": 1, "encoded bytes": 1}


@pytest.mark.parametrize("kind", GIVEN)
def test_what_a_function_may_return(kind: str, folder: Path) -> None:
    found = load(GIVEN[kind])
    assert (len(found.train), len(found.test), found.classes) == (9, 3, ("0", "1", "2"))
    assert (found.channels, found.image_size, found.own_size) == (CHANNELS.get(kind, 3), 8, 8)
    assert isinstance(found.train, Split) and found.train.labels.tolist() == [0, 1, 2] * 3
    assert found.checksum == load(GIVEN[kind]).checksum
    resized = load(GIVEN[kind], 4)
    assert np.asarray(resized.train[0][0]).shape[1:] == (4, 4), "images in memory are resized"
    assert resized.checksum == found.checksum


def test_pixels_are_those_returned(folder: Path) -> None:
    found = load("return (images(9, 8, 8, 3), np.arange(9) % 3), (images(3, 8, 8, 3, seed=1), [0, 1, 2])")
    theirs = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8)
    assert isinstance(found.train, Split) and np.array_equal(found.train.images.numpy(), theirs)
    found = load("x = torch.from_numpy(images(9, 3, 8, 8)); return (x, [0] * 9), (x, [0] * 9)")
    theirs = np.random.default_rng(0).integers(0, 256, (9, 3, 8, 8), np.uint8)
    assert np.array_equal(np.asarray(found.train[4][0]), theirs[4])


def test_classes_mean_and_std_are_optional(folder: Path) -> None:
    body = """
        train, test = (images(9, 8, 8, 3), np.arange(9) % 3), (images(3, 8, 8, 3), [0, 1, 2])
        return {"train": train, "test": test, "classes": ["cat", "dog", "eel"]"""
    plain = load(body + "}")
    assert plain.classes == ("cat", "dog", "eel")
    own = load(body + ', "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}')
    assert own.checksum != plain.checksum
    recipe = load_recipe("quick", {"crop_padding": "0"})
    assert isinstance(own.train, Split) and isinstance(own.test, Split)
    batches = feeds(own.train, own.test, recipe, torch.device("cpu"))
    assert batches.preprocessing is not None and batches.preprocessing.mean == pytest.approx((0.5, 0.4, 0.3))
    image = next(iter(batches.test.evaluation(torch.tensor([1]), 4))).images[0]
    theirs = (own.test[1][0].double() / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor(
        [0.2, 0.2, 0.1]
    )[:, None, None]
    assert torch.allclose(image.double(), theirs, atol=1e-5)
    assert load("return Pictures(9), Pictures(3)").classes == ("0", "1", "2")
    with_names = "d = Pictures(9)\nd.classes = ['x', 'y', 'z', 'unseen']\nreturn d, Pictures(3)"
    assert load(with_names).classes == ("x", "y", "z", "unseen")


def test_images_of_several_sizes_are_resized_and_cropped_or_left_as_they_come(folder: Path) -> None:
    body = """
        train = {"train": Pictures(9, (8, 12)), "test": Pictures(3, (8, 12)), "mean": [.5] * 3, "std": [.25] * 3}
        return train"""
    held = load(body, 8)
    assert isinstance(held.train, Split) and held.train.images.shape == (9, 8, 8, 3) and held.own_size is None
    recipe = load_recipe("quick", {"crop_padding": "0", "crop_scale": "[0.5, 1]", "image_size": "8", "workers": "2"})
    left = load(body, 8, as_they_are=True)
    assert isinstance(left.train, MapImages) and left.train[1][0].size == (12, 12)
    assert left.checksum == held.checksum, "recipes that differ must stay comparable"
    batches = feeds(left.train, left.test, recipe, torch.device("cpu"))
    assert batches.preprocessing is not None and batches.preprocessing.mean == (0.5, 0.5, 0.5)
    batch = next(iter(batches.test.evaluation(torch.arange(3), 3)))
    assert batch.images.shape == (3, 3, 8, 8) and batch.labels.tolist() == [0, 1, 2]
    wide = "return (images(9, 8, 12), [0, 1, 2] * 3), (images(3, 8, 12), [0, 1, 2])"
    assert np.asarray(load(wide, 8).train[0][0]).shape == (1, 8, 8)
    with pytest.raises(RequestError, match="images differ in size, or do not fit in memory; set one, for example"):
        load(wide)


def test_random_numbers_of_a_function_and_of_its_items_are_the_same_in_each_process(folder: Path) -> None:
    body = """
        class Noise(Pictures):
            def __getitem__(self, index):
                return (torch.rand(3, 8, 8) * 255).byte(), int(np.random.randint(3)) * 0
        np.random.seed(None) if False else None
        return Noise(9), (np.random.randint(0, 255, (3, 8, 8, 3)).astype("uint8"), [0, 0, 0])"""
    one, other = load(body), load(body)
    assert one.checksum == other.checksum
    assert isinstance(one.train, Split) and isinstance(other.train, Split)
    assert torch.equal(one.train.images, other.train.images)


def test_a_function_that_returns_other_images_in_each_process_ends_the_study(folder: Path) -> None:
    body = "return (np.random.default_rng().integers(0, 255, (9, 8, 8)).astype('uint8'), [0, 1, 2] * 3), images(3)"
    body = body.replace("images(3)", "(np.zeros((3, 8, 8), np.uint8), [0, 1, 2])")
    one, other = load(body), load(body)
    assert one.checksum != other.checksum
    study = load_study("one-in", {"base": "pocket", "flags": ["norm"], "data": one.name, "seeds": [0]}, {}).on(one)
    with pytest.raises(RequestError, match=r"not the images with which the study was started .* seed its generators"):
        work_through(study, folder / "study", lambda _: other, Place("cpu"), NullCallbacks())
    assert not (folder / "study").exists()


def test_16_bit_transparent_and_turned_images_are_shown_as_viewers_show_them(folder: Path) -> None:
    body = """
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save("clear.png")
        turned = Image.fromarray(images(1, 8, 8, 3)[0])
        turned.getexif()[274] = 3
        turned.save("turned.png", exif=turned.getexif())
        deep = np.full((8, 8, 3), 65535, np.uint16)
        return [("clear.png", 0), ("turned.png", 0), (deep, 0)], [(Image.open("clear.png"), 0)]"""
    # 16-bit color arrays are rescaled, as those of a whole split
    found = load(body.replace("(deep, 0)", "((deep >> 8).astype(np.uint8), 0)"))
    assert isinstance(found.train, Split) and isinstance(found.test, Split)
    assert (found.train.images[0] == 255).all() and (found.test.images == 255).all()
    stored = np.asarray(Image.open("turned.png"))
    assert np.array_equal(found.train.images[1], stored[::-1, ::-1])
    deep = load(body)
    assert isinstance(deep.train, Split) and (deep.train.images[2] == 255).all()


PAIR = "return (images(9, 8, 8), np.arange(9) % 3), "
WRONG = {
    "return None": "returns a NoneType; return train, test, or a dictionary",
    "return 1, 2, 3": "returns a tuple of 3; return train, test",
    "return {'train': Pictures(9)}": "returns no 'test'",
    "return {'train': Pictures(9), 'tset': Pictures(3)}": "a key 'tset': did you mean 'test'?",
    "return 'train', 'test'": "the training split is a str; return train, test",
    "return Pictures(9), iter([1])": "the test split is a list_iterator",
    "return Pictures(9), {'a': 1}": "the test split is a dict",
    "return Pictures(0), Pictures(3)": "the training split has no images",
    PAIR + "(images(0, 8, 8), [])": "the test split has no images",
    PAIR + "(images(3, 9, 9), [0, 1, 2])": "training images are 8×8×1 and test images 9×9×1",
    PAIR + "(images(3, 8, 8), [0, 1])": "2 labels for 3 images",
    PAIR + "(images(3, 8, 8), [0, 1, 3])": "label of image 2 is 3; labels must be integers from 0 to 2",
    PAIR + "(images(3, 8, 8), [0, 1, -1])": "label of image 2 is -1",
    PAIR + "(images(3, 8, 8), np.eye(3))": "labels have shape (3, 3)",
    PAIR + "(images(3, 8, 8), ['a', 'b', 'c'])": "label of image 0 is 'a'",
    PAIR + "(images(3, 8, 8) / 255, [0, 1, 2])": "images of type float64, whose range is unknown",
    PAIR + "(images(3, 8), [0, 1, 2])": "images are 3×8; they must be (N, H, W, C), or gray (N, H, W)",
    PAIR + "(images(3, 8, 8), [0, 1, 2], 1)": "the test split is a tuple of 3",
    "return (images(9, 3, 8, 8), [0] * 9), (images(9, 3, 8, 8), [0] * 9)": "tensors are (N, C, H, W)",
    "return [1, 2, 3], Pictures(3)": "item 0 of the training split is a int; it must be a pair",
    "return [(1, 0)], Pictures(3)": "image 0 has type int; it must be a PIL image",
    "return [('no.png', 0)], Pictures(3)": "no.png",
    "return [(b'abc', 0)], Pictures(3)": "not an image that Pillow can read",
    "return Pictures(9), [(images(1, 8, 8, 4)[0], 0)]": "image 0 is 8×8×4; it must be an array",
    "return [(torch.rand(3, 8, 8), 0)], Pictures(3)": "type float32; return it before it is converted and normalized",
    "return Pictures(9), [(Pictures(1)[0][0], 3)]": "test split: the label of image 0 is 3",
    "return Pictures(9, mode='L'), Pictures(3)": "mode RGB, but the dataset's first image is gray",
    "return {'train': Pictures(9), 'test': Pictures(3), 'classes': ['a', 'b']}": "label of image 2 is 2",
    "return {'train': Pictures(9), 'test': Pictures(3), 'classes': ['a', 'b', 'a']}": "classes lists 'a' twice",
    "return {'train': Pictures(9), 'test': Pictures(3), 'classes': 'abc'}": "classes is a str",
    "return {'train': Pictures(9), 'test': Pictures(3), 'classes': 3}": "classes is a int",
    "return {'train': Pictures(9), 'test': Pictures(3), 'mean': [128] * 3, 'std': [1] * 3}": "from 0 to 1",
    "return {'train': Pictures(9), 'test': Pictures(3), 'mean': [0.5] * 3}": "both mean and std",
    "return {'train': Pictures(9), 'test': Pictures(3), 'mean': 0.5, 'std': 0.5}": "must be 3 numbers",
    "return {'train': Pictures(9), 'test': Pictures(3), 'mean': [0.5] * 3, 'std': [0] * 3}": "above 0",
    "raise ValueError('no disk')": "mine.py, line 21, in mine: ValueError: no disk",
    "d = Pictures(9)\nd.sizes = ()\nreturn d, d": "in __getitem__: ZeroDivisionError",
    "d = Pictures(9)\nd.targets = [2] * 9\nreturn d, d": "has label 0, and the dataset's targets say 2",
}


@pytest.mark.parametrize("body", WRONG)
def test_whatever_else_a_function_returns_is_one_line(body: str, folder: Path) -> None:
    assert WRONG[body] in refused(body)


def test_names_that_lead_nowhere_are_one_line(folder: Path) -> None:
    write("return Pictures(9), Pictures(3)")
    for name, words in {
        "mine.py:main": "has no function 'main'",
        "mine.py:mine(sise=3)": "no setting 'sise': did you mean 'size'?",
        "mine.py:mine(3)": "write setting=value",
        "mine.py": "unknown dataset 'mine.py'",
        "mine.py:": "write FILE.py:FUNCTION",
        "yours.py:mine": "yours.py: no such file",
        "my mine.py:mine": "no such file",
    }.items():
        with pytest.raises(RequestError) as caught:
            data.load(name, folder)
        assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


STRANGERS = """
import numpy as np

def rings(size=16, images=300):
    \"\"\"Rings and discs in noise.\"\"\"
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, images)
    rows, columns = np.mgrid[:size, :size] - size / 2 + 0.5
    radius = np.hypot(rows, columns) / size
    shapes = np.where(labels[:, None, None], radius < 0.35, abs(radius - 0.3) < 0.08)
    pictures = (shapes * 128 + chance.integers(0, 128, shapes.shape)).astype(np.uint8)
    held = images // 4
    return {
        "train": (pictures[held:], labels[held:]),
        "test": (pictures[:held], labels[:held]),
        "classes": ["ring", "disc"],
    }
"""


def test_a_strangers_file_is_inspected_trained_studied_and_reported_from_an_empty_folder(folder: Path) -> None:
    Path("my_data.py").write_text(STRANGERS)
    name = "my_data.py:rings(size=12,images=200)"
    shown = ablations_here("data", name)
    assert shown.returncode == 0 and "150 training and 50 test images of 1×12×12 in 2 classes" in shown.stdout
    assert json.loads(ablations_here("data", name, "--format", "json").stdout)["classes"][1]["name"] == "disc"
    design = "pocket,depths=1-1,width=4"
    study = ("run", "sweep", "--base", design, "--flags", "kernel_size=3:5", "--budget", "400images")
    options = ("--data", name, "--set", "batch_size=50", "--seeds", "0", "--out", "runs/rings", "--jobs", "1")
    done = ablations_here(*study, *options)
    assert done.returncode == 0, done.stderr
    assert ablations_here("run", "runs/rings").returncode == 0, "a finished study has nothing left to do"
    report = ablations_here("report", "runs/rings")
    assert report.returncode == 0 and name in report.stdout, report.stderr
    trained = ("train", design, "--data", name, "--set", "batch_size=50", "--set", "max_epochs=2", "--out", "runs/one")
    assert ablations_here(*trained).returncode == 0
    Path("runs/one/result.json").unlink()
    Path("my_data.py").write_text(STRANGERS.replace("default_rng(0)", "default_rng(1)"))
    refused = ablations_here(*trained)
    assert refused.returncode == 2 and "was started with other data" in refused.stderr
    Path("my_data.py").write_text(f"# a comment\n{STRANGERS}")
    assert ablations_here(*trained).returncode == 0, "only the contents count"


def test_a_study_file_names_own_data_and_errors_come_before_training(folder: Path) -> None:
    Path("my_data.py").write_text(STRANGERS)
    study = "kind: sweep\nbase: pocket\nflags: {kernel_size: [3, 5]}\ndata: my_data.py:rings(size=12)\n"
    Path("study.yaml").write_text(study)
    planned = ablations_here("run", "study.yaml", "--dry-run", "--set", "batch_size=50")
    assert planned.returncode == 0 and "on my_data.py:rings(size=12)" in planned.stdout
    for old, new, words in (
        ("rings(", "ring(", "has no function 'ring': did you mean 'rings'?"),
        ("my_data.py:rings", "torchvision:SVHM", "did you mean 'SVHN'?"),
        ("my_data.py:rings(size=12)", "'hf:'", "write hf:NAME"),
        ("size=12", "size=12x", "my_data.py, line"),
    ):
        Path("study.yaml").write_text(study.replace(old, new))
        failed = ablations_here("run", "study.yaml", "--dry-run")
        assert failed.returncode == 2 and words in failed.stderr and len(failed.stderr.splitlines()) == 1, failed.stderr
    assert not Path("runs").exists()
