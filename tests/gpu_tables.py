"""Print what the steps of tests/gpu.sh took, and how fast its studies trained: `python tests/gpu_tables.py FOLDER`."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any


def results(folder: Path) -> list[dict[str, Any]]:
    """Return the results of the finished runs of a study, or of a single run."""
    found = [json.loads(path.read_text()) for path in (*folder.glob("runs/*/result.json"), *folder.glob("result.json"))]
    return [one for one in found if one["status"] == "done"]


STUDIES = {
    **{f"the pocket study, {count} per GPU": f"per-gpu-{count}" for count in (1, 2, 4, 8)},
    "paper_enhanced on generated pictures, decoded": "paper_enhanced",
}


def speed(title: str, runs: list[dict[str, Any]], seconds: int) -> str:
    """Describe finished runs: images/s of all of them while the command ran, and of one while it trained."""
    together, alone = "–", "–"
    if runs:
        together = f"{sum(one['images_seen'] for one in runs) / max(seconds, 1):,.0f}"
        alone = f"{statistics.median(one['images_per_second'] for one in runs):,.0f}"
    return f"{title:<48}{len(runs):>6}{seconds:>14}{together:>22}{alone:>22}"


def main(folder: str) -> None:
    """Print two tables."""
    lines = [line.split("\t") for line in (Path(folder) / "steps.tsv").read_text().splitlines()]
    print(f"\n{'trained':<48}{'runs':>6}{'command (s)':>14}{'all runs (images/s)':>22}{'one run (images/s)':>22}")
    for _, seconds, _, title in lines:
        if title in STUDIES:
            print(speed(title, results(Path(folder) / STUDIES[title]), int(seconds)))
    print(f"\n{'step':<52}{'took (s)':>10}  ended")
    for _, seconds, status, title in lines:
        print(f"{title:<52}{seconds:>10}  {'fine' if status == '0' else f'status {status}'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
