"""The cost: the paper's figures to the digits it prints, whatever was counted before, and without weights."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.nn import ActivationCountAnalysis
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import modernize
from modernize import FLAGS, Cost, Design, DesignError
from modernize.network import Network
from modernize.plan import compile_plan, total_cost, trace

with files("modernize").joinpath("paper/models.csv").open(encoding="utf-8") as _file:
    PAPER = list(csv.DictReader(_file))
MODELS = [row["model"] for row in PAPER]
ROWS = [f"resnet50@{row.name}" for row in modernize.roadmap("resnet50").rows]


@cache
def cost_of(name: str) -> Cost:
    return modernize.count(name)


def random_design(seed: int) -> Design:
    """Any design at all, of up to four stages."""
    draw = random.Random(seed)
    values: dict[str, list[Any]] = {
        "depths": ["2", "1-2", "3-1-2", "1-1-2-1"],
        "width": [3, 8, 20],
        "stem": ["resnet", "patchify"],
        "stem_stride": [1, 2, 3, 4, 16],
        "kernel_size": [1, 3, 7, 11],
        "activation": ["relu", "gelu"],
        "norm": ["bn", "ln"],
        "layer_scale": ["off", 1e-6],
    }
    return Design().with_flags({flag.name: draw.choice(values.get(flag.name, [False, True])) for flag in FLAGS})


# The paper's figures -------------------------------------------------------------------------------------------------


def test_the_paper_prints_every_named_model() -> None:
    assert len(MODELS) == len(set(MODELS)) == 9
    v2 = {name for name in modernize.MODELS if name.startswith("convnextv2_")}
    assert set(MODELS) == set(modernize.MODELS) - {"resnet200", "pocket"} - v2 and len(v2) == 8


@pytest.mark.parametrize("row", PAPER, ids=MODELS)
def test_a_named_model_is_the_papers(row: dict[str, str]) -> None:
    flags = modernize.MODELS[row["model"]].flags()
    assert (flags["depths"], flags["width"]) == (row["depths"], int(row["width"]))


@pytest.mark.parametrize("row", PAPER, ids=MODELS)
def test_a_named_model_has_the_papers_parameters_and_gflops(row: dict[str, str]) -> None:
    cost = cost_of(row["model"])
    assert cost.params == int(row["params"])
    decimals = len(row["gflops_224"].partition(".")[2])
    assert f"{cost.gflops:.{decimals}f}" == row["gflops_224"]


@pytest.mark.parametrize("name", [name for name in modernize.MODELS if name != "pocket"])
def test_a_named_networks_docstring_says_its_parameters(name: str) -> None:
    assert f"{cost_of(name).params:,} parameters at 1000 classes" in getattr(modernize, name).__doc__


def test_gflops_are_multiply_adds_in_billions() -> None:
    assert Cost(params=1, macs=4_089_184_256, activations=1).gflops == 4.089184256


# Against torch's own counter -----------------------------------------------------------------------------------------


def macs_by_torch(design: Design, image_size: tuple[int, int]) -> int:
    """Half the operations that torch's counter sees in convolutions and matrix products, for one image."""
    with torch.device("meta"):
        network = Network(compile_plan(design)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, *image_size, device="meta"))
    counts = counter.get_flop_counts()["Global"]
    assert set(counts) == {torch.ops.aten.convolution, torch.ops.aten.addmm}
    return sum(counts.values()) // 2


@pytest.mark.parametrize("name", ROWS)
def test_torch_counts_a_row_the_same(name: str) -> None:
    assert modernize.count(name).macs == macs_by_torch(modernize.design(name), (224, 224))


@pytest.mark.parametrize("seed", range(8))
def test_torch_counts_any_design_the_same(seed: int) -> None:
    design, image_size = random_design(seed), (128 + seed, 128 + 37 * (seed % 3))
    assert modernize.count(design, image_size).macs == macs_by_torch(design, image_size)


@pytest.mark.parametrize("name", ["convnext_tiny", "resnet50"])
def test_torchvisions_network_costs_the_same_at_any_height_and_width(name: str) -> None:
    assert modernize.count(name, (96, 167)) == modernize.count(f"torchvision:{name}", [96, 167])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*MODELS, "resnet200"])
def test_the_plan_adds_up_to_the_count(name: str) -> None:
    assert total_cost(trace(compile_plan(modernize.design(name)), 224)) == cost_of(name)


# Activations ---------------------------------------------------------------------------------------------------------

# In millions, at the resolution in front: timm's results/benchmark-infer-amp-nhwc-pt113-cu117-rtx3090.csv. At 224:
# pycls' MODEL_ZOO.md.
TIMM = {
    **{"resnet50": (224, 11.11), "convnext_tiny": (288, 22.21)},
    **{"convnextv2_atto": (288, 6.3), "convnextv2_pico": (288, 10.08), "convnextv2_nano": (288, 13.84)},
    **{"torchvision:resnet101": (224, 16.23), "torchvision:resnext50_32x4d": (224, 14.4)},
    **{"timm:vit_tiny_patch16_224": (224, 5.97), "timm:swin_tiny_patch4_window7_224": (224, 17.06)},
}
PYCLS = {"resnet50": 11.1, "torchvision:resnet152": 22.6, "torchvision:regnet_x_3_2gf": 11.4}
PYCLS |= {"torchvision:regnet_y_3_2gf": 11.3, "torchvision:efficientnet_b0": 6.7}


@pytest.mark.parametrize("name", TIMM)
def test_activations_are_those_that_timm_publishes(name: str) -> None:
    size, printed = TIMM[name]
    assert round(modernize.count(name, size).activations / 1e6, 2) == printed


@pytest.mark.parametrize("name", PYCLS)
def test_activations_are_those_that_pycls_publishes(name: str) -> None:
    assert round(modernize.count(name).activations / 1e6, 1) == PYCLS[name]


@pytest.mark.parametrize("seed", range(8))
def test_fvcore_counts_the_activations_of_any_design_the_same(seed: int) -> None:
    design, image_size = random_design(seed), (64 + seed, 64 + 37 * (seed % 3))
    network = Network(compile_plan(design)).eval()
    counted = ActivationCountAnalysis(network, torch.zeros(1, 3, *image_size))
    counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert modernize.count(design, image_size).activations == counted.total()


def test_attention_of_a_user_s_network_is_counted_without_torch_s_fast_path(tmp_path: Path) -> None:
    """On the CPU, where a network goes that reads its weights, torch has one operation for a whole encoder layer."""
    (tmp_path / "encoder.py").write_text(ENCODER)
    known, read = (modernize.count(f"{tmp_path}/encoder.py:{name}", 8, 3, 5) for name in ("on_meta", "on_cpu"))
    tokens, width, heads = 16, 12, 2
    linear = tokens * width * (3 * width + width + 2 * 2 * width) + width * 5 + tokens * width * 12
    attention = heads * tokens * tokens
    assert known.macs == read.macs == linear + 2 * attention * width // heads
    assert known.activations == read.activations == tokens * width * (1 + 3 + 1 + 1 + 2 + 1) + attention + 5
    assert torch.backends.mha.get_fastpath_enabled()


ENCODER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 2, 2)
        self.encoder = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        self.head = nn.Linear(12, classes)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

def on_meta(num_classes, in_channels):
    return Net(num_classes)

def on_cpu(num_classes, in_channels):
    net = Net(num_classes)
    float(net.head.weight.sum())
    return net
"""


# What the count depends on, and what not -----------------------------------------------------------------------------


def test_a_design_costs_what_its_name_costs() -> None:
    assert modernize.count(modernize.design("pocket@kernel-7"), 32, 1, 10) == modernize.count(
        "pocket@kernel-7", image_size=32, in_channels=1, num_classes=10
    )


def test_channels_cost_in_the_stem_and_classes_in_the_classifier() -> None:
    design = Design(depths=(1, 1), width=8, stem="patchify")
    one, three = modernize.count(design, 32, 1, 10), modernize.count(design, 32, 3, 10)
    assert (three.params - one.params, three.macs - one.macs) == (2 * 16 * 8, 2 * 16 * 8 * 8 * 8)
    more = modernize.count(design, 32, 1, 11)
    assert (more.params - one.params, more.macs - one.macs) == (64 + 1, 64)


def test_the_count_is_the_same_whatever_came_before() -> None:
    names = [f"pocket@{row.name}" for row in modernize.roadmap("pocket").rows[::3]]
    first = {name: modernize.count(name, 32, 1, 10) for name in names}
    network = modernize.build("pocket@kernel-11", 10, 1).train()
    network(torch.randn(2, 1, 32, 32)).sum().backward()
    with pytest.raises(DesignError):
        modernize.count("convnext_tiny", 16)
    for name in reversed(names):
        modernize.count(name, 64, 2, 3)
        assert modernize.count(name, 32, 1, 10) == first[name]
    with torch.inference_mode():
        assert modernize.count(names[0], 32, 1, 10) == first[names[0]]


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "on the meta device": lambda: torch.device("meta"),
    "default device meta": lambda: default_device("meta"),
    "default device cpu": lambda: default_device("cpu"),
    "default type float64": lambda: default_type(torch.float64),
    "default type bfloat16": lambda: default_type(torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "fake tensors": FakeTensorMode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "FLOP counter": lambda: FlopCounterMode(display=False),
}


def torch_state() -> list[Any]:
    return [
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_num_threads(),
        torch.default_generator.get_state().tolist(),
        list(warnings.filters),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_the_count_does_not_depend_on_torchs_modes_nor_change_them(mode: str) -> None:
    torch.manual_seed(0)
    names = ("pocket@depthwise", "pocket@grn", "torchvision:resnet18")
    expected = [modernize.count(name, (40, 33), 1, 10) for name in names]
    with MODES[mode]():
        before = torch_state()
        assert [modernize.count(name, (40, 33), 1, 10) for name in names] == expected
        assert torch_state() == before


def test_the_count_does_not_depend_on_a_transform_that_calls_it() -> None:
    expected = modernize.count("pocket", 32, 1, 10)
    costs: list[Cost] = []

    def counting(x: torch.Tensor) -> torch.Tensor:
        costs.append(modernize.count("pocket", 32, 1, 10))
        return (x * x).sum()

    torch.func.grad(counting)(torch.ones(3))
    torch.func.vmap(counting)(torch.ones(3, 2))
    make_fx(counting)(torch.ones(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(counting, torch.ones(3))
    assert len(costs) >= 4 and set(costs) == {expected}


def test_the_first_count_of_a_process_may_be_on_the_meta_device() -> None:
    code = """
import torch, modernize
with torch.device("meta"):
    print(modernize.count("pocket", 32, 1, 10) == modernize.Cost(338686, 5730048, 91786))
"""
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_the_largest_classifier_is_counted_without_its_weights() -> None:
    small, large = (modernize.count("resnet50", 32, 3, classes) for classes in (10, 10_000_000))
    assert (large.macs - small.macs, large.params - small.params) == (2048 * 9_999_990, 2049 * 9_999_990)


def test_a_thread_counts_the_same() -> None:
    with ThreadPoolExecutor(4) as threads:
        costs = list(threads.map(lambda _: modernize.count("pocket", 32, 1, 10), range(4)))
    assert set(costs) == {modernize.count("pocket", 32, 1, 10)}


def test_counting_leaves_chance_and_built_networks_alone() -> None:
    network = modernize.build("pocket", 10, 1)
    state = {name: weights.clone() for name, weights in network.state_dict().items()}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    modernize.count("pocket", 32, 1, 10)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights, state[name]) for name, weights in network.state_dict().items())


def test_counting_says_nothing(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    modernize.count("pocket", 32, 1, 10)
    assert capfd.readouterr() == ("", "")
    assert not [str(warning.message) for warning in recwarn]


COUNT_XLARGE = """
from pathlib import Path
import modernize

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

modernize.count("pocket")
before = peak()
print(modernize.count("convnext_xlarge").params, peak() - before)
"""


@pytest.mark.linux
def test_counting_allocates_no_weights() -> None:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", COUNT_XLARGE], cwd=root, capture_output=True, text=True, check=True)
    params, grown = map(int, done.stdout.split())
    assert params == 350_196_968
    assert grown < 20 * 2**20  # its weights are 1.4 GB, the largest of them 67 MB


@pytest.mark.parametrize(
    ("name", "image_size", "works"), [("convnext_tiny", 31, 32), ("convnext_isotropic_small", 15, 16), ("pocket", 0, 1)]
)
def test_an_image_too_small_is_refused(name: str, image_size: int, works: int) -> None:
    with pytest.raises(DesignError, match=rf"^image_size={image_size} is too small .* valid value: {works}$"):
        modernize.count(name, image_size)
    assert modernize.count(name, works).macs > 0


@pytest.mark.parametrize(
    ("name", "image_size", "valid"),
    [
        ("convnext_tiny", (31, 640), (32, 640)),
        ("convnext_tiny", (640, 1), (640, 32)),
        ("convnext_tiny", (0, 31), (32, 32)),
        ("convnext_isotropic_small", (16, 15), (16, 16)),
        ("resnet50@patchify-stem", (3, 9), (4, 9)),
    ],
)
def test_images_too_small_in_one_dimension_are_refused_with_the_nearest_size(
    name: str, image_size: tuple[int, int], valid: tuple[int, int]
) -> None:
    shown = "x".join(map(str, valid)) if valid[0] != valid[1] else str(valid[0])
    message = rf"^image_size={image_size[0]}x{image_size[1]} is too small .* valid value: {shown}$"
    for refusing in (modernize.count, lambda design, size: trace(compile_plan(modernize.design(design)), size)):
        with pytest.raises(DesignError, match=message):
            refusing(name, image_size)
    assert modernize.count(name, valid).macs > 0


def test_what_cannot_be_named_cannot_be_counted() -> None:
    with pytest.raises(DesignError, match="'resnet50'"):
        modernize.count("resnet51")
