"""A run of several processes computes, stops, fails and resumes as a run of one process does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from commands import environment
from recorder import Recorder
from together import together
from torch import nn

import modernize
from ablations.data.datasets import Split, load
from ablations.data.decode import DamagedImageError
from ablations.data.order import Order
from ablations.errors import RequestError, RunError
from ablations.recipes import TrainingConfig
from ablations.store import read_json, read_log
from ablations.studies.run import RunConfig, execute
from ablations.training.callbacks import NullCallbacks
from ablations.training.checkpoint import checkpoints
from ablations.training.distributed import ALONE, Group, _store_of_this_start
from ablations.training.sync_batchnorm import synchronize_batchnorm
from ablations.training.trainer import Trainer

LAYERNORM = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1"
BATCHNORM = "pocket,depths=1-1,width=4,stem_stride=1"


def a_trainer(
    group: Group, design: str, settings: dict[str, Any], images: int | None = None, **options: Any
) -> Trainer:
    """Make a trainer of a tiny float64 network on digits, evaluated on the first `images` images."""
    data = load("digits", Path("unused"))
    assert isinstance(data.test, Split)
    torch.manual_seed(7)
    model = modernize.build(design, num_classes=10, in_channels=1).double()
    config = TrainingConfig(**{"max_epochs": 1, "batch_size": 64, "learning_rate": 5e-3, **settings})
    test = data.test.take(torch.arange(images or len(data.test)))
    return Trainer(model, data.train, test, config, seed=3, device="cpu", group=group, **options)


# ---- the same losses


def heard_losses(group: Group, design: str, settings: dict[str, Any]) -> list[float]:
    """Return every step's loss and the evaluation's, which only rank 0 receives."""
    import ablations.training.trainer

    ablations.training.trainer.LOG_STEPS = 1
    heard = Recorder()
    trainer = a_trainer(group, design, settings, callbacks=heard)
    evaluation = trainer.train().evaluation
    losses = [line["loss"] for line in heard.lines]
    return [*losses, evaluation.loss] if losses else []


def apart(processes: int, design: str, settings: dict[str, Any]) -> float:
    """Return the maximum difference between the losses of several processes and of one."""
    first, *others = together(processes, heard_losses, design, settings)
    with patch("ablations.training.trainer.LOG_STEPS", 1):
        alone = heard_losses(ALONE, design, settings)
    assert not any(others), "another process than rank 0 wrote to the log"
    assert len(first) == len(alone) == 1438 // 64 * settings.get("max_epochs", 1) + 1
    assert len(set(alone)) == len(alone), "nothing was learnt"
    return float(np.abs(np.subtract(first, alone)).max())


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 2},
        {"accumulation": 2},
        {"clip_norm": 0.1},
        {"crop_padding": 1, "horizontal_flip": True},
        {"crop_scale": (0.3, 1.0), "horizontal_flip": True, "randaugment": 9, "image_size": 8},
        {"repeated_augmentation": 3, "crop_scale": (0.3, 1.0), "image_size": 7, "trivialaugment": True},
        {"optimizer": "sgd", "learning_rate": 0.1, "accumulation": 4, "clip_norm": 0.5, "crop_padding": 2},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_two_processes_have_the_losses_of_one_step_by_step(settings: dict[str, Any]) -> None:
    assert apart(2, LAYERNORM, settings) < 1e-9


def test_four_processes_have_the_losses_of_one() -> None:
    assert apart(4, LAYERNORM, {"crop_padding": 1, "accumulation": 2}) < 1e-9


@pytest.mark.parametrize("settings", [{}, {"crop_padding": 1, "horizontal_flip": True, "clip_norm": 0.5}])
def test_with_synchronized_batchnorm_two_processes_have_the_losses_of_one(settings: dict[str, Any]) -> None:
    assert apart(2, BATCHNORM, {**settings, "sync_batchnorm": True}) < 1e-6


def test_without_it_each_process_normalizes_its_own_images_and_the_losses_differ() -> None:
    assert apart(2, BATCHNORM, {}) > 1e-4


# ---- the same evaluation


SPLITS = (37, 1)  # images


def evaluated(group: Group, settings: dict[str, Any]) -> list[tuple[float, float, list, list]]:
    """Evaluate an untrained network on each number of images in batches of at most 7."""
    import ablations.training.evaluation

    ablations.training.evaluation.EVALUATION_BATCH_CPU = 7
    results = []
    for images in SPLITS:
        trainer = a_trainer(group, BATCHNORM, settings, images)
        found = trainer.evaluate(trainer.model)
        results.append((found.top1, found.loss, found.labels.tolist(), found.predictions.tolist()))
    return results


@pytest.mark.filterwarnings("ignore:the test set has")
@pytest.mark.parametrize("settings", [{}, {"evaluation_crop": 0.9, "image_size": 8}], ids=["in memory", "one by one"])
@pytest.mark.parametrize("processes", [2, 3])
def test_every_image_of_the_test_split_counts_once(processes: int, settings: dict[str, Any]) -> None:
    settings = {**settings, "batch_size": 66}
    found = together(processes, evaluated, settings)
    assert found == [found[0]] * processes, "the processes disagree"
    with patch("ablations.training.evaluation.EVALUATION_BATCH_CPU", 7):
        expected = evaluated(ALONE, settings)
    data = load("digits", Path("unused"))
    for images, one, alone in zip(SPLITS, found[0], expected, strict=True):
        top1, loss, labels, predictions = one
        assert labels == data.test.labels[:images].tolist()
        assert top1 == 100 * sum(map(int.__eq__, labels, predictions)) / images
        assert (top1, predictions) == (alone[0], alone[3]) and loss == pytest.approx(alone[1], abs=1e-12)


# ---- BatchNorm


def a_batchnorm(dtype: Any, **options: Any) -> nn.BatchNorm2d:
    """Make a BatchNorm whose weights and statistics are not the initial ones."""
    norm = nn.BatchNorm2d(3, **options).to(torch.from_numpy(np.empty(0, dtype)).dtype)
    with torch.no_grad():
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            if values is not None:
                values.copy_(torch.tensor([0.5, 1.5, 2.0]))
    return norm


def normalised(norm: nn.Module, images: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return a BatchNorm's outputs in two steps, and the gradients of a weighted sum."""
    share = torch.tensor(images, requires_grad=True)
    norm(share.detach() + 1)
    out = norm(share)
    (out * torch.tensor(weights)).sum().backward()
    found = {"out": out, "input": share.grad, **{name: values.grad for name, values in norm.named_parameters()}}
    found |= dict(norm.named_buffers())
    return {name: values.detach().numpy() for name, values in found.items() if values is not None}


def shared_out(
    group: Group, images: np.ndarray, weights: np.ndarray, shares: list[int], kinds: Sequence[dict[str, Any]]
) -> list[dict[str, np.ndarray]]:
    """Return the outputs of this process's SyncBatchNorm of each kind for its part of the images."""
    first = sum(shares[: group.rank])
    mine = slice(first, first + shares[group.rank])
    warnings.simplefilter("error")  # its user would see them at every run
    found = []
    for options in kinds:
        norm = synchronize_batchnorm(nn.Sequential(a_batchnorm(images.dtype, **options)), torch.device("cpu"))
        assert type(norm.get_submodule("0")) is not nn.BatchNorm2d
        found.append(normalised(norm.get_submodule("0"), images[mine], weights[mine]))
    return found


@pytest.mark.parametrize("shares", [[7, 3], [5, 1, 4]], ids=str)
def test_batchnorm_over_processes_is_batchnorm_over_the_whole_batch(shares: list[int]) -> None:
    chance = np.random.default_rng(0)
    images, weights = chance.normal(2, 3, (2, 10, 3, 4, 5))
    kinds: list[dict[str, Any]] = [{"momentum": 0.3}, {"momentum": None}]
    kinds += [{"affine": False}, {"track_running_stats": False}]
    of_kinds = zip(*together(len(shares), shared_out, images, weights, shares, kinds), strict=True)
    for options, found in zip(kinds, of_kinds, strict=True):
        whole = normalised(a_batchnorm(images.dtype, **options), images, weights)
        for name in ("out", "input"):
            np.testing.assert_allclose(np.concatenate([one[name] for one in found]), whole[name], rtol=0, atol=1e-11)
        for name in whole.keys() & {"weight", "bias"}:
            np.testing.assert_allclose(sum(one[name] for one in found), whole[name], rtol=1e-11)
        for name in whole.keys() & {"running_mean", "running_var", "num_batches_tracked"}:
            for one in found:
                np.testing.assert_allclose(one[name], whole[name], rtol=1e-12)
        assert all(one.keys() == whole.keys() for one in found), options


def test_a_mean_far_from_zero_does_not_cost_batchnorm_its_variance() -> None:
    chance = np.random.default_rng(0)
    images, weights = chance.normal(300, 0.1, (10, 3, 4, 5)), chance.normal(0, 1, (10, 3, 4, 5))
    found = [one for (one,) in together(2, shared_out, images.astype("f"), weights.astype("f"), [7, 3], [{}])]
    whole = normalised(a_batchnorm(np.float64), images.astype("f").astype("d"), weights)
    np.testing.assert_allclose(np.concatenate([one["out"] for one in found]), whole["out"], atol=1e-2)


# ---- who sends and who writes


def sent(group: Group, settings: dict[str, Any]) -> tuple[int, int]:
    """Count gradient reductions and training steps."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    trainer = a_trainer(group, LAYERNORM, settings)
    buckets: list[int] = []

    def counted(state: Any, bucket: torch.distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        buckets.append(bucket.index())
        return allreduce_hook(state, bucket)

    counted.__annotations__ = allreduce_hook.__annotations__  # types, not their names: torch looks at them
    trainer.network.register_comm_hook(None, counted)  # type: ignore[operator]
    trainer.train()
    return buckets.count(0), trainer.total_steps


@pytest.mark.parametrize("accumulation", [1, 4])
def test_gradients_are_reduced_once_per_step_for_any_accumulation(accumulation: int) -> None:
    for count, steps in together(2, sent, {"accumulation": accumulation}):
        assert count == steps == 22


class Holed:
    """Noise images; those of even index above 7 are corrupt."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index > 7 and index % 2 == 0:
            raise DamagedImageError(f"image {index}")
        return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index)), index % 3


def stepped(group: Group) -> list[float]:
    """Return the weights after an epoch with micro-batches of one image, some of them corrupt."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).double()
    config = TrainingConfig(max_epochs=1, batch_size=4, learning_rate=0.1, optimizer="sgd", max_damaged=0.9)
    config = config.model_copy(update={"accumulation": 4 // group.size})
    trainer = Trainer(model, Holed(), Holed(), config, device="cpu", group=group, callbacks=NullCallbacks())
    trainer.train()
    return [value for weights in model.parameters() for value in weights.flatten().tolist()]


def test_a_process_whose_images_are_all_corrupt_keeps_step_with_the_others() -> None:
    expected = stepped(ALONE)
    for found in together(2, stepped):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


class Short:
    """Noise images of which only the first and those with an index in `readable` can be read."""

    def __init__(self, readable: range):
        self.readable = readable

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index and index not in self.readable:
            raise DamagedImageError(f"image {index}")
        return torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index)), index % 3


def cumulative() -> nn.Module:
    """Return a network whose BatchNorm averages the statistics of all batches."""
    norm = nn.BatchNorm2d(4, momentum=None)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def normalized(group: Group, readable: range, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return two networks' weights and statistics after a step on 8 images; a second process has images 5 to 8."""
    values: dict[str, np.ndarray] = {}
    for name, make in {"pocket": lambda: modernize.build(BATCHNORM, num_classes=3), "cumulative": cumulative}.items():
        torch.manual_seed(0)
        config = TrainingConfig(
            max_epochs=1, batch_size=8, learning_rate=0.1, optimizer="sgd", max_damaged=0.9, **settings
        )
        trainer = Trainer(make().double(), Short(readable), Short(range(9)), config, device="cpu", group=group)
        trainer.epoch_order = lambda epoch: Order(torch.arange(1, 9), None)  # type: ignore[method-assign]
        trainer.train_step()
        values |= {f"{name}.{key}": value.double().numpy().copy() for key, value in trainer.model.state_dict().items()}
    return values


@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("sync", [False, True])
def test_a_process_without_readable_images_adds_nothing_to_statistics_and_gradients(missing: int, sync: bool) -> None:
    readable = (range(5, 9), range(1, 5))[missing]
    alone, before = normalized(ALONE, readable, {}), normalized(ALONE, range(0), {})
    for rank, values in enumerate(together(2, normalized, readable, {"sync_batchnorm": sync})):
        for name, value in values.items():
            unchanged = rank == missing and not sync and ("running" in name or "tracked" in name)
            np.testing.assert_allclose(value, (before if unchanged else alone)[name], rtol=0, atol=1e-12, err_msg=name)


def test_a_step_whose_images_are_all_corrupt_changes_no_statistics() -> None:
    expected = normalized(ALONE, range(0), {})
    for values in together(2, normalized, range(0), {"sync_batchnorm": True, "accumulation": 2}):
        for name, value in values.items():
            if "running" in name or "tracked" in name:
                np.testing.assert_array_equal(value, expected[name], err_msg=name)


def executed(group: Group, folder: Path, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the result of a run whose processes have separate folders."""
    from modernize.models import design

    recipe = TrainingConfig(max_epochs=1, batch_size=64, learning_rate=5e-3, checkpoint_steps=5, checkpoint_every=0.5)
    config = RunConfig(
        row="r", label="r", flags=design(LAYERNORM).flags(), recipe_name="r", recipe=recipe, data="digits", seed=0
    )
    data = replace(load("digits", Path("unused")), **(changes or {}))
    return execute(config, folder / str(group.rank), data, group=group)


def test_only_rank_0_writes(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    first, second = together(2, executed, tmp_path)
    assert first["weights_sha256"] == second["weights_sha256"] and first["top1"] == second["top1"]
    assert not list((tmp_path / "1").iterdir())
    written = {"config.yaml", "environment.json", "log.jsonl", "checkpoints", "predictions.npz", "result.json"}
    assert {path.name for path in (tmp_path / "0").iterdir()} == written
    assert read_json(tmp_path / "0/environment.json")["sessions"][0]["processes"] == 2


def trouble(group: Group, folder: Path, changes: dict[str, Any]) -> str:
    """Return this process's error for an impossible run."""
    with pytest.raises((RequestError, RunError)) as caught:
        executed(group, folder, changes)
    return str(caught.value)


@pytest.mark.parametrize("blocked", ["log.jsonl", "checkpoints", "predictions.npz", "result.json"])
def test_a_write_error_of_rank_0_is_raised_in_all_processes(tmp_path: Path, blocked: str) -> None:
    """Otherwise the other processes wait for it, and then report that it is gone."""
    (tmp_path / "0").mkdir()
    if blocked == "checkpoints":
        (tmp_path / "0" / blocked).write_text("in the way")
    else:
        (tmp_path / "0" / blocked).mkdir()
    first, second = together(2, trouble, tmp_path, {})
    assert first.startswith(f"run {tmp_path / '0'}: cannot be written (")
    assert second.partition(": ")[2] == first.partition(": ")[2]


def test_another_dataset_is_an_error_in_all_processes(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    together(2, executed, tmp_path)
    (tmp_path / "0/result.json").unlink()
    found = together(2, trouble, tmp_path, {"checksum": "another"})
    said = "was started with other data, or by a version that read it differently; restore that data, or choose another"
    assert found == [f"run {tmp_path / '0'} {said} --out"] * 2


def test_an_indivisible_batch_names_the_nearest_valid_value() -> None:
    with pytest.raises(ValueError, match=r"batch_size=64 is not divisible by 3 processes x accumulation=2; .*: 66"):
        a_trainer(Group(0, 3), LAYERNORM, {"accumulation": 2})
    a_trainer(ALONE, LAYERNORM, {"accumulation": 2})


def without_its_group(group: Group) -> str:
    """Return this process's error for a trainer without the group."""
    with pytest.raises(ValueError, match="joined") as caught:
        a_trainer(ALONE, LAYERNORM, {})
    return str(caught.value)


def test_a_trainer_without_its_group_is_refused() -> None:
    """Each process would train the whole run, on the same GPU and in the same folder."""
    for said in together(2, without_its_group):
        assert said.startswith("group: torchrun started 2 processes; make the Trainer within")


# ---- torchrun


RUN = ("--data", "digits", "--set", "image_size=16", "--set", "batch_size=32", "--threads", "1", "--device", "cpu")


def torchrun(
    processes: int, *arguments: str | Path, restarts: int = 0, options: Sequence[str] = ("--standalone",)
) -> subprocess.Popen[str]:
    """Start the command line under torchrun in its own session."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--local-addr", "127.0.0.1"]
    command += ["--max-restarts", str(restarts)]
    command += ["--nproc-per-node", str(processes), "-m", "ablations", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True)


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return out, err


def members(process: subprocess.Popen[str]) -> dict[int, int]:
    """Return the process ids of a torchrun's processes, by rank."""
    found: dict[int, int] = {}
    for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        ranks = [int(one[5:]) for one in variables if one.startswith(b"RANK=")]
        found |= {rank: int(pid) for rank in ranks}
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: list[int], seconds: float = 30) -> None:
    """Wait for processes to end; a killed one takes a moment."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def exact(folder: Path) -> tuple[Any, ...]:
    found = read_json(folder / "result.json")
    return found["top1"], found["loss"], found["weights_sha256"]


def logged(folder: Path, *keys: str) -> list[tuple[Any, ...]]:
    return [tuple(line[key] for key in keys) for line in read_log(folder)]


def sessions(folder: Path) -> list[int]:
    """The number of processes per session of a run."""
    return [session["processes"] for session in read_json(folder / "environment.json")["sessions"]]


DESIGN = "pocket@separate-downsampling,depths=1-1,width=4"
TRAIN = ("train", DESIGN, *RUN, "--set", "max_epochs=4", "--set", "crop_padding=1", "--set", "checkpoint_steps=7")


in_one_worker = pytest.mark.xdist_group("torchrun")  # which trains the uninterrupted run once


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    _, err = finish(torchrun(2, *TRAIN, "--out", folder))
    assert "ablations:" not in err
    return folder


@pytest.mark.linux
@in_one_worker
@pytest.mark.slow
def test_a_run_with_killed_processes_resumes_bit_exactly(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    kept = folder / "checkpoints"
    process = torchrun(2, *TRAIN, "--out", folder)
    until(lambda: checkpoints(kept), process)
    os.kill(members(process)[1], signal.SIGKILL)
    begun = time.monotonic()
    finish(process, 1)
    assert time.monotonic() - begun < 25, "the others waited for the one that was gone"
    at_first = checkpoints(kept)[0].name
    process = torchrun(2, *TRAIN, "--out", folder)
    until(lambda: checkpoints(kept)[0].name > at_first, process)
    pids = [*members(process).values()]
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not (folder / "result.json").exists(), "it ended before it was killed"
    gone(pids)
    finish(torchrun(2, *TRAIN, "--out", folder))
    assert exact(folder) == exact(whole)
    told = ("step", "loss", "top1", "learning_rate", "images")
    assert logged(folder, *told) == logged(whole, *told)
    assert sessions(folder) == [2, 2, 2]


@pytest.mark.linux
@in_one_worker
@pytest.mark.slow
def test_a_run_restarted_by_torchrun_resumes_bit_exactly(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    process = torchrun(2, *TRAIN, "--out", folder, restarts=1)
    until(lambda: checkpoints(folder / "checkpoints"), process)
    os.kill(members(process)[1], signal.SIGKILL)
    finish(process)
    assert exact(folder) == exact(whole) and sessions(folder) == [2, 2]


@pytest.mark.linux
@in_one_worker
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_on_two_nodes_that_torchrun_restarts_goes_on(tmp_path: Path, victim: int, whole: Path) -> None:
    """Each node's torchrun counts its own restarts: only that of the killed process counts one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={meeting}", "--rdzv-id=study")
    nodes = [torchrun(1, *TRAIN, "--out", tmp_path / "run", restarts=2, options=options) for _ in range(2)]
    try:
        until(lambda: checkpoints(tmp_path / "run/checkpoints"), nodes[0])
        (killed,) = members(nodes[victim]).values()
        os.kill(killed, signal.SIGKILL)
        for node in nodes:
            finish(node)
    finally:
        for node in nodes:
            node.kill()
    assert exact(tmp_path / "run") == exact(whole) and sessions(tmp_path / "run") == [2, 2]


def test_processes_that_start_again_meet_in_a_part_of_the_store_of_their_own() -> None:
    """torchrun's store holds what ended processes have written, whatever the order in which new ones come."""
    from torch.distributed import HashStore

    store = HashStore()

    def meet(rank: int, delay: float) -> str:
        time.sleep(delay)
        part = _store_of_this_start(store, rank, 3)
        part.set(str(rank), "here")
        assert part.get(str((rank + 1) % 3)) == b"here"  # waits for the next one
        return store.get("start/0").decode()

    names = set()
    for delays in ((0.0, 0.1, 0.2), (0.3, 0.0, 0.1), (0.0, 0.3, 0.0)):
        with ThreadPoolExecutor(3) as threads:
            (name,) = set(threads.map(meet, range(3), delays))
        names.add(name)
    assert len(names) == 3


@pytest.mark.linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_torchrun_leaves_a_checkpoint_of_the_last_step(tmp_path: Path, number: signal.Signals) -> None:
    # Two processes to prepare images each: the signal reaches them, too.
    settings = (
        "--set",
        "crop_padding=0",
        "--set",
        "crop_scale=[0.5,1.0]",
        "--set",
        "workers=2",
        "--set",
        "checkpoint_seconds=1000",
    )
    arguments = ("train", DESIGN, *RUN, *settings, "--set", "max_epochs=30", "--out", tmp_path / "run")
    process = torchrun(2, *arguments)
    until(lambda: read_log(tmp_path / "run"), process)
    pids = [*members(process).values()]
    assert len(pids) == 2
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert err.count("ablations: interrupted; rerun the command to resume") == 1, out + err
    assert len(checkpoints(tmp_path / "run/checkpoints")) == 1
    gone(pids)


@pytest.mark.slow
def test_a_run_resumes_on_another_number_of_processes(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    for attempt, processes in enumerate((2, 1, 2)):
        process = torchrun(processes, *TRAIN, "--out", folder)
        if attempt < 2:
            before = checkpoints(folder / "checkpoints")
            until(lambda before=before: checkpoints(folder / "checkpoints")[:1] > before[:1], process)  # type: ignore[misc]
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert not (folder / "result.json").exists()
        else:
            finish(process)
    assert sessions(folder) == [2, 1, 2]
    told = ("step", "steps", "images", "learning_rate")
    assert logged(folder, *told) == logged(whole, *told)
    losses, expected = (np.array(logged(place, "loss")) for place in (folder, whole))
    assert np.abs(losses - expected).max() < 1e-4
    assert read_json(folder / "result.json")["images_seen"] == read_json(whole / "result.json")["images_seen"]


def test_a_study_under_torchrun_is_trained_by_all_processes_run_after_run(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    study = ("run", "grid", "--base", DESIGN, "--flags", "norm=bn:ln", *RUN, "--set", "max_epochs=1", "--out", folder)
    out, err = finish(torchrun(2, *study))
    assert "ablations:" not in err
    runs = sorted((folder / "runs").iterdir())
    assert [run.name for run in runs] == ["norm=bn-s0", "norm=ln-s0"]
    assert [sessions(run) for run in runs] == [[2], [2]]
    assert all(read_json(run / "result.json")["status"] == "done" for run in runs)
    assert out.count("2 processes per run") == 1
    assert out.count("norm=bn-s0: top-1") == 1, "both processes spoke"
    out, _ = finish(torchrun(2, *study))
    assert "2 finished" in out and [sessions(run) for run in runs] == [[2], [2]]


@pytest.mark.parametrize(
    "arguments",
    [("train", DESIGN), ("run", "grid", "--base", DESIGN, "--flags", "norm=bn:ln")],
    ids=lambda arguments: arguments[0],
)
def test_a_batch_that_two_processes_cannot_split_is_refused_once(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    process = torchrun(2, *arguments, *RUN, "--set", "batch_size=33", "--out", tmp_path / "out")
    _, err = finish(process, 1)  # torchrun's own status; those of its processes are 2
    said = [line for line in err.splitlines() if "batch_size" in line]
    assert len(said) == 1 and said[0].startswith("ablations: batch_size=33 is not divisible by 2 processes")
    assert not (tmp_path / "out").exists()


# Rank 1 fails, and leaving the group waits for the other process, as NCCL may.
BREAKS = """
import os, time
import torch.distributed as dist
import ablations.training.trainer as trainer
dist.destroy_process_group = lambda: time.sleep(600)
if os.environ.get("RANK") == "1":
    trainer.feeds = lambda *_: 1 / 0
"""


@pytest.mark.parametrize("restarts", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_of_a_rank_is_the_runs_result_and_ends_all_processes(
    restarts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 sees only that the other process is gone. If torchrun starts all again, only the last error counts."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nif int(os.environ.get('TORCHELASTIC_RESTART_COUNT', -1)) >= 0:\n exec({BREAKS!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(modernize.__file__).parent.parent}")
    process = torchrun(2, "train", DESIGN, *RUN, "--out", tmp_path / "out", restarts=restarts)
    try:
        _, err = finish(process, 1)  # in time: no process waits for the other one
    finally:
        process.terminate()
    assert err.count("ablations: ZeroDivisionError: division by zero") == 1 + restarts
    assert err.count("ablations: rank 0: another process of the run has ended") == 1 + restarts
    assert "GLHF" not in err
    result = read_json(tmp_path / "out/result.json")
    assert result["status"] == "failed" and result["reason"] == "ZeroDivisionError: division by zero (rank 1)"
    assert "in execute" in (tmp_path / "out/traceback.txt").read_text()
    assert sessions(tmp_path / "out") == [2] * (1 + restarts)


@pytest.mark.slow
def test_a_network_that_calls_sys_exit_on_each_rank_does_not_end_torchrun_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = "import sys\nimport ablations.training.trainer as trainer\ntrainer.feeds = lambda *_: sys.exit(0)"
    (tmp_path / "sitecustomize.py").write_text(f"import os\nif 'RANK' in os.environ:\n exec({leaves!r})\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(modernize.__file__).parent.parent}")
    _, err = finish(torchrun(2, "train", DESIGN, *RUN, "--out", tmp_path / "out"), 1)
    assert err.count("SystemExit: 0 (rerun with --debug for a traceback)") == 2
    result = read_json(tmp_path / "out/result.json")
    assert result["status"] == "failed" and result["reason"].startswith("SystemExit: 0 (rank ")


@pytest.mark.parametrize("size", [1, 2])
def test_a_process_of_a_group_ends_before_python_frees_what_threads_of_torch_hold(size: int) -> None:
    """A thread that then frees a tensor aborts the process: pytorch issue 190489."""
    program = """if True:
        import atexit, sys
        from ablations.cli import main
        from ablations.training.distributed import joined
        class Held:
            def __del__(self): print("freed")
        held = Held()
        atexit.register(print, "exit handler")
        with joined("cpu"):
            pass
        sys.argv = ["ablations", "count", "no-such-design"]
        main()
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = environment() | {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=variables | one, stdout=pipe, stderr=pipe, text=True)
        for one in ranks
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out.split("\n")[:-1]) == (2, ["exit handler", "freed"][: 3 - size]), err
