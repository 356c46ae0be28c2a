"""The second edition of the results: its studies, and the generated parts of its page."""

from __future__ import annotations

import search
from edition import RESULTS, Edition, agreement_of, cost, report_of, study_blocks

# Studies whose folders beside this file hold study.yaml and results.csv; each has the blocks verdicts-NAME and
# table-NAME, a roadmap agreement-NAME, too.
STUDIES: tuple[str, ...] = ()


def blocks() -> dict[str, str]:
    """Return every generated part of the page, by name."""
    reports = {name: report_of(RESULTS / name) for name in STUDIES}
    parts = search.blocks()
    for name, report in reports.items():
        parts |= study_blocks(report, name)
        if report.kind == "roadmap":
            parts[f"agreement-{name}"] = " ".join(agreement_of(report))
    return {**parts, "cost": cost(list(reports.values()))} if reports else parts


PAGED = tuple(name for name in STUDIES if name == "roadmap")
EDITION = Edition(RESULTS, STUDIES, PAGED, (RESULTS / "README.md",), blocks)
