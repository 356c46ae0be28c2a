"""Runs and studies start from weights: loaded exactly, recorded, checked in every row before anything trains."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pandas as pd
import pytest
import torch
import torchvision
import yaml
from commands import ablations_here
from together import together
from torch import Tensor

import modernize
from ablations.data.datasets import DataSet, load
from ablations.recipes import TrainingConfig, load_recipe
from ablations.seeding import seed_of
from ablations.store import read_json
from ablations.studies.load import load_study
from ablations.studies.run import RunConfig, build_network, execute
from ablations.studies.starting_weights import Weights, fit, locate, read
from ablations.training.callbacks import Callbacks
from ablations.training.checkpoint import checkpoints, weights_sha256
from ablations.training.distributed import Group
from ablations.training.trainer import Interrupted
from modernize.reference import PREFIX, build_reference, classifier, without_weights

SMALL = "pocket@separate-downsampling,depths=1-1,width=4,stem_stride=1"
# At this learning rate no weight moves.
STILL = ("--data", "digits", "--recipe", "quick,batch_size=512,image_size=8,learning_rate=1e-100,weight_decay=0")


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def network(design: str = SMALL, seed: int = 7, **sizes: Any) -> modernize.network.Network:
    torch.manual_seed(seed)
    return modernize.build(design, **{"num_classes": 10, "in_channels": 1, **sizes})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of a trained network's shapes."""
    path = tmp_path_factory.mktemp("weights") / "pretrained.pt"
    torch.save(network().state_dict(), path)
    return path


def run_config(weights: Path | str | None, seed: int = 0, design: str = SMALL, **changes: Any) -> RunConfig:
    values = {"max_epochs": 1, "batch_size": 64, "learning_rate": 5e-3, **changes}
    reference = design if design.startswith(PREFIX) else None
    return RunConfig(
        row="r",
        label="r",
        flags={} if reference else modernize.design(design).flags(),
        reference=reference,
        recipe_name="r",
        recipe=TrainingConfig(**values),
        data="digits",
        seed=seed,
        weights=None if weights is None else read(locate(str(weights)))[0],
    )


def executed(config: RunConfig, folder: Path, data: DataSet, **options: Any) -> dict[str, Any]:
    """Train a run in its folder, which is made if it does not exist."""
    folder.mkdir(exist_ok=True)
    return execute(config, folder, data, **options)


class StopAt(Callbacks):
    """Stop a run after a number of training steps."""

    def __init__(self, step: int):
        super().__init__(self._stopping)
        self.left, self.said = step, list[str]()

    def _stopping(self) -> bool:
        self.left -= 1
        return self.left == 0

    def warn(self, message: str) -> None:
        self.said.append(message)


# One run -------------------------------------------------------------------------------------------------------------


def test_training_starts_from_the_files_tensors_whatever_the_seed(file: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        done = ablations_here(
            "train", SMALL, *STILL, "--weights", file, "--seed", str(seed), "--out", tmp_path / str(seed)
        )
        assert done.returncode == 0, done.stderr
        assert (
            f"starts from pretrained.pt (sha256 {weights_sha256(torch.load(file))[:12]}); with its classifier\n"
            in done.stdout
        )
        result = read_json(tmp_path / str(seed) / "result.json")
        assert result["weights_sha256"] == weights_sha256(network().state_dict())
        assert result["weights"]["sha256"] == result["weights_sha256"]
        assert result["weights"]["source"] == str(file)


def test_a_relative_path_is_stored_as_an_absolute_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert locate(file.name).source == str(file)
    assert locate("torchvision:resnet18").source == "torchvision:resnet18"


@pytest.mark.parametrize("form", ["safetensors", "checkpoint", "official", "timm", "torchvision", "ddp"])
def test_every_file_that_load_weights_reads_is_read(tmp_path: Path, form: str) -> None:
    from safetensors.torch import save_file

    net, path = network("convnext_tiny,depths=1-1,width=4"), tmp_path / f"w.{form}"
    state: dict[str, Any] = dict(net.state_dict())
    if form == "safetensors":
        save_file(state, path)
    else:
        state = {"model": state, "step": 3} if form == "checkpoint" else state
        state = {f"module.{key}": value for key, value in state.items()} if form == "ddp" else state
        state = modernize.export_weights(net, form) if form in ("official", "timm", "torchvision") else state
        torch.save(state, path)
    other = network("convnext_tiny,depths=1-1,width=4", seed=8)
    assert fit(other, read(locate(str(path)))[1]) == ("with its classifier",)
    assert weights_sha256(other.state_dict()) == weights_sha256(net.state_dict())


def test_another_number_of_classes_leaves_the_classifier_as_the_seed_draws_it(digits: DataSet, tmp_path: Path) -> None:
    source = network(num_classes=7, in_channels=3)
    path = tmp_path / "seven.pt"
    torch.save(source.state_dict(), path)
    heads = []
    for seed in (0, 1):
        config = run_config(path, seed, learning_rate=1e-100, head_init_scale=0.5)
        torch.manual_seed(seed_of(seed, "initialisation"))
        built = build_network(config, digits)
        notes = fit(built, torch.load(path))
        assert notes == ("classifier newly initialized", "stem.conv.weight has 3 input channels, summed for 1")
        executed(config, tmp_path / str(seed), digits)
        trained = torch.load(checkpoints(tmp_path / str(seed) / "checkpoints")[0])["model"]
        assert weights_sha256(trained) == weights_sha256(built.state_dict())
        heads.append(trained["head.linear.weight"])
        kept = "stages.1.blocks.0.residual.spatial.weight"
        assert torch.equal(trained[kept], source.state_dict()[kept])
        assert torch.equal(trained["stem.conv.weight"], source.state_dict()["stem.conv.weight"].sum(1, keepdim=True))
    assert not torch.equal(*heads)
    done = ablations_here("train", SMALL, *STILL, "--weights", path, "--out", tmp_path / "said")
    assert "; classifier newly initialized; stem.conv.weight has 3 input channels, summed for 1\n" in done.stdout


def test_a_recipe_may_reset_a_classifier_that_fits(file: Path, digits: DataSet, tmp_path: Path) -> None:
    """Two datasets may have the same number of classes."""
    drawn = []
    for seed in (0, 1):
        config = run_config(file, seed, learning_rate=1e-100, reset_classifier=True)
        torch.manual_seed(seed_of(seed, "initialisation"))
        head = build_network(config, digits).state_dict()["head.linear.weight"]
        executed(config, tmp_path / str(seed), digits)
        trained = torch.load(checkpoints(tmp_path / str(seed) / "checkpoints")[0])["model"]
        assert torch.equal(trained.pop("head.linear.weight"), head)
        assert all(torch.equal(tensor, torch.load(file)[key]) for key, tensor in trained.items())
        drawn.append(head)
    assert not torch.equal(*drawn)


def test_recipes_that_differ_in_the_classifier_are_told_apart(file: Path) -> None:
    recipes = "quick,batch_size=64,quick,batch_size=64,reset_classifier=true"
    asked = (
        "run",
        "recipes",
        "--base",
        SMALL,
        "--recipes",
        recipes,
        "--data",
        "digits",
        "--weights",
        file,
        "--dry-run",
    )
    done = ablations_here(*asked)
    assert done.returncode == 0, done.stderr
    with_it, without = "quick-batch_size=64", "quick-batch_size=64-reset_classifier=true"
    words = f"; with its classifier in {with_it}; classifier newly initialized in {without}\n"
    assert words.replace("-", ",") in done.stdout.replace("-", ",")


def test_the_classifiers_initial_weights_are_scaled_and_nothing_else(digits: DataSet) -> None:
    for design in (SMALL, "torchvision:shufflenet_v2_x0_5"):
        states = []
        for scale in (1.0, 0.25):
            torch.manual_seed(0)
            built = build_network(run_config(None, design=design, head_init_scale=scale, init="kaiming"), digits)
            states.append(built.state_dict())
        name = "head.linear" if design == SMALL else "fc"
        for key, plain in states[0].items():
            assert torch.equal(states[1][key], plain * 0.25 if key.startswith(f"{name}.") else plain)


def test_a_run_resumes_without_the_file_to_the_same_bits(file: Path, digits: DataSet, tmp_path: Path) -> None:
    mine = shutil.copy(file, tmp_path / "w.pt")
    config = run_config(mine, layer_decay=0.8)
    whole = executed(config, tmp_path / "whole", digits)
    new = executed(run_config(None, layer_decay=0.8), tmp_path / "new", digits)
    assert whole["weights_sha256"] != new["weights_sha256"]
    with pytest.raises(Interrupted):
        executed(config, tmp_path / "run", digits, callbacks=StopAt(5))
    Path(mine).unlink()
    assert executed(config, tmp_path / "run", digits)["weights_sha256"] == whole["weights_sha256"]


def test_a_run_whose_checkpoints_are_corrupt_starts_from_the_weights_again(
    file: Path, digits: DataSet, tmp_path: Path
) -> None:
    """It must not go on from a new initialization; without the file it is refused in one line."""
    mine, out = Path(shutil.copy(file, tmp_path / "w.pt")), tmp_path / "run"
    config = run_config(mine)
    whole = executed(config, tmp_path / "whole", digits)
    for present in (False, True):
        stopped = StopAt(5)
        with pytest.raises(Interrupted):
            executed(config, out, digits, callbacks=stopped)
        for one in checkpoints(out / "checkpoints"):
            one.write_bytes(b"")
        moved = mine if present else mine.rename(tmp_path / "moved.pt")
        if present:
            assert executed(config, out, digits)["weights_sha256"] == whole["weights_sha256"]
        else:
            with pytest.raises(ValueError, match=r"^weights .*w.pt: cannot be read \(No such file or directory\)$"):
                executed(config, out, digits)
            moved.rename(mine)


def test_a_file_that_changes_after_the_check_is_refused(file: Path, digits: DataSet, tmp_path: Path) -> None:
    mine = Path(shutil.copy(file, tmp_path / "w.pt"))
    config = run_config(mine)
    torch.save(network(seed=8).state_dict(), mine)
    with pytest.raises(ValueError, match=r"w\.pt: not the tensors that the run was configured with \(sha256\)$"):
        executed(config, tmp_path / "run", digits)
    assert not checkpoints(tmp_path / "run/checkpoints") and not (tmp_path / "run/result.json").exists()


def in_two_processes(group: Group, folder: Path, config: RunConfig) -> str:
    return executed(config, folder / str(group.rank), load("digits", Path("unused")), group=group)["weights_sha256"]


@pytest.mark.slow
def test_all_processes_of_a_run_start_from_the_weights(file: Path, tmp_path: Path) -> None:
    config = run_config(file, learning_rate=1e-100)
    expected = weights_sha256(torch.load(file))
    assert together(2, in_two_processes, tmp_path, config) == [expected, expected]


def test_a_command_resumes_without_the_file_and_refuses_other_tensors(file: Path, tmp_path: Path) -> None:
    mine, out = Path(shutil.copy(file, tmp_path / "w.pt")), tmp_path / "run"
    asked = ("train", SMALL, *STILL, "--weights", mine, "--out", out)
    assert ablations_here(*asked).returncode == 0
    mine.rename(tmp_path / "elsewhere.pt")
    assert ablations_here(*asked).returncode == 0  # finished
    (out / "result.json").unlink()
    assert ablations_here(*asked).returncode == 0  # has a checkpoint
    moved = ablations_here(*asked[:-4], "--weights", tmp_path / "elsewhere.pt", "--out", out)
    assert moved.returncode == 0  # the same tensors
    torch.save(network(seed=8).state_dict(), mine)
    for changes, words in (((), "weights.sha256 was "), (None, "weights was sha256=")):
        again = ablations_here(*(asked if changes is not None else ("train", SMALL, *STILL, "--out", out)))
        assert again.returncode == 2 and again.stderr.count("\n") == 1
        assert f"run folder {out} was made with another configuration: {words}" in again.stderr
    shutil.rmtree(out / "checkpoints")
    (out / "result.json").unlink()
    mine.unlink()
    gone = ablations_here(*asked)
    assert gone.returncode == 2
    assert gone.stderr == f"ablations: weights {mine}: cannot be read (No such file or directory)\n"


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("", "weights '': write the path of a file, or torchvision:NAME"),
        ("torchvision:resnet19", "weights: unknown torchvision model 'resnet19': did you mean 'resnet18'?"),
        ("torchvision:", "weights: unknown torchvision model '': "),
        (".", "weights .: a folder; pass a file, such as one that `ablations export RUN` writes"),
        ("https://example.org/a.pth", "weights https://example.org/a.pth: a URL; download it, and pass the file"),
        ("text.pt", "weights {here}/text.pt: not a file of tensors saved by torch"),
        ("other.pt", "weights other.pt: {row} cannot start from them: unknown layout, with keys such as a; known: "),
    ],
)
@pytest.mark.parametrize("command", [["train", "pocket"], ["run", "sweep", "--base", "pocket", "--flags", "norm=bn"]])
def test_weights_that_cannot_be_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], weights: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.pt").write_text("no tensors")
    torch.save({"a": torch.zeros(1)}, "other.pt")
    done = ablations_here(*command, "--data", "digits", "--set", "batch_size=32", "--weights", weights)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    expected = words.format(here=tmp_path, row="norm=bn" if command[0] == "run" else "pocket")
    assert f"ablations: {expected}" in done.stderr.replace("study sweep: ", "")
    assert not Path("runs").exists()


def test_the_recipe_finetune_gains_from_the_weights(digits: DataSet, tmp_path: Path) -> None:
    """In one epoch, with a new classifier, on the digits on which the other layers were trained."""
    wide = SMALL.replace("width=4", "width=16")
    executed(run_config(None, design=wide, max_epochs=4), tmp_path / "before", digits)
    (file,) = checkpoints(tmp_path / "before/checkpoints")
    recipe = load_recipe("finetune", {"max_epochs": "1", "image_size": "null"})
    tuned, scratch = (
        executed(run_config(weights, design=wide).model_copy(update={"recipe": recipe}), tmp_path / name, digits)
        for weights, name in ((file, "tuned"), (None, "scratch"))
    )
    assert tuned["top1"] > scratch["top1"] + 10
    assert "warnings" not in tuned
    assert scratch["warnings"] == [
        "layer_decay=0.8: layers near the input learn slowly from their initialization; start from --weights"
    ]


# torchvision's weights -----------------------------------------------------------------------------------------------


def stored(folder: Path, name: str, state: dict[str, Tensor]) -> Path:
    """Store a state dict where torch's hub looks for torchvision's weights of a model."""
    path = folder / "hub/checkpoints" / Path(torchvision.models.get_model_weights(name).DEFAULT.url).name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return path


def test_a_reference_starts_from_torchvisions_weights(
    digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files for 1000 classes; the images have one channel, which is repeated."""
    name = "torchvision:shufflenet_v2_x0_5"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(3)
    source = build_reference(name).state_dict()
    stored(tmp_path / "torch", "shufflenet_v2_x0_5", source)
    config = run_config(name, design=name, learning_rate=1e-100)
    assert config.note == "torchvision's network"
    result = executed(config, tmp_path / "run", digits)
    assert result["status"] == "done" and result["weights"]["source"] == name
    trained = torch.load(checkpoints(tmp_path / "run/checkpoints")[0])["model"]
    learned = [key for key in source if not key.startswith("fc.") and "running" not in key and "tracked" not in key]
    assert len(learned) > 100
    for key in learned:
        assert torch.equal(trained[key], source[key])
    assert trained["fc.weight"].shape == (10, 1024)


def test_a_design_starts_from_torchvisions_weights(
    digits: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = network("resnet50,depths=1-1,width=4", in_channels=3, num_classes=1000)
    stored(tmp_path, "resnet50", modernize.export_weights(net, "torchvision"))
    asked = ("run", "sweep", "--base", "resnet50,depths=1-1,width=4", "--data", "digits", "--set", "batch_size=64")
    weights = ("--weights", "torchvision:resnet50", "--dry-run")
    done = ablations_here(*asked, *weights, "--flags", "activation=relu")
    assert done.returncode == 0, done.stderr
    line = "  all start from torchvision:resnet50 (sha256 "
    assert line in done.stdout
    assert "; classifier newly initialized; conv1.weight has 3 input channels, summed for 1\n" in done.stdout
    refused = ablations_here(*asked, *weights, "--flags", "norm=bn:ln")
    assert refused.returncode == 2
    reason = "norm=ln (is of torchvision's ResNet, which this network is not: norm=ln (needs bn))"
    assert refused.stderr.endswith(f": 1 of 2 rows cannot start from them: {reason}\n")


def test_without_a_network_torchvisions_weights_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    done = ablations_here("train", "torchvision:resnet18", "--data", "digits", "--weights", "torchvision:resnet18")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "weights torchvision:resnet18: cannot be loaded (<urlopen error no network>); download " in done.stderr
    assert done.stderr.endswith(".pth on another machine and pass --weights FILE\n")
    refused = ablations_here("train", "pocket", "--data", "digits", "--weights", "torchvision:resnet18")  # before that
    assert refused.returncode == 2 and "weights torchvision:resnet18: pocket cannot start from them: " in refused.stderr


@pytest.mark.parametrize("name", ["googlenet", "maxvit_t", "squeezenet1_1", "vit_b_16", "swin_t", "regnet_y_400mf"])
def test_the_classifier_of_a_reference_is_found(name: str) -> None:
    path, module = classifier(without_weights(f"torchvision:{name}", 37))
    assert 37 in (getattr(module, "out_features", None), getattr(module, "out_channels", None))
    assert path in ("fc", "classifier.5", "classifier.1", "heads.head", "head")


def test_weights_that_do_not_fit_a_reference_are_named() -> None:
    small = build_reference("torchvision:shufflenet_v2_x0_5", 10)
    before = weights_sha256(small.state_dict())
    state = dict(small.state_dict())
    del state["conv1.1.weight"]
    wrong = {**state, "conv1.0.weight": torch.zeros(24, 3, 5, 5), "extra": torch.zeros(1)}
    words = "missing conv1.1.weight; unexpected extra; shapes conv1.0.weight is 24×3×5×5, needs 24×3×3×3"
    with pytest.raises(modernize.WeightsError, match=f"^the state dict does not fit ShuffleNetV2: {words}$"):
        fit(small, wrong)
    assert weights_sha256(small.state_dict()) == before


# Studies -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    """A finished study of two rows and two seeds, trained in worker processes from a relative path."""
    out = tmp_path_factory.mktemp("study") / "out"
    asked = ("run", "sweep", "--base", SMALL, "--flags", "activation=relu:gelu", "--seeds", "0,1")
    done = ablations_here(*asked, *STILL, "--weights", file.name, "--jobs", "1", "--out", out, cwd=file.parent)
    assert done.returncode == 0, done.stderr
    assert "all runs start from pretrained.pt (sha256 " in done.stdout
    return out


def test_all_rows_and_seeds_of_a_study_start_from_the_same_weights(study: Path, file: Path) -> None:
    results = pd.read_csv(study / "results.csv")
    expected = weights_sha256(torch.load(file))
    assert len(results) == 4
    assert set(results["weights_sha256"]) == {expected}
    assert set(results["weights"]) == {f"pretrained.pt (sha256 {expected[:12]}); with its classifier"}
    kept = yaml.safe_load((study / "study.yaml").read_text())["weights"]
    assert kept == {"source": str(file), "sha256": expected, "notes": ["with its classifier"]}


def test_reports_and_comparisons_say_that_runs_start_from_weights(study: Path, tmp_path: Path) -> None:
    words = "starting from weights pretrained.pt (sha256 "
    report = ablations_here("report", study, "--to", tmp_path, "--format", "table,markdown,html")
    assert report.returncode == 0, report.stderr
    assert words in " ".join(report.stdout.split())
    for suffix in ("md", "html"):
        assert any(words in path.read_text() for path in tmp_path.rglob(f"*.{suffix}")), suffix
    compared = ablations_here("compare", f"{SMALL},activation=relu", f"{SMALL},activation=gelu", "--results", study)
    assert compared.returncode == 0, compared.stderr
    assert words in " ".join(compared.stdout.split())


def test_a_study_of_weights_is_not_mixed_with_one_from_scratch(study: Path, file: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(study, tmp_path / "copy"))
    asked = (
        "run",
        "sweep",
        "--base",
        SMALL,
        "--flags",
        "activation=relu:gelu",
        "--seeds",
        "0,1",
        *STILL,
        "--out",
        copied,
    )
    torch.save(network(seed=8).state_dict(), other := tmp_path / "other.pt")
    for extra, words in (((), "weights was sha256="), (("--weights", other), "weights.sha256 was ")):
        done = ablations_here(*asked, *extra)
        assert done.returncode == 2
        assert f"study folder {copied} was made with another configuration: {words}" in done.stderr
        assert done.stderr.endswith("; choose another --out\n")
    moved = ablations_here("run", copied, "--weights", shutil.copy(file, tmp_path / "moved.pt"))
    assert moved.returncode == 0, moved.stderr
    changed = ablations_here("run", copied, "--weights", other)
    assert changed.returncode == 2 and "weights.sha256 was " in changed.stderr
    scratch = ablations_here(*asked[:-2], "--out", tmp_path / "scratch", "--dry-run")
    assert scratch.returncode == 0 and "start from" not in scratch.stdout


def test_a_finished_study_needs_its_file_no_more_but_new_seeds_do(study: Path, file: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(study, tmp_path / "copy"))
    path = copied / "study.yaml"
    path.write_text(path.read_text().replace(str(file), gone := str(tmp_path / "gone.pt")))
    for config in copied.glob("runs/*/config.yaml"):
        config.write_text(config.read_text().replace(str(file), gone))
    assert ablations_here("run", copied).returncode == 0
    more = ablations_here("run", copied, "--seeds", "0,1,2")
    assert more.returncode == 2
    assert more.stderr == f"ablations: weights {gone}: cannot be read (No such file or directory)\n"


def test_rows_that_cannot_take_the_weights_are_named_before_anything_trains(file: Path, tmp_path: Path) -> None:
    asked = (
        "run",
        "roadmap",
        "--base",
        "pocket",
        "--data",
        "digits",
        "--set",
        "batch_size=32",
        "--out",
        tmp_path / "out",
    )
    torch.save(modernize.export_weights(network("pocket@separate-downsampling"), "official"), last := tmp_path / "w.pt")
    done = ablations_here(*asked, "--weights", last)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "weights w.pt: 15 of 16 rows cannot start from them: resnet (is of the official ConvNeXt, " in done.stderr
    assert "norm=bn (needs ln)" in done.stderr and "; and 12 more: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_study_file_may_name_weights(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"kind: sweep\nbase: {SMALL}\nflags: {{activation: [relu, gelu]}}\ndata: digits\nweights: {file}\n")
    assert load_study(str(path), {}, {}).weights == Weights(source=str(file))
    other = load_study(str(path), {"weights": "torchvision:resnet18"}, {})
    assert other.weights == Weights(source="torchvision:resnet18")
    assert load_study("sweep", {"base": SMALL, "flags": {"norm": ["bn"]}}, {}).weights is None


def test_a_folder_older_than_weights_resumes(tmp_path: Path, digits: DataSet) -> None:
    """Its config.yaml has no key `weights`."""
    whole = executed(run_config(None), tmp_path / "whole", digits)
    out = tmp_path / "old"
    asked = (
        "train",
        SMALL,
        "--data",
        "digits",
        "--recipe",
        "quick,batch_size=64,max_epochs=0.5,image_size=8",
        "--out",
        out,
    )
    assert ablations_here(*asked).returncode == 0
    values = yaml.safe_load((out / "config.yaml").read_text())
    assert values.pop("weights") is None
    for key in ("layer_decay", "head_init_scale", "zero_init_residual", "mup_fan_in"):
        del values["recipe"][key]
    (out / "config.yaml").write_text(yaml.safe_dump(values))
    result = read_json(out / "result.json")
    (out / "result.json").unlink()
    assert ablations_here(*asked).returncode == 0
    assert read_json(out / "result.json")["weights_sha256"] == result["weights_sha256"]
    assert whole["status"] == "done" and "weights" not in whole
