"""The trainer as a library: any network, any map-style dataset, no folder needed; and TensorBoard's log."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import v2

from ablations import Trainer, TrainingConfig
from ablations.cli import run_command
from ablations.data.datasets import load
from ablations.data.decode import DamagedImageError
from ablations.launch.claim import Place, take
from ablations.store import read_log
from ablations.studies.run import RunConfig
from ablations.training.callbacks import NullCallbacks
from ablations.training.trainer import DamagedDataError, Interrupted
from modernize import convnext_tiny
from modernize.models import design


def configs(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 2, "batch_size": 8, "learning_rate": 5e-3, **changes})


class Small(nn.Module):
    """A user's network, for images of any size and number of channels."""

    def __init__(self, channels: int = 3, classes: int = 10):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(channels, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).relu().mean((2, 3)))


class Numbers:
    """Images filled with their index; records which indices were read."""

    def __init__(self, count: int, make: Callable[[int], Any]):
        self.count, self.make = count, make
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.asked.append(index)
        return self.make(index), index % 10


def pil(index: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(index).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def bytes_(index: int) -> Tensor:
    return torch.from_numpy(np.asarray(pil(index)).copy()).permute(2, 0, 1)


def floats(index: int) -> Tensor:
    return bytes_(index).float() / 255


def seen(make: Callable[[int], Any], workers: int = 0, **changes: Any) -> list[Tensor]:
    """Record the batches that the network sees in training."""
    batches: list[Tensor] = []
    model = Small()
    model.register_forward_pre_hook(
        lambda module, inputs: batches.append(inputs[0].clone()) if module.training else None
    )
    Trainer(
        model, Numbers(24, make), Numbers(5, make), configs(workers=workers, **changes), seed=3, device="cpu"
    ).train()
    return batches


def test_the_shortest_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train as the README does, on a few small images, and write no file."""
    monkeypatch.chdir(tmp_path)
    train = FakeData(4, (3, 32, 32), num_classes=5, transform=transforms.ToTensor())
    test = FakeData(3, (3, 32, 32), num_classes=5, transform=transforms.ToTensor())
    model = convnext_tiny(
        in_channels=3, num_classes=100, drop_path_rate=0.0, layer_scale_init_value=1e-6, head_init_scale=1.0
    )
    recipe = TrainingConfig(max_epochs=1, batch_size=4, learning_rate=4e-3, weight_decay=0.05)
    result = Trainer(model=model, train_dataset=train, test_dataset=test, configs=recipe).train()
    assert (result.images_seen, len(result.evaluation.predictions)) == (4, 3)
    assert list(tmp_path.iterdir()) == []


def test_it_learns_the_weights_of_a_plain_loop() -> None:
    """Float images are used unchanged, so a plain loop with the same order is a few lines of torch."""
    images, labels = torch.randn(32, 3, 6, 6), torch.arange(32) % 10
    data = TensorDataset(images, labels)
    ours, plain = Small(), Small()
    asked = Numbers(32, lambda index: images[index])
    Trainer(ours, asked, data, configs(optimizer="sgd", channels_last=False), device="cpu").train()
    order = asked.asked[-64:]  # the first is looked at before
    optimizer = torch.optim.SGD(plain.parameters(), lr=5e-3, momentum=0.9)
    for step in range(8):
        chosen = torch.tensor(order[8 * step : 8 * step + 8])
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 + np.cos(np.pi * step / 8)) / 2
        optimizer.zero_grad()
        F.cross_entropy(plain(images[chosen]), chosen % 10).backward()
        optimizer.step()
    assert sorted(order[:32]) == sorted(order[32:]) == list(range(32)) and order[:32] != order[32:]
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_evaluation_of_a_tensor_dataset_is_torchs() -> None:
    images, labels = torch.randn(21, 3, 6, 6), torch.arange(21) % 10
    run = Trainer(Small(), TensorDataset(images, labels), TensorDataset(images, labels), configs(), device="cpu")
    found = run.evaluate(run.model)
    with torch.no_grad():
        logits = run.model(images)
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert torch.equal(found.predictions, logits.argmax(1)) and torch.equal(found.labels, labels)


AUGMENTED: dict[str, Any] = {
    "crop_scale": [0.3, 1.0],
    "horizontal_flip": True,
    "randaugment": 9,
    "erasing": 0.5,
    "image_size": 16,
}


@pytest.mark.parametrize("make", [pil, bytes_])
def test_pil_and_uint8_images_are_prepared_as_the_recipe_says(make: Callable[[int], Any]) -> None:
    plain = seen(make, image_size=16)
    assert {batch.shape for batch in plain} == {(8, 3, 16, 16)}
    normalise = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    scaled = v2.ToDtype(torch.float32, scale=True)
    prepare = v2.Compose([v2.Resize(16), v2.CenterCrop(16), v2.ToImage(), scaled, normalise])
    wanted = torch.stack([prepare(make(index)) for index in range(24)])
    for image in torch.cat(plain[:3]):
        assert (image == wanted).flatten(1).all(1).any()
    assert not any(torch.equal(one, other) for one, other in zip(plain, seen(make, **AUGMENTED), strict=True))


@pytest.mark.parametrize("make", [pil, bytes_])
def test_images_and_their_order_are_the_same_for_any_number_of_workers(make: Callable[[int], Any]) -> None:
    alone, two = seen(make, **AUGMENTED), seen(make, workers=2, **AUGMENTED)
    assert len(alone) == 6
    assert all(torch.equal(one, other) for one, other in zip(alone, two, strict=True))
    epochs = torch.cat(alone[:3]), torch.cat(alone[3:])
    assert not any((one == other).all() for one in epochs[0] for other in epochs[1])  # drawn anew each epoch


class Jittered:
    """A user's dataset that uses random numbers of torch, NumPy and Python."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import random

        shift = np.random.normal() + random.gauss(0, 1)
        return floats(index)[:, :16, :16] + torch.randn(3, 1, 1) + shift, index % 10


def test_a_datasets_own_random_numbers_do_not_depend_on_the_number_of_workers() -> None:
    found = []
    for workers in (0, 2):
        torch.manual_seed(workers)
        np.random.seed(workers)
        batches: list[Tensor] = []
        model = Small()
        model.register_forward_pre_hook(lambda _, inputs, to=batches: to.append(inputs[0].clone()))
        result = Trainer(model, Jittered(), Jittered(), configs(workers=workers), seed=3, device="cpu").train()
        found.append((result.weights_sha256, result.evaluation.loss, torch.cat(batches)))
    assert found[0][:2] == found[1][:2] and torch.equal(found[0][2], found[1][2])
    assert found[0][2][:24].unique(dim=0).shape[0] == 24


def test_the_callers_generators_are_not_disturbed() -> None:
    """Transforming images in this process does not change Python's and NumPy's generators."""
    np.random.seed(5)
    wanted = np.random.random(3)
    np.random.seed(5)
    seen(pil, **AUGMENTED)
    assert np.array_equal(np.random.random(3), wanted)


def test_torchvisions_datasets_are_accepted(tmp_path: Path) -> None:
    for number in range(16):
        folder = tmp_path / f"class {number % 2}"
        folder.mkdir(exist_ok=True)
        pil(number).save(folder / f"{number}.png")
    images = ImageFolder(str(tmp_path))
    run = Trainer(Small(), images, Subset(images, [0, 3, 9]), configs(image_size=12), device="cpu")
    assert len(run.train().evaluation.predictions) == 3


def test_one_channel_images_are_accepted() -> None:
    grey = Numbers(16, lambda index: pil(index).convert("L"))
    assert Trainer(Small(1), grey, grey, configs(**AUGMENTED), device="cpu").train().images_seen == 32


@pytest.mark.parametrize(
    ("changes", "make", "says"),
    [
        ({"crop_scale": [0.5, 1]}, floats, r"^crop_scale: the dataset's images are float tensors.*leave it out$"),
        ({"crop_padding": 2}, floats, r"^crop_padding: the dataset's images are float tensors"),
        ({"randaugment": 9}, floats, r"^randaugment: the dataset's images are float tensors"),
        ({"erasing": 0.1}, floats, r"^erasing: the dataset's images are float tensors"),
        ({"interpolation": "bicubic"}, floats, r"^interpolation: the dataset's images are float tensors"),
        ({"image_size": 8}, floats, r"^image_size: the dataset's images are float tensors"),
        ({}, pil, r"^image_size is missing: images transformed one by one need it; for example image_size=224$"),
        ({"batch_size": 30}, floats, r"^batch_size=30: the training set has 24 images; nearest valid value: 24$"),
        ({"checkpoint_every": 1}, floats, r"^checkpoint_every=1: needs a folder for checkpoints$"),
    ],
)
def test_impossible_settings_are_refused_at_once(changes: dict[str, Any], make: Callable, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Trainer(Small(), Numbers(24, make), Numbers(5, make), configs(**changes), device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_in_two_places_are_updated_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    inputs, labels = torch.randn(8, 12, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 10
    data = TensorDataset(inputs, labels)
    plain = Tied()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    F.cross_entropy(plain(inputs), labels).backward()
    optimizer.step()
    settings = configs(max_epochs=1, optimizer="sgd", momentum=0.0, learning_rate=0.1, schedule="step")
    trainer = Trainer(Tied(), data, data, settings, device="cpu")  # vectors, too, are a network's to take
    trainer.train()
    torch.testing.assert_close(trainer.model.get_parameter("first.weight"), plain.first.weight)


def test_what_would_fail_later_is_refused_before_training() -> None:
    data, nothing = Numbers(16, floats), Numbers(0, floats)
    with pytest.raises(ValueError, match="the test set has no images"):
        Trainer(Small(), data, nothing, configs())
    with pytest.raises(ValueError, match="checkpoint_steps=5: needs a folder"):
        Trainer(Small(), data, data, configs(checkpoint_steps=5))
    arrays = Numbers(16, lambda index: np.asarray(pil(index)))
    with pytest.raises(ValueError, match="images have type ndarray; they must be PIL images or torch tensors"):
        Trainer(Small(), arrays, arrays, configs())


def test_with_a_folder_it_resumes(tmp_path: Path) -> None:
    data = Numbers(24, floats)
    expected = Trainer(Small(), data, data, configs(), seed=1, device="cpu").train()
    first = Trainer(Small(), data, data, configs(checkpoint_every=1), seed=1, folder=tmp_path, device="cpu")
    first.callbacks.stopping = lambda: first.step == 4
    with pytest.raises(Interrupted):
        first.train()
    again = Trainer(Small(), data, data, configs(checkpoint_every=1), seed=1, folder=tmp_path, device="cpu").train()
    assert again.weights_sha256 == expected.weights_sha256
    assert [line["step"] for line in read_log(tmp_path)] == [6]
    kept = torch.load(tmp_path / "checkpoints/epoch-2.pt", weights_only=True)
    Small().load_state_dict(kept["model"])


def broken(index: int) -> Tensor:
    if index in (3, 11):
        raise DamagedImageError(f"image {index} is torn")
    return floats(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_named_once_and_too_many_end_the_run(workers: int) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = Trainer(
            Small(), Numbers(24, broken), Numbers(3, floats), configs(max_damaged=0.1, workers=workers), device="cpu"
        )
        result = run.train()
    assert result.damaged == ("image 11 is torn", "image 3 is torn")
    assert [str(one.message) for one in said if "unreadable" in str(one.message)] == [
        "skipped an unreadable image: image 11 is torn",
        "skipped an unreadable image: image 3 is torn",
    ]
    run = Trainer(Small(), Numbers(24, broken), Numbers(3, floats), configs(max_damaged=0.05), device="cpu")
    with (
        pytest.warns(UserWarning),
        pytest.raises(DamagedDataError, match=r"2 of 24 training images .* max_damaged=0\.05"),
    ):
        run.train()


def test_a_datasets_own_error_reaches_the_caller() -> None:
    def fails(index: int) -> Tensor:
        return floats(index // (index - 7))

    with pytest.raises(ZeroDivisionError):
        Trainer(Small(), Numbers(24, fails), Numbers(3, floats), configs(), device="cpu").train()


# TensorBoard ---------------------------------------------------------------------------------------------------------


def run_of(epochs: int) -> RunConfig:
    flags = design("pocket@separate-downsampling,depths=1,width=4,stem_stride=1").flags()
    recipe = TrainingConfig(max_epochs=epochs, batch_size=32, learning_rate=4e-3, checkpoint_steps=60)
    return RunConfig(row="r", label="r", flags=flags, recipe_name="r", recipe=recipe, data="digits", seed=0)


def logged(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(f"training/{name}")]


class Died(BaseException):
    """Stands for the death of the process."""


def test_tensorboard_has_the_logs_values_once_each_across_a_resume(tmp_path: Path) -> None:
    """The first session dies at step 105, with step 100 logged and step 60 in its last checkpoint."""
    data = load("digits", Path("unused"))
    calls = []

    def dies() -> bool:
        calls.append(1)
        if len(calls) == 105:
            raise Died
        return False

    place = Place("cpu", tensorboard=True)
    with pytest.raises(Died):
        take(run_of(3), tmp_path, data, place, NullCallbacks(dies))
    assert [step for step, _ in logged(tmp_path, "loss")] == [50, 100]
    result = take(run_of(3), tmp_path, data, place, NullCallbacks())
    assert result and result["status"] == "done"
    lines = read_log(tmp_path)
    assert [line["step"] for line in lines] == [50, 100, 132]
    for name in ("loss", "top1", "learning_rate"):
        found = logged(tmp_path, name)
        assert [step for step, _ in found] == [50, 100, 132]
        assert [value for _, value in found] == pytest.approx([line[name] for line in lines], rel=1e-6)
    assert all(value > 0 for _, value in logged(tmp_path, "images_per_second"))


def test_the_command_logs_for_tensorboard_where_asked(tmp_path: Path) -> None:
    arguments = ["train", "pocket,depths=1,width=4", "--data", "digits", "--set", "image_size=16", "--set"]
    arguments += ["batch_size=64", "--threads", "1", "--device", "cpu", "--out"]
    assert run_command([*arguments, str(tmp_path / "with"), "--tensorboard"]) == 0
    assert run_command([*arguments, str(tmp_path / "without")]) == 0
    found = dict(logged(tmp_path / "with", "loss"))
    assert found == pytest.approx({line["step"]: line["loss"] for line in read_log(tmp_path / "with")}, rel=1e-6)
    assert not (tmp_path / "without/tensorboard").exists()


@pytest.mark.parametrize("command", [["train", "pocket"], ["run", "quick"]])
def test_tensorboard_that_is_not_installed_is_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not there
    monkeypatch.chdir(tmp_path)
    assert run_command([*command, "--data", "digits", "--tensorboard"]) == 2
    said = capsys.readouterr().err
    assert said == ("ablations: --tensorboard: not installed; run pip install 'modernize-convnets[tensorboard]'\n")
    assert list(tmp_path.iterdir()) == []
