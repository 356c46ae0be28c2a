"""A report's figures as elements of a page: unique ids, and marks that can be focused and have labels."""

from __future__ import annotations

import re
from html import escape
from typing import Any

import pandas as pd
from markupsafe import Markup

from reports.numbers import fixed
from reports.report import Plot
from reports.statistics import MEASURES
from reports.statuses import shown

_NAMES = {
    "top1_mean": "top-1 (%)",
    "top1_sd": "± sd",
    "sd": "± sd",
    "macs": "MACs",
    "params": "parameters",
    "low": "95% CI from",
    "high": "to",
    "marks": "marked",
    "p_adjusted": "adjusted p",
    "recall_mean": "recall (%)",
    "recall_sd": "± sd",
    "share_mean": "share (%)",
    "share_sd": "± sd",
    "test_images": "images",
    "predicted": "predicted as",
}
_DESCRIBED: tuple[str, ...] = (
    "status",
    "top1_mean",
    "mean",
    "top1_sd",
    "sd",
    "seeds",
    "change",
    "difference",
    "effect",
    "low",
    "high",
    "p_adjusted",
)
_DESCRIBED += ("verdict", "marks", "macs", "params", "activations", "paper_top1", "paper_change")
_DESCRIBED += ("class", "predicted", "recall_mean", "recall_sd", "share_mean", "share_sd", "test_images")
_DESCRIBED += ("worth", "se", "in_paper_order", "min", "max")


def inline(plot: Plot) -> Markup:
    """Return a plot's SVG for a page, with labeled marks."""
    svg = plot.svg.decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<title>.*?</title>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would be the whole page's; page.css has it
    svg = re.sub(r' d="[^"]*"', _rounded, svg)
    svg = re.sub(r'\bid="', f'id="{plot.name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{plot.name}-", svg)
    wide = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert wide
    svg = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="0 0 {wide[1]} {wide[2]}" width="{wide[1]}pt" style="--wide:{wide[1]}px">',
        svg,
        count=1,
    )
    return Markup(re.sub(rf'<g id="{plot.name}-mark-(\d+)-\d+"', lambda match: _mark(plot, match), svg))


def _rounded(path: re.Match[str]) -> str:
    """Round a path to hundredths of a point."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])


def _mark(plot: Plot, match: re.Match[str]) -> str:
    """Return the opening of a mark's element, with its label."""
    row = plot.frame.loc[int(match[1])].get("row")
    named = f' data-row="{escape(row)}"' if isinstance(row, str) else ""
    label = escape(described(plot, int(match[1])))
    return f'{match[0]} class="mark" tabindex="-1" role="img" aria-label="{label}"{named}'


def described(plot: Plot, place: int) -> str:
    """Describe a line of a plot's frame: its label and known numbers; for a log, each seed's last line."""
    line = {str(name): value for name, value in plot.frame.loc[place].items()}
    if {"images", "loss"} <= set(line):
        own = plot.frame[plot.frame["row"] == line["row"]].drop_duplicates("seed", keep="last")
        seeds = [
            f"seed {seed} after {images:,.0f} images: loss {fixed(loss, 3)}, top-1 {fixed(top1, 2)}%"
            for seed, images, loss, top1 in own[["seed", "images", "loss", "top1"]].itertuples(index=False, name=None)
        ]
        return f"{line['label']}: {'; '.join(seeds)}"
    names = {**_NAMES, "mean": MEASURES[plot.measure].value, **plot.words}
    numbers = [
        f"{names.get(name, name)} {_formatted(name, line[name], plot)}" for name in _DESCRIBED if _there(line.get(name))
    ]
    named = [line[name] for name in ("label", "flag") if name in line][:1] or [
        f"{name} {value}" for name, value in line.items() if name not in _DESCRIBED
    ]
    return f"{', '.join(map(str, named))}: {', '.join(numbers)}"


def _there(value: Any) -> bool:
    return bool(pd.notna(value)) and value not in ("", "done")


def _formatted(name: str, value: Any, plot: Plot) -> str:
    """Format a number as in the tables."""
    if isinstance(value, str):
        return shown(value)
    number = float(value)
    if name in ("macs", "params", "activations", "seeds", "test_images"):
        return f"{number:,.0f}"
    return fixed(number, 3 if name == "p_adjusted" else MEASURES[plot.measure].digits)
