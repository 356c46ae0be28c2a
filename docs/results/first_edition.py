"""The first edition of the results: its studies, and the generated parts of its pages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from edition import RESULTS, Edition, agreement_of, cost, main_table, minus, report_of, study_blocks, work

from modernize.roadmap import roadmap
from reports.report import Report
from reports.statistics import Correlation, rank_correlation

FOLDER = RESULTS / "first-edition"
PROTOCOL = ("roadmap", "one-in", "one-out", "screen", "sweep", "recipes", "confirmation")
STUDIES = (*PROTOCOL, "paper-recipe", "torchvision-recipe")
OWN_RATES = "own learning rates"
RATES = ("8-fast", "9-slow", "1-third-epoch")  # settings of the search that differ in the learning rate alone


def blocks() -> dict[str, str]:
    """Return every generated part of the pages, by name."""
    reports = {name: report_of(FOLDER / name) for name in STUDIES}
    search = list(searched())
    parts = {name: part for study, report in reports.items() for name, part in study_blocks(report, study).items()}
    del parts["verdicts-screen"]
    return {
        **parts,
        "learning-rate": learning_rate(report_of(FOLDER / "learning-rate")),
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


def screened(screen: Report, one_in: Report) -> str:
    """How many flags are significant in a screening study, and beside it in one-in."""

    def significant(report: Report) -> str:
        verdicts = main_table(report).frame["verdict"]
        tested = int(verdicts.notna().sum() - (verdicts == "").sum())
        return f"{int(verdicts.isin(['better', 'worse']).sum())} of {tested} flags from {len(report.runs)} runs"

    return f"Significant: {significant(screen)}; one-in: {significant(one_in)}."


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
    for folder in sorted((FOLDER / "search").iterdir()):
        report = report_of(folder)
        yield Setting(folder.name, work(report.runs), agreement(report))
    rates = [report_of(FOLDER / "search" / name).runs.set_index("row") for name in RATES]
    best = pd.concat([runs["top1"] for runs in rates], axis=1).max(axis=1)
    yield Setting(OWN_RATES, sum(map(work, rates)), own_rates(best))


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
    report = report_of(FOLDER / "confirmation")
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


EDITION = Edition(FOLDER, STUDIES, ("roadmap",), (FOLDER / "README.md",), blocks)
