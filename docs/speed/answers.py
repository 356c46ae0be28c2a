"""Answers per hour: the time that a study takes from nothing to its verdicts, and where it goes.

An answer is the verdict on one comparison. A study has its answers when it has so many seeds that a true difference of
one percentage point is significant at 5% with 80% power. That number follows from the noise of the study's runs, by the
statistics of the version that is measured, so that their demand for runs counts like the speed of training.

`python docs/speed/answers.py quick` trains one seed of all rows per turn and projects the rest of the study.
`--version before=CHECKOUT --version after=CHECKOUT` measures versions of this package in turns. `--noise FOLDER` takes
the noise from a study with more seeds. `--whole` trains until the study has its answers, as `run --precision` does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from process_memory import Peaks, run_measured
from scipy import stats

ROOT = Path(__file__).parents[2]
POWER, LEVEL, FIRST_LOOK = 0.8, 0.05, 0.9  # of the error rate, see docs/precision.md
PILOT = (0, 1, 2)  # seeds from which `--whole` finds how many it needs


@dataclass(frozen=True)
class Version:
    """A checkout of this package, and the study that it runs."""

    name: str
    checkout: Path
    study: str


@dataclass(frozen=True)
class Spent:
    """Where the time of a command went, in seconds of one worker; together they are the workers times the wall time.

    start        until each worker's first run begins, and after the last run: imports, data, summary
    training     of all runs
    evaluation   of the trained weights, on the test images
    waiting      of workers that have no run left, until the last one ends
    rest         of the runs: building networks, checkpoints, predictions, EMA's evaluation
    processor    processor time of the command and its workers, whatever else the machine does

    `memory` has the peaks of the command's memory.
    """

    jobs: int
    runs: int
    start: float
    training: float
    evaluation: float
    waiting: float
    rest: float
    processor: float
    memory: Peaks

    @property
    def per_seed(self) -> float:
        """What grows with the number of seeds."""
        return self.training + self.evaluation + self.rest

    @property
    def wall(self) -> float:
        return (self.start + self.per_seed + self.waiting) / self.jobs


@dataclass(frozen=True)
class Demand:
    """How many seeds per row the statistics ask for, and with how many at the ends of the noise's 95% CI.

    `sd` is the standard deviation between seeds (in the measure's unit), of `df` degrees of freedom. `significant`
    comparisons are significant by now.
    """

    comparisons: int
    rows: int
    sd: float
    df: int
    seeds: int
    low: int
    high: int
    significant: int


def spent(folder: Path, began: float, ended: float, jobs: int, processor: float, memory: Peaks) -> Spent:
    """Account for the time of a command that trained all runs of a study folder, from the times of its files (s)."""
    places = sorted((folder / "runs").iterdir())
    results = [json.loads((place / "result.json").read_text()) for place in places]
    failed = [str(place) for place, one in zip(places, results, strict=True) if one["status"] != "done"]
    if failed:
        raise SystemExit(f"answers: run {failed[0]} failed, so its time says nothing")
    jobs = min(jobs, len(places))
    begins = sorted((place / "environment.json").stat().st_mtime for place in places)
    ends = sorted((place / "result.json").stat().st_mtime for place in places)
    start = sum(one - began for one in begins[:jobs]) + jobs * (ended - ends[-1])
    training, evaluation = (sum(one[name] for one in results) for name in ("seconds", "evaluation_seconds"))
    waiting = sum(ends[-1] - one for one in ends[-jobs:])
    rest = jobs * (ended - began) - start - training - evaluation - waiting
    return Spent(jobs, len(places), start, training, evaluation, waiting, rest, processor, memory)


def demand(folders: Sequence[Path], difference: float) -> Demand:
    """Compute which number of seeds detects a difference, from the runs of one study in some folders."""
    from ablations.studies.folder import read_study
    from ablations.studies.results import study_runs
    from reports.study_tables import compared_rows, pairs

    study = read_study(folders[0])
    runs = pd.concat([study_runs(read_study(folder), folder) for folder in folders], ignore_index=True)
    compared = compared_rows(runs, study.measure)
    return demand_of(runs, pairs(runs), study.measure, difference, int((compared["p_adjusted"] <= LEVEL).sum()))


def demand_of(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: Any, difference: float, significant: int = 0
) -> Demand:
    """Compute which number of seeds detects a difference with 80% power in a study of one look."""
    import numpy as np

    from reports.statistics.power import MOST_SEEDS, detectable_difference, study_power

    power = study_power(runs, pairs, measure)
    if power is None:
        raise SystemExit("answers: the noise is unknown: it takes two finished seeds; raise --turns or give --noise")
    rows = runs[runs["status"] == "done"].groupby("row", sort=False)["recipe"].agg(["first", "count"])
    places = {row: place for place, row in enumerate(rows.index)}
    compared = np.array([[places[name] for name in pair] for pair in pairs])
    groups = pd.factorize(rows["first"])[0].tolist()
    sd, df = power.difference / power.in_sds, int((rows["count"] - 1).sum())

    def seeds(sd: float) -> int:
        known = int(2 * (sd * errors_detected(len(pairs)) / difference) ** 2)  # if the noise were known: never too many
        counts = range(max(known, 2), MOST_SEEDS + 1)
        enough = (n for n in counts if detectable_difference(n, compared, groups) * sd <= difference)
        if (found := next(enough, None)) is None:
            raise SystemExit(f"answers: {MOST_SEEDS} seeds per row do not detect {difference:g} at a noise of {sd:.2g}")
        return found

    low, high = (sd * float(np.sqrt(df / stats.chi2.ppf(share, df))) for share in (0.975, 0.025))
    return Demand(len(pairs), len(rows), sd, df, seeds(sd), seeds(low), seeds(high), significant)


def errors_detected(comparisons: int) -> float:
    """Return the difference that is detected with 80% power, in known standard errors, by Bonferroni's correction."""
    return float(stats.norm.isf(LEVEL * FIRST_LOOK / comparisons / 2) + stats.norm.ppf(POWER))


def half_width(difference: float, comparisons: int) -> float:
    """Return the half-width of an unadjusted 95% CI at which a difference is detected with 80% power, if normal."""
    return float(difference * stats.norm.isf(0.025) / errors_detected(comparisons))


def command(version: Version, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "ablations", *map(str, arguments)]


def run(version: Version, line: Sequence[str]) -> tuple[str, Peaks]:
    """Run a command of a version; the standard output, and the peaks of its memory."""
    environment = {**os.environ, "PYTHONPATH": str(version.checkout)}
    done, memory = run_measured(line, version.checkout, environment)
    if done.returncode:
        raise SystemExit(f"answers: {version.name}: {' '.join(line[1:])}\n{done.stderr[-2000:]}")
    return done.stdout, memory


def trained(version: Version, folder: Path, jobs: int, *options: object) -> Spent:
    """Run a version's study in a folder."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    _, memory = run(version, command(version, "run", version.study, "--out", folder, "--jobs", jobs, *options))
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent(folder, began, ended, jobs, processor, memory)


def asked(version: Version, folders: Sequence[Path], difference: float) -> Demand:
    """Ask a version's statistics for its demand."""
    line = [sys.executable, __file__, "--difference", str(difference), "--demand", *map(str, folders)]
    return Demand(**json.loads(run(version, line)[0]))


def reporting(version: Version, folder: Path) -> float:
    """Measure how long the table of verdicts takes (s)."""
    began = time.time()
    run(version, command(version, "report", folder, "--format", "table"))
    return time.time() - began


def projected(turns: Sequence[Spent], seeds: int, report: float) -> dict[str, float]:
    """Project a study of so many seeds from turns of one seed each: wall time (s) by what it goes to."""
    jobs = turns[0].jobs

    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in turns) / jobs

    return {
        **{name: seeds * median(name) for name in ("training", "evaluation")},
        **{name: median(name) for name in ("start", "waiting")},
        "report": report,
        "rest": seeds * median("rest"),
    }


def line_of(version: Version, wanted: Demand, times: dict[str, float], turns: Sequence[Spent]) -> dict[str, str]:
    """Describe a version's answers per hour in one line of the table."""
    seconds = sum(times.values())
    per_run = statistics.median(one.processor / one.runs for one in turns)
    return {
        "version": version.name,
        "comparisons": str(wanted.comparisons),
        "sd between seeds": f"{wanted.sd:.2f} ({wanted.df} df)",
        "seeds per row": f"{wanted.seeds} ({wanted.low} to {wanted.high})",
        "runs": str(wanted.seeds * wanted.rows),
        "hours": f"{seconds / 3600:.2f}",
        "answers per hour": f"{3600 * wanted.comparisons / seconds:.1f}",
        **{f"{name} (%)": f"{100 * times[name] / seconds:.1f}" for name in times},
        "processor time per run (s)": f"{per_run:.1f}",
        "all processes, PSS (MB)": peak(turns, "together"),
        "largest worker, PSS (MB)": peak(turns, "worker_pss"),
        "largest worker, RSS (MB)": peak(turns, "worker_rss"),
    }


def peak(turns: Sequence[Spent], name: str) -> str:
    """Write a peak of memory as the median over turns and their range; a dash where it was not measured."""
    found = sorted(value for one in turns if (value := getattr(one.memory, name)) is not None)
    return f"{statistics.median(found):,.0f} ({found[0]:,.0f} to {found[-1]:,.0f})" if found else "–"


def ratio(name: str, first: Sequence[Spent], others: Sequence[Spent]) -> str:
    """Say how much faster one seed of all rows is than in another version, turn by turn."""
    words = []
    for what, value in (("wall time", lambda one: one.wall), ("processor time", lambda one: one.processor)):
        by_turn = sorted(value(one) / value(other) for one, other in zip(first, others, strict=True))
        words.append(f"{statistics.median(by_turn):.2f} ({by_turn[0]:.2f} to {by_turn[-1]:.2f}) by {what}")
    return f"{name}, one seed of all rows: as fast as the first version times {', '.join(words)}"


def table(lines: Sequence[dict[str, str]]) -> str:
    """Format lines as a Markdown table with a column for each line."""
    heads, *columns = [list(lines[0]), *[list(line.values()) for line in lines]]
    rows = [" | ".join(cells) for cells in zip(heads, *columns, strict=True)]
    return "\n".join(f"| {row} |" for row in (rows[0], " | ".join(["---"] * (1 + len(columns))), *rows[1:]))


def in_turns(versions: Sequence[Version], out: Path, wanted: argparse.Namespace) -> dict[str, list[Spent]]:
    """Train one seed per turn with each version, the first one first in every other turn."""
    turns: dict[str, list[Spent]] = {version.name: [] for version in versions}
    for turn in range(wanted.turns):
        for version in versions if turn % 2 == 0 else versions[::-1]:
            turns[version.name].append(trained(version, out / version.name / str(turn), wanted.jobs, "--seeds", turn))
            print(f"{version.name}, turn {turn}: {turns[version.name][-1].wall:.0f} s", file=sys.stderr, flush=True)
    return turns


def projection(versions: Sequence[Version], out: Path, wanted: argparse.Namespace) -> None:
    """Measure in turns, print what each version would need, and write every turn."""
    turns = in_turns(versions, out, wanted)
    if wanted.csv:  # first, as an earlier version may be unable to read a later one's noise
        raw = [{"version": name, **asdict(one), **asdict(one.memory)} for name, found in turns.items() for one in found]
        pd.DataFrame(raw).drop(columns="memory").round(2).to_csv(wanted.csv, index=False)
    lines = []
    for version in versions:
        folders = [out / version.name / str(turn) for turn in range(wanted.turns)]
        needed = asked(version, wanted.noise or folders, wanted.difference)
        times = projected(turns[version.name], needed.seeds, reporting(version, folders[-1]))
        lines.append(line_of(version, needed, times, turns[version.name]))
    print(table(lines))
    for version in versions[1:]:
        print(ratio(version.name, turns[versions[0].name], turns[version.name]))


def whole(versions: Sequence[Version], out: Path, wanted: argparse.Namespace) -> None:
    """Train each version's study until it has its answers, and print what that took."""
    lines = []
    for version in versions:
        folder = out / version.name
        first = "--seeds", ",".join(map(str, PILOT))
        plan = json.loads(run(version, [sys.executable, __file__, "--comparisons", version.study])[0])
        width = half_width(wanted.difference, plan)
        found = trained(version, folder, wanted.jobs, *first, "--precision", f"{width:.3g}", "--max-seeds", 100)
        needed = asked(version, [folder], wanted.difference)
        times = projected([found], 1, reporting(version, folder))
        lines.append(line_of(version, needed, times, [found]) | {"runs": str(found.runs)})
        lines[-1] |= {"significant": f"{needed.significant} of {needed.comparisons}"}
    print(table(lines))


def comparisons(study: str) -> int:
    """Count the comparisons of a study that is not run yet."""
    from ablations.studies.load import load_study

    return sum(len(row.baselines) for row in load_study(study, {}, {}).rows if row.same_as is None)


def read_version(text: str) -> tuple[str, Path]:
    name, _, checkout = text.partition("=")
    if not (Path(checkout) / "ablations").is_dir():
        raise argparse.ArgumentTypeError(f"{text}: write NAME=CHECKOUT, the folder of this package's repository")
    return name, Path(checkout).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="quick", help="shipped study or YAML file [default: quick]")
    parser.add_argument("--version", type=read_version, action="append", default=[], metavar="NAME=CHECKOUT")
    parser.add_argument("--difference", type=float, default=1.0, help="true difference to detect [default: 1]")
    parser.add_argument("--turns", type=int, default=3, help="seeds of all rows per version [default: 3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs in parallel [default: cores]")
    parser.add_argument("--noise", type=Path, action="append", metavar="FOLDER", help="study to take the noise from")
    parser.add_argument("--whole", action="store_true", help="train until the study has its answers")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every turn to FILE")
    parser.add_argument("--demand", type=Path, nargs="+", help=argparse.SUPPRESS)  # asked of a version
    parser.add_argument("--comparisons", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.demand:
        print(json.dumps(asdict(demand(wanted.demand, wanted.difference))))
    elif wanted.comparisons:
        print(comparisons(wanted.comparisons))
    else:
        study = str(Path(wanted.study).resolve()) if Path(wanted.study).suffix == ".yaml" else wanted.study
        wanted.noise = [folder.resolve() for folder in wanted.noise or ()]
        versions = [Version(name, place, study) for name, place in wanted.version or [("this", ROOT)]]
        with tempfile.TemporaryDirectory() as folder:
            (whole if wanted.whole else projection)(versions, Path(folder), wanted)


if __name__ == "__main__":
    main()
