"""Text in ASCII, for terminals and log files that cannot show all of Unicode."""

from __future__ import annotations

import codecs

_ASCII = {
    **{"×": "x", "±": "+/-", "→": "->", "…": "...", "·": "|", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "↕": "<>"},
    **{"–": "-", "—": "-", "−": "-", "─": "-", "┈": "-", "━": "-", "╸": "-", "╺": "-", "\N{NO-BREAK SPACE}": " "},
    **{"‘": "'", "’": "'", "“": '"', "”": '"', "µ": "u", "°": " degrees", "δ": "d", "α": "alpha"},
    **{digit: f"^{value}" for value, digit in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{digit: str(value) for value, digit in enumerate("₀₁₂₃₄₅₆₇₈₉")},
}
REPLACE = "plain_text"  # the name of the error handler that encodes with replacements


def plain(text: str) -> str:
    """Return the text in ASCII: `×` as `x`, and letters without a replacement as escapes."""
    return text.encode("ascii", REPLACE).decode("ascii")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks; raw bytes of file names, too, become escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(_ASCII.get(letter) or _escaped(letter) for letter in letters), error.end


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is not text
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(REPLACE, _replaced)
