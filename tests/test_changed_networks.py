"""Networks that were wrapped or changed after `build` are exported and loaded exactly, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from weight_peers import assert_same_logits, assert_same_state, randomise

import modernize
from modernize import WeightsError, build, export_weights, load_weights
from modernize.network import Network

CONVNEXT = "convnext_tiny,depths=1-2,width=4,kernel_size=3"
FOUR_STAGES = "convnext_tiny,depths=1-1-1-1,width=4"
RESNET = "resnet50,depths=1-1,width=4"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="eager")
    return network


def with_a_compiled_stage(network: Any) -> nn.Module:
    network.stages[1] = torch.compile(network.stages[1], backend="eager")
    return network


def checkpointed(network: Any) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    network.stages[0] = checkpoint_wrapper(network.stages[0])
    return network


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "compiled-in-place": compiled_in_place,
    "compiled-stage": with_a_compiled_stage,
    "checkpointed-stage": checkpointed,
    "data-parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "ddp": DistributedDataParallel,
    "compiled-ddp": lambda network: torch.compile(DistributedDataParallel(network), backend="eager"),
    "averaged-compiled": lambda network: AveragedModel(WRAPPERS["compiled"](network)),
    "accelerated": modernize.accelerate,
}


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("layout", ["native", "timm"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_networks_are_exported_and_loaded(wrap: Callable[[nn.Module], nn.Module], layout: str) -> None:
    network = randomise(build(CONVNEXT, num_classes=5))
    expected = export_weights(network, layout)
    assert_same_state(export_weights(wrap(copy.deepcopy(network)), layout), expected)
    wrapped = wrap(build(CONVNEXT, num_classes=5))
    assert load_weights(wrapped, expected) == layout
    assert_same_state(export_weights(wrapped, layout), expected)
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(wrapped.eval()(images), network(images))


@pytest.mark.usefixtures("_one_process")
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_the_state_dict_of_a_wrapped_network_is_loaded(wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = randomise(build(CONVNEXT, num_classes=5))
    other = build(CONVNEXT, num_classes=5)
    assert load_weights(other, wrap(copy.deepcopy(network)).state_dict()) == "native"
    assert_same_state(other.state_dict(), network.state_dict())


class Normalized(nn.Module):
    """What is no wrapper, but has a network in it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x / 255)


class StandardizedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


class Squared(Network):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def with_class(module: nn.Module, kind: type) -> None:
    module.__class__ = kind


def first(network: Any) -> Any:
    """The branch of the first block."""
    return network.stages[0].blocks[0].residual


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "headless": (lambda n: setattr(n.head, "linear", nn.Identity()), "head.linear (Linear) is missing"),
    "deeper-classifier": (
        lambda n: setattr(n.head, "linear", nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 5))),
        "head.linear is Sequential (needs Linear)",
    ),
    "classifier-without-bias": (
        lambda n: setattr(n.head, "linear", nn.Linear(8, 5, bias=False)),
        "head.linear.bias is missing",
    ),
    "another-head": (lambda n: setattr(n, "head", nn.Flatten()), "head is Flatten (needs Head)"),
    "appended": (lambda n: n.head.append(nn.Linear(5, 2)), "head.4 (Linear) was added"),
    "appended-activation": (lambda n: n.head.append(nn.Softmax(1)), "head.4 (Softmax) was added"),
    "attention": (
        lambda n: n.stages[0].add_module("attention", nn.Conv2d(4, 4, 1)),
        "stages.0.attention (Conv2d) was added",
    ),
    "extra-block": (
        lambda n: n.stages[0].blocks.append(copy.deepcopy(n.stages[0].blocks[0])),
        "stages.0.blocks.1 (Block) was added",
    ),
    "parameter": (lambda n: n.register_parameter("temperature", nn.Parameter(torch.ones(1))), "temperature was added"),
    "buffer": (lambda n: n.stem.register_buffer("mean", torch.zeros(3)), "stem.mean was added"),
    "removed": (lambda n: delattr(n.stem, "norm"), "stem.norm (LayerNorm2d) is missing"),
    "another-norm": (
        lambda n: setattr(n.stem, "norm", nn.GroupNorm(1, 4)),
        "stem.norm is GroupNorm (needs LayerNorm2d)",
    ),
    "another-eps": (lambda n: setattr(n.stem.norm, "eps", 1e-3), "stem.norm: eps=0.001 (needs 1e-06)"),
    "another-activation": (
        lambda n: setattr(first(n), "pointwise1_activation", nn.ReLU()),
        "stages.0.blocks.0.residual.pointwise1_activation is ReLU (needs GELU)",
    ),
    "approximate": (
        lambda n: setattr(first(n), "pointwise1_activation", nn.GELU("tanh")),
        "stages.0.blocks.0.residual.pointwise1_activation: approximate=tanh (needs none)",
    ),
    "padding-mode": (
        lambda n: setattr(first(n).spatial, "padding_mode", "circular"),
        "stages.0.blocks.0.residual.spatial: padding_mode=circular (needs zeros)",
    ),
    "dilation": (
        lambda n: setattr(first(n).spatial, "dilation", (2, 2)),
        "stages.0.blocks.0.residual.spatial: dilation=(2, 2) (needs (1, 1))",
    ),
    "stride": (
        lambda n: setattr(n.stages[1].downsampling.conv, "stride", 1),
        "stages.1.downsampling.conv: stride=1 (needs (2, 2))",
    ),
    "kernel": (
        lambda n: setattr(first(n), "spatial", nn.Conv2d(4, 4, 5, padding=2, groups=4)),
        "stages.0.blocks.0.residual.spatial: padding=(2, 2) (needs (1, 1)), "
        "stages.0.blocks.0.residual.spatial: kernel_size=(5, 5) (needs (3, 3))",
    ),
    "wider": (
        lambda n: setattr(n.stem.norm, "weight", nn.Parameter(torch.ones(6))),
        "stem.norm.weight is 6 (needs 4)",
    ),
    "subclass": (lambda n: with_class(n.stem.conv, StandardizedConv), "stem.conv is StandardizedConv (needs Conv2d)"),
    "network-subclass": (lambda n: with_class(n, Squared), "the network is Squared (needs Network)"),
    "pruned": (
        lambda n: prune.l1_unstructured(n.stem.conv, "weight", 0.5),
        "stem.conv.weight is missing, stem.conv.weight_orig was added, stem.conv.weight_mask was added",
    ),
    "parametrized": (
        lambda n: parametrizations.weight_norm(n.stem.conv),
        "stem.conv is ParametrizedConv2d (needs Conv2d)",
    ),
    "moved": (lambda n: setattr(n, "stem", nn.Sequential(*reversed(n.stem))), "stem.conv (Conv2d) is missing"),
    "reordered": (lambda n: n.stem._modules.update(conv=n.stem._modules.pop("conv")), "stem.norm was moved"),
    "quantized": (
        lambda n: setattr(n.head, "linear", torch.ao.nn.quantized.dynamic.Linear(8, 5)),
        "head.linear is torch.ao.nn.quantized.dynamic.modules.linear.Linear (needs Linear)",
    ),
    "sparse": (
        lambda n: setattr(n.head.linear, "weight", nn.Parameter(n.head.linear.weight.detach().to_sparse())),
        "tensors that are not dense: head.linear.weight",
    ),
}


@pytest.mark.parametrize("layout", ["native", "timm"])
@pytest.mark.parametrize(("change", "described"), CHANGES.values(), ids=CHANGES)
def test_a_changed_network_is_not_exported(change: Callable[[Any], Any], described: str, layout: str) -> None:
    network = build(CONVNEXT, num_classes=5)
    change(network)
    with pytest.raises(WeightsError) as error:
        export_weights(network, layout)
    assert described in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_resnet_is_not_exported() -> None:
    network: Any = build(RESNET)
    network.stem.norm = nn.BatchNorm2d(4, track_running_stats=False)
    network.stages[1].blocks[0].shortcut.norm.eps = 1e-3
    with pytest.raises(WeightsError) as error:
        export_weights(network, "torchvision")
    assert str(error.value) == (
        "torchvision's ResNet cannot express this network, which was changed: "
        "stem.norm: track_running_stats=False (needs True), "
        "stages.1.blocks.0.shortcut.norm: eps=0.001 (needs 1e-05), stem.norm.running_mean is missing and 2 more"
    )


@pytest.mark.parametrize(
    "network", [Normalized(build(RESNET)), nn.Sequential(build(RESNET)), nn.Linear(2, 2), None, "resnet50"], ids=repr
)
def test_what_is_no_network_of_ours_is_refused(network: Any) -> None:
    for use in (lambda: export_weights(network, "native"), lambda: load_weights(network, {})):
        with pytest.raises(WeightsError, match=f"must be a network of modernize.build, not a {type(network).__name__}"):
            use()


def test_another_epsilon_of_response_normalization_is_not_exported() -> None:
    network = build(f"{CONVNEXT},grn=on")
    first(network).grn.eps = 1e-3
    with pytest.raises(WeightsError, match=r"stages\.0\.blocks\.0\.residual\.grn: eps=0\.001 \(needs 1e-06\)$"):
        export_weights(network, "native")


def test_a_traced_network_is_refused_by_a_name_that_is_not_its_own() -> None:
    with pytest.raises(WeightsError, match=r"of modernize.build, not a torch.fx.graph_module.Network$"):
        export_weights(torch.fx.symbolic_trace(build(RESNET)), "native")


def test_another_number_of_classes_or_channels_is_exported() -> None:
    network: Any = build(FOUR_STAGES)
    network.head.linear = nn.Linear(32, 5)
    network.stem.conv = nn.Conv2d(1, 4, 4, 4)
    network.head.insert(4, nn.Dropout(0.5))
    network.stages[1].blocks[0].drop_path = nn.Identity()
    randomise(network)
    peer = timm.models.convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 16, 32), in_chans=1, num_classes=5).eval()
    peer.load_state_dict(export_weights(network, "timm"))
    images = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(peer(images), network(images))


@pytest.mark.parametrize("convert", [modernize.accelerate, nn.SyncBatchNorm.convert_sync_batchnorm])
def test_what_computes_the_same_is_exported(convert: Callable[[nn.Module], nn.Module]) -> None:
    network = randomise(build(RESNET))
    expected = export_weights(network, "torchvision")
    assert_same_state(export_weights(convert(network), "torchvision"), expected)


def test_a_network_that_was_set_for_segmentation_takes_weights_and_keeps_its_settings() -> None:
    source, network = randomise(build(CONVNEXT)), build(CONVNEXT)
    first(network).spatial.padding_mode = "circular"
    load_weights(network, export_weights(source, "timm"))
    assert_same_state(network.state_dict(), source.state_dict())
    assert first(network).spatial.padding_mode == "circular"


@pytest.mark.parametrize(
    ("change", "described"),
    [
        (CHANGES["pruned"][0], "missing stem.conv.weight; added stem.conv.weight_orig, stem.conv.weight_mask"),
        (CHANGES["attention"][0], "added stages.0.attention.weight, stages.0.attention.bias"),
        (CHANGES["removed"][0], "missing stem.norm.weight, stem.norm.bias"),
        (
            CHANGES["deeper-classifier"][0],
            "missing head.linear.weight, head.linear.bias; added head.linear.0.weight, head.linear.0.bias, "
            "head.linear.2.weight and 1 more; classifier=False leaves the classifier out",
        ),
        (CHANGES["headless"][0], "head.linear.bias; classifier=False leaves the classifier out"),
    ],
    ids=["pruned", "attention", "removed", "deeper-classifier", "headless"],
)
def test_a_changed_network_does_not_take_weights_in_part(change: Callable[[Any], Any], described: str) -> None:
    network = build(CONVNEXT, num_classes=5)
    change(network)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(WeightsError) as error:
        load_weights(network, export_weights(build(CONVNEXT, num_classes=5), "timm"))
    assert str(error.value).startswith("this network was changed after it was built: ")
    assert str(error.value).endswith(described)
    assert_same_state(network.state_dict(), before)


@pytest.mark.parametrize("change", ["deeper-classifier", "headless", "classifier-without-bias"])
def test_a_network_with_a_classifier_of_its_own_takes_all_but_the_classifier(change: str) -> None:
    source, network = randomise(build(CONVNEXT)), build(CONVNEXT, num_classes=5)
    CHANGES[change][0](network)
    before = copy.deepcopy(network.state_dict())
    assert load_weights(network, export_weights(source, "timm"), classifier=False) == "timm"
    wanted = source.state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, (before if key.startswith("head.linear") else wanted)[key]), key


def test_tied_weights_take_equal_ones_only() -> None:
    network: Any = build(CONVNEXT)
    network.stages[1].blocks[1] = network.stages[1].blocks[0]
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(WeightsError, match=r"stages.1.blocks.0.*are one tensor in this network, but different weights"):
        load_weights(network, export_weights(randomise(build(CONVNEXT)), "timm"))
    assert_same_state(network.state_dict(), before)
    other = build(CONVNEXT)
    load_weights(other, export_weights(network, "timm"))
    assert_same_logits(randomise(network), randomise(network))
    exported = export_weights(network, "timm")
    load_weights(other, exported)
    load_weights(network, exported)
    assert_same_logits(other, network)


def test_a_network_that_cannot_be_changed_is_refused() -> None:
    weights = export_weights(build(CONVNEXT), "timm")
    with torch.device("meta"):
        absent = build(CONVNEXT)
    with pytest.raises(WeightsError, match=r"is on the meta device, so nothing can be copied to stem.conv.weight, "):
        load_weights(absent, weights)
    with torch.inference_mode():
        fixed = build(CONVNEXT)
    with pytest.raises(WeightsError, match=r"was made in inference mode, so it cannot be changed: stem.conv.weight, "):
        load_weights(fixed, weights)
    with torch.inference_mode():
        load_weights(fixed, weights)
    assert_same_state(export_weights(fixed, "timm"), weights)
