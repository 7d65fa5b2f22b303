"""Opens the page in a real browser: headless Chromium with Playwright."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calibadv_algo.report import live
from calibadv_algo.report.live import write_live
from calibadv_algo.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = (
    "</script><script>window.owned=1</script><img src=x onerror='window.owned=1'>"
    "<svg onload='window.owned=1'>\u2028\"'&amp;"
)

pytestmark = pytest.mark.skipif(
    not Path(CHROMIUM).exists() and not os.environ.get("CI"),
    reason="no Chromium: install Debian's package chromium (with CI set this fails instead)",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(
    tmp_path_factory: pytest.TempPathFactory,
    build_comparison: Callable[[Path, Any], Path],
    comparison_plan: Any,
) -> Path:
    place = tmp_path_factory.mktemp("report")
    return write_report(build_comparison(place, comparison_plan()))


class Opened:
    """A page with everything that went wrong on it."""

    def __init__(self, browser: Any, path: Path, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def colour(self, method: str, turn: int = 0) -> str:
        """Background of an advantage in the trajectory that is open."""
        cells = self.page.locator(f'details.trajectory[open] [data-method="{method}"]')
        return str(cells.nth(turn).evaluate("cell => getComputedStyle(cell).backgroundColor"))


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    opened = Opened(browser, report)
    yield opened
    assert opened.problems == []
    assert opened.requests == [report.as_uri()]
    opened.page.close()


def test_table_and_curves_are_there(opened: Opened) -> None:
    assert "calibadv − grpo" in opened.page.locator("#results table").first.inner_text()
    table = opened.page.locator("#results table", has_text="warm start").first
    assert table.locator("tbody tr").first.locator("th").inner_text() == "warm start"
    assert opened.page.locator("#panels svg").count() == 7
    assert opened.page.locator("#panels svg path").count() >= 6 * 6
    assert "NaN" not in opened.page.locator("#panels").inner_html()


def test_a_curve_tells_its_values_to_mouse_and_keyboard(opened: Opened) -> None:
    chart = opened.page.locator("#panels svg").first
    readout = opened.page.locator("#panels .readout").first
    chart.focus()
    assert readout.inner_text().startswith("update 8: grpo 0.")
    chart.press("ArrowLeft")
    assert readout.inner_text().startswith("update 6: ")
    chart.hover(position={"x": 45, "y": 50})
    assert readout.inner_text().startswith("update 0: ")
    opened.page.locator("#panels svg").last.focus()
    profile = opened.page.locator("#panels .readout").last.inner_text()
    assert profile.startswith("F1 ")
    assert "calibadv 0.000" in profile


def test_choosing_a_trajectory_colours_its_turns(opened: Opened) -> None:
    page = opened.page
    page.locator("#arm").select_option("calibadv")
    page.locator("#only").check()
    assert page.locator("details.trajectory[open]").count() == 1
    spared = page.locator(".turn", has_text="spared by CalibAdv").first
    grpo = spared.locator('[data-method="GRPO"]')
    assert grpo.locator("strong").inner_text().startswith("−")
    background = grpo.evaluate("cell => getComputedStyle(cell).backgroundColor")
    assert background.startswith("rgba(201, 84, 30")
    calibadv = spared.locator('[data-method="CalibAdv"]')
    assert calibadv.locator("strong").inner_text() == "0.00"
    assert calibadv.evaluate("cell => getComputedStyle(cell).backgroundColor") == "rgba(0, 0, 0, 0)"
    rewarded = page.locator(".overview tr", has_text="1.00").first
    rewarded.get_by_role("button").click()
    number = rewarded.get_by_role("button").inner_text().split()[-1]
    card = page.locator(f"#trajectory-{number}")
    assert card.get_attribute("open") is not None
    blue = card.locator('[data-method="GRPO"]').first
    assert blue.evaluate("cell => getComputedStyle(cell).backgroundColor").startswith(
        "rgba(33, 102, 172"
    )


def test_the_filter_leaves_groups_with_mispenalized_searches(opened: Opened) -> None:
    page = opened.page
    before = page.locator("#group option").all_inner_texts()
    page.locator("#only").check()
    after = page.locator("#group option").all_inner_texts()
    assert 0 < len(after) < len(before)
    assert any("none mis-penalised" in text for text in before)
    assert not any("none mis-penalised" in text for text in after)
    assert page.locator("#count").inner_text() == f"{len(after)} of {len(before)} groups"


def test_selectors_narrow_each_other(opened: Opened) -> None:
    page = opened.page
    page.locator("#arm").select_option("grpo")
    page.locator("#seed").select_option("1")
    page.locator("#update").select_option("7")
    texts = page.locator("#group option").all_inner_texts()
    assert texts
    assert all(text.startswith("grpo, seed 1, update 7 ·") for text in texts)
    assert page.locator(".question .facts").inner_text().count("grpo") == 1


def test_the_page_works_by_keyboard_alone(opened: Opened) -> None:
    page = opened.page
    page.locator("#group").select_option("0")
    first = page.locator(".question h3").inner_text()
    page.locator("#next").focus()
    page.keyboard.press("Enter")
    assert page.locator("#group").input_value() == "1"
    assert page.locator(".question h3").inner_text() != first
    closed = page.locator("details.trajectory:not([open]) > summary").first
    closed.focus()
    number = page.locator("details.trajectory[open]").count()
    page.keyboard.press("Enter")
    assert page.locator("details.trajectory[open]").count() == number + 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('select, input, button, svg[tabindex]')]"
        ".filter(e => !(e.labels && e.labels.length) && !e.textContent.trim()"
        " && !e.getAttribute('aria-label')).length"
    )
    assert unnamed == 0


def test_nothing_overflows_a_narrow_window(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, width=400)
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width == 400
    assert opened.problems == []
    opened.page.close()


def test_hostile_text_is_shown_and_not_run(
    browser: Any,
    tmp_path: Path,
    build_comparison: Callable[[Path, Any], Path],
    comparison_plan: Any,
) -> None:
    path = write_report(build_comparison(tmp_path, comparison_plan(hostile=HOSTILE, num_updates=2)))
    opened = Opened(browser, path)
    for index in range(opened.page.locator("#group option").count()):
        opened.page.locator("#group").select_option(index=index)
    opened.page.locator("details:not([open]) > summary").first.click()
    opened.page.wait_for_timeout(100)
    assert opened.page.evaluate("window.owned") is None
    assert opened.page.locator("img").count() == 0
    assert "<img src=x onerror=" in opened.page.locator(".question h3").inner_text()
    assert "</script><script>" in opened.page.locator(".field.query .text").first.inner_text()
    assert opened.problems == []
    assert opened.requests == [path.as_uri()]
    opened.page.close()


def test_text_is_found_and_the_address_leads_back(opened: Opened, report: Path) -> None:
    page = opened.page
    everything = page.locator("#group option").count()
    page.locator("#find").fill("no such words anywhere")
    assert page.locator("#group option").count() == 0
    page.locator("#find").fill("")
    assert page.locator("#group option").count() == everything
    page.locator("#arm").select_option("calibadv")
    page.locator("#seed").select_option("1")
    page.locator("#next").click()
    question = page.locator(".question .facts").inner_text()
    address = page.evaluate("location.hash")
    assert "arm=calibadv" in address
    other = page.context.browser.new_page()
    other.goto(report.as_uri() + address)
    assert other.locator("#arm").input_value() == "calibadv"
    assert other.locator(".question .facts").inner_text() == question
    other.close()


def test_the_first_table_can_be_downloaded(opened: Opened) -> None:
    page = opened.page
    texts = {}
    for label in ("CSV", "JSON", "LaTeX"):
        with page.expect_download() as waited:
            page.locator(".downloads").first.get_by_role("button", name=label).click()
        texts[label] = Path(waited.value.path()).read_text(encoding="utf-8")
    rows = json.loads(texts["JSON"])
    names = [next(iter(row.values())) for row in rows]
    assert names == ["calibadv − grpo"]
    assert [line.partition(",")[0] for line in texts["CSV"].splitlines()][1:] == names
    assert texts["LaTeX"].startswith("\\begin{tabular}{lr")
    assert texts["LaTeX"].count(r"\\") == len(rows) + 1


def test_a_page_of_all_groups_opens_from_the_report_and_leads_back(
    browser: Any, report: Path
) -> None:
    opened = Opened(browser, report)
    page = opened.page
    page.locator("#all-groups summary").first.click()
    page.locator("#all-groups .updates a").first.click()
    page.wait_for_url("**/report_groups/**")
    assert page.locator("#viewer details.trajectory").count() > 0
    page.locator("nav a").first.click()
    page.wait_for_url("**/report.html")
    assert opened.problems == []


def test_a_page_of_running_runs_loads_itself_again_until_they_end(
    browser: Any,
    tmp_path: Path,
    build_comparison: Callable[[Path, Any], Path],
    comparison_plan: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "REFRESH_S", 1.0)
    folder = build_comparison(tmp_path, comparison_plan())
    for damaged in folder.glob("runs/*/evals.jsonl"):
        damaged.unlink()  # what runs that just began do not have
    path = write_live(folder, ("run", "update"), [("grpo-seed0", "1/8")])
    opened = Opened(browser, path)
    page = opened.page
    assert page.locator("#results td").first.inner_text() == "1/8"
    assert page.locator("#panels svg").count() >= 5
    write_live(folder, ("run", "update"), [("grpo-seed0", "2/8")])
    page.locator("#results td", has_text="2/8").wait_for(timeout=8000)
    write_live(folder, ("run", "update"), [("grpo-seed0", "8/8")], is_over=True)
    page.locator("#live", has_text="These runs ended").wait_for(timeout=8000)
    loads = len(opened.requests)
    page.wait_for_timeout(2500)
    assert len(opened.requests) == loads
    assert opened.problems == []


def test_a_page_whose_writer_died_is_not_loaded_for_ever(
    browser: Any,
    tmp_path: Path,
    build_comparison: Callable[[Path, Any], Path],
    comparison_plan: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "REFRESH_S", 0.01)
    folder = build_comparison(tmp_path, comparison_plan(num_updates=2))
    path = write_live(folder, ("run", "update"), [("grpo-seed0", "1/8")])
    page = Opened(browser, path).page
    page.locator("#live", has_text="Nothing was written for a long time").wait_for(timeout=8000)
