"""Account for every file of a dataset: the images, and what is left out, why, with examples."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

# The suffixes of files that are read as images: raster formats that Pillow decodes by itself; no icons (.ico), and no
# working files (.psd).
_PHOTOS = ".jpeg .jpg .jpe .jfif .mpo .png .apng .gif .webp .avif .bmp .dib .tif .tiff .tga"
_OTHERS = ".jp2 .j2k .j2c .jpc .jpf .jpx .ppm .pgm .pbm .pnm .pfm .qoi .pcx .sgi .ras .dds"
SUFFIXES = frozenset(f"{_PHOTOS} {_OTHERS}".split())
# Folders and files of operating systems and network storage, in lower case; other such names begin with a dot.
_SYSTEM = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found", "__macosx"),
        *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    )
)
CLASSES = 2**16  # maximum per dataset: predictions are stored in two bytes
EXAMPLES = 3  # per reason
_DISTINCT_SUFFIXES = 20  # reasons that name a suffix; further ones are counted together


@dataclass(frozen=True)
class Skipped:
    """Files that are left out for one reason, and the names of the first few."""

    reason: str
    files: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Inventory:
    """Every file of a split: `images`, `labels` (a shard's `.cls` files) and those of `skipped`."""

    images: int
    labels: int = 0
    skipped: tuple[Skipped, ...] = ()

    @property
    def files(self) -> int:
        return self.images + self.labels + self.left_out

    @property
    def left_out(self) -> int:
        return sum(one.files for one in self.skipped)


@dataclass(frozen=True)
class Account:
    """What the folders or shards of both splits contain, and what a user should know of their classes."""

    train: Inventory
    test: Inventory
    notes: tuple[str, ...] = ()

    def notice(self, dataset: str, data_dir: str) -> str | None:
        """Say in one line that files are left out, and how to list them; None if none are."""
        parts = list(self.notes)
        left_out = self.train.left_out + self.test.left_out
        if left_out:
            reasons: dict[str, int] = {}
            for one in (*self.train.skipped, *self.test.skipped):
                reasons[one.reason] = reasons.get(one.reason, 0) + one.files
            first = sorted(reasons, key=lambda reason: -reasons[reason])[:_REASONS]
            text = "; ".join(f"{reasons[reason]:,} {reason}" for reason in first)
            more = "; …" if len(reasons) > len(first) else ""
            parts.append(f"{left_out:,} of {self.train.files + self.test.files:,} files are left out ({text}{more})")
        command = f"ablations data {dataset} --data-dir {shlex.quote(shown(data_dir))}"
        return f"{dataset}: {'; '.join(parts)}; see {command}" if parts else None


_REASONS = 3  # of a notice


@dataclass
class Tally:
    """Count what is left out, by reason."""

    files: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, name: str, files: int = 1) -> None:
        """Leave out a file, or a folder with that many files."""
        self.files[reason] = self.files.get(reason, 0) + files
        examples = self.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(shown(name))

    def skip_suffix(self, name: str) -> None:
        """Leave out a file whose suffix is not an image's."""
        suffix = parted(name)[1].lower()
        reason = f"not an image suffix: {shown(suffix)}" if suffix else "no suffix"
        if reason not in self.files and len(self.files) >= _DISTINCT_SUFFIXES:
            reason = "other suffixes"
        self.skip(reason, name)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Return the reasons, the most frequent first."""
        reasons = sorted(self.files, key=lambda reason: (-self.files[reason], reason))
        return tuple(Skipped(reason, self.files[reason], tuple(self.examples[reason])) for reason in reasons)


def parted(name: str) -> tuple[str, str]:
    """Split a path before the last dot of the file name; the suffix is empty, or begins with the dot."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix}") if dot and "/" not in suffix else (name, "")


def is_image_name(name: str) -> bool:
    return parted(name)[1].lower() in SUFFIXES


def reason_to_skip(name: str) -> str | None:
    """Return why a file or folder of this name is never data; None if it may be."""
    if name.lower() in _SYSTEM:
        return "system files"
    return "hidden" if name.startswith(".") else None


def shown(name: str) -> str:
    """Return a name on one line that any terminal prints: undecodable bytes and control characters are escaped."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def some(names: Sequence[str]) -> str:
    """List the first few names."""
    return ", ".join(map(shown, names[:EXAMPLES])) + (", …" if len(names) > EXAMPLES else "")
