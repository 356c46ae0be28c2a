"""The trainer: one network, one recipe, one seed; resumed at any step it is the run that never stopped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ablations.data.batches import Batch, Part
from ablations.data.loader import MapStyle, feeds
from ablations.data.mixing import mixing
from ablations.recipes import TrainingConfig
from ablations.seeding import generator, seed_of
from ablations.store import DamagedError, read_log, write_bytes
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.callbacks import Callbacks
from ablations.training.checkpoint import checkpoints, read_checkpoint, weights_sha256, write_checkpoint
from ablations.training.distributed import ALONE, Group, processes
from ablations.training.optimizer import learning_rate, load_optimizer, make_optimizer
from ablations.training.sync_batchnorm import synchronise_batchnorm

LOG_STEPS = 50  # between lines of the log; the loss is looked at, and a diverged run noticed, at these steps
EVALUATION_BATCH = 512
EVALUATION_PIXELS = 2**23  # at most so many in a batch: 167 images of 224 pixels a side
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


class DamagedDataError(RuntimeError):
    """More images than the recipe allows cannot be decoded."""


class Interrupted(BaseException):
    """The run was asked to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Evaluation:
    """Top-1 in percent, mean cross-entropy, and for each image that is whole its label and the class predicted."""

    top1: float
    loss: float
    predictions: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Result:
    """What a finished run measured: on the test split, with the averaged weights too if there are; and its speed."""

    evaluation: Evaluation
    averaged: Evaluation | None
    images_seen: int
    seconds: float
    images_per_second: float
    evaluation_seconds: float
    weights_sha256: str
    damaged: tuple[str, ...]


class Trainer:
    """Trains `model` on the training split and evaluates it, once, on the test split.

    The data sets are map-style: their items an image (PIL, uint8 C×H×W, or floats taken as they are) and its class.
    With a folder it keeps checkpoints and a log there and goes on from the last checkpoint; `callbacks` follow the run
    and may stop it. In a `group` of processes each makes one of these, and rank 0 alone writes: under torchrun the
    group is what `ablations.training.distributed.joined` gives, and must be given here.
    Raises ValueError where the settings do not fit the data, the model or the number of processes.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: MapStyle,
        test_dataset: MapStyle,
        configs: TrainingConfig,
        *,
        seed: int = 0,
        folder: Path | None = None,
        device: str = "auto",
        callbacks: Callbacks | None = None,
        group: Group = ALONE,
    ):
        if group.size == 1 and processes() > 1:
            raise ValueError(
                f"group: torchrun has started {processes()} processes, and each would train by itself; make it within "
                f"`with joined(device) as group`, of ablations.training.distributed, and give it that group"
            )
        check_batch(configs, len(train_dataset), group.size)
        for name in ("checkpoint_every", "checkpoint_steps"):
            if getattr(configs, name) is not None and folder is None:
                raise ValueError(f"{name}={getattr(configs, name):g}: give a folder to keep checkpoints in")
        if not len(test_dataset):
            raise ValueError("the test set has no images")
        self.config, self.seed, self.folder, self.group = configs, seed, folder, group
        self.callbacks = callbacks or Callbacks()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device)
        if configs.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.train_feed, self.test_feed = feeds(train_dataset, test_dataset, configs, self.device)
        self.averaged = self.average() if configs.ema_decay is not None else None
        self.network = self.prepare()
        self.optimizer = make_optimizer(self.model, configs)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=configs.precision == "fp16")
        self.steps_per_epoch = len(train_dataset) // configs.batch_size
        self.total_steps = max(round(configs.max_epochs * self.steps_per_epoch), 1)
        self.step = self.began = 0
        self.seconds = 0.0
        self.batches = self.prepared_parts()
        self.mix: Callable[[Part, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
        self.damaged: dict[str, str] = {}
        self.told_damaged: set[str] = set()
        self.blank: Tensor | None = None  # an image of the usual size
        # Sums since the last line of the log, on the device: looking at them at every step would stall it.
        self.loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        self.correct = torch.zeros((), device=self.device, dtype=torch.int64)
        self.summed = 0

    def average(self) -> AveragedModel:
        """The moving average of the weights and of BatchNorm's statistics."""
        assert self.config.ema_decay is not None
        averaging = get_ema_multi_avg_fn(self.config.ema_decay)
        return AveragedModel(self.model, multi_avg_fn=averaging, use_buffers=True)

    def prepare(self) -> nn.Module:
        """The model as the recipe has it run: recomputed, compiled, in a group of processes."""
        if self.config.sync_batchnorm and self.group.size > 1:
            self.model = synchronise_batchnorm(self.model, self.device)
        if self.config.activation_checkpointing:
            recompute_blocks(self.model)
        if self.config.compile:
            self.model.compile()
        if self.group.size == 1:
            return self.model
        return DistributedDataParallel(self.model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def train(self) -> Result:
        """Trains from the last checkpoint, or the start, to the end.

        Raises DivergedError, DamagedDataError, Interrupted or OSError.
        """
        self.resume()
        self.began = self.step
        saved = time.monotonic()
        started = saved - self.seconds
        try:
            while self.step < self.total_steps:
                self.train_step()
                self.step += 1
                self.seconds = time.monotonic() - started
                if self.step % LOG_STEPS == 0 or self.step == self.total_steps:
                    self.log()
                if self.step == self.total_steps:
                    break
                stopping, due = self.group.any(self.callbacks.stopping(), self.is_due(time.monotonic() - saved))
                if self.folder and (stopping or due or self.is_kept()):
                    self.save()
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted
        finally:
            self.batches.close()  # and with it the workers that prepare images
        if self.folder and self.step > self.began:
            self.save(keep=1)  # should the result be lost, there is only the evaluation to do again
        return self.result()

    def result(self) -> Result:
        """The trained model, evaluated."""
        seen = self.total_steps * self.config.batch_size
        started = time.monotonic()
        evaluation = self.evaluate(self.model)
        evaluation_seconds = time.monotonic() - started
        return Result(
            evaluation=evaluation,
            averaged=self.evaluate(self.averaged.module) if self.averaged else None,
            images_seen=seen,
            seconds=self.seconds,
            images_per_second=seen / self.seconds,
            evaluation_seconds=evaluation_seconds,
            weights_sha256=weights_sha256(self.model.state_dict()),
            damaged=tuple(sorted(self.damaged.values())),
        )

    def is_due(self, seconds: float) -> bool:
        """Whether a checkpoint is, so many seconds after the last."""
        every = self.config.checkpoint_steps
        return seconds >= self.config.checkpoint_seconds or (every is not None and self.step % every == 0)

    def is_kept(self) -> bool:
        """Whether the checkpoint of this step is kept for good."""
        if self.config.checkpoint_every is None:
            return False
        steps = self.config.checkpoint_every * self.steps_per_epoch
        return round(self.step / steps) >= 1 and self.step == max(round(round(self.step / steps) * steps), 1)

    # ---- a step

    def parts(self) -> Iterator[Part]:
        """From this step on: what this process takes in at once, of each step's batch."""
        share = self.config.batch_size // self.group.size
        size = share // self.config.accumulation
        begun, order = -1, torch.empty(0)
        for step in range(self.step, self.total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != begun:
                begun, order = epoch, self.epoch_order(epoch)
            indices = order[position * self.config.batch_size :]
            for number in range(self.config.accumulation):
                first = self.group.rank * share + number * size
                yield Part(epoch, position, first, indices[first : first + size])

    def prepared_parts(self) -> Generator[tuple[Part, Batch]]:
        """The parts, each with its batch; images are prepared ahead where there are workers to do it."""
        yield from zip(self.parts(), self.train_feed.training(self.parts(), self.config, self.seed), strict=True)

    def epoch_order(self, epoch: int) -> Tensor:
        """The order in which an epoch goes through the training set."""
        return torch.randperm(len(self.train_feed), generator=generator(self.seed, "order", epoch))

    def train_step(self) -> None:
        """One step of the optimizer, on a batch that seed and step alone determine."""
        rate = learning_rate(self.config, self.step, self.steps_per_epoch, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        for number in range(self.config.accumulation):
            last = number == self.config.accumulation - 1
            with nullcontext() if last or self.group.size == 1 else self.network.no_sync():  # type: ignore[operator]
                self.add_gradient(*next(self.batches))
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged:
            self.averaged.update_parameters(self.model)

    def add_gradient(self, part: Part, batch: Batch) -> None:
        """Adds a part's share of the gradient of the batch's mean loss; a damaged image adds nothing."""
        self.note_damaged(batch, "training")
        if not len(batch.labels):
            self.add_nothing()
            return
        images, labels = self.on_device(batch)
        targets = labels
        if self.config.mixup or self.config.cutmix:
            self.mix = self.mix or mixing(self.config, self.classes(images), self.seed)
            images, targets = self.mix(part, images, labels)
        # stochastic depth, and anyone's dropout
        torch.manual_seed(seed_of(self.seed, "network", part.epoch, part.position, part.first))
        with self.precision():
            logits = self.network(images)
            losses = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing, reduction="none")
        # the gradients of the processes are averaged
        loss = losses.sum() * self.group.size / self.config.batch_size
        self.scaler.scale(loss).backward()
        with torch.no_grad():
            self.loss_sum += losses.detach().double().sum()
            self.correct += (logits.argmax(1) == labels).sum()
            self.summed += len(labels)

    def add_nothing(self) -> None:
        """Goes through a step with the other processes, which wait for it, where a whole part is damaged."""
        if self.group.size == 1:
            return
        if self.blank is None:
            raise RuntimeError(
                "the images that a process took in first are all damaged: of what size they are is unknown"
            )
        with self.precision():
            loss = self.network(self.blank).sum() * 0
        self.scaler.scale(loss).backward()

    def on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """A batch's images, in the type of the weights, and its labels."""
        images = batch.images.to(self.device, next(self.model.parameters()).dtype, non_blocking=True)
        if self.config.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        self.blank = torch.zeros_like(images[:1]) if self.blank is None else self.blank
        return images, batch.labels.to(self.device, non_blocking=True)

    def precision(self) -> AbstractContextManager:
        """What the forward pass computes in."""
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.config.precision])

    @torch.inference_mode()
    def classes(self, images: Tensor) -> int:
        """How many classes the model tells apart."""
        self.model.eval()
        classes = self.model.forward(images[:1]).shape[
            1
        ]  # past torch.compile, which would take a batch of one as usual
        self.model.train()
        return classes

    # ---- damaged images

    def note_damaged(self, batch: Batch, split: str) -> None:
        for one in batch.damaged:
            self.damaged.setdefault(f"{split} {one.index}", one.reason)

    def gather_damaged(self) -> None:
        """Brings together what all processes found."""
        for found in self.group.gathered(dict(self.damaged)):
            self.damaged |= found

    def check_damaged(self, split: str, images: int) -> None:
        """Names what all processes found, and raises DamagedDataError where it is too much."""
        self.gather_damaged()
        for key in sorted(self.damaged.keys() - self.told_damaged):
            self.callbacks.warn(f"a damaged image is skipped: {self.damaged[key]}")
        self.told_damaged |= self.damaged.keys()
        found = [reason for key, reason in sorted(self.damaged.items()) if key.startswith(split)]
        if len(found) > self.config.max_damaged * images:
            raise DamagedDataError(
                f"{len(found)} of {images} {split} images are damaged, more than "
                f"max_damaged={self.config.max_damaged:g}, such as {found[0]}"
            )

    # ---- the log and checkpoints

    def totals(self) -> tuple[float, int, int]:
        """Loss, right answers and images since the last line of the log, over all processes."""
        sums = torch.stack(
            [self.loss_sum, self.correct.double(), torch.tensor(self.summed, device=self.device).double()]
        )
        loss, correct, summed = self.group.total(sums).tolist()
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {self.step} of {self.total_steps}")
        return loss, int(correct), int(summed)

    def log(self) -> None:
        """Logs the last steps; raises DivergedError where the loss is not finite."""
        loss, correct, summed = self.totals()
        self.check_damaged("training", len(self.train_feed))
        line = {
            "step": self.step,
            "steps": self.total_steps,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "epochs": self.config.max_epochs,
            "images": self.step * self.config.batch_size,
            "loss": loss / summed,
            "top1": 100 * correct / summed,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.seconds, 3),
        }
        if self.config.learning_rate_batch is not None:
            given = f"{self.config.learning_rate:g} at {self.config.learning_rate_batch} images a step"
            line["peak_learning_rate"] = f"{self.config.peak_learning_rate:g}, from {given}"
        self.loss_sum.zero_()
        self.correct.zero_()
        self.summed = 0
        self.group.by_main(lambda: self.write_line(line))

    def write_line(self, line: dict[str, Any]) -> None:
        """Writes a line of the log, and reports it."""
        if self.folder:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.callbacks.log({**line, "began": self.began})

    def save(self, keep: int = 2) -> None:
        """Writes a checkpoint, keeping the last `keep`; raises DivergedError where weights are not numbers."""
        loss, correct, summed = self.totals()
        # All processes' sums are now rank 0's, here as in a run that goes on from this checkpoint.
        self.loss_sum.fill_(loss if self.group.main else 0)
        self.correct.fill_(correct if self.group.main else 0)
        self.summed = summed if self.group.main else 0
        self.gather_damaged()
        self.group.by_main(lambda: self.write_checkpoint(keep))

    def write_checkpoint(self, keep: int) -> None:
        """Writes where the run stands, keeping the last `keep` checkpoints."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "summed": self.summed,
            "damaged": self.damaged,
        }
        assert self.folder
        kept_as = f"epoch-{self.step / self.steps_per_epoch:g}" if self.is_kept() else None
        write_checkpoint(self.folder / "checkpoints", self.step, state, keep, kept_as)

    def resume(self) -> None:
        """Takes up the newest whole checkpoint, saying which are damaged, and cuts the log back to it."""
        if not self.folder:
            return
        state = self.newest() if self.group.main else None
        if self.group.size > 1:  # all read what rank 0 has found whole
            path = self.group.by_main(lambda: state[0] if state else None)
            state = (path, read_checkpoint(path)) if path and not self.group.main else state
        if state:
            self.take_up(state[1])
        self.group.by_main(self.cut_log)

    def cut_log(self) -> None:
        """Leaves out the lines of the log that come after the step the run goes on from."""
        assert self.folder
        kept = [json.dumps(line) for line in read_log(self.folder) if line["step"] <= self.step]
        write_bytes(self.folder / "log.jsonl", "".join(f"{line}\n" for line in kept).encode())

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint; damaged ones are said and removed."""
        assert self.folder
        found = checkpoints(self.folder / "checkpoints")
        for path in found:
            try:
                return path, read_checkpoint(path)
            except DamagedError as error:
                self.callbacks.warn(
                    f"{error}; {'the run starts anew' if path == found[-1] else 'the one before is used'}"
                )
                path.unlink(missing_ok=True)
        return None

    def take_up(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.damaged = state["step"], state["seconds"], state["damaged"]
        if self.group.main:
            self.loss_sum, self.correct = state["loss_sum"].to(self.device), state["correct"].to(self.device)
            self.summed = state["summed"]

    # ---- evaluation

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> Evaluation:
        """Top-1 and cross-entropy over the test split, each image counted once, whatever the number of processes."""
        if self.group.size > 1:  # BatchNorm's statistics are each process's own
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        model.eval()
        mine = torch.arange(len(self.test_feed))[self.group.rank :: self.group.size]
        found: list[tuple[Tensor, ...]] = []
        for batch in self.test_feed.evaluation(mine, self.evaluation_batch()):
            self.note_damaged(batch, "test")
            if not len(batch.labels):
                continue
            images, labels = self.on_device(batch)
            with self.precision():
                logits = model(images)
                losses = F.cross_entropy(logits, labels, reduction="none")
            found.append((batch.indices, labels.cpu(), logits.argmax(1).cpu(), losses.double().cpu()))
        self.check_damaged("test", len(self.test_feed))
        parts = [part for parts in self.group.gathered(found) for part in parts]
        indices, labels, predicted, losses = (torch.cat(column) for column in zip(*parts, strict=True))
        order = indices.argsort()
        labels, predicted, losses = labels[order], predicted[order], losses[order]
        mean_loss = losses.mean().item()
        if not math.isfinite(mean_loss):
            raise DivergedError(f"the loss on the test split is {mean_loss}")
        return Evaluation(100 * int((predicted == labels).sum()) / len(labels), mean_loss, predicted, labels)

    def evaluation_batch(self) -> int:
        """Images to evaluate at once; there must be room for them."""
        size = self.config.image_size or 1
        return max(min(EVALUATION_BATCH, EVALUATION_PIXELS // size**2), 1)


def check_batch(config: TrainingConfig, images: int, processes: int) -> None:
    """Raises ValueError where a step's batch is larger than the training set or cannot be shared out evenly."""
    if config.batch_size > images:
        raise ValueError(
            f"batch_size={config.batch_size}: the training set has {images} images; "
            f"the nearest value that works is {images}"
        )
    parts = processes * config.accumulation
    if config.batch_size % parts:
        whole = max(round(config.batch_size / parts), 1) * parts
        raise ValueError(
            f"batch_size={config.batch_size}: it cannot be shared out evenly over {processes} processes and "
            f"accumulation={config.accumulation}; the nearest value that works is {whole}"
        )
