"""``report.html``: one self-contained page with tables, curves and a browser of trajectories."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import markupsafe

from calibadv_algo.report.assessment import summary_sentences
from calibadv_algo.report.attached import CREDIT_LINK, credit_table
from calibadv_algo.report.curves import arm_colours, make_panels
from calibadv_algo.report.group_pages import GROUPS_FOLDER, GroupPages
from calibadv_algo.report.groups import select_groups
from calibadv_algo.report.reading import Comparison, read_comparison
from calibadv_algo.report.result import result_sentences
from calibadv_algo.report.summary import summarise, without_nan
from calibadv_algo.report.tables import html_table
from calibadv_algo.report.template import render_template
from calibadv_algo.report.verdict_tables import all_tables, opening_sentences, statements
from calibadv_env.common.files import atomic_file, new_folder

REPORT_FILE: Final[str] = "report.html"


def _flatten(value: Any, name: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            pair
            for key, item in value.items()
            for pair in _flatten(item, f"{name}.{key}" if name else str(key))
        ]
    text = value if isinstance(value, str) else json.dumps(without_nan(value), default=str)
    return [(name, text)]


def settings_rows(comparison: Comparison) -> list[tuple[str, str]]:
    """Names and values of what was run, for the settings box; nested names are joined by dots."""
    rows = [
        ("arms", ", ".join(comparison.arms)),
        ("seeds", ", ".join(str(seed) for seed in comparison.seeds)),
    ]
    if not math.isnan(comparison.wall_time_s):
        minutes, seconds = divmod(round(comparison.wall_time_s), 60)
        rows.append(("wall time", f"{minutes} min {seconds} s"))
    if comparison.git_commit:
        rows.append(("git commit", comparison.git_commit))
    if comparison.data_sha256:
        rows += _flatten(comparison.data_sha256, "data sha256")
    if comparison.warm_start:
        rows += _flatten(comparison.warm_start, "warm start")
    for arm in comparison.arms:
        if arm in comparison.arm_descriptions:
            rows.append((f"arm {arm}", comparison.arm_descriptions[arm]))
        for name, value in comparison.arm_changes.get(arm, {}).items():
            rows += _flatten(value, f"{arm}: {name}")
    return rows + _flatten(comparison.config, "")


def title_of(comparison: Comparison) -> str:
    """What was compared, in words."""
    arms = comparison.arms
    return " against ".join(arms) if len(arms) == 2 else ", ".join(arms)


def render_page(
    comparison: Comparison, *, max_groups: int = 40, pages: GroupPages | None = None
) -> str:
    """The whole document, with at most ``max_groups`` groups (at least 1) to browse.

    It loads nothing, and its content security policy lets no script run but its own.

    Args:
        comparison: What was compared.
        max_groups: Most groups of the page itself.
        pages: Writes the pages of all groups that this one links to; None for none.

    Raises:
        ReportError: if a file of the comparison cannot be read.
    """
    on_update = None if pages is None else pages.add
    groups, tally, methods = select_groups(comparison, max_groups=max_groups, on_update=on_update)
    summary = summarise(comparison)
    panels = make_panels(comparison)
    colours = arm_colours(comparison.arms, comparison.baseline)
    credit = credit_table(comparison.directory)
    headline, *others = [markupsafe.Markup(html_table(table)) for table in all_tables(summary)]
    return render_template(
        "report.html",
        groups,
        panels,
        colours,
        methods.labels,
        title=title_of(comparison),
        group_links={} if pages is None else pages.links,
        statements=statements(summary),
        headline_table=headline,
        other_tables=others,
        credit_table=markupsafe.Markup(html_table(credit)) if credit else "",
        credit_link=CREDIT_LINK,
        sentences=[
            *opening_sentences(summary)[:1],
            *result_sentences(summary),
            *summary_sentences(tally, methods.labels),
        ],
        methods=methods,
        tally=tally,
        settings=settings_rows(comparison),
    )


def write_report(comparison_dir: Path | str, *, max_groups: int = 40) -> Path:
    """Writes the page of :func:`render_page` into a comparison directory; returns its path.

    The pages of all groups go into the folder `report_groups` beside it.

    Raises:
        ReportError: if the directory is incomplete or a file cannot be read.
    """
    comparison = read_comparison(comparison_dir)
    path = comparison.directory / REPORT_FILE
    with new_folder(comparison.directory / GROUPS_FOLDER) as folder:
        pages = GroupPages(folder, title_of(comparison))
        text = render_page(comparison, max_groups=max_groups, pages=pages)
    with atomic_file(path, "wb") as stream:
        # Policies write halves of surrogate pairs, which UTF-8 cannot.
        stream.write(text.encode("utf-8", "replace"))
    return path
