"""Training loops as one writes them without this project: what `ablations loops` compares the Trainer with.

Each takes a network, a training set in memory and a recipe, trains for the recipe's epochs, and yields after each
training step. They have what `PLAIN` names of a recipe, and none of the Trainer's checkpoints, logs and repeatable
random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.transforms.functional import to_pil_image

from ablations.data.batches import mean_and_std
from ablations.data.splits import Split
from ablations.machine import usable_cores
from ablations.training.precision import autocast
from ablations.training_config import TrainingConfig

Loop = Callable[[nn.Module, Split, TrainingConfig], Iterator[None]]

# What the loops below take from a recipe, or what does not change a training step; they lack every other setting.
PLAIN = frozenset(
    (
        *("max_epochs", "batch_size", "optimizer", "learning_rate", "learning_rate_batch", "momentum", "betas"),
        *("weight_decay", "no_weight_decay", "warmup_epochs", "label_smoothing", "image_size", "interpolation"),
        *("crop_padding", "horizontal_flip", "drop_path_rate", "init", "head_init_scale", "precision", "channels_last"),
        *("compile", "workers", "precise_bn", "max_damaged", "zero_init_residual"),
        *("checkpoint_seconds", "checkpoint_steps", "checkpoint_every"),
    )
)


def tensor_loop(network: nn.Module, train: Split, recipe: TrainingConfig) -> Iterator[None]:
    """Train on one uint8 tensor of all images, which is cropped, flipped and normalized batch by batch."""
    device, pad, size = next(network.parameters()).device, recipe.crop_padding, train.images.shape[1]
    images = F.pad(train.images.permute(0, 3, 1, 2), (pad,) * 4).to(device)
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (N, C, top, left, H, W): all crops, as a view
    labels = train.labels.to(device)
    mean, std = (values.to(device).view(-1, 1, 1) for values in mean_and_std(train))
    count = recipe.batch_size
    step = training_step(network, recipe, len(labels) // count, fused=True)
    for epoch_steps in epochs(recipe, len(labels) // count):
        order = torch.randperm(len(labels), device=device)
        for chosen in order.split(count)[:epoch_steps]:
            top, left = torch.randint(2 * pad + 1, (2, count), device=device)
            batch = windows[chosen, :, top, left]
            if recipe.horizontal_flip:
                flipped = torch.rand(count, 1, 1, 1, device=device) < 0.5
                batch = torch.where(flipped, batch.flip(3), batch)
            step((batch - mean) / std, labels[chosen])
            yield


class Pictures(Dataset):
    """Images in memory as torchvision's datasets give them: pictures of Pillow, transformed when they are read."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor]):
        self.images, self.labels, self.transform = split.images.numpy(), split.labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(to_pil_image(self.images[index])), self.labels[index]


def loader_workers(recipe: TrainingConfig, jobs: int = 1) -> int:
    """Return the number of worker processes of a DataLoader; `jobs` processes share the cores."""
    return max(usable_cores() // jobs, 1) if recipe.workers is None else recipe.workers


def dataloader_loop(network: nn.Module, train: Split, recipe: TrainingConfig) -> Iterator[None]:
    """Train on torch's DataLoader, whose worker processes transform image by image with torchvision's transforms."""
    device, size = next(network.parameters()).device, recipe.image_size or train.images.shape[1]
    mean, std = (tuple((values / 255).tolist()) for values in mean_and_std(train))
    steps = [
        *([T.Resize(size, T.InterpolationMode(recipe.interpolation))] if size != train.images.shape[1] else []),
        T.RandomCrop(size, padding=recipe.crop_padding),
        *([T.RandomHorizontalFlip()] if recipe.horizontal_flip else []),
        T.ToTensor(),
        T.Normalize(mean, std),
    ]
    workers = loader_workers(recipe)
    loader = DataLoader(
        Pictures(train, T.Compose(steps)),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    step, total = training_step(network, recipe, len(loader), fused=False), 0.0
    for epoch_steps in epochs(recipe, len(loader)):
        for images, labels in islice(loader, epoch_steps):
            loss = step(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
            total += loss.item()  # the running loss that most loops print
            yield


def epochs(recipe: TrainingConfig, steps_per_epoch: int) -> Iterator[int]:
    """Yield the number of training steps of each epoch; the last may be a part of one."""
    left = max(round(recipe.max_epochs * steps_per_epoch), 1)
    while left:
        steps = min(left, steps_per_epoch)
        yield steps
        left -= steps


def training_step(
    network: nn.Module, recipe: TrainingConfig, steps_per_epoch: int, fused: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function that trains on a batch of normalized images and labels, and returns the loss."""
    optimizer = make_optimizer(network, recipe, fused)
    steps = max(round(recipe.max_epochs * steps_per_epoch), 1)
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), steps - 1)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    device = next(network.parameters()).device.type
    network.train()

    def step(images: Tensor, labels: Tensor) -> Tensor:
        if recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with autocast(device, recipe.precision):
            loss = F.cross_entropy(network(images), labels, label_smoothing=recipe.label_smoothing)
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.detach()

    return step


def make_optimizer(network: nn.Module, recipe: TrainingConfig, fused: bool) -> torch.optim.Optimizer:
    """Make the recipe's optimizer, of all weights alike unless biases and norms do not decay."""
    exempt = recipe.no_weight_decay != "nothing"
    undecayed = [weights for weights in network.parameters() if exempt and weights.ndim < 2]
    decayed = [weights for weights in network.parameters() if not (exempt and weights.ndim < 2)]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": undecayed, "weight_decay": 0.0}]
    rate = recipe.peak_learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, momentum=recipe.momentum or 0.0, fused=fused)
    return torch.optim.AdamW(groups, rate, betas=recipe.betas or (0.9, 0.999), fused=fused)


LOOPS: dict[str, Loop] = {"tensor": tensor_loop, "dataloader": dataloader_loop}
