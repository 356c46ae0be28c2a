"""Backbones: feature maps by stage with true channels and strides, the same as torchvision extracts, for any design."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

import modernize
from modernize import Design, DesignError
from modernize.plan import trace

ROWS = [f"pocket@{row.name}" for row in (*modernize.roadmap("pocket").rows, *modernize.roadmap("pocket").extras)]
ISOTROPIC = "convnext_isotropic_small,depths=2,width=8"
BOTH_ENDS = ("pocket", "pocket@separate-downsampling", ISOTROPIC)

DESIGNS = st.builds(
    Design,
    depths=st.lists(st.integers(1, 2), min_size=1, max_size=4).map(tuple),
    width=st.integers(1, 6),
    stem=st.sampled_from(["resnet", "patchify"]),
    stem_stride=st.integers(1, 9),
    kernel_size=st.sampled_from([1, 3, 7]),
    norm=st.sampled_from(["bn", "ln"]),
    **dict.fromkeys(
        ("depthwise", "inverted_bottleneck", "depthwise_first", "fewer_norms", "separate_downsampling", "grn"),
        st.booleans(),
    ),
)


def maps_of(body: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return body(images)


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor], **tolerance: Any) -> None:
    assert list(ours) == list(theirs)
    for name, one in ours.items():
        torch.testing.assert_close(one, theirs[name], **({"rtol": 0.0, "atol": 0.0} | tolerance))


# What the maps are ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(DESIGNS, st.integers(1, 2), st.integers(1, 2), st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_channels_and_strides_are_those_of_the_maps(design: Design, rows: int, columns: int, more: Any) -> None:
    body = modernize.features(modernize.build(design, 0, 2).eval())
    last = body.strides[-1]
    height, width = last * rows, last * columns
    maps = maps_of(body, torch.zeros(1, 2, height, width))
    assert list(maps) == [str(stage) for stage in range(len(design.depths))]
    for one, channels, stride in zip(maps.values(), body.channels, body.strides, strict=True):
        assert one.shape == (1, channels, height // stride, width // stride)
    # Where the stride does not divide the image, the quotient is rounded, and the plan says how.
    height, width = height + more[0], width + more[1]
    maps = maps_of(body, torch.zeros(1, 2, height, width))
    steps = trace(modernize.compile_plan(design, 2, 0), (height, width))
    sizes = {step.path.split(".")[1]: step.out_size for step in steps}
    for name, one, stride in zip(maps, maps.values(), body.strides, strict=True):
        assert one.shape[2:] == sizes[name]
        for edge, pixels in zip(one.shape[2:], (height, width), strict=True):
            assert pixels // stride <= edge <= math.ceil(pixels / stride)


@pytest.mark.parametrize("name", [*ROWS, ISOTROPIC])
def test_torchvision_extracts_the_same_maps(name: str) -> None:
    network = modernize.build(name, 5, 1).eval()
    images = torch.randn(2, 1, 32, 48)
    nodes = {f"stages.{stage}": str(stage) for stage in range(len(network.stages))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = maps_of(create_feature_extractor(network, nodes), images)
    assert_equal(maps_of(modernize.features(network), images), theirs)


@pytest.mark.parametrize(
    ("name", "options", "nodes"),
    [
        ("convnext_tiny", {"layer_scale": 1.0}, [f"features.{index}" for index in (1, 3, 5, 7)]),
        ("resnet50", {}, [f"layer{index}" for index in (1, 2, 3, 4)]),
    ],
)
def test_torchvisions_network_has_the_same_maps_with_the_same_weights(name: str, options: Any, nodes: Any) -> None:
    theirs = getattr(torchvision.models, name)(**options).eval()
    ours = modernize.build(name, 0).eval()
    modernize.load_weights(ours, theirs.state_dict(), classifier=False)
    body = modernize.features(ours)
    assert body.strides == (4, 8, 16, 32)
    images = torch.randn(1, 3, 64, 96)
    extractor = create_feature_extractor(theirs, {node: str(stage) for stage, node in enumerate(nodes)})
    assert_equal(maps_of(body, images), maps_of(extractor, images), rtol=1e-3, atol=1e-3)


def test_timm_gives_the_same_channels_and_strides() -> None:
    theirs: Any = timm.create_model("convnextv2_atto", features_only=True)
    theirs = theirs.feature_info
    body = modernize.features(modernize.convnextv2_atto(num_classes=0))
    assert (body.channels, body.strides) == (tuple(theirs.channels()), tuple(theirs.reduction()))


@pytest.mark.parametrize("name", BOTH_ENDS)
@pytest.mark.parametrize("fast", [False, True])
def test_later_stages_leave_the_maps_as_they_are(name: str, fast: bool) -> None:
    network = modernize.build(name, 5, 1).eval()
    plain = [one.clone() for one in maps_of(modernize.features(network), torch.ones(1, 1, 32, 32)).values()]
    if fast:
        modernize.accelerate(network)
    maps = modernize.features(network)(torch.ones(1, 1, 32, 32).requires_grad_())
    for stage, one in enumerate(maps.values()):
        alone = modernize.features(network, [stage])(torch.ones(1, 1, 32, 32))
        torch.testing.assert_close(one, alone[str(stage)])
        torch.testing.assert_close(one, plain[stage])
    sum(one.sum() for one in maps.values()).backward()


# Which stages --------------------------------------------------------------------------------------------------------


def test_stages_are_chosen_by_number_and_later_ones_are_left_out() -> None:
    network = modernize.build("pocket", 5, 1)
    body = modernize.features(network, (2, 1))
    assert (body.channels, body.strides) == ((96, 192), (4, 8))
    maps = body(torch.randn(2, 1, 32, 32))
    assert list(maps) == ["1", "2"]
    sum(one.sum() for one in maps.values()).backward()
    assert all(weights.grad is not None for weights in body.parameters())  # DDP refuses unused weights
    assert set(body.state_dict()) == {
        name for name in network.state_dict() if not name.startswith(("stages.3.", "head."))
    }
    assert modernize.features(network, range(1, 3)).channels == modernize.features(network, [1, 2]).channels


@pytest.mark.parametrize("stages", [2, (), (4,), (-1,), (1, 1), "01", (1.0,), {1}, (True,), [None], torch.tensor([1])])
def test_stages_that_a_network_lacks_are_refused_in_one_line(stages: Any) -> None:
    with pytest.raises(DesignError) as caught:
        modernize.features(modernize.build("pocket", 5, 1), stages)
    message = str(caught.value)
    assert message.startswith("stages=") and message.isprintable()
    if stages == (4,):
        assert message == "stages=(4,): the network has stages 0 to 3"


@pytest.mark.parametrize("other", [None, "pocket", Design(), nn.Linear(2, 2), nn.Sequential(nn.Flatten()), modernize])
def test_what_is_no_network_of_ours_is_refused_in_one_line(other: Any) -> None:
    with pytest.raises(DesignError, match=r"^network: must be a network of modernize.build, not a \w+$"):
        modernize.features(other)


# One set of weights --------------------------------------------------------------------------------------------------


def test_the_weights_are_the_networks() -> None:
    network = modernize.build("pocket@grn", 5, 1)
    body = modernize.features(network)
    ours = dict(network.named_parameters())
    assert all(weights is ours[name] for name, weights in body.named_parameters())
    assert body.training and not modernize.features(network.eval()).training
    before = maps_of(body.eval(), torch.ones(1, 1, 32, 32))
    network.load_state_dict(modernize.build("pocket@grn", 5, 1).state_dict())
    after = maps_of(body, torch.ones(1, 1, 32, 32))
    assert not torch.equal(before["3"], after["3"])


def test_freezing_a_part_of_the_network_stays() -> None:
    network = modernize.build("pocket", 5, 1).train()
    network.stages[0].eval()
    modernize.features(network)
    assert not network.stages[0].training and network.stages[1].training


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "torch.compile": torch.compile,
    "EMA": AveragedModel,
    "data parallel": nn.DataParallel,
    "compiled EMA": lambda network: torch.compile(AveragedModel(network)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrapped_networks_are_looked_through(wrapper: str) -> None:
    network = modernize.build("pocket", 5, 1).eval()
    images = torch.randn(1, 1, 32, 32)
    wrapped = modernize.features(WRAPPERS[wrapper](network))
    assert_equal(maps_of(wrapped, images), maps_of(modernize.features(network), images))


def test_strides_follow_a_convolution_that_was_dilated_instead() -> None:
    network: Any = modernize.build("pocket@separate-downsampling", 5, 1).eval()
    conv = network.stages[3].downsampling.conv
    conv.stride, conv.dilation = (1, 1), (2, 2)
    body = modernize.features(network)
    assert body.strides == (2, 4, 8, 8)
    assert maps_of(body, torch.ones(1, 1, 32, 48))["2"].shape[2:] == (4, 6)


# In the hands of other tools -----------------------------------------------------------------------------------------


def saved(body: nn.Module) -> Any:
    buffer = io.BytesIO()
    torch.save(body, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


TOOLS: dict[str, Callable[[Any, Tensor], Any]] = {
    "FX": lambda body, images: torch.fx.symbolic_trace(body),
    "export": lambda body, images: torch.export.export(body, (images,)).module(),
    "trace": lambda body, images: torch.jit.trace(body, images, strict=False),
    "deepcopy": lambda body, images: copy.deepcopy(body),
    "pickle": lambda body, images: pickle.loads(pickle.dumps(body)),
    "save": lambda body, images: saved(body),
    "extractor": lambda body, images: create_feature_extractor(
        body, {f"stages.{index}": name for index, name in body.names.items()}
    ),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", BOTH_ENDS)
@pytest.mark.filterwarnings("ignore")
def test_tools_give_the_same_maps(name: str, tool: str) -> None:
    body = modernize.features(modernize.build(name, 0, 1).eval())
    images = torch.randn(1, 1, 32, 48)
    made = TOOLS[tool](body, images)
    other = torch.randn(1, 1, 32, 48)
    assert_equal(maps_of(body, other), maps_of(made, other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BOTH_ENDS)
def test_torchvisions_pyramid_takes_the_maps(name: str) -> None:
    body = modernize.features(modernize.build(name, 0, 1))
    pyramid = FeaturePyramidNetwork(list(body.channels), 8)
    maps = nn.Sequential(body, pyramid)(torch.randn(1, 1, 64, 96))
    assert [tuple(one.shape) for one in maps.values()] == [(1, 8, 64 // each, 96 // each) for each in body.strides]
    assert list(maps) == [str(stage) for stage in range(len(body.strides))]


def test_torchvisions_detector_trains_and_detects() -> None:
    torch.manual_seed(0)
    body = modernize.features(modernize.build("pocket@separate-downsampling", 0, 3), (1, 2, 3))
    backbone: Any = nn.Sequential(body, FeaturePyramidNetwork(list(body.channels), 8))
    backbone.out_channels = 8
    anchors = AnchorGenerator(((16,), (32,), (64,)), ((0.5, 1.0, 2.0),) * 3)
    detector = RetinaNet(backbone, 2, min_size=64, max_size=96, anchor_generator=anchors)
    images = [torch.rand(3, 64, 96), torch.rand(3, 48, 64)]
    boxes = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 44.0]]), "labels": torch.tensor([1])}
    sum(detector(images, [boxes, boxes]).values()).backward()
    assert all(weights.grad is not None for weights in body.parameters())
    assert [set(one) for one in detector.eval()(images)] == [{"boxes", "scores", "labels"}] * 2
