"""Points too many to be named on the spot: a number at each, and beside the panels a key of numbers and names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes

from reports.figures.label_placement import Box, place_labels
from reports.figures.style import INK, MUTED, Page, near, rounded_out, text_width, wrap
from reports.layout import given_width, margin

_SIZE, _LINE, _PAD, _NUMBER, _MARK = 7.5, 0.15, 0.03, 0.26, 8.0
KEY_SIZE = 8.0


@dataclass(frozen=True)
class Point:
    """A numbered point: its place, the error bars up and down from it (0 where there are none).

    One that is not named has no number written, but none is written on it.
    """

    number: int
    x: float
    y: float
    below: float = 0.0
    above: float = 0.0
    named: bool = True


@dataclass(frozen=True)
class Key:
    """The lines of a key, each name in as many as it takes; a name without a point has words on why."""

    entries: tuple[tuple[int, tuple[str, ...], tuple[str, ...]], ...]
    width: float

    @property
    def height(self) -> float:
        """In inches."""
        return sum(_PAD + _LINE * (len(lines) + len(words)) for _, lines, words in self.entries)

    def draw(self, sheet: Page, x: float, top: float) -> None:
        """Writes it, its upper left corner at a place."""
        for number, lines, words in self.entries:
            sheet.text(x + _NUMBER - 0.08, top, str(number), size=KEY_SIZE, ha="right", va="top", weight="bold")
            for line in lines:
                sheet.text(x + _NUMBER, top, line, size=KEY_SIZE, va="top")
                top -= _LINE
            for word in words:
                sheet.text(x + _NUMBER, top, word, size=KEY_SIZE, va="top", style="italic", color=MUTED)
                top -= _LINE
            top -= _PAD


def off_axis(values: Iterable[float], axis: tuple[float, float]) -> str:
    """The arrow that a legend explains where values are off an axis: upwards if any is above; none if all are on it."""
    known = [value for value in values if value == value]
    if any(value > axis[1] for value in known):
        return "^"
    return "v" if any(value < axis[0] for value in known) else ""


def make_key(entries: Sequence[tuple[int, str, str]], at_most: float) -> Key:
    """A key of numbers, names and words, no wider than so many inches."""
    room = at_most - _NUMBER
    wrapped = tuple(
        (number, tuple(wrap(name, KEY_SIZE, room)), tuple(wrap(words, KEY_SIZE, room)))
        for number, name, words in entries
    )
    texts = [text for _, lines, words in wrapped for text in (*lines, *words)]
    return Key(wrapped, _NUMBER + max((text_width(text, KEY_SIZE) for text in texts), default=0.0))


def keys_below(entries: Sequence[tuple[int, str, str]]) -> list[Key]:
    """Return a key in as many columns as an exact width holds, to stand below the panels, each as high as needed."""
    room = (given_width() or 0.0) - 2 * margin()
    names = sorted(_NUMBER + text_width(name, KEY_SIZE) for _, name, _ in entries)
    usual = names[3 * len(names) // 4] if names else room  # longer names wrap
    count = max(min(int((room + _COLUMN_GAP) / (usual + _COLUMN_GAP)), 3), 1)
    size = -(-len(entries) // count)
    each = (room - (count - 1) * _COLUMN_GAP) / count
    return [make_key(entries[start : start + size], each) for start in range(0, len(entries), size)]


def draw_below(keys: Sequence[Key], sheet: Page, top: float) -> None:
    """Draw the columns of a key beside each other."""
    room = sheet.width - 2 * margin()
    for place, key in enumerate(keys):
        key.draw(sheet, margin() + place * (room + _COLUMN_GAP) / len(keys), top)


_COLUMN_GAP = 0.12


def number_points(axes: Axes, points: Sequence[Point], lines: Sequence[tuple[float, float]] = ()) -> None:
    """Writes each point's number near it, with a thin line where it stands further off or nearer to another point.

    Numbers keep off error bars, and off the steps through the corners of `lines`, where there is room.
    """
    scale = 72 / axes.figure.dpi
    edge = axes.bbox
    panel = Box(edge.x0 * scale, edge.y0 * scale, edge.x1 * scale, edge.y1 * scale)

    def printed(x: float, y: float) -> tuple[float, float]:
        """A place in points from the page's corner."""
        across, up = axes.transData.transform((x, y))
        return float(across * scale), float(up * scale)

    bars = [(printed(point.x, point.y - point.below), printed(point.x, point.y + point.above)) for point in points]
    steps = [(printed(x0, y0), printed(x1, y1)) for (x0, y0), (x1, y1) in pairwise(lines)]
    avoid = [Box.spanning(*start, *end, 1.0) for start, end in (*bars, *steps)]
    places = [printed(point.x, point.y) for point in points]
    sizes = [(72 * text_width(str(point.number), _SIZE) + 2, _SIZE + 1.5) if point.named else None for point in points]
    for point, place, box in zip(points, places, place_labels(places, sizes, panel, _MARK, avoid), strict=True):
        if box is not None:
            away = math.dist(box.middle, place)
            led = away > _MARK + _SIZE or any(math.dist(box.middle, other) < away for other in places)
            _write_number(axes, point, box, scale, led)


def _write_number(axes: Axes, point: Point, box: Box, scale: float, led: bool) -> None:
    """A number in the middle of its box, with a thin line to its point where it is `led`."""
    x, y = axes.transData.inverted().transform([part / scale for part in box.middle])
    if led:
        axes.plot([point.x, x], [point.y, y], color=MUTED, linewidth=0.5, zorder=3)
    looks = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    style: dict[str, Any] = {"size": _SIZE, "color": INK, "ha": "center", "va": "center_baseline", "zorder": 8}
    axes.text(x, y, str(point.number), bbox=looks if led else None, **style)


def axis_range(values: Sequence[float], spreads: Sequence[float], least: float) -> tuple[float, float]:
    """Where an axis ends that shows most of the values and their spreads; one far off the others is left out."""
    if not values:
        return 0.0, 1.0
    kept = near(values, least)
    ends = [
        value + sign * spread
        for value, spread in zip(values, spreads, strict=True)
        for sign in (-1, 1)
        if value in kept
    ]
    low, high = min(ends), max(ends)
    return rounded_out(low, high, 0.08 * (high - low) or max(0.05 * abs(high), 1e-6))
