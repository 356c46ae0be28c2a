"""Results of a benchmark: speedups over reference implementations, table rows, and a study's `bench.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.bench.measure import Bench, Measurement
from ablations.bench.models import BenchmarkedModel
from reports.bench_table import SpeedRow


@dataclass(frozen=True)
class Ratio:
    """Our speedup over a reference implementation in its faster memory format: median and range of the rounds.

    `what` is "training" or "inference".
    """

    label: str
    against: BenchmarkedModel
    what: str
    median: float
    low: float
    high: float


def ratios(bench: Bench) -> list[Ratio]:
    """Compare our networks with each reference implementation, in training and inference, round by round."""
    compared = []
    for ours in (one for one in bench.measured if one.model.source == "ours"):
        references = [one for one in bench.measured if one.model.title == ours.model.title and one is not ours]
        for source in dict.fromkeys(one.model.source for one in references):
            for what in ("training", "inference"):
                fastest = max(
                    (one for one in references if one.model.source == source),
                    key=lambda one: statistics.median(getattr(one, what)),
                )
                compared.append(_ratio(ours, fastest, what))
    return compared


def _ratio(ours: Measurement, reference: Measurement, what: str) -> Ratio:
    return Ratio(ours.model.label, reference.model, what, *speedups(getattr(ours, what), getattr(reference, what)))


def speedups(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Return median, minimum and maximum over the rounds of our throughput divided by theirs."""
    found = [one / other for one, other in zip(ours, theirs, strict=True)]
    return statistics.median(found), min(found), max(found)


def table_rows(bench: Bench) -> list[SpeedRow]:
    """Return the table's rows; a reference implementation's row has our speedup over it."""
    speedups = {
        (ratio.against, ratio.what): f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        for ratio in ratios(bench)
    }
    return [
        SpeedRow(
            label=one.model.label if speedups else one.model.title,
            train_images_per_second=statistics.median(one.training),
            train_share=3 * 2 * one.macs * statistics.median(one.training) / 1e9 / one.peak,
            inference_images_per_second=statistics.median(one.inference),
            inference_share=2 * one.macs * statistics.median(one.inference) / 1e9 / one.peak,
            latency_ms=statistics.median(one.latency),
            latency_p95_ms=one.latency_p95,
            train_memory_mb=one.training_memory,
            inference_memory_mb=one.inference_memory,
            train_compile_seconds=one.training_compile_seconds,
            inference_compile_seconds=one.inference_compile_seconds,
            train_ratio=speedups.get((one.model, "training"), ""),
            inference_ratio=speedups.get((one.model, "inference"), ""),
        )
        for one in bench.measured
    ]


def for_study(bench: Bench) -> list[dict[str, Any]]:
    """Return the entries of a study's `bench.json`, which its report shows."""
    return [
        {
            "row": one.model.name,
            "batch_size": one.model.setting.batch_size,
            "device": one.model.setting.device,
            "precision": one.model.setting.precision,
            "compiled": one.model.setting.compile,
            "train_images_per_second": statistics.median(one.training),
            "inference_images_per_second": statistics.median(one.inference),
            "latency_ms": statistics.median(one.latency),
            "peak_memory_mb": one.training_memory,
        }
        for one in bench.measured
    ]


def with_other_settings(entries: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Put the entries of a `bench.json` with another setting before new ones; a corrupt file has none.

    A setting is a device, a batch size, a precision and whether networks were compiled. Entries of earlier versions
    may lack the precision, which could be any.
    """
    try:
        before = json.loads(path.read_bytes())
        kept = [line for line in before if line["device"] is not None and line["batch_size"] is not None]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return entries
    new = {_setting(line) for line in entries}
    return [*(line for line in kept if _setting(line) not in new), *entries]


def _setting(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["device"], line["batch_size"], line.get("precision"), line.get("compiled", False)


def subtitle(bench: Bench, varied: Collection[str]) -> str:
    """Describe the machine and the settings that are the same for all models."""
    model = bench.measured[0].model
    setting, formats = model.setting, {one.model.memory_format for one in bench.measured}
    jobs = f"{setting.jobs} process{'es' if setting.jobs > 1 else ''} of "
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    settings = {
        "jobs": "" if {"jobs", "threads"} & set(varied) else jobs + threads,
        "batch_size": f"batch {setting.batch_size}",
        "image_size": f"{setting.in_channels}×{setting.image_size}×{setting.image_size} images",
        "precision": setting.precision,
        "compile": "compiled" if setting.compile else "",
        "memory_format": model.memory_format if len(formats) == 1 else "",
        "recompute": "activation checkpointing" if setting.recompute else "",
    }
    fixed = [words for name, words in settings.items() if words and name not in varied]
    peaks = sorted({round(one.peak) for one in bench.measured})
    peak = f"peak {peaks[-1]:,} GFLOP/s" if len(peaks) == 1 or peaks[-1] < 1.2 * peaks[0] else ""
    return ", ".join(filter(None, [bench.machine, *fixed, peak]))
