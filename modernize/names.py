"""Names that users type: which of the known names a wrong one may mean."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# The settings of a recipe, which stand beside design flags as recipe.KEY; whoever has recipes fills it.
SETTINGS: list[str] = []
_MOST = 3  # names to suggest


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `did you mean 'x'?` if known names are close, and the list of known names otherwise.

    `prefix` is put before the known names that are shown.
    """
    names = list(known)
    close = similar(name, names)
    if not close:
        return f"known: {', '.join(prefix + one for one in names)}"
    return f"did you mean {one_of([repr(prefix + one) for one in close])}?"


def one_of(choices: list[str]) -> str:
    """Write a list of choices: `a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def similar(name: str, known: Iterable[str]) -> list[str]:
    """Return the known names, at most three, that a wrong name may mean.

    They have the same letters (`kernel-size`), begin with it (`kernel`), are the closest in spelling (`kernal_size`),
    begin it (`normalization`), have its letters as initials (`lr`), or contain it (`flip`); the first of these that
    there are. A spelling that is far off yields to a known name that begins the wrong one.
    """
    letters = {one: _letters(one) for one in known}
    word = _letters(name)
    same = [one for one in letters if letters[one] == word]
    begun = [one for one in letters if len(word) > 2 and letters[one].startswith(word)]
    if same or begun:
        return same[:1] or sorted(begun, key=len)[:_MOST]
    begins = sorted((one for one in letters if len(letters[one]) > 3 and word.startswith(letters[one])), key=len)
    spelled = difflib.get_close_matches(word, letters.values(), n=1, cutoff=0.8 if begins else 0.6)
    if begins and not spelled:
        return begins[-1:]
    if spelled:
        return [one for one in letters if letters[one] == spelled[0]][:1]
    initials = [one for one in letters if len(word) > 1 and _initials(one) == word]
    within = [one for one in letters if len(word) > 2 and word in letters[one]]
    return initials[:_MOST] or sorted(within, key=len)[:_MOST]


def unknown_flag(name: str, flags: Iterable[str]) -> str:
    """Return what an unknown flag may mean: another flag, or a setting of the recipe."""
    flags = list(flags)
    if name in SETTINGS:
        return f"a setting of the recipe; write recipe.{name}"
    close = [one if one in flags else f"recipe.{one}" for one in similar(name, [*flags, *SETTINGS])]
    return f"did you mean {one_of(list(map(repr, close)))}?" if close else f"known: {', '.join(flags)}"


def unknown_setting(key: str, flags: Iterable[str], prefix: str = "") -> str:
    """Return what an unknown setting of a recipe may mean; `prefix` stands before settings where `key` was written."""
    if key in flags:
        where = f"write {key} alone" if prefix else f"write it in the design's name, as in pocket,{key}=…"
        return f"a design flag; {where}"
    name = key.removeprefix("recipe.")
    return nearest(name, SETTINGS, prefix) if similar(name, SETTINGS) else "`ablations recipe quick` lists the settings"


def _letters(name: str) -> str:
    """Return a name in lower case without what separates its words."""
    return re.sub(r"[-_. ]", "", str(name).lower())


def _initials(name: str) -> str:
    return "".join(part[0] for part in re.split(r"[-_. ]", name.lower()) if part)
