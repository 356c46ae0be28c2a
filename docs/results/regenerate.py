"""Make again, from the published `study.yaml` and `results.csv` files, every table, figure and number of these pages.

python docs/results/regenerate.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ablations.reporting import read_report
from ablations.studies.folder import read_study
from modernize.roadmap import roadmap
from reports.agreement_words import agreement_words
from reports.formats import markdown
from reports.report import Report
from reports.statistics import Correlation, rank_correlation
from reports.tables import Table
from reports.write import write_report

RESULTS = Path(__file__).parent
HOME = RESULTS.parent.parent
PAGES = (HOME / "README.md", RESULTS / "README.md")
PROTOCOL = ("roadmap", "one-in", "one-out", "screen", "sweep", "recipes", "confirmation")
MAIN = (*PROTOCOL, "paper-recipe", "torchvision-recipe")
OWN_RATES = "own learning rates"
RATES = ("8-fast", "9-slow", "1-third-epoch")  # settings of the search that differ in the learning rate alone


def main() -> None:
    for name in MAIN:
        write_report(report_of(name), RESULTS / name, ["markdown", "csv", "latex", "svg"])
    write_report(report_of("roadmap"), RESULTS / "roadmap", ["html"])
    generated = blocks()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), generated), encoding="utf-8")


def report_of(name: str) -> Report:
    """The report of a published study."""
    return read_report(read_study(RESULTS / name), RESULTS / name)


def filled(text: str, blocks: dict[str, str]) -> str:
    """A page with the generated blocks between their marks, `<!-- NAME -->` and `<!-- end -->`."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{blocks[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def blocks() -> dict[str, str]:
    """Every generated part of the pages, by name."""
    reports = {name: report_of(name) for name in MAIN}
    search = list(searched())
    return {
        "learning-rate": learning_rate(report_of("learning-rate")),
        **{f"verdicts-{name}": verdicts(report) for name, report in reports.items() if name != "screen"},
        **{f"table-{name}": markdown(main_table(reports[name])).split("\n\n", 1)[1].strip() for name in MAIN},
        "screen": screened(reports["screen"], reports["one-in"]),
        "agreement": " ".join(agreement_of(reports["roadmap"])),
        "search": search_table(search),
        "confirmation": confirmation(search),
        "cost": cost([reports[name] for name in PROTOCOL]),
    }


# ---- the results of a study


def learning_rate(report: Report) -> str:
    """The rates tried, and the one that the rule chooses."""
    rows = report.tables[-1].frame.to_dict("records")
    rates = {row["label"].partition("=")[2]: row for row in rows}
    tried = [f"{rate}: {row['mean']:.2f} ± {row['sd']:.2f}" for rate, row in rates.items()]
    best = max(rates, key=lambda rate: rates[rate]["mean"])
    return f"Top-1 on the validation split, mean ± standard deviation: {'; '.join(tried)}. Chosen: **{best}**."


def verdicts(report: Report) -> str:
    """The rows of a study by verdict, and what the study detects."""
    lines = [f"- **{group.heading}**: {group.text}." for group in report.summary.groups]
    return "\n".join([*lines, *(f"- {note}" for note in report.summary.notes if note not in agreement_of(report))])


def agreement_of(report: Report) -> list[str]:
    """The agreement with the paper in words; of a study that is no roadmap none."""
    return agreement_words(report.runs, report.steps) if report.kind == "roadmap" else []


def main_table(report: Report) -> Table:
    """The table of a study's comparisons, or of a screening study's effects."""
    return replace(report.tables[0 if report.kind == "screen" else -1], details="")


def screened(screen: Report, one_in: Report) -> str:
    """How many flags are significant in a screening study, and beside it in one-in."""

    def significant(report: Report) -> str:
        verdicts = main_table(report).frame["verdict"]
        tested = int(verdicts.notna().sum() - (verdicts == "").sum())
        return f"{int(verdicts.isin(['better', 'worse']).sum())} of {tested} flags from {len(report.runs)} runs"

    return f"Significant: {significant(screen)}; one-in: {significant(one_in)}."


def minus(number: str) -> str:
    return number.replace("-", "−")


def agreement(report: Report) -> Correlation:
    """Spearman's rank correlation of the changes of adopted steps here and in the paper."""
    steps = next(plot for plot in report.plots if plot.name == "against-paper").frame
    adopted = steps[steps["adopted"]]
    return rank_correlation(adopted["change"], adopted["paper_change"])


def described(correlation: Correlation) -> str:
    """A rank correlation in words."""
    rho, low, high = (minus(f"{value:+.2f}") for value in (correlation.rho, correlation.low, correlation.high))
    return f"rank correlation {rho}, 95% CI {low} to {high}, over {correlation.n} adopted steps"


# ---- the search for a setting that agrees with the paper


@dataclass(frozen=True)
class Setting:
    """A setting of the search: the MACs of its forward passes, and how well it agrees with the paper."""

    name: str
    work: float
    agreement: Correlation


def searched() -> Iterator[Setting]:
    """The settings in order; last, for each row the best of three learning rates."""
    for folder in sorted((RESULTS / "search").iterdir()):
        report = report_of(f"search/{folder.name}")
        yield Setting(folder.name, work(report.runs), agreement(report))
    rates = [report_of(f"search/{name}").runs.set_index("row") for name in RATES]
    best = pd.concat([runs["top1"] for runs in rates], axis=1).max(axis=1)
    yield Setting(OWN_RATES, sum(map(work, rates)), own_rates(best))


def work(runs: pd.DataFrame) -> float:
    """The MACs of all forward passes in training."""
    return float((runs["macs"] * runs["images_seen"]).sum())


def own_rates(top1: pd.Series[float]) -> Correlation:
    """The agreement of accuracies by row."""
    steps = roadmap("pocket")
    pairs = [(steps.before(row), row) for row in steps.rows if row.adopted]
    ours = [top1[row.name] - top1[before.name] for before, row in pairs if before]
    papers = [round(row.printed.top1 - before.printed.top1, 2) for before, row in pairs if before]
    return rank_correlation(ours, papers)


def search_table(search: list[Setting]) -> str:
    """The settings tried, the closest to the paper first."""
    heads = ("setting", "training cost (T MACs, forward)", "rank correlation", "95% CI")
    lines = [f"| {' | '.join(heads)} |", "| :--- | ---: | ---: | ---: |"]
    for setting in sorted(search, key=lambda setting: -setting.agreement.rho):
        correlation = setting.agreement
        rho, low, high = (minus(f"{value:+.2f}") for value in (correlation.rho, correlation.low, correlation.high))
        lines.append(f"| {setting.name} | {setting.work / 1e12:.2f} | {rho} | {low} to {high} |")
    return "\n".join(lines)


def confirmation(search: list[Setting]) -> str:
    """What became of the best setting with fresh seeds on the test split."""
    best = max((one for one in search if one.name != OWN_RATES), key=lambda one: one.agreement.rho).name
    report = report_of("confirmation")
    correlation = agreement(report)
    if correlation.low > 0:
        verdict = "The interval lies above 0, which is agreement by the rule fixed beforehand, and a low bar"
    else:
        verdict = "By the rule fixed beforehand that is no agreement: the interval does not lie above 0"
    seeds = ", ".join(map(str, sorted(report.runs["seed"].unique())))
    return (
        f"{len(search)} settings were tried. The closest that can be run as it is, `{best}`, was run again on the test "
        f"split with the seeds {seeds}: {described(correlation)}. {verdict}. {agreement_of(report)[1]}"
    )


def cost(reports: list[Report]) -> str:
    """How much was trained."""
    runs = pd.concat([report.runs.drop_duplicates("run") for report in reports])
    return (
        f"{len(runs)} runs in {len(reports)} studies, {runs['images_seen'].sum() / 1e6:.1f} million images seen, "
        f"{runs['seconds'].sum() / 3600:.1f} hours of one core."
    )


if __name__ == "__main__":
    main()
