"""Datasets of Hugging Face's `datasets`, as hf:NAME[:SPLIT]: of its hub, or in a folder of this machine."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ablations.data.held import held
from ablations.data.labels import label_tensor
from ablations.data.map_images import MapImages, map_images
from ablations.data.splits import DataSet, Wanted, a_fifth
from ablations.errors import RequestError, one_line
from modernize.design import printable
from modernize.names import nearest
from modernize.user_code import UserCodeError, read_settings

PREFIX = "hf:"
SETTINGS = ("config", "image", "label", "train")
TRAIN, TEST = ("train", "training"), ("test", "testing", "validation", "valid", "val", "dev", "eval")
_WRITTEN = re.compile(r"hf:(?P<name>[^:()]+)(?P<settings>\([^()]*\))?(?::(?P<split>[^:()]+))?")


def check_name(name: str) -> tuple[str, dict[str, Any], str | None]:
    """Return the name, the settings and the test split of hf:NAME(setting=value):SPLIT; raises RequestError."""
    found = _WRITTEN.fullmatch(name)
    if found is None:
        raise RequestError(
            f"dataset {printable(name)!r}: write hf:NAME, hf:NAME:SPLIT or hf:NAME(label=COLUMN):SPLIT, where SPLIT is "
            "the test split"
        )
    try:
        settings = read_settings(found["settings"] or "", name)
    except UserCodeError as error:
        raise RequestError(f"dataset {error}") from None
    for key in settings:
        if key not in SETTINGS:
            raise RequestError(f"dataset {printable(name)}: no setting {key!r}: {nearest(key, SETTINGS)}")
    if find_spec("datasets") is None:
        raise RequestError(
            f"dataset {printable(name)}: Hugging Face datasets is not installed; run "
            "pip install 'modernize-convnets[hf]'"
        )
    return found["name"], settings, found["split"]


def hugging_face(name: str) -> Callable[[Path, Wanted], DataSet]:
    """Return the function that loads hf:NAME; raises RequestError for a wrong name, or if the package is missing."""
    written, settings, test_split = check_name(name)

    def load(data_dir: Path, wanted: Wanted) -> DataSet:
        found, place = _loaded(name, written, settings.get("config"), data_dir)
        train = _split(name, found, settings.get("train"), TRAIN)
        if train is None:
            raise RequestError(
                f"dataset {name}: which split to train on? It has {', '.join(found)}; write, for example, "
                f"hf:{written}(train={next(iter(found))})"
            )
        test = _split(name, found, test_split, TEST)
        if test == train:
            raise RequestError(f"dataset {name}: {test} is the split that is trained on; choose another for the test")
        columns = _columns(name, found[train], settings)
        names = _class_names(name, found[train], columns[1])
        splits = [_images(name, found[split], split, columns, names) for split in (train, test) if split]
        if test is None:
            origin = f"a fixed fifth of the {len(splits[0]):,} images is the test split; the dataset has only {train}"
            return held(name, *a_fifth(splits[0]), names, place, wanted, origin)  # type: ignore[arg-type]
        origin = f"trains on the split {train}, tests on {test}"
        return held(name, splits[0], splits[1], names, place, wanted, origin)

    return load


def _loaded(name: str, written: str, config: str | None, data_dir: Path) -> tuple[dict[str, Any], str]:
    """Return the splits of a dataset by name, and where it is; raises RequestError."""
    import datasets

    folder = next((path for path in (Path(written), data_dir / written) if path.is_dir()), None)
    before = datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):  # its progress bars
            if folder and ((folder / "dataset_dict.json").exists() or (folder / "state.json").exists()):
                found = datasets.load_from_disk(str(folder))
            else:
                found = datasets.load_dataset(str(folder.resolve()) if folder else written, config)
    except Exception as error:  # of the hub, the network, the disk or a reader
        looked = f"{folder}" if folder else f"no folder {written} or {data_dir / written}, and the hub did not help"
        raise RequestError(
            f"dataset {name}: {looked} ({type(error).__name__}: {one_line(error)[:200]}); on a machine with a network, "
            f"datasets.load_dataset({written!r}).save_to_disk(FOLDER) makes a folder for hf:FOLDER"
            if not folder
            else f"dataset {name}: {folder} cannot be read ({type(error).__name__}: {one_line(error)[:200]})"
        ) from None
    finally:
        datasets.utils.logging.set_verbosity(before)
    splits = dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}
    return splits, str(folder) if folder else f"Hugging Face's cache of {written}"


def _split(name: str, found: dict[str, Any], wanted: str | None, usual: Iterable[str]) -> str | None:
    """Return the name of a split: the wanted one, else the first with a usual name; None if there is none."""
    if wanted is not None and wanted not in found:
        raise RequestError(f"dataset {name}: no split {wanted!r}: {nearest(wanted, found)}")
    return wanted or next((one for one in usual if one in found), None)


def _columns(name: str, split: Any, settings: dict[str, Any]) -> tuple[str, str]:
    """Return the names of the image and the label column; raises RequestError if there is not one of each."""
    import datasets

    kinds = {"image": datasets.Image, "label": datasets.ClassLabel}
    chosen = []
    for role, kind in kinds.items():
        fitting = [column for column, feature in split.features.items() if isinstance(feature, kind)]
        if role == "label" and not fitting and "label" in split.features:
            fitting = ["label"]  # without the names of the classes
        wanted = settings.get(role)
        if wanted is not None and wanted not in split.features:
            raise RequestError(f"dataset {name}: no column {wanted!r}: {nearest(wanted, split.features)}")
        if wanted is None and len(fitting) != 1:
            words = f"several {role} columns" if fitting else f"no {role} column"
            columns = ", ".join(fitting or split.features)
            raise RequestError(
                f"dataset {name}: {words} ({columns}); write, for example, "
                f"{name.partition('(')[0]}({role}={(fitting or list(split.features))[0]})"
            )
        chosen.append(wanted or fitting[0])
    image, label = chosen
    if not isinstance(split.features[image], datasets.Image):
        raise RequestError(f"dataset {name}: column {image!r} is not of images ({split.features[image]})")
    return image, label


def _class_names(name: str, split: Any, label: str) -> list[str]:
    """Return the names of the classes: those of the column, else its texts, else the integers up to the largest."""
    feature = split.features[label]
    if hasattr(feature, "names"):
        return list(feature.names)
    values = list(split[label])
    if all(isinstance(value, str) for value in values):
        return sorted(set(values))
    labels = label_tensor(values, f"dataset {name}: column {label!r}", len(values))
    return [str(number) for number in range(int(labels.max()) + 1)] if len(labels) else []


def _images(name: str, split: Any, part: str, columns: tuple[str, str], names: list[str]) -> MapImages:
    """Return the images of a split, undecoded, and their labels."""
    import datasets

    image, label = columns
    missing = [column for column in columns if column not in split.features]
    if missing:
        raise RequestError(f"dataset {name}: the split {part} has no column {missing[0]!r}")
    values: Any = list(split[label])
    if split.features[label].dtype == "string":
        unknown = [value for value in values if value not in names]
        if unknown:
            raise RequestError(f"dataset {name}: class {unknown[0]!r} of the split {part} is not in the training split")
        values = [names.index(value) for value in values]
    hidden = "; are they hidden? Choose another split for the test" if -1 in values else ""
    try:
        labels = label_tensor(values, f"dataset {name}: split {part}", len(values), len(names))
    except RequestError as error:
        raise RequestError(f"{error}{hidden}") from None
    encoded = split.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return map_images(name, part, _Column(encoded, image), torch.as_tensor(labels))


class _Column:
    """The encoded images of a column, by row: bytes, or a file's path."""

    def __init__(self, table: Any, column: str):
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Any:
        found = self.table[row][self.column]
        if found is None:
            return b""
        return found["path"] if found["bytes"] is None else found["bytes"]
