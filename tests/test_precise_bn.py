"""BatchNorm's statistics are recomputed before evaluation where the recipe asks for it, and nowhere else."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import ablations_here
from test_distributed import a_trainer
from together import together
from torch import nn

import modernize
from ablations.data.datasets import DataSet, load
from ablations.data.image_files import DamagedImageError
from ablations.recipes import TrainingConfig, load_recipe, recipe_names
from ablations.seeding import generator
from ablations.store import read_json
from ablations.training.batchnorm_statistics import _var_mean
from ablations.training.checkpoint import checkpoints, read_checkpoint
from ablations.training.corrupt_images import DamagedDataError
from ablations.training.trainer import Interrupted, Trainer
from modernize.reference import build_reference

DESIGN = "pocket,depths=1-1,width=4,stem_stride=1"
STEPS: dict[str, Any] = {"max_epochs": 1, "batch_size": 64, "learning_rate": 5e-3}  # 22 steps of digits


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


def trainer(data: DataSet, folder: Path | None = None, design: str = DESIGN, **changes: Any) -> Trainer:
    torch.manual_seed(7)
    network = modernize.build(design, num_classes=10, in_channels=1)
    return Trainer(network, data.train, data.test, TrainingConfig(**STEPS | changes), seed=3, folder=folder)


def first_norm(network: nn.Module) -> nn.BatchNorm2d:
    return next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))


def test_the_first_layers_statistics_are_those_of_the_training_images(digits: DataSet) -> None:
    run = trainer(digits, precise_bn=512, crop_padding=2, horizontal_flip=True)
    seen: list[torch.Tensor] = []
    run.train()
    norm = first_norm(run.model)
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    run.recompute_batchnorm()
    inputs = torch.cat(seen).double()
    assert len(inputs) == 512
    assert norm.running_mean is not None and norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), inputs.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), inputs.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 12, 16, 16), (2, 3, 1, 1), (500, 10), (9, 700)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_and_mean_are_torchs_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(shape) * 3 + 100).to(dtype)
    inputs = inputs.to(memory_format=torch.channels_last) if len(shape) == 4 else inputs
    theirs = torch.var_mean(inputs, [0, *range(2, len(shape))], correction=0)
    for ours, their in zip(_var_mean(inputs), theirs, strict=True):
        if dtype is torch.float32:
            assert torch.equal(ours, their)
        torch.testing.assert_close(ours, their)


class Norms(nn.Module):
    """Two convolutions with a BatchNorm each, or one for both, and layers that evaluation does not use."""

    def __init__(self, shared: bool = False, offset: float = 0.0):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.other = self.norm if shared else nn.BatchNorm2d(4, momentum=None)
        self.frozen, self.auxiliary = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.alone = nn.BatchNorm2d(4, track_running_stats=False)
        self.head = nn.Linear(4, 10)
        self.offset = offset

    def train(self, mode: bool = True) -> Norms:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.first(images) + self.offset).relu()
        found = self.other(self.second(found)).relu()
        if self.training:
            self.auxiliary(found)
        return self.head(self.frozen(self.alone(found)).mean((2, 3)))


def recomputed(data: DataSet, network: Norms, images: int) -> Trainer:
    run = Trainer(network, data.train, data.test, TrainingConfig(**STEPS | {"precise_bn": images}), seed=3)
    run.train_step()
    run.recompute_batchnorm()
    return run


def inputs_of(run: Trainer, norm: nn.Module) -> torch.Tensor:
    """Return what reaches a layer, as often as it is called, when the statistics are recomputed once more."""
    seen: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].double().transpose(0, 1).flatten(1)))
    run.recompute_batchnorm()
    return torch.cat(seen, 1)


@pytest.mark.parametrize("shared", [False, True])
def test_each_layers_statistics_are_those_of_all_its_inputs(digits: DataSet, shared: bool) -> None:
    network = Norms(shared)
    run = recomputed(digits, network, 700)  # six passes, the last of 115 images
    for norm in (network.norm, network.other):
        inputs = inputs_of(run, norm)
        assert inputs.shape[1] == 700 * (36 + 16 if shared else 36 if norm is network.norm else 16)
        assert norm.running_mean is not None and norm.running_var is not None
        torch.testing.assert_close(norm.running_mean.double(), inputs.mean(1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.running_var.double(), inputs.var(1, correction=0), rtol=1e-5, atol=1e-6)


def test_a_frozen_layer_and_one_that_evaluation_does_not_use_keep_their_statistics(digits: DataSet) -> None:
    network = Norms()
    nn.init.constant_(network.frozen.get_buffer("running_var"), 4.0)
    run = Trainer(network, digits.train, digits.test, TrainingConfig(**STEPS | {"precise_bn": 64}), seed=3)
    run.train_step()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    run.recompute_batchnorm()
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{norm}.{what}" for norm in ("norm", "other") for what in ("running_mean", "running_var")}


def test_a_large_mean_does_not_cancel_the_variance(digits: DataSet) -> None:
    plain, far = Norms(), Norms(offset=3000.0)
    far.load_state_dict(plain.state_dict())
    for network in (plain, far):
        Trainer(network, digits.train, digits.test, TrainingConfig(**STEPS | {"precise_bn": 512})).recompute_batchnorm()
    torch.testing.assert_close(far.norm.running_var, plain.norm.running_var, rtol=0.02, atol=0)


def test_statistics_agree_with_fvcore(digits: DataSet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # fvcore uses torch.jit, which is deprecated
        from fvcore.nn.precise_bn import update_bn_stats
    run = trainer(digits, precise_bn=1024)
    run.train_step()
    theirs = copy.deepcopy(run.model).eval()
    for norm in theirs.modules():
        norm.train(isinstance(norm, nn.BatchNorm2d))
    chosen = torch.randperm(len(digits.train), generator=generator(3, "batchnorm"))[:1024]
    update_bn_stats(theirs, [run.placement.inputs(one)[0] for one in run.feeds.plain.evaluation(chosen, 128)], 8)
    run.recompute_batchnorm()
    for ours, other in zip(run.model.buffers(), theirs.buffers(), strict=True):
        if ours.is_floating_point():
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("images", "passes"), [(2, [2]), (100, [100]), (129, [65, 64]), (5000, [120] * 11 + [118])])
def test_exactly_the_images_of_the_recipe_are_used(digits: DataSet, images: int, passes: list[int]) -> None:
    run = trainer(digits, precise_bn=images)
    seen: list[int] = []
    first_norm(run.model).register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    run.recompute_batchnorm()
    assert seen == passes


def test_a_short_run_is_judged_by_its_weights(tmp_path: Path) -> None:
    """39 steps of digits have 10% with running averages, 59% on the training images."""
    done = ablations_here("train", "pocket", "--data", "digits", "--threads", "1", "--out", tmp_path / "run")
    assert done.returncode == 0
    assert read_json(tmp_path / "run" / "result.json")["top1"] > 50


def test_without_batchnorm_nothing_changes(digits: DataSet) -> None:
    design = f"pocket@separate-downsampling,{DESIGN.partition(',')[2]}"
    on, off = trainer(digits, design=design, precise_bn=256).train(), trainer(digits, design=design).train()
    assert (on.weights_sha256, on.evaluation.loss) == (off.weights_sha256, off.evaluation.loss)


def test_only_the_statistics_change(digits: DataSet) -> None:
    on, off = trainer(digits, precise_bn=256), trainer(digits)
    on.train(), off.train()
    theirs = off.model.state_dict()
    changed = {key for key, value in on.model.state_dict().items() if not torch.equal(value, theirs[key])}
    kinds = {key.rpartition(".")[2] for key in changed}
    assert kinds == {"running_mean", "running_var"}
    assert not any(module.training for module in on.model.modules())
    assert {module.momentum for module in on.model.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("stop", [1, 11, 21])
def test_a_resumed_run_has_the_same_statistics(digits: DataSet, tmp_path: Path, stop: int) -> None:
    changes: dict[str, Any] = {"precise_bn": 256, "ema_decay": 0.9}
    whole = trainer(digits, **changes).train()
    first = trainer(digits, tmp_path, **changes)
    first.callbacks.stopping = lambda: first.step == stop
    with pytest.raises(Interrupted):
        first.train()
    resumed = trainer(digits, tmp_path, **changes).train()
    assert (resumed.weights_sha256, resumed.evaluation.loss) == (whole.weights_sha256, whole.evaluation.loss)
    assert resumed.averaged and whole.averaged and resumed.averaged.loss == whole.averaged.loss
    again = trainer(digits, tmp_path, **changes).train()  # from the last checkpoint, as if the result had been lost
    assert (again.weights_sha256, again.evaluation.loss) == (whole.weights_sha256, whole.evaluation.loss)


def test_the_last_checkpoint_is_the_network_that_was_evaluated(digits: DataSet, tmp_path: Path) -> None:
    result = trainer(digits, tmp_path, precise_bn=256, ema_decay=0.9).train()
    (path,) = checkpoints(tmp_path / "checkpoints")
    state = read_checkpoint(path)
    fresh = trainer(digits, ema_decay=0.9)
    fresh.model.load_state_dict(state["model"])
    assert fresh.evaluate(fresh.model).loss == result.evaluation.loss
    assert fresh.averaged and result.averaged
    fresh.averaged.load_state_dict(state["averaged"])
    assert fresh.evaluate(fresh.averaged.module).loss == result.averaged.loss


def test_averaged_weights_have_statistics_of_their_own(digits: DataSet) -> None:
    result = trainer(digits, precise_bn=1024, ema_decay=0.8, max_epochs=3).train()
    running = trainer(digits, ema_decay=0.8, max_epochs=3).train()
    assert result.averaged and running.averaged
    assert result.averaged.loss < running.averaged.loss


def test_images_from_files_are_seen_without_augmentation_and_corrupt_ones_skipped(digits: DataSet) -> None:
    from PIL import Image

    class Files:
        def __len__(self) -> int:
            return 192

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index == 5:
                raise DamagedImageError("image 5: broken")
            split: Any = digits.train
            return Image.fromarray(split.images[index, :, :, 0].numpy()), int(split.labels[index])

    torch.manual_seed(7)
    network = modernize.build(DESIGN, num_classes=10, in_channels=1)
    recipe = TrainingConfig(**STEPS | {"precise_bn": 10_000, "image_size": 8, "max_damaged": 0.1, "crop_padding": 4})
    run = Trainer(network, Files(), Files(), recipe, seed=3)
    seen: list[torch.Tensor] = []
    first_norm(run.model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with pytest.warns(UserWarning, match="image 5: broken"):
        run.train()
    assert sum(map(len, seen[-4:-2])) == 191, "two passes over all images, before the two of the evaluation"
    plain = torch.cat([run.placement.inputs(batch)[0] for batch in run.feeds.plain.evaluation(torch.arange(192), 64)])
    assert plain.shape == (191, 1, 8, 8)
    test = torch.cat([run.placement.inputs(batch)[0] for batch in run.feeds.test.evaluation(torch.arange(192), 64)])
    assert torch.equal(plain, test)


def test_too_few_readable_images_are_an_error() -> None:
    from PIL import Image

    class Broken:
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index:
                raise DamagedImageError(f"image {index}: broken")
            return Image.new("L", (8, 8)), 0

    recipe = TrainingConfig(**STEPS | {"precise_bn": 64, "image_size": 8, "max_damaged": 0.999, "batch_size": 2})
    torch.manual_seed(7)
    run = Trainer(modernize.build(DESIGN, num_classes=10, in_channels=1), Broken(), Broken(), recipe)
    with pytest.raises(DamagedDataError, match="too few training images are readable"):
        run.recompute_batchnorm()


def statistics(group: Any, settings: dict[str, Any]) -> tuple[float, list[float]]:
    run = a_trainer(group, DESIGN, settings)
    result = run.train()
    variance = first_norm(run.model).running_var
    assert variance is not None
    return result.evaluation.loss, variance.tolist()


def test_with_synchronized_batchnorm_two_processes_have_the_statistics_of_one() -> None:
    settings = {"sync_batchnorm": True, "precise_bn": 512}
    one, other = together(2, statistics, settings)
    (alone,) = together(1, statistics, settings)
    assert one == other
    assert one[0] == pytest.approx(alone[0], rel=1e-3)
    assert one[1] == pytest.approx(alone[1], rel=1e-4)


def test_without_it_all_processes_evaluate_with_the_same_statistics() -> None:
    one, other = together(2, statistics, {"precise_bn": 512})
    assert one == other


def test_a_compiled_network_has_the_same_statistics(digits: DataSet) -> None:
    compiled, plain = trainer(digits, precise_bn=256), trainer(digits, precise_bn=256)
    compiled.model.compile(backend="eager")
    compiled.train(), plain.train()
    torch.testing.assert_close(first_norm(compiled.model).running_var, first_norm(plain.model).running_var)


@pytest.mark.parametrize("changes", [{"precise_bn": 64}, {"mixup": 0.8}])
def test_a_reference_that_repeats_gray_images_is_called_with_its_hooks(
    digits: DataSet, changes: dict[str, Any]
) -> None:
    torch.manual_seed(7)
    network = build_reference("torchvision:resnet18", 10, 1, 0.0, 8)
    run = Trainer(network, digits.train, digits.test, TrainingConfig(**STEPS | {"max_epochs": 0.05} | changes))
    assert run.train().evaluation.top1 >= 0


def test_small_recipes_recompute_and_published_ones_do_not() -> None:
    assert {name: load_recipe(name).precise_bn is not None for name in recipe_names()} == {
        name: not name.startswith(("paper_", "torchvision_")) for name in recipe_names()
    }


# ---- Folders older than a setting


def without(path: Path, key: str) -> None:
    """Rewrite a stored file as a version that did not know a setting would have written it."""
    values = yaml.safe_load(path.read_text())
    for recipe in values.get("recipes", {"": values.get("recipe")}).values():
        del recipe[key]
    path.write_text(yaml.safe_dump(values, sort_keys=False))


TRAIN = ["train", DESIGN, "--data", "digits", "--set", "image_size=8", "--threads", "1"]


def test_a_run_begun_before_the_setting_goes_on_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert ablations_here(*TRAIN, "--set", "precise_bn=null", "--out", folder).returncode == 0
    expected = read_json(folder / "result.json")["weights_sha256"]
    without(folder / "config.yaml", "precise_bn")
    (folder / "result.json").unlink()
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    done = ablations_here(*TRAIN, "--out", folder)
    assert done.returncode == 0, done.stderr
    assert read_json(folder / "result.json")["weights_sha256"] == expected
    assert "precise_bn" not in (folder / "config.yaml").read_text()


@pytest.mark.slow
def test_a_study_begun_before_the_setting_goes_on_without_it_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command: list[str | Path] = [
        "run",
        "one-in",
        "--base",
        DESIGN,
        "--flags",
        "norm=ln",
        "--data",
        "digits",
        "--set",
        "image_size=8",
        "--budget",
        "2000images",
        "--out",
        folder,
    ]
    old = ablations_here(*command, "--set", "precise_bn=null", "--jobs", "1")
    assert old.returncode == 0, old.stderr
    without(folder / "study.yaml", "precise_bn")
    more = ablations_here(*command, "--seeds", "0,1", "--jobs", "1")
    assert more.returncode == 0, more.stdout
    assert "precise_bn: off, since the folder is older than this setting" in more.stdout
    assert "precise_bn" not in (folder / "study.yaml").read_text()
    again = ablations_here(*command, "--seeds", "0,1", "--jobs", "1")
    assert again.returncode == 0, again.stderr


def test_a_folder_with_the_setting_off_refuses_it_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert ablations_here(*TRAIN, "--set", "precise_bn=null", "--out", folder).returncode == 0
    refused = ablations_here(*TRAIN, "--out", folder)
    assert refused.returncode == 2
    assert "recipe.precise_bn was not set and is now 2048" in refused.stderr
