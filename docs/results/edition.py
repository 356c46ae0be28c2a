"""An edition of the published results: its studies, its pages, and the generated parts of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd

from ablations.combined_reporting import combined_report
from ablations.reporting import read_report
from ablations.studies.folder import read_study
from reports.agreement_words import agreement_words
from reports.combined_tables import COMBINED
from reports.formats import markdown
from reports.report import Report
from reports.tables import Table
from reports.write import write_report

RESULTS = Path(__file__).parent
HOME = RESULTS.parent.parent


@dataclass(frozen=True)
class Edition:
    """Published studies with the pages about them.

    Attributes:
        folder: Where each study has a folder with `study.yaml` and `results.csv`.
        studies: Names of the studies whose summary, tables and figures are published.
        with_page: Names of those that have an HTML page, too.
        pages: Markdown pages with generated parts.
        blocks: Returns the generated parts by name.
    """

    folder: Path
    studies: tuple[str, ...]
    with_page: tuple[str, ...]
    pages: tuple[Path, ...]
    blocks: Callable[[], dict[str, str]]

    def report(self, name: str) -> Report:
        """Return the report of a published study."""
        return report_of(self.folder / name)

    def make(self) -> None:
        """Make again every summary, table, figure and number."""
        for name in self.studies:
            write_report(self.report(name), self.folder / name, ["markdown", "csv", "latex", "svg"])
        for name in self.with_page:
            write_report(self.report(name), self.folder / name, ["html"])
        blocks = self.blocks()
        for page in self.pages:
            page.write_text(filled(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")


@cache
def report_of(folder: Path) -> Report:
    """Return the report of a published study, or of the studies in a folder, combined."""
    if (folder / "study.yaml").exists():
        return read_report(read_study(folder), folder)
    parts = [path.parent for path in sorted(folder.glob("*/study.yaml"))]
    return combined_report({part.name: (read_study(part), part) for part in parts})


def filled(text: str, blocks: dict[str, str]) -> str:
    """Return a page with the generated blocks between their marks, `<!-- NAME -->` and `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


# ---- parts that both editions have


def study_blocks(report: Report, name: str) -> dict[str, str]:
    """Return the verdicts and the table of a study."""
    table = markdown(main_table(report)).split("\n\n", 1)[1].strip()
    return {f"verdicts-{name}": verdicts(report), f"table-{name}": table}


def verdicts(report: Report) -> str:
    """Return the rows of a study by verdict, and what the study detects."""
    agreement = agreement_of(report)
    lines = [f"- **{group.heading}**: {group.text}." for group in report.summary.groups]
    return "\n".join([*lines, *(f"- {note}" for note in report.summary.notes if note not in agreement)])


def agreement_of(report: Report) -> list[str]:
    """Return the agreement with the paper in words; none of a study that is no roadmap, and of several studies."""
    if main_table(report).name == COMBINED:
        return []
    return agreement_words(report.runs, report.steps) if report.kind == "roadmap" else []


def main_table(report: Report) -> Table:
    """Return the table of a study's comparisons, of a screening study's effects, or of several studies combined."""
    first = report.kind == "screen" or report.tables[0].name == COMBINED
    return replace(report.tables[0 if first else -1], details="")


def cost(reports: list[Report]) -> str:
    """Return how much was trained."""
    runs = pd.concat([report.runs.drop_duplicates("run") for report in reports])
    return (
        f"{len(runs)} runs in {len(reports)} studies, {runs['images_seen'].sum() / 1e6:.1f} million images seen, "
        f"{runs['seconds'].sum() / 3600:.1f} hours of one core."
    )


def work(runs: pd.DataFrame) -> float:
    """Return the MACs of all forward passes in training."""
    return float((runs["macs"] * runs["images_seen"]).sum())


def minus(number: str) -> str:
    """Return a number with a minus sign, not a hyphen."""
    return number.replace("-", "−")
