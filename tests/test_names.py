"""A wrong name leads to the right one: each kind of name a user types is refused with what to type instead."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from commands import ablations_here
from hypothesis import given
from hypothesis import strategies as st

import modernize
from ablations.recipes import TrainingConfig, recipe_names
from ablations.studies.load import study_names
from ablations.studies.schema import KINDS
from modernize import DesignError
from modernize.design import BY_NAME
from modernize.names import nearest, similar, unknown_flag
from modernize.roadmap import NAMES, roadmap

LAST = "did you mean 'separate-downsampling'?"
# What is typed, and what to type instead.
WRONG = {
    # rows of a roadmap
    "count pocket@convnext": LAST,
    "count pocket@ConvNeXt-Tiny": LAST,
    "count pocket@last": LAST,
    "count pocket@start": "did you mean 'resnet'?",
    "count pocket@convnextv2": "did you mean 'grn'?",
    "count pocket@ln": "did you mean 'layer-norm'?",
    "count pocket@kernel_size=9": "did you mean 'kernel-9'?",
    "count pocket@kernel": "did you mean 'kernel-5', 'kernel-7' or 'kernel-9'?",
    "compare pocket@kernel-7 pocket@final --results docs/results/first-edition/roadmap": LAST,
    "run one-in --base pocket@convnext": LAST,
    "run roadmap --base pocket --extras gnr": "did you mean 'grn'?",
    # designs
    "count ConvNeXt-tiny": "did you mean 'convnext_tiny'?",
    "count resnet": "did you mean 'resnet50' or 'resnet200'?",
    "count resnet18": "did you mean 'torchvision:resnet18'?",
    "count swin_t": "did you mean 'torchvision:swin_t'?",
    "count mobilenetv3_small_050": "did you mean 'timm:mobilenetv3_small_050'?",
    "count kernel-7": "did you mean 'resnet50@kernel-7', 'resnet200@kernel-7' or 'pocket@kernel-7'?",
    "count --roadmap pocket@kernel-7": "unknown roadmap 'pocket@kernel-7': did you mean 'pocket'?",
    # flags, and settings where flags stand
    "count resnet50,kernel-size=7": "did you mean 'kernel_size'?",
    "count resnet50,normalization=ln": "did you mean 'norm'?",
    "count resnet50,stem_size=4": "did you mean 'stem'?",
    "count resnet50,mixup=0.8": "unknown flag 'mixup': a setting of the recipe; write recipe.mixup",
    "count resnet50,lr=0.1": "unknown flag 'lr': did you mean 'recipe.learning_rate'?",
    "count resnet50,recipe.lr=0.1": "did you mean 'recipe.learning_rate'?",
    "count resnet50,recipe.norm=ln": "a design flag; write norm alone",
    "run one-in --base pocket --flags mixup": "a setting of the recipe; write recipe.mixup",
    "run sweep --base pocket --flags wd=0:0.1": "did you mean 'recipe.weight_decay'?",
    "run sweep --base pocket --flags recipe.wd=0:0.1": "did you mean 'recipe.weight_decay'?",
    "run sweep --base pocket --flags recipe.norm=bn:ln": "a design flag; write norm alone",
    # settings of a recipe, and flags where settings stand
    "train pocket --set lr=0.1": "did you mean 'learning_rate'?",
    "train pocket --set recipe.mixup=0.8": "did you mean 'mixup'?",
    "train pocket --set norm=ln": "a design flag; write it in the design's name, as in pocket,norm=…",
    "train pocket --recipe paper": "did you mean 'paper_enhanced', 'paper_original' or 'paper_enhanced_b'?",
    # datasets
    "data Cifar-10": "did you mean 'cifar10'?",
    "data minst": "did you mean 'torchvision:MNIST'?",
    "data torchvison:SVHN": "did you mean 'torchvision:SVHN'?",
    "data torchvision:Cifar10": "did you mean 'cifar10'?",
    "data docs": "write --data folder --data-dir docs for a folder of images",
    # studies and commands
    "run pocket@kernel-7": "ablations train pocket@kernel-7; or study it: ablations run one-in --base pocket@kernel-7",
    "run timm:resnet18": "is a design, and no study: ablations train timm:resnet18",
    "run designs pocket resnet50": "are a study: ablations run designs --designs pocket,resnet50",
    "run pocket convnext_tiny,norm=bn": "are a study: ablations run designs --designs pocket,convnext_tiny,norm=bn",
    "run one_in --base pocket": "did you mean 'one-in'?",
    "repotr x": "report",
    # options and arguments
    "train pocket --norm ln": "no such option --norm: a design flag; write it in the design's name, as in pocket,",
    "run one-in --kernel-size 7": "as in pocket,kernel_size=…, or study it with --flags kernel_size",
    "train pocket --epochs 3": "no such option --epochs: a setting of the recipe; write --set max_epochs=…",
    "run quick --epochs 3": "no such option --epochs: a setting of the recipe; write --set max_epochs=…",
    "run quick --lr 0.1": "no such option --lr: a setting of the recipe; write --set learning_rate=…",
    "run quick --seed 3": "'--seeds'",
    "run quick --flag norm": "'--flags'",
    "train pocket --batch-size 3": "write --set batch_size=…",
    "train pocket norm=ln depthwise=on": "write flags in the design's name, as in pocket,norm=ln,depthwise=on",
    "train pocket --dataset digits": "--data",
    "report docs/results/first-edition/roadmap --format pgn": "did you mean 'png'?",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_wrong_name_is_one_line_with_the_right_one(typed: str) -> None:
    done = ablations_here(*shlex.split(typed), cwd=Path(__file__).parent.parent)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and WRONG[typed] in done.stderr, done.stderr


@pytest.mark.parametrize("key", ["mixup", "norm"])
def test_a_key_of_a_study_file_that_belongs_elsewhere_says_where(tmp_path: Path, key: str) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"kind": "one-in", "base": "pocket", key: 1}))
    said = ablations_here("run", tmp_path / "study.yaml", "--out", tmp_path / "out").stderr
    assert {"mixup": "write it behind the recipe, as in quick,mixup=…", "norm": "as in pocket,norm=…"}[key] in said


def test_a_kind_without_a_base_says_which_there_are_and_takes_one() -> None:
    done = ablations_here("run", "roadmap", "--data", "digits", "--set", "image_size=16", "--dry-run")
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.startswith("roadmap: starts from pocket; set another with --base: a roadmap (") and len(rest) > 17
    assert all(name in first for name in NAMES)
    given = ablations_here("run", "sweep", "--base", "pocket", "--flags", "norm=bn:ln", "--data", "digits", "--dry-run")
    assert "starts from" not in given.stdout


def test_every_known_name_is_nearest_to_itself_however_it_is_written() -> None:
    rows = [row.name for row in roadmap("pocket").rows]
    for known in (list(BY_NAME), list(TrainingConfig.model_fields), rows, recipe_names(), study_names(), list(KINDS)):
        for name in known:
            for written in (name, name.upper(), name.replace("_", "-"), name.replace("-", "_"), name.replace("-", "")):
                assert similar(written, known)[0] == name
                assert nearest(written, known) == f"did you mean {name!r}?"


@given(st.text(), st.lists(st.text(min_size=1), max_size=5, unique=True))
def test_any_name_has_at_most_three_suggestions_of_the_known(name: str, known: list[str]) -> None:
    found = similar(name, known)
    assert len(found) <= 3 and set(found) <= set(known)
    assert unknown_flag(name, known)


def test_a_network_is_built_from_the_flags_of_a_runs_configuration() -> None:
    small = modernize.design("pocket,width=4,depths=1-1,norm=ln")
    assert modernize.count(small.flags(), 16, 1, 10) == modernize.count(small, 16, 1, 10)
    assert (
        modernize.build({"width": 4, "depths": "1-1"}, 10).plan
        == modernize.build("resnet50,width=4,depths=1-1", 10).plan
    )
    with pytest.raises(DesignError, match=r"^what: must have flags; without any, name a design"):
        modernize.build({})  # as in the configuration of a reference model's run
    with pytest.raises(DesignError, match="unknown flag 'widht': did you mean 'width'"):
        modernize.build({"widht": 4})
