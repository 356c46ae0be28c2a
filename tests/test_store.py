"""Files are written atomically, corruption is detected, and weights have one checksum."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablations.store import DamagedError, read_json, write_bytes, write_json
from ablations.training.checkpoint import checkpoints, read_checkpoint, weights_sha256, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Bytes ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"", b"one", b"x" * 1_000_000, b"two"):
        write_bytes(path, data)
        assert path.read_bytes() == data
        assert names(tmp_path) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_reader_keeps_the_old_file_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with path.open("rb") as reader:
        write_bytes(path, b"newer")
        assert reader.read() == b"old"


@contextmanager
def file_size_limited(size: int) -> Iterator[None]:
    """Limit the size of files: larger writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("old", [b"old", None])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old:
        write_bytes(path, old)
    with file_size_limited(100_000), pytest.raises(OSError, match="File too large"):
        write_bytes(path, b"n" * 1_000_000)
    assert names(tmp_path) == (["file"] if old else [])
    assert not old or path.read_bytes() == old


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_an_interruption_anywhere_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    write_bytes(tmp_path / "file", b"old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.linux
def test_the_file_is_on_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is synchronized too: otherwise a power cut could leave an empty or the old file."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"new"
        done.append(("replace", str(self)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_bytes(tmp_path / "file", b"new")
    beside = done[0][1]
    assert Path(beside).parent == tmp_path
    assert done == [("fsync", beside), ("replace", beside), ("fsync", str(tmp_path))]


def test_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bytes(tmp_path / "none" / "file", b"")


# JSON ----------------------------------------------------------------------------------------------------------------

RESULT = {"status": "done", "top1": 91.25, "loss": 1e-05, "seeds": [0, 1], "reason": None, "label": "7×7 é", "ok": True}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text().filter(lambda key: key != "checksum"), json_values, max_size=5))
@settings(deadline=None, max_examples=60)
def test_json_round_trips(folder: Path, values: dict[str, Any]) -> None:
    write_json(folder / "any.json", values)
    assert read_json(folder / "any.json") == values


def test_json_keeps_its_order_and_is_for_people_to_read(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, RESULT)
    assert list(read_json(path)) == list(RESULT)
    lines = path.read_text().splitlines()
    assert ' "top1": 91.25,' in lines
    assert lines[-2].startswith(' "checksum": "')


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Flip single bits at every position, and turn one kind of white space into another."""
    path = tmp_path / "result.json"
    write_json(path, RESULT)
    whole = path.read_bytes()
    for position in range(len(whole)):
        for change in (1, 32, 128, ord(" ") ^ ord("\n"), ord(" ") ^ ord("\t"), ord("\n") ^ ord("\r")):
            damaged(path, whole[:position] + bytes([whole[position] ^ change]) + whole[position + 1 :])


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("json") / "result.json"
    write_json(path, RESULT)
    return path, path.read_bytes()


@given(st.integers(0, 10**6), st.integers(0, 40), st.binary(max_size=40))
@settings(deadline=None, max_examples=300)
def test_any_other_contents_are_noticed(result: tuple[Path, bytes], start: int, length: int, put: bytes) -> None:
    path, whole = result
    start %= len(whole) + 1
    other = whole[:start] + put + whole[start + length :]
    if other != whole:
        damaged(path, other)


def test_every_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, RESULT)
    whole = path.read_bytes()
    for length in range(len(whole)):
        damaged(path, whole[:length])
    damaged(path, whole + b"\n")


@pytest.mark.parametrize("text", ["null", "[]", "3", '"checksum"', "{}", '{"checksum": 1}', "[" * 100_000, "\x00"])
def test_other_json_is_noticed(tmp_path: Path, text: str) -> None:
    damaged(tmp_path / "result.json", text.encode())


def damaged(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(DamagedError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path} is corrupt: ")
    assert len(str(caught.value).splitlines()) == 1


def test_missing_json_is_not_corrupt_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "result.json")


# Checkpoints ---------------------------------------------------------------------------------------------------------


def state(seed: int = 0) -> dict[str, Any]:
    """Make a state as the trainer's: model, optimizer and numbers."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model(torch.randn(2, 1, 5, 5)).square().sum().backward()
    optimizer.step()
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return {**kept, "step": seed, "seconds": 1.5, "loss_sum": torch.tensor(2.5)}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype and one.stride() == other.stride()
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_a_checkpoint_round_trips(tmp_path: Path) -> None:
    written = state()
    path = write_checkpoint(tmp_path / "not" / "yet", 12, written)
    assert path.name.startswith("step-000000012-")
    assert names(path.parent) == [path.name]
    assert equal(read_checkpoint(path), written)


def test_the_last_two_checkpoints_are_kept_newest_first(tmp_path: Path) -> None:
    written = [write_checkpoint(tmp_path, step, state(step)) for step in (1, 2, 9, 10, 99, 100, 1000)]
    assert checkpoints(tmp_path) == [written[-1], written[-2]]
    assert names(tmp_path) == sorted(path.name for path in written[-2:])
    assert [read_checkpoint(path)["step"] for path in checkpoints(tmp_path)] == [1000, 100]
    last = write_checkpoint(tmp_path, 1001, state(), keep=3)
    assert checkpoints(tmp_path) == [last, written[-1], written[-2]]


def test_the_order_is_that_of_steps_not_of_checksums(tmp_path: Path) -> None:
    for step in range(20):
        write_checkpoint(tmp_path, step, {"step": torch.tensor(step)}, keep=20)
    assert [int(read_checkpoint(path)["step"]) for path in checkpoints(tmp_path)] == list(range(19, -1, -1))


def test_other_files_are_not_listed_as_checkpoints(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 5, state())
    others = [".step-000000007-0123456789abcdef.pt.x", "step-000000007-0123456789abcdef.pt.x", "step-7.pt", "notes"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    assert checkpoints(tmp_path) == [path]
    write_checkpoint(tmp_path, 6, state(), keep=1)
    assert set(others) < set(names(tmp_path))
    assert checkpoints(tmp_path / "none") == []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), 3, state())
    return path, path.read_bytes()


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(deadline=None, max_examples=200)
def test_a_flipped_byte_in_a_checkpoint_is_noticed(checkpoint: tuple[Path, bytes], position: int, bits: int) -> None:
    path, whole = checkpoint
    position %= len(whole)
    spoilt(path, whole[:position] + bytes([whole[position] ^ bits]) + whole[position + 1 :])


def test_a_truncated_or_empty_checkpoint_is_noticed(checkpoint: tuple[Path, bytes]) -> None:
    path, whole = checkpoint
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        spoilt(path, whole[:length])
    spoilt(path, whole + b"\0")
    path.write_bytes(whole)
    assert read_checkpoint(path)["step"] == 0


def test_a_checkpoint_under_another_name_is_noticed(checkpoint: tuple[Path, bytes], tmp_path: Path) -> None:
    _, whole = checkpoint
    for name in ("step-000000003-0123456789abcdef.pt", "step-000000003.pt", "best.pt"):
        spoilt(tmp_path / name, whole)


def spoilt(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(DamagedError) as caught:
        read_checkpoint(path)
    assert str(caught.value) == f"{path} is corrupt: its checksum does not match"


def test_a_failed_write_keeps_the_previous_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    kept = [write_checkpoint(tmp_path, step, state()) for step in (1, 2)]
    monkeypatch.setattr("ablations.training.checkpoint.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, 3, state())
    assert checkpoints(tmp_path) == kept[::-1]


# Weights -------------------------------------------------------------------------------------------------------------


def sample() -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn((4, 3, 3, 3), generator=chance),
        "conv.bias": torch.zeros(4),
        "norm.count": torch.tensor(7),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.empty(0, 2),
        "mask": torch.tensor([True, False]),
    }


def test_every_element_of_the_weights_counts() -> None:
    whole = sample()
    wanted = weights_sha256(whole)
    for name, tensor in whole.items():
        for index in range(tensor.numel()):
            changed = sample()
            changed[name] = tensor.clone()
            flat = changed[name].view(-1)
            flat[index] = ~flat[index] if tensor.dtype == torch.bool else flat[index] + 1
            assert weights_sha256(changed) != wanted, (name, index)


def test_every_bit_of_the_weights_counts() -> None:
    plus, minus = {"x": torch.tensor([0.0])}, {"x": torch.tensor([-0.0])}
    assert weights_sha256(plus) != weights_sha256(minus)
    up = {"x": torch.nextafter(torch.tensor([1.0]), torch.tensor([2.0]))}
    assert weights_sha256(up) != weights_sha256({"x": torch.tensor([1.0])})


def test_names_types_and_shapes_count() -> None:
    whole = weights_sha256(sample())
    values = sample()
    others = [
        {**values, "more": torch.empty(0)},
        {name: tensor for name, tensor in values.items() if name != "empty"},
        {("hall" if name == "half" else name): tensor for name, tensor in values.items()},
        {**values, "conv.bias": values["conv.bias"].int()},  # the same bytes
        {**values, "conv.bias": values["conv.bias"].view(2, 2)},
        {**values, "conv.weight": values["conv.weight"].view(3, 4, 3, 3)},
        {**values, "conv.weight": values["conv.weight"].transpose(2, 3)},
        {**values, "empty": torch.empty(2, 0)},
        {**values, "norm.count": torch.tensor([7])},
        {**values, "mask": values["mask"].to(torch.uint8)},
    ]
    sums = [weights_sha256(other) for other in others]
    assert whole not in sums
    assert len(set(sums)) == len(sums)


def test_memory_format_order_and_gradients_do_not_count() -> None:
    values, whole = sample(), weights_sha256(sample())
    channels_last = values["conv.weight"].to(memory_format=torch.channels_last)
    assert channels_last.stride() != values["conv.weight"].stride()
    assert weights_sha256({**values, "conv.weight": channels_last}) == whole
    assert weights_sha256(dict(reversed(values.items()))) == whole
    assert weights_sha256({**values, "conv.weight": torch.nn.Parameter(values["conv.weight"])}) == whole
    strided = torch.zeros(8)[::2]
    assert weights_sha256({**values, "conv.bias": strided}) == whole


def test_the_checksum_is_the_same_in_every_version() -> None:
    """Existing run folders contain it."""
    found = weights_sha256({"x": torch.tensor([1.0, -2.0]), "n": torch.tensor(3)})
    assert found == "e68925291c820f538ab2f2d6dd289a9c6d3e3b8bea8ff6b8b968e16540c98881"
