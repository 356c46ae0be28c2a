"""How wide text is in LaTeX: the widths of the letters of Computer Modern, which is wider than Times at every size.

Computer Modern has a design of its own for each size, the wider the smaller: at 7 points, a digit is 0.57 of the size.
"""

from __future__ import annotations

import unicodedata

from reports.latex_escape import tex

# Widths in thousandths of the size, at 10 points.
_WIDTHS = {
    278: "il.,:;!'|[]·‘’łı",
    306: "fj",
    333: "- ",
    361: "I",
    392: "rst()_",
    444: "ceéz°",
    500: 'agov0123456789/?*"~^$`{}\\–“”ßøå',
    528: "bkpqvxy",
    556: "dhnuS",
    625: "LZµ",
    681: "EFP",
    722: "BCTwæ",
    764: "ADHNRUVXY",
    785: "GKOQ+=<>@&±×−≤≥≈œ",
    833: "m%#√",
    917: "M",
    1028: "W—→∞ÆØŒ",
    1333: "…",
}
_EM = {letter: width / 1000 for width, letters in _WIDTHS.items() for letter in letters}
_WIDER = {5: 1.37, 6: 1.23, 7: 1.15, 8: 1.07, 9: 1.03}  # times as wide as at 10 points, by the size
_SUPERSCRIPT = 0.5  # em, of a digit or comma


def points(text: str, size: float) -> float:
    """Return the width of a line of text of a size, both in points."""
    design = max(size, 5.0)  # there is none for smaller sizes
    return design * _WIDER.get(int(design), 1.0) * sum(map(_em, text))


def mark_points(marks: tuple[int, ...], size: float) -> float:
    """Return the width of the marks of footnotes behind a text, in points."""
    return max(size, 5.0) * _WIDER.get(int(max(size, 5.0)), 1.0) * _SUPERSCRIPT * len(",".join(map(str, marks)))


def _em(letter: str) -> float:
    """Return a letter's width by the size at 10 points; one with an accent is as wide as without."""
    base = unicodedata.normalize("NFD", letter)[0]
    known = _EM.get(letter, _EM.get(base))
    return sum(_EM.get(one, 0.785) for one in tex(letter).strip("{}")) if known is None else known
