"""What is said of runs that an earlier version began and that go on otherwise than they began."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablations.errors import RequestError
from ablations.machine import overridden_threads
from ablations.recipes import read_yaml
from ablations.store import DamagedError, read_json
from ablations.training_config import TrainingConfig


def older_versions(folders: Iterable[Path]) -> list[str]:
    """Say in one line each how many of these folders' runs are computed otherwise than they began."""
    folders = list(folders)
    begun = list(_begun(folders))
    left = any(not (folder / "result.json").exists() for folder in folders)
    return [*_older_pixels(begun), *_older_rounding(begun), *(_older_statistics(begun) if left else ())]


def thread_notices(device: str, threads: int, folders: Iterable[Path]) -> list[str]:
    """Say in one line if runs on the CPU began with another number of threads, or a GPU's are not OMP_NUM_THREADS."""
    if device != "cpu":
        return list(filter(None, [overridden_threads(threads)]))
    unfinished = (first for folder, first in _begun(folders) if not (folder / "result.json").exists())
    others = [first["threads"] for first in unfinished if first["threads"] != threads]
    if not others:
        return []
    began = f"{_runs(others)} began with --threads {', '.join(map(str, sorted(set(others))))}"
    return [f"{began}; with --threads {threads} the last bits of the weights may differ"]


def older_batch(name: str, requested: TrainingConfig, opened: TrainingConfig) -> str | None:
    """Say that a recipe keeps the batch size that `--set` once gave it together with the main recipe."""
    if requested.batch_size == opened.batch_size:
        return None
    return (
        f"recipe {name} keeps batch_size={opened.batch_size}, with which the folder began; "
        f"--set batch_size now changes the main recipe alone"
    )


def _begun(folders: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each run's folder that exists, and its first session's environment."""
    for folder in folders:
        try:
            yield folder, read_json(folder / "environment.json")["sessions"][0]
        except (FileNotFoundError, DamagedError):
            continue


def _older_pixels(begun: list[tuple[Path, dict[str, Any]]]) -> Iterator[str]:
    """Count the runs on images in files; the checksum of their dataset covers names and labels, not pixels."""
    from ablations.data.decode import VERSION

    older = [first for _, first in begun if first["data"]["name"] == "imagenet" and first.get("decoder", 1) < VERSION]
    if older:
        yield (
            f"{_runs(older)} began with an earlier version, which ignored orientation, "
            f"transparency, color profiles and depths above 8 bits; images with these are read differently now. "
            f"Choose another --out to read all alike"
        )


def _older_rounding(begun: list[tuple[Path, dict[str, Any]]]) -> Iterator[str]:
    """Count the unfinished runs whose remaining steps round otherwise than those before."""
    from modernize.acceleration import ROUNDING

    older, in_tf32, on_other_cpus = [], [], []
    for folder, first in begun:
        if (version := first.get("rounding", 1)) >= ROUNDING or (folder / "result.json").exists():
            continue
        try:
            config = read_yaml(folder / "config.yaml", "run")
        except RequestError:  # damaged: the run refuses it
            continue
        recipe, flags = config["recipe"], config["flags"]  # a reference model has no flags, and none of our modules
        if version < 2 and flags and (recipe.get("compile") or _rounded_otherwise(recipe, flags, first)):
            older.append(first)
        float32 = recipe.get("precision", "float32") == "float32"
        on_cpu = str(first["device"]).startswith("cpu")
        if version < 3 and float32 and not on_cpu:
            in_tf32.append(first)
        if version < 4 and flags and float32 and on_cpu and not _sums_in_one_order(first):
            on_other_cpus.append(first)
    if older:
        yield (
            f"{_runs(older)} began with an earlier version, whose compiled, bf16 and fp16 steps round differently; "
            f"the result may differ in the last bits from that of an uninterrupted run"
        )
    if in_tf32:
        yield (
            f"{_runs(in_tf32)} began with an earlier version, which computed float32 convolutions on a GPU in TF32; "
            f"the remaining steps compute them in float32, so the result may differ from that of an uninterrupted run"
        )
    if on_other_cpus:
        yield (
            f"{_runs(on_other_cpus)} began with an earlier version, whose gradients of 1×1 and strided convolutions "
            f"round differently without AVX-512 or with several threads; the result may differ in the last bits from "
            f"that of an uninterrupted run"
        )


def _older_statistics(begun: list[tuple[Path, dict[str, Any]]]) -> Iterator[str]:
    """Count the runs with other BatchNorm statistics, or which began with them, than those that end now."""
    from ablations.training.evaluation import STATISTICS_BATCH

    older = []
    for folder, first in begun:
        with suppress(RequestError):  # damaged: the run refuses it
            images = read_yaml(folder / "config.yaml", "run")["recipe"].get("precise_bn")
            if first.get("rounding", 1) < 5 and (images or 0) > STATISTICS_BATCH:
                older.append(first)
    if older:
        yield (
            f"{_runs(older)} began with an earlier version, which recomputed BatchNorm statistics in batches of up to "
            f"512 images; those that end now take {STATISTICS_BATCH}, which may change top-1 by a few hundredths of a "
            f"point"
        )


def _sums_in_one_order(first: dict[str, Any]) -> bool:
    """Return whether gradients of 1×1 and strided convolutions are the bits of earlier versions."""
    return bool(first["threads"] == 1 and first["device"] == "cpu (AVX512)")


def _rounded_otherwise(recipe: dict[str, Any], flags: dict[str, Any], first: dict[str, Any]) -> bool:
    """Return whether steps of mixed precision differ: by the gradient on a CPU, by the sum of two types on a GPU."""
    from modernize.depthwise import COLUMNS

    if recipe.get("precision", "float32") == "float32":
        return False
    if str(first["device"]).startswith("cpu"):
        return bool(recipe["precision"] == "bf16" and flags.get("depthwise") and flags["kernel_size"] > COLUMNS)
    return bool(flags.get("norm") == "ln")  # which CUDA's autocast computes in float32


def _runs(found: list[Any]) -> str:
    return f"{len(found)} {'runs' if len(found) > 1 else 'run'}"
