"""Pictures of a report in light and in dark, for the documentation.

    calibadv compare --output-dir runs/compare
    python -m benchmarks.report_pictures runs/compare

Writes ``report-light.png`` and ``report-dark.png`` (one group, turn by turn), the first also as it
is on a phone.
Needs Chromium and the extra ``dev``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import sync_playwright

ARGUMENTS: Final = ("--no-sandbox", "--disable-gpu", "--no-first-run")
SIZES: Final = {"light": {"": (1180, 900), "-phone": (390, 844)}, "dark": {"": (1180, 900)}}


def shot(browser: Any, report: Path, scheme: str, size: tuple[int, int], output: Path) -> None:
    """One picture: the browser of trajectories at the group with most punished searches."""
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(report.absolute().as_uri())
    page.locator("#viewer .question").evaluate(
        "element => element.scrollIntoView({ behavior: 'instant' })"
    )
    page.wait_for_timeout(300)
    page.screenshot(path=output)
    page.close()


def main() -> None:
    """Takes all pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("comparison", type=Path, help="folder of a comparison")
    parser.add_argument("--output", type=Path, default=Path("docs"))
    arguments = parser.parse_args()
    report = arguments.comparison / "report.html"
    arguments.output.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        path = shutil.which("chromium") or "/usr/bin/chromium"
        browser = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        for scheme in SIZES:
            for name, size in SIZES[scheme].items():
                output = arguments.output / f"report-{scheme}{name}.png"
                shot(browser, report, scheme, size, output)
                print(f"wrote {output}: {output.stat().st_size / 1e3:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
