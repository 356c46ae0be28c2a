"""Figures: one style for all, a module for each question that a picture answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mark(axes: Axes, place: int) -> str:
    """The id, in an SVG file, of what is drawn on some axes for the line of the plot's frame whose index is `place`."""
    return f"mark-{place}-{axes.get_figure(root=True).axes.index(axes)}"  # type: ignore[union-attr]
