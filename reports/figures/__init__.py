"""Figures: one style for all, a module for each question that a picture answers."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

# Figures here need no backend, but matplotlib cannot be imported if MPLBACKEND names one that is not installed.
_new, _backend = "matplotlib" not in sys.modules, os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
if _new and _backend:
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend  # as matplotlib does when imported

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mark(axes: Axes, place: int) -> str:
    """The id, in an SVG file, of what is drawn on some axes for the line of the plot's frame whose index is `place`."""
    return f"mark-{place}-{axes.get_figure(root=True).axes.index(axes)}"  # type: ignore[union-attr]
