"""Write a folder of JPEGs of the size of ImageNet's, in classes: `python tests/gpu_pictures.py FOLDER [IMAGES]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES, SIZE = 10, (500, 375)


def main(folder: str, images: str = "2000") -> None:
    """Write `images` pictures of smooth noise to train on, and a tenth of that to evaluate on."""
    random = np.random.default_rng(0)
    for split, count in {"train": int(images), "val": max(int(images) // 10, CLASSES)}.items():
        for index in range(count):
            place = Path(folder) / split / f"class{index % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(place / f"{index:05}.jpg", quality=90)


if __name__ == "__main__":
    main(*sys.argv[1:])
