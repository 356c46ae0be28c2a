"""The style of all figures, and the page they are drawn on: title above, notes below, measured in inches."""

from __future__ import annotations

import io
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, ParamSpec

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from reports.layout import current, given_width, margin, resize
from reports.statuses import shown

# Okabe and Ito's colors, safe for color blindness; shapes and lines differ too, for gray print.
INK, MUTED, BAND, RULE = "#222222", "#666666", "#F1F1F1", "#D5D5D5"
BLUE, SKY, VERMILION, GREY = "#0072B2", "#56B4E9", "#D55E00", "#C9C9C9"

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same text, and the same bytes, everywhere
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a study's name is a dollar
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 200,  # of a figure with an exact width: `FINE`
    "svg.fonttype": "path",  # glyphs travel with the file
    "svg.hashsalt": "modernize",  # ids by content, not by chance
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}
# No dates in files: the same runs give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}

FINE = 300  # dots per inch of a figure with an exact width, which is then right within 0.05 mm
_TITLE_SIZE, _NOTE_SIZE = 13, 8
_TITLE_LINE, _LINE, _NOTE_LINE, _GAP = 0.27, 0.2, 0.17, 0.1

_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Make a drawing function use this style instead of the user's."""

    @wraps(draw)
    def drawn(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> Figure:
        with style.context(["default", STYLE]), _any_letters():
            return resize(draw(*arguments, **named))

    return drawn


@contextmanager
def _any_letters() -> Iterator[None]:
    """Draw letters that the font lacks as boxes, without warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        yield


def encode(figure: Figure, suffix: str, dpi: int | None = None, title: str = "", details: str = "") -> bytes:
    """Encode a figure as a png, svg or pdf file, with a title and what was done in its metadata."""
    out = io.BytesIO()
    named = {"Title": title, "Subject" if suffix == "pdf" else "Description": details}
    described = {name: "".join(filter(str.isprintable, text)) for name, text in named.items() if text}
    with style.context(["default", STYLE]), _any_letters():
        figure.savefig(out, format=suffix, metadata=_METADATA[suffix] | described, dpi=dpi or STYLE["savefig.dpi"])
    return out.getvalue()


@cache
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a line of text in inches."""
    font = FontProperties(family=STYLE["font.family"], size=size, weight=weight)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def wrap(text: str, size: float, width: float, weight: str = "normal") -> list[str]:
    """`text` in lines of at most `width` inches, measured in its font; a word too long for a line is broken.

    It is broken behind the last sign of punctuation that leaves half a line or more, else anywhere.
    """

    def fits(line: str) -> bool:
        return text_width(line, size, weight) <= width

    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if fits(longer):
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if fits(lines[-1] + letter):
                lines[-1] += letter
                continue
            end = max((place + 1 for place, sign in enumerate(lines[-1]) if sign in ",;:/_=+-"), default=0)
            end = end if 2 * end >= len(lines[-1]) else len(lines[-1])
            lines[-1:] = [lines[-1][:end], lines[-1][end:] + letter]
    return [line for line in lines if line]


def wrap_marked(text: str, marks: str, size: float, width: float) -> list[str]:
    """Wrap a text whose footnote marks stay on its last line."""
    if not marks:
        return wrap(text, size, width)
    lines = wrap(text, size, width - text_width(f" {marks}", size))
    return [*lines[:-1], f"{lines[-1]} {marks}"]


@dataclass(frozen=True)
class Page:
    """A figure measured in inches from its lower left corner; the body lies between `bottom` and `top`."""

    figure: Figure
    width: float
    height: float
    bottom: float
    top: float

    def text(self, x: float, y: float, text: str, **looks: Any) -> None:
        """Write `text` at a place."""
        self.figure.text(x / self.width, y / self.height, text, **looks)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes on a part of the page."""
        return self.figure.add_axes((x / self.width, y / self.height, width / self.width, height / self.height))

    def legend(self, handles: Sequence[Any], y: float, columns: int = 6) -> None:
        """What marks mean, its lower left corner at a height; in as many columns as an exact width holds."""
        self.figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(margin() / self.width, y / self.height),
            ncols=_legend_columns(handles, columns),
            borderaxespad=0,
            borderpad=0,
            columnspacing=2.2,
        )


_EM = STYLE["legend.fontsize"] / 72  # inches; a legend's lengths are in units of its text


def _legend_columns(handles: Sequence[Any], columns: int) -> int:
    """Return the number of columns of a legend: as many as fit an exact width, else those asked for."""
    width = given_width()
    if width is None:
        return columns
    unit = _EM / min(current().scale, 1.0)  # handles and gaps keep their size when text is scaled
    widths = [2.8 * unit + text_width(str(handle.get_label()), STYLE["legend.fontsize"]) for handle in handles]

    def total(count: int) -> float:
        sizes = [len(widths) // count + (place < len(widths) % count) for place in range(count)]
        ends = [sum(sizes[: place + 1]) for place in range(count)]
        return sum(max(widths[end - size : end]) for end, size in zip(ends, sizes, strict=True)) + 2.3 * unit * (
            count - 1
        )

    fits = [count for count in range(1, min(len(widths), columns) + 1) if total(count) <= width - 2 * margin()]
    return max(fits, default=1)


def legend_room(handles: Sequence[Any], columns: int = 6) -> float:
    """Return the height in inches of a legend's lines after those that it has without an exact width."""
    lines = -(-len(handles) // _legend_columns(handles, columns)) - max(-(-len(handles) // columns), 1)
    return _LINE * max(lines, 0)


def page(
    title: str, subtitle: str, notes: Sequence[str], width: float, body: float, footnotes: Sequence[str] = ()
) -> Page:
    """Make a page with wrapped text above and below a body of a height in inches.

    A layout with an exact width replaces `width`; one without a heading keeps the footnotes alone.
    """
    width = given_width() or width
    if not current().heading:
        title, subtitle, notes = "", "", ()
    notes, around = (*notes, *footnotes), margin()
    inside = 0.98 * (width - 2 * around)  # letters are drawn up to 2% wider, at whole pixels
    titles = wrap(title, _TITLE_SIZE, inside, weight="bold")
    subtitles = wrap(subtitle, STYLE["font.size"], inside)
    lines = [line for note in notes for line in wrap(note, _NOTE_SIZE, inside)]
    bottom = around + _NOTE_LINE * len(lines)
    subtitle_top = bottom + body + _LINE * len(subtitles) + (_GAP if current().heading else 0.0)
    height = subtitle_top + _TITLE_LINE * len(titles) + around
    figure = Figure(figsize=(width, height), dpi=None if given_width() is None else STYLE["savefig.dpi"])
    made = Page(figure, width, height, bottom, bottom + body)
    for number, line in enumerate(titles):
        made.text(around, height - around - _TITLE_LINE * number, line, size=_TITLE_SIZE, weight="bold", va="top")
    for number, line in enumerate(subtitles):
        made.text(around, subtitle_top - _LINE * number, line, color=MUTED, va="top")
    for number, line in enumerate(reversed(lines)):
        made.text(around, around + _NOTE_LINE * number, line, size=_NOTE_SIZE, color=MUTED, va="bottom")
    return made


def inches_wide(axes: Axes) -> float:
    """Return the width of axes in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return float(axes.get_position().width * figure.get_figwidth())


def near(values: Sequence[float], least: float, *shown: float) -> list[float]:
    """Drop values so far from the others that an axis with them would squeeze the others together.

    Args:
        values: The values of an axis.
        least: Values no farther than this from the median are kept.
        shown: What is on the axis anyway, such as 0.

    Returns:
        The values that are near the median, and those no farther from these than they and `shown` are long.
    """
    middle = statistics.median(values)
    spread = statistics.median(abs(value - middle) for value in values)
    kept = [*shown, *(value for value in values if abs(value - middle) <= max(8 * spread, least))]
    low, high = min(kept), max(kept)
    return [value for value in values if 2 * low - high <= value <= 2 * high - low]


def rounded_out(low: float, high: float, room: float) -> tuple[float, float]:
    """Widen a range by `room` at both ends, to round numbers."""
    step = 10 ** math.floor(math.log10(room))
    return round(math.floor((low - room) / step) * step, 6), round(math.ceil((high + room) / step) * step, 6)


def held(value: float, low: float, high: float) -> float:
    """Return the value, or the place of the arrow for a value off the axis."""
    inset = 0.025 * (high - low)
    return value if low <= value <= high else min(max(value, low + inset), high - inset)


def ticks(low: float, high: float, at_most: int = 5) -> list[float]:
    """Return round tick positions within an axis."""
    places = MaxNLocator(nbins=at_most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    inside = 1e-9 * (high - low)
    return [float(place) for place in places if low - inside <= place <= high + inside]


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: 1, 2 and 5 per power of ten, or powers of ten alone if these are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        places = [digit * 10.0**power for power in powers for digit in digits if low <= digit * 10.0**power <= high]
        if len(places) <= 7:
            break
    return places


def signed(value: float) -> str:
    """Format a tick with its sign and a true minus; 0 has none."""
    return f"{value:+g}".replace("-", "−") if value else "0"


def footnotes(notes: Sequence[str]) -> Iterator[str]:
    """Yield notes behind their numbers."""
    from reports.columns import superscript

    for number, note in enumerate(notes, start=1):
        yield f"{superscript([number])} {note}"


def absence(status: str) -> str:
    """Describe a row without a result by its status; empty if it has a result."""
    return "" if status == "done" else shown(status)


def known(value: Any) -> float | None:
    """Return a number of a raw table, None if missing."""
    return None if value is None or math.isnan(value) else float(value)
