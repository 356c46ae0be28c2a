"""The size of figures: that of their contents, or an exact width and text of a set size, as for a paper's column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = 9.0  # points; drawing functions measure in inches beside text of this size
SIZE = 8.0  # points, of a figure with an exact width
_MARGIN, _NARROW_MARGIN = 0.25, 0.03
MILLIMETERS = 25.4


@dataclass(frozen=True)
class Layout:
    """How figures are drawn.

    Attributes:
        width: Width in millimeters; None: as wide as the contents.
        font_size: Size of the text in points; None: 9, with a width 8. Smaller print is in proportion.
        heading: Whether title, facts and caption are drawn.
    """

    width: float | None = None
    font_size: float | None = None
    heading: bool = True

    @property
    def scale(self) -> float:
        """The text's size by that of a figure as wide as its contents."""
        return (self.font_size or (TEXT if self.width is None else SIZE)) / TEXT


NATURAL = Layout()
_current: ContextVar[Layout] = ContextVar("layout", default=NATURAL)


@contextmanager
def laid_out(layout: Layout) -> Iterator[None]:
    """Draw the figures of the block in a layout."""
    token = _current.set(layout)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Layout:
    """Return the layout of figures that are drawn now."""
    return _current.get()


def given_width() -> float | None:
    """Return the width to fill, in inches beside text of `TEXT` points; None: as wide as the contents."""
    layout = _current.get()
    return None if layout.width is None else layout.width / MILLIMETERS / layout.scale


def margin() -> float:
    """Return the margin around a figure in inches; the page of a paper has its own."""
    return _MARGIN if given_width() is None else _NARROW_MARGIN


def fitting(widths: Sequence[float], room: float, gap: float) -> int:
    """Return how many of these widths, from the first, fit beside each other, at least one."""
    ends = accumulate(width + gap for width in widths)
    return max(sum(end - gap <= room + 1e-9 for end in ends), 1)


def resize(figure: Figure) -> Figure:
    """Scale a figure drawn with text of `TEXT` points to the layout's text, and its size with it."""
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    scale = _current.get().scale
    if scale == 1:
        return figure
    shown = [axes for axes in figure.axes if axes.axison]
    for axes in shown:
        axes.tick_params(labelsize=scale * (TEXT - 0.5))
    ticks = {label for axes in shown for label in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text not in ticks:
            text.set_fontsize(scale * float(text.get_fontsize()))
    for line in figure.findobj(Line2D):
        if isinstance(line, Line2D):
            line.set_markersize(scale * line.get_markersize())
    figure.set_size_inches(*(scale * edge for edge in figure.get_size_inches()))
    return figure
