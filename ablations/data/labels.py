"""Read labels: integers from 0 below the number of classes. Anything else is refused, not rounded or ignored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablations.data.inventory import CLASSES
from ablations.errors import RequestError
from modernize.design import printable

_LARGEST = CLASSES - 1


def label_of(value: Any, what: str, index: int) -> int:
    """Return the label of an image as an integer; raises RequestError naming the dataset `what` and the image."""
    if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) != 1:
        raise RequestError(
            f"{what}: the label of image {index} has shape {tuple(value.shape)}; it must be one integer "
            "(of one-hot labels: argmax)"
        )
    number = value.item() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value
    valid = isinstance(number, (int, float)) and not isinstance(number, bool) and 0 <= number <= _LARGEST
    if not valid or number != int(number):
        shown = printable(repr(number) if isinstance(number, (str, bytes)) else number)[:80]
        raise RequestError(
            f"{what}: the label of image {index} is {shown}; labels must be integers from 0 to {_LARGEST}"
        )
    return int(number)


def label_tensor(values: Any, what: str, images: int, classes: int = CLASSES) -> Tensor:
    """Return the labels of a split, int64 (N); raises RequestError naming the dataset and the first wrong one."""
    try:
        if isinstance(values, Tensor):  # numpy lacks bfloat16
            labels = (values.double() if values.is_floating_point() else values).cpu().numpy()
        else:
            labels = np.asarray(values)
    except (ValueError, TypeError):
        raise RequestError(f"{what}: labels must be one integer per image, from 0 to {_LARGEST}") from None
    if labels.ndim != 1 and labels.shape != (images, 1):
        raise RequestError(
            f"{what}: labels have shape {labels.shape}; they must be one integer per image, ({images},) "
            "(of one-hot labels: argmax)"
        )
    if len(labels) != images:
        raise RequestError(f"{what}: {len(labels)} labels for {images} images; each image needs one")
    labels = labels.reshape(-1)
    if labels.dtype.kind not in "iuf":
        for index, label in enumerate(labels.tolist()):
            label_of(label, what, index)
    if labels.dtype.kind not in "iu":  # float16 does not reach the number of classes
        labels = labels.astype(np.float64)
    wrong = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if wrong.any():
        index = int(wrong.argmax())
        raise RequestError(
            f"{what}: the label of image {index} is {labels[index]}; labels must be integers from 0 to {classes - 1}"
        )
    return torch.from_numpy(np.ascontiguousarray(labels, np.int64))


def check_classes(labels: Tensor, indices: Tensor, classes: int, what: str) -> None:
    """Raise RequestError if a label is not one of the network's classes; on a GPU the loss would end the process."""
    wrong = labels >= classes
    if wrong.any():
        place = int(wrong.int().argmax())
        raise RequestError(
            f"{what}: the label of image {indices[place]} is {labels[place]}, and the network has {classes} classes; "
            f"labels must be from 0 to {classes - 1}"
        )
