"""torchvision's networks as reference rows: counted as torchvision prints them, trained and reported as any row."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torchvision
import yaml
from commands import ablations_here
from torchvision.ops import StochasticDepth

from ablations.cli import run_command
from ablations.data.datasets import DataSet, load
from ablations.recipes import TrainingConfig
from ablations.store import read_json
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig, build_network
from ablations.training.trainer import Trainer
from modernize import Cost, count
from modernize.count_operations import count_operations
from modernize.design import DesignError
from modernize.reference import build_reference, has_stochastic_depth

MODELS = torchvision.models.list_models(module=torchvision.models)
# What torchvision prints of Inception is with the second classifier that only training uses; ours has none.
SECOND_CLASSIFIER = {"inception_v3": 3_326_696}
CONVOLUTIONAL = ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "convnext_tiny", "shufflenet_v2_x1_0"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_the_count_is_what_torchvision_prints(name: str) -> None:
    """At the size that torchvision's weights are for; its figure is in G, to three decimals."""
    printed = torchvision.models.get_model_weights(name).DEFAULT
    (size,) = printed.transforms().crop_size
    found = count(f"torchvision:{name}", size)
    assert found.params == printed.meta["num_params"] - SECOND_CLASSIFIER.get(name, 0)
    assert found.gflops == pytest.approx(printed.meta["_ops"], abs=6e-4)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_designs_and_references_are_counted_alike(name: str) -> None:
    """By fvcore, as our own networks, and by torch's counter."""
    with torch.device("meta"):
        net = torchvision.models.get_model(name).eval()
    params = sum(weights.numel() for weights in net.parameters())
    assert count(f"torchvision:{name}", 64) == Cost(params, *count_operations(net, (3, 64, 64))[""])


def test_our_networks_count_as_torchvisions() -> None:
    for ours, theirs in (("resnet50", "resnet50"), ("convnext_tiny", "convnext_tiny")):
        assert count(ours) == count(f"torchvision:{theirs}")


def test_attention_is_counted() -> None:
    """Swin-T by hand: windows of 49 positions, four stages of so many positions, channels and blocks."""
    stages = ((56**2, 96, 2), (28**2, 192, 2), (14**2, 384, 6), (7**2, 768, 2))
    products = sum(2 * 49 * positions * channels * blocks for positions, channels, blocks in stages)
    linear = sum(12 * positions * channels**2 * blocks for positions, channels, blocks in stages)
    merging = sum(positions * 2 * channels * channels for positions, channels, _ in stages[1:])
    stem, head = 56**2 * 96 * 4 * 4 * 3, 768 * 1000
    assert count("torchvision:swin_t").macs == products + linear + merging + stem + head


def test_counting_draws_and_allocates_nothing() -> None:
    """vit_h_14's weights are 2.5 GB."""
    import resource

    before, peak = torch.get_rng_state(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert count("torchvision:vit_h_14").params == 632_045_800
    assert torch.equal(before, torch.get_rng_state())
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit < 1e9


# Building ------------------------------------------------------------------------------------------------------------


def test_a_reference_is_torchvisions_network_with_its_initialisation() -> None:
    torch.manual_seed(3)
    ours = build_reference("torchvision:shufflenet_v2_x0_5", num_classes=7)
    torch.manual_seed(3)
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "squeezenet1_1"])
def test_images_of_one_channel_are_shown_three_times(name: str) -> None:
    torch.manual_seed(3)
    ours = build_reference(f"torchvision:{name}", num_classes=7, in_channels=1).eval()
    torch.manual_seed(3)
    theirs = torchvision.models.get_model(name, num_classes=7).eval()
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(grey), theirs(grey.repeat(1, 3, 1, 1)))
    assert count(f"torchvision:{name}", 64, in_channels=1) == count(f"torchvision:{name}", 64)


@pytest.mark.parametrize("name", ["swin_t", "convnext_tiny", "efficientnet_b0", "maxvit_t"])
def test_stochastic_depth_is_the_recipes_and_grows_linearly(name: str) -> None:
    net = build_reference(f"torchvision:{name}", 10, drop_path_rate=0.3)
    rates = [module.p for module in net.modules() if isinstance(module, StochasticDepth)]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3)
    assert rates == pytest.approx([0.3 * place / (len(rates) - 1) for place in range(len(rates))])
    assert has_stochastic_depth(f"torchvision:{name}")


def run_of(reference: str, rate: float, **changes: Any) -> RunConfig:
    recipe = TrainingConfig(
        **{"max_epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "drop_path_rate": rate, "image_size": 32, **changes}
    )
    return RunConfig(
        row="r", label="r", flags={}, reference=reference, recipe_name="r", recipe=recipe, data="digits", seed=0
    )


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "regnet_y_400mf"])
def test_a_network_without_stochastic_depth_says_so_where_the_recipe_has_it(name: str) -> None:
    plain = "torchvision's network and initialization"
    assert not has_stochastic_depth(f"torchvision:{name}")
    assert run_of(f"torchvision:{name}", 0.1).note == f"{plain} and without stochastic depth, which it lacks"
    assert run_of(f"torchvision:{name}", 0.0).note == plain
    assert run_of("torchvision:swin_t", 0.1).note == plain


@pytest.mark.parametrize(
    ("name", "size", "channels", "says"),
    [
        ("swin_tt", 224, 3, "unknown torchvision model 'swin_tt': did you mean 'swin_t'?"),
        ("", 224, 3, "unknown torchvision model ''"),
        ("fcn_resnet50", 224, 3, "unknown torchvision model 'fcn_resnet50'"),
        ("raft_large", 224, 3, "unknown torchvision model 'raft_large'"),
        ("vit_b_16", 100, 3, "torchvision:vit_b_16: does not take images of 100 px ("),
        ("alexnet", 16, 3, "torchvision:alexnet: does not take images of 16 px ("),
        ("maxvit_t", 100, 3, "torchvision:maxvit_t: does not take images of 100 px ("),
        ("resnet18", 64, 2, "torchvision:resnet18: torchvision's models take images of 1 or 3 channels, not 2"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, size: int, channels: int, says: str) -> None:
    with pytest.raises(DesignError) as caught:
        count(f"torchvision:{name}", size, channels)
    assert str(caught.value).startswith(says) and "\n" not in str(caught.value)


def test_swin_trains_under_the_recipe() -> None:
    digits: DataSet = load("digits", Path("unused"), 32)
    run = run_of("torchvision:swin_t", 0.1, label_smoothing=0.1)
    torch.manual_seed(0)
    net = build_network(run, digits)
    train, test = digits.train.take(torch.arange(16)), digits.test.take(torch.arange(4))
    before = {name: weights.detach().clone() for name, weights in net.named_parameters()}
    result = Trainer(net, train, test, run.recipe, device="cpu").train()
    assert result.images_seen == 16
    assert all(not torch.equal(weights, before[name]) for name, weights in net.named_parameters() if weights.ndim == 4)


# Studies and the command line ----------------------------------------------------------------------------------------

SMALL = {"max_epochs": 1, "batch_size": 64, "learning_rate": 1e-3, "image_size": 32, "drop_path_rate": 0.1}


def test_a_study_takes_references_from_its_file_or_the_command_line(tmp_path: Path) -> None:
    values = {"kind": "sweep", "base": "resnet50", "flags": {"norm": ["bn", "ln"]}}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**values, "references": ["torchvision:swin_t"]}))
    study = load_study(str(path), {}, {})
    row = study.rows[-1]
    assert (row.row, row.label, row.reference) == ("torchvision-swin_t", "swin_t (torchvision)", "torchvision:swin_t")
    assert (row.flags, row.compared_with, row.recipe) == ({}, None, study.rows[0].recipe)
    over = load_study(str(path), {"references": ["torchvision:swin_b", "torchvision:resnet18"]}, {})
    assert [row.reference for row in over.rows if row.reference] == ["torchvision:swin_b", "torchvision:resnet18"]


def test_a_study_with_a_reference_row_runs_and_is_reported(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SMALL))
    arguments: tuple[str, ...] = (
        "run",
        "sweep",
        "--base",
        "pocket,depths=1-1,width=4",
        "--flags",
        "norm=bn:ln",
        "--data",
        "digits",
    )
    arguments += ("--recipe", f"{tmp_path}/recipe.yaml", "--references", "torchvision:shufflenet_v2_x0_5")
    arguments += ("--budget", "128images", "--threads", "1", "--jobs", "1", "--device", "cpu")
    done = ablations_here(*arguments, "--out", tmp_path / "study")
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(tmp_path / "study/results.csv").set_index("row")
    assert list(rows.index)[-1] == "torchvision-shufflenet_v2_x0_5" and (rows["status"] == "done").all()
    found = rows.loc["torchvision-shufflenet_v2_x0_5"]
    assert found["note"] == ("torchvision's network and initialization and without stochastic depth, which it lacks")
    assert rows["note"].isna().sum() == 2
    wanted = count("torchvision:shufflenet_v2_x0_5", 32, num_classes=10)
    assert (found["params"], found["macs"]) == (wanted.params, wanted.macs)
    assert (rows["images_seen"] == 128).all()  # the same recipe and budget for all
    result = read_json(tmp_path / "study/runs/torchvision-shufflenet_v2_x0_5-s0/result.json")
    assert result["note"] == found["note"]
    reported = ablations_here("report", tmp_path / "study", "--to", tmp_path / "report")
    assert reported.returncode == 0, reported.stderr
    assert "shufflenet_v2_x0_5 (torchvision)" in (tmp_path / "report/index.html").read_text()


def test_the_command_counts_references_beside_designs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["count", "torchvision:swin_t", "convnext_tiny", "--format", "json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["design"], first["params"]) == ("torchvision:swin_t", 28_288_354)
    assert round(first["gflops"], 3) == 4.491
    assert second["params"] == 28_589_128


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["count", "torchvision:swin_tt"], "unknown torchvision model 'swin_tt': did you mean 'swin_t'?"),
        (["train", "torchvision:nothing"], "unknown torchvision model 'nothing': known: alexnet"),
        (
            ["show", "torchvision:swin_t"],
            "'torchvision:swin_t' has no design flags: it can only be counted, trained or benchmarked",
        ),
        (["run", "quick", "--references", "torchvision:swin_tt"], "study quick: references: unknown torchvision model"),
        (
            ["run", "quick", "--references", "swin_t"],
            "study quick: references: 'swin_t': write torchvision:NAME, such as torchvision:swin_t",
        ),
        (["run", "sweep", "--base", "torchvision:swin_t", "--flags", "norm=bn:ln"], "study sweep: "),
        (["count", "torchvision:resnet18,norm=ln"], "unknown torchvision model 'resnet18,norm=ln'"),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command([*arguments, *(["--data", "digits"] if arguments[0] in ("train", "run") else [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"ablations: {says}") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
