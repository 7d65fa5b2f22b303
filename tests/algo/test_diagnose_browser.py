"""Opens the page of a diagnosis in headless Chromium."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from calibadv_algo.cli.diagnose import Diagnose

playwright = pytest.importorskip("playwright.sync_api")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


logged = load("logged")
report_browser = load("test_report_browser")
browser = report_browser.browser

pytestmark = pytest.mark.skipif(
    not Path(report_browser.CHROMIUM).exists() and not os.environ.get("CI"),
    reason="no Chromium: install Debian's package chromium (with CI set this fails instead)",
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("diagnosis")
    rows = [logged.search_r1(each) for each in logged.play()]
    for row in rows:
        row["output"] = row["output"].replace("perhaps", report_browser.HOSTILE)
    log = logged.write_lines(place / "run" / "1.jsonl", rows)
    Diagnose(traces=(log,), output=place / "page.html").run()
    return place / "page.html"


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    opened = report_browser.Opened(browser, page_file)
    yield opened
    assert opened.problems == []
    assert opened.requests == [page_file.as_uri()]
    opened.page.close()


def test_counts_curves_and_trajectories_are_there(opened: Any) -> None:
    page = opened.page
    assert page.locator("h1").inner_text() == "run"
    assert "GRPO punishes" in page.locator(".lead").inner_text()
    rows = page.locator("#results tbody tr")
    assert [rows.nth(i).locator("th").inner_text() for i in range(3)] == ["run", "run", "all"]
    assert page.locator("#panels svg").count() == 2
    assert page.locator("#group option").count() == 6
    assert page.locator("details.trajectory").count() == 4
    assert page.evaluate("window.owned") is None
    assert not page.locator("#seed").is_visible()


def test_a_punished_correct_search_is_shown_as_spared(opened: Any) -> None:
    page = opened.page
    page.locator("#only").check()
    turn = page.locator(".turn", has_text="spared by CalibAdv").first
    assert turn.locator('[data-method="GRPO"] strong').inner_text().startswith("−")
    assert "correct search: silver" in turn.inner_text()
    assert turn.locator(".passage .title").count() >= 1


def test_it_fits_a_telephone(browser: Any, page_file: Path) -> None:
    opened = report_browser.Opened(browser, page_file, width=390)
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    opened.page.close()
    assert width <= 390
