"""Weights as they are found: in files and checkpoints, with prefixes, other classes, other channels, other types."""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.models._manipulate import adapt_input_conv
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from weight_peers import Official, OfficialV2, assert_same_logits, assert_same_state, randomise

import modernize
from ablations import Trainer, TrainingConfig
from modernize import WeightsError, build, export_weights, load_weights
from modernize.network import Network
from modernize.weights import NAMES

TINY = "convnext_tiny,depths=1-1,width=4,kernel_size=3"
FLAT = "convnext_tiny,depths=1-1,width=4"
V2 = "convnextv2_tiny,depths=1-1,width=4"
FOUR_STAGES = "convnext_tiny,depths=1-1-1-1,width=4"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def refusal(network: Network, source: Any, **options: bool) -> str:
    """What loading is refused with: one line, and the network as it was."""
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(WeightsError) as error:
        load_weights(network, source, **options)
    assert_same_state(network.state_dict(), before)
    assert "\n" not in str(error.value)
    return str(error.value)


def warned(network: Network, source: Any, **options: bool) -> list[str]:
    """What loading warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_weights(network, source, **options)
    assert all(one.category is UserWarning and one.filename == __file__ for one in caught)
    return [str(one.message) for one in caught]


def timms(**options: Any) -> nn.Module:
    small: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (4, 8, 16, 32), "num_classes": 5}
    return timm.models.convnext.ConvNeXt(**small | options)


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in weights.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "backbone.", "net.model."]
)
@pytest.mark.parametrize("layout", NAMES)
def test_a_prefix_of_all_keys_is_removed(prefix: str, layout: str) -> None:
    source, network = randomise(build(TINY)), build(TINY)
    weights = export_weights(source, layout)
    assert load_weights(network, prefixed(prefix, weights)) == layout
    assert_same_state(network.state_dict(), source.state_dict())
    less = dict(list(prefixed(prefix, weights).items())[1:])
    assert f"missing {prefix.replace('_orig_mod.', '')}{next(iter(weights))}" in refusal(network, less)


def test_what_does_not_have_the_prefix_is_named() -> None:
    weights = export_weights(build(TINY), "timm")
    lightning = {"state_dict": prefixed("model.", weights) | {"criterion.weight": torch.ones(5)}, "epoch": 3}
    assert refusal(build(TINY), lightning).endswith("does not fit this network: unexpected criterion.weight")
    odd = refusal(build(TINY), weights | {"stem.\n2": torch.ones(5)})
    assert odd.endswith("does not fit this network: unexpected stem.\\n2")
    both = prefixed("_orig_mod.", weights) | weights
    assert f"{len(weights)} keys are there twice" in refusal(build(TINY), both)


@pytest.mark.parametrize("name", ["model_ema", "state_dict_ema", "averaged"])
def test_averaged_weights_are_taken_on_request(name: str, tmp_path: Path) -> None:
    plain, averaged, network = randomise(Official((1, 1), 4)), randomise(Official((1, 1), 4)), build(FLAT, 5)
    weights = averaged.state_dict() if name == "model_ema" else ModelEmaV3(averaged).state_dict()
    where = "state_dict" if name == "state_dict_ema" else "model"
    arguments = argparse.Namespace(model="convnext_tiny", lr=4e-3, opt_betas=None)
    torch.save({where: plain.state_dict(), name: weights, "args": arguments, "epoch": 3}, tmp_path / "checkpoint.pth")
    assert load_weights(network, tmp_path / "checkpoint.pth") == "official"
    assert_same_logits(network, plain)
    assert load_weights(network, tmp_path / "checkpoint.pth", averaged=True) == "official"
    assert_same_logits(network, averaged)


def test_a_saved_average_of_torch_is_averaged() -> None:
    source, network = randomise(build(TINY)), build(TINY)
    average = AveragedModel(source)
    average.update_parameters(source)
    for averaged in (False, True):
        assert load_weights(network, average.state_dict(), averaged=averaged) == "native"
        assert_same_state(network.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    "content",
    [lambda weights: weights, lambda weights: {"model": weights}, lambda weights: {"model": weights, "averaged": None}],
    ids=["weights", "checkpoint", "run-without-average"],
)
def test_where_nothing_is_averaged_it_is_refused(content: Callable[[Any], Any]) -> None:
    weights = content(export_weights(build(TINY), "native"))
    message = "the state dict: has no averaged (EMA) weights; load it without averaged=True"
    assert refusal(build(TINY), weights, averaged=True) == message


@pytest.mark.filterwarnings("ignore:the test set has", "ignore:training ends after", "ignore:ema_decay")
def test_checkpoints_of_our_runs(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)
    config = TrainingConfig(max_epochs=1, batch_size=4, learning_rate=0.1, ema_decay=0.5)
    trainer = Trainer(build(TINY, num_classes=4), data, data, config, folder=tmp_path)
    trainer.train()
    (path,) = (tmp_path / "checkpoints").glob("step-*.pt")
    network = build(TINY, num_classes=4)
    assert load_weights(network, path) == "native"
    assert_same_state(network.state_dict(), trainer.model.state_dict())
    assert load_weights(network, path, averaged=True) == "native"
    assert trainer.averaged
    assert_same_state(network.state_dict(), trainer.averaged.module.state_dict())
    whole = path.read_bytes()
    for at in (len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:at])
        assert refusal(network, path) == f"{path}: not a file of tensors saved by torch"


@pytest.mark.parametrize("layout", NAMES)
def test_safetensors_are_written_and_read(layout: str, tmp_path: Path) -> None:
    source, network = randomise(build(TINY)), build(TINY)
    path = tmp_path / "weights.safetensors"
    save_file(export_weights(source, layout), path)
    assert_same_state(dict(sorted(load_file(path).items())), dict(sorted(export_weights(source, layout).items())))
    assert load_weights(network, path) == layout
    assert_same_state(network.state_dict(), source.state_dict())
    renamed = path.rename(tmp_path / "model.bin")
    assert load_weights(network, str(renamed)) == layout


def test_safetensors_of_timm_are_read(tmp_path: Path) -> None:
    peer, network = randomise(timms()), build(FOUR_STAGES, num_classes=5)
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    assert load_weights(network, tmp_path / "model.safetensors") == "timm"
    assert_same_logits(network, peer)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    network, path = build(TINY), tmp_path / "weights.pt"
    torch.save(export_weights(network, "timm"), path)
    whole = path.read_bytes()
    with torch.no_grad():
        weight = network.state_dict()["stem.conv.weight"].numpy().tobytes()
    at = whole.index(weight)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert refusal(network, path) == f"{path}: corrupt: its checksums do not match"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(export_weights(network, "timm"), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_weights(network, path) == "timm"
    torch.save(export_weights(network, "timm"), path, _use_new_zipfile_serialization=False)
    assert load_weights(network, path) == "timm"


def test_corrupt_safetensors_are_refused(tmp_path: Path) -> None:
    network, path = build(TINY), tmp_path / "weights.safetensors"
    save_file(export_weights(network, "timm"), path)
    whole = path.read_bytes()
    torch.save(export_weights(network, "timm"), tmp_path / "weights.pt")
    for content in (whole[:-1], whole[:100], whole[:9], b"", b"\xff" * 64, (tmp_path / "weights.pt").read_bytes()):
        path.write_bytes(content)
        assert refusal(network, path) == f"{path}: not a file of safetensors, or cut off"
    assert refusal(network, tmp_path / "no.safetensors").endswith("cannot be read (No such file or directory)")
    assert refusal(network, "a\0b").endswith("a\\x00b: cannot be read (embedded null byte)")


@pytest.mark.parametrize("source", [None, 3, b"weights.pt", nn.Linear(2, 2), [torch.zeros(2)]], ids=repr)
def test_what_is_no_source_is_refused(source: Any) -> None:
    message = refusal(build(TINY), source)
    assert f"source: must be a state dict or the path of a file, not a {type(source).__name__}" in message
    assert message.endswith("; pass its state_dict()") == isinstance(source, nn.Module)


@pytest.mark.parametrize("layout", NAMES)
@pytest.mark.parametrize("classes", [10, 5, 0])
def test_all_but_the_classifier_is_loaded(layout: str, classes: int) -> None:
    source, network = randomise(build(TINY, num_classes=classes or 1)), build(TINY, num_classes=5)
    weights = export_weights(source, layout)
    if not classes:
        weights = dict(list(weights.items())[:-2])
        assert "classifier=False leaves the classifier out" in refusal(network, weights)
    before = copy.deepcopy(network.state_dict())
    assert load_weights(network, weights, classifier=False) == layout
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, (before if key.startswith("head.linear") else source.state_dict())[key]), key


@pytest.mark.parametrize("layout", NAMES)
def test_networks_without_a_classifier_are_exported_and_loaded(layout: str) -> None:
    source, network = randomise(build(TINY, num_classes=0)), build(TINY, num_classes=0)
    exported = export_weights(source, layout)
    assert load_weights(network, exported) == layout
    assert_same_state(network.state_dict(), source.state_dict())
    classified = export_weights(randomise(build(TINY, num_classes=3)), layout)
    assert "unexpected " in (message := refusal(network, classified))
    assert message.endswith("; classifier=False leaves the classifier out")
    load_weights(network, classified, classifier=False)
    assert_same_state(export_weights(network, layout), dict(list(classified.items())[:-2]))


def test_a_network_without_a_classifier_is_timms() -> None:
    peer, network = randomise(timms(num_classes=0)), build(FOUR_STAGES, num_classes=0)
    assert load_weights(network, peer.state_dict()) == "timm"
    assert_same_logits(network, peer)
    assert_same_state(export_weights(network, "timm"), peer.state_dict())


def test_a_file_without_the_norm_before_the_classifier_leaves_it_and_says_so() -> None:
    peer, network = randomise(OfficialV2((1, 1), 4)), build(V2, num_classes=5)
    pretrained = {key: tensor for key, tensor in peer.state_dict().items() if key.split(".")[0] not in ("norm", "head")}
    assert refusal(network, pretrained).endswith(
        "missing norm.weight, norm.bias, head.weight and 1 more; classifier=False leaves the classifier out"
    )
    message = "the state dict: has no norm before the classifier; the network's stays as it is"
    assert warned(network, {"model": pretrained}, classifier=False) == [message]
    for part, names in ((peer, ("norm", "head")), (network.head, ("norm", "linear"))):
        for name in names:
            setattr(part, name, nn.Identity())
    assert_same_logits(network, peer)
    halves = pretrained | {"norm.weight": torch.ones(8)}
    assert refusal(build(V2), halves, classifier=False).endswith("does not fit this network: missing norm.bias")


def test_sparse_kernels_of_pretraining_are_refused_with_the_reason() -> None:
    weights = export_weights(build(V2), "official")
    sparse = {
        "encoder." + key.replace("dwconv.weight", "dwconv.kernel"): tensor
        for key, tensor in weights.items()
        if key.split(".")[0] not in ("norm", "head")
    }
    message = refusal(build(V2), sparse | {"mask_token": torch.zeros(1, 512, 1, 1)}, classifier=False)
    assert message == (
        "the state dict: has sparse kernels of FCMAE pretraining such as encoder.stages.0.0.dwconv.kernel; convert the "
        "file with remap_checkpoint_keys of the official code"
    )


def test_timms_other_heads() -> None:
    hidden, network = randomise(timms(head_hidden_size=12)), build(FOUR_STAGES, num_classes=5)
    assert "unexpected head.pre_logits.fc.weight" in refusal(network, hidden.state_dict())
    assert load_weights(network, hidden.state_dict(), classifier=False) == "timm"
    headless = randomise(timms(num_classes=0))
    assert load_weights(network, headless.state_dict(), classifier=False) == "timm"
    network.head.linear = cast("nn.Linear", nn.Identity())
    assert_same_logits(network, headless)
    norm_first = timms(head_norm_first=True).state_dict()
    for classifier in (True, False):
        message = refusal(build(FOUR_STAGES, num_classes=5), norm_first, classifier=classifier)
        assert "missing head.norm.weight, head.norm.bias; unexpected norm_pre.weight, norm_pre.bias" in message


def test_networks_that_differ_in_a_norm_are_refused() -> None:
    with torch.device("meta"):
        rms = timms(norm_layer="rmsnorm2d")
        overlapped = timms(stem_type="overlap")
        block: Any = timm.models.resnet.Bottleneck
        grouped = timm.models.resnet.ResNet(block, (1, 1, 1, 1), norm_layer="groupnorm")
    zeros = {
        peer: {key: torch.zeros(tensor.shape) for key, tensor in peer.state_dict().items()}
        for peer in (rms, overlapped, grouped)
    }
    network = build(FOUR_STAGES, num_classes=5)
    assert "missing stem.1.bias, " in refusal(network, zeros[rms])
    assert "shapes stem.0.weight is 4×3×3×3, needs 4×3×4×4" in refusal(network, zeros[overlapped])
    assert "missing bn1.running_mean" in refusal(build("resnet50,depths=1-1-1-1"), zeros[grouped])


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_stem_for_three_channels_is_fitted_as_timm_does(channels: int, dtype: torch.dtype) -> None:
    peer, network = randomise(timms()), build(FOUR_STAGES, num_classes=5, in_channels=channels)
    weights = {key: tensor.to(dtype) for key, tensor in peer.state_dict().items()}
    how = "summed for 1" if channels == 1 else f"repeated for {channels} and multiplied by 3/{channels}"
    assert warned(network, weights) == [f"the state dict: stem.0.weight has 3 input channels, {how}"]
    wanted = adapt_input_conv(channels, weights["stem.0.weight"]).to(torch.float32)
    torch.testing.assert_close(
        network.state_dict()["stem.conv.weight"], wanted, rtol=1e-6, atol=0 if channels > 1 else 1e-6
    )
    if dtype is torch.float32:
        theirs = timms(in_chans=channels)
        theirs.load_state_dict(weights | {"stem.0.weight": wanted})
        images = torch.randn(2, channels, 32, 32)
        torch.testing.assert_close(network.eval()(images), theirs.eval()(images))


def test_resnets_stem_is_fitted_too() -> None:
    small = "resnet50,depths=1-1,width=4"
    source, network = randomise(build(small)), build(small, in_channels=1)
    assert warned(network, export_weights(source, "torchvision")) == [
        "the state dict: conv1.weight has 3 input channels, summed for 1"
    ]
    gray = torch.randn(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(gray), source(gray.expand(-1, 3, -1, -1)))


def test_other_numbers_of_channels_are_refused() -> None:
    weights = export_weights(build(TINY, in_channels=4), "timm")
    assert refusal(build(TINY), weights).endswith("shapes stem.0.weight is 4×4×4×4, needs 4×3×4×4")
    gray = export_weights(build(TINY, in_channels=1), "timm")
    assert refusal(build(TINY, in_channels=4), gray).endswith("shapes stem.0.weight is 4×1×4×4, needs 4×4×4×4")


def test_a_warning_that_is_an_error_leaves_the_network_as_it_was() -> None:
    network = build(TINY, in_channels=1)
    before = copy.deepcopy(network.state_dict())
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        load_weights(network, export_weights(build(TINY), "timm"))
    assert_same_state(network.state_dict(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_types_are_converted(dtype: torch.dtype) -> None:
    source, network = randomise(build(TINY)), build(TINY)
    load_weights(network, {key: tensor.to(dtype) for key, tensor in export_weights(source, "timm").items()})
    for key, tensor in network.state_dict().items():
        assert tensor.dtype is torch.float32
        assert torch.equal(tensor, source.state_dict()[key].to(dtype).float())
    half = build(TINY).to(dtype)
    load_weights(half, export_weights(source, "timm"))
    assert torch.equal(half.state_dict()["stem.conv.weight"], source.state_dict()["stem.conv.weight"].to(dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_other_types_are_refused(dtype: torch.dtype) -> None:
    weights = export_weights(build(TINY), "timm")
    changed = weights | {"stem.1.bias": weights["stem.1.bias"].to(dtype)}
    name = str(dtype).removeprefix("torch.")
    assert refusal(build(TINY), changed).endswith(f"does not fit this network: not floating-point stem.1.bias ({name})")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantized_weights_are_refused() -> None:
    weights = export_weights(build(TINY), "timm")
    quantized = torch.quantize_per_tensor(weights["stem.0.weight"], 0.1, 0, torch.qint8)
    assert refusal(build(TINY), weights | {"stem.0.weight": quantized}).endswith("dense tensors: stem.0.weight")


FLAGS: dict[str, st.SearchStrategy[Any]] = {
    "depths": st.lists(st.integers(1, 2), min_size=1, max_size=3).map(tuple),
    "width": st.integers(1, 4),
    "stem": st.sampled_from(["resnet", "patchify"]),
    "stem_stride": st.sampled_from([1, 2, 4]),
    "depthwise": st.booleans(),
    "inverted_bottleneck": st.booleans(),
    "depthwise_first": st.booleans(),
    "kernel_size": st.sampled_from([1, 3, 5]),
    "activation": st.sampled_from(["relu", "gelu"]),
    "fewer_activations": st.booleans(),
    "norm": st.sampled_from(["bn", "ln"]),
    "fewer_norms": st.booleans(),
    "separate_downsampling": st.booleans(),
    "layer_scale": st.sampled_from([None, 0.1]),
    "grn": st.booleans(),
}


@settings(max_examples=60, deadline=None)
@given(
    base=st.sampled_from(list(modernize.MODELS)),
    flags=st.lists(st.sampled_from(list(FLAGS)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: FLAGS[name] for name in names})
    ),
    layout=st.sampled_from(NAMES),
    classes=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 4]),
)
def test_what_is_exported_comes_back_whole(
    base: str, flags: dict[str, Any], layout: str, classes: int, channels: int
) -> None:
    small = {"depths": (1,) * min(len(modernize.MODELS[base].depths), 2), "width": 4}
    design = modernize.MODELS[base].with_flags(small | flags)
    source, network = (randomise(build(design, classes, channels)) for _ in range(2))
    try:
        exported = export_weights(source, layout)
    except WeightsError as error:
        assert "cannot express this network: " in str(error) and "\n" not in str(error)
        assert layout != "native"
        return
    loaded = load_weights(network, exported)
    assert loaded == layout or (layout == "timm" and not design.depthwise)  # timm's ResNet is torchvision's
    assert_same_state(network.state_dict(), source.state_dict())
    assert len(exported) == len(source.state_dict())


SOURCES = {
    (design, layout): export_weights(build(design, num_classes=3), layout)
    for design, layout in ((TINY, "torchvision"), (TINY, "timm"), (V2, "official"), (V2, "native"))
}
FAULTS: dict[str, Callable[[dict[str, Tensor], str], dict[str, Any]]] = {
    "missing": lambda weights, key: {name: tensor for name, tensor in weights.items() if name != key},
    "renamed": lambda weights, key: {name + "_" * (name == key): tensor for name, tensor in weights.items()},
    "added": lambda weights, key: weights | {f"{key}.extra": torch.zeros(2)},
    "longer": lambda weights, key: weights | {key: torch.cat([weights[key], weights[key]])},
    "deeper": lambda weights, key: weights | {key: torch.stack([weights[key], weights[key]])},
    "integer": lambda weights, key: weights | {key: weights[key].int()},
    "text": lambda weights, key: weights | {key: "weights"},
    "meta": lambda weights, key: weights | {key: weights[key].to("meta")},
    "sparse": lambda weights, key: weights | {key: weights[key].to_sparse()},
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(SOURCES)), st.sampled_from(list(FAULTS)), st.booleans(), st.data())
def test_one_fault_is_enough_to_refuse_all(
    which: tuple[str, str], fault: str, prefix: bool, data: st.DataObject
) -> None:
    weights = SOURCES[which]
    key = data.draw(st.sampled_from(list(weights)))
    network = build(which[0], num_classes=3)
    faulty = FAULTS[fault](weights, key)
    assert key in refusal(network, prefixed("module.", faulty) if prefix else faulty)
    assert load_weights(network, weights) == which[1]
