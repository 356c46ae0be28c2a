"""Trains a row of the pocket roadmap as one does without this project: the benchmark's yardstick.

plain_script.py ROW DATA_DIR SCRATCH IMAGES prints images a second, past the first ten steps.
"""

from __future__ import annotations

import gzip
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision import transforms as T

import modernize

row, data_dir, scratch, images = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])

raw = scratch / "FashionMNIST" / "raw"
raw.mkdir(parents=True, exist_ok=True)
for path in data_dir.rglob("*ubyte.gz"):
    (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))

transform = T.Compose(
    [
        T.Resize(32),
        T.RandomCrop(32, padding=2),
        T.RandomHorizontalFlip(),
        T.ToTensor(),
        T.Normalize((0.286,), (0.353,)),
    ]
)
dataset = datasets.FashionMNIST(str(scratch), train=True, transform=transform)
loader = DataLoader(dataset, batch_size=128, shuffle=True, num_workers=2, drop_last=True)

model = modernize.build(f"pocket@{row}", 10, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

model.train()
running, steps, started = 0.0, 0, 0.0
for batch, labels in loader:
    optimizer.zero_grad()
    loss = criterion(model(batch), labels)
    loss.backward()
    optimizer.step()
    running += loss.item()
    steps += 1
    if steps == 10:
        started = time.perf_counter()
    if (steps - 10) * 128 >= images:
        break
print((steps - 10) * 128 / (time.perf_counter() - started))
