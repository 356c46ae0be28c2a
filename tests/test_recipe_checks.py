"""Settings that make a number meaningless are said in one line; shipped recipes and the README's commands give none."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import run_command
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import ModelEmaV3
from torch import nn

from ablations import Trainer, TrainingConfig
from ablations.data.datasets import Split, load
from ablations.errors import RequestError
from ablations.recipe_checks import SHIPPED_RATES, Facts, doubts, refuse_contradictions, total_steps, unused
from ablations.recipes import load_recipe, recipe_names, stretched
from ablations.studies.combined import load_combined
from ablations.studies.load import load_study
from ablations.studies.schema import read_budget
from ablations.training.optimizer import averaged_model, ema_decay, learning_rate, update_average

HOME = Path(__file__).parent.parent
DATA = {
    "fashion_mnist": Facts(60_000, 10_000, 10, 28),
    "cifar10": Facts(50_000, 10_000, 10, 32),
    "cifar100": Facts(50_000, 10_000, 100, 32),
    "digits": Facts(1438, 359, 10, 8),
    "imagenet": Facts(1_281_167, 50_000, 1000),
}
SMALL = {"max_epochs": 10, "batch_size": 32, "learning_rate": 1e-3}


def recipe(**changes: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({**SMALL, **changes})


def facts(**changes: Any) -> Facts:
    return Facts(**{"train": 1440, "test": 360, "classes": 10, "image_size": 28, **changes})


# No false alarms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_give_no_warning_on_the_datasets_they_are_for(name: str) -> None:
    large = name.startswith(("paper", "torchvision")) and not name.endswith("small")
    for data in ["imagenet"] if large else ["fashion_mnist", "cifar10", "cifar100"]:
        for processes in (1, 8):
            known = Facts(**{**vars(DATA[data]), "processes": processes, "batch_norm": True})
            assert doubts(load_recipe(name), known) == unused(load_recipe(name)) == []
    refuse_contradictions(load_recipe(name), name)


COMMANDS = sorted(
    set(re.findall(r"^\$ (?:torchrun.* -m )?ablations ((?:run|train) [^#\n]*)", (HOME / "README.md").read_text(), re.M))
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readmes_commands_give_no_warning(command: str) -> None:
    words = shlex.split(command)
    values = {words[i]: words[i + 1] for i in range(len(words) - 1) if words[i].startswith("--")}
    set_values = dict(words[i + 1].split("=") for i in range(len(words)) if words[i] == "--set")
    named = words[1] == "imagenet"
    for name in ("paper_enhanced", "paper_original") if named else (values.get("--recipe", "quick"),):
        made = load_recipe(name, set_values)
        known = DATA["imagenet" if named else values.get("--data", "fashion_mnist")]
        if "--budget" in values:
            amount, unit = read_budget(values["--budget"])
            made = stretched(made, amount / known.train if unit == "images" else amount)
        assert doubts(made, known) == []


def test_shipped_studies_give_no_warning() -> None:
    studies = [load_study(name, {}, {}) for name in ("quick", "imagenet", "imagenet_resnet200")]
    for study in [*studies, *load_combined("desk", {}, {}).studies.values()]:
        images = 20000 / {"fashion_mnist": 60000, "cifar10": 50000}.get(study.data, 20000)
        for made in study.recipes.values():
            scaled = stretched(made, images)
            assert doubts(scaled, DATA[study.data]) == []


# Each warning ---------------------------------------------------------------------------------------------------------

STEP = {"schedule": "step", "optimizer": "sgd", "learning_rate": 0.1}
MEANINGLESS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"ema_decay": 0.9999},
        {},
        "ema_decay=0.9999: after 450 steps, 96% of the EMA weights are those of the first step",
    ),
    ({"ema_decay": 0.999, "max_epochs": 1}, {}, "ema_decay=0.999: after 45 steps, 96%"),
    ({"warmup_epochs": 10}, {}, r"warmup_epochs=10: training \(max_epochs=10\) ends at the peak learning rate"),
    ({"warmup_epochs": 0.99, "max_epochs": 1}, {}, "warmup_epochs=0.99: training .* ends at the peak learning rate"),
    ({**STEP, "step_epochs": 0.99, "max_epochs": 1}, {}, "step_epochs=0.99, .* never drops in max_epochs=1"),
    ({**STEP, "warmup_epochs": 12}, {}, "warmup_epochs=12: training"),
    ({**STEP}, {}, "step_epochs=30, step_factor=0.1: the learning rate never drops in max_epochs=10"),
    ({**STEP, "step_epochs": 10}, {}, "step_epochs=10, step_factor=0.1: the learning rate never drops"),
    ({**STEP, "step_epochs": 3, "step_factor": 1}, {}, "the learning rate never drops"),
    ({**STEP, "step_epochs": 0.1}, {}, "step_epochs=0.1: from half of max_epochs=10 on, the learning rate is below"),
    ({"crop_padding": 14}, {}, "crop_padding=14: crops of 28 px may show 50% of an image's width"),
    ({"crop_padding": 40, "image_size": 32}, {}, "crop_padding=40: crops of 32 px may show 0% of an image's width"),
    ({"crop_scale": [0.01, 1]}, {}, "crop_scale=.*: crops may be smaller than 4 px of an image of 28 px"),
    ({"evaluation_crop": 0.1}, {}, "evaluation_crop=0.1: networks see 1% of each test image"),
    ({"image_size": 224}, {}, "image_size=224 is 8 times the images' own 28 px"),
    ({"batch_size": 1000}, {}, "batch_size=1000 leaves 440 of 1440 training images out of each epoch"),
    ({"batch_size": 1440}, {}, "batch_size=1440 leaves one training step per epoch of 1440 images"),
    ({"batch_size": 1300}, {}, "batch_size=1300 leaves one training step per epoch"),
    ({"max_epochs": 0.1}, {}, "training ends after 4 steps of batch_size=32"),
    ({"mixup": 0.8, "accumulation": 32}, {}, "mixup, cutmix: not applied, because a micro-batch has one image"),
    ({"cutmix": 1, "accumulation": 8}, {"processes": 4}, "mixup, cutmix: not applied"),
    ({"accumulation": 32}, {"batch_norm": True}, "BatchNorm's statistics are of micro-batches of one image"),
    ({"accumulation": 16}, {"batch_norm": True}, "BatchNorm's statistics are of micro-batches of 2 images"),
    ({"label_smoothing": 0.1}, {"classes": 1}, "the dataset has one class, so every prediction is right"),
    ({"label_smoothing": 0.9}, {}, "label_smoothing=0.9: most of each target is spread over all classes"),
    ({}, {"train": 64, "classes": 100}, "the training set has 64 images for 100 classes"),
    ({}, {"test": 16}, "the test set has 16 images: one image is 6.2 pp of top-1"),
    ({"learning_rate": 0.5}, {}, "a peak learning rate of 0.5 is too large for adamw"),
    (
        {"optimizer": "sgd", "learning_rate": 0.1, "learning_rate_batch": 1, "batch_size": 256},
        {"train": 60_000},
        r"a peak learning rate of 25.6 \(learning_rate=0.1, scaled from learning_rate_batch=1 to batch_size=256\) is",
    ),
    ({"learning_rate": 1e-3, "learning_rate_batch": 2**30}, {}, "steps hardly change the initial weights"),
    ({"weight_decay": 1000}, {}, "weight_decay=1000 at a learning rate of 0.001 removes 100% of each weight per step"),
    ({"optimizer": "sgd", "momentum": 0.999}, {}, "momentum=0.999 averages gradients over more steps than"),
    ({"betas": [0.999, 0.999]}, {}, r"betas\[0\]=0.999 averages gradients over more steps than"),
    ({"optimizer": "sgd", "clip_norm": 1e-9}, {}, "clip_norm=1e-09: 450 steps hardly change the initial weights"),
    ({"mixup": 1, "cutmix": 1, "mix_switch": 0}, {}, "mix_switch=0: cutmix is never applied"),
    ({"mixup": 1, "cutmix": 1, "mix_switch": 1}, {}, "mix_switch=1: mixup is never applied"),
    ({"mixup": 1, "mix_probability": 0}, {}, "mix_probability=0: mixup and cutmix are never applied"),
    ({"drop_path_rate": 0.9}, {}, "drop_path_rate=0.9: most images skip the last block"),
]


@pytest.mark.parametrize(("changes", "known", "says"), MEANINGLESS, ids=[str(one[:2]) for one in MEANINGLESS])
def test_a_meaningless_setting_is_said_in_one_line(changes: dict[str, Any], known: dict[str, Any], says: str) -> None:
    said = doubts(recipe(**changes), facts(**known))
    assert any(re.match(says, one) or re.search(says, one) for one in said)
    assert all(one.isprintable() and len(one) < 200 for one in said)
    assert doubts(recipe(), facts()) == []


@pytest.mark.parametrize(
    ("changes", "from_weights", "word"),
    [
        ({"optimizer": "sgd", "learning_rate": 1e-3}, False, "low; shipped recipes with sgd have 0.0125 to 0.5"),
        ({"optimizer": "adamw", "learning_rate": 0.1}, None, "high; shipped recipes with adamw have 0.001 to 0.004"),
        ({"optimizer": "sgd", "learning_rate": 1e-3}, True, ""),
        ({"optimizer": "sgd", "learning_rate": 0.0125}, False, ""),
        ({"optimizer": "adamw", "learning_rate": 4e-3}, False, ""),
    ],
)
def test_a_learning_rate_of_the_other_optimizer_is_said(
    changes: dict[str, Any], from_weights: bool | None, word: str
) -> None:
    said = doubts(recipe(**changes), facts(from_weights=from_weights))
    assert (len(said) == 1 and word in said[0]) if word else said == []


def test_the_rates_of_shipped_recipes_are_those_that_are_said() -> None:
    for optimizer, (least, most) in SHIPPED_RATES.items():
        rates = [one.learning_rate for one in map(load_recipe, recipe_names()) if one.optimizer == optimizer]
        assert (min(rates), max(rates)) == (least, most)


def test_a_permanent_checkpoint_beyond_the_end_is_said_to_be_none() -> None:
    assert unused(recipe(checkpoint_every=20)) == ["checkpoint_every=20 is beyond max_epochs=10: none is kept"]
    assert unused(recipe(checkpoint_every=5)) == []


def test_a_warm_up_longer_than_training_is_refused_when_it_is_written(tmp_path: Path) -> None:
    says = "warmup_epochs=5: longer than the training, .* set it below max_epochs=1"
    with pytest.raises(RequestError, match=says):
        load_study("one-in", {"base": "pocket"}, {"warmup_epochs": "5"})
    assert run_command(["train", "pocket", "--set", "warmup_epochs=5", "--out", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()


@given(
    st.integers(1, 500), st.integers(2, 64), st.floats(0.01, 5), st.floats(0, 6), st.booleans(), st.floats(0.5, 0.99999)
)
@settings(max_examples=300, deadline=None)
def test_the_warnings_agree_with_the_schedule_and_the_average(
    train: int, batch: int, epochs: float, warmup: float, step: bool, decay: float
) -> None:
    made = recipe(
        max_epochs=epochs,
        batch_size=batch,
        warmup_epochs=warmup,
        ema_decay=decay,
        schedule="step" if step else "cosine",
    )
    known = facts(train=max(train, batch))
    steps, per_epoch = total_steps(made, known), known.train // batch
    said = " ".join(doubts(made, known))
    rates = [learning_rate(made, number, per_epoch, steps) for number in range(steps)]
    warms = round(warmup * per_epoch) > 0
    if step:
        assert ("never drops" in said) == (30 * per_epoch > steps - 1)
    else:
        assert ("ends at the peak" in said) == (warms and rates[-1] == max(rates))
    share = 1.0
    for number in range(1, steps):
        share *= ema_decay(made, number)
    assert ("of the EMA weights" in said) == (share > 0.1)


# EMA ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.9999])
def test_the_average_is_timms(warmup: bool, decay: float) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    config = recipe(ema_decay=decay, ema_warmup=warmup)
    ours = averaged_model(network)
    theirs = ModelEmaV3(network, decay=decay, use_warmup=warmup)
    for step in range(30):
        with torch.no_grad():
            for weights in network.parameters():
                weights.add_(torch.randn_like(weights))
        update_average(ours, network, config, step, steps_per_epoch=30)
        theirs.update(network, step=step + 1)
    for mine, other in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def trained(folder: Path | None = None, **changes: Any) -> Any:
    data = load("digits", Path("data"))
    assert isinstance(data.train, Split) and isinstance(data.test, Split)
    images = [(split.images.permute(0, 3, 1, 2).float() / 255, split.labels) for split in (data.train, data.test)]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    made = recipe(max_epochs=5, learning_rate=5e-3, workers=0, **changes)
    train, test = (list(zip(*split, strict=True)) for split in images)
    return Trainer(network, train, test, made, device="cpu").train()


def test_averaged_weights_of_few_steps_are_useless_without_warm_up_and_good_with_it() -> None:
    with pytest.warns(UserWarning, match=r"^ema_decay=0.9999: after 220 steps, 98% .* set ema_warmup=true$"):
        without = trained(ema_decay=0.9999)
    with_warm_up = trained(ema_decay=0.9999, ema_warmup=True)
    assert without.evaluation.top1 == with_warm_up.evaluation.top1 > 85
    assert without.averaged.top1 < 60
    assert with_warm_up.averaged.top1 > with_warm_up.evaluation.top1 - 3


def test_a_library_user_is_warned_and_a_sound_recipe_is_silent(recwarn: pytest.WarningsRecorder) -> None:
    trained(ema_decay=0.9)
    assert [str(one.message) for one in recwarn if one.category is UserWarning] == []


def test_ema_warmup_needs_an_average_and_is_off_where_a_folder_does_not_mention_it() -> None:
    with pytest.raises(RequestError, match="ema_warmup: only ema_decay uses it, and it is off"):
        load_recipe("quick", {"ema_warmup": "true"})
    stored = yaml.safe_load(yaml.safe_dump({**recipe(ema_decay=0.9).model_dump(mode="json")}))
    del stored["ema_warmup"]
    assert TrainingConfig.model_validate(stored) == recipe(ema_decay=0.9)


# The command line -----------------------------------------------------------------------------------------------------


def test_a_study_prints_each_warning_once_and_its_report_records_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "study")
    study = "run sweep --base pocket,depths=1-1,width=4 --flags norm=ln:bn --data digits --seeds 0 --jobs 1 --threads 1"
    changed = "--set ema_decay=0.9999 --set batch_size=64 --set image_size=8 --set max_epochs=0.5"
    command = [*f"{study} {changed}".split(), "--out", out]
    warning = (
        "ema_decay=0.9999: after 11 steps, 100% of the EMA weights are those of the first step; set ema_warmup=true"
    )
    assert run_command([*command, "--dry-run"]) == 0
    assert capsys.readouterr().out.count(f"study: warning: {warning}\n".replace("study", "sweep")) == 1
    assert run_command(command) == 0
    output = capsys.readouterr()
    assert (output.out + output.err).count(warning) == 1
    assert run_command(["report", out, "--format", "markdown", "--to", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report/summary.md").read_text().count(f"Warning (recipe quick): {warning}.") == 1
