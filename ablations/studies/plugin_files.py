"""The plugins of a study or run: their checksums, their copies in its folder, and refusals if they changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from ablations.errors import RequestError
from ablations.recipes import check, read_yaml
from ablations.studies.own_code import copy_sources
from modernize.design import Design, DesignError
from modernize.plugins import load_installed_plugin, load_plugin, plugin_of, plugins
from modernize.user_sources import UserCodeError, source_files, sources_sha256

_FOLDER = Path("code", "plugins")  # of a study's or run's folder: the copies, by checksum, as names may be equal
_SHOWN = 12  # hexadecimal digits of a checksum in errors
Model = TypeVar("Model", bound=BaseModel)


class PluginFile(BaseModel):
    """A plugin that designs need: the path of its file, or the module's name of an installed one, and its checksum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sha256: str

    @property
    def file(self) -> Path | None:
        """Path of its file; None for an installed plugin."""
        return Path(self.name) if self.name.endswith(".py") else None


def _loaded(found: list[PluginFile]) -> list[PluginFile]:
    """Load plugins, so that the designs that name their flags can be read; raises ValueError if one has changed."""
    for one in found:
        if is_loaded(one):
            continue
        now = _sha256(one)
        if now != one.sha256:
            raise ValueError(f"{one.name} {_changed(one, now)}; restore it, or choose another --out")
        load_plugin(one.name) if one.file else load_installed_plugin(one.name)
    return found


PluginFiles = Annotated[list[PluginFile], AfterValidator(_loaded)]


def is_loaded(plugin: PluginFile) -> bool:
    """Whether a plugin of this content is loaded, from whatever place."""
    return any(one.sha256 == plugin.sha256 for one in plugins())


def used_plugins(designs: Iterable[Design]) -> list[PluginFile]:
    """Return the plugins whose flags designs set."""
    flags = {flag for design in designs for flag, _ in design.added}
    used = {one.name: one for flag in flags if (one := plugin_of(flag)) is not None}
    return [PluginFile(name=name, sha256=used[name].sha256) for name in sorted(used)]


def check_plugins(needed: Iterable[PluginFile], place: str) -> None:
    """Raise RequestError if a plugin has been loaded again, with another content, since designs were read."""
    for one in needed:
        if not is_loaded(one):
            raise RequestError(f"{place}: the plugin {one.name} has been loaded with another content; start it again")


def read_with_plugins(model: type[Model], path: Path, what: str) -> Model:
    """Read a study's or run's YAML file; plugins that are missing or changed are loaded from the copies beside it.

    Raises RequestError if the file is invalid, or neither a plugin nor its copy is the file that it was made with.
    """
    values = read_yaml(path, what)
    try:
        needed = [PluginFile.model_validate(one) for one in values.get("plugins") or []]
    except (TypeError, ValueError):
        needed = []  # the check of the values says what is invalid
    for one in needed:
        _load_copy(one, needed, path.parent)
    return check(model, values, f"{what} {path}")


def _load_copy(one: PluginFile, needed: Iterable[PluginFile], folder: Path) -> None:
    """Load a plugin from its copy in a folder, if it is needed."""
    if one.file is None or is_loaded(one) or _sha256(one) == one.sha256:
        return
    others = {other.file.name: other for other in plugins() if other.sha256 not in _checksums(needed) and other.file}
    other = others.get(one.file.name)
    if other is not None:  # as --plugin gives it
        raise RequestError(f"{folder}: {other.name} {_changed(one, other.sha256)}; restore it, or choose another --out")
    copy = one.model_copy(update={"name": str(_copy_of(one, folder.absolute()) / one.file.name)})
    if _sha256(copy) == one.sha256:
        try:
            load_plugin(copy.name)
        except DesignError as error:
            raise RequestError(f"{folder}: {error}") from None


def keep_plugins(needed: Iterable[PluginFile], folder: Path) -> None:
    """Copy the plugins' files, and the files beside them that they import, into a study's or run's folder."""
    for one in needed:
        if one.file is None:
            continue
        origin = next(known.file for known in plugins() if known.sha256 == one.sha256)
        assert origin is not None
        copy_sources(origin, _copy_of(one, folder))


def refuse_other_plugins(before: Iterable[PluginFile], now: Iterable[PluginFile], folder: str) -> None:
    """Raise RequestError if a plugin of the same file's name had another checksum when a folder was made."""
    before, now = list(before), list(now)
    gone = {Path(one.name).name: one for one in before if one.sha256 not in _checksums(now)}
    for one in now:
        first = gone.get(Path(one.name).name)
        if first is not None and one.sha256 not in _checksums(before):
            raise RequestError(
                f"{folder}: {one.name} {_changed(first, one.sha256)}; restore it, or choose another --out"
            )


def without_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study's or run's plain values with the checksums of its plugins alone: files may be moved."""
    return {**values, "plugins": sorted(one["sha256"] for one in values.get("plugins", []))}


def _checksums(files: Iterable[PluginFile]) -> set[str]:
    return {one.sha256 for one in files}


def _copy_of(plugin: PluginFile, folder: Path) -> Path:
    """Return the folder with a plugin's copy, in a study's or run's folder."""
    return folder / _FOLDER / plugin.sha256[:_SHOWN]


def _sha256(plugin: PluginFile) -> str | None:
    """Return the checksum of a plugin's file as it is now; None if it cannot be read. An installed one is loaded."""
    try:
        if plugin.file is not None:
            return sources_sha256(source_files(plugin.file))
        return load_installed_plugin(plugin.name).sha256
    except (UserCodeError, DesignError):
        return None


def _changed(plugin: PluginFile, now: str | None) -> str:
    """Say that a plugin's file is missing, or is another than before."""
    if now is None:
        return f"cannot be read, and is needed (sha256 {plugin.sha256[:_SHOWN]})"
    return f"has changed since the folder was made (sha256 {plugin.sha256[:_SHOWN]}, now {now[:_SHOWN]})"
