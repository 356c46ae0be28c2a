"""On a GPU, pretended in Python: a step gives the CPU's results and does not wait; products are alike, or repeat."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runs import NOT_WAITING, RUNS, WAITING, arithmetic, run, trainer

from ablations.cli.main import run_command
from ablations.errors import RequestError
from ablations.training.gpu_arithmetic import gpu_arithmetic, prepare_arithmetic

TOLERANCE = {"fp16": 5e-3}  # autocast lowers other operations on a CPU


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What happened in a process that has the device."""
    return run()


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_trains_and_evaluates_as_the_cpu_does(outcomes: dict[str, Any], name: str) -> None:
    assert outcomes["runs"][name]["difference"] < TOLERANCE.get(name, 1e-6)
    assert outcomes["runs"][name]["loss"] < TOLERANCE.get(name, 1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_training_step_does_not_wait_for_the_gpu(outcomes: dict[str, Any], name: str) -> None:
    waits = outcomes["runs"][name]["waits"]
    assert waits["steps"] == {}
    assert sum(waits["log"].values()) == 1  # loss and top-1 are read together
    assert sum(waits["evaluation"].values()) == 3  # labels, predictions and losses, however many batches


def test_a_run_on_a_gpu_resumes_to_the_same_bits(outcomes: dict[str, Any]) -> None:
    assert outcomes["resumed"]["resumed"] == outcomes["resumed"]["whole"]


def test_what_waits_for_the_pretended_gpu_is_counted(outcomes: dict[str, Any]) -> None:
    assert [statement for statement in WAITING if not outcomes["counted"][statement]] == []
    assert [statement for statement in NOT_WAITING if outcomes["counted"][statement]] == []


# ---- TF32 and determinism

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@pytest.mark.parametrize(("precision", "kind"), [("float32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")])
def test_convolutions_and_matrix_products_are_computed_alike(precision: str, kind: str) -> None:
    before = arithmetic()
    with pytest.raises(KeyError), gpu_arithmetic("cuda:0", precision):
        within = arithmetic()
        raise KeyError
    assert within["products"] == [kind, kind] and within["deterministic"] == before["deterministic"]
    assert within["compiled"] == [kind == "tf32", kind == "tf32", "high" if kind == "tf32" else "highest"]
    assert arithmetic() == before


def test_the_users_settings_of_torch_are_restored() -> None:
    before = arithmetic()
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        own = arithmetic()
        with gpu_arithmetic("cuda:0", "float32", deterministic=True):
            assert arithmetic()["products"] == ["ieee", "ieee"] and arithmetic()["deterministic"] == [True, True, False]
            assert not torch.is_deterministic_algorithms_warn_only_enabled() and not arithmetic()["filled"]
        assert arithmetic() == own and torch.is_deterministic_algorithms_warn_only_enabled()
        with gpu_arithmetic("cpu", "float32", deterministic=True):
            assert arithmetic() == own  # of which a CPU has none
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.matmul.fp32_precision = before["products"][0]
    assert arithmetic() == before


@pytest.mark.parametrize("shared", ["highest", "high", "medium"])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_a_shared_setting_of_the_cpu_and_gpus_contradicts_none(shared: str, precision: str) -> None:
    """Where the settings contradict each other, reading one raises an error, as torch.compile may."""
    cpu: Any = torch.backends.mkldnn
    try:
        torch.set_float32_matmul_precision(shared)
        own = arithmetic(), cpu.matmul.fp32_precision
        with gpu_arithmetic("cuda:0", precision):
            within = arithmetic()
            assert (within["compiled"][2], cpu.matmul.fp32_precision) == (
                "high" if precision == "tf32" else "highest",
                "ieee",
            )
        assert (arithmetic(), cpu.matmul.fp32_precision) == own
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_run_on_a_gpu_is_computed_as_its_recipe_says(outcomes: dict[str, Any]) -> None:
    for precision, kind, deterministic in (("float32", "ieee", True), ("tf32", "tf32", False)):
        found = outcomes["arithmetic"][precision]
        assert found["training"]["products"] == [kind, kind]
        assert found["training"]["deterministic"] == [deterministic, deterministic, False]
        assert found["after"] == found["before"] != found["training"]


def test_a_cpu_has_no_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"^precision=tf32: a CPU has no TF32; set precision to float32$"):
        trainer("cpu", precision="tf32")
    trainer("cpu", deterministic=True)
    commands = (
        ("bench", "pocket", "--precision", "tf32"),
        ("bench", "pocket", "--over", "precision=float32,tf32"),
        ("train", "pocket", "--data", "digits", "--set", "precision=tf32", "--out", str(tmp_path / "run")),
        ("run", "sweep", "--flags", "kernel_size=3:5", "--data", "digits", "--set", "precision=tf32"),
    )
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert run_command([*command, "--device", "cpu"]) == 2
        said = capsys.readouterr().err
        assert said == "ablations: precision=tf32: a CPU has no TF32; set precision to float32\n", command
    assert not list(tmp_path.iterdir())


def test_cublas_is_told_to_repeat_its_results_before_cuda_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, "")  # so that it is restored
    monkeypatch.delenv(WORKSPACE)
    prepare_arithmetic("cuda:0", False)
    prepare_arithmetic("cpu", True)
    assert WORKSPACE not in os.environ
    prepare_arithmetic("cuda:0", False, True)
    assert os.environ[WORKSPACE] == ":4096:8"
    for kept in (":4096:8", ":16:8"):
        monkeypatch.setenv(WORKSPACE, kept)
        prepare_arithmetic("cuda:0", True)
        assert os.environ[WORKSPACE] == kept
    monkeypatch.setenv(WORKSPACE, ":4096:2:16:8")
    with pytest.raises(RequestError, match=f"^deterministic: {WORKSPACE} is :4096:2:16:8; set it to :4096:8 before"):
        prepare_arithmetic("cuda:0", True)
    monkeypatch.delenv(WORKSPACE)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RequestError, match=f"^deterministic: {WORKSPACE} is not set, and CUDA has started; set it to"):
        prepare_arithmetic("cuda:0", True)
