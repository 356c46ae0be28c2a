"""Public tools give the same results on our networks as on torchvision's with the same weights.

The small ConvNeXt has torchvision's own block class. Where a tool fails on torchvision's ConvNeXt too, a test says so.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnxruntime
import pytest
import thop
import torch
import torchinfo
import torchvision
from captum import attr
from fvcore.nn import FlopCountAnalysis
from opacus import GradSampleModule, PrivacyEngine
from opacus.grad_sample import (
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
    register_grad_sampler,
)
from opacus.grad_sample.conv import compute_conv_grad_sample
from opacus.validators import ModuleValidator
from opacus.validators.errors import UnsupportedModuleError
from ptflops import get_model_complexity_info
from ptflops.pytorch_ops import bn_flops_counter_hook
from thop.vision.basic_hooks import count_normalization
from timm.models._features_fx import GraphExtractNet
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping, get_default_qconfig_mapping
from torch.ao.quantization.fx.custom_config import PrepareCustomConfig
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx
from torch.fx.experimental.optimization import fuse
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, prune
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
from torchvision.models import convnext, resnet
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FeaturePyramidNetwork

import modernize
from modernize.network import LayerNorm2d, Network, StochasticDepth

SMALL = "convnext_tiny,depths=1-2,width=8"
V2 = "convnextv2_tiny,depths=1-2,width=8"
ROWS = {row.name: f"pocket@{row.name},depths=1-1,width=8" for row in modernize.roadmap("pocket").rows}
WITH_BATCH_NORM = list(ROWS)[: list(ROWS).index("layer-norm")]
STAGES = {"stages.0": "low", "stages.1": "high"}
THEIR_STAGES = {"features.1": "low", "features.3": "high"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

Pair = tuple[Network, convnext.ConvNeXt]


@pytest.fixture(scope="module")
def trained() -> Pair:
    """Our ConvNeXt and torchvision's with the same weights, none of which is at its initial value."""
    torch.manual_seed(0)
    config = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, None, 2)]
    theirs = convnext.ConvNeXt(config, stochastic_depth_prob=0.5, layer_scale=0.5, num_classes=10)
    with torch.no_grad():
        for weights in theirs.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.1)
    ours = modernize.build(SMALL, 10, drop_path_rate=0.5)
    modernize.load_weights(ours, theirs.state_dict())
    return ours.eval(), theirs.eval()


@pytest.fixture
def pair(trained: Pair) -> Pair:
    return copy.deepcopy(trained)


def row(name: str) -> Network:
    """A row of the pocket roadmap for RGB images, with BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = modernize.build(ROWS[name], 10)
    for _ in range(2):
        network(images(8))
    return network.eval()


def images(number: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([3, 1, 2])


def difference(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference, relative to that of the other."""
    return float((one - other).norm() / other.norm())


def assert_same(found: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and other.norm() > 0
        assert difference(one, other) < tolerance


# Features


@pytest.mark.parametrize("training", [False, True])
def test_torchvision_extracts_the_same_features_for_a_pyramid(pair: Pair, training: bool) -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramidNetwork([8, 16], 4)
    found = []
    for network, stages in zip(pair, (STAGES, THEIR_STAGES), strict=True):
        extractor = create_feature_extractor(network, stages).train(training)
        torch.manual_seed(1)  # of stochastic depth
        features = extractor(images())
        assert list(features) == ["low", "high"]
        found.append([*features.values(), *pyramid(features).values()])
    assert [tuple(each.shape[1:]) for each in found[0]] == [(8, 8, 8), (16, 4, 4), (4, 8, 8), (4, 4, 4)]
    assert_same(found[0], found[1])


@pytest.mark.parametrize("name", ROWS)
def test_torchvision_and_timm_extract_the_outputs_of_the_stages_of_every_row(name: str) -> None:
    network, kept = row(name), list[Tensor]()
    theirs = create_feature_extractor(network, STAGES)(images())
    timms = GraphExtractNet(network, STAGES)(images())
    for stage in network.stages:
        stage.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    network(images())
    assert all(torch.equal(*both) for both in zip(theirs.values(), kept, strict=True))
    assert all(torch.equal(*both) for both in zip(timms, kept, strict=True))


# Quantization and rewriting


def quantized(network: nn.Module) -> nn.Module:
    """Quantize by FX graph mode, after calibration on three batches."""
    prepared = prepare_fx(copy.deepcopy(network), get_default_qconfig_mapping("x86"), (images(),))
    for seed in range(3):
        prepared(images(seed=seed))
    return convert_fx(prepared)


def test_fx_quantization_is_as_near_as_torchvisions_convnext(pair: Pair) -> None:
    """The scales differ by rounding, which moves some activations by one of 256 levels."""
    ours, theirs = (quantized(network)(images()) for network in pair)
    wanted = pair[0](images())
    assert difference(ours, theirs) < difference(theirs, wanted) < 0.1
    assert 0 < difference(ours, wanted) < 1.5 * difference(theirs, wanted)


def test_fx_quantization_gives_the_bits_of_torchvisions_resnet() -> None:
    """If both flatten by a module: FX keeps `torch.flatten` in int8, and computes the module in float."""
    torch.manual_seed(0)
    theirs = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=10)
    theirs(images(8))
    ours = modernize.build("resnet50,depths=1-1-1-1", 10)
    modernize.load_weights(ours, theirs.state_dict())
    theirs.avgpool = nn.Sequential(theirs.avgpool, nn.Flatten())
    assert torch.equal(quantized(ours.eval())(images()), quantized(theirs.eval())(images()))


@pytest.mark.parametrize("name", ROWS)
def test_fx_quantizes_every_row(name: str) -> None:
    network = row(name)
    assert 0 < difference(quantized(network)(images()), network(images())) < 0.3


def test_quantization_aware_training_needs_stochastic_depth_as_a_leaf(pair: Pair) -> None:
    """Otherwise FX keeps the behavior of training forever, in torchvision's network too."""
    leaves = (StochasticDepth, torchvision.ops.StochasticDepth)
    for network, leaf in zip(pair, leaves, strict=True):
        for classes in ([], [leaf]):
            custom = PrepareCustomConfig().set_non_traceable_module_classes(classes)
            mapping = get_default_qat_qconfig_mapping("x86")
            prepared = prepare_qat_fx(copy.deepcopy(network).train(), mapping, (images(),), custom)
            prepared(images()).sum().backward()
            converted = convert_fx(prepared.eval())
            outputs = {tuple(converted(images()).flatten().tolist()) for _ in range(8)}
            assert (len(outputs) == 1) == bool(classes)


def test_export_based_quantization_gives_the_same_as_torchvisions(pair: Pair) -> None:
    found = []
    for network in pair:
        exported: Any = torch.export.export(network, (images(),)).module()
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        prepared(images())
        found.append(convert_pt2e(prepared)(images()))
    assert difference(*found) < 1e-4
    assert 0 < difference(found[0], pair[0](images())) < 0.1


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_batch_norm_folds_into_convolutions(name: str) -> None:
    network = row(name)
    fused = fuse(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert difference(fused(images()), network(images())) < 1e-5


def test_pruning_and_parametrizations_change_the_same_weights(pair: Pair) -> None:
    found = []
    for network in pair:
        torch.manual_seed(0)  # of the power iterations
        layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=0.5)
        for layer in layers:
            prune.remove(layer, "weight")
            parametrizations.weight_norm(layer)
            parametrizations.spectral_norm(layer)
        weights = torch.cat([layer.weight.flatten() for layer in layers])
        assert (weights == 0).sum() == len(weights) // 2
        found.append(network(images()))
    assert_same(found[:1], found[1:])


# Attribution


LAYERS = {
    "last stage": ("stages.1", "features.3"),
    "block": ("stages.1.blocks.0", "features.3.0"),
    "depthwise convolution": ("stages.1.blocks.0.residual.spatial", "features.3.0.block.0"),
}
INPUT_METHODS: dict[str, Callable[[nn.Module], Tensor]] = {
    "IntegratedGradients": lambda network: attr.IntegratedGradients(network).attribute(
        images(), target=LABELS, n_steps=4
    ),
    "Saliency": lambda network: attr.Saliency(network).attribute(images(), target=LABELS),
    "InputXGradient": lambda network: attr.InputXGradient(network).attribute(images(), target=LABELS),
    "DeepLift": lambda network: attr.DeepLift(network).attribute(images(), target=LABELS),
    "GuidedBackprop": lambda network: attr.GuidedBackprop(network).attribute(images(), target=LABELS),
    "Occlusion": lambda network: attr.Occlusion(network).attribute(images(), (3, 16, 16), (3, 16, 16), target=LABELS),
    "NoiseTunnel": lambda network: attr.NoiseTunnel(attr.Saliency(network)).attribute(
        images(), target=LABELS, nt_samples=2
    ),
}
LAYER_METHODS: dict[str, Callable[[nn.Module, nn.Module], Tensor]] = {
    "LayerGradCam": lambda network, layer: attr.LayerGradCam(network, layer).attribute(images(), target=LABELS),
    "GuidedGradCam": lambda network, layer: attr.GuidedGradCam(network, layer).attribute(images(), target=LABELS),
    "LayerActivation": lambda network, layer: attr.LayerActivation(network, layer).attribute(images()),
    "LayerDeepLift": lambda network, layer: attr.LayerDeepLift(network, layer).attribute(images(), target=LABELS),
    "LayerConductance": lambda network, layer: attr.LayerConductance(network, layer).attribute(
        images(), target=LABELS, n_steps=4
    ),
}


@pytest.mark.parametrize("method", INPUT_METHODS)
def test_captum_attributes_to_the_same_pixels(pair: Pair, method: str) -> None:
    found = []
    for network in pair:
        torch.manual_seed(0)
        found.append(INPUT_METHODS[method](network).detach())
    assert_same(found[:1], found[1:])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("method", LAYER_METHODS)
def test_captum_attributes_to_the_same_channels(pair: Pair, method: str, layer: str) -> None:
    found = [
        LAYER_METHODS[method](network, network.get_submodule(name)).detach()
        for network, name in zip(pair, LAYERS[layer], strict=True)
    ]
    assert_same(found[:1], found[1:])


@pytest.mark.parametrize("name", ["resnet", "depthwise", "kernel-11"])
def test_deep_lift_accounts_for_all_of_the_output_if_the_activation_is_relu(name: str) -> None:
    """Captum refuses torchvision's ResNet, which calls one ReLU several times."""
    network = row(name).double()
    _, missing = attr.DeepLift(network).attribute(images(1).double(), target=1, return_convergence_delta=True)
    change = network(images(1).double()) - network(torch.zeros(1, 3, 32, 32).double())
    assert missing.abs() < 1e-9 < change[0, 1].abs()
    theirs = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=10).eval()
    with pytest.raises(RuntimeError, match="used more than once"):
        attr.DeepLift(theirs).attribute(images(1), target=1)


def test_deep_lift_is_input_times_gradient_without_rules_for_the_layers(pair: Pair) -> None:
    for network in pair:
        found = [INPUT_METHODS[method](network).detach() for method in ("DeepLift", "InputXGradient")]
        assert_same(found[:1], found[1:])


def test_captum_has_no_relevance_propagation_through_layer_norm_in_either_network(pair: Pair) -> None:
    for network in pair:
        with pytest.raises(TypeError, match="has no rule defined"):
            attr.LRP(network).attribute(images(), target=LABELS)


# Per-sample gradients


def per_sample(network: nn.Module) -> list[Tensor]:
    """Compute the gradients of single images one after the other."""
    found = []
    for image, label in zip(images(), LABELS, strict=True):
        loss = cross_entropy(network(image[None]), label[None])
        found.append(torch.autograd.grad(loss, list(network.parameters())))
    return [torch.stack(of_all) for of_all in zip(*found, strict=True)]


def by_opacus(network: nn.Module, **options: Any) -> list[Tensor]:
    wrapped = GradSampleModule(copy.deepcopy(network).train(), **options)
    cross_entropy(wrapped(images()), LABELS).backward()
    return [weights.grad_sample for weights in wrapped.parameters()]


@pytest.fixture
def undropped(pair: Pair) -> Pair:
    """The networks in training mode without stochastic depth."""
    for network in pair:
        network.train()
        for module in network.modules():
            if isinstance(module, StochasticDepth):
                module.rate = 0.0
            elif isinstance(module, torchvision.ops.StochasticDepth):
                module.p = 0.0
    return pair


def test_opacus_gives_per_sample_gradients_by_functorch(undropped: Pair) -> None:
    torch.manual_seed(0)
    v2 = modernize.build(V2, 10)
    with torch.no_grad():
        for weights in v2.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.1)
    for network in (*undropped, v2):
        assert_same(by_opacus(network, force_functorch=True), per_sample(network))


def norms_by_opacus(network: nn.Module) -> list[Tensor]:
    """Compute the norms of per-sample gradients, per parameter, by ghost clipping."""
    wrapped = GradSampleModuleFastGradientClipping(copy.deepcopy(network).train(), max_grad_norm=1.0)
    cross_entropy(wrapped(images()), LABELS).backward()
    return [weights._norm_sample for weights in wrapped.parameters()]


def norms(gradients: list[Tensor]) -> list[Tensor]:
    return [each.flatten(1).norm(dim=1) for each in gradients]


@pytest.fixture(params=["as opacus has it", "contiguous"])
def sampler(request: pytest.FixtureRequest) -> Iterator[str]:
    """The sampler of convolutions, without or with the remedy of the docs."""
    before = GradSampleModule.GRAD_SAMPLERS[nn.Conv2d]

    def contiguous(layer: nn.Conv2d, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        return compute_conv_grad_sample(layer, [each.contiguous() for each in activations], backprops)

    register_grad_sampler(nn.Conv2d)(contiguous if request.param == "contiguous" else compute_conv_grad_sample)
    yield request.param
    register_grad_sampler(nn.Conv2d)(before)


def test_opacus_hooks_need_contiguous_activations_in_either_network(undropped: Pair, sampler: str) -> None:
    for network in undropped:
        wanted = per_sample(network)
        for found, expected in ((by_opacus(network), wanted), (norms_by_opacus(network), norms(wanted))):
            if sampler == "contiguous":
                assert_same(found, expected)
            else:
                errors = [difference(*both) for both in zip(found, expected, strict=True)]
                assert max(errors) > 0.01, "opacus is right now: change docs/tools.md"


def test_opacus_cannot_use_expanded_weights_for_either_network(undropped: Pair) -> None:
    for network in undropped:
        wrapped = GradSampleModuleExpandedWeights(network)
        with pytest.raises(RuntimeError, match="cannot handle function"):
            wrapped(images())


def test_opacus_trains_privately(undropped: Pair) -> None:
    """Without noise, a step is along the sum of clipped gradients."""
    for network in undropped:
        gradients = per_sample(network)
        lengths = torch.stack(norms(gradients)).norm(dim=0)
        assert lengths.min() > 1
        before = [weights.detach().clone() for weights in network.parameters()]
        data = torch.utils.data.TensorDataset(images(), LABELS)
        private, optimizer, loader = PrivacyEngine().make_private(
            module=network,
            optimizer=torch.optim.SGD(network.parameters(), 0.1),
            data_loader=torch.utils.data.DataLoader(data, batch_size=3),
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            poisson_sampling=False,
            grad_sample_mode="functorch",
        )
        for batch, labels in loader:
            cross_entropy(private(batch), labels).backward()
            optimizer.step()
        clipped = [torch.einsum("n,n...->...", 1 / lengths, each) / 3 for each in gradients]
        expected = [old - 0.1 * step for old, step in zip(before, clipped, strict=True)]
        assert_same([weights.detach() for weights in network.parameters()], expected)


@pytest.mark.parametrize("name", ROWS)
def test_opacus_refuses_batch_norm_and_replaces_it(name: str) -> None:
    network = row(name).train()
    if name in WITH_BATCH_NORM:
        errors = ModuleValidator.validate(network)
        assert errors and all(isinstance(error, UnsupportedModuleError) for error in errors)
        network = ModuleValidator.fix(network)
    assert ModuleValidator.validate(network) == []
    if name in ("resnet", "kernel-7", "separate-downsampling"):
        assert_same(by_opacus(network, force_functorch=True), per_sample(network), 1e-4)


# ONNX


def by_onnxruntime(network: nn.Module, batch: Tensor, **options: Any) -> Tensor:
    file: Any = io.BytesIO()  # not in torch's annotation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (images(),), file, input_names=["images"], verbose=False, **options)
    session = onnxruntime.InferenceSession(file.getvalue())
    return torch.from_numpy(session.run(None, {"images": batch.numpy()})[0])


EXPORTERS: dict[str, dict[str, Any]] = {
    "export": {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim.AUTO},)},
    "trace": {"dynamo": False, "dynamic_axes": {"images": {0: "batch"}}},
}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_onnxruntime_computes_the_same_for_another_batch_size(pair: Pair, exporter: str) -> None:
    batch = images(5, seed=1)
    wanted = pair[1](batch).detach()
    for network in pair:
        assert_same([by_onnxruntime(network, batch, **EXPORTERS[exporter])], [wanted])


@pytest.mark.parametrize("name", ["resnet", "kernel-7", "fewer-norms"])
def test_onnxruntime_computes_what_rows_with_batch_norm_compute(name: str) -> None:
    network = row(name)
    assert_same([by_onnxruntime(network, images(), dynamo=False)], [network(images()).detach()])


# Counters


def macs_of(network: nn.Module, size: int, norm: type[nn.Module]) -> dict[str, Any]:
    """Count with the counters that know, or are told, what LayerNorm over channels is."""
    image, kept = images(1, size), io.StringIO()
    counts: dict[str, Any] = {"fvcore": fvcore_macs(network, size)}
    with FlopCounterMode(display=False) as counter:
        network(image)
    counts["FlopCounterMode"] = counter.get_total_flops()
    by_ptflops = {"as_strings": False, "print_per_layer_stat": False, "ost": kept}
    for backend in ("aten", "pytorch"):
        counts[f"ptflops {backend}"] = get_model_complexity_info(
            copy.deepcopy(network),
            (3, size, size),
            backend=backend,
            custom_modules_hooks={norm: bn_flops_counter_hook},
            **by_ptflops,
        )
    counts["thop"] = thop.profile(
        copy.deepcopy(network), (image,), custom_ops={norm: count_normalization}, verbose=False
    )
    return counts


def fvcore_macs(network: nn.Module, size: int) -> int:
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    return int(FlopCountAnalysis(network, images(1, size)).unsupported_ops_warnings(False).total())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_counters_count_the_same(undropped: Pair, gradients: bool, training: bool) -> None:
    ours, theirs = (network.train(training) for network in undropped)
    with torch.set_grad_enabled(gradients):
        assert macs_of(ours, 32, LayerNorm2d) == macs_of(theirs, 32, convnext.LayerNorm2d)


def test_convnext_tiny_has_as_many_macs_as_torchvisions_with_gradients() -> None:
    theirs = fvcore_macs(torchvision.models.convnext_tiny().train(), 224)
    assert fvcore_macs(modernize.build("convnext_tiny").train(), 224) == theirs == 4_470_437_376


def test_the_profiler_counts_the_same_convolutions_and_matrix_products(undropped: Pair) -> None:
    found = []
    for network in undropped:
        with profile(with_flops=True) as record:
            network(images())
        flops = {event.key: event.flops for event in record.key_averages()}
        found.append(flops["aten::conv2d"] + flops["aten::addmm"])
    assert found[0] == found[1] > 0


def test_torchinfo_sees_every_parameter_and_convolution(pair: Pair) -> None:
    """It misses torchvision's layer scale, and counts a linear layer at one position only."""
    summary = torchinfo.summary(pair[0], input_data=images(1), depth=10, verbose=0)
    assert summary.total_params == summary.trainable_params == modernize.count(SMALL, num_classes=10).params
    assert summary.total_param_bytes == 4 * summary.total_params
    macs = modernize.count(SMALL, 32, num_classes=10).macs
    assert macs < summary.total_mult_adds < 1.05 * macs
    assert "LayerScale" in str(summary) and "Recursive" not in str(summary)
