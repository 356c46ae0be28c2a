"""Arguments of the wrong type get the one-line error that wrong values get; numbers of NumPy are numbers."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

import modernize
from ablations import Trainer, TrainingConfig, load_run
from ablations.errors import RequestError
from ablations.training.callbacks import Callbacks, NullCallbacks
from modernize import FLAGS, Design, DesignError
from modernize.arguments import read_size
from modernize.models import build

TINY = modernize.design("pocket,width=4,depths=1-1-1-1")
PLAN = modernize.compile_plan(TINY, 1, 3)
STEPS = modernize.roadmap("pocket")

LAYER = nn.Linear(2, 2)

# What is neither a design, a name, a number nor a word of any argument.
NOTHING: list[Any] = [
    None,
    {},
    {"width": 4},
    [10],
    ["resnet50"],
    (1, 2, 3),
    b"10",
    1j,
    object(),
    int,
    ...,
    range(3),
    Path("mine.yaml"),
    LAYER,
    torch.tensor(10),
    torch.tensor([1.0, 2.0]),
    np.array([1, 2]),
    np.array("a"),
    np.bool_(True),
    decimal.Decimal("nan"),
]
NUMBERS: list[Any] = [2.5, float("nan"), float("inf"), np.float32("nan"), True, -1, -(10**30), 10**30]
WORDS: list[Any] = ["10", "", "a\nb", "\ud800", "x" * 5000]
EVERYTHING = [*NOTHING, *NUMBERS, *WORDS]
NO_DESIGN = [*(one for one in EVERYTHING if not isinstance(one, dict)), {}, {"a": 1}, {1: 2}]
NO_INTEGER = [*NOTHING, 10.0, *NUMBERS, *WORDS]
NO_RATE = [*NOTHING, 1, 1.5, *NUMBERS[1:], *WORDS, "0.1"]
NO_FACTOR = [*NOTHING, *NUMBERS[1:5], 10**400, *WORDS, "0.1"]
NO_SIZE = [*NO_INTEGER, (384,), (1, 2, 3), (384, 640.0), (384, "640"), ((1, 2), 3), (None, None), (True, 32)]
NO_SIZE += [(0, 32), (-1, 32), (32, 10**30), torch.Size([4]), np.array([32, 64]), "32x64", []]

# Each call, the name that its errors begin with, and what it refuses.
CALLS: dict[str, tuple[Callable[[Any], Any], str, list[Any]]] = {
    "build": (modernize.build, "", NO_DESIGN),
    "count": (modernize.count, "", NO_DESIGN),
    "design": (modernize.design, "", EVERYTHING),
    "roadmap": (modernize.roadmap, "", EVERYTHING),
    "compile_plan": (modernize.compile_plan, "design: ", EVERYTHING),
    "trace": (lambda value: modernize.trace(value, 32), "plan: ", EVERYTHING),
    "Roadmap.row": (STEPS.row, "", EVERYTHING),
    "Roadmap.before": (STEPS.before, "row: ", EVERYTHING),
    "accelerate": (modernize.accelerate, "network: ", [nn.Linear, *(one for one in EVERYTHING if one is not LAYER)]),
    "decelerate": (modernize.decelerate, "network: ", [nn.Linear, *(one for one in EVERYTHING if one is not LAYER)]),
    "features": (modernize.features, "network: ", [nn.Linear, *EVERYTHING]),
    "with_flags": (TINY.with_flags, "", [one for one in EVERYTHING if not isinstance(one, dict)]),
    "differences": (TINY.differences, "base: ", EVERYTHING),
    "trace's image_size": (lambda value: modernize.trace(PLAN, value), "image_size=", NO_SIZE),
    "count's image_size": (lambda value: modernize.count(TINY, value), "image_size=", NO_SIZE),
    "a reference's image_size": (
        lambda value: modernize.count("torchvision:resnet18", value),
        "image_size=",
        NO_SIZE,
    ),
    "a reference's num_classes": (
        lambda value: modernize.count("torchvision:resnet18", 32, 3, value),
        "num_classes=",
        [*NO_INTEGER, 0],
    ),
    "a reference's in_channels": (
        lambda value: modernize.count("torchvision:resnet18", 32, value),
        "in_channels=",
        [*NO_INTEGER, 0, 1.0],
    ),
}


def with_argument(call: Callable[..., Any], argument: str) -> Callable[[Any], Any]:
    return lambda value: call(**{argument: value})


for _name, _call in {
    "build": partial(modernize.build, TINY),
    "pocket": modernize.pocket,
    "compile_plan": partial(modernize.compile_plan, TINY),
    "count": partial(modernize.count, TINY, 32),
}.items():
    _refused = {"num_classes": NO_INTEGER, "in_channels": [*NO_INTEGER, 0]}
    if _name in ("build", "pocket"):
        _refused |= {"drop_path_rate": NO_RATE, "head_init_scale": NO_FACTOR}
    if _name == "build":
        _refused["init"] = EVERYTHING
        _refused["zero_init_residual"] = [one for one in EVERYTHING if one is not True]
    if _name == "pocket":
        _refused["layer_scale_init_value"] = [*NOTHING[1:14], *NUMBERS[1:], *WORDS]
    for _argument, _values in _refused.items():
        CALLS[f"{_name}'s {_argument}"] = (with_argument(_call, _argument), f"{_argument}=", _values)


def refusal(call: Callable[[Any], Any], value: Any) -> str:
    """The error of a call, which is one printable line."""
    with pytest.raises(DesignError) as caught:
        call(value)
    message = str(caught.value)
    assert message.isprintable() and (len(message) < 400 or isinstance(value, str)), message
    return message


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_the_wrong_type_is_refused_in_one_line_that_names_it(name: str) -> None:
    call, begins, refused = CALLS[name]
    for value in refused:
        assert refusal(call, value).startswith(begins), value


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_of_the_wrong_type_is_refused_in_one_line_that_names_it(flag: Any) -> None:
    for value in NOTHING:
        if flag.name == "layer_scale" and value is None:
            continue  # off
        if flag.values == ("on", "off") and isinstance(value, np.bool_):
            continue  # on
        if flag.name == "depths" and isinstance(value, (list, tuple)) and all(isinstance(one, int) for one in value):
            continue
        assert refusal(lambda value: Design(**{flag.name: value}), value).startswith(f"{flag.name}=")


def test_what_is_refused_says_what_would_be_valid() -> None:
    def said(call: Callable[[], Any]) -> str:
        with pytest.raises(DesignError) as caught:
            call()
        return str(caught.value)

    named = "a design's name, such as 'convnext_tiny' or 'mine.yaml'"
    wanted = f"a Design, {named}, or a mapping of flags"
    assert said(lambda: modernize.build(None)) == f"what: must be {wanted}, not NoneType"  # type: ignore[arg-type]
    assert said(lambda: modernize.design(Path("a.yaml"))) == f"name: must be {named}, not PosixPath"  # type: ignore[arg-type]
    assert said(lambda: modernize.build("pocket", num_classes=10.0)) == "num_classes=10.0: must be an integer"  # type: ignore[arg-type]
    assert said(lambda: modernize.build("pocket", num_classes="10")) == "num_classes='10': must be an integer"  # type: ignore[arg-type]
    assert said(lambda: modernize.build("pocket", in_channels=0)).endswith("nearest valid value: 1")
    assert said(lambda: modernize.count("pocket", 10**30)).endswith("nearest valid value: 100000")
    assert said(lambda: modernize.count("pocket", (10**30, 8))).endswith("nearest valid value: 100000x8")
    assert said(lambda: modernize.count("pocket", "32x64")) == (  # type: ignore[arg-type]
        "image_size='32x64': must be an integer or (height, width)"
    )


def test_numpys_numbers_are_numbers() -> None:
    design = Design(width=np.int64(4), depths=(np.int32(1), np.int8(1)), stem_stride=np.int64(2))  # type: ignore[arg-type]
    assert design == Design(width=4, depths=(1, 1), stem_stride=2) and type(design.width) is int
    plan = modernize.compile_plan(design, np.int64(1), np.uint8(3))  # type: ignore[arg-type]
    assert plan == modernize.compile_plan(design, 1, 3) and type(plan.num_classes) is int
    assert modernize.trace(plan, (np.int64(32), np.int16(48))) == modernize.trace(plan, (32, 48))  # type: ignore[arg-type]
    torch.manual_seed(0)
    first = build(design, np.int64(3), np.int64(1), np.float32(0.5), np.float64(0.1))  # type: ignore[arg-type]
    torch.manual_seed(0)
    second = build(design, 3, 1, 0.5, 0.1)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))


def test_a_size_is_read_from_an_integer_a_pair_or_a_list() -> None:
    assert read_size(32) == read_size((32, 32)) == read_size([32, 32]) == (32, 32)
    assert read_size((32, 48)).pixels == 32 * 48
    assert (str(read_size(32)), str(read_size((32, 48)))) == ("32", "32x48")


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_network_is_built_on_the_device_that_is_the_default(device: str) -> None:
    with torch.device(device):
        network = modernize.build(TINY, 3, 1, drop_path_rate=0.1, head_init_scale=0.1)
    assert {weights.device.type for weights in network.state_dict().values()} == {device}
    assert network(torch.empty(2, 1, 32, 48, device=device)).shape == (2, 3)


# The trainer ---------------------------------------------------------------------------------------------------------

CONFIG = TrainingConfig(max_epochs=1, batch_size=4, learning_rate=1e-3)
IMAGES = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(IMAGES, torch.arange(8) % 2)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(DATA)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def a_trainer(**changes: Any) -> Trainer:
    given = {"model": linear(), "train_dataset": DATA, "test_dataset": DATA, "configs": CONFIG, "device": "cpu"}
    return Trainer(**{**given, "callbacks": NullCallbacks(), **changes})


WRONG: dict[str, list[Any]] = {
    "model": [*NOTHING[:13], *WORDS, nn.Linear, nn.Flatten(), linear],
    "train_dataset": [None, 3, "cifar10", DataLoader(DATA), Stream(), TensorDataset, iter([])],
    "test_dataset": [None, 3, "cifar10", DataLoader(DATA), Stream(), TensorDataset, iter([])],
    "configs": [*EVERYTHING, {"max_epochs": 1}, "quick", TrainingConfig],
    "seed": [*NOTHING, *NUMBERS[:5], *WORDS, "0"],
    "folder": [*NOTHING[1:12], *NOTHING[13:], *NUMBERS, "", "no/such/folder", Path("no/such/folder"), Path(__file__)],
    "device": [*NOTHING, *NUMBERS, 0, "cpux", "cuda:99", "", "meta", torch.device("meta"), "a\nb"],
    "callbacks": [*NOTHING[1:], *NUMBERS, *WORDS, print, Callbacks],
    "group": [*EVERYTHING],
}


@pytest.mark.parametrize("argument", WRONG)
def test_the_trainer_refuses_an_argument_of_the_wrong_type_in_one_line_that_names_it(argument: str) -> None:
    for value in WRONG[argument]:
        with pytest.raises(ValueError) as caught:
            a_trainer(**{argument: value})
        message = str(caught.value)
        assert message.startswith(argument) and message.isprintable() and len(message) < 300, message


def test_a_runs_folder_of_the_wrong_type_is_refused_in_one_line() -> None:
    values: list[Any] = [None, 3, {}, b"run", "", ["run"], nn.Linear]
    for value in values:
        with pytest.raises(RequestError, match=r"^folder=.*: must be the path of a folder$"):
            load_run(value)


@pytest.mark.parametrize(
    ("items", "kind"),
    [
        (IMAGES, "Tensor"),
        (IMAGES.numpy(), "ndarray"),
        (list(IMAGES), "Tensor"),
        ([(image, 0, 1) for image in IMAGES], "tuple"),
        ([{"image": image, "label": 0} for image in IMAGES], "dict"),
    ],
)
def test_items_that_are_no_pairs_of_image_and_label_are_refused(items: Any, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"^the training set's item 0 has type {kind}; items must be pairs"):
        a_trainer(train_dataset=items)
    with pytest.raises(ValueError, match=rf"^the test set's item 0 has type {kind}; items must be pairs"):
        a_trainer(test_dataset=items).train()


def test_a_seed_of_numpy_is_the_integer_and_a_folder_may_be_text(tmp_path: Path) -> None:
    written, plain, other = (
        a_trainer(train_dataset=Subset(DATA, range(8)), **options).train().weights_sha256
        for options in (
            {"seed": np.int64(3), "folder": str(tmp_path), "device": torch.device("cpu")},
            {"seed": 3},
            {"seed": 4},
        )
    )
    assert written == plain != other
    assert (tmp_path / "log.jsonl").exists() and list((tmp_path / "checkpoints").iterdir())
