"""What only an NVIDIA GPU can show; skipped without one. `tests/gpu.sh` runs it, and what takes longer.

Each test names what the fake device or a fake error of other tests cannot show.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_runs import RUNS
from fake_runs import trainer as small_trainer
from test_distributed import BREAKS, DESIGN, RUN, torchrun
from test_gpu_runs import ILL, TINY

import modernize
from ablations.data.datasets import DataSet, load
from ablations.launch.pool import run_study
from ablations.launch.session import Session
from ablations.machine import Machine
from ablations.recipes import TrainingConfig
from ablations.store import read_json
from ablations.studies.folder import run_folder
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig, execute
from ablations.training.callbacks import Callbacks, NullCallbacks
from ablations.training.gpu_arithmetic import gpu_arithmetic
from ablations.training.trainer import Interrupted, Trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
GPU = "cuda:0"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def a_trainer(
    digits: DataSet,
    device: str,
    folder: Path | None = None,
    callbacks: Callbacks | None = None,
    design: str = TINY,
    **changes: Any,
) -> Trainer:
    """Make a trainer of a small network without stochastic depth, whose random numbers differ between devices."""
    torch.manual_seed(0)
    values = {"max_epochs": 1, "batch_size": 32, "learning_rate": 1e-3, "crop_padding": 1, "workers": 0}
    config = TrainingConfig(**{**values, **changes})
    model = modernize.build(design, 10, 1)
    return Trainer(
        model, digits.train, digits.test, config, folder=folder, device=device, callbacks=callbacks or NullCallbacks()
    )


def test_a_gpu_trains_as_the_cpu_does(digits: DataSet) -> None:
    """Its own kernels for each operation, in float32 rather than TF32."""
    runs = [a_trainer(digits, device) for device in ("cpu", GPU)]
    for run in runs:
        for _ in range(5):
            run.train_step()
            run.step += 1
    for one, other in zip(*(run.model.state_dict().values() for run in runs), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_a_step_does_not_wait_for_the_gpu(name: str) -> None:
    """CUDA itself refuses what waits, also where a library's code does; the fake device sees what torch dispatches."""
    run = small_trainer(GPU, **RUNS[name])
    try:
        for step in range(4):
            torch.cuda.set_sync_debug_mode("error" if step == 3 else "default")
            run.train_step()
            run.step += 1
    finally:
        torch.cuda.set_sync_debug_mode("default")


class StopAt(NullCallbacks):
    """Ask to stop after a number of training steps."""

    def __init__(self, steps: int):
        self.left = steps
        super().__init__(self.is_due)

    def is_due(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16", "mixup": 0.8, "ema_decay": 0.9, "erasing": 0.25},
        {"precision": "tf32", "design": "resnet50,depths=1-1-1-1,width=8,stem_stride=2"},  # BatchNorm and max-pooling
        {"precision": "tf32", "compile": True},
        {"compile": True},
    ],
    ids=lambda changes: ",".join(map(str, changes.values())) or "float32",
)
def test_a_deterministic_run_resumes_to_the_bit(changes: dict[str, Any], digits: DataSet, tmp_path: Path) -> None:
    """The algorithms of cuDNN and cuBLAS add in the same order each time; so should kernels of torch.compile.

    docs/imagenet.md says that the latter is not known: change it when this has run.
    """
    sums = []
    for name, stops in (("whole", ()), ("again", ()), ("resumed", (7, 20))):
        (tmp_path / name).mkdir()
        for steps in stops:
            torch.compiler.reset()  # as between runs; past a number of networks torch goes on uncompiled
            with pytest.raises(Interrupted):
                a_trainer(digits, GPU, tmp_path / name, StopAt(steps), deterministic=True, **changes).train()
        torch.compiler.reset()
        sums.append(a_trainer(digits, GPU, tmp_path / name, deterministic=True, **changes).train().weights_sha256)
    assert sums[0] == sums[1] == sums[2]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_convolutions_and_matrix_products_are_equally_exact(precision: str) -> None:
    """Only the hardware computes in TF32."""
    if precision == "tf32" and not torch.cuda.is_tf32_supported():
        pytest.skip("this GPU has no TF32")
    torch.manual_seed(0)
    images, weights = torch.randn(64, 512, 1, 1, device=GPU), torch.randn(512, 512, device=GPU)
    exact = images.double().flatten(1) @ weights.double().T
    with gpu_arithmetic(GPU, precision):
        found = {
            "1x1 convolution": torch.nn.functional.conv2d(images, weights[:, :, None, None]).flatten(1),
            "linear layer": torch.nn.functional.linear(images.flatten(1), weights),
        }
    errors = {name: float((one.double() - exact).abs().mean() / exact.abs().mean()) for name, one in found.items()}
    low, high = (1e-5, 1e-2) if precision == "tf32" else (0.0, 2e-6)
    assert all(low < error < high for error in errors.values()), errors


def test_real_errors_of_a_gpu_fail_one_run_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: DataSet
) -> None:
    """CUDA's own error stays with the process, and its allocator raises that memory ran out."""
    real = ILL.replace("import torch, fake_device", "import torch").replace("torch.fake.emptied", "0")
    begin = real.index("        raise torch.OutOfMemoryError")
    real = real[:begin] + (
        "        torch.empty(2**50, device=trainer.device)\n"
        "    if trainer.seed == 1:\n"
        "        torch.zeros(4, device=trainer.device)[torch.tensor([10**6], device=trainer.device)].sum().item()\n"
        + real[real.index("    return train(trainer)") :]
    )
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif '-P' in sys.orig_argv:\n exec({real!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(modernize.__file__).parent.parent}")
    monkeypatch.setenv("ILL", str(tmp_path / "log"))
    changes = {"base": TINY, "flags": {"norm": ["ln"]}, "data": "digits", "seeds": [0, 1, 2]}
    study = load_study("sweep", changes, {"max_epochs": "0.05", "batch_size": "32"})
    run_study(Session(study, tmp_path / "study", tmp_path, lambda _: digits), Machine(1, 1, (GPU,)))
    results = [read_json(run_folder(tmp_path / "study", run) / "result.json") for run in study.runs]
    assert [one["status"] for one in results] == ["failed", "failed", "done"], results
    assert results[0]["reason"].startswith(f"out of memory on {GPU} with batch_size=32")
    assert results[1]["reason"].startswith("AcceleratorError: CUDA error: device-side assert triggered")
    workers = [line.split()[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert workers[0] == workers[1] != workers[2]


def test_a_run_gives_the_gpus_memory_back(tmp_path: Path, digits: DataSet) -> None:
    """Only the caching allocator knows what it keeps."""
    recipe = TrainingConfig(
        max_epochs=0.2, batch_size=64, learning_rate=1e-3, activation_checkpointing=True, ema_decay=0.9, workers=0
    )
    flags = modernize.design(TINY).flags()
    held = []
    for seed in range(3):
        run = RunConfig(row="r", label="r", flags=flags, recipe_name="r", recipe=recipe, data="digits", seed=seed)
        (tmp_path / str(seed)).mkdir()
        assert execute(run, tmp_path / str(seed), digits, GPU, NullCallbacks())["status"] == "done"
        held.append(torch.cuda.memory_reserved(GPU))
    assert held[1] == held[2], "each run leaves memory behind"
    assert held[2] - held[0] <= 2**21


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs here")
def test_an_error_of_a_rank_ends_all_processes_of_nccl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's processes wait on the GPU, where no closed connection wakes them."""
    (tmp_path / "sitecustomize.py").write_text(f"import os\nif 'RANK' in os.environ:\n exec({BREAKS!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(modernize.__file__).parent.parent}")
    begun = time.monotonic()
    process = torchrun(2, "train", DESIGN, *RUN[:-1], "cuda", "--out", tmp_path / "out")
    try:
        _, err = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1 and time.monotonic() - begun < 90, err
    assert read_json(tmp_path / "out/result.json")["reason"] == "ZeroDivisionError: division by zero (rank 1)"
