"""A GPU in Python, for tests: its tensors hold memory of the CPU, and say that they are on the device `fake`.

Importing this module adds the device to the process for good, so tests do that in processes of their own.
An operation on the device is computed on the CPU. As on a GPU, tensors of both devices do not mix, and a copy waits
for the device unless it is non-blocking and its memory on the CPU is pinned. `waits` records what waits for the device:
blocking copies, and operations whose result the CPU reads, such as `.item()` and indexing by a mask.

Autocast lowers convolutions and matrix products. Random numbers are those of the CPU's generators.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "fake"
torch.utils.rename_privateuse1_backend(NAME)
DEVICE = torch.device(NAME, 0)
ROOT = Path(__file__).parent.parent
aten = torch.ops.aten
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)  # type: ignore[attr-defined]
_SET = aten.set_.source_Storage_storage_offset
# Operations after which the CPU knows something of a tensor's values.
_READING = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique", "unique_", "repeat_interleave"),
    *("bincount", "_linalg_check_errors", "segment_reduce"),
)
_INDEXING = ("index", "index_put_", "_index_put_impl_", "index_put", "_unsafe_index")
# Operations that each device has to replace as a whole, and those that compute the same on the CPU.
_REPLACED: dict[Any, Callable[..., Any]] = {
    aten.convolution_overrideable.default: aten.convolution.default,
    aten.convolution_backward_overrideable.default: lambda gradient, images, weight, *others: (
        aten.convolution_backward.default(gradient, images, weight, [weight.shape[0]], *others)
    ),
}


@dataclass
class Waits:
    """What made the CPU wait for the device: how often, by operation and the line of the project that asked for it."""

    counted: Counter[str] = field(default_factory=Counter)
    active: bool = False

    def add(self, what: str) -> None:
        """Count a wait of the code that is running."""
        if self.active:
            self.counted[f"{what} at {_line()}"] += 1

    @property
    def total(self) -> int:
        return self.counted.total()


waits = Waits()
broken: list[str] = []  # the error that all operations of this process raise from now on, if any


@contextmanager
def counted() -> Iterator[Waits]:
    """Count from 0 within the block."""
    waits.counted.clear()
    waits.active = True
    try:
        yield waits
    finally:
        waits.active = False


def _line() -> str:
    """Return the innermost line of the project that is being run, such as ablations/data/batches.py:130."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.parts[: len(ROOT.parts)] == ROOT.parts and "site-packages" not in path.parts and path != Path(__file__):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "no line of the project"


# ---- Memory


def _on_device(tensor: Tensor, owners: dict[int, Any]) -> Tensor:
    """Return a tensor of the device over the same memory as one of the CPU; `owners` are storages known already."""
    host = tensor.untyped_storage()
    storage = owners.get(host._cdata)
    if storage is None:
        storage = torch._C._construct_storage_from_data_pointer(host.data_ptr(), DEVICE, host.nbytes())
        storage.host = host  # type: ignore[attr-defined]  # keeps the memory alive as long as this storage
    with torch.inference_mode(False):  # a view may be taken of a tensor made outside of inference mode
        new = torch._C._acc.create_empty_tensor((0,), tensor.dtype)
        _SET.redispatch(_CPU, new, storage, tensor.storage_offset(), tensor.size(), tensor.stride())
    return new


def on_host(tensor: Tensor) -> Tensor:
    """Return a tensor of the CPU over the same memory as one of the device."""
    host = torch.empty(0, dtype=tensor.dtype)
    return host.set_(_host(tensor), tensor.storage_offset(), tensor.size(), tensor.stride())


def _host(tensor: Tensor) -> Any:
    return tensor.untyped_storage().host  # type: ignore[attr-defined]


def is_on_device(value: Any) -> bool:
    """Return whether a value is a tensor of the device."""
    return isinstance(value, Tensor) and value.device.type == NAME


# ---- Operations


def _compute(operation: Any, *arguments: Any, **named: Any) -> Any:
    """Compute an operation of the device on the CPU."""
    if broken:
        raise torch.AcceleratorError(broken[0])
    name = operation._schema.name.removeprefix("aten::")
    if operation is aten._copy_from.default:
        return _copy(*arguments, **named)
    if name == "set_":
        return operation.redispatch(_CPU, *arguments, **named)
    values = tree_leaves((arguments, named))
    ours = [value for value in values if is_on_device(value)]
    others = [value for value in values if isinstance(value, Tensor) and not is_on_device(value) and value.dim()]
    _check_devices(name, arguments, ours, others)
    if name.startswith(_READING) or (name in _INDEXING and _has_mask(arguments[1])):
        waits.add(name)
    pairs = {id(one): on_host(one) for one in ours}
    back = {id(on_cpu): one for one in ours if (on_cpu := pairs[id(one)]) is not None}
    owners = {_host(one)._cdata: one.untyped_storage() for one in ours}

    def there(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        return pairs.get(id(value), value) if isinstance(value, Tensor) else value

    named = {key: value for key, value in named.items() if key != "pin_memory"}
    out = _REPLACED.get(operation, operation)(*tree_map(there, arguments), **tree_map(there, named))
    for one in ours:
        if pairs[id(one)].shape != one.shape:  # `out` was empty
            assert not one.numel(), f"{operation} changes the shape of its argument"
            grown = _on_device(pairs[id(one)], {})
            _SET.redispatch(_CPU, one, grown.untyped_storage(), 0, grown.size(), grown.stride())
    return tree_map(lambda value: _back(value, back, owners), out)


def _back(value: Any, back: dict[int, Tensor], owners: dict[int, Any]) -> Any:
    """Return a result as a tensor of the device: the argument itself if the operation was in place."""
    if not isinstance(value, Tensor):
        return value
    return back[id(value)] if id(value) in back else _on_device(value, owners)


def _check_devices(name: str, arguments: tuple[Any, ...], ours: list[Tensor], others: list[Tensor]) -> None:
    """Refuse tensors of both devices as a GPU does; indices on the CPU are copied, which waits."""
    if not ours or not others:
        return
    if name in _INDEXING and is_on_device(arguments[0]) and (len(arguments) < 3 or is_on_device(arguments[2])):
        waits.add(f"{name} by indices on the CPU")
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! "
        f"({name}, {[tuple(other.shape) for other in others]}, {_line()})"
    )


def _has_mask(indices: Any) -> bool:
    return any(isinstance(one, Tensor) and one.dtype in (torch.bool, torch.uint8) for one in indices)


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    """Copy from, to or within the device."""
    on_cpu = [one for one in (source, target) if not is_on_device(one)]
    if on_cpu and not (non_blocking and on_cpu[0].is_pinned()):
        waits.add("copy to the CPU" if is_on_device(source) else "copy to the device")
    (on_host(target) if is_on_device(target) else target).copy_(on_host(source) if is_on_device(source) else source)
    return target


# ---- Autocast

_LOWER = ("conv2d", "linear", "matmul", "mm", "addmm", "bmm")
_FLOAT32 = ("layer_norm", "cross_entropy_loss", "group_norm", "norm", "pow")


def _autocast(operation: Any, lower: bool, *arguments: Any, **named: Any) -> Any:
    """Compute an operation in autocast's dtype, or in float32."""
    dtype = torch.get_autocast_dtype(NAME) if lower else torch.float32

    def cast(value: Any) -> Any:
        return value.to(dtype) if is_on_device(value) and value.is_floating_point() else value

    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
        return operation(*tree_map(cast, arguments), **tree_map(cast, named))


# ---- What torch asks of a device


class _Generator(torch.Generator):
    """A generator that may be of the device; its numbers are those of a generator of the CPU."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu" if torch.device(device).type == NAME else device)  # type: ignore[call-arg]


def _pin_memory(tensor: Tensor, device: Any = None) -> Tensor:
    pinned = tensor.clone()
    pinned.untyped_storage().pinned = True  # type: ignore[attr-defined]
    return pinned


def _is_pinned(tensor: Tensor, device: Any = None) -> bool:
    return not is_on_device(tensor) and getattr(tensor.untyped_storage(), "pinned", False)


def _clone_storage(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    if storage.device.type != NAME:
        return _plain_clone(storage)
    host = storage.host.clone()  # type: ignore[attr-defined]
    return _on_device(torch.empty(0, dtype=torch.uint8).set_(host), {}).untyped_storage()


_plain_clone = torch.UntypedStorage.clone


class _Module(_DummyBackendModule):
    """What torch looks up in `torch.fake`."""

    _initialized = True
    emptied = 0  # how often its cache of memory was given back
    device = staticmethod(nullcontext)  # there is only one to change to

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.default_generator.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.default_generator.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def empty_cache(self) -> None:
        if broken:
            raise torch.AcceleratorError(broken[0])
        self.emptied += 1

    def synchronize(self, device: Any = None) -> None:
        waits.add("synchronize")


_setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(_compute, "PrivateUse1")
_ATEN = torch.library.Library("aten", "IMPL")
for _operation in _REPLACED:
    _ATEN.impl(_operation, partial(_compute, _operation), "PrivateUse1")
_LIBRARY.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
for _name in (*_LOWER, *_FLOAT32):
    for _overload in getattr(aten, _name).overloads():
        _operation = getattr(getattr(aten, _name), _overload)
        if not any(argument.is_out for argument in _operation._schema.arguments):
            _ATEN.impl(_operation, partial(_autocast, _operation, _name in _LOWER), "AutocastPrivateUse1")
torch.Generator = _Generator  # type: ignore[misc]
torch.Tensor.pin_memory = _pin_memory  # type: ignore[method-assign, assignment]
torch.Tensor.is_pinned = _is_pinned  # type: ignore[method-assign, assignment]
torch.UntypedStorage.clone = _clone_storage  # type: ignore[method-assign, assignment]
