"""Residual branches that start at zero: as torchvision's and timm's networks, and for every design that allows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from commands import ablations_here
from torch import nn

import modernize
from ablations.data.datasets import DataSet, load
from ablations.errors import RequestError
from ablations.recipe_checks import Facts, doubts
from ablations.recipes import TrainingConfig
from ablations.studies.networks import build_network, check_network, least_fan_in
from ablations.studies.run import RunConfig
from modernize import DesignError
from modernize.network import Block, GlobalResponseNorm
from modernize.reference import build_reference, is_reference

ROWS = {row.name: row.design for row in modernize.roadmap("pocket").rows}
OTHERS = ("pocket@separate-downsampling,grn=on", "pocket,norm=ln", "convnext_tiny,layer_scale=off,depths=1-1,width=8")


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def blocks(network: nn.Module) -> list[Block]:
    return [module for module in network.modules() if isinstance(module, Block)]


def run(what: str, **changes: Any) -> RunConfig:
    recipe = TrainingConfig(**{"max_epochs": 1, "batch_size": 64, "learning_rate": 1e-3, **changes})
    named: dict[str, Any] = {"flags": {}, "reference": what} if is_reference(what) else {}
    named = named or {"flags": modernize.design(what).flags()}
    return RunConfig(row="r", label="r", **named, recipe_name="mine", recipe=recipe, data="digits", seed=0)


@pytest.mark.parametrize("design", [*ROWS.values(), *OTHERS], ids=[*ROWS, *OTHERS])
def test_every_block_starts_as_its_shortcut_and_learns(design: Any) -> None:
    torch.manual_seed(0)
    network = modernize.build(design, 10, 1, zero_init_residual=True, init="lecun_normal")
    branches: list[torch.Tensor] = []
    for block in blocks(network):
        block.residual.register_forward_hook(lambda *args: branches.append(args[-1]))
    network(torch.randn(4, 1, 32, 32)).square().sum().backward()
    assert len(branches) == len(blocks(network)) > 1
    assert not any(branch.any() for branch in branches)
    for block in blocks(network):
        grn = [module.weight for module in block.modules() if isinstance(module, GlobalResponseNorm)]
        (start,) = (
            weights
            for name, weights in block.named_parameters()
            if name.endswith("weight") and not weights.any() and not any(weights is one for one in grn)
        )
        assert start.grad is not None and start.grad.any(), "a branch that gets no gradient stays at zero"


def test_nothing_else_changes_and_it_is_off_by_default() -> None:
    def drawn(**options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return modernize.build("pocket", 10, 1, **options).state_dict()

    plain, zeroed = drawn(), drawn(zero_init_residual=True)
    changed = {name for name, weights in plain.items() if not torch.equal(weights, zeroed[name])}
    assert changed == {name for name in plain if name.endswith("residual.pointwise2_norm.weight")}
    assert len(changed) == len(blocks(modernize.build("pocket"))) and not any(zeroed[name].any() for name in changed)
    off = drawn(zero_init_residual=False)
    assert all(torch.equal(weights, off[name]) for name, weights in plain.items())


def test_the_zeros_are_those_of_torchvisions_resnet() -> None:
    theirs = build_reference("torchvision:resnet50", zero_init_residual=True)
    ours = modernize.export_weights(modernize.build("resnet50", init="kaiming", zero_init_residual=True), "torchvision")
    zeros = {name for name, weights in theirs.named_parameters() if name.endswith("weight") and not weights.any()}
    assert {name for name, weights in ours.items() if name.endswith("weight") and not weights.any()} == zeros
    assert len(zeros) == 16


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvisions_networks_have_their_own_zeros(name: str) -> None:
    torch.manual_seed(0)
    mine = build_reference(f"torchvision:{name}", 10, zero_init_residual=True).state_dict()
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=10, zero_init_residual=True).state_dict()
    assert all(torch.equal(weights, theirs[key]) for key, weights in mine.items()) and mine.keys() == theirs.keys()


@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18"])
def test_timms_networks_have_their_own_zeros(name: str) -> None:
    """Those of its ResNet are zero by default; those of its ResNetV2 are not."""
    torch.manual_seed(0)
    mine = build_reference(f"timm:{name}", 10, zero_init_residual=True).state_dict()
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=10, zero_init_last=True).state_dict()
    assert all(torch.equal(weights, theirs[key]) for key, weights in mine.items()) and mine.keys() == theirs.keys()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "pocket,layer_scale=1e-6",
            "residual branches end in layer scale, which starts at 1e-06; set zero_init_residual ",
        ),
        ("torchvision:swin_t", "the residual branches of SwinTransformer are not known; it supports designs, "),
        ("timm:test_efficientnet", "the residual branches of EfficientNet are not known; it supports designs, "),
    ],
)
def test_a_network_that_cannot_start_so_is_refused_before_anything_trains(
    digits: DataSet, what: str, words: str
) -> None:
    run(what).check(digits)
    with pytest.raises(RequestError, match="zero_init_residual: ") as caught:
        run(what, zero_init_residual=True, image_size=32).check(digits)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(" (r on digits, recipe mine)")


def test_a_users_function_is_checked_with_the_classes_and_channels_of_the_dataset(
    digits: DataSet, tmp_path: Path
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torchvision.models import resnet18\n"
        "def ten(num_classes, in_channels):\n"
        "    assert (num_classes, in_channels) == (10, 1)\n"
        "    return resnet18(num_classes=10)\n"
    )
    for settings in ({"zero_init_residual": True}, {"mup_fan_in": 64}, {"layer_decay": 0.9}):
        config = run(f"{file}:ten", **settings)
        check_network(config, digits)
        assert least_fan_in(config, digits) == (64 if "mup_fan_in" in settings else 0)


@pytest.mark.parametrize("what", ["pocket", "torchvision:resnet18"])
def test_the_recipe_has_the_networks_of_a_run_start_so(digits: DataSet, what: str) -> None:
    for zeroed in (False, True):
        config = run(what, zero_init_residual=zeroed)
        config.check(digits)
        norms = [module for module in build_network(config, digits).modules() if isinstance(module, nn.BatchNorm2d)]
        assert any(not norm.weight.any() for norm in norms) == zeroed


def test_a_plugins_layer_at_the_end_of_a_branch_is_refused(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs/plugins.md").read_text(encoding="utf-8")
    (tmp_path / "squeeze.py").write_text(text.split("```python\n")[1].split("```")[0])
    study = ("run", "sweep", "--base", "pocket", "--flags", "se=off:4", "--data", "digits", "--set", "batch_size=32")
    done = ablations_here(*study, "--dry-run", "--set", "zero_init_residual=true", "--plugin", tmp_path / "squeeze.py")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "zero_init_residual: a residual branch ends in squeeze excitation 48, and must end in a norm" in done.stderr


def test_a_warning_says_that_weights_to_start_from_take_the_place_of_zeros() -> None:
    recipe = TrainingConfig(max_epochs=1, batch_size=64, learning_rate=1e-3, zero_init_residual=True)
    for given in (None, False, True):
        found = doubts(recipe, Facts(10_000, 1000, 10, from_weights=given))
        assert found == (["zero_init_residual: residual branches start from --weights, not at zero"] if given else [])


def test_an_invalid_value_is_refused_in_one_line() -> None:
    with pytest.raises(DesignError, match=r"^zero_init_residual=1: must be True or False$"):
        modernize.build("pocket", zero_init_residual=1)  # type: ignore[arg-type]
