"""How fast networks train and answer, and what memory they need, measured side by side so that drift cancels."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ablations.errors import RequestError
from ablations.machine import give_back_memory, prepare_process
from ablations.seeding import generator, seed_of
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.trainer import PRECISIONS
from modernize.cost import count
from modernize.models import MODELS, build
from modernize.models import design as named
from modernize.reference import PREFIX, build_reference, is_reference
from modernize.weights import export_weights
from reports.bench_table import SpeedRow

PEERS = ("torchvision", "timm")
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
TURN_SECONDS = 0.5  # a turn lasts as many steps as this takes, at least one
LATENCY_GOES = 5  # answers timed one by one in a turn
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product is the machine's peak


def whole_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a whole number above 0")
    return int(text)


def on_or_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


def precision(text: str) -> str:
    if text not in PRECISIONS:
        raise ValueError(", ".join(PRECISIONS))
    return text


@dataclass(frozen=True)
class Setting:
    """How a network is run: by `jobs` processes side by side. Sizes in pixels a side, batches in images.

    Each process has so many threads, or its share of the cores where they are 0; `warmup` goes precede each turn.
    """

    device: str = "cpu"
    jobs: int = 1
    threads: int = 0
    precision: str = "float32"
    compile: bool = False
    recompute: bool = False
    batch_size: int = 16
    image_size: int = 224
    in_channels: int = 3
    num_classes: int = 1000
    warmup: int = 1

    def with_threads(self) -> Setting:
        """The same, with the number of threads found."""
        return replace(self, threads=self.threads or max(len(os.sched_getaffinity(0)) // self.jobs, 1))


# What `--over` varies, and how a value of it is read.
OVER: dict[str, Callable[[str], Any]] = {
    "batch-size": whole_number,
    "image-size": whole_number,
    "jobs": whole_number,
    "threads": whole_number,
    "recompute": on_or_off,
    "compile": on_or_off,
    "precision": precision,
}


@dataclass(frozen=True)
class Contestant:
    """A network to measure: a design or `torchvision:NAME`, built by us or by a peer, in a memory format; and how.

    `under` says in words what of its setting is varied.
    """

    name: str
    design: str
    source: str
    memory_format: str
    setting: Setting
    under: str = ""

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.name, self.under)))

    @property
    def label(self) -> str:
        return f"{self.title} ({self.source}, {self.memory_format})"


@dataclass(frozen=True)
class Measured:
    """What one contestant did. Speeds are images a second of each turn, memory MB, both of all its jobs together.

    Latencies are of one image, in ms; `peak` is the machine's in GFLOP a second, at as many threads.
    """

    contestant: Contestant
    peak: float
    params: int
    macs: int
    training: tuple[float, ...]
    inference: tuple[float, ...]
    latency: tuple[float, ...]
    training_memory: float
    inference_memory: float

    @property
    def latency_p95(self) -> float:
        return sorted(self.latency)[min(int(0.95 * len(self.latency)), len(self.latency) - 1)]


@dataclass(frozen=True)
class Bench:
    """All that was measured in one go, and on what machine."""

    machine: str
    measured: tuple[Measured, ...]

    def as_json(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def contestants(
    designs: Mapping[str, str],
    setting: Setting,
    against: Sequence[str] = (),
    memory_format: str | None = None,
    over: Mapping[str, Sequence[Any]] | None = None,
) -> list[Contestant]:
    """The designs, by the names they go by, each followed by its peers in both memory formats unless one is given.

    `over` maps fields of the setting to the values they take, all combinations of them.
    Raises RequestError for a peer that has none of them.
    """
    over = over or {}
    found = []
    for source in against:
        if not any(peer_model(design, source) for design in designs.values()):
            known, asked = ", ".join(_peer_models(source)), next(iter(designs.values()))
            raise RequestError(f"--against {source}: it has no network {asked!r}; those it has of ours: {known}")
    formats = [memory_format] if memory_format else list(FORMATS)
    for (name, design), values in itertools.product(designs.items(), itertools.product(*over.values())):
        changes = dict(zip(over, values, strict=True))
        given = replace(setting, **changes).with_threads()
        under = ", ".join(f"{field.replace('_', ' ')} {_word(value)}" for field, value in changes.items())
        for source in ("ours", *(source for source in against if peer_model(design, source))):
            for form in formats if source != "ours" else [memory_format or "channels_last"]:
                found.append(Contestant(name, design, source, form, given, under))
    return found


def _word(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def peer_model(design: str, source: str) -> str | None:
    """What a peer calls the network of a design, or of another project's name; None where it has no such network."""
    if is_reference(design):
        return None
    return next((name for name in _peer_models(source) if MODELS[name] == named(design)), None)


def _peer_models(source: str) -> tuple[str, ...]:
    """The designs that a peer has too, under the same name."""
    convnexts = ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
    return ("resnet50", *convnexts) if source == "torchvision" else ("resnet50", *convnexts, "convnext_xlarge")


def make(contestant: Contestant) -> nn.Module:
    """A contestant's network, with the weights that ours has, on the device."""
    setting = contestant.setting
    classes, channels = setting.num_classes, setting.in_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("bench"))
        if is_reference(contestant.design):
            network = build_reference(contestant.design, classes, channels, image_size=setting.image_size)
        else:
            ours = build(contestant.design, classes, channels)
            network = ours if contestant.source == "ours" else _peer(contestant, setting)
            if contestant.source != "ours":
                network.load_state_dict(export_weights(ours, contestant.source))
    network = network.to(setting.device).to(memory_format=FORMATS[contestant.memory_format])
    if setting.recompute:
        recompute_blocks(network)
    if setting.compile:
        network.compile()
    return network


def _peer(contestant: Contestant, setting: Setting) -> nn.Module:
    model = peer_model(contestant.design, contestant.source)
    if contestant.source == "torchvision":
        return build_reference(f"{PREFIX}{model}", setting.num_classes, setting.in_channels)
    import timm

    return timm.create_model(str(model), num_classes=setting.num_classes, in_chans=setting.in_channels)


class Racer:
    """A contestant ready to run: its network, its optimizer and its images."""

    def __init__(self, contestant: Contestant):
        self.setting = setting = contestant.setting
        self.network = make(contestant)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        draw = generator("bench")
        shape = (setting.batch_size, setting.in_channels, setting.image_size, setting.image_size)
        images = torch.randn(shape, generator=draw).to(setting.device)
        self.images = images.to(memory_format=FORMATS[contestant.memory_format])
        self.labels = torch.randint(setting.num_classes, shape[:1], generator=draw).to(setting.device)

    def train_step(self) -> None:
        """One step of the optimizer, loss and all."""
        self.network.train()
        self.optimizer.zero_grad()
        with self._precision():
            loss = F.cross_entropy(self.network(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def infer(self) -> None:
        """The logits of a batch."""
        self._answer(self.images)

    def answer_one(self) -> None:
        """The logits of one image."""
        self._answer(self.images[:1])

    @torch.inference_mode()
    def _answer(self, images: torch.Tensor) -> None:
        self.network.eval()
        with self._precision():
            self.network(images)

    def timed(self, work: str, times: int) -> float:
        """Seconds for so many goes of one of the above."""
        go = getattr(self, work)
        _wait(self.setting.device)
        started = time.perf_counter()
        for _ in range(times):
            go()
        _wait(self.setting.device)
        return time.perf_counter() - started

    def _precision(self) -> AbstractContextManager:
        if self.setting.precision == "float32":
            return nullcontext()
        return torch.autocast(self.setting.device.partition(":")[0], PRECISIONS[self.setting.precision])


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


# ---- contestants in processes of their own


class Team:
    """The processes of a contestant: as many as its setting has jobs. Memory is in MB, of all together."""

    def __init__(self, contestant: Contestant):
        self.contestant = contestant
        self.goes: dict[str, int] = {}
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["ablations.bench"])
        self.processes, self.pipes = [], []
        for _ in range(contestant.setting.jobs):
            pipe, theirs = context.Pipe()
            process = context.Process(target=_race, args=(contestant, theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(pipe)
        memories = [self._heard(pipe) for pipe in self.pipes]
        self.inference_memory, self.training_memory = (sum(column) for column in zip(*memories, strict=True))

    def go(self, work: str, times: int) -> list[float]:
        """Seconds for so many goes of each process, all at once, after those that are not counted."""
        return [seconds for (seconds,) in self._told(work, times, 1)]

    def latencies(self, times: int) -> list[float]:
        """Seconds for an answer to one image, so often of each process, all at once."""
        return [seconds for found in self._told("answer_one", 1, times) for seconds in found]

    def turn(self, work: str) -> float:
        """Images a second of all processes, over as many goes as fill a turn."""
        if work not in self.goes:
            self.goes[work] = max(int(TURN_SECONDS / max(self.go(work, 1))), 1)
        setting, goes = self.contestant.setting, self.goes[work]
        return setting.jobs * setting.batch_size * goes / max(self.go(work, goes))

    def close(self) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.close()
            process.join()

    def _told(self, work: str, goes: int, times: int) -> list[Any]:
        for pipe in self.pipes:
            pipe.send((work, goes, times))
        return [self._heard(pipe) for pipe in self.pipes]

    def _heard(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            size = self.contestant.setting.batch_size
            raise RequestError(
                f"bench {self.contestant.label}: not enough memory for a batch of {size}; give a smaller --batch-size"
            ) from None


def _race(contestant: Contestant, pipe: Connection) -> None:
    """A process of a team: tells its memory, then does as it is told until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, BrokenPipeError), _quiet_out_of_memory():
        prepare_process(contestant.setting.threads)
        before = _memory_of_libraries(contestant)
        racer = Racer(contestant)
        give_back_memory()
        _begin_peak(contestant.setting.device)
        racer.infer()
        inference = _peak(contestant.setting.device) - before
        _begin_peak(contestant.setting.device)
        racer.timed("train_step", 2)
        pipe.send((inference, _peak(contestant.setting.device) - before))
        while True:
            give_back_memory()  # others need it until the next turn
            work, goes, times = pipe.recv()
            racer.timed(work, contestant.setting.warmup)
            pipe.send([racer.timed(work, goes) for _ in range(times)])


@contextmanager
def _quiet_out_of_memory() -> Iterator[None]:
    """Ends the process without a traceback where memory is short; the other end sees that it is gone."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        raise SystemExit(1) from None


def _memory_of_libraries(contestant: Contestant) -> float:
    """What a process needs before it has a network: it trains a small one, which loads what libraries load."""
    least = replace(contestant.setting, batch_size=2, image_size=64, recompute=False, compile=False)
    small = Racer(replace(contestant, design="pocket", source="ours", setting=least))
    small.train_step()
    small.infer()
    del small
    give_back_memory()
    return _begin_peak(contestant.setting.device)


def _begin_peak(device: str) -> float:
    """Starts measuring anew; the memory in use now, in MB."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to what is in use
    return _kernel_says("VmRSS")


def _peak(device: str) -> float:
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _kernel_says("VmHWM")


def _kernel_says(name: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def measure(entered: Sequence[Contestant], repeats: int, say: Callable[[str], None] = lambda words: None) -> Bench:
    """Measures the contestants in turns: A B A B…, so that what slows the machine for a while slows them all.

    Raises RequestError where there is not enough memory for one of them.
    """
    with ExitStack() as stack:
        teams = []
        for contestant in entered:
            say(f"{contestant.label} is made ready")
            teams.append(Team(contestant))
            stack.callback(teams[-1].close)
        alike = {peak_key(one.setting): one.setting for one in entered}
        peaks = {key: machine_peak(setting) for key, setting in alike.items()}
        speeds: dict[str, dict[Team, list[float]]] = {}
        for work in ("train_step", "infer"):
            speeds[work] = {team: [] for team in teams}
            for turn in range(repeats):
                for team in teams:
                    speeds[work][team].append(team.turn(work))
                say(f"{work.replace('_', ' ')}: turn {turn + 1} of {repeats}")
        latencies: dict[Team, list[float]] = {team: [] for team in teams}
        for _ in range(4 * repeats):
            for team in teams:
                latencies[team] += [1e3 * seconds for seconds in team.latencies(LATENCY_GOES)]
        say("latency of one image: measured")
        peaks = {key: max(peak, machine_peak(alike[key])) for key, peak in peaks.items()}
        return Bench(
            machine_name(entered[0].setting),
            tuple(
                _measured(
                    team,
                    peaks[peak_key(team.contestant.setting)],
                    speeds["train_step"][team],
                    speeds["infer"][team],
                    latencies[team],
                )
                for team in teams
            ),
        )


def _measured(team: Team, peak: float, training: list[float], inference: list[float], latency: list[float]) -> Measured:
    contestant, setting = team.contestant, team.contestant.setting
    cost = count(contestant.design, setting.image_size, setting.in_channels, setting.num_classes)
    memories = team.training_memory, team.inference_memory
    return Measured(
        contestant, peak, cost.params, cost.macs, tuple(training), tuple(inference), tuple(latency), *memories
    )


@cache
def _peak_matrix(device: str, precision: str) -> torch.Tensor:
    size = PEAK_SIZE["cuda" if device != "cpu" else "cpu"]
    return torch.randn(size, size, generator=generator("peak")).to(device, PRECISIONS[precision])


def peak_key(setting: Setting) -> tuple[str, str, int]:
    """What the machine's peak depends on: device, precision and threads in all."""
    threads = min(setting.threads * setting.jobs, len(os.sched_getaffinity(0)))
    return setting.device, setting.precision, threads


def machine_peak(setting: Setting) -> float:
    """The best the machine does in matrix products, in GFLOP a second, at as many threads and this precision.

    The product is also asked for as a 1×1 convolution, which another library computes: on an AMD CPU twice as fast.
    """
    device, precision, threads = peak_key(setting)
    matrix = _peak_matrix(device, precision)
    size = len(matrix)
    pixels, kernels = matrix.view(1, 64, size // 64, size).permute(0, 3, 1, 2), matrix.view(size, size, 1, 1)
    torch.set_num_threads(threads)
    with torch.inference_mode():
        seconds = [
            _seconds(product, setting.device)
            for product in (lambda: torch.mm(matrix, matrix), lambda: F.conv2d(pixels, kernels))
            for _ in range(6)
        ]
    return 2 * size**3 / min(seconds) / 1e9


def _seconds(work: Callable[[], object], device: str) -> float:
    """How long a piece of work takes."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def machine_name(setting: Setting) -> str:
    """The machine in a few words."""
    if setting.device != "cpu":
        return f"{torch.cuda.get_device_name(setting.device)}, torch {torch.__version__}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"CPU ({capability}), {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"


# ---- what comes out


@dataclass(frozen=True)
class Ratio:
    """Our speed over the better of a peer's memory formats, turn by turn: the median and the turns' range."""

    label: str
    against: Contestant
    what: str
    median: float
    low: float
    high: float


def ratios(bench: Bench) -> list[Ratio]:
    """Ours against each peer, in training and inference; turns are compared with those beside them."""
    found = []
    for ours in (one for one in bench.measured if one.contestant.source == "ours"):
        name, under = ours.contestant.name, ours.contestant.under
        same = [one for one in bench.measured if (one.contestant.name, one.contestant.under) == (name, under)]
        rivals = [one for one in same if one is not ours]
        for source in dict.fromkeys(one.contestant.source for one in rivals):
            for what in ("training", "inference"):
                best = max(
                    (one for one in rivals if one.contestant.source == source),
                    key=lambda one: statistics.median(getattr(one, what)),
                )
                pairs = zip(getattr(ours, what), getattr(best, what), strict=True)
                turns = sorted(mine / theirs for mine, theirs in pairs)
                middle = statistics.median(turns)
                found.append(Ratio(ours.contestant.label, best.contestant, what, middle, turns[0], turns[-1]))
    return found


def table_rows(bench: Bench) -> list[SpeedRow]:
    """The lines of a bench's table; a peer's has how many times as fast ours is."""
    found = {(ratio.against, ratio.what): ratio for ratio in ratios(bench)}
    peers = any(one.contestant.source != "ours" for one in bench.measured)
    return [
        SpeedRow(
            label=one.contestant.label if peers else one.contestant.title,
            train_images_per_second=statistics.median(one.training),
            train_share=3 * 2 * one.macs * statistics.median(one.training) / 1e9 / one.peak,
            inference_images_per_second=statistics.median(one.inference),
            inference_share=2 * one.macs * statistics.median(one.inference) / 1e9 / one.peak,
            latency_ms=statistics.median(one.latency),
            latency_p95_ms=one.latency_p95,
            train_memory_mb=one.training_memory,
            inference_memory_mb=one.inference_memory,
            train_ratio=_ratio(found.get((one.contestant, "training"))),
            inference_ratio=_ratio(found.get((one.contestant, "inference"))),
        )
        for one in bench.measured
    ]


def _ratio(ratio: Ratio | None) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else ""


def for_study(bench: Bench) -> list[dict[str, Any]]:
    """What a study's `bench.json` keeps of its rows, so that its report shows it."""
    return [
        {
            "row": one.contestant.name,
            "batch_size": one.contestant.setting.batch_size,
            "device": one.contestant.setting.device,
            "train_images_per_second": statistics.median(one.training),
            "inference_images_per_second": statistics.median(one.inference),
            "latency_ms": statistics.median(one.latency),
            "peak_memory_mb": one.training_memory,
        }
        for one in bench.measured
    ]


def subtitle(bench: Bench, varied: Collection[str]) -> str:
    """The machine and the setting, but for what is varied."""
    one = bench.measured[0].contestant
    setting, formats = one.setting, {each.contestant.memory_format for each in bench.measured}
    jobs = f"{setting.jobs} process{'es' if setting.jobs > 1 else ''} of "
    threads = f"{setting.threads} thread{'s' if setting.threads > 1 else ''}"
    parts = {
        "jobs": "" if {"jobs", "threads"} & set(varied) else jobs + threads,
        "batch_size": f"batch {setting.batch_size}",
        "image_size": f"{setting.in_channels}×{setting.image_size}×{setting.image_size} images",
        "precision": setting.precision,
        "compile": "compiled" if setting.compile else "",
        "memory_format": one.memory_format if len(formats) == 1 else "",
        "recompute": "activation checkpointing" if setting.recompute else "",
    }
    said = [words for name, words in parts.items() if words and name not in varied]
    peaks = sorted({round(one.peak) for one in bench.measured})
    peak = f"peak {peaks[-1]:,} GFLOP/s" if len(peaks) == 1 or peaks[-1] < 1.2 * peaks[0] else ""
    return ", ".join(filter(None, [bench.machine, *said, peak]))
