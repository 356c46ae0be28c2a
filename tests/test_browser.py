"""The page in a browser: switches, sorting, links, the keyboard, and nothing asked of the network."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import chromium
from made_up import made_up_study
from playwright.sync_api import Browser, Page

import modernize
from ablations.reporting import read_report
from reports.page import page as page_of
from reports.page.tables import page_tables
from reports.report import Report
from reports.write import write_file

NAMES = [flag.name for flag in modernize.FLAGS]
NASTY = "<script>alert(1)</script>"


@dataclass
class Visit:
    """A page that is open, and what went wrong on it: messages of the console, errors, and requests that it made."""

    page: Page
    troubles: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A roadmap of three seeds with a name that is markup; one run failed, one row has not begun."""
    folder = tmp_path_factory.mktemp("study")

    def outcome(run: Any) -> dict[str, Any] | None:
        if run.name == "kernel-9-s1":
            return {"status": "failed", "reason": f"the loss is nan {NASTY}"}
        return None if run.row == "kernel-11" else {}

    study = made_up_study(folder, outcome=outcome).model_copy(update={"name": NASTY})
    return read_report(study, folder)


@pytest.fixture(scope="module")
def address(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_file(tmp_path_factory.mktemp("page") / "index.html", page_of(report).encode()).as_uri()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Visit]]:
    """Opens the page; afterwards nothing may have gone wrong on any page that was opened."""
    visits = []

    def opened(fragment: str = "", width: int = 1280, scheme: Any = "light") -> Visit:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        one = Visit(page)
        visits.append(one)
        page.on("console", lambda message: one.troubles.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: one.troubles.append(f"error: {error}"))
        page.on("dialog", lambda dialog: one.troubles.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: one.troubles.append(asked.url) if _leaves(asked.url, address) else None)
        page.goto(address + fragment)
        return one

    yield opened
    for one in visits:
        one.page.close()
    assert [trouble for one in visits for trouble in one.troubles] == []


def _leaves(url: str, address: str) -> bool:
    return url.partition("#")[0] != address and not url.startswith("data:")


def choose(page: Page, name: str, value: str) -> None:
    """Sets a flag as a user does."""
    control = page.locator(f"[data-flag='{NAMES.index(name)}']")
    if value in ("on", "off") and control.get_attribute("type") == "checkbox":
        control.set_checked(value == "on")
    elif control.is_enabled():
        control.select_option(label=value)


def shown(page: Page, name: str) -> str:
    return page.locator(f"#{name}").inner_text()


def flags_of(page: Page) -> dict[str, list[str]]:
    """The flags of the explorer and the values that each can take."""
    return page.evaluate("Object.fromEntries(data.flags.map((flag) => [flag.name, flag.values]))")


def test_flipping_switches_changes_the_numbers_to_what_count_gives(visit: Callable[..., Visit]) -> None:
    page = visit().page
    flags, chance = flags_of(page), random.Random(5)
    assert list(flags) == NAMES
    chosen: dict[str, str] = {}
    for _ in range(30):
        before, chosen = chosen, {name: chance.choice(values) for name, values in flags.items()}
        for name, value in chosen.items():
            if value != before.get(name):
                choose(page, name, value)
        cost = modernize.count(modernize.Design().with_flags(chosen), 32, 1, 10)
        assert shown(page, "params") == f"{cost.params:,}"
        assert shown(page, "macs") == f"{cost.macs:,}"
        boxes = page.locator("#parts .layer").all_text_contents()
        assert any(f"{chosen['kernel_size']}×{chosen['kernel_size']}" in box for box in boxes)
        assert {"relu": "ReLU", "gelu": "GELU"}[chosen["activation"]] in "".join(boxes)


def test_a_row_of_the_roadmap_has_its_name_cost_and_accuracy(visit: Callable[..., Visit], report: Report) -> None:
    page = visit().page
    page.select_option("#start", label="ReLU to GELU")
    runs = report.runs[report.runs["row"] == "gelu"]
    assert shown(page, "nearest") == "ReLU to GELU: exact match"
    assert f"{runs['top1'].mean():.2f} ± {runs['top1'].std():.2f}" in shown(page, "measured")
    assert shown(page, "params") == f"{int(runs['params'].iloc[0]):,}"
    assert modernize.design(shown(page, "name")) == modernize.roadmap("pocket").row("gelu").design
    choose(page, "norm", "ln")
    assert shown(page, "nearest") == "ReLU to GELU; 1 flag differs: norm ln, there bn"
    assert shown(page, "measured") == "no runs of this design"


def test_a_link_restores_the_flags(visit: Callable[..., Visit]) -> None:
    page = visit().page
    for name, value in {"kernel_size": "9", "depthwise": "on", "norm": "ln", "width": "18"}.items():
        choose(page, name, value)
    fragment = page.evaluate("location.hash")
    assert "kernel_size%3D9" in fragment
    other = visit(fragment).page
    assert [shown(other, name) for name in ("params", "name", "nearest")] == [
        shown(page, name) for name in ("params", "name", "nearest")
    ]
    wrong = visit("#flags=kernel_size%3D4,nonsense,width%3D%3Cscript%3E,norm%3Dln").page
    assert "norm=ln" in shown(wrong, "name") and "kernel_size" not in shown(wrong, "name")
    assert shown(wrong, "unknown").endswith("unknown on this page: kernel_size=4, nonsense, width=<script>")
    malformed = visit("#flags=%E0%A4%A,norm%3Dln").page
    assert "norm=ln" in shown(malformed, "name") and "%E0%A4%A" in shown(malformed, "unknown")
    choose(malformed, "norm", "bn")
    assert malformed.locator("#unknown").is_hidden() and other.locator("#unknown").is_hidden()


def test_a_click_on_a_heading_sorts_by_its_numbers(visit: Callable[..., Visit], report: Report) -> None:
    page = visit().page
    table = page.locator("table[data-name=roadmap]")
    (shown_table, *_) = page_tables(report.tables)
    place = [column.name for column in shown_table.table.columns].index("top1_mean")
    original = table.locator("tbody tr").all_inner_texts()
    head = table.locator("thead tr").last.locator("th").nth(place)
    means = report.tables[0].frame["top1_mean"].round(2).dropna()
    for order, expected in (("ascending", sorted(means)), ("descending", sorted(means, reverse=True))):
        head.locator("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == order
        cells = table.locator(f"tbody tr > :nth-child({place + 1})").all_inner_texts()
        assert [float(cell.split(" ")[0]) for cell in cells[: len(means)]] == expected  # what has none stays last
        assert cells[-1] == "pending"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert table.locator("tbody tr").all_inner_texts() == original


def test_marks_tell_their_numbers_under_the_pointer_and_by_keyboard(visit: Callable[..., Visit]) -> None:
    page = visit().page
    marks = page.locator("#figure-tradeoff .mark")
    marks.nth(2).hover(force=True)
    said = marks.nth(2).get_attribute("aria-label")
    assert said and page.locator("#tip").inner_text() == said
    marks.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() == marks.nth(1).get_attribute("aria-label")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_it_works_by_keyboard(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.locator("#start").focus()
    seen = []
    many = page.locator("[data-flag]:enabled").count()  # all flags but those that have one value only
    for _ in range(many):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("Number(document.activeElement.dataset.flag)"))
    assert seen == sorted(seen) and len(set(seen)) == many == len(NAMES) - 1
    before = shown(page, "params")
    page.locator("[data-flag='4']").focus()
    page.keyboard.press("Space")
    assert shown(page, "params") != before


def test_a_click_on_a_row_shows_its_configuration_and_the_curves_of_each_run(
    visit: Callable[..., Visit], report: Report
) -> None:
    page = visit("#flags=norm%3Dln").page
    page.locator("table[data-name=roadmap] a.row", has_text="ReLU to GELU").focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    dialog.wait_for(state="visible")
    assert page.locator("#row-title").inner_text() == "ReLU to GELU"
    changed = page.locator("#row-changed tbody tr").all_inner_texts()
    assert changed == ["activation\tgelu\trelu"]
    for seed in (2, 0):
        page.locator("#row-runs button", has_text=f"seed {seed}").click()
        runs = report.runs[(report.runs["row"] == "gelu") & (report.runs["seed"] == seed)]
        assert f"top-1 {runs['top1'].iloc[0]:.2f}%" in page.locator("#row-run").inner_text()
        log = report.curves[(report.curves["row"] == "gelu") & (report.curves["seed"] == seed)].iloc[-1]
        said = page.locator("#row-curves svg").first.get_attribute("aria-label")
        assert said == f"Training loss of seed {seed}: {round(log['loss'], 3):g} after {log['images']:,.0f} images"
        assert page.locator("#row-curves .chosen").count() == 2 and page.locator("#row-curves .curve").count() == 6
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.wait_for_function("location.hash === '#flags=norm%3Dln'")


def test_a_link_to_a_row_opens_it_and_leads_to_its_design(visit: Callable[..., Visit]) -> None:
    page = visit("#row=kernel-9").page
    assert page.locator("#row-title").inner_text() == "kernel size 9"
    page.locator("#row-runs button", has_text="seed 1").click()
    assert NASTY in page.locator("#row-run").inner_text()
    page.locator("#row-explorer a").click()
    page.wait_for_function("!document.querySelector('dialog').open")
    assert shown(page, "nearest") == "kernel size 9: exact match"
    page.evaluate("location.hash = '#row=kernel-11'")
    page.wait_for_function("document.querySelector('dialog').open")
    assert "no logs" in page.locator("#row-curves").inner_text()
    for nothing in ("#row=nonsense", "#row=%E0%A4%A", "#row=constructor"):
        assert visit(nothing).page.locator("dialog").is_hidden()


def test_marks_of_a_figure_show_their_row(visit: Callable[..., Visit]) -> None:
    page = visit().page
    mark = page.locator("#figure-steps .broad .mark[data-row=gelu]")
    mark.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('dialog').open")
    assert page.locator("#row-title").inner_text() == "ReLU to GELU"


def test_columns_can_be_switched_by_keyboard(visit: Callable[..., Visit]) -> None:
    page = visit().page
    table = page.locator("table[data-name=roadmap]")
    assert table.locator("th.cost").first.is_hidden() and table.locator("td.difference").first.is_visible()
    page.locator(".columns input[value=cost]").first.focus()
    page.keyboard.press("Space")
    assert table.locator("th.cost").first.is_visible() and table.locator("td.cost").first.is_visible()
    page.locator(".columns input[value=difference]").first.focus()
    page.keyboard.press("Space")
    assert table.locator("td.difference").first.is_hidden() and table.locator("th.difference").last.is_hidden()


def test_top1_stays_in_sight_on_a_phone(visit: Callable[..., Visit]) -> None:
    page = visit(width=390).page
    box = page.locator(".scroll:has(table[data-name=roadmap])")
    box.evaluate("box => { box.scrollLeft = 1000 }")
    inside = box.bounding_box()
    for part in ("th", "td"):
        cell = box.locator("tbody tr").nth(3).locator(part).first.bounding_box()
        assert (
            inside and cell and inside["x"] <= cell["x"] and cell["x"] + cell["width"] <= inside["x"] + inside["width"]
        )
    assert box.evaluate("box => box.scrollLeft") > 100
    assert cell["x"] >= box.locator("tbody th").nth(3).bounding_box()["x"] + 100  # type: ignore[index]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_summarys_figure_can_be_read_without_scrolling(visit: Callable[..., Visit], width: int) -> None:
    page = visit(width=width).page
    shown = page.locator("#figure-steps svg:visible")
    scale = shown.evaluate("svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width")
    smallest = (7.5, 7.5 * 8 / 9)[width == 390]  # in the figure's units: footnotes of text of 9, and of 8
    assert smallest * scale >= (11, 9.9)[width == 390]
    assert shown.evaluate("svg => svg.parentElement.scrollWidth <= svg.parentElement.clientWidth")


def test_the_verdict_stands_under_the_label_on_a_phone(visit: Callable[..., Visit], report: Report) -> None:
    shown = "th => getComputedStyle(th, '::after').content"
    steps = next(table for table in report.tables if table.name == "steps")
    verdict, label = steps.frame.set_index("row").loc["gelu", ["verdict", "label"]]
    for width, there in ((390, True), (1280, False)):
        cell = visit(width=width).page.locator(f"table[data-name=roadmap] tbody th:has-text('{label}')").first
        assert (str(verdict) in cell.evaluate(shown)) == there


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_scrolls_sideways_but_boxes(visit: Callable[..., Visit], width: int) -> None:
    page = visit(width=width).page
    page.select_option("#start", label="kernel size 11")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    table = page.locator(".scroll:has(table[data-name=roadmap])")
    assert (table.evaluate("box => box.scrollWidth > box.clientWidth")) == (width == 390)


def test_a_study_named_as_markup_is_shown_as_text(visit: Callable[..., Visit]) -> None:
    page = visit().page
    assert page.locator("h1").inner_text() == NASTY == page.title()
    assert NASTY in page.locator("table[data-name=unfinished]").inner_text()
    assert page.evaluate("document.scripts.length") == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_fault(visit: Callable[..., Visit], width: int, scheme: str) -> None:
    one = visit(width=width, scheme=scheme)
    one.page.locator("a.row").nth(1).click() if width == 390 else None
    found = Axe().run(one.page).response["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], [node["target"] for node in fault["nodes"]][:3]) for fault in serious] == []


def test_it_prints_without_controls(visit: Callable[..., Visit], tmp_path: Path) -> None:
    page = visit().page
    page.emulate_media(media="print")
    assert page.locator(".columns").first.is_hidden()
    assert page.locator(".flags").is_hidden() and page.locator("nav").is_hidden()
    assert page.locator("#parts svg").first.is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20


def test_what_cannot_be_built_is_refused_with_the_reason(report: Report, browser: Browser, tmp_path: Path) -> None:
    flags = {**report.designs["gelu"], "stem_stride": 16, "depths": "1-1-1-1-1-1-1-1"}
    odd = replace(report, designs={**report.designs, "gelu": flags}, runs=report.runs.assign(params=None, macs=None))
    page = browser.new_page()
    page.goto(write_file(tmp_path / "index.html", page_of(odd).encode()).as_uri())
    for name, value in {"depths": flags["depths"], "stem_stride": "16", "separate_downsampling": "on"}.items():
        choose(page, name, value)
    assert "image_size=32 is too small for stem_stride=16 and 8 stages" in shown(page, "refused")
    assert shown(page, "params") == shown(page, "macs") == "–"
    choose(page, "separate_downsampling", "off")
    choose(page, "stem", "resnet")
    assert page.locator("#refused").is_hidden() and shown(page, "macs") != "–"
    page.close()
