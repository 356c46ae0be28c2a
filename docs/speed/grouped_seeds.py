"""Several seeds of a network as one network with grouped convolutions: time and bits against one after the other.

python docs/speed/grouped_seeds.py prints a line per convolution of the pocket networks: forward and backward pass,
on one thread, by processor time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d

BATCH, ROUNDS, REPEATS = 128, 3, 5
CONVOLUTIONS = {  # channels in and out, kernel size, groups, image size
    "3×3, 12 → 12, 16 px": (12, 12, 3, 1, 16),
    "1×1, 18 → 72, 16 px": (18, 72, 1, 1, 16),
    "1×1, 72 → 18, 16 px": (72, 18, 1, 1, 16),
    "1×1, 36 → 144, 8 px": (36, 144, 1, 1, 8),
    "depthwise 3×3, 18, 16 px": (18, 18, 3, 18, 16),
    "depthwise 7×7, 18, 16 px": (18, 18, 7, 18, 16),
}


def step(x: Tensor, weight: Tensor, gradient: Tensor, groups: int) -> list[Tensor]:
    """Return the output (N, C, H, W), and the gradients of the input and of the weight."""
    pad = weight.shape[2] // 2
    output = conv2d(x, weight, padding=pad, groups=groups)
    backward = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [pad, pad], [1, 1], False, [0, 0], groups, [True, True, False]
    )
    return [output, *backward[:2]]


def seconds(act: Callable[[], object]) -> float:
    """Return the median processor time of some calls, in seconds, after one that is not timed."""
    act()
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        act()
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("convolution, seeds: speedup of the grouped one, median (range); same bits")
    for name, (channels, outputs, kernel, groups, size) in CONVOLUTIONS.items():
        for seeds in (2, 4):
            weights = [torch.randn(outputs, channels // groups, kernel, kernel) for _ in range(seeds)]
            inputs, gradients = (
                [torch.randn(BATCH, count, size, size).to(memory_format=torch.channels_last) for _ in range(seeds)]
                for count in (channels, outputs)
            )
            x, gradient = (torch.cat(parts, 1).to(memory_format=torch.channels_last) for parts in (inputs, gradients))
            weight = torch.cat(weights)

            def alone(parts: tuple = (inputs, weights, gradients), groups: int = groups) -> list[list[Tensor]]:
                return [step(x, weight, gradient, groups) for x, weight, gradient in zip(*parts, strict=True)]

            def grouped(
                whole: tuple[Tensor, Tensor, Tensor] = (x, weight, gradient), groups: int = groups * seeds
            ) -> list[Tensor]:
                return step(*whole, groups)

            speedups = [seconds(alone) / seconds(grouped) for _ in range(ROUNDS)]
            bits = [
                torch.equal(torch.cat(parts, int(place < 2)), together)
                for place, (parts, together) in enumerate(zip(zip(*alone(), strict=True), grouped(), strict=True))
            ]
            same = ", ".join(
                word for word, equal in zip(("output", "input's gradient", "weight's"), bits, strict=True) if equal
            )
            low, high = min(speedups), max(speedups)
            print(f"{name}, {seeds}: {statistics.median(speedups):.2f} ({low:.2f} to {high:.2f}); {same or 'none'}")


if __name__ == "__main__":
    main()
