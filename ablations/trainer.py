"""The trainer: one network, one recipe, one seed; resumed at any step it is the run that never stopped."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablations import store
from ablations.augment import Batches, mean_and_std
from ablations.chance import generator, seed_of
from ablations.data import Split
from ablations.optimizer import learning_rate, make_optimizer
from ablations.recipes import TrainingConfig

LOG_STEPS = 50  # between lines of the log; the loss is looked at, and a diverged run noticed, at these steps
EVALUATION_BATCH = 512


class DivergedError(RuntimeError):
    """The loss is no longer a finite number."""


class Interrupted(BaseException):
    """The run was asked to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Evaluation:
    """Top-1 in percent, mean cross-entropy, and the class predicted for each image."""

    top1: float
    loss: float
    predictions: Tensor


@dataclass(frozen=True)
class Result:
    """What a finished run measured: on the test split, and of training's own speed."""

    evaluation: Evaluation
    images_seen: int
    seconds: float
    images_per_second: float
    weights_sha256: str


class Trainer:
    """Trains `model` on the training split and evaluates it, once, on the test split.

    With a folder it keeps checkpoints and a log there and goes on from the last checkpoint; `report` is called with
    each line of the log, `say` with what a user should know; `stopping` is asked after every step whether to write a
    checkpoint and raise Interrupted.
    """

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Split,
        test_dataset: Split,
        configs: TrainingConfig,
        seed: int = 0,
        folder: Path | None = None,
        device: str = "cpu",
        report: Callable[[dict[str, Any]], None] = lambda line: None,
        stopping: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = warnings.warn,
    ):
        if configs.batch_size > len(train_dataset):
            raise ValueError(
                f"batch_size={configs.batch_size}: the training set has {len(train_dataset)} images; "
                f"the nearest value that works is {len(train_dataset)}"
            )
        self.config, self.seed, self.folder = configs, seed, folder
        self.report, self.stopping, self.say = report, stopping, say
        self.device = torch.device(device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model, configs)
        mean, std = mean_and_std(train_dataset)
        self.train_batches = Batches(train_dataset, mean, std, self.device, configs.crop_padding)
        self.test_batches = Batches(test_dataset, mean, std, self.device)
        self.steps_per_epoch = len(train_dataset) // configs.batch_size
        self.total_steps = max(round(configs.max_epochs * self.steps_per_epoch), 1)
        self.step = self.began = 0
        self.seconds = 0.0
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        # Sums since the last line of the log, on the device: looking at them at every step would stall it.
        self.loss_sum = torch.zeros((), device=self.device)
        self.correct = torch.zeros((), device=self.device, dtype=torch.int64)
        self.summed = 0

    def train(self) -> Result:
        """Trains from the last checkpoint, or the start, to the end. Raises DivergedError, Interrupted or OSError."""
        self.resume()
        self.began = self.step
        saved = time.monotonic()
        started = saved - self.seconds
        while self.step < self.total_steps:
            self.train_step()
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % LOG_STEPS == 0 or self.step == self.total_steps:
                self.log()
            if self.step == self.total_steps:
                break
            stopping = self.stopping()
            due = time.monotonic() - saved >= self.config.checkpoint_seconds
            due = due or (self.config.checkpoint_steps is not None and self.step % self.config.checkpoint_steps == 0)
            if self.folder and (stopping or due):
                self.save()
                saved = time.monotonic()
            if stopping:
                raise Interrupted
        if self.folder and self.step > self.began:
            self.save(keep=1)  # should the result be lost, there is only the evaluation to do again
        seen = self.total_steps * self.config.batch_size
        return Result(
            evaluation=self.evaluate(),
            images_seen=seen,
            seconds=self.seconds,
            images_per_second=seen / self.seconds,
            weights_sha256=store.weights_sha256(self.model.state_dict()),
        )

    def train_step(self) -> None:
        """One step of the optimizer, on a batch that seed and step alone determine."""
        epoch, position = divmod(self.step, self.steps_per_epoch)
        indices = self.epoch_order(epoch)[position * self.config.batch_size :][: self.config.batch_size]
        chance = generator(self.seed, "augment", epoch, position)
        torch.manual_seed(seed_of(self.seed, "network", epoch, position))  # stochastic depth, and anyone's dropout
        images, labels = self.train_batches.augmented(indices, self.config.horizontal_flip, chance)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step, self.steps_per_epoch, self.total_steps)
        self.model.train()
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.loss_sum += loss.detach() * len(labels)
            self.correct += (logits.argmax(1) == labels).sum()
            self.summed += len(labels)

    def epoch_order(self, epoch: int) -> Tensor:
        """The order in which an epoch goes through the training set."""
        if self.order[0] != epoch:
            self.order = epoch, torch.randperm(len(self.train_batches), generator=generator(self.seed, "order", epoch))
        return self.order[1]

    def log(self) -> None:
        """Writes a line of the log and reports it; raises DivergedError where the loss is not finite."""
        loss = self.loss_sum.item() / self.summed
        line = {
            "step": self.step,
            "steps": self.total_steps,
            "epoch": round(self.step / self.steps_per_epoch, 4),
            "epochs": self.config.max_epochs,
            "images": self.step * self.config.batch_size,
            "loss": loss,
            "top1": 100 * self.correct.item() / self.summed,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.seconds, 3),
        }
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {self.step} of {self.total_steps}")
        self.loss_sum.zero_()
        self.correct.zero_()
        self.summed = 0
        if self.folder:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.report({**line, "began": self.began})

    def save(self, keep: int = 2) -> None:
        """Writes a checkpoint, keeping the last `keep`; raises DivergedError where weights are not numbers."""
        assert self.folder
        if not math.isfinite(self.loss_sum.item()):
            raise DivergedError(f"the loss is {self.loss_sum.item()} at step {self.step} of {self.total_steps}")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "summed": self.summed,
        }
        store.write_checkpoint(self.folder / "checkpoints", self.step, state, keep)

    def resume(self) -> None:
        """Takes up the newest whole checkpoint, saying which are damaged, and cuts the log back to it."""
        if not self.folder:
            return
        found = store.checkpoints(self.folder / "checkpoints")
        for path in found:
            try:
                state = store.read_checkpoint(path)
            except store.DamagedError as error:
                self.say(f"{error}; {'the run starts anew' if path == found[-1] else 'the one before is used'}")
                path.unlink(missing_ok=True)
                continue
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.summed = state["step"], state["seconds"], state["summed"]
            self.loss_sum, self.correct = state["loss_sum"].to(self.device), state["correct"].to(self.device)
            break
        kept = [json.dumps(line) for line in read_log(self.folder) if line["step"] <= self.step]
        store.write_bytes(self.folder / "log.jsonl", "".join(f"{line}\n" for line in kept).encode())

    @torch.inference_mode()
    def evaluate(self) -> Evaluation:
        """Top-1 and cross-entropy over the test split, each image counted once."""
        self.model.eval()
        predictions, loss = [], torch.zeros((), dtype=torch.float64)
        for indices in torch.arange(len(self.test_batches)).split(EVALUATION_BATCH):
            images, labels = self.test_batches.plain(indices.to(self.device))
            logits = self.model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum").double().cpu()
            predictions.append(logits.argmax(1))
        predicted = torch.cat(predictions)
        correct = int((predicted == self.test_batches.labels).sum())
        mean_loss = loss.item() / len(predicted)
        if not math.isfinite(mean_loss):
            raise DivergedError(f"the loss on the test split is {mean_loss}")
        return Evaluation(100 * correct / len(predicted), mean_loss, predicted.cpu())


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; a last line cut short, as a kill leaves it, is left out."""
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for written in text.splitlines():
        try:
            line = json.loads(written)
        except ValueError:
            break
        if not isinstance(line, dict) or "step" not in line:
            break
        lines.append(line)
    return lines
