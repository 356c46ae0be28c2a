"""Study folders without training: laid out by the project's own writers, their results made up."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ablations.store import write_bytes, write_json
from ablations.studies.folder import open_folder, run_folder
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig
from ablations.studies.schema import Study
from modernize.plan import compile_plan, total_cost, trace

TEST_IMAGES = 500
Outcome = Callable[[RunConfig], Mapping[str, Any] | None]  # what a run's result says over the usual; None: not begun


def made_up_study(
    folder: Path,
    kind: str = "roadmap",
    seeds: Sequence[int] = (0, 1, 2),
    outcome: Outcome = lambda run: {},
    lines: int = 20,
    settings: Mapping[str, str] | None = None,
    **changes: Any,
) -> Study:
    """A study's folder with a run folder for each run; `lines` of log each.

    `outcome` may set status and numbers, `settings` are those of --set.
    """
    base = {} if kind == "designs" else {"base": "pocket"}
    study = load_study(kind, {**base, "data": "digits", "seeds": list(seeds), **changes}, settings or {})
    open_folder(study, folder)
    for run in study.runs:
        result = outcome(run)
        if result is not None:
            write_run(run_folder(folder, run), run, result, lines)
    return study


def write_run(folder: Path, run: RunConfig, changes: Mapping[str, Any], lines: int) -> None:
    """A run's folder: configuration, log, predictions and, unless its status is `stopped`, its result."""
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "config.yaml", yaml.safe_dump(run.model_dump(mode="json"), sort_keys=False).encode())
    status = str(changes.get("status", "done"))
    shown = lines if status == "done" else lines // 2
    log = [log_line(run, number, lines) for number in range(1, shown + 1)]
    write_bytes(folder / "log.jsonl", "".join(f"{json.dumps(line)}\n" for line in log).encode())
    if status == "stopped":
        return
    cost = total_cost(trace(compile_plan(run.design, 1, 10), 32))
    facts = {"row": run.row, "seed": run.seed, **asdict(cost), "data_checksum": "made up"}
    facts |= {"image_size": 32, "in_channels": 1, "num_classes": 10}
    if status == "failed":
        write_json(folder / "result.json", {"status": "failed", "reason": "the loss is nan", **facts, **changes})
        return
    right = 100 * round(float(changes.get("top1", usual_top1(run))) * TEST_IMAGES / 100) / TEST_IMAGES
    sealed = write_predictions(folder, run, right)
    usual = {"status": "done", "top1": right, "loss": 0.5, "images_seen": 60_000, "seconds": 30.0}
    usual |= {"images_per_second": 2000.0, "weights_sha256": "made up", "predictions_sha256": sealed}
    write_json(folder / "result.json", {**usual, **facts, **changes, "top1": right})


def usual_top1(run: RunConfig) -> float:
    """An accuracy that row and seed alone determine."""
    digest = hashlib.sha256(run.row.encode()).digest()
    return 84 + 4 * digest[0] / 255 + 0.6 * math.sin(7 * run.seed + digest[1])


def log_line(run: RunConfig, number: int, lines: int) -> dict[str, Any]:
    """A line of a log, as the trainer writes them, of a run that learns."""
    part = number / lines
    bump = 0.03 * math.sin(11 * run.seed + 5 * number)
    line = {"step": 50 * number, "steps": 50 * lines, "epoch": part, "epochs": 1.0, "images": 3000 * number}
    loss = 5 - 0.05 * usual_top1(run) + 1.6 * math.exp(-4 * part) + bump
    return line | {"loss": loss, "top1": 100 - 30 * loss, "seconds": 1.5 * number}


def write_predictions(folder: Path, run: RunConfig, top1: float) -> str:
    """Predictions of which the share `top1` is right, which ones by row and seed; their checksum."""
    labels = np.arange(TEST_IMAGES) % 10
    chance = np.random.default_rng(int.from_bytes(hashlib.sha256(run.name.encode()).digest()[:4]))
    wrong = chance.permutation(TEST_IMAGES)[round(top1 * TEST_IMAGES / 100) :]
    predicted = labels.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    out = io.BytesIO()
    np.savez(out, predicted=predicted.astype(np.uint16), labels=labels.astype(np.uint16))
    write_bytes(folder / "predictions.npz", out.getvalue())
    return hashlib.sha256(out.getvalue()).hexdigest()
