"""Escape text for LaTeX, in ASCII, whatever letters it has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_TEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "√": r"$\surd$",
    "µ": r"$\mu$",
    "°": r"$^{\circ}$",
    "–": "--",
    "—": "---",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    '"': "''",
    "‟": "``",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "`": r"\textasciigrave{}",
    "|": r"\textbar{}",
    "[": "{[}",  # behind a line's end it would be read as that line's height
    "*": "{*}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "ø": r"\o{}",
    "å": r"\aa{}",
    "œ": r"\oe{}",
    "ł": r"\l{}",
    "Æ": r"\AE{}",
    "Ø": r"\O{}",
    "Å": r"\AA{}",
    "Ł": r"\L{}",
}
_TEX |= {mark: rf"\textsuperscript{{{digit}}}" for digit, mark in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_GREEK = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta"},
    **{"ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma"},
    **{"τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega", "Δ": "Delta", "Σ": "Sigma"},
}
_TEX |= {letter: rf"$\{name}$" for letter, name in _GREEK.items()}
_JOINED = ("--", "''")  # LaTeX would make one sign of the two
_ACCENTS = {
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING MACRON}": "=",
    "\N{COMBINING DOT ABOVE}": ".",
    "\N{COMBINING CARON}": "v",
    "\N{COMBINING BREVE}": "u",
    "\N{COMBINING DOUBLE ACUTE ACCENT}": "H",
    "\N{COMBINING CEDILLA}": "c",
}


def tex(text: str) -> str:
    """Escape text for LaTeX; a letter that pdflatex cannot set is named by its number."""
    line = re.sub(r'(^|[\s(])"', r"\1‟", " ".join(text.split()))  # straight quotes open where a word begins
    pairs = map("".join, zip(line, f"{line} "[1:], strict=True))
    return "".join(f"{pair[0]}{{}}" if pair in _JOINED else _tex_letter(pair[0]) for pair in pairs)


def _tex_letter(letter: str) -> str:
    """Escape one letter as ASCII."""
    if letter in _TEX or (letter.isascii() and letter.isprintable()):
        return _TEX.get(letter, letter)
    base, *accents = list(unicodedata.normalize("NFD", letter))
    if base.isascii() and base.isalpha() and len(accents) == 1 and accents[0] in _ACCENTS:
        return f"\\{_ACCENTS[accents[0]]}{{{base}}}"
    return f"{{[}}U+{ord(letter):04X}]"


def tex_prose(text: str) -> str:
    """Escape a paragraph: a word too long for a line may break after every tenth letter, without a hyphen."""
    words = (
        [word[at : at + 10] for at in range(0, len(word), 10)] if len(word) > 30 else [word] for word in text.split()
    )
    return " ".join("\\allowbreak{}".join(map(tex, parts)) for parts in words)


def tex_stack(lines: Sequence[str], side: str, place: str, marks: str = "") -> str:
    """Short lines over one another in one cell, to a `side` (l, r), the cell's line being the top's or the bottom's.

    `marks` of footnotes stand behind the first line, on which the numbers of a table's line are.
    """
    first, *others = [*map(tex, lines)] or [""]
    stacked = " \\\\ ".join([first + marks, *others])
    return stacked if len(lines) < 2 else f"\\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}{stacked}\\end{{tabular}}"
