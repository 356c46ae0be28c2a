# squeeze.py
from dataclasses import dataclass, replace

from torch import nn

from modernize import Flag
from modernize.layers import CustomLayer


@dataclass(frozen=True)
class SqueezeExcitation(CustomLayer):
    hidden: int

    @property
    def params(self):
        return 2 * self.in_channels * self.hidden + self.hidden + self.in_channels

    def macs(self, size):
        return 2 * self.in_channels * self.hidden

    def module(self):
        return Gate(self.in_channels, self.hidden)


class Gate(nn.Module):
    def __init__(self, channels, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def squeeze(block, ratio):
    channels = block.residual[-1].in_and_out[1]
    gate = SqueezeExcitation("se", channels, channels, hidden=max(channels // ratio, 1))
    return replace(block, residual=(*block.residual, gate))


FLAGS = [
    Flag("se", "squeeze-and-excitation, with this many times fewer hidden channels", (False, 4, 16), block=squeeze)
]
