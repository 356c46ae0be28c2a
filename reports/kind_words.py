"""The words for each kind of study: the title of its table of rows, and the axis of the figure of their differences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KindWords:
    """The words for a kind of study.

    Attributes:
        title: The title of its table of rows.
        axis: What their differences are from.
        table: The name of the table's files, if not that of the kind.
        ordered: Whether rows have an order to keep in figures.
        subject: The heading of its rows.
        alone: The title if it has a single row.
    """

    title: str
    axis: str = ""
    table: str = ""
    ordered: bool = False
    subject: str = "row"
    alone: str = ""


WORDS = {
    "roadmap": KindWords("each step against the previous adopted one", "from the previous adopted row", "steps"),
    "one-in": KindWords("one flag at a time added to the base", "from the base"),
    "one-out": KindWords("one flag at a time removed from the final design", "from the final design"),
    "sweep": KindWords("values of one flag against the first", "from the first value", ordered=True),
    "grid": KindWords("combinations of values against the first", "from the first values", ordered=True),
    "orders": KindWords("each set of flags along the orders"),
    "recipes": KindWords("one design under each recipe against the first", "from the first recipe"),
    "screen": KindWords("the combinations of flags that were trained", table="screen-runs"),
    "designs": KindWords("each design against the baseline", "from the baseline", subject="design", alone="results"),
}
