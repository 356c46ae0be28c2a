"""The benchmark runs real training steps in interleaved rounds; reference implementations get our weights."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from commands import ablations, ablations_here

from ablations.bench import (
    Bench,
    BenchmarkedModel,
    Measurement,
    ModelRunner,
    Setting,
    benchmarked_models,
    measure,
    ratios,
    table_rows,
)
from ablations.bench.measure import LATENCY_RUNS
from ablations.bench.models import build_benchmarked, reference_implementation
from ablations.bench.workers import prepared
from ablations.cli.bench import _benched
from ablations.errors import RequestError
from ablations.machine import usable_cores
from ablations.studies.folder import open_folder
from ablations.studies.load import load_study
from modernize.roadmap import roadmap
from reports.bench_table import speed_table

SMALL = Setting(threads=1, batch_size=4, image_size=32, num_classes=10)


@pytest.mark.parametrize("source", ["torchvision", "timm"])
@pytest.mark.parametrize("design", ["convnext_tiny", "resnet50"])
def test_a_reference_implementation_computes_our_logits(design: str, source: str) -> None:
    ours, theirs = (
        build_benchmarked(BenchmarkedModel("c", design, who, "contiguous", SMALL)) for who in ("ours", source)
    )
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-3, atol=1e-4)


def test_a_training_step_changes_weights_and_inference_does_not() -> None:
    runner = ModelRunner(BenchmarkedModel("p", "pocket,depths=1-1,width=4", "ours", "channels_last", SMALL))
    before = [weights.detach().clone() for weights in runner.network.parameters()]
    runner.infer()
    runner.infer_one()
    assert all(torch.equal(one, other) for one, other in zip(before, runner.network.parameters(), strict=True))
    runner.train_step()
    assert not any(torch.equal(one, other) for one, other in zip(before, runner.network.parameters(), strict=True))


def test_reference_implementations_run_in_both_memory_formats_and_must_implement_a_design() -> None:
    models = benchmarked_models({"convnext_tiny": "convnext_tiny"}, SMALL, ["timm"])
    assert [(one.source, one.memory_format) for one in models] == [
        ("ours", "channels_last"),
        ("timm", "channels_last"),
        ("timm", "contiguous"),
    ]
    with pytest.raises(RequestError, match="torchvision: it does not implement 'pocket'; it implements resnet50"):
        benchmarked_models({"pocket": "pocket"}, SMALL, ["torchvision"])


def test_reference_implementations_of_a_roadmap_follow_the_rows_that_they_implement() -> None:
    rows = {row.name: f"resnet50@{row.name}" for row in roadmap("resnet50").rows}
    models = benchmarked_models(rows, SMALL, ["torchvision", "timm"], "channels_last")
    references = [one for one in models if one.source != "ours"]
    assert [(one.name, one.source, reference_implementation(one.design, one.source)) for one in references] == [
        ("resnet", "torchvision", "resnet50"),
        ("resnet", "timm", "resnet50"),
        ("separate-downsampling", "torchvision", "convnext_tiny"),
        ("separate-downsampling", "timm", "convnext_tiny"),
    ]
    assert build_benchmarked(references[0]).get_parameter("fc.bias").shape == (SMALL.num_classes,)


def test_ratios_compare_ours_with_the_faster_format_round_by_round() -> None:
    def one(source: str, form: str, training: tuple[float, ...], varied: str = "") -> Measurement:
        model = BenchmarkedModel("n", "n", source, form, SMALL, varied)
        return Measurement(model, 100.0, 1, 10**9, training, training[::-1], (1.0, 9.0), 1.0, 1.0)

    ours, slow, fast = one("ours", "channels_last", (10, 20, 40)), (1.0, 1.0, 1.0), (5.0, 20.0, 10.0)
    elsewhere = one("timm", "contiguous", (99.0, 99.0, 99.0), varied="jobs 2")
    references = one("timm", "contiguous", slow), one("timm", "channels_last", fast)
    bench = Bench("m", (ours, *references, elsewhere))
    ratio = ratios(bench)[0]
    assert (ratio.against, ratio.median, ratio.low, ratio.high) == (references[1].model, 2.0, 1.0, 4.0)
    rows = table_rows(bench)
    assert [row.train_ratio for row in rows] == ["", "", "2.00 (1.00 to 4.00)", ""]
    assert [row.inference_ratio for row in rows] == ["", "", "2.00 (1.00 to 4.00)", ""]
    assert rows[0].train_share == pytest.approx(6 * 20 / 100)
    assert rows[0].inference_share == pytest.approx(2 * 20 / 100)
    assert rows[0].latency_ms == 5.0 and rows[0].latency_p95_ms == 9.0


def test_over_takes_all_combinations_and_names_them() -> None:
    over: dict[str, list[int]] = {"batch_size": [2, 4], "recompute": [False, True]}
    models = benchmarked_models({"p": "pocket"}, replace(SMALL, threads=0), over=over)
    assert [one.title for one in models] == [
        f"p, batch size {size}, recompute {word}" for size in (2, 4) for word in ("off", "on")
    ]
    assert [(one.setting.batch_size, one.setting.recompute) for one in models] == [
        (size, recompute) for size in (2, 4) for recompute in (False, True)
    ]
    cores = usable_cores()
    assert {one.setting.threads for one in models} == {cores}
    shared = benchmarked_models({"p": "pocket"}, replace(SMALL, threads=0), over={"jobs": [1, cores]})
    assert [one.setting.threads for one in shared] == [cores, 1]


def test_compiling_is_timed_apart_with_an_empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the backend takes is compile time, and none of the steps', memory or cache that come after."""
    folders: list[Path] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        folders.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
        assert not list(folders[-1].iterdir())
        time.sleep(0.3)
        return graph.forward

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32**2, 10))
    small.compile(backend=backend)
    with patch("ablations.bench.workers.build_benchmarked", lambda model: small):
        runner = ModelRunner(BenchmarkedModel("p", "p", "ours", "channels_last", replace(SMALL, compile=True)))
    found = prepared(runner, before=0.0)
    assert found.training_compile > 0.3 and found.inference_compile > 0.3
    assert len(folders) == 3 and len(set(folders)) == 1 and not folders[0].exists()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert max(runner.time("train_step", 1), runner.time("infer", 1), runner.time("infer_one", 1)) < 0.3
    assert len(folders) == 3


def test_one_table_has_ours_and_references_compiled_or_not() -> None:
    models = benchmarked_models(
        {"convnext_tiny": "convnext_tiny"}, SMALL, ["torchvision", "timm"], "channels_last", {"compile": [False, True]}
    )
    speeds = {("ours", False): 4.0, ("ours", True): 6.0, ("torchvision", False): 2.0, ("torchvision", True): 4.0}
    measured = [
        Measurement(
            *(
                model,
                100.0,
                1,
                10**9,
                (speeds.get((model.source, model.setting.compile), 1.0),) * 2,
                (1.0,) * 2,
                (1.0,),
            ),
            *(1.0, 1.0, *((30.0, 10.5) if model.setting.compile else (None, None))),
        )
        for model in models
    ]
    table = speed_table(table_rows(Bench("m", tuple(measured))), "")
    titles = [column.title for column in table.columns]
    shown = [dict(zip(titles, (cell.text for cell in row), strict=True)) for row in table.rows]
    assert [row["network"] for row in shown] == [
        f"convnext_tiny, compile {word} ({source}, channels_last)"
        for word in ("off", "on")
        for source in ("ours", "torchvision", "timm")
    ]
    assert [row["our speedup, training"].partition(" ")[0] for row in shown] == [
        "–",
        "2.00",
        "4.00",
        "–",
        "1.50",
        "6.00",
    ]
    assert [row["compile, training (s)"] for row in shown] == ["–"] * 3 + ["30"] * 3
    assert [row["compile, inference (s)"] for row in shown] == ["–"] * 3 + ["10.5"] * 3
    assert "empty cache" in table.legend
    eager = speed_table(table_rows(Bench("m", tuple(measured[:3]))), "")
    assert not any("ompile" in column.title for column in eager.columns) and "ompile" not in eager.legend


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_less_so_with_checkpointing() -> None:
    wide = {"w": "pocket,width=16,depths=16-1"}
    over: dict[str, list[int]] = {"batch_size": [16, 128], "recompute": [False, True]}
    bench = measure(benchmarked_models(wide, SMALL, over=over), repeats=1)
    small, small_recomputed, large, large_recomputed = (one.training_memory for one in bench.measured)
    assert large > 4 * small and large_recomputed < 0.8 * large and small_recomputed < small
    assert bench.measured[2].inference_memory < 0.5 * large


@pytest.mark.slow
def test_jobs_run_in_parallel_and_leave_no_process_behind() -> None:
    (one,) = measure(benchmarked_models({"p": "pocket,depths=1-1,width=4"}, replace(SMALL, jobs=2)), repeats=2).measured
    assert len(one.training) == len(one.inference) == 2 and len(one.latency) == 4 * 2 * LATENCY_RUNS * 2
    assert all(speed > 0 for speed in (*one.training, *one.inference, *one.latency))
    assert not multiprocessing.active_children()


def test_names_of_rows_may_set_what_a_step_does_not_need() -> None:
    named, _ = _benched(("pocket,recipe.learning_rate=2e-3,norm=ln,recipe.crop_scale=[0.5, 1]", "pocket"), None, None)
    assert list(named.values()) == ["pocket,norm=ln", "pocket"]


def test_a_batch_that_does_not_fit_into_memory_is_one_line() -> None:
    done = ablations("bench", "pocket", "--batch-size", str(10**8), "--threads", "1", "--repeats", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[1:] == [
        "ablations: bench pocket (ours, channels_last): not enough memory for a batch of 100000000 images; "
        "reduce --batch-size"
    ]


@pytest.mark.slow
def test_bench_of_a_study_is_in_its_report(tmp_path: Path) -> None:
    changes = {"base": "pocket,depths=1-1,width=4", "flags": {"norm": ["bn", "ln"]}, "data": "digits"}
    open_folder(load_study("sweep", changes, {}), tmp_path / "study")
    out = tmp_path / "all.json"
    options = ("--repeats", "1", "--warmup", "1", "--threads", "1", "--batch-size", "4", "--out", out)
    done = ablations_here("bench", "--study", tmp_path / "study", *options, "--format", "csv")
    assert done.returncode == 0, done.stderr
    whole = json.loads(out.read_text())
    speeds = [one["training"][0] for one in whole["measured"]]
    kept = json.loads((tmp_path / "study" / "bench.json").read_text())
    assert [(one["row"], one["train_images_per_second"]) for one in kept] == list(
        zip(["norm=bn", "norm=ln"], speeds, strict=True)
    )
    assert all(speed > 0 for speed in speeds) and whole["measured"][0]["peak"] > 0
    shown = ablations_here("report", tmp_path / "study", "--format", "csv")
    assert shown.returncode == 0, shown.stderr
    table = pd.read_csv(tmp_path / "study/report/tables/sweep-norm.csv")
    assert table["train_images_per_second"].tolist() == pytest.approx(speeds)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("pocket,recipe.precision=bf16",),
            "recipe.precision is not taken from a name; leave it out and set --precision",
        ),
        (("pocket,recipe.mixu=1",), "unknown setting 'recipe.mixu'"),
        ((), "bench: give designs"),
        (("pocket", "--roadmap", "pocket"), "bench: give designs"),
        (("pockett",), "unknown design 'pockett'"),
        (("pocket", "--against", "keras"), "--against keras: unknown"),
        (("pocket", "--device", "cuda:99"), "device cuda:99"),
        (("pocket", "--over", "width=3"), "--over width=3: 'width' is unknown; choose from batch-size, image-size"),
        (("pocket", "--over", "batch-size=8,0"), "--over batch-size=8,0: each value of batch-size must be a pos"),
        (("pocket", "--over", "recompute=yes"), "--over recompute=yes: each value of recompute must be on or off"),
        (("pocket", "--over", "precision=fp8"), "each value of precision must be float32, tf32, bf16, fp16"),
        (("convnext_tiny", "--over", "image-size=224,16"), "image_size=16 is too small"),
        (("--study", "runs/none", "--over", "jobs=1,2"), "--over: not with --study, whose report has one setting"),
    ],
)
def test_a_wrong_request_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = ablations_here("bench", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert words in done.stderr
