"""Labels are integers from 0 below the number of classes; all others are refused, wherever labels enter."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ablations import Trainer, TrainingConfig
from ablations.data.datasets import Split, assemble
from ablations.data.labels import label_of, label_tensor
from ablations.errors import RequestError

WRONG: list[Any] = [
    *(1.5, -1, -100, -1.0, float("nan"), float("inf"), True, "1", None, 2**16, b"1", [1], [0, 1], 1 + 0j),
    *(np.float32(0.5), np.True_, np.int64(-3), np.array([0, 1, 0]), np.array("1"), np.array([])),
    *(torch.tensor(-1), torch.tensor(1.5), torch.tensor([0.0, 1.0]), torch.tensor(True), torch.tensor([[0, 1]])),
]
RIGHT: list[Any] = [1, 1.0, np.int8(1), np.uint64(1), np.float64(1), np.array([1]), torch.tensor(1), torch.tensor([1])]


@pytest.mark.parametrize("label", WRONG, ids=repr)
def test_a_wrong_label_is_refused_with_its_dataset_and_index(label: Any) -> None:
    with pytest.raises(RequestError, match=r"^training set: the label of image 7 (is|has shape) ") as caught:
        label_of(label, "training set", 7)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("label", RIGHT, ids=repr)
def test_a_whole_number_is_a_label_whatever_its_type(label: Any) -> None:
    assert label_of(label, "training set", 7) == 1
    assert label_tensor([label] * 3, "dataset", 3).tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1, 1.5, 2], "the label of image 2 is 1.5"),
        ([0, -1, 1, 2], "the label of image 1 is -1"),
        ([0, float("nan"), 1, 2], "the label of image 1 is nan"),
        ([0, 1, 2, 3], "the label of image 3 is 3; labels must be integers from 0 to 2"),
        ([0, 1, 2], "3 labels for 4 images"),
        ([0, 1, 2, 0, 1], "5 labels for 4 images"),
        ([True, False, True, True], "the label of image 0 is True"),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], r"labels have shape \(4, 3\)"),
    ],
)
def test_wrong_arrays_of_labels_are_refused(kind: Any, labels: list[Any], says: str) -> None:
    with pytest.raises(RequestError, match=rf"^dataset mine: {says}"):
        label_tensor(kind(labels), "dataset mine", 4, 3)


@pytest.mark.parametrize("labels", [["0", "1", "2", "0"], [0, None, 1, 2], [0, [1], 1, 2], np.array("abcd"), 3])
def test_what_is_no_array_of_numbers_is_refused(labels: Any) -> None:
    with pytest.raises(RequestError, match=r"^dataset mine: "):
        label_tensor(labels, "dataset mine", 4, 3)


@given(st.lists(st.integers(-2, 4) | st.floats(-1, 4) | st.sampled_from([float("nan"), 1.0, 2.0]), min_size=1))
@settings(max_examples=300, deadline=None)
def test_arrays_and_single_labels_are_refused_alike(labels: list[float]) -> None:
    def one_by_one() -> list[int]:
        read = [label_of(label, "set", index) for index, label in enumerate(labels)]
        if max(read) > 3:
            raise RequestError("too large")
        return read

    try:
        expected: list[int] | None = one_by_one()
    except RequestError:
        expected = None
    for given_labels in (labels, np.array(labels), torch.tensor(labels, dtype=torch.float64)):
        try:
            found: list[int] | None = label_tensor(given_labels, "set", len(labels), 4).tolist()
        except RequestError:
            found = None
        assert found == expected


def test_the_loaders_name_their_dataset_and_split() -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(RequestError, match=r"^dataset cifar10: test split: the label of image 1 is 2;"):
        assemble("cifar10", (images, [0, 1, 0]), (images, [0, 2, 0]), ["a", "b"], "here")
    with pytest.raises(RequestError, match=r"^dataset cifar10: training split: 2 labels for 3 images"):
        assemble("cifar10", (images, [0, 1]), (images, [0, 1, 0]), ["a", "b"], "here")


# In training ----------------------------------------------------------------------------------------------------------


class Listed:
    """A user's map-style dataset."""

    def __init__(self, labels: list[Any], kind: torch.dtype = torch.float32):
        self.images = torch.rand(len(labels), 1, 4, 4, generator=torch.Generator().manual_seed(0)).to(kind)
        self.given = labels

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.images[index], self.given[index]


def trained(train: Any, test: Any, **changes: Any) -> Any:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    recipe = {"max_epochs": 1, "batch_size": 4, "learning_rate": 0.01, "workers": 0, **changes}
    return Trainer(network, train, test, TrainingConfig.model_validate(recipe), device="cpu").train()


GOOD = [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("label", [1.5, -1, -100, True, "1", float("nan"), [0, 1, 0], 3], ids=repr)
def test_training_refuses_a_wrong_label_of_a_users_dataset(label: Any) -> None:
    wrong = [*GOOD[:5], label, *GOOD[6:]]
    with pytest.raises(RequestError, match=r"^training set: the label of image 5 ") as caught:
        trained(Listed(wrong), Listed(GOOD))
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(RequestError, match=r"^test set: the label of image 5 "):
        trained(Listed(GOOD), Listed(wrong))


def test_a_wrong_label_that_a_worker_process_meets_is_one_line() -> None:
    with pytest.raises(RequestError, match=r"^training set: the label of image 5 is 1.5; labels must be [^\n]*$"):
        trained(Listed([*GOOD[:5], 1.5, *GOOD[6:]]), Listed(GOOD), workers=1)


@pytest.mark.linux
def test_a_worker_process_that_hangs_does_not_keep_its_run_from_ending() -> None:
    """It ignores SIGTERM, as all of them do; the iterator is not closed, as after an error that something keeps."""
    code = """
import multiprocessing, time, torch
multiprocessing.set_start_method("fork")  # of this code without a file
from ablations.data.loader import TEST, Items, Prepared, _unchanged
class Hanging(torch.utils.data.Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        time.sleep(1000 * index)
        return torch.zeros(1, 2, 2), 0
batches = Items(Prepared(Hanging(), TEST, _unchanged), 1, torch.device("cpu")).evaluation(torch.arange(2), 1)
print(len(next(batches).images))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.8}])
def test_labels_in_memory_are_compared_with_the_networks_classes_before_training(changes: dict[str, Any]) -> None:
    images = torch.zeros(8, 4, 4, 1, dtype=torch.uint8)
    good, wrong = Split(images, torch.tensor(GOOD)), Split(images, torch.tensor([*GOOD[:6], 3, 1]))
    says = "the label of image 6 is 3, and the network has 3 classes; labels must be from 0 to 2$"
    with pytest.raises(RequestError, match=rf"^training set: {says}"):
        trained(wrong, good, **changes)
    with pytest.raises(RequestError, match=rf"^test set: {says}"):
        trained(good, wrong, **changes)
    trained(good, good, **changes)


def test_images_in_memory_need_one_label_each() -> None:
    images = torch.zeros(3, 4, 4, 1, dtype=torch.uint8)
    for labels in ([0, 1], [0, 1, 2, 0], [0, 1, -1], [0, 1, 0.5], [[1, 0], [0, 1], [1, 0]]):
        with pytest.raises(RequestError, match=r"^Split: "):
            Split(images, torch.tensor(labels))
    assert Split(images, torch.tensor([0, 1, 2], dtype=torch.int32)).labels.dtype == torch.int64


@pytest.mark.parametrize("labels", [torch.tensor([0, 1], dtype=torch.bfloat16), np.array([0, 1], np.float16)])
@pytest.mark.filterwarnings("error")
def test_whole_numbers_of_narrow_types_are_labels(labels: Any) -> None:
    assert label_tensor(labels, "data", 2).tolist() == [0, 1]
