"""Networks of timm and of a user's file are trained, counted, reported and exported as torchvision's, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
from commands import ablations_here
from torch import nn

from ablations import load_run
from ablations.data.datasets import load
from ablations.errors import RequestError
from ablations.store import read_json
from ablations.studies.folder import open_folder, run_folder
from ablations.studies.load import load_study
from ablations.studies.own_code import code_sha256
from ablations.studies.own_rows import studied_settings
from ablations.studies.run import execute
from ablations.studies.schema import Study
from modernize import Cost, count
from modernize.count_operations import count_operations
from modernize.design import DesignError
from modernize.own_network import shown_value
from modernize.reference import build_reference, check_reference, classifier_keys, shown_reference
from modernize.yaml_file import parse_yaml

MODELS = """\
import torch
from torch import nn

from layers import Block


def net(num_classes, in_channels, width=4, norm="bn", residual=True):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 2, stride=2),
        Block(width, norm, residual),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def dropped(num_classes, in_channels, drop_path_rate, image_size):
    features = in_channels * image_size**2
    return nn.Sequential(nn.Flatten(), nn.Dropout(drop_path_rate), nn.Linear(features, num_classes))


def reads_weights(num_classes, in_channels):
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))
    assert network[-1].weight.abs().max().item() > 0
    return network


SHARED = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10))


def shared(num_classes, in_channels):
    return SHARED


def lazy(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def thousand(num_classes, in_channels):
    return net(1000, in_channels)


def no_module(num_classes, in_channels):
    return 3


def weightless(num_classes, in_channels):
    return nn.Flatten()


class Pair(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.body = net(num_classes, in_channels)

    def forward(self, images):
        return {"logits": self.body(images)}


def large(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 99), nn.Flatten(), nn.Linear(4, num_classes))


def without_channels(num_classes):
    return net(num_classes, 3)


def needs_depth(num_classes, in_channels, depth):
    return net(num_classes, in_channels, width=depth)
"""
LAYERS = """\
from torch import nn


class Block(nn.Module):
    def __init__(self, width, norm, residual):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width) if norm == "bn" else nn.GroupNorm(1, width)
        self.residual = residual

    def forward(self, images):
        out = self.norm(self.conv(images)).relu()
        return images + out if self.residual else out
"""
QUICK = ("--data", "digits", "--set", "max_epochs=0.1", "--device", "cpu", "--threads", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's file, and the file that it imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models.py").write_text(MODELS)
    (tmp_path / "layers.py").write_text(LAYERS)
    return tmp_path


def said(*arguments: str) -> str:
    """What a refused command says: one line, exit status 2."""
    done = ablations_here(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("ablations: ").strip()


# Names and counting --------------------------------------------------------------------------------------------------


def test_a_function_s_network_is_counted_as_fvcore_counts_it(here: Path) -> None:
    name = "my_models.py:net(width=8,norm=ln)"
    with torch.device("meta"):
        network = build_reference(name, 10, 3, image_size=16)
    params = sum(weights.numel() for weights in network.parameters())
    assert count(name, 16, num_classes=10) == Cost(params, *count_operations(network, (3, 16, 16))[""])
    assert count("my_models.py:reads_weights", 16, 2, 5).params == 15, "counted on the CPU if it needs its weights"
    assert count("my_models.py:dropped", 8, 1, 10).params == 650


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "dla46_c"])
def test_a_network_of_timm_is_create_model_s(name: str) -> None:
    options: dict[str, Any] = {"img_size": (32, 32)} if "vit" in name else {}
    options |= {} if "dla" in name else {"drop_path_rate": 0.1}
    torch.manual_seed(3)
    ours = build_reference(f"timm:{name}", 7, 1, 0.1, 32)
    torch.manual_seed(3)
    theirs = timm.create_model(name, num_classes=7, in_chans=1, **options)
    assert str(ours) == str(theirs)
    assert all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert count(f"timm:{name}", 32, 1, 7).params == sum(weights.numel() for weights in theirs.parameters())


def test_names_are_absolute_where_stored_and_short_where_shown(here: Path) -> None:
    stored = check_reference("my_models.py:net( width = 8, residual=off )")
    assert stored == f"{here}/my_models.py:net(width=8,residual=false)"
    assert shown_reference(stored) == "my_models.py:net(width=8,residual=false)"
    assert check_reference(stored) == stored
    odd = here / "a (b), c"
    odd.mkdir()
    shutil.copy("my_models.py", odd)
    shutil.copy("layers.py", odd)
    assert count(check_reference("a (b), c/my_models.py:net"), 16).params == count("my_models.py:net", 16).params


@pytest.mark.parametrize("value", [1, 0.1, 1e-6, True, None, "bn", "8", "a,b", "on", "x(y", "", " a", [1, [2]], "é\n"])
def test_values_are_read_as_they_are_written(value: Any) -> None:
    assert parse_yaml(shown_value(value)) == value


def test_the_classifier_is_what_depends_on_the_classes(here: Path) -> None:
    network = build_reference("my_models.py:net", 10, 1, image_size=8)
    assert classifier_keys("my_models.py:net", network, 1, 8) == {"4.weight", "4.bias"}
    torch.manual_seed(0)
    plain = build_reference("timm:test_resnet", 10, 1, image_size=32)
    torch.manual_seed(0)
    scaled = build_reference("timm:test_resnet", 10, 1, image_size=32, head_init_scale=0.5)
    torch.testing.assert_close(scaled.state_dict()["fc.weight"], plain.state_dict()["fc.weight"] / 2)
    others = [key for key in plain.state_dict() if not key.startswith("fc.")]
    assert all(torch.equal(plain.state_dict()[key], scaled.state_dict()[key]) for key in others)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nets", "my_models.py has no function 'nets': did you mean 'net'?"),
        ("net(widht=8)", "my_models.py:net has no setting 'widht': did you mean 'width'?"),
        ("net(num_classes=3)", "my_models.py:net: num_classes is no setting: it follows from the dataset"),
        ("dropped(drop_path_rate=0)", "my_models.py:dropped: drop_path_rate is no setting: it follows from the recipe"),
        ("net(residual=maybe)", "my_models.py:net: residual=maybe: must be on or off"),
        ("net(width=a)", "/my_models.py, line 9, in net: TypeError"),
        ("needs_depth", "my_models.py:needs_depth: depth needs a value, as in needs_depth(depth=…)"),
        ("without_channels", "my_models.py:without_channels: must take in_channels, as in def without_channels(num_"),
        ("shared", "my_models.py:shared: must build new layers at each call, but returned the same ones twice"),
        ("lazy", "my_models.py:lazy: lazy modules are not supported; give every layer its sizes"),
        ("thousand", "my_models.py:thousand: the network must return logits of shape (2, 10), not (2, 1000)"),
        ("no_module", "my_models.py:no_module: must return a torch.nn.Module, not int"),
        ("weightless", "my_models.py:weightless: the network has no weights to train"),
        ("Pair", "my_models.py:Pair: the network must return a tensor of logits, not dict"),
        ("large", "my_models.py:large: fails on images of 3×16 px ("),
    ],
)
def test_what_cannot_be_counted_is_one_line(here: Path, name: str, says: str) -> None:
    message = said("count", f"my_models.py:{name}", "--image-size", "16", "--num-classes", "10")
    assert says in message and not message.startswith("Traceback")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet19x", "unknown timm model 'resnet19x': did you mean 'resnet18'?"),
        ("resnet18.a1_in1k", "'a1_in1k' names weights, which are not loaded; write timm:resnet18"),
        ("qqq", "unknown timm model 'qqq': timm.list_models() lists the"),
        ("inception_v3", "timm:inception_v3: does not take images of 16 px ("),
    ],
)
def test_what_timm_cannot_give_is_one_line(name: str, says: str) -> None:
    assert says in said("count", f"timm:{name}", "--image-size", "16")


def test_timm_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(DesignError, match=r"timm is not installed; run pip install 'modernize-convnets\[timm\]'"):
        check_reference("timm:resnet18")


def test_the_checksum_covers_the_files_that_the_file_imports(here: Path) -> None:
    name = check_reference("my_models.py:net")
    before = code_sha256(name)
    (here / "other.py").write_text("x = 1\n")
    assert code_sha256(name) == before
    (here / "layers.py").write_text(LAYERS + "# changed\n")
    assert code_sha256(name) != before
    assert code_sha256("timm:resnet18") is None


# Training ------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_code_and_is_loaded_exported_and_resumed(here: Path) -> None:
    name = "my_models.py:net(width=8)"
    quick = (*QUICK, "--set", "drop_path_rate=0.1")
    done = ablations_here("train", name, *quick)
    assert done.returncode == 0, done.stderr
    folder = here / "runs/my_models-net-width=8-s0"
    result = read_json(folder / "result.json")
    assert result["note"] == "my_models.py's network and initialization and without stochastic depth, which it lacks"
    assert (folder / "code/layers.py").read_text() == LAYERS
    assert result["code_sha256"] == code_sha256(check_reference(name))
    assert "top-1" in ablations_here("train", name, *quick).stdout, "the run is there"

    (here / "layers.py").write_text(LAYERS.replace("+ out", "- out"))
    refused = said("train", name, *quick)
    assert refused.startswith(f"{here}/my_models.py, or a file that it imports, has changed since run folder runs/")
    assert "choose another --out" in refused
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        logits = load_run(folder)(images)
    (here / "layers.py").unlink()
    (here / "my_models.py").unlink()
    with torch.no_grad():
        assert torch.equal(load_run(folder)(images), logits), "from the copy"
    exported = ablations_here("export", folder, "--format", "torch-export", "--to", "net.pt2")
    assert exported.returncode == 0, exported.stderr
    torch.testing.assert_close(torch.export.load("net.pt2").module()(images), logits)
    assert ablations_here("export", folder, "--format", "safetensors", "--to", "net.safetensors").returncode == 0
    assert "has no timm layout; choose --format safetensors, onnx or torch-export" in said(
        "export", str(folder), "--format", "timm", "--to", "net.pth"
    )
    (folder / "code/my_models.py").write_text(MODELS + "\n")
    with pytest.raises(RequestError, match="is the file that it was trained with"):
        load_run(folder)


def test_a_network_of_timm_is_trained_and_exported_with_its_keys(here: Path) -> None:
    done = ablations_here("train", "timm:test_resnet", *QUICK, "--set", "drop_path_rate=0.1")
    assert done.returncode == 0, done.stderr
    folder = here / "runs/timm-test_resnet-s0"
    assert read_json(folder / "result.json")["note"] == "timm's network and initialization"
    assert ablations_here("export", folder, "--format", "timm", "--to", "net.pth").returncode == 0
    network = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    network.load_state_dict(torch.load("net.pth"))
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(images), load_run(folder)(images))
    assert json.loads(Path("net.pth.json").read_text())["reference"] == "timm:test_resnet"


def test_runs_start_from_weights_with_or_without_the_classifier(here: Path) -> None:
    torch.save(build_reference("my_models.py:net", 7, 1).state_dict(), "seven.pt")
    done = ablations_here("train", "my_models.py:net", *QUICK, "--weights", "seven.pt")
    assert done.returncode == 0 and "classifier newly initialized" in done.stdout, done.stderr
    torch.save(nn.Linear(2, 2).state_dict(), "other.pt")
    assert "net cannot start from them" in said(
        "train", "my_models.py:net", *QUICK, "--weights", "other.pt", "--out", "o"
    )
    assert "timm gives no weights" in said("train", "my_models.py:net", *QUICK, "--weights", "timm:resnet18")


def test_a_study_takes_them_beside_its_rows_and_refuses_another_content(here: Path) -> None:
    arguments: tuple[str, ...] = ("run", "sweep", "--base", "pocket,depths=1-1,width=4", "--flags", "norm=bn")
    arguments += ("--references", "my_models.py:net(width=8,norm=ln),timm:test_resnet", "--data", "digits")
    done = ablations_here(*arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:5]] == [
        *("norm=bn", "my_models-net-width=8,norm=ln", "timm-test_resnet")
    ]
    names = ["my_models.py:net(width=8,norm=ln)", "timm:test_resnet"]
    changes = {"base": "pocket", "flags": {"norm": ["bn"]}, "references": names, "data": "digits"}
    study = load_study("sweep", changes, {})
    assert [row.label for row in study.rows] == ["norm=bn", names[0], "test_resnet (timm)"]
    folder = here / "study"
    open_folder(study.on(load("digits", here, 8)), folder)
    (here / "my_models.py").write_text(MODELS + "\n")
    changed = f"{here}/my_models.py, or a file that it imports, has changed since "
    assert said("run", "study").startswith(f"{changed}the run was configured")
    with pytest.raises(RequestError, match=f"^{changed}study folder {folder} was made"):
        open_folder(load_study("sweep", changes, {}).on(load("digits", here, 8)), folder)
    (here / "b").mkdir()
    for file in here.glob("*.py"):
        shutil.copy(file, here / "b")
    assert "have the same name 'my_models-net'; rename a file" in said(
        *(*arguments[:6], "--references", "my_models.py:net,b/my_models.py:net")
    )


# Studies of a function's arguments -----------------------------------------------------------------------------------


def study_of(kind: str, base: str = "my_models.py:net", **changes: Any) -> Study:
    return load_study(kind, {"base": base, "data": "digits", **changes}, {})


def test_the_arguments_are_the_flags_of_a_study(here: Path) -> None:
    def rows(study: Study) -> dict[str, tuple[str, str | list[str] | None]]:
        return {row.row: (shown_reference(str(row.reference)), row.compared_with) for row in study.rows}

    values = {"width": ["8"], "residual": ["off"]}  # as typed
    assert rows(study_of("one-in", flags=values)) == {
        "base": ("my_models.py:net", None),
        "with-width": ("my_models.py:net(width=8)", "base"),
        "with-residual": ("my_models.py:net(residual=false)", "base"),
    }
    assert rows(study_of("one-out", flags=values)) == {
        "end": ("my_models.py:net(width=8,residual=false)", None),
        "without-width": ("my_models.py:net(width=4,residual=false)", "end"),
        "without-residual": ("my_models.py:net(width=8,residual=true)", "end"),
    }
    assert rows(study_of("sweep", base="my_models.py:net(norm=ln)", flags={"width": [4, 8]})) == {
        "width=4": ("my_models.py:net(norm=ln,width=4)", None),
        "width=8": ("my_models.py:net(norm=ln,width=8)", "width=4"),
    }
    assert rows(study_of("recipes", base="timm:test_vit")) == {
        "quick_original": ("timm:test_vit", None),
        "quick": ("timm:test_vit", "quick_original"),
    }
    grid = study_of("grid", flags={"width": [4, 8], "norm": ["bn", "ln"]}, references=["my_models.py:net"])
    assert list(studied_settings(grid)) == ["width=4,norm=bn", "width=4,norm=ln", "width=8,norm=bn", "width=8,norm=ln"]
    assert grid.rows[-1].same_as == "width=4,norm=bn", "the defaults are the same network"
    assert grid.base == "my_models.py:net"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("orders --flags width=8", "a function's network is studied by one-in, one-out, sweep, grid, recipes"),
        ("roadmap", "a function's network is studied by one-in, one-out, sweep, grid, recipes"),
        ("one-in", "flags: give the function's arguments values, such as width=8:16, in a one-in"),
        ("one-in --flags width", "flags: give the function's arguments values, such as width=8:16, in a one-in"),
        ("one-in --flags width=8:16", "flags: width must have one value in a study of kind one-in"),
        ("one-in --flags width=8 --end pocket", "end: not for a function's network"),
        ("sweep --flags width=8:16,norm=bn", "flags: a sweep varies one flag; to vary several, use a grid"),
        ("sweep --flags widht=8:16", "my_models.py:net has no setting 'widht': did you mean 'width'?"),
        ("sweep --flags width=8:0x8", "flags: width=8 is listed twice"),
        ("sweep --flags residual=on:true", "flags: residual=true is listed twice"),
        ("sweep --flags num_classes=3:4", "num_classes is no setting: it follows from the dataset"),
        ("sweep --flags width=8:a", "width=a on digits: "),
    ],
)
def test_wrong_studies_of_a_function_are_one_line(here: Path, arguments: str, says: str) -> None:
    words = ("run", *arguments.split(), "--base", "my_models.py:net", "--data", "digits", "--dry-run")
    assert says in said(*words)


def test_what_has_no_arguments_is_no_base_but_of_recipes(here: Path) -> None:
    words = ("run", "sweep", "--base", "timm:test_vit", "--flags", "width=3:4", "--data", "digits")
    assert "timm:test_vit has no flags; list it in references, or write a function that builds it" in said(*words)


def test_an_ablation_of_a_function_is_run_and_reported(here: Path) -> None:
    """Trained in this process; the commands of docs/your-network.md train in workers."""
    study = study_of("grid", flags={"width": [4, 8], "norm": ["bn", "ln"]}, seeds=[0, 1], budget="256images")
    data = load("digits", here, 32)
    study = open_folder(study.on(data), here / "study")
    for run in study.runs:
        place = run_folder(here / "study", run)
        place.mkdir(parents=True)
        assert execute(run, place, data)["status"] == "done"
    reported = ablations_here("report", "study", "--format", "markdown,html")
    assert reported.returncode == 0, reported.stderr
    runs = pd.read_csv("study/results.csv")
    assert list(runs["label"].unique()) == [f"width={width}, norm={norm}" for width in (4, 8) for norm in ("bn", "ln")]
    assert (runs["images_seen"] == 256).all()
    folder = here / "study/runs/width=8,norm=ln-s1"
    assert (folder / "code/my_models.py").read_text() == MODELS
    page = (here / "study/report/index.html").read_text()
    assert "interaction with norm: ln − bn" in page and "at norm=bn" in page
    assert 'id="explorer"' not in page and "lookUp" not in page, "a function's network has no design flags"
    assert str(here) not in page
    assert load_run(folder)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_a_link_to_the_file_is_the_file(here: Path, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "linked.py").symlink_to(here / "my_models.py")
    assert check_reference("links/linked.py:net") == check_reference("my_models.py:net")
    assert count("links/linked.py:net", 16) == count("my_models.py:net", 16)


def test_what_the_file_imports_is_read_again_once_changed(here: Path) -> None:
    before = count("my_models.py:net", 16)
    (here / "layers.py").write_text(LAYERS.replace("3, padding=1", "5, padding=2"))
    assert count("my_models.py:net", 16).params > before.params


def test_settings_of_the_recipe_stand_beside_arguments(here: Path) -> None:
    study = study_of("one-out", flags={"width": [8], "recipe.label_smoothing": ["0.2"]})
    assert [(row.row, row.recipe) for row in study.rows] == [
        ("end", "quick,label_smoothing=0.2"),
        ("without-width", "quick,label_smoothing=0.2"),
        ("without-recipe.label_smoothing", "quick"),
    ]
    assert study.recipes["quick,label_smoothing=0.2"].label_smoothing == 0.2
    grid = study_of("grid", flags={"norm": ["bn", "ln"], "recipe.label_smoothing": [0.0, 0.2]})
    assert studied_settings(grid)["norm=ln,recipe.label_smoothing=0.2"] == {
        **{"norm": "ln", "recipe.label_smoothing": "0.2"}
    }
    words = ("run", "sweep", "--base", "my_models.py:net", "--data", "digits", "--flags")
    assert "unknown setting 'recipe.mixap': did you mean 'recipe.mixup'?" in said(*words, "recipe.mixap=0:1")
    assert "recipe.label_smoothing" in said(*words, "recipe.label_smoothing=0:2")
