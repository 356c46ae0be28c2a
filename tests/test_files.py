"""Images in files and shards: the same samples in the same order for any storage and number of workers."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from commands import ablations, ablations_here, started
from PIL import Image
from recorder import Recorder
from torch import nn
from torch.nn import functional as F

import modernize
from ablations.data.datasets import DataSet, load
from ablations.data.decode import DamagedImageError, decoded
from ablations.data.image_files import ImageFiles
from ablations.errors import RequestError
from ablations.recipes import TrainingConfig, load_recipe
from ablations.store import read_json
from ablations.training.callbacks import NullCallbacks
from ablations.training.checkpoint import checkpoints
from ablations.training.trainer import DamagedDataError, Interrupted, Result, Trainer

CLASSES = ("n01 tench", "n02 Grünspecht", "n03 鯨", "n04")
TRAINING, VALIDATION, BATCH = 850, 150, 50
DESIGN = "pocket,depths=1-1,width=4"
# Where a damaged image stands in the training split (21 among the first seven batches), and what is wrong with it.
DAMAGES: dict[int, Callable[[bytes], bytes]] = {
    21: lambda jpeg: jpeg[: len(jpeg) // 2],
    300: lambda jpeg: b"",
    849: lambda jpeg: b"<html>404 Not Found</html>",
}
DAMAGED_VALIDATION = 125
SET = ("image_size=32", f"batch_size={BATCH}", "max_epochs=1", "warmup_epochs=0.1", "max_damaged=0.01")


def paper(*changes: str) -> tuple[str, ...]:
    """Options of the paper's recipe on small images, with some settings changed."""
    chosen = {one.partition("=")[0]: one for one in (*SET, *changes)}
    return "--recipe", "paper_enhanced", *(word for one in chosen.values() for word in ("--set", one))


def train(*changes: str) -> tuple[str, ...]:
    return "train", DESIGN, "--data", "imagenet", *paper(*changes), "--device", "cpu", "--threads", "1"


@dataclass(frozen=True)
class Drawn:
    """The same images as class folders and as shards, and each split's keys, labels and bytes in order."""

    folders: Path
    shards: Path
    samples: dict[str, list[tuple[str, int, bytes]]]

    def place(self, layout: str) -> Path:
        return self.folders if layout == "folders" else self.shards

    def names(self, layout: str) -> list[str]:
        """What the damaged training images are called."""
        if layout == "folders":
            return [f"train/{self.samples['train'][index][0]}.jpg" for index in DAMAGES]
        return [f"small-train-{index // 300:06d}.tar/{self.samples['train'][index][0]}" for index in DAMAGES]


def jpeg(chance: np.random.Generator, label: int) -> bytes:
    """A small picture of blots, redder or bluer depending on its class."""
    pixels = chance.integers(0, 200, (4, 4, 3))
    pixels[..., 0] += 15 * label
    size = (int(chance.integers(34, 50)), int(chance.integers(34, 50)))
    written = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).save(written, "JPEG")
    return written.getvalue()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """1,000 JPEGs in four classes; three training images and one validation image are corrupt."""
    place, chance = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    samples: dict[str, list[tuple[str, int, bytes]]] = {}
    (place / "shards").mkdir()
    for part, count in (("train", TRAINING), ("val", VALIDATION)):
        samples[part] = []
        pattern = f"{place}/shards/small-{part}-%06d.tar"
        with webdataset.ShardWriter(pattern, maxcount=300, verbose=0) as writer:
            for index in range(count):
                label = index * len(CLASSES) // count
                name, data = CLASSES[label], jpeg(chance, label)
                if part == "train" and index in DAMAGES:
                    data = DAMAGES[index](data)
                elif part == "val" and index == DAMAGED_VALIDATION:
                    data = data[:300]
                key = f"{name}/{name}_{index:05d}"
                samples[part].append((key, label, data))
                path = place / "folders" / part / f"{key}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                writer.write({"__key__": key, "jpg": data, "cls": label})
    return Drawn(place / "folders", place / "shards", samples)


# More workers than cores are asked for.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
LAYOUTS = pytest.mark.parametrize("layout", ["folders", "shards"])


def recipe(**changes: Any) -> TrainingConfig:
    """The paper's recipe on small images."""
    paper = load_recipe("paper_enhanced").model_dump()
    small = {"image_size": 32, "batch_size": BATCH, "max_epochs": 1, "warmup_epochs": 0.1, "max_damaged": 0.01}
    return TrainingConfig(**{**paper, **small, "workers": 0, **changes})


def network(design: str = DESIGN, classes: int = len(CLASSES)) -> nn.Module:
    torch.manual_seed(1)
    return modernize.build(design, num_classes=classes, in_channels=3)


def trainer(data: DataSet, folder: Path | None = None, **changes: Any) -> Trainer:
    return Trainer(network(), data.train, data.test, recipe(**changes), seed=3, folder=folder, device="cpu")


def quietly(run: Trainer) -> Result:
    run.callbacks = NullCallbacks()
    return run.train()


# ---- the same samples


def test_folders_and_shards_hold_what_webdataset_reads(drawn: Drawn) -> None:
    for part in ("train", "val"):
        paths = sorted(map(str, drawn.shards.glob(f"*{part}*.tar")))
        read = [
            (sample["__key__"], int(sample["cls"]), sample["jpg"])
            for sample in webdataset.WebDataset(paths, shardshuffle=False, empty_check=False)
        ]
        assert read == drawn.samples[part]
        for layout in ("folders", "shards"):
            data = load("imagenet", drawn.place(layout), 32)
            images = data.train if part == "train" else data.test
            assert isinstance(images, ImageFiles)
            keys = [os.fsdecode(bytes(name)).removesuffix(".jpg") for name in images.names]
            found = zip(keys, images.labels.tolist(), map(images.read, range(len(images))), strict=True)
            assert list(found) == read
            assert len(data.classes) == len(CLASSES)


@LAYOUTS
def test_an_image_is_what_pillow_opens_and_a_corrupt_one_is_named(drawn: Drawn, layout: str) -> None:
    images = load("imagenet", drawn.place(layout), 32).train
    assert isinstance(images, ImageFiles)
    for index in (0, 22, 299, 301, 848):
        image, label = images[index]
        _, right, data = drawn.samples["train"][index]
        assert label == right
        assert image.mode == "RGB" and image.tobytes() == Image.open(io.BytesIO(data)).tobytes()
    for index, name in zip(DAMAGES, drawn.names(layout), strict=True):
        with pytest.raises(DamagedImageError, match=re.escape(name)):
            images[index]


def test_an_image_deleted_after_it_was_listed_is_corrupt(drawn: Drawn, tmp_path: Path) -> None:
    for index in range(4):
        key, _, data = drawn.samples["train"][index]
        for part in ("train", "val"):
            path = tmp_path / part / f"{key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    images = load("imagenet", tmp_path, 32).train
    assert isinstance(images, ImageFiles)
    (tmp_path / images.name(2)).unlink()
    (tmp_path / images.name(3)).unlink()
    (tmp_path / images.name(3)).mkdir()
    images[1]
    for index, words in ((2, "No such file"), (3, "Is a directory")):
        with pytest.raises(DamagedImageError, match=f"{re.escape(images.name(index))}.*{words}"):
            images[index]


# ---- the same order, and every pixel


def epochs(run: Trainer) -> list[tuple[list[int], list[int], list[int], str]]:
    """Record a run's micro-batches: indices, readable indices, labels and pixel sums."""
    seen = []
    for part, batch in run.batches:
        pixels = hashlib.sha256(batch.images.numpy().tobytes()).hexdigest()
        seen.append((part.indices.tolist(), batch.indices.tolist(), batch.labels.tolist(), pixels))
    return seen


def test_the_order_and_every_pixel_are_the_same_for_0_1_and_4_workers_and_both_layouts(drawn: Drawn) -> None:
    folders, shards = (load("imagenet", drawn.place(layout), 32) for layout in ("folders", "shards"))
    expected = epochs(trainer(folders, max_epochs=2, accumulation=2))
    for data, workers, passes in ((folders, 1, 1), (folders, 4, 1.3), (shards, 0, 0.5), (shards, 4, 0.5)):
        found = epochs(trainer(data, max_epochs=passes, accumulation=2, workers=workers))
        assert found == expected[: len(found)] and len(found) == 2 * round(17 * passes)
    halves = expected[: len(expected) // 2], expected[len(expected) // 2 :]
    orders = [[index for indices, *_ in half for index in indices] for half in halves]
    assert all(sorted(order) == list(range(TRAINING)) for order in orders), "an image was left out or came twice"
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    for indices, came, labels, _ in expected:
        assert came == [index for index in indices if index not in DAMAGES]
        assert labels == [drawn.samples["train"][index][1] for index in came]


def test_another_seed_is_another_order_and_other_crops(drawn: Drawn) -> None:
    data = load("imagenet", drawn.folders, 32)
    one, other = trainer(data, max_epochs=0.2), trainer(data, max_epochs=0.2)
    other.seed = 4
    assert epochs(one) != epochs(other)


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 4), (4, 0)])
def test_a_run_resumed_with_another_number_of_workers_equals_an_uninterrupted_one(
    drawn: Drawn, tmp_path: Path, whole: Result, before: int, after: int
) -> None:
    data = load("imagenet", drawn.folders, 32)
    first = trainer(data, tmp_path, max_epochs=0.5, workers=before)
    first.callbacks.stopping = lambda: first.step == 5
    with pytest.raises(Interrupted):
        first.train()
    found = quietly(trainer(load("imagenet", drawn.shards, 32), tmp_path, max_epochs=0.5, workers=after))
    assert found.weights_sha256 == whole.weights_sha256
    assert found.evaluation.loss == whole.evaluation.loss
    assert len(found.damaged) == len(whole.damaged)


@pytest.fixture(scope="module")
def whole(drawn: Drawn) -> Result:
    """Train half an epoch in one process, uninterrupted."""
    return quietly(trainer(load("imagenet", drawn.folders, 32), max_epochs=0.5))


# ---- damaged images


def test_corrupt_images_are_named_once_and_excluded_from_the_evaluation(drawn: Drawn) -> None:
    run = trainer(load("imagenet", drawn.folders, 32), ema_decay=0.9, workers=1)
    recorder = Recorder()
    run.callbacks = recorder
    result = run.train()
    names = [*drawn.names("folders"), f"val/{drawn.samples['val'][DAMAGED_VALIDATION][0]}.jpg"]
    assert len(result.damaged) == len(recorder.warnings) == 4
    for name in names:
        assert sum(name in one for one in result.damaged) == sum(name in words for words in recorder.warnings) == 1
    for evaluation in filter(None, (result.evaluation, result.averaged)):
        assert len(evaluation.labels) == len(evaluation.predictions) == VALIDATION - 1
        right = [label for index, (_, label, _) in enumerate(drawn.samples["val"]) if index != DAMAGED_VALIDATION]
        assert evaluation.labels.tolist() == right
        hits = sum(one == other for one, other in zip(evaluation.predictions.tolist(), right, strict=True))
        assert evaluation.top1 == 100 * hits / (VALIDATION - 1)


def test_an_evaluation_holds_no_open_file_per_batch(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch from another process is an open file; ImageNet has more batches than a process may open files."""
    monkeypatch.setattr("ablations.training.evaluation.EVALUATION_BATCH_CPU", 5)
    run = trainer(load("imagenet", drawn.folders, 32), workers=1)
    opened = []
    monkeypatch.setattr(run.corrupt, "add", lambda *_, **__: opened.append(sum(1 for _ in Path("/dev/fd").iterdir())))
    monkeypatch.setattr(run, "check_corrupt", lambda *_: None)
    run.evaluate(run.model)
    assert len(opened) == VALIDATION // 5 and max(opened) - min(opened) < 10


class Holed:
    """Noise images, some of them corrupt."""

    def __init__(self, holes: set[int], count: int = 16):
        self.images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        self.holes = holes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index in self.holes:
            raise DamagedImageError(f"image {index}")
        return self.images[index], index % 3


def holed(holes: set[int], accumulation: int, tests: Holed | None = None, **changes: Any) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 1, "batch_size": 16, "learning_rate": 0.1, "max_damaged": 0.99, **changes}
    config = TrainingConfig(accumulation=accumulation, optimizer="sgd", label_smoothing=0.1, **settings)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    return Trainer(model, Holed(holes), tests or Holed(set()), config, device="cpu", callbacks=NullCallbacks())


@pytest.mark.parametrize("accumulation", [1, 4, 8])
@pytest.mark.parametrize("holes", [{5}, {1, 5, 9, 10, 11}])
def test_corrupt_images_do_not_contribute_to_the_gradient(holes: set[int], accumulation: int) -> None:
    data = Holed(set())
    good = [index for index in range(16) if index not in holes]
    run = holed(holes - {0}, accumulation)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    plain.load_state_dict(run.model.state_dict())
    logits = plain(data.images[good])
    # each image's share of the step is that of a whole batch: the others do not count for more
    (F.cross_entropy(logits, torch.tensor(good) % 3, reduction="sum", label_smoothing=0.1) / 16).backward()
    run.train_step()
    for ours, theirs in zip(run.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_micro_batch_and_a_test_batch_of_corrupt_images_alone_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.training.evaluation.EVALUATION_BATCH_CPU", 5)
    tests = Holed({15})  # alone in its batch
    for accumulation in (1, 8):
        result = holed(set(range(1, 16, 2)), accumulation, tests, batch_size=8).train()
        assert len(result.damaged) == 8 + 1 and len(result.evaluation.labels) == 15
    all_of_them = holed(set(range(1, 16)), 1, batch_size=2, max_epochs=4)
    assert len(all_of_them.train().damaged) == 15


def test_too_many_corrupt_images_fail_the_run_naming_one_of_the_split(drawn: Drawn) -> None:
    data = load("imagenet", drawn.folders, 32)
    with pytest.raises(DamagedDataError, match=r"^3 of 850 training images .* max_damaged=0.001, such as train/.*jpg"):
        quietly(trainer(data, max_damaged=0.001))
    short = trainer(data, max_damaged=0.003, max_epochs=0.1)
    short.corrupt.reasons["training 0"] = "one of another split"
    with pytest.raises(DamagedDataError, match=r"^1 of 150 test images .* max_damaged=0.003, such as val/.*jpg"):
        quietly(short)


def test_corrupt_images_met_before_an_interruption_are_in_the_result(
    drawn: Drawn, tmp_path: Path, whole: Result
) -> None:
    data = load("imagenet", drawn.folders, 32)
    assert any("train" in words for words in whole.damaged)
    first = trainer(data, tmp_path, max_epochs=0.5)
    first.callbacks.stopping = lambda: first.step == 7
    with pytest.raises(Interrupted):
        first.train()
    assert quietly(trainer(data, tmp_path, max_epochs=0.5)).damaged == whole.damaged


# ---- shards


def copied(drawn: Drawn, place: Path) -> Path:
    """The shards, in a folder of their own."""
    place.mkdir()
    for shard in drawn.shards.glob("*.tar"):
        shutil.copy(shard, place)
    return place


def indexes(place: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in place.glob(".index-*.npz")}


def test_the_index_of_shards_is_stored_and_rebuilt_if_a_shard_changes_or_it_is_corrupt(
    drawn: Drawn, tmp_path: Path
) -> None:
    place = copied(drawn, tmp_path / "shards")
    first = load("imagenet", place, 32)
    kept = indexes(place)
    assert len(kept) == 2
    shard = place / "small-train-000000.tar"
    times, data = shard.stat(), shard.read_bytes()
    shard.write_bytes(bytes(len(data)))  # with the same size and date: only one who reads it again can tell
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load("imagenet", place, 32).checksum == first.checksum and indexes(place) == kept

    shard.write_bytes(data)
    for path in kept:
        good = path.read_bytes()
        for damaged in (good[:-100], b"", b"words", good[:200] + b"words" + good[205:]):
            path.write_bytes(damaged)
            os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
            assert load("imagenet", place, 32).checksum == first.checksum

    shutil.copy(drawn.shards / "small-train-000001.tar", shard)
    shutil.copy(drawn.shards / "small-train-000000.tar", place / "small-train-000001.tar")
    changed = load("imagenet", place, 32)
    assert changed.checksum != first.checksum and set(indexes(place)) > set(kept)
    assert isinstance(changed.train, ImageFiles) and changed.train.read(0) == drawn.samples["train"][300][2]


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Make a folder read-only, also for root."""
    if os.geteuid():
        place.chmod(0o555)
        yield
        place.chmod(0o755)
        return
    mount = ["mount", "--bind", "-o", "ro", str(place), str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a folder read-only is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_shards_in_a_read_only_folder_work(drawn: Drawn, tmp_path: Path) -> None:
    place = copied(drawn, tmp_path / "shards")
    with read_only(place):
        with pytest.raises(OSError, match=r"Read-only|denied"):
            (place / "file").write_text("")
        images = load("imagenet", place, 32).train
    assert isinstance(images, ImageFiles) and images.read(5) == drawn.samples["train"][5][2]
    assert not indexes(place)


def refusal(place: Path) -> str:
    with pytest.raises(RequestError) as caught:
        load("imagenet", place, 32)
    assert "\n" not in str(caught.value) and str(place) in str(caught.value)
    return str(caught.value)


def test_a_shard_truncated_anywhere_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    place = copied(drawn, tmp_path / "shards")
    shard = place / "small-train-000000.tar"
    data = shard.read_bytes()
    end = -(-len(data.rstrip(bytes(1))) // 512) * 512  # of the last member; the rest is empty blocks
    boundaries = [0, 100, 512, 1024, 1536, end - 512, end - 200, end]
    for length in [*boundaries, *random.Random(0).sample(range(end), 20)]:
        shard.write_bytes(data[:length])
        assert re.search(r"shard .* cannot be read \(.+\)|has no class", refusal(place)), length
    shard.write_bytes(data[: end + 512])  # of the two empty blocks at the end, one tells that it is there
    assert len(load("imagenet", place, 32).train) == TRAINING


def written(place: Path, part: str, *members: tuple[str, bytes]) -> None:
    place.mkdir(exist_ok=True)
    with tarfile.open(place / f"{part}.tar", "w") as shard:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))


PICTURE = jpeg(np.random.default_rng(1), 0)


def test_a_shard_corrupt_halfway_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "shards"
    for part in ("train", "val"):
        members = [(f"{n}.{kind}", PICTURE if kind == "jpg" else b"0") for n in range(4) for kind in ("jpg", "cls")]
        written(place, part, *members)
    data = bytearray((place / "train.tar").read_bytes())
    header = data.index(b"2.jpg")
    data[header + 110] ^= 0xFF
    (place / "train.tar").write_bytes(data)
    with tarfile.open(place / "train.tar") as shard:
        assert len(shard.getmembers()) == 4, "tarfile itself says nothing"
    assert f"truncated or corrupt at byte {header}" in refusal(place)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("a.jpg", PICTURE), ("a.cls", b"0"), ("b.jpg", PICTURE)], "b has no class (a .cls file)"),
        (
            [("a.jpg", PICTURE), ("a.cls", b"tench")],
            "the class of a is tench; classes must be integers from 0 to 65535",
        ),
        ([("a.jpg", PICTURE), ("a.cls", b"-1")], "the class of a is -1; classes must be integers from 0"),
        ([("a.jpg", PICTURE), ("a.cls", b"1.0")], "the class of a is 1.0; classes must be integers from 0"),
        ([("a.jpg", PICTURE), ("a.cls", b"1_0")], "the class of a is 1_0; classes must be integers from 0"),
        ([("a.jpg", PICTURE), ("a.cls", b"")], "the class of a is empty; classes must be integers from 0"),
        ([("a.txt", b"words"), ("a.cls", b"0")], "it contains no images"),
        ([], "it contains no images"),
        ([("a.jpg", PICTURE), ("a.cls", b"65536")], "a has class 65536; classes must be from 0 to 65535"),
        ([("a.jpg", PICTURE), ("a.cls", b"9" * 30)], f"a has class {'9' * 30}; classes must"),
    ],
)
def test_a_shard_without_labeled_images_is_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    place = tmp_path / "shards"
    written(place, "val", ("a.jpg", PICTURE), ("a.cls", b"0"))
    written(place, "train", *members)
    assert f"shard {place / 'train.tar'}" in (said := refusal(place)) and words in said


def test_what_is_no_tar_file_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "shards", "val", ("a.jpg", PICTURE), ("a.cls", b"0"))
    for data in (b"", b"words", PICTURE, bytes(100_000)):
        (tmp_path / "shards/train.tar").write_bytes(data)
        assert "train.tar" in refusal(tmp_path / "shards")


def test_a_shard_named_after_both_splits_is_refused(tmp_path: Path) -> None:
    """The network would be tested on its training images."""
    written(tmp_path / "shards", "train", ("a.jpg", PICTURE), ("a.cls", b"0"))
    (tmp_path / "shards/train.tar").rename(tmp_path / "shards/train-val-0.tar")
    assert "train-val-0.tar is named as a shard of both splits" in refusal(tmp_path / "shards")


def test_a_folder_in_a_shard_is_no_image(tmp_path: Path) -> None:
    for part in ("train", "val"):
        written(tmp_path / "shards", part, ("a.jpg", PICTURE), ("a.cls", b"0"))
    with tarfile.open(tmp_path / "shards/train.tar", "a") as shard:
        folder = tarfile.TarInfo("all.jpg")
        folder.type = tarfile.DIRTYPE
        shard.addfile(folder)
    assert len(load("imagenet", tmp_path / "shards", 32).train) == 1


def test_keys_and_suffixes_are_webdatasets(tmp_path: Path) -> None:
    members = [("./a/b.c.seg.png", b"mask"), ("./a/b.JPG", PICTURE), ("./a/b.CLS", b" 2\n"), ("./a/b.json", b"{}")]
    for part in ("train", "val"):
        written(tmp_path / "shards", part, *members)
    (sample,) = webdataset.WebDataset([str(tmp_path / "shards/train.tar")], shardshuffle=False, empty_check=False)
    images = load("imagenet", tmp_path / "shards", 32).train
    assert isinstance(images, ImageFiles)
    assert [bytes(name).decode() for name in images.names] == [sample["__key__"]]
    assert images.labels.tolist() == [int(sample["cls"])] and images.read(0) == sample["jpg"]


# ---- class folders


def test_class_folders_missing_empty_or_different_are_refused(tmp_path: Path) -> None:
    def tree(*paths: str) -> Path:
        place = tmp_path / f"tree-{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for path in paths:
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                (place / path).mkdir()
            else:
                (place / path).write_bytes(PICTURE)
        return place

    assert "neither folders train and val" in refusal(tree())
    assert "neither folders train and val" in refusal(tree("train/a/1.jpg"))
    assert "contains no class folders" in refusal(tree("train/a/1.jpg", "val/"))
    assert "contains no class folders" in refusal(tree("train/1.jpg", "val/1.jpg"))
    assert "train/b contains no images" in refusal(tree("train/a/1.jpg", "train/b/", "val/a/1.jpg"))
    assert "train/b contains no images" in refusal(tree("train/a/1.jpg", "train/b/notes.txt", "val/a/1.jpg"))
    assert "class 'b' is in only one of" in refusal(tree("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg"))
    assert "class 'c' is in only one of" in refusal(tree("train/a/1.jpg", "val/a/1.jpg", "val/c/1.jpg"))
    with pytest.raises(RequestError, match="image_size=224"):
        load("imagenet", tree("train/a/1.jpg", "val/a/1.jpg"))
    nested = load("imagenet", tree("train/a/x/1.JPEG", "train/a/2.png", "train/a/.3.txt", "val/a/1.jpg"), 32)
    assert len(nested.train) == 2 and nested.classes == ("a",)


@LAYOUTS
def test_a_tenth_of_the_training_images_is_held_out_for_validation(drawn: Drawn, layout: str) -> None:
    data, again = (load("imagenet", drawn.place(layout), 32, evaluate="validation") for _ in range(2))
    parts = data.train, data.test, again.test
    assert all(isinstance(part, ImageFiles) for part in parts)
    train, held, same = ([part.name(index) for index in range(len(part))] for part in parts)  # type: ignore[union-attr]
    assert len(held) == TRAINING // 10 and held == same
    assert len({*train, *held}) == TRAINING and not any("val" in name for name in held)
    whole = load("imagenet", drawn.place(layout), 32).train
    assert isinstance(whole, ImageFiles)
    assert sorted([*train, *held]) == sorted(map(whole.name, range(TRAINING)))
    labels = dict(zip(map(whole.name, range(TRAINING)), whole.labels.tolist(), strict=True))
    assert [labels[name] for name in held] == data.test.labels.tolist()


# ---- odd images


def odd_images() -> dict[str, bytes]:
    """Images of every kind that a folder may contain."""
    pixels = np.random.default_rng(2).integers(0, 256, (20, 24, 4), dtype=np.uint8)
    rgb = Image.fromarray(pixels[..., :3])
    grey16 = Image.fromarray((np.arange(480).reshape(20, 24) * 136).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "grey.jpg": (rgb.convert("L"), "JPEG", {}),
        "turned.jpg": (rgb, "JPEG", {"exif": exif}),
        "bad exif.jpg": (rgb, "JPEG", {"exif": b"Exif\x00\x00II*\x00\xff\xff\xff\xff" + bytes(range(40))}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True}),
        "palette.png": (rgb.quantize(16), "PNG", {"transparency": 3}),
        "rgba.png": (Image.fromarray(pixels), "PNG", {}),
        "grey alpha.png": (Image.fromarray(pixels).convert("LA"), "PNG", {}),
        "1 bit.png": (rgb.convert("1"), "PNG", {}),
        "16 bit.png": (grey16, "PNG", {}),
        "a png.jpg": (rgb, "PNG", {}),
        "x.webp": (rgb, "WEBP", {}),
        "x.bmp": (rgb, "BMP", {}),
        "x.ppm": (rgb, "PPM", {}),
        "x.tif": (rgb, "TIFF", {}),
    }
    images = {}
    for name, (image, form, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        images[name] = buffer.getvalue()
    return images


def test_any_fault_of_an_image_makes_it_corrupt_and_nothing_worse() -> None:
    chance, damaged = random.Random(0), 0
    for name, data in odd_images().items():
        spoiled = [data[:length] for length in chance.sample(range(len(data)), 20)]
        for _ in range(40):
            changed = bytearray(data)
            for place in chance.sample(range(min(len(data), 200)), 4):
                changed[place] = chance.randrange(256)
            spoiled.append(bytes(changed))
        for one in spoiled:
            try:
                assert decoded(one, name).mode == "RGB"
            except DamagedImageError as error:
                damaged += 1
                assert str(error).startswith(f"{name}: ") and "\n" not in str(error)
    assert damaged > 200


# ---- the whole path


def damaged_lines(output: str) -> list[str]:
    return [line for line in output.splitlines() if "skipped an unreadable image" in line]


def test_data_prints_the_same_for_folders_and_shards(drawn: Drawn) -> None:
    both = [ablations_here("data", "imagenet", "--data-dir", drawn.place(layout)) for layout in ("folders", "shards")]
    assert [done.returncode for done in both] == [0, 0]
    for done in both:
        said = "imagenet: 850 training and 150 test images of 3×224×224 in 4 classes, checksum "
        assert done.stdout.startswith(said)
        assert not done.stderr


def test_the_paper_recipe_trains_equally_from_folders_and_shards_and_names_corrupt_images(
    drawn: Drawn, tmp_path: Path
) -> None:
    found = []
    for layout, workers in (("folders", 0), ("shards", 2)):
        out = tmp_path / layout
        done = ablations(*train(f"workers={workers}"), "--data-dir", drawn.place(layout), "--out", out)
        assert done.returncode == 0 and not done.stderr, done.stderr
        result = read_json(out / "result.json")
        assert len(result["damaged"]) == len(damaged_lines(done.stdout)) == 4
        for name in drawn.names(layout):
            assert sum(name in one for one in result["damaged"]) == 1
            assert sum(name in one for one in damaged_lines(done.stdout)) == 1
        found.append((result["weights_sha256"], result["loss"], result["top1"]))
    assert found[0] == found[1]


def test_too_many_damaged_images_fail_a_run_with_one_clear_reason(drawn: Drawn, tmp_path: Path) -> None:
    where = ("--data-dir", drawn.folders, "--out", tmp_path / "run")
    done = ablations(*train("max_damaged=0.001", "workers=1"), *where)
    assert done.returncode == 1 and not done.stderr
    reason = "3 of 850 training images are unreadable, more than max_damaged=0.001, such as train/n0"
    assert len([line for line in done.stdout.splitlines() if reason in line]) == 1
    result = read_json(tmp_path / "run/result.json")
    assert result["status"] == "failed" and reason in result["reason"]


@pytest.mark.slow
def test_a_study_trains_from_shards(drawn: Drawn, tmp_path: Path) -> None:
    study = ("run", "sweep", "--base", DESIGN, "--flags", "kernel_size=3:5", "--data", "imagenet", *paper("workers=1"))
    where = ("--data-dir", drawn.shards, "--out", tmp_path / "study", "--jobs", "1", "--device", "cpu")
    done = ablations(*study, *where, "--evaluate", "validation")
    assert done.returncode == 0 and not done.stderr, done.stderr
    results = [read_json(path) for path in sorted((tmp_path / "study/runs").glob("*/result.json"))]
    assert [result["status"] for result in results] == ["done", "done"]
    assert all(len(result["damaged"]) == 3 for result in results)
    with np.load(tmp_path / "study/runs/kernel_size=3-s0/predictions.npz") as predictions:
        assert 82 <= len(predictions["labels"]) <= 85
    report = ablations_here("report", tmp_path / "study")
    assert report.returncode == 0 and "kernel_size=5" in report.stdout


def test_undecodable_file_names_are_printed_and_trained_with(tmp_path: Path) -> None:
    for part, label in itertools.product(("train", "val"), ("été", "夏")):
        folder = tmp_path / "data" / part / label
        folder.mkdir(parents=True)
        for index in range(20):
            (folder / f"🌞 {index}.jpg").write_bytes(jpeg(np.random.default_rng(index), index % 4))
        (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg"))).write_bytes(b"" if label == "été" else PICTURE)
    small = ("--set", "image_size=16", "--set", "batch_size=8", "--set", "max_damaged=0.1", "--set", "workers=1")
    run = ("--recipe", "paper_original", *small, "--set", "max_epochs=1", "--threads", "1", "--device", "cpu")
    done = ablations(
        "train", DESIGN, "--data", "imagenet", *run, "--data-dir", tmp_path / "data", "--out", tmp_path / "run"
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert [r"train/été/caf\xe9.jpg: " in line for line in sorted(damaged_lines(done.stdout))] == [True, False]
    assert any(r"val/été/caf\xe9.jpg: " in one for one in read_json(tmp_path / "run/result.json")["damaged"])


# ---- processes


def descendants(pid: int) -> set[int]:
    """List a process's children and their children."""
    try:
        tasks = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except FileNotFoundError:
        return set()
    children = {int(child) for task in tasks for child in task}
    return children.union(*map(descendants, children))


def loaders(process: subprocess.Popen[str]) -> set[int]:
    """List data loader workers: forks with the command line of their parents."""
    found = set()
    for pid in {process.pid} | descendants(process.pid):
        for child in descendants(pid):
            if command_line(child) and command_line(child) == command_line(pid):
                found.add(child)
    return found


def has_open(pid: int, file: Path) -> bool:
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if one.readlink() == file:
                return True
    return False


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def until(condition: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


LONG = train("max_epochs=60", "workers=2", "checkpoint_steps=1")


@pytest.mark.linux
@pytest.mark.parametrize("start_method", ["", pytest.param("forkserver", marks=pytest.mark.slow)])  # of Python 3.14
def test_no_process_is_left_of_a_run_that_is_killed(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_method: str
) -> None:
    if start_method:
        code = f"import multiprocessing\nmultiprocessing.set_start_method({start_method!r})\n"
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = started(*LONG, "--data-dir", drawn.folders, "--out", tmp_path / "run")
    try:
        until(lambda: len(loaders(process)) == 2 and checkpoints(tmp_path / "run/checkpoints"))
        left = descendants(process.pid)
    finally:
        process.kill()
        process.communicate()
    until(lambda: not any(map(alive, left)), 30)


@pytest.mark.linux
def test_ctrl_c_in_a_terminal_ends_a_run_with_workers_at_a_checkpoint(drawn: Drawn, tmp_path: Path) -> None:
    out = tmp_path / "run"
    where = ("--data-dir", drawn.folders, "--out", out)
    twice = train("max_epochs=2", "workers=2", "checkpoint_steps=1")
    process = started(*twice, *where, start_new_session=True)
    until(lambda: len(loaders(process)) == 2 and checkpoints(out / "checkpoints"))
    left = descendants(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "ablations: interrupted; rerun the command to resume\n"
    assert checkpoints(out / "checkpoints") and not (out / "result.json").exists()
    until(lambda: not any(map(alive, left)), 10)
    assert ablations_here(*train("max_epochs=2", "workers=0"), *where).returncode == 0
    run = trainer(load("imagenet", drawn.folders, 32), max_epochs=2)
    assert read_json(out / "result.json")["images_seen"] == run.total_steps * BATCH


STUDY = ("run", "sweep", "--base", DESIGN, "--flags", "kernel_size=3:5", "--data", "imagenet", *paper("workers=2"))


@pytest.mark.linux
@pytest.mark.slow
def test_a_study_whose_worker_or_loader_is_killed_marks_the_run_failed_and_continues(
    drawn: Drawn, tmp_path: Path
) -> None:
    small = ("--jobs", "1", "--device", "cpu")
    process = started(*STUDY, *small, "--data-dir", drawn.folders, "--out", tmp_path / "study")
    first, second = (tmp_path / f"study/runs/kernel_size={size}-s0" for size in (3, 5))
    until(lambda: len(loaders(process)) == 2 and (first / "config.yaml").exists())
    (worker,) = [pid for pid in descendants(process.pid) if pid not in loaders(process)]
    orphans = loaders(process)
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(read_json(first / "environment.json")["sessions"]) == 2 and len(loaders(process)) == 2)
    (worker,) = [pid for pid in descendants(process.pid) if pid not in loaders(process)]
    orphans |= loaders(process)
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(loaders(process)) == 2 and (second / "config.yaml").exists())
    seen = loaders(process)
    os.kill(min(seen), signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 1 and err.count("\n") == 2, out + err
    assert "run kernel_size=3-s0 failed: its process was killed by SIGKILL" in err
    assert re.search(r"run kernel_size=5-s0 failed: .*DataLoader worker .* (killed by signal|exited unexpectedly)", err)
    until(lambda: not any(map(alive, orphans | seen)), 30)
    again = ablations(*STUDY, *small, "--data-dir", drawn.folders, "--out", tmp_path / "study", "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert read_json(first / "result.json")["status"] == read_json(second / "result.json")["status"] == "done"


@pytest.mark.linux
def test_workers_end_with_a_killed_run(drawn: Drawn, tmp_path: Path) -> None:
    from ablations.studies.run import locked

    process = started(*LONG, "--data-dir", drawn.folders, "--out", tmp_path / "run")
    until(lambda: len(loaders(process)) == 2)
    left = loaders(process)
    until(lambda: not any(has_open(pid, tmp_path / "run/.lock") for pid in left))  # inherited, closed after the fork
    for pid in left:
        os.kill(pid, signal.SIGSTOP)  # orphans that are slow to notice
    process.kill()
    process.wait()  # not for the end of its output, which the orphans hold open
    try:
        with locked(tmp_path / "run") as free:
            assert free
    finally:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
