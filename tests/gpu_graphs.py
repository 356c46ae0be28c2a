"""Print the images/s of the pocket roadmap's first and last networks on a GPU: eager, compiled, and as CUDA graphs."""

from __future__ import annotations

import statistics
import sys
from functools import partial

from ablations.bench import BenchmarkedModel, ModelRunner, Setting
from ablations.training.gpu_arithmetic import gpu_arithmetic

WAYS = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}  # torch.compile's mode
STEPS, ROUNDS = 50, 5


def images_per_second(design: str, mode: str | None, device: str) -> float:
    """Return the median training throughput of rounds of steps."""
    setting = Setting(device=device, threads=4, precision="bf16", batch_size=128, image_size=32, in_channels=1)
    runner = ModelRunner(BenchmarkedModel(design, design, "ours", "channels_last", setting))
    if mode is not None:
        runner.network.compile(mode=mode)
    runner.time("train_step", 5)
    return statistics.median(STEPS * setting.batch_size / runner.time("train_step", STEPS) for _ in range(ROUNDS))


def main(device: str = "cuda:0") -> None:
    """Print one line per network."""
    print(f"{'network':<30}", *(f"{way:>12}" for way in WAYS))
    for design in ("pocket", "pocket@separate-downsampling"):
        measure = partial(images_per_second, design, device=device)
        with gpu_arithmetic(device, "bf16"):
            print(f"{design:<30}", *(f"{measure(mode=mode):12,.0f}" for mode in WAYS.values()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
