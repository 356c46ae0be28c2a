"""Other people's weights: the peers' own networks are the oracles, both ways, and what does not fit is refused."""

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from weight_peers import (
    Official,
    OfficialIsotropic,
    OfficialV2,
    assert_peers,
    assert_same_logits,
    assert_same_state,
    made,
    randomise,
)

import modernize
from modernize import Design, WeightsError, build, export_weights, load_weights
from modernize.network import Network

TINY = "convnext_tiny,depths=1-2-1,width=8,kernel_size=3"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """One thread: with networks this small on a busy machine, threads waiting for each other cost six times as much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("design", "make", "layout"),
    [
        ("resnet50", torchvision.models.resnet50, "torchvision"),
        ("convnext_tiny", torchvision.models.convnext_tiny, "torchvision"),
        ("convnext_tiny", lambda: timm.create_model("convnext_tiny", pretrained=False), "timm"),
    ],
    ids=["torchvision-resnet50", "torchvision-convnext", "timm-convnext"],
)
def test_peers_at_full_size(design: str, make: Any, layout: str) -> None:
    assert_peers(design, make, layout, classes=1000, size=96)


def torchvisions(design: Design) -> nn.Module:
    """torchvision's network of a design's depths and width; it has no constructor for some of them."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from torchvision.models.resnet import Bottleneck, ResNet

    if not design.depthwise:
        return ResNet(Bottleneck, list(design.depths))
    dims = [design.width * 2**stage for stage in range(len(design.depths))]
    after = [*dims[1:], None]
    return ConvNeXt([CNBlockConfig(*sizes) for sizes in zip(dims, after, design.depths, strict=True)])


def officials(design: Design) -> nn.Module:
    """The official network of a design's depths and width."""
    if len(design.depths) == 1:
        return OfficialIsotropic(*design.depths, design.width, classes=1000)
    network = OfficialV2 if design.grn else Official
    return network(design.depths, design.width, classes=1000)


@pytest.mark.parametrize("name", modernize.MODELS)
def test_every_model_goes_to_every_layout_that_has_it(name: str) -> None:
    design = modernize.MODELS[name]
    peers = {
        "torchvision": lambda: torchvisions(design),
        "timm": lambda: timm.create_model(name, pretrained=False),
        "official": lambda: officials(design),
    }
    if name == "pocket":  # its stem is nobody else's
        has: tuple[str, ...] = ()
    elif name.startswith("resnet"):
        has = ("torchvision", "timm")
    elif "isotropic" in name:
        has = ("official",)
    else:
        has = ("timm", "official") if design.grn else tuple(peers)
    with torch.device("meta"):
        network = build(design)
        for layout, make in peers.items():
            if layout in has:
                exported, peer = export_weights(network, layout), make().state_dict()
                assert {key: tensor.shape for key, tensor in exported.items()} == {
                    key: tensor.shape for key, tensor in peer.items()
                }
                assert list(exported) == list(peer)
            else:
                with pytest.raises(WeightsError, match="cannot express this network: "):
                    export_weights(network, layout)


def test_timms_resnet_has_torchvisions_names() -> None:
    peer = randomise(made(lambda: timm.create_model("resnet26", num_classes=5)))
    network = made(lambda: build("resnet50,depths=2-2-2-2", num_classes=5))
    assert load_weights(network, peer.state_dict()) == "torchvision"
    assert_same_logits(network, peer)
    assert_same_state(export_weights(network, "timm"), peer.state_dict())


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 1, 3, 2)])
@pytest.mark.parametrize("width", [3, 16])
@pytest.mark.parametrize("scaled", [True, False], ids=["layer-scale", "no-layer-scale"])
def test_any_depths_and_width(depths: tuple[int, ...], width: int, scaled: bool) -> None:
    dims = tuple(width * 2**stage for stage in range(4))
    flags = {"depths": depths, "width": width, "layer_scale": 0.1 if scaled else None}
    design = modernize.design("convnext_tiny").with_flags(flags)
    scale = 1e-6 if scaled else None
    timms = partial(timm.models.convnext.ConvNeXt, depths=depths, dims=dims, num_classes=5, ls_init_value=scale)
    assert_peers(design, timms, "timm")
    assert_peers(design, lambda: Official(depths, width, scaled), "official")
    normed = design.with_flags({"grn": True})
    assert_peers(normed, partial(timms, use_grn=True), "timm")
    if not scaled:
        assert_peers(normed, lambda: OfficialV2(depths, width), "official")


@pytest.mark.parametrize("depths", [(1, 2), (1, 1, 3), (1, 2, 1, 1, 1)], ids=str)
def test_any_number_of_stages(depths: tuple[int, ...]) -> None:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    design = modernize.design("convnext_tiny").with_flags({"depths": depths, "width": 8})
    dims = [8 * 2**stage for stage in range(len(depths))]
    blocks = [CNBlockConfig(dim, out, depth) for dim, out, depth in zip(dims, [*dims[1:], None], depths, strict=True)]
    assert_peers(design, lambda: ConvNeXt(blocks, num_classes=5), "torchvision", size=96)
    assert_peers(design, lambda: Official(depths, 8), "official", size=96)


@pytest.mark.parametrize("scaled", [True, False], ids=["layer-scale", "no-layer-scale"])
def test_official_isotropic(scaled: bool) -> None:
    scale = 0.1 if scaled else "off"
    design = f"convnext_isotropic_small,depths=3,width=12,layer_scale={scale}"
    assert_peers(design, lambda: OfficialIsotropic(3, 12, scaled), "official")


def test_resnets_of_any_depths() -> None:
    from torchvision.models.resnet import Bottleneck, ResNet

    assert_peers("resnet50,depths=1-3-2-1", lambda: ResNet(Bottleneck, [1, 3, 2, 1], num_classes=5), "torchvision")


def test_a_resnet_of_another_width_goes_there_and_back() -> None:
    network = randomise(build("resnet50,depths=1-2-1,width=6", num_classes=5))
    exported = export_weights(network, "torchvision")
    assert exported["layer2.1.bn2.running_mean"].shape == (12,)
    other = build("resnet50,depths=1-2-1,width=6", num_classes=5)
    assert load_weights(other, exported) == "torchvision"
    assert_same_state(other.state_dict(), network.state_dict())


def test_timms_convolutional_mlp_loads() -> None:
    peer = randomise(made(lambda: timm.create_model("convnext_atto", pretrained=False, num_classes=5)))
    assert peer.state_dict()["stages.0.blocks.0.mlp.fc1.weight"].ndim == 4
    network = made(lambda: build("convnext_tiny,depths=2-2-6-2,width=40", num_classes=5))
    assert load_weights(network, peer.state_dict()) == "timm"
    assert_same_logits(network, peer)


@pytest.mark.parametrize(
    "design",
    [
        *(f"pocket@{row.name}" for row in modernize.roadmap("pocket").rows),
        "pocket,stem=patchify,norm=ln,separate_downsampling=on,layer_scale=0.1",
        "convnext_isotropic_small,depths=2,width=8",
        "resnet50,depths=1,width=4",
    ],
)
def test_native_round_trip_through_a_file(design: str, tmp_path: Path) -> None:
    network = randomise(build(design, num_classes=5))
    path = tmp_path / "weights.pt"
    torch.save(export_weights(network, "native"), path)
    other = build(design, num_classes=5)
    assert load_weights(other, path) == "native"
    assert_same_state(other.state_dict(), network.state_dict())
    assert_same_state(export_weights(other, "native"), dict(network.state_dict()))


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema"])
def test_wrapped_files(wrapper: str, tmp_path: Path) -> None:
    peer = randomise(Official((1, 2, 1), 8))
    torch.save({wrapper: peer.state_dict(), "epoch": 3}, tmp_path / "official.pth")
    network = build("convnext_tiny,depths=1-2-1,width=8", num_classes=5)
    assert load_weights(network, str(tmp_path / "official.pth")) == "official"
    assert_same_logits(network, peer)


def test_half_precision_files_load_in_the_networks_own() -> None:
    network, source = build(TINY), randomise(build(TINY))
    load_weights(network, {key: tensor.half() for key, tensor in export_weights(source, "timm").items()})
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    assert torch.equal(network.head.linear.weight, source.head.linear.weight.half().float())


def test_files_older_than_the_batch_counter_load() -> None:
    network, source = randomise(build("pocket")), randomise(build("pocket"))
    counters = {key: tensor for key, tensor in network.state_dict().items() if "num_batches" in key}
    old = {key: tensor for key, tensor in export_weights(source, "native").items() if key not in counters}
    assert load_weights(network, old) == "native"
    assert_same_state(network.state_dict(), source.state_dict() | counters)


def test_an_export_is_a_copy() -> None:
    network = randomise(build(TINY))
    exported = export_weights(network, "timm")
    before = {key: tensor.clone() for key, tensor in exported.items()}
    with torch.no_grad():
        for weights in network.parameters():
            weights.zero_()
    assert_same_state(exported, before)
    assert not any(tensor.requires_grad for tensor in exported.values())


@pytest.mark.parametrize(
    ("design", "layout", "flags"),
    [
        ("resnet50@enhanced-recipe", "torchvision", ["layer_scale=1e-06 (needs off)"]),
        ("resnet50,activation=gelu", "torchvision", ["activation=gelu (needs relu)"]),
        ("resnet50,stem_stride=2", "torchvision", ["stem_stride=2 (needs 4)"]),
        ("resnet50,kernel_size=5", "torchvision", ["kernel_size=5 (needs 3)"]),
        ("convnext_tiny,layer_scale=off", "torchvision", ["layer_scale=off (needs on)"]),
        ("convnextv2_tiny", "torchvision", ["layer_scale=off (needs on)", "grn=on (needs off)"]),
        ("convnextv2_tiny,layer_scale=0.1", "official", ["grn=on (needs off)"]),
        ("convnext_tiny,norm=bn", "timm", ["norm=bn (needs ln)"]),
        ("convnext_tiny,norm=bn,fewer_norms=off", "official", ["norm=bn (needs ln)", "fewer_norms=off (needs on)"]),
        ("convnext_tiny,activation=relu", "official", ["activation=relu (needs gelu)"]),
        ("resnet50@layer-norm", "timm", ["separate_downsampling=off (needs on)"]),
        ("convnext_isotropic_small", "timm", ["depths=18 (needs two stages or more)"]),
        ("convnext_isotropic_small,stem=resnet", "official", ["stem=resnet (needs patchify)"]),
    ],
)
def test_the_flag_in_the_way_of_an_export_is_named(design: str, layout: str, flags: list[str]) -> None:
    small = modernize.design(design)
    small = small.with_flags({"width": 4, "depths": (1,) * len(small.depths)})
    with pytest.raises(WeightsError) as refusal:
        export_weights(build(small, num_classes=5), layout)
    expected = ", ".join(flags).replace("depths=18", "depths=1")
    assert str(refusal.value).endswith(f" cannot express this network: {expected}")


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(WeightsError, match="unknown layout 'tim': did you mean 'timm'"):
        export_weights(build(TINY), "tim")


def refusal(network: Network, source: Any) -> str:
    """What loading is refused with: one line, and the network as it was."""
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as error:
        load_weights(network, source)
    assert_same_state(network.state_dict(), before)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_and_unexpected_keys_are_named() -> None:
    network = build(TINY)
    weights = export_weights(network, "timm")
    without = {key: tensor for key, tensor in weights.items() if "conv_dw" not in key}
    assert refusal(network, without) == (
        "the state dict is of timm's ConvNeXt but does not fit this network: missing stages.0.blocks.0.conv_dw.weight, "
        "stages.0.blocks.0.conv_dw.bias, stages.1.blocks.0.conv_dw.weight and 5 more"
    )
    assert refusal(network, weights | {"head.extra": torch.zeros(1)}).endswith("this network: unexpected head.extra")
    both = {key.replace("stem.1", "stem.9"): tensor for key, tensor in weights.items()}
    assert refusal(network, both).endswith("missing stem.1.weight, stem.1.bias; unexpected stem.9.weight, stem.9.bias")


@pytest.mark.parametrize(
    ("layout", "misfit"),
    [
        ("native", "shapes head.linear.weight is 10×32, needs 5×32, head.linear.bias is 10, needs 5"),
        ("torchvision", "shapes classifier.2.weight is 10×32, needs 5×32, classifier.2.bias is 10, needs 5"),
        ("timm", "shapes head.fc.weight is 10×32, needs 5×32, head.fc.bias is 10, needs 5"),
        ("official", "shapes head.weight is 10×32, needs 5×32, head.bias is 10, needs 5"),
    ],
)
def test_another_class_count_is_a_shape_misfit(layout: str, misfit: str) -> None:
    exported = export_weights(build(TINY, num_classes=10), layout)
    hint = "; classifier=False leaves the classifier out"
    assert refusal(build(TINY, num_classes=5), exported).endswith(f"does not fit this network: {misfit}{hint}")


def test_another_width_is_a_shape_misfit() -> None:
    exported = export_weights(build(TINY.replace("width=8", "width=4")), "timm")
    assert "shapes stem.0.weight is 4×3×4×4, needs 8×3×4×4, stem.0.bias is 4, needs 8, " in (
        message := refusal(build(TINY), exported)
    )
    assert message.endswith(" more")


def test_a_number_of_elements_that_fits_is_not_enough() -> None:
    weights = export_weights(build(TINY), "timm")
    key = "stages.0.blocks.0.mlp.fc1.weight"
    assert f"{key} is 8×32, needs 32×8" in refusal(build(TINY), weights | {key: weights[key].T})


def test_a_file_of_another_design_says_which_flags_differ() -> None:
    small = "width=4,depths=1-1-1-1"
    resnet, convnext = build(f"resnet50,{small}"), build(f"convnext_tiny,{small}")
    message = refusal(resnet, export_weights(convnext, "official"))
    assert message.startswith("the state dict is of the official ConvNeXt, which this network is not: stem=resnet (")
    assert "depthwise=off (needs on), inverted_bottleneck=off (needs on)" in message
    message = refusal(convnext, export_weights(resnet, "torchvision"))
    assert message.startswith("the state dict is of torchvision's ResNet, which this network is not: stem=patchify (")
    message = refusal(resnet, export_weights(convnext, "native"))
    assert message.startswith("the state dict is of our own layout but does not fit this network: missing stem.norm")
    deeper = export_weights(build("convnext_tiny,width=4,depths=1-1-2-1"), "torchvision")
    assert "unexpected features.5.1.layer_scale, " in refusal(convnext, deeper)


def test_networks_of_other_kinds_are_refused() -> None:
    network = build("resnet50,width=4,depths=1-1-1-1")
    with torch.device("meta"):
        others = {
            "resnet18": torchvision.models.resnet18(),
            "vgg": torchvision.models.vgg11(),
            "v2": timm.create_model("convnextv2_atto", pretrained=False),
            "vit": timm.create_model("vit_tiny_patch16_224", pretrained=False),
        }
    states = {
        name: {key: torch.zeros(()).expand(value.shape) for key, value in peer.state_dict().items()}
        for name, peer in others.items()
    }
    assert "torchvision's ResNet but does not fit this network: missing layer1.0.conv3" in refusal(
        network, states["resnet18"]
    )
    for name, first in (("vgg", "features.0.weight, features.0.bias"), ("vit", "cls_token, pos_embed")):
        message = refusal(network, states[name])
        assert f"unknown layout, with keys such as {first}" in message
    atto = build("convnext_tiny,depths=2-2-6-2,width=40,layer_scale=off")
    assert "unexpected stages.0.blocks.0.mlp.grn.weight" in refusal(atto, states["v2"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"epoch": 3, "stem": torch.zeros(1)}, "not a state dict of dense tensors: epoch"),
        ({"model": {"a": 1, "b": 2.0, "c": "x", "d": None}}, "dense tensors: a, b, c and 1 more"),
        ({3: torch.zeros(1)}, "not a state dict of dense tensors: 3"),
        ({"stem.conv.weight": torch.eye(3).to_sparse()}, "not a state dict of dense tensors: stem.conv.weight"),
        ({"stem.conv.weight": torch.zeros(3, device="meta")}, "dense tensors: stem.conv.weight"),
        ({}, "unknown layout, with no keys; known: native, torchvision, timm, official"),
        ([torch.zeros(1)], "contains a list, not a state dict"),
        (torch.zeros(1), "contains a Tensor, not a state dict"),
        (
            {"model": {}, "args": argparse.Namespace(out=Path("runs"))},
            f"contains a pickled {type(Path()).__module__}.{type(Path()).__name__}; only tensors are read",
        ),
        (nn.Linear(2, 2), "contains a pickled torch.nn.modules.linear.Linear; only tensors are read"),
    ],
    ids=["number", "wrapped", "key", "sparse", "meta", "empty", "list", "tensor", "namespace", "module"],
)
def test_files_that_hold_something_else(content: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    message = refusal(build(TINY), path)
    assert message.startswith(f"{path}: ") and message.endswith(reason)
    if isinstance(content, dict) and "args" not in content:
        assert refusal(build(TINY), content).endswith(reason)


def test_what_is_no_torch_file(tmp_path: Path) -> None:
    network = build(TINY)
    assert refusal(network, tmp_path / "none.pt") == f"{tmp_path}/none.pt: cannot be read (No such file or directory)"
    assert refusal(network, str(tmp_path)) == f"{tmp_path}: cannot be read (Is a directory)"
    whole = tmp_path / "whole.pt"
    torch.save(export_weights(network, "native"), whole)
    for content in (b"", b"some text\n", bytes(range(256)) * 9, whole.read_bytes()[:5000]):
        path = tmp_path / "other.pt"
        path.write_bytes(content)
        assert refusal(network, path) == f"{path}: not a file of tensors saved by torch"
