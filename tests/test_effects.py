"""The effect of each setting of a recipe on training steps."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor, nn
from torch.nn import functional as F

import modernize
from ablations.data.batches import MicroBatch
from ablations.data.datasets import DataSet, Split, load
from ablations.data.loader import Items, feeds
from ablations.data.mixing import mixing
from ablations.recipes import TrainingConfig
from ablations.training.activation_checkpointing import recompute_blocks
from ablations.training.trainer import Interrupted, Result, Trainer
from modernize.acceleration import accelerated

LAYER_NORM = "pocket@separate-downsampling,depths=2-1,width=4,stem_stride=1"
BATCH_NORM = "pocket,depths=2-1,width=4,stem_stride=1"


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load("digits", Path("unused"))


@pytest.fixture(scope="module")
def few(digits: DataSet) -> tuple[Split, Split]:
    """Digits for four training steps of 16 per epoch, and a few to evaluate on."""
    assert isinstance(digits.train, Split) and isinstance(digits.test, Split)
    return digits.train.take(torch.arange(70)), digits.test.take(torch.arange(30))


def config(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"max_epochs": 2, "batch_size": 16, "learning_rate": 5e-3, **changes})


def network(design: str = LAYER_NORM, drop_path_rate: float = 0.0) -> nn.Module:
    torch.manual_seed(7)
    return modernize.build(design, num_classes=10, in_channels=1, drop_path_rate=drop_path_rate)


def trainer(few: tuple[Split, Split], model: nn.Module, folder: Path | None = None, **changes: Any) -> Trainer:
    return Trainer(model, *few, config(**changes), seed=3, folder=folder, device="cpu")


def steps(run: Trainer, count: int) -> Trainer:
    with accelerated(run.model):
        for _ in range(count):
            run.train_step()
            run.step += 1
    return run


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Mixup and CutMix ----------------------------------------------------------------------------------------------------


def mixed(changes: dict[str, Any], position: int, count: int = 8, size: int = 16) -> tuple[Tensor, Tensor]:
    """Mix images filled with their own number, whose class is that number."""
    mix = mixing(config(batch_size=count, **changes), count, seed=2)
    numbers = torch.arange(count)
    images = numbers[:, None, None, None].expand(-1, 1, size, size).double()
    return mix(MicroBatch(0, position, 0, numbers), images, numbers)


def test_mixups_targets_are_the_weights_of_the_images() -> None:
    for position in range(20):
        images, targets = mixed({"mixup": 0.8}, position)
        torch.testing.assert_close(targets.sum(1), torch.ones(8, dtype=targets.dtype))
        values = images.flatten(1)
        assert (values == values[:, :1]).all()  # the same share everywhere
        torch.testing.assert_close(values[:, 0], (targets.double() @ torch.arange(8).double()), rtol=0, atol=1e-5)
        assert ((targets > 0).sum(1) <= 2).all()
        assert targets.max(1).values.unique().numel() == 1  # one share a batch


def test_cutmixs_targets_are_the_areas_that_were_pasted() -> None:
    pasted = 0
    for position in range(30):
        images, targets = mixed({"cutmix": 1.0}, position)
        torch.testing.assert_close(targets.sum(1), torch.ones(8, dtype=targets.dtype))
        areas = torch.stack([(images == number).double().flatten(1).mean(1) for number in range(8)], 1)
        torch.testing.assert_close(targets.double(), areas, rtol=0, atol=1e-6)
        foreign = images[0, 0] != 0
        rows, columns = foreign.nonzero(as_tuple=True)
        if len(rows):
            pasted += 1
            assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)  # one box
            assert ((images != torch.arange(8)[:, None, None, None]) == foreign).all()  # the same in every image
    assert pasted > 20


def which(images: Tensor) -> str:
    """Infer the mixing from images that were filled with integers."""
    if (images == images.round()).all():
        return "cutmix" if (images != images[:, :, :1, :1]).any() else "nothing"
    return "mixup"


def test_each_batch_has_mixup_or_cutmix_with_probability_one_half() -> None:
    found = [which(mixed({"mixup": 0.8, "cutmix": 1.0}, position, 2)[0]) for position in range(800)]
    share = found.count("cutmix") / len(found)
    empty = found.count("nothing") / len(found)  # a box that is empty, or all of the image
    assert empty < 0.06
    assert abs(share + empty - 0.5) < 5 * (0.25 / len(found)) ** 0.5


@pytest.mark.parametrize(("switch", "kind"), [(0.0, "mixup"), (1.0, "cutmix")])
def test_a_switch_of_0_or_1_leaves_one_method(switch: float, kind: str) -> None:
    changes = {"mixup": 0.8, "cutmix": 1.0, "mix_switch": switch}
    assert {which(mixed(changes, position)[0]) for position in range(60)} <= {kind, "nothing"}


def test_mix_probability_is_the_fraction_of_mixed_batches() -> None:
    found = [which(mixed({"mixup": 5.0, "mix_probability": 0.3}, position, 2)[0]) for position in range(800)]
    assert abs(found.count("mixup") / 800 - 0.3) < 5 * (0.21 / 800) ** 0.5
    images, targets = mixed({"mixup": 5.0, "mix_probability": 0.0}, 0)
    assert which(images) == "nothing" and torch.equal(targets, torch.eye(8, dtype=targets.dtype))


def test_mixing_weights_have_timms_distribution() -> None:
    """Mixup's from Beta(0.8, 0.8), CutMix's areas as those of timm, whose boxes are cut at the image's edge too."""
    shares = [mixed({"mixup": 0.8}, position, 2)[1][0, 0].item() for position in range(700)]
    assert stats.kstest(shares, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    areas = [mixed({"cutmix": 1.0}, position, 2, 32)[1][0, 0].item() for position in range(700)]
    timms = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=2)
    theirs = []
    torch.manual_seed(0)
    before = np.random.get_state()
    np.random.seed(0)
    for _ in range(700):
        _, targets = timms(torch.zeros(2, 1, 32, 32), torch.tensor([0, 1]))
        theirs.append(targets[0, 0].item())
    np.random.set_state(before)
    assert stats.ks_2samp(areas, theirs).pvalue > 1e-3


def test_all_micro_batches_of_a_step_are_mixed_alike_and_steps_differ() -> None:
    mix = mixing(config(batch_size=16, mixup=0.8, cutmix=1.0), 16, seed=2)
    numbers = torch.arange(16)
    images = numbers[:, None, None, None].expand(-1, 1, 16, 16).float()
    shares = []
    for position in range(12):
        parts = [
            mix(
                MicroBatch(0, position, first, numbers[first : first + 4]),
                images[first : first + 4],
                numbers[first:][:4],
            )
            for first in (0, 4, 8, 12)
        ]
        own = [
            targets[torch.arange(4), numbers[first : first + 4]]
            for first, (_, targets) in zip((0, 4, 8, 12), parts, strict=True)
        ]
        assert torch.cat(own).unique().numel() == 1
        boxes = [part - part[:, :, :1, :1] != 0 for part, _ in parts]
        assert all(torch.equal(box[0], boxes[0][0]) for box in boxes)
        shares.append(own[0][0].item())
    assert len(set(shares)) > 8


def test_smoothed_soft_targets_are_timms(few: tuple[Split, Split]) -> None:
    """Compare the first step's loss with timm's targets for the same mixed labels."""
    run = trainer(few, network(), mixup=0.8, label_smoothing=0.1, learning_rate=1e-9)
    twin = copy.deepcopy(run.model)
    seen: list[tuple[Tensor, Tensor]] = []
    mixes = mixing(run.config, 10, run.seed)

    def note(part: MicroBatch, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((mixes(part, images, labels)[0], labels))
        return mixes(part, images, labels)

    run.mix = note
    run.train_step()
    images, labels = seen[0]
    own = mixes(MicroBatch(0, 0, 0, torch.arange(16)), images, torch.arange(16) % 10)[1]
    share = own[0, 0].item()
    assert 0 < share < 1
    soft = mixup_target(labels.flip(0), 10, share, 0.1)
    # timm mixes with the batch backwards, we with the neighbour: put together from one-hot labels
    off = 0.1 / 10
    hot = torch.full((16, 10), off).scatter_(1, labels[:, None], 1 - 0.1 + off)
    torch.testing.assert_close(soft, hot.flip(0) * share + hot * (1 - share))
    wanted = hot * share + hot.roll(1, 0) * (1 - share)
    expected = torch.sum(-wanted * F.log_softmax(twin(images), 1), 1).mean()
    assert run.sums.loss.item() / 16 == pytest.approx(expected.item(), rel=1e-5)


# The moving average --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [LAYER_NORM, BATCH_NORM])
def test_ema_weights_and_buffers_equal_a_plain_loops(few: tuple[Split, Split], design: str) -> None:
    run = trainer(few, network(design), ema_decay=0.9)
    expected: dict[str, Tensor] = {}
    for step in range(6):
        steps(run, 1)
        for name, value in weights(run.model).items():
            if step == 0:
                expected[name] = value.double()
            else:
                expected[name] = 0.9 * expected[name] + 0.1 * value.double()
    assert run.averaged
    found = weights(run.averaged.module)
    assert found.keys() == expected.keys()
    moved = 0
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            moved += not torch.equal(value, weights(run.model)[name])
    assert moved > 10
    assert (design == LAYER_NORM) or any("running_mean" in name for name in found)


def test_ema_weights_are_evaluated_beside_the_trained_weights(few: tuple[Split, Split]) -> None:
    plain = trainer(few, network(BATCH_NORM)).train()
    run = trainer(few, network(BATCH_NORM), ema_decay=0.8)
    result = run.train()
    assert plain.averaged is None
    assert result.weights_sha256 == plain.weights_sha256  # it is looked at, not trained with
    assert result.averaged and run.averaged
    run.averaged.module.eval()
    own = few[0].images.double()
    images = (few[1].images.double() - own.mean()) / own.std(correction=0)
    with torch.no_grad():
        logits = run.averaged.module(images.permute(0, 3, 1, 2).float())
    assert result.averaged.loss == pytest.approx(F.cross_entropy(logits, few[1].labels).item(), rel=1e-4)
    assert result.averaged.top1 == pytest.approx(100 * (logits.argmax(1) == few[1].labels).double().mean().item())
    assert result.averaged.loss != result.evaluation.loss


# Clipping, accumulation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_clipping_bounds_the_gradient_norm(few: tuple[Split, Split], precision: str) -> None:
    """Plain gradient descent at rate 1 moves the weights by the gradient."""
    lengths = []
    for clip in (None, 0.01):
        model = network()
        before = torch.cat([value.detach().flatten().clone() for value in model.parameters()])
        changes: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "clip_norm": clip}
        run = trainer(few, model, precision=precision, **changes)
        run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=precision == "fp16")
        steps(run, 1)
        after = torch.cat([value.detach().flatten() for value in model.parameters()])
        lengths.append((after - before).double().norm().item())
    assert lengths[0] > 0.1
    assert lengths[1] == pytest.approx(0.01, rel=1e-2)


@pytest.mark.parametrize("accumulation", [2, 4, 16])
def test_accumulated_micro_batches_equal_the_whole_batch(few: tuple[Split, Split], accumulation: int) -> None:
    whole, parts = (
        steps(
            trainer(few, network().double(), accumulation=count, label_smoothing=0.1, clip_norm=1.0, crop_padding=1), 6
        )
        for count in (1, accumulation)
    )
    assert parts.sums.loss.item() == pytest.approx(whole.sums.loss.item(), rel=1e-12)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_accumulated_gradients_equal_the_whole_batchs_to_the_last_digits(few: tuple[Split, Split]) -> None:
    gradients = []
    for count in (1, 4):
        run = steps(trainer(few, network().double(), accumulation=count), 1)
        gradients.append(
            torch.cat([value.grad.flatten() for value in run.model.parameters() if value.grad is not None])
        )
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-12)


def test_a_micro_batch_computes_only_its_part_of_the_batch(few: tuple[Split, Split]) -> None:
    sizes = []
    model = network()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    steps(trainer(few, model, accumulation=4), 2)
    assert sizes == [4] * 8


# Precision and layout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_convolutions_compute_in_the_recipes_precision(
    few: tuple[Split, Split], precision: str, dtype: torch.dtype
) -> None:
    model = network()
    seen: list[tuple[bool, torch.dtype]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, _, output: seen.append((module.training, output.dtype)))
    run = steps(trainer(few, model, precision=precision), 2)
    run.evaluate(run.model)
    assert (
        {found for training, found in seen if training}
        == {found for training, found in seen if not training}
        == {dtype}
    )
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert run.scaler.is_enabled() == (precision == "fp16")


def test_the_scaled_loss_trains_as_the_plain_one_and_its_scale_is_in_the_checkpoint(
    few: tuple[Split, Split], tmp_path: Path
) -> None:
    run = trainer(few, network(), tmp_path, precision="fp16", checkpoint_steps=3)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    run.callbacks.stopping = lambda: run.step == 5
    with pytest.raises(Interrupted):
        run.train()
    assert run.scaler.get_scale() == 2.0**12  # doubled after the second and the fourth step
    again = trainer(few, network(), tmp_path, precision="fp16")
    again.resume()
    assert again.step == 5
    assert again.scaler.state_dict() == run.scaler.state_dict()
    single = steps(trainer(few, network()), 5)
    found = steps(trainer(few, network(), precision="fp16"), 5)
    assert found.sums.loss.item() == pytest.approx(single.sums.loss.item(), rel=0.02)


def test_a_step_that_overflows_is_skipped_and_the_scale_halved(few: tuple[Split, Split]) -> None:
    run = trainer(few, network(), precision="fp16")
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    before = weights(run.model)
    steps(run, 1)
    assert same_bits(before, weights(run.model))
    assert run.scaler.get_scale() == 2.0**119


@pytest.mark.parametrize("wanted", [True, False])
def test_images_and_kernels_have_the_recipes_memory_format(few: tuple[Split, Split], wanted: bool) -> None:
    torch.manual_seed(0)
    model = modernize.build(LAYER_NORM, num_classes=10, in_channels=3)
    train, test = (Split(split.images.expand(-1, -1, -1, 3).contiguous(), split.labels) for split in few)
    layouts = set()

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layouts.add((inputs[0].is_contiguous(memory_format=torch.channels_last), inputs[0].is_contiguous()))

    model.register_forward_pre_hook(note)
    run = Trainer(model, train, test, config(channels_last=wanted, crop_scale=[0.5, 1]), device="cpu")
    steps(run, 1)
    run.evaluate(run.model)
    assert layouts == {(wanted, not wanted)}
    kernels = [value for value in run.model.parameters() if value.ndim == 4 and min(value.shape[1:]) > 1]
    assert kernels and all(value.is_contiguous(memory_format=torch.channels_last) == wanted for value in kernels)


@pytest.mark.slow
def test_a_compiled_network_trains_as_the_plain_one(few: tuple[Split, Split]) -> None:
    """The only test that compiles; it takes half a minute."""
    design = "pocket@separate-downsampling,depths=1,width=4,stem_stride=1"
    run = steps(trainer(few, network(design), compile=True), 3)
    plain = steps(trainer(few, network(design)), 3)
    assert run.model._compiled_call_impl is not None  # it was compiled, and is what was called
    assert weights(run.model).keys() == weights(plain.model).keys()  # a checkpoint's names do not show it
    for one, other in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


# Activation checkpointing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", [LAYER_NORM, BATCH_NORM])
def test_activation_checkpointing_gives_bit_identical_weights(few: tuple[Split, Split], design: str) -> None:
    results = []
    for again in (False, True):
        run = steps(trainer(few, network(design, 0.4), activation_checkpointing=again, accumulation=2), 5)
        results.append(weights(run.model))
    assert same_bits(*results)


def test_checkpointed_blocks_run_twice_in_training_and_once_in_evaluation(few: tuple[Split, Split]) -> None:
    calls: dict[bool, list[bool]] = {}
    for again in (False, True):
        model = network(BATCH_NORM)
        first = next(module for module in model.stages.modules() if isinstance(module, nn.Conv2d))  # type: ignore[union-attr]
        calls[again] = []
        first.register_forward_hook(lambda module, *_, again=again: calls[again].append(module.training))
        run = steps(trainer(few, model, activation_checkpointing=again), 2)
        run.evaluate(run.model)
    assert calls == {False: [True] * 2 + [False], True: [True] * 4 + [False]}


def test_activation_checkpointing_covers_the_blocks() -> None:
    model = network(BATCH_NORM)
    blocks = [block for stage in model.stages for block in stage.blocks]  # type: ignore[union-attr]
    assert recompute_blocks(model) == blocks and len(blocks) == 3


def test_activation_checkpointing_saves_fewer_activations(few: tuple[Split, Split]) -> None:
    """Count the values that autograd saves in a forward pass."""
    kept = []
    for again in (False, True):
        model = network(BATCH_NORM.replace("depths=2-1", "depths=4-4"))
        if again:
            recompute_blocks(model)
        sizes: list[int] = []

        def note(saved: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(saved.numel())
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            model(torch.zeros(4, 1, 8, 8))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_a_network_without_repeated_blocks_is_refused(few: tuple[Split, Split]) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10))
    with pytest.raises(
        ValueError, match=r"^activation_checkpointing: the network has no repeated blocks; leave it off$"
    ):
        trainer(few, flat, activation_checkpointing=True)


# Stochastic depth ----------------------------------------------------------------------------------------------------


def test_the_recipes_stochastic_depth_grows_linearly_over_the_blocks(digits: DataSet) -> None:
    """Count dropped blocks per image: a dropped block's output equals its input."""
    from ablations.studies.run import RunConfig, build_network
    from modernize.models import design

    flags = design("pocket@separate-downsampling,depths=2-3,width=4,stem_stride=1,layer_scale=off").flags()
    run = RunConfig(
        row="r", label="r", flags=flags, recipe_name="r", recipe=config(drop_path_rate=0.6), data="digits", seed=0
    )
    torch.manual_seed(0)
    net = build_network(run, digits).train()
    left_out: list[float] = []
    for stage in net.stages:  # type: ignore[union-attr]
        for block in stage.blocks:
            block.register_forward_hook(
                lambda _, inputs, output: left_out.append(
                    (output == inputs[0]).flatten(1).all(1).double().mean().item()
                )
            )
    count = 3000
    net(torch.randn(count, 1, 8, 8))
    for found, wanted in zip(left_out, (0.0, 0.15, 0.3, 0.45, 0.6), strict=True):
        assert abs(found - wanted) <= 5 * (wanted * (1 - wanted) / count) ** 0.5


# Checkpoints kept, damaged images ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "epochs", "kept"),
    [(1, 3, ["1", "2", "3"]), (2, 5, ["2", "4"]), (0.5, 1.5, ["0.5", "1", "1.5"]), (9, 2, [])],
)
def test_a_permanent_checkpoint_is_written_every_checkpoint_every_epochs(
    few: tuple[Split, Split], tmp_path: Path, every: float, epochs: float, kept: list[str]
) -> None:
    run = trainer(few, network(), tmp_path, checkpoint_every=every, max_epochs=epochs, checkpoint_steps=3)
    run.train()
    found = sorted((tmp_path / "checkpoints").glob("epoch-*.pt"), key=lambda path: float(path.stem[6:]))
    assert [path.stem.removeprefix("epoch-") for path in found] == kept
    assert len(list((tmp_path / "checkpoints").glob("step-*.pt"))) == 1
    for path in found:
        state = torch.load(path, weights_only=True)
        assert state["step"] == float(path.stem.removeprefix("epoch-")) * 4
        fresh = network()
        fresh.load_state_dict(state["model"])
        until = steps(trainer(few, network(), max_epochs=epochs), state["step"])
        assert same_bits(weights(fresh), weights(until.model))


def test_a_checkpoint_is_written_every_checkpoint_seconds(
    few: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(few, network(), tmp_path, checkpoint_seconds=2.5, max_epochs=2.5)
    monkeypatch.setattr("ablations.training.trainer.time", SimpleNamespace(monotonic=lambda: float(run.step)))
    saved: list[int] = []
    monkeypatch.setattr("ablations.training.trainer.write_checkpoint", lambda folder, step, *_: saved.append(step))
    run.train()  # a step a second
    assert saved == [3, 6, 9, 10]


@pytest.mark.parametrize(("device", "wanted", "expected"), [("cpu", None, 0), ("cuda", None, 3), ("cuda", 5, 5)])
def test_the_number_of_data_loader_workers(
    few: tuple[Split, Split], device: str, wanted: int | None, expected: int
) -> None:
    """By default as many as a GPU run's threads, which are idle while the GPU computes."""
    torch.set_num_threads(3)
    found = feeds(*few, config(crop_scale=[0.5, 1], workers=wanted), torch.device(device))
    for feed in (found.train, found.test):
        assert isinstance(feed, Items) and feed.workers == expected


# All at once ---------------------------------------------------------------------------------------------------------

ALL: dict[str, Any] = {
    **{"max_epochs": 2, "warmup_epochs": 0.5, "accumulation": 2, "precision": "fp16", "ema_decay": 0.9},
    **{"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "erasing": 0.5, "randaugment": 9, "weight_decay": 0.05},
    **{"crop_scale": [0.3, 1.0], "horizontal_flip": True, "image_size": 16, "interpolation": "bicubic"},
    **{"evaluation_crop": 0.875, "clip_norm": 1.0, "drop_path_rate": 0.3, "activation_checkpointing": True},
}


def same(one: Result, other: Result) -> bool:
    assert one.averaged and other.averaged
    mine = (one.evaluation.loss, one.averaged.loss, one.weights_sha256)
    theirs = (other.evaluation.loss, other.averaged.loss, other.weights_sha256)
    return mine == theirs and torch.equal(one.averaged.predictions, other.averaged.predictions)


@pytest.mark.parametrize("design", [LAYER_NORM, BATCH_NORM])
def test_a_run_with_every_setting_on_resumes_bit_exactly(few: tuple[Split, Split], tmp_path: Path, design: str) -> None:
    expected = trainer(few, network(design, 0.3), **ALL).train()
    for stop_at, workers in ((1, 2), (4, 0), (7, 1)):
        folder = tmp_path / str(stop_at)
        folder.mkdir()
        first = trainer(few, network(design, 0.3), folder, **ALL)
        first.callbacks.stopping = lambda run=first, stop_at=stop_at: run.step == stop_at  # type: ignore[misc]
        with pytest.raises(Interrupted):
            first.train()
        second = trainer(few, network(design, 0.3), folder, **ALL, workers=workers)
        assert same(second.train(), expected), f"stopped at step {stop_at}"


@pytest.mark.parametrize("left_out", ["mixup", "cutmix", "erasing", "randaugment", "ema_decay", "label_smoothing"])
def test_each_setting_changes_the_result(few: tuple[Split, Split], left_out: str) -> None:
    less = {key: value for key, value in ALL.items() if key != left_out}
    one, other = (steps(trainer(few, network(), **changes), 3) for changes in (ALL, less))
    if left_out == "ema_decay":
        assert one.averaged and not other.averaged
    else:
        assert one.sums.loss.item() != other.sums.loss.item()
