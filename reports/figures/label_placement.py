"""Where labels stand so that none lies on another, on a mark, or outside its panel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Box:
    """A rectangle; any unit, as long as all have the same."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """The box of a size whose middle is at a place."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    @classmethod
    def spanning(cls, x0: float, y0: float, x1: float, y1: float, room: float) -> Box:
        """The box around a line between two places, with room to its sides."""
        return cls(min(x0, x1) - room, min(y0, y1) - room, max(x0, x1) + room, max(y0, y1) + room)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    def meets(self, other: Box) -> bool:
        """Whether the two have more than an edge in common."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return self.x0 <= other.x0 and other.x1 <= self.x1 and self.y0 <= other.y0 and other.y1 <= self.y1


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float] | None],
    panel: Box,
    mark: float,
    avoid: Sequence[Box] = (),
) -> list[Box | None]:
    """A box for the label of each point, as near to it as can be.

    None where a point has no label (no size), or the panel no room left.
    No box meets another one or a mark (a square of side `mark` around each point), and all lie in the panel. Boxes of
    `avoid` are met only where there is no other place. Points with the closest neighbours choose first.
    """
    marks = [Box.around(x, y, mark, mark) for x, y in points]
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda index: (_loneliness(points, index), index)):
        size = sizes[index]
        if size is None:
            continue
        taken = [*marks, *placed.values()]
        for beside in (avoid, ()):
            spots = _spots(points[index], size, panel, mark)
            free = next((box for box in spots if not any(map(box.meets, (*taken, *beside)))), None)
            if free:
                placed[index] = free
                break
    return [placed.get(index) for index in range(len(points))]


def _loneliness(points: Sequence[tuple[float, float]], index: int) -> float:
    """How far the nearest other point is."""
    others = [point for place, point in enumerate(points) if place != index]
    return min((math.dist(points[index], other) for other in others), default=math.inf)


_ANGLES = (45, 315, 135, 225, 0, 180, 90, 270, 22, 338, 158, 202, 68, 292, 112, 248)


def _spots(point: tuple[float, float], size: tuple[float, float], panel: Box, mark: float) -> Iterator[Box]:
    """Boxes in the panel around a point, ever further out, and last those of a grid over all of it."""
    (x, y), (width, height) = point, size
    for ring in range(12):
        away = mark / 2 + 1 + ring * height / 2
        for angle in _ANGLES:
            across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
            box = Box.around(x + across * (away + width / 2), y + up * (away + height / 2), width, height)
            if panel.holds(box):
                yield box
    columns, lines = int((panel.x1 - panel.x0) / width), int((panel.y1 - panel.y0) / height)
    grid = (
        Box.around(panel.x0 + (column + 0.5) * width, panel.y0 + (line + 0.5) * height, width, height)
        for column, line in product(range(columns), range(lines))
    )
    yield from sorted(grid, key=lambda box: math.dist(box.middle, point))
