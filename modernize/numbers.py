"""Numbers as YAML 1.2 writes them; files, options and the names of designs and recipes are all read by these rules.

YAML 1.1 and Python read some other spellings too, and not as the same number: 010 is 8 or 10, 1:30 is 90. None of these
is a number here.
"""

from __future__ import annotations

import re

INTEGER = re.compile(r"(?:[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+)\Z")
FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_DOUBTFUL = re.compile(r"[-+]?(?:0[bB])?[\d_]*[\d][\d_:.]*(?:[eE][-+]?[\d_]+)?|[-+]0[xo]\w+|0[XO]\w+", re.UNICODE)


def parse_number(text: str) -> int | float:
    """Read a number; raises ValueError with the reason, to be put after `must be …` or the text."""
    if len(text) > 400:
        raise ValueError("must be a number of at most 400 characters")
    if INTEGER.match(text):
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    if FLOAT.match(text):
        return float(re.sub(r"\.(?=[iInN])", "", text))
    if is_doubtful(text):
        raise ValueError("must be written as a plain decimal number, without leading zeros, underscores or colons")
    raise ValueError("must be a number")


def is_doubtful(text: str) -> bool:
    """Whether a text is a number for some readers, but none of YAML 1.2's, such as 010, 1_000, 1:30 or other digits."""
    return not (INTEGER.match(text) or FLOAT.match(text)) and bool(_DOUBTFUL.fullmatch(text.strip()))
