"""Train one network with one recipe and one seed; a run resumes to the same bits (on a GPU if `deterministic`)."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from ablations.data.batches import Batch, MicroBatch
from ablations.data.loader import Items, MapStyle, feeds
from ablations.data.mixing import Mixing, mixing
from ablations.data.order import Order, epoch_order
from ablations.recipe_checks import Facts, doubts
from ablations.seeding import generator, seed_of
from ablations.store import append_log, cut_log
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.arguments import (
    check_batch,
    check_processes,
    check_types,
    read_device,
    read_folder,
    read_seed,
)
from ablations.training.batchnorm_statistics import recompute_statistics
from ablations.training.callbacks import Callbacks
from ablations.training.checkpoint import newest_checkpoint, read_checkpoint, weights_sha256, write_checkpoint
from ablations.training.corrupt_images import CorruptImages, DamagedDataError
from ablations.training.distributed import ALONE, Group
from ablations.training.evaluation import (
    STATISTICS_BATCH,
    DivergedError,
    Evaluation,
    count_classes,
    evaluation_batch,
    fitting_batch,
    predict,
    summarize,
)
from ablations.training.gpu_arithmetic import check_arithmetic, gpu_arithmetic
from ablations.training.mup import smallest_fan_in
from ablations.training.optimizer import (
    averaged_model,
    load_optimizer,
    make_optimizer,
    set_learning_rate,
    update_average,
)
from ablations.training.precision import Placement
from ablations.training.processor_time import ProcessorTime
from ablations.training.result import Result
from ablations.training.running_sums import RunningSums
from ablations.training.sync_batchnorm import synchronize_batchnorm, without_statistics
from ablations.training_config import TrainingConfig
from modernize.acceleration import accelerated

__all__ = ["DamagedDataError", "DivergedError", "Evaluation", "Interrupted", "Result", "Trainer"]

LOG_STEPS = 50  # training steps between lines of the log, when the loss is also checked for divergence


class Interrupted(BaseException):
    """The run was asked to stop, and has written a checkpoint."""


class Trainer:
    """Train a network on the training split, then evaluate it once on the test split.

    With a folder, the trainer stores checkpoints and a log there, and resumes from the newest checkpoint. In a run of
    several processes each process makes a Trainer, and rank 0 writes the files.

    Args:
        model: Network that maps images (N, C, H, W) to logits (N, classes).
        train_dataset: Map-style dataset of (image, label). An image is PIL, uint8 (C, H, W), or a float tensor, which
            is used unchanged.
        test_dataset: Map-style dataset to evaluate on.
        configs: Recipe.
        seed: Seed of data order, augmentation, Mixup and stochastic depth.
        folder: Existing folder for checkpoints and log. Default: store nothing.
        device: `cpu`, `cuda`, `cuda:N`, or `auto` (a GPU if there is one).
        callbacks: Follow the run, and may stop it. Default: warnings only, also about settings that make no sense.
        group: Processes of the run, from `ablations.training.distributed.joined`; required under torchrun.

    Raises:
        ValueError: If an argument is invalid, or the recipe does not fit the datasets, the network or the number of
            processes.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: MapStyle,
        test_dataset: MapStyle,
        configs: TrainingConfig,
        *,
        seed: int = 0,
        folder: Path | str | None = None,
        device: str | torch.device = "auto",
        callbacks: Callbacks | None = None,
        group: Group = ALONE,
    ):
        check_types(model, {"train_dataset": train_dataset, "test_dataset": test_dataset}, configs, callbacks, group)
        self.seed, self.folder, self.device = read_seed(seed), read_folder(folder, group), read_device(device)
        check_processes(group)
        check_batch(configs, len(train_dataset), group.size)
        check_arithmetic(self.device, configs.precision, configs.deterministic)
        for name in ("checkpoint_every", "checkpoint_steps"):
            if getattr(configs, name) is not None and folder is None:
                raise ValueError(f"{name}={getattr(configs, name):g}: needs a folder for checkpoints")
        if not len(test_dataset):
            raise ValueError("the test set has no images")
        self.config, self.group, self.callbacks = configs, group, callbacks or Callbacks()
        if callbacks is None:  # a study prints its warnings once, for all its runs
            norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
            facts = Facts(
                len(train_dataset),
                len(test_dataset),
                processes=group.size,
                batch_norm=norm,
                smallest_fan_in=smallest_fan_in(model) if configs.mup_fan_in else 0,
            )
            for warning in doubts(configs, facts):
                self.callbacks.warn(warning)
        self.model = model.to(self.device)
        if configs.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        dtype = next(self.model.parameters()).dtype
        self.placement = Placement(self.device, dtype, configs.channels_last, configs.precision)
        self.feeds = feeds(train_dataset, test_dataset, configs, self.device)
        self.averaged = averaged_model(self.model) if configs.ema_decay is not None else None
        self.network = self.prepare()
        self.optimizer = make_optimizer(self.model, configs)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=configs.precision == "fp16")
        self.steps_per_epoch = len(train_dataset) // configs.batch_size
        self.total_steps = max(round(configs.max_epochs * self.steps_per_epoch), 1)
        self.step = self.began = self.classes = 0  # classes that the model predicts: counted for Mixup and CutMix
        self.seconds, self.processor = 0.0, ProcessorTime()
        self.batches = self.prepared_batches()
        self.mix: Mixing | None = None
        self.corrupt = CorruptImages()
        self.sums = RunningSums(self.device)

    def prepare(self) -> nn.Module:
        """Apply SyncBatchNorm, activation checkpointing, torch.compile and data parallelism as the recipe asks."""
        if self.config.sync_batchnorm and self.group.size > 1:
            self.model = synchronize_batchnorm(self.model, self.device)
        if self.config.activation_checkpointing:
            recompute_blocks(self.model)
        if self.config.compile:
            torch.compiler.reset()  # the code of other networks counts against the limit of those a process compiles
            self.model.compile()
        if self.group.size == 1:
            return self.model
        return DistributedDataParallel(self.model, device_ids=[self.device] if self.device.type == "cuda" else None)

    def train(self) -> Result:
        """Train from the newest checkpoint, or from the start, to the end; then evaluate.

        Returns:
            The results, the same in all processes.

        Raises:
            DivergedError: If the loss or a weight is not finite.
            DamagedDataError: If more images are corrupt than `max_damaged` allows.
            Interrupted: If the callbacks asked to stop; a checkpoint is written first.
            OSError: If a file cannot be written.
        """
        arithmetic = gpu_arithmetic(self.device, self.config.precision, self.config.deterministic)
        exact = accelerated(self.model, *((self.averaged.module,) if self.averaged else ()))
        with arithmetic, exact, self.placement.right_gradients(self.model):
            self.resume()
            self.began = self.step
            self.train_steps()
            if self.step > self.began:  # otherwise the checkpoint has all this already
                self.recompute_batchnorm()
                if self.folder:
                    self.save(keep=1)  # if the result is lost, only the evaluation must be repeated
            return self.result()

    def train_steps(self) -> None:
        """Run the remaining training steps, with a checkpoint now and then; raise what `train` does."""
        saved = time.monotonic()
        started = saved - self.seconds
        self.processor.start()
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
            self.batches.close()  # ends the data loader's workers
            self.processor.stop()

    def recompute_batchnorm(self) -> None:
        """Recompute the BatchNorm statistics of trained and EMA weights, if the recipe asks for it."""
        if self.config.precise_bn is None:
            return
        for model in (self.model, self.averaged.module) if self.averaged else (self.model,):
            recompute_statistics(
                model,
                self.feeds.plain,
                self.config.precise_bn,
                fitting_batch(STATISTICS_BATCH, self.config.evaluation_size or self.config.image_size),
                self.placement,
                generator(self.seed, "batchnorm"),
                lambda batch: self.corrupt.add(batch, "training"),
            )
        self.check_corrupt("training", len(self.feeds.train))

    def result(self) -> Result:
        """Evaluate the trained model."""
        seen = self.total_steps * self.config.batch_size
        started = time.monotonic()
        evaluation = self.evaluate(self.model)
        evaluation_seconds = time.monotonic() - started
        averaged = self.evaluate(self.averaged.module) if self.averaged else None
        if averaged:  # an image that could be read only once is in neither
            evaluation, averaged = evaluation.on(averaged.indices), averaged.on(evaluation.indices)
        return Result(
            evaluation=evaluation,
            averaged=averaged,
            images_seen=seen,
            seconds=self.seconds,
            processor_seconds=self.processor.total(self.group),
            images_per_second=seen / self.seconds,
            evaluation_seconds=evaluation_seconds,
            weights_sha256=weights_sha256(self.model.state_dict()),
            damaged=tuple(sorted(self.corrupt.reasons.values())),
            unread={index: self.corrupt.reasons[f"test {index}"] for index in evaluation.missing},
        )

    def evaluate(self, model: nn.Module) -> Evaluation:
        """Evaluate a model on the test split; raise DivergedError or DamagedDataError as `train` does."""
        image_size = self.config.evaluation_size or self.config.image_size
        batch_size = evaluation_batch(self.device, image_size)
        note = partial(self.corrupt.add, split="test")
        predictions = predict(model, self.feeds.test, batch_size, self.placement, self.group, note)
        self.check_corrupt("test", len(self.feeds.test))
        return summarize(predictions, self.group, len(self.feeds.test))

    def check_corrupt(self, split: str, images: int) -> None:
        """Report new corrupt images; raise DamagedDataError if they are too many."""
        self.corrupt.check(split, images, self.config.max_damaged, self.group, self.callbacks)

    def is_due(self, seconds: float) -> bool:
        """Whether a checkpoint is due, `seconds` after the last one."""
        every = self.config.checkpoint_steps
        return seconds >= self.config.checkpoint_seconds or (every is not None and self.step % every == 0)

    def is_kept(self) -> bool:
        """Whether this step's checkpoint is permanent."""
        if self.config.checkpoint_every is None:
            return False
        steps = self.config.checkpoint_every * self.steps_per_epoch
        return round(self.step / steps) >= 1 and self.step == max(round(round(self.step / steps) * steps), 1)

    # ---- A training step

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Yield this process's micro-batches of each training step, from the current step on."""
        per_process = self.config.batch_size // self.group.size
        size = per_process // self.config.accumulation
        current, order = -1, Order(torch.empty(0), None)
        for step in range(self.step, self.total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, order = epoch, self.epoch_order(epoch)
            for number in range(self.config.accumulation):
                first = self.group.rank * per_process + number * size
                start = position * self.config.batch_size + first
                yield MicroBatch(epoch, position, first, *order.part(start, start + size))

    def prepared_batches(self) -> Generator[tuple[MicroBatch, Batch]]:
        """Yield each micro-batch with its images; data loader workers prepare them ahead."""
        batches = self.feeds.train.training(self.micro_batches(), self.config, self.seed)
        yield from zip(self.micro_batches(), batches, strict=True)

    def epoch_order(self, epoch: int) -> Order:
        """Return the random order of the training images in an epoch."""
        random = generator(self.seed, "order", epoch)
        return epoch_order(len(self.feeds.train), self.config.batch_size, self.config.repeated_augmentation, random)

    def train_step(self) -> None:
        """Run one training step, on a batch that depends on seed and step alone."""
        set_learning_rate(self.optimizer, self.config, self.step, self.steps_per_epoch, self.total_steps)
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
            update_average(self.averaged, self.model, self.config, self.step, self.steps_per_epoch)

    def add_gradient(self, micro_batch: MicroBatch, batch: Batch) -> None:
        """Add a micro-batch's part of the gradient of the batch's mean loss; corrupt images count as 0."""
        self.corrupt.add(batch, "training")
        if not len(batch.labels):
            self.add_zero_gradient()
            return
        images, labels = self.placement.inputs(batch)
        targets = labels
        if self.config.mixup or self.config.cutmix:
            self.classes = self.classes or count_classes(self.model, images)
            self.feeds.check_labels(batch, self.classes, self.step == self.began)
            self.mix = self.mix or mixing(self.config, self.classes, self.seed)
            images, targets = self.mix(micro_batch, images, labels)
        # seeds stochastic depth and dropout
        torch.manual_seed(seed_of(self.seed, "network", micro_batch.epoch, micro_batch.position, micro_batch.first))
        with self.placement.autocast():
            logits = self.network(images)
            self.feeds.check_labels(batch, logits.shape[1], self.step == self.began)
            losses = F.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing, reduction="none")
        # gradients are averaged over the processes, hence the factor
        loss = losses.sum() * self.group.size / self.config.batch_size
        self.scaler.scale(loss).backward()
        self.sums.add(losses.detach(), logits, labels)

    def add_zero_gradient(self) -> None:
        """Take part in the other processes' gradient sum although all of the micro-batch's images are corrupt."""
        if self.group.size == 1:
            return
        assert isinstance(self.feeds.train, Items)  # images in memory are never corrupt
        images, _ = self.placement.inputs(self.feeds.train.no_images())
        with without_statistics(self.model), torch.compiler.set_stance("force_eager"):
            with self.placement.autocast():
                loss = self.network(images).sum()
            self.scaler.scale(loss).backward()

    # ---- Log and checkpoints

    def totals(self) -> tuple[float, int, int]:
        """Return the running sums over all processes; raise DivergedError if the loss is not finite."""
        loss, correct, images = self.sums.total(self.group)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {self.step} of {self.total_steps}")
        return loss, correct, images

    def log(self) -> None:
        """Log the training steps since the last line; raise DivergedError if the loss is not finite."""
        loss, correct, images = self.totals()
        self.check_corrupt("training", len(self.feeds.train))
        line = {
            "step": self.step,
            "steps": self.total_steps,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "epochs": self.config.max_epochs,
            "images": self.step * self.config.batch_size,
            "loss": loss / images,
            "top1": 100 * correct / images,
            "learning_rate": self.optimizer.param_groups[-1]["lr"],  # the head's
            "seconds": round(self.seconds, 3),
        }
        if self.config.learning_rate_batch is not None:
            base = f"{self.config.learning_rate:g} for a batch of {self.config.learning_rate_batch} images"
            line["peak_learning_rate"] = f"{self.config.peak_learning_rate:g}, scaled from {base}"
        self.sums.set(0, 0, 0)
        self.group.by_main(lambda: self.write_line(line))

    def write_line(self, line: dict[str, Any]) -> None:
        """Append a line to the log, and pass it to the callbacks."""
        if self.folder:
            append_log(self.folder, line)
        self.callbacks.log({**line, "began": self.began})

    def save(self, keep: int = 2) -> None:
        """Write a checkpoint and keep the newest `keep`; raise DivergedError if the loss is not finite."""
        totals = self.totals()
        # rank 0 holds all processes' sums from here on, as it does in a run that resumes from this checkpoint
        self.sums.set(*(totals if self.group.main else (0, 0, 0)))
        self.corrupt.gather(self.group)
        processor_seconds = self.processor.total(self.group)
        self.group.by_main(lambda: self.write_checkpoint(keep, processor_seconds))

    def write_checkpoint(self, keep: int, processor_seconds: float | None) -> None:
        """Write the state of the run, and keep the newest `keep` checkpoints."""
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "processor_seconds": processor_seconds,
            **self.sums.state(),
            "damaged": self.corrupt.reasons,
        }
        assert self.folder
        kept_as = f"epoch-{self.step / self.steps_per_epoch:g}" if self.is_kept() else None
        write_checkpoint(self.folder / "checkpoints", self.step, state, keep, kept_as)

    def resume(self) -> None:
        """Load the newest intact checkpoint, and remove later lines from the log."""
        if self.folder is None:
            return
        folder = self.folder
        newest = newest_checkpoint(folder / "checkpoints", self.callbacks.warn) if self.group.main else None
        if self.group.size > 1:  # all read the checkpoint that rank 0 has found intact
            path = self.group.by_main(lambda: newest[0] if newest else None)
            newest = (path, read_checkpoint(path)) if path and not self.group.main else newest
        if newest:
            self.load(newest[1])
        self.group.by_main(lambda: cut_log(folder, self.step))

    def load(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self.model.load_state_dict(state["model"])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.corrupt = state["step"], state["seconds"], CorruptImages(state["damaged"])
        self.processor.load(state)
        if self.group.main:
            self.sums.set(float(state["loss_sum"]), int(state["correct"]), state["summed"])
