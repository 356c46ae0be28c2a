"""The weights that runs start from: a file or torchvision's, read once, recorded by checksum, and loaded."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ablations.errors import RequestError, one_line
from modernize.design import DesignError
from modernize.reference import PREFIX, check_reference, is_reference

if TYPE_CHECKING:
    from torch import Tensor, nn

SHOWN = 12  # hexadecimal digits of a checksum in reports
WEIGHTS_MAY_CHANGE = {"source", "notes"}  # when a run resumes: only the tensors count


class Weights(BaseModel):
    """Weights that runs start from.

    Attributes:
        source: The absolute path of a file, or `torchvision:NAME`.
        sha256: Checksum of the tensors and their names; empty until they have been read.
        notes: Whether the classifier is loaded, too, and what is done to fit the others to the networks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name the weights without the folder of a file."""
        return self.source if self.source.startswith(PREFIX) else Path(self.source).name

    def __str__(self) -> str:
        """Describe the weights, and what is not taken from them, in a few words."""
        return "; ".join([f"{self.name} (sha256 {self.sha256[:SHOWN]})", *self.notes])


def locate(name: str) -> Weights:
    """Return the weights with that name, not yet read; raises RequestError for an unknown name of torchvision."""
    if not name.strip():
        raise RequestError(f"weights {name!r}: write the path of a file, or torchvision:NAME")
    if "://" in name:
        raise RequestError(f"weights {name}: a URL; download it, and pass the file")
    if is_reference(name) and not name.startswith(PREFIX):
        raise RequestError(f"weights {name!r}: {name.partition(':')[0]} gives no weights; write FILE or {PREFIX}NAME")
    if name.startswith(PREFIX):
        try:
            return Weights(source=check_reference(name))
        except DesignError as error:
            raise RequestError(f"weights: {error}") from None
    if Path(name).is_dir():
        raise RequestError(f"weights {name}: a folder; pass a file, such as one that `ablations export RUN` writes")
    return Weights(source=str(Path(name).absolute()))


def read(weights: Weights) -> tuple[Weights, dict[str, Tensor]]:
    """Read the tensors, and return the weights with their checksum; raises RequestError if they cannot be read.

    Torch stores what it downloads in its hub folder.
    """
    from ablations.training.checkpoint import weights_sha256
    from modernize.weight_files import read_source
    from modernize.weights import WeightsError

    try:
        content: Any = _torchvisions(weights.source) if weights.source.startswith(PREFIX) else weights.source
        _, tensors = read_source(content, averaged=False)
    except WeightsError as error:
        raise RequestError(f"weights {error}") from None
    found = weights_sha256(tensors)
    return weights.model_copy(update={"sha256": found}), tensors


def to_download(weights: Weights) -> Mapping[str, Tensor] | None:
    """Return zeros with the names and shapes of torchvision's weights; None for a file, or if torch has them."""
    import torch

    from modernize.reference import without_weights

    if not weights.source.startswith(PREFIX):
        return None
    if Path(torch.hub.get_dir(), "checkpoints", _url(weights.source).rpartition("/")[2]).exists():
        return None
    network = without_weights(weights.source, 1000, 3, 0.0, 224)
    return {
        name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in network.state_dict().items()
    }


def _torchvisions(name: str) -> Mapping[str, Tensor]:
    """Return torchvision's default weights of a model, downloaded if they are not in torch's hub folder."""
    from torch.hub import load_state_dict_from_url

    url = _url(name)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where torch says that it downloads
            return load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # of the network, the disk, or torch's reader
        raise RequestError(
            f"weights {name}: cannot be loaded ({one_line(error)[:200]}); download {url} on another machine and pass "
            "--weights FILE"
        ) from None


def _url(name: str) -> str:
    from torchvision import models

    return models.get_model_weights(name.partition(":")[2]).DEFAULT.url


def load(network: nn.Module, weights: Weights, head: Collection[str] = (), *, reset_classifier: bool) -> None:
    """Load weights into a network as `fit` does; raises RequestError if they cannot be read, or have changed."""
    from modernize.weights import WeightsError

    found, tensors = read(weights)
    if found.sha256 != weights.sha256:
        raise RequestError(f"weights {weights.source}: not the tensors that the run was configured with (sha256)")
    try:
        fit(network, tensors, head, reset_classifier=reset_classifier)
    except WeightsError as error:
        raise RequestError(f"weights {weights.source}: {error}") from None


def fit(
    network: nn.Module, tensors: Mapping[str, Tensor], head: Collection[str] = (), *, reset_classifier: bool = False
) -> tuple[str, ...]:
    """Load weights into a network; return whether with the classifier, and what was done to fit the others.

    `head` are the names of a reference model's tensors that depend on the number of classes.
    The network's classifier stays as it is with `reset_classifier`, or if nothing else does not fit: the number of
    classes differs. Raises WeightsError if the weights do not fit.
    """
    from modernize.network import Network
    from modernize.weights import WeightsError, load_weights

    reference = partial(_fit_reference, head=head)
    load: Callable[..., Any] = load_weights if isinstance(network, Network) else reference
    classifier = not reset_classifier
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            load(network, tensors, classifier=classifier)
        except WeightsError:
            if reset_classifier:
                raise
            classifier = False
            load(network, tensors, classifier=False)
    remarks = (str(one.message).removeprefix("the state dict: ") for one in caught)
    return "with its classifier" if classifier else "classifier newly initialized", *remarks


def _fit_reference(
    network: nn.Module, tensors: Mapping[str, Tensor], *, classifier: bool = True, head: Collection[str]
) -> None:
    """Load weights into a reference model under its own names and shapes; `head` names those of its classifier."""
    from modernize.alterations import size, without_wrappers
    from modernize.weight_files import some
    from modernize.weights import WeightsError

    own = network.state_dict()
    given = {without_wrappers(key).removeprefix("module."): tensor for key, tensor in tensors.items()}
    if not classifier:
        own = {key: tensor for key, tensor in own.items() if key not in head}
        given = {key: tensor for key, tensor in given.items() if key not in head}
    misfits = {
        "missing": [key for key in own if key not in given and not key.endswith(".num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "shapes": [
            f"{key} is {size(given[key].shape)}, needs {size(own[key].shape)}"
            for key in own
            if key in given and given[key].shape != own[key].shape
        ],
    }
    if any(misfits.values()):
        listed = "; ".join(f"{what} {some(names)}" for what, names in misfits.items() if names)
        raise WeightsError(f"the state dict does not fit {type(network).__name__}: {listed}")
    network.load_state_dict(network.state_dict() | given)
