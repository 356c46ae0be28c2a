"""What a GPU asks of runs: memory is given back, errors end what they must, and each process takes its own GPU."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed
from commands import ablations_here

import modernize
from ablations.bench import BenchmarkedModel, Setting
from ablations.bench.workers import Prepared, WorkerGroup, work_model
from ablations.data.datasets import DataSet, load
from ablations.errors import RequestError, RunError
from ablations.launch.estimate import describe_plan
from ablations.launch.pool import run_study
from ablations.launch.session import Session
from ablations.machine import Machine
from ablations.recipes import TrainingConfig
from ablations.store import read_json
from ablations.studies.folder import run_folder
from ablations.studies.load import load_study
from ablations.studies.networks import build_network
from ablations.studies.run import RunConfig, execute
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.arguments import read_device
from ablations.training.callbacks import NullCallbacks
from ablations.training.distributed import ALONE, Group, joined
from ablations.training.trainer import Trainer

TINY = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


# ---- Memory


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Free only what nothing refers to; the collector may come long after the GPU has no memory left."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize(
    "settings",
    [{}, {"activation_checkpointing": True}, {"ema_decay": 0.9}, {"mixup": 0.8, "clip_norm": 1.0}],
    ids=lambda settings: ",".join(settings) or "plain",
)
def test_no_weight_outlives_its_run(settings: dict[str, Any], digits: DataSet, without_collector: None) -> None:
    def run() -> list[weakref.ref]:
        config = TrainingConfig(max_epochs=0.05, batch_size=32, learning_rate=1e-3, workers=0, **settings)
        network = modernize.build(TINY, 10, 1)
        trainer = Trainer(network, digits.train, digits.test, config, device="cpu", callbacks=NullCallbacks())
        trainer.train()
        averages = trainer.averaged.module.parameters() if trainer.averaged else ()
        return [weakref.ref(one) for one in (*network.modules(), *network.parameters(), *averages)]

    left = run()
    assert len(left) > 20 and not [one() for one in left if one() is not None]


@pytest.mark.slow
def test_every_run_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits: DataSet) -> None:
    """torch.compile keeps code for at most 8 networks and modes in a process, and runs others uncompiled."""
    compiled = [0]

    def note(graph: torch.fx.GraphModule, _examples: Any) -> Any:
        compiled[0] += 1
        return graph.forward

    usual = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: usual(module, backend=note))
    recipe = TrainingConfig(max_epochs=0.05, batch_size=32, learning_rate=1e-3, compile=True, workers=0)
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    kept = []
    for width in (1, 2):  # Trainers used directly, whose networks stay
        network = modernize.build(TINY.replace("width=4", f"width={4 * width}"), 10, 1)
        kept.append(Trainer(network, digits.train, digits.test, recipe, device="cpu", callbacks=NullCallbacks()))
        compiled[0] = 0
        kept[-1].train()
        assert compiled[0] > 0
    for width in (1, 2):
        flags = modernize.design(TINY.replace("width=4", f"width={4 * width}")).flags()
        run = RunConfig(row="r", label="r", flags=flags, recipe_name="r", recipe=recipe, data="digits", seed=0)
        folder, compiled[0] = tmp_path / str(width), 0
        folder.mkdir()
        assert execute(run, folder, digits, callbacks=NullCallbacks())["status"] == "done" and compiled[0] > 0


def test_a_network_with_activation_checkpointing_is_copied_and_pickled() -> None:
    torch.manual_seed(0)
    network = modernize.build(TINY, 10, 1)
    recompute_blocks(network)
    recompute_blocks(network)  # once is enough
    network.train()
    images = torch.randn(4, 1, 8, 8)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        calls: list[int] = []
        first = other.get_submodule("stages.0.blocks.0.residual")
        next(first.children()).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        other(images).sum().backward()
        assert torch.equal(other(images), network(images))
        assert len(calls) == 3, "the first block was not computed anew in the backward pass"
        assert not {id(one) for one in other.modules()} & {id(one) for one in network.modules()}


class OwnBlock(torch.nn.Module):
    """A block of a user's network: called with a named argument, and pickled in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.cache: Any = None

    def forward(self, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return torch.relu(self.layer(x)) * factor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "cache": None}


def test_a_users_blocks_keep_their_arguments_and_state() -> None:
    own = OwnBlock()
    blocks = torch.nn.ModuleList([own, OwnBlock()])
    x = torch.randn(2, 4, requires_grad=True)
    plain = blocks[1](blocks[0](x), factor=3.0)
    recompute_blocks(blocks)
    kinds = {type(block) for block in blocks}
    assert [(kind.__name__, kind.__module__) for kind in kinds] == [("OwnBlock", OwnBlock.__module__)]
    assert torch.equal(blocks[1](blocks[0](x), factor=3.0), plain)
    own.cache = lambda: None  # which pickle refuses
    other = pickle.loads(pickle.dumps(blocks))
    assert type(other[0]) in kinds and torch.equal(other[1](other[0](x), factor=3.0), plain)


# ---- Each process takes its own GPU


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretend that there are two GPUs, and that this process is the second of two; return the devices that are set."""
    taken: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(str(torch.device(device))))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    return taken


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_each_process_takes_the_gpu_of_its_rank(
    device: str, two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer, too, which both processes would otherwise have started on the first GPU."""
    made: dict[str, str] = {}
    monkeypatch.setattr("ablations.training.distributed._store", lambda *_: None)
    monkeypatch.setattr("ablations.training.distributed._store_of_this_start", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: made.update(backend=backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    for name, value in {"get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    with joined(device) as group:
        assert (group, two_gpus, made["backend"]) == (Group(1, 2), ["cuda:1"], "cpu:gloo,cuda:nccl")
    assert read_device(device) == torch.device("cuda:1")
    assert read_device(torch.device("cuda", 0)) == torch.device("cuda:0")


def test_a_process_without_a_gpu_of_its_own_is_refused(two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("cuda", "auto"):
        with (
            pytest.raises(RequestError, match=f"^device {device}: process 1 has no GPU; this machine has cpu, cuda:0$"),
            joined(device),
        ):
            pass


def test_alone_cuda_is_the_first_gpu_and_auto_without_gpus_the_cpu(
    two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name)
    with joined("cuda") as group:
        assert (group, two_gpus) == (ALONE, ["cuda:0"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with joined("auto") as group:
        assert (group, len(two_gpus)) == (ALONE, 1)
    with (
        pytest.raises(RequestError, match=r"^device cuda: process 0 has no GPU; this machine has cpu$"),
        joined("cuda"),
    ):
        pass


# ---- Errors of a GPU: one run fails, and the next ones have a GPU that works

# A worker trains on the device of fake_device; the run of seed 0 has too little memory, that of seed 1 loses its GPU.
ILL = """
import os, pathlib
import torch, fake_device
import ablations.training.trainer as t

def train(trainer, train=t.Trainer.train):
    with pathlib.Path(os.environ["ILL"]).open("a") as log:
        print(trainer.seed, os.getpid(), torch.fake.emptied, file=log)
    if trainer.seed == 0:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of …")
    if trainer.seed == 1:
        fake_device.broken.append("CUDA error: an illegal memory access was encountered\\nSearch for advice")
    return train(trainer)

t.Trainer.train = train
"""


def test_a_run_that_loses_the_gpu_fails_and_a_fresh_worker_trains_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: DataSet, capfd: pytest.CaptureFixture[str]
) -> None:
    root = Path(modernize.__file__).parent.parent
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nif '-P' in sys.orig_argv:\n exec({ILL!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}:{Path(__file__).parent}")
    monkeypatch.setenv("ILL", str(tmp_path / "log"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # torch takes one kind of GPU at a time
    changes = {"base": TINY, "flags": {"norm": ["ln"]}, "data": "digits", "seeds": [0, 1, 2]}
    study = load_study("sweep", changes, {"max_epochs": "0.05", "batch_size": "32"})
    session = Session(study, tmp_path / "study", tmp_path, lambda _: digits)
    run_study(session, Machine(jobs=1, threads=1, devices=("fake",)))

    small, lost, fine = (read_json(run_folder(tmp_path / "study", run) / "result.json") for run in study.runs)
    assert small["reason"] == (
        "out of memory on fake with batch_size=32: 2.50 GiB more needed; "
        "try accumulation=2, activation_checkpointing=true, a smaller batch_size or fewer runs in parallel"
    )
    assert lost["reason"] == (
        "AcceleratorError: CUDA error: an illegal memory access was encountered (CUDA_LAUNCH_BLOCKING=1 shows where)"
    )
    assert [one["status"] for one in (small, lost, fine)] == ["failed", "failed", "done"]
    seeds, workers, emptied = zip(*(line.split() for line in (tmp_path / "log").read_text().splitlines()), strict=True)
    assert (seeds, emptied) == (("0", "1", "2"), ("0", "1", "0")), "the cache is given back after each run"
    assert workers[0] == workers[1] != workers[2]
    assert "fake: this process can no longer use it, after the error of" in capfd.readouterr().out


# ---- Benchmarks and estimates


class Live:
    """Workers that only count themselves."""

    now, most = 0, 0
    prepared = (Prepared(1.0, 1.0),)

    def __init__(self, model: BenchmarkedModel, _work: object, _round_seconds: float):
        self.model = model
        Live.now += 1
        Live.most = max(Live.most, Live.now)

    def throughput(self, task: str) -> float:
        return 100.0

    def latencies(self, count: int) -> list[float]:
        return [0.01] * count

    def close(self) -> None:
        Live.now -= 1


def test_a_roadmaps_networks_are_held_one_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 17 rows of ResNet-50, compiled or not, with their reference implementations were 50 processes of a GPU."""
    measuring = sys.modules["ablations.bench.measure"]  # the package has a function of this name
    monkeypatch.setattr(measuring, "WorkerGroup", Live)
    monkeypatch.setattr(measuring, "machine_peak", lambda _: 1e3)
    for counting in (measuring, sys.modules["modernize.cost"]):
        monkeypatch.setattr(counting, "count", lambda *_: SimpleNamespace(params=1, macs=1))
    options = ("--against", "torchvision,timm", "--over", "compile=off,on", "--repeats", "1", "--format", "csv")
    for named, most in ((("--roadmap", "resnet50"), 2 * 5), (("pocket", "pocket@grn"), 4)):
        Live.now = Live.most = 0
        done = ablations_here("bench", *named, *(options if most > 4 else options[2:]))
        assert done.returncode == 0, done.stderr
        assert (Live.most, Live.now) == (most, 0)
        assert len(done.stdout.splitlines()) == 1 + (2 * (17 + 8) if most > 4 else 4)


class Fails:
    """A network that raises an error of a GPU when it is run."""

    def __init__(self, message: str):
        self.message = message

    def __call__(self, *_: Any) -> None:
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ("CUDA error: an illegal memory access was encountered", RunError, "RuntimeError: CUDA error: an illegal"),
        ("CUDA out of memory. Tried to allocate 2 GiB", RequestError, "not enough memory for a batch of 16 images"),
    ],
)
def test_a_benchmark_tells_out_of_memory_from_other_errors(
    message: str, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An illegal memory access was reported as too little memory, too."""
    ours, theirs = multiprocessing.Pipe()
    monkeypatch.setattr("ablations.bench.workers._memory_of_libraries", Fails(message))
    model = BenchmarkedModel("p", "pocket", "ours", "contiguous", Setting(threads=1))
    work_model(model, theirs, ())
    group = object.__new__(WorkerGroup)
    group.subject = model
    with pytest.raises(kind, match=f"^bench p .ours, contiguous.: {said}"):
        group._receive(ours)


def test_the_estimate_times_steps_as_the_recipe_computes_them(
    digits: DataSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[str, bool]] = []

    def watched(run: RunConfig, data: DataSet) -> torch.nn.Module:
        network = build_network(run, data)

        def note(_module: Any, inputs: Any, output: torch.Tensor) -> None:
            seen.append((str(output.dtype), output.is_contiguous(memory_format=torch.channels_last)))

        network.get_submodule("stages.0.blocks.0").register_forward_hook(note)
        return network

    monkeypatch.setattr("ablations.launch.estimate.build_network", watched)
    recipes = ["quick", "quick,precision=bf16,channels_last=false,compile=true"]
    monkeypatch.setattr("ablations.launch.estimate.STEPS", 1)
    changes = {"base": "pocket,depths=1-1,width=4", "data": "digits", "recipes": recipes, "seeds": [0]}
    study = load_study("recipes", changes, {})
    machine = Machine(jobs=1, threads=1, devices=("cpu",))
    said = describe_plan(Session(study, tmp_path / "study", tmp_path, lambda _: digits), machine)
    assert set(seen) == {("torch.float32", True), ("torch.bfloat16", False)}
    assert "(from timed training steps of quick in float32 and bf16, not compiled, in proportion to MACs)" in said
