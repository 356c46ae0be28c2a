"""Trained networks leave their run's folder whole: in Python, in other layouts, and as graphs that run without us."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import ablations_here, environment
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.transforms import InterpolationMode, v2

import ablations
import modernize
from ablations.data.datasets import DataSet, Split, load
from ablations.errors import RequestError
from ablations.export.traced import as_onnx, as_torch_export
from ablations.recipes import TrainingConfig
from ablations.store import read_json, write_json
from ablations.studies.folder import open_folder
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig, execute, load_data, locked
from ablations.studies.trained import TrainedRun
from ablations.training.callbacks import Callbacks
from ablations.training.checkpoint import checkpoints, read_checkpoint, weights_sha256, write_checkpoint
from ablations.training.trainer import Interrupted

HOME = Path(__file__).parent.parent
SMALL = ",depths=1-1,width=8"
CONVNEXT = "pocket@separate-downsampling,depths=1-1-1-1,width=8,stem_stride=1,layer_scale=0.1"
RECIPE = {"max_epochs": 0.5, "batch_size": 128, "learning_rate": 5e-3, "precise_bn": 256, "ema_decay": 0.5}


def config(design: str, data: str = "digits", **recipe: Any) -> RunConfig:
    reference = design if design.startswith("torchvision:") else None
    return RunConfig(
        row="one",
        label=design,
        flags={} if reference else modernize.design(design).flags(),
        reference=reference,
        recipe_name="r",
        recipe=TrainingConfig(**{**RECIPE, **recipe}),
        data=data,
        seed=0,
    )


def trained(folder: Path, design: str, data: DataSet | None = None, **recipe: Any) -> Path:
    """The folder of a run, trained for a few steps."""
    run = config(design, data.name if data else "digits", **recipe)
    folder.mkdir()
    result = execute(run, folder, data or load_data(run, Path("unused")))
    assert result["status"] == "done", result
    return folder


@pytest.fixture(scope="module")
def convnext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "convnext-s0", CONVNEXT)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    design = f"pocket{SMALL},stem_stride=4"
    return trained(tmp_path_factory.mktemp("runs") / "resnet-s0", design, ema_decay=None, image_size=16)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference model trained on gray images: its input is the channel, three times."""
    folder = tmp_path_factory.mktemp("runs") / "resnet18-s0"
    return trained(folder, "torchvision:resnet18", max_epochs=0.2, image_size=16, ema_decay=None)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two classes of color images in files, larger than the network's input and not square."""
    place = tmp_path_factory.mktemp("tree")
    random = np.random.default_rng(0)
    for part, images in (("train", 32), ("val", 16)):
        for label, name in enumerate(("cats", "dogs")):
            (place / part / name).mkdir(parents=True)
            for index in range(images):
                coarse = random.integers(0, 256, (5, 7, 3)).astype(np.uint8)
                coarse[2, 2:5] = random.integers(40, 150) + 60 * label  # at the center, which alone tells the class
                picture = Image.fromarray(coarse).resize((56, 40), Image.Resampling.NEAREST)
                picture.save(place / part / name / f"{index}.png")
    return load("imagenet", place, 16)


def exported(run: Path, form: str, to: Path, *options: str) -> Path:
    done = ablations_here("export", run, "--format", form, "--to", to, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(to)
    return to


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["modernize"])


# In Python -----------------------------------------------------------------------------------------------------------


def classified(network: nn.Module, description: dict[str, Any], images: list[Image.Image]) -> np.ndarray:
    """The classes that a stranger finds who has the network and its description."""
    transform = v2.Compose(
        [
            v2.Grayscale() if description["in_channels"] == 1 else v2.RGB(),
            v2.Resize(description["resize"], InterpolationMode(description["interpolation"])),
            v2.CenterCrop(description["image_size"]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(description["mean"], description["std"]),
        ]
    )
    with torch.no_grad():
        logits = network(torch.stack([transform(image) for image in images]))
    return logits.argmax(1).numpy()


def pictures(split: Any) -> list[Image.Image]:
    if isinstance(split, Split):
        return [Image.fromarray(image[..., 0].numpy()) for image in split.images]
    return [split[index][0] for index in range(len(split))]


@pytest.mark.parametrize(
    ("design", "recipe"),
    [
        (CONVNEXT, {}),
        (f"pocket{SMALL}", {"image_size": 8, "evaluation_crop": 0.8, "interpolation": "bicubic", "ema_decay": None}),
    ],
)
def test_what_the_file_says_gives_the_runs_predictions_for_images_in_memory(
    design: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    """With evaluation_crop 0.8, images of 8 px are enlarged to 10; torch enlarges tensors, and Pillow pictures."""
    run = trained(tmp_path / "run", design, max_epochs=3, learning_rate=2e-2, **recipe)
    digits = load("digits", Path("unused"))
    description = described(exported(run, "safetensors", tmp_path / "run.safetensors"))
    assert description["resize"] == (10 if recipe else 8)
    classes = classified(ablations.load_run(run), description, pictures(digits.test))
    recorded = np.load(run / "predictions.npz")["predicted"]
    assert len(set(recorded)) > 5 and (classes != recorded).mean() <= (0.02 if recipe else 0)
    assert description["top1"] == read_json(run / "result.json")["top1"]
    assert description["classes"] == [str(digit) for digit in range(10)]


def test_what_the_file_says_gives_the_runs_top1_on_images_in_files(photographs: DataSet, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"image_size": 16, "evaluation_crop": 0.6, "batch_size": 16, "max_epochs": 5}
    run = trained(tmp_path / "run", f"pocket{SMALL}", photographs, ema_decay=0.9, **recipe)
    recorded = read_json(run / "result.json")
    for averaged, name in ((False, "top1"), (True, "ema_top1")):
        path = exported(run, "safetensors", tmp_path / f"{name}.safetensors", *["--averaged"][: int(averaged)])
        description = described(path)
        assert description["resize"] == 27 and description["classes"] == ["cats", "dogs"]
        assert description["mean"] == [0.485, 0.456, 0.406]
        assert description["weights"] == ("averaged" if averaged else "trained")
        network = modernize.build(description["design"], description["num_classes"], description["in_channels"])
        network.load_state_dict(load_file(path))
        classes = classified(network.eval(), description, pictures(photographs.test))
        top1 = 100 * (classes == photographs.test.labels.numpy()).mean()
        assert top1 == recorded[name] == description["top1"]
        if not averaged:
            assert (classes == np.load(run / "predictions.npz")["predicted"]).all() and len(set(classes)) == 2
    assert recorded["top1"] != recorded["ema_top1"]
    known = {key: value for key, value in recorded.items() if key not in ("classes", "preprocessing")}
    write_json(run / "result.json", known)  # as an earlier version wrote it, which normalized files alike
    assert described(exported(run, "safetensors", path, "--averaged")) == description | {"classes": None}


def test_load_run_gives_the_evaluated_weights_without_the_dataset(convnext: Path) -> None:
    before = torch.random.get_rng_state()
    network: Any = ablations.load_run(str(convnext))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(network, modernize.network.Network) and not network.training
    assert weights_sha256(network.state_dict()) == read_json(convnext / "result.json")["weights_sha256"]
    averaged: Any = ablations.load_run(convnext, averaged=True)
    assert not torch.equal(averaged.head.linear.weight, network.head.linear.weight)


def test_load_run_gives_torchvisions_network_for_a_reference(reference: Path) -> None:
    network = ablations.load_run(reference)
    torchvisions = resnet18(num_classes=10)
    torchvisions.load_state_dict(network.state_dict())
    images = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images), torchvisions.eval()(images.expand(-1, 3, -1, -1)))


def test_a_runs_folder_can_be_moved_and_be_read_only(convnext: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(convnext, tmp_path / "moved")
    files = sorted(moved.rglob("*"))
    moved.chmod(0o555)
    ablations.load_run(moved)
    moved.chmod(0o755)
    assert sorted(moved.rglob("*")) == files


# What cannot be loaded -----------------------------------------------------------------------------------------------


def interrupted(folder: Path) -> Path:
    folder.mkdir()
    with pytest.raises(Interrupted):
        execute(config(CONVNEXT), folder, load("digits", Path("unused")), callbacks=Callbacks(lambda: True))
    return folder


def without_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")


def damaged(folder: Path) -> None:
    (path,) = checkpoints(folder / "checkpoints")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_another_run(folder: Path) -> None:
    result = read_json(folder / "result.json")
    write_json(folder / "result.json", {**result, "weights_sha256": "0" * 64})


def failed(folder: Path) -> None:
    write_json(folder / "result.json", {"status": "failed", "reason": "the loss is nan at step 3 of 6"})


def of_another_design(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("kernel_size: 7", "kernel_size: 5"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_checkpoints, "run {run}: no checkpoint in {run}/checkpoints; copy that folder from where the run was"),
        (damaged, "run {run}: {run}/checkpoints/step-000000006-"),
        (of_another_run, "run {run}: the weights of its checkpoint are not those of its result.json"),
        (failed, "run {run} failed (the loss is nan at step 3 of 6); it has no trained network"),
        (of_another_design, "run {run}: its checkpoint does not fit its config.yaml (Error(s) in loading state_dict"),
        (lambda folder: (folder / "result.json").write_text("{"), "run {run} failed (result.json is corrupt: "),
        (lambda folder: (folder / "config.yaml").unlink(), "{run} is not the folder of a run: it has no config.yaml"),
        (lambda folder: (folder / "config.yaml").write_text("row: 1\n"), "run {run}/config.yaml: row=1: must be a"),
    ],
)
def test_a_run_that_has_no_intact_network_is_one_line(
    spoil: Callable[[Path], None], says: str, convnext: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(convnext, tmp_path / "run")
    spoil(run)
    before = sorted(run.rglob("*"))
    with pytest.raises(RequestError) as caught:
        ablations.load_run(run)
    assert str(caught.value).startswith(says.format(run=run)) and "\n" not in str(caught.value)
    assert sorted(run.rglob("*")) == before, "a damaged checkpoint is for the run itself to delete"


def test_an_unfinished_run_is_one_line_with_its_step(tmp_path: Path) -> None:
    run = interrupted(tmp_path / "run")
    with pytest.raises(
        RequestError, match=r"is not finished \(newest checkpoint: step 1\); rerun its command to resume it$"
    ):
        ablations.load_run(run)
    says = r"is still running \(newest checkpoint: step 1\); wait until it has finished$"
    with locked(run) as free, pytest.raises(RequestError, match=says):
        assert free
        ablations.load_run(run)


def test_a_studys_folder_is_one_line_with_its_runs(convnext: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    open_folder(load_study("quick", {}, {}), study)
    with pytest.raises(RequestError, match=f"^{study} is the folder of a study: its runs are not here$"):
        ablations.load_run(study)
    for name in "dcba":
        shutil.copytree(convnext, study / "runs" / name)
    for place in (study, study / "runs"):
        with pytest.raises(RequestError, match=f"give a run, such as {study}/runs/a, .*/b, .*/c \\(4 runs\\)$"):
            ablations.load_run(place)
    ablations.load_run(study / "runs/a")


def test_a_place_that_is_no_run_is_one_line(convnext: Path, resnet: Path, tmp_path: Path) -> None:
    (path,) = checkpoints(convnext / "checkpoints")
    for place, says in {
        tmp_path / "missing": f"{tmp_path}/missing: no such folder; give the folder of a run",
        tmp_path: f"{tmp_path} is not the folder of a run: it has no config.yaml",
        path: f"{path} is a file; give the folder of a run",
    }.items():
        with pytest.raises(RequestError) as caught:
            ablations.load_run(place)
        assert str(caught.value) == says
    with pytest.raises(RequestError, match=r"has no averaged \(EMA\) weights: its recipe sets no ema_decay$"):
        ablations.load_run(resnet, averaged=True)


# The command ---------------------------------------------------------------------------------------------------------


def test_wrong_requests_are_one_line_and_write_nothing(convnext: Path, reference: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for run, form, to, says in [
        (Path("missing"), "safetensors", "a.safetensors", "missing: no such folder; give the folder of a run"),
        (convnext, "safetensors", "a.pth", "a file of format safetensors ends in .safetensors; write a.safetensors"),
        (convnext, "timm", "a.onnx", "a file of format timm ends in .pth or .pt or .safetensors; write a.pth"),
        (convnext, "onnx", "a", "a file of format onnx ends in .onnx; write a.onnx"),
        (convnext, "onnx", "folder.onnx", "--to folder.onnx is a folder; name a file"),
        (convnext, "onnx", ".", "--to . is a folder; name a file"),
        (convnext, "torch-export", "no/a.pt2", "--to no/a.pt2: there is no folder no; make it first"),
        (convnext, "tensorflow", "a.pb", "'tensorflow' is not one of"),
        (convnext, "safetensors", "", "'' is not a path"),
        (reference, "timm", "a.pth", "torchvision:resnet18 has no timm layout; choose --format torchvision, safe"),
    ]:
        before = sorted(tmp_path.rglob("*"))
        done = ablations_here("export", run, "--format", form, "--to", to, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "", (run, form, to)
        assert re.fullmatch(r"ablations: .*\n", done.stderr) and says in done.stderr, done.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_a_layout_that_cannot_express_the_design_is_one_line_with_the_flag(tmp_path: Path, convnext: Path) -> None:
    run = trained(tmp_path / "run", f"pocket@gelu{SMALL}", max_epochs=0.1, ema_decay=None)
    done = ablations_here("export", run, "--format", "timm", "--to", tmp_path / "a.pth")
    assert done.returncode == 2 and done.stderr.startswith(f"ablations: run {run}: timm's ConvNeXt cannot express")
    assert "fewer_activations=off (needs on)" in done.stderr and done.stderr.count("\n") == 1


def test_onnx_without_its_packages_is_one_line_that_says_what_to_install(
    convnext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("ablations.export.formats.find_spec", lambda name: None if name == "onnx" else find_spec(name))
    done = ablations_here("export", convnext, "--format", "onnx", "--to", tmp_path / "a.onnx")
    assert done.returncode == 2
    assert done.stderr == (
        "ablations: --format onnx: onnx is not installed; run pip install 'modernize-convnets[onnx]'\n"
    )


def test_a_file_that_cannot_be_written_is_one_line_and_the_old_one_stays(
    convnext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = exported(convnext, "safetensors", tmp_path / "a.safetensors")
    before = to.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ablations.export.formats.write_bytes", full)
    done = ablations_here("export", convnext, "--format", "safetensors", "--to", to, "--averaged")
    assert done.returncode == 1
    assert done.stderr == f"ablations: --to {to}: cannot be written (No space left on device)\n"
    assert to.read_bytes() == before
    monkeypatch.undo()
    exported(convnext, "safetensors", to, "--averaged")
    assert to.read_bytes() != before


def test_a_run_of_an_earlier_version_is_exported_and_what_is_unknown_is_said(convnext: Path, tmp_path: Path) -> None:
    run = shutil.copytree(convnext, tmp_path / "run")
    result = read_json(run / "result.json")
    known = described(exported(run, "safetensors", tmp_path / "new.safetensors"))
    write_json(
        run / "result.json", {key: value for key, value in result.items() if key not in ("classes", "preprocessing")}
    )
    to = tmp_path / "old.safetensors"
    done = ablations_here("export", run, "--format", "safetensors", "--to", to)
    assert done.returncode == 0
    assert done.stderr == (
        f"{to}: the names of the classes and the normalization (mean and std): unknown, since an earlier version "
        "trained this run and did not record them\n"
    )
    assert described(to) == known | {"classes": None, "mean": None, "std": None}


def test_a_run_of_version_0_1_is_loaded(convnext: Path, tmp_path: Path) -> None:
    """It saved layer scale as (C, 1, 1), and did not record classes, channels or resolution."""
    run = shutil.copytree(convnext, tmp_path / "run")
    (path,) = checkpoints(run / "checkpoints")
    state = read_checkpoint(path)
    for weights in (state["model"], state["averaged"]):
        weights |= {key: one.view(-1, 1, 1) for key, one in weights.items() if "layer_scale" in key}
    path.unlink()
    write_checkpoint(run / "checkpoints", 6, state)
    newer = ("classes", "preprocessing", "num_classes", "in_channels", "image_size")
    result = {key: value for key, value in read_json(run / "result.json").items() if key not in newer}
    write_json(run / "result.json", {**result, "weights_sha256": weights_sha256(state["model"])})
    for averaged in (False, True):
        old, new = (ablations.load_run(one, averaged=averaged).state_dict() for one in (run, convnext))
        assert weights_sha256(old) == weights_sha256(new)


# Layouts -------------------------------------------------------------------------------------------------------------


def same(ours: nn.Module, theirs: nn.Module, channels: int = 1) -> None:
    images = torch.randn(2, channels, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(images), ours(images), rtol=1e-4, atol=1e-5)


def test_torchvision_loads_its_layout_unchanged(convnext: Path, tmp_path: Path) -> None:
    path = exported(convnext, "torchvision", tmp_path / "network.pth")
    stages = [CNBlockConfig(width, None if width == 64 else 2 * width, 1) for width in (8, 16, 32, 64)]
    theirs = ConvNeXt(stages, num_classes=10)
    theirs.features[0][0] = nn.Conv2d(1, 8, 1)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    same(ablations.load_run(convnext), theirs)
    beside = json.loads((tmp_path / "network.pth.json").read_text())
    assert beside == described(exported(convnext, "safetensors", tmp_path / "a.safetensors"))


def test_timm_loads_its_layout_from_either_file(convnext: Path, tmp_path: Path) -> None:
    from timm.models import load_checkpoint
    from timm.models.convnext import ConvNeXt as Timms

    for name in ("network.pth", "network.safetensors"):
        theirs = Timms(in_chans=1, num_classes=10, depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), patch_size=1)
        load_checkpoint(theirs, str(exported(convnext, "timm", tmp_path / name)))
        same(ablations.load_run(convnext), theirs)


def test_every_file_of_weights_is_read_back(convnext: Path, resnet: Path, tmp_path: Path) -> None:
    for run, forms in ((convnext, ("safetensors", "timm", "official")), (resnet, ("safetensors", "torchvision"))):
        network: Any = ablations.load_run(run)
        for form in forms:
            for extension in (".safetensors", *(() if form == "safetensors" else (".pth",))):
                path = exported(run, form, tmp_path / f"{run.name}-{form}{extension}")
                again = modernize.build(network.plan.design, 10, 1)
                assert modernize.load_weights(again, path) == ("native" if form == "safetensors" else form)
                assert weights_sha256(again.state_dict()) == weights_sha256(network.state_dict())


@pytest.mark.parametrize("form", ["torchvision", "safetensors"])
def test_a_references_weights_have_torchvisions_keys(form: str, reference: Path, tmp_path: Path) -> None:
    path = exported(reference, form, tmp_path / "network.safetensors")
    theirs = resnet18(num_classes=10)
    theirs.load_state_dict(load_file(path))
    description = described(path)
    assert (description["reference"], description["channel_repeats"]) == ("torchvision:resnet18", 3)


# Graphs --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network to export, with images of a size."""

    name: str
    image_size: int
    channels: int = 1

    @property
    def run(self) -> TrainedRun:
        """A run of it, whose statistics and scales are not those of a new network."""
        torch.manual_seed(1)
        network = modernize.build(f"{self.name}{SMALL}", 10, self.channels)
        with torch.no_grad():
            for key, value in network.state_dict().items():
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) + 0.5 if "var" in key else torch.randn_like(value) * 0.2)
        return TrainedRun(Path("run"), config(self.name), {}, network.eval(), 10, self.channels, self.image_size)


CASES = [
    Case(f"pocket@{row.name}", 16 + 13 * (index % 2)) for index, row in enumerate(modernize.roadmap("pocket").rows)
]
CASES += [Case("pocket@separate-downsampling,grn=on,stem_stride=3", 31, 4)]
QUICK = {"pocket@resnet", "pocket@depthwise", "pocket@fewer-norms", CASES[-1].name}


def logits(content: bytes, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(content)
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    assert (given.name, wanted.name) == ("images", "logits") and isinstance(given.shape[0], str)
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, marks=() if one.name in QUICK else pytest.mark.slow, id=one.name) for one in CASES],
)
def test_onnxruntime_and_torch_export_compute_the_networks_logits(case: Case) -> None:
    run = case.run
    content, program = as_onnx(run, "{}"), loaded(as_torch_export(run, "{}"))
    assert {node.domain for node in onnx.load_from_string(content).graph.node} == {""}
    for count in (1, 3):
        images = torch.randn(count, case.channels, case.image_size, case.image_size)
        with torch.no_grad():
            expected = run.network(images)
            torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits(content, images), expected, rtol=1e-3, atol=1e-4)


def loaded(content: bytes) -> nn.Module:
    import io

    return torch.export.load(io.BytesIO(content)).module()


def circular(convolution: nn.Conv2d) -> None:
    convolution.padding_mode = "circular"
    convolution._reversed_padding_repeated_twice = [3, 3, 3, 3]


def dilated(convolution: nn.Conv2d) -> None:
    convolution.dilation, convolution.padding = (2, 2), (6, 6)


@pytest.mark.parametrize("change", [circular, dilated])
def test_a_graph_of_a_network_whose_depthwise_convolutions_were_changed(change: Callable[[nn.Conv2d], None]) -> None:
    """Exported with gradients on, as they are unless a user turns them off."""
    network, images = Case("pocket@separate-downsampling", 32).run.network, torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        original = network(images)
        for one in network.modules():
            if isinstance(one, nn.Conv2d) and one.groups > 1:
                change(one)
        expected = network(images)
    assert (expected - original).abs().max() > 0.01
    batch = ({0: torch.export.Dim("batch")},)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    graph = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=batch, verbose=False, **names)
    assert graph is not None
    found = logits(graph.model_proto.SerializeToString(), images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_reference_is_a_graph_of_the_images_that_it_was_trained_on(reference: Path, tmp_path: Path) -> None:
    network, images = ablations.load_run(reference), torch.randn(3, 1, 16, 16)
    content = exported(reference, "onnx", tmp_path / "a.onnx").read_bytes()
    program = loaded(exported(reference, "torch-export", tmp_path / "a.pt2").read_bytes())
    with torch.no_grad():
        torch.testing.assert_close(logits(content, images), network(images), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(program(images), network(images), rtol=1e-4, atol=1e-5)


def test_what_has_no_graph_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    run = CASES[0].run
    with pytest.raises(RequestError, match=r"^run run: the resolution of its images is unknown; choose --format saf"):
        as_torch_export(replace(run, image_size=None), "{}")
    monkeypatch.setattr("ablations.export.traced.MAX_ONNX", 2**10)
    with pytest.raises(RequestError, match=r"^run run: its network has 0\.0 GiB of weights, and an ONNX file hol"):
        as_onnx(run, "{}")


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ablations.errors import RunError

    run = CASES[-1].run
    monkeypatch.setattr("ablations.export.traced.TOLERANCE", 0.0)
    with pytest.raises(RunError, match=r"^run run: the torch.export network's logits differ from the run's by "):
        as_torch_export(run, "{}")


LOADS_ALONE = """
import io, json, sys
sys.modules["modernize"] = sys.modules["ablations"] = None  # importing them fails
import torch
extra = {"modernize.json": ""}
program = torch.export.load("a.pt2", extra_files=extra).module()
logits = program(torch.load("images.pt"))
print(json.dumps([logits.tolist(), json.loads(extra["modernize.json"])["top1"]]))
"""


def test_torch_export_is_loaded_where_this_package_is_not_installed(convnext: Path, tmp_path: Path) -> None:
    exported(convnext, "torch-export", tmp_path / "a.pt2")
    images = torch.randn(3, 1, 8, 8)
    torch.save(images, tmp_path / "images.pt")
    done = subprocess.run(
        [sys.executable, "-c", LOADS_ALONE], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    found, recorded = json.loads(done.stdout)
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(found), ablations.load_run(convnext)(images), rtol=1e-4, atol=1e-5)
    assert recorded == read_json(convnext / "result.json")["top1"]


# The documentation's script ------------------------------------------------------------------------------------------


def test_the_scripts_of_the_documentation_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (HOME / "docs/export.md").read_text()
    prepares, with_torch, with_onnx, *scripts = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    digits: Any = load("digits", Path("unused"))
    (tmp_path / "runs").mkdir()
    run = trained(tmp_path / "runs/digits", f"pocket{SMALL}", max_epochs=4, ema_decay=None)
    files = {"onnx": "digits.onnx", "torch-export": "digits.pt2", "safetensors": "digits.safetensors"}
    for form, file in files.items():
        exported(run, form, tmp_path / file)
    images = pictures(digits.test)
    images[5].save(tmp_path / "digit.png")
    mean, std = (digits.train.images.float().mean() / 255, digits.train.images.float().std(correction=0) / 255)
    image = (torch.from_numpy(np.array(images[5]))[None, None] / 255 - mean) / std
    with torch.no_grad():
        expected = ablations.load_run(run)(image).softmax(1)[0]
    monkeypatch.chdir(tmp_path)
    for script in scripts:
        names: dict[str, Any] = {}
        exec(script, names)
        with torch.no_grad():
            torch.testing.assert_close(names["network"](image).softmax(1)[0], expected)
    for script, absent in ((with_torch, ("modernize", "ablations")), (with_onnx, ("modernize", "torch"))):
        without = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
        done = subprocess.run(
            [sys.executable, "-c", without + prepares + script], capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
        name, probability = done.stdout.split()
        assert int(name) == int(expected.argmax()) == digits.test.labels[5]
        assert abs(float(probability) - float(expected.max())) < 2e-3
    deep = Image.fromarray(np.asarray(images[5]).astype(np.uint16) * 257)
    clear = images[5].copy()
    clear.putalpha(128)
    for other in (deep, clear):  # Pillow would clip the one and show what is hidden in the other
        other.save(tmp_path / "digit.png")
        with pytest.raises(SystemExit, match=r"convert it first$"):
            exec(prepares + with_onnx, {})
