"""``report.html``: one self-contained page with tables, curves and a browser of trajectories."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2
import markupsafe

from calibadv_algo.report.curves import Panel, arm_colours, make_panels
from calibadv_algo.report.groups import GroupView, PassageView, Tally, TurnView, select_groups
from calibadv_algo.report.reading import Comparison, read_comparison
from calibadv_algo.report.summary import summarise, without_nan
from calibadv_algo.report.tables import all_tables, html_table

REPORT_FILE: Final[str] = "report.html"
FULL_COLOUR: Final[float] = 2.0
"""Advantages of this size and beyond have the full colour."""


def embed_json(value: Any) -> markupsafe.Markup:
    """Writes JSON that may stand inside a ``script`` element.

    Everything outside ASCII and the characters ``<``, ``>`` and ``&`` are written as escapes,
    so the text can neither close the element nor open a comment, and U+2028 and U+2029, which
    old parsers take for line ends, do not occur.

    Args:
        value: Anything that ``json`` can write; NaN and infinities become null.

    Returns:
        Text that ``JSON.parse`` reads back.
    """
    text = json.dumps(without_nan(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)


def content_hash(text: str) -> str:
    """Names an inline script or style in a content security policy.

    Args:
        text: Exactly what stands between the tags.

    Returns:
        ``sha256-`` and the digest in base 64.
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def summary_sentences(tally: Tally) -> list[str]:
    """Says how many correct searches GRPO punishes, and what CalibAdv does about it.

    Args:
        tally: Counts over all recorded groups.

    Returns:
        The headline sentence and, where there is more to say, a second one.
    """
    if tally.num_groups == 0:
        return ["No trajectories were recorded."]
    if tally.num_correct == 0:
        return [
            f"None of the {tally.num_searches:,} searches in {tally.num_trajectories:,} recorded "
            "trajectories could be shown to be correct."
        ]
    first = (
        f"GRPO punishes {tally.num_punished:,} of {tally.num_correct:,} correct searches "
        f"({_share(tally.num_punished, tally.num_correct)}), because their trajectory ended worse "
        "than its group on average."
    )
    if tally.num_punished == 0:
        return [first]
    verdicts = tally.verdicts
    second = (
        f"CalibAdv takes the whole penalty from {verdicts['spared']:,} of them and a part of it "
        f"from {verdicts['eased']:,}; {verdicts['punished']:,} keep theirs. It leaves "
        f"{_share(tally.calibadv_penalty, tally.grpo_penalty)} of the penalty in all."
    )
    return [first, second]


class _Passages:
    """Stores every passage text once; turns refer to it by number."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str, str | None]] = []
        self._numbers: dict[tuple[str, str, str | None], int] = {}

    def number(self, passage: PassageView) -> int:
        key = (passage.id, passage.title, passage.text)
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append(key)
        return self._numbers[key]


def _turn_data(turn: TurnView, store: _Passages) -> dict[str, Any]:
    data = asdict(turn)
    data["passages"] = [
        [store.number(passage), passage.is_gold, passage.is_silver] for passage in turn.passages
    ]
    data["grpo"] = round(turn.grpo, 4)
    data["calibadv"] = round(turn.calibadv, 4)
    return data


def _group_data(group: GroupView, store: _Passages) -> dict[str, Any]:
    data = asdict(group)
    for shown, trajectory in zip(data["trajectories"], group.trajectories, strict=True):
        shown["turns"] = [_turn_data(turn, store) for turn in trajectory.turns]
    return data


def page_data(
    groups: Sequence[GroupView], panels: Sequence[Panel], colours: Mapping[str, str]
) -> dict[str, Any]:
    """Collects what the page's script draws.

    Args:
        groups: The groups to browse.
        panels: The plots.
        colours: Colour by arm.

    Returns:
        Plain lists and dictionaries.
    """
    store = _Passages()
    data = [_group_data(group, store) for group in groups]
    return {
        "groups": data,
        "passages": store.texts,
        "panels": [asdict(panel) for panel in panels],
        "colours": dict(colours),
        "fullColour": FULL_COLOUR,
    }


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
    """Lists what was run, for the settings box.

    Args:
        comparison: The comparison.

    Returns:
        Name and value, nested names joined by dots.
    """
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
    return rows + _flatten(comparison.config, "")


def _asset(name: str) -> str:
    return resources.files("calibadv_algo.report").joinpath("assets", name).read_text("utf-8")


def render_page(comparison: Comparison, *, max_groups: int = 40) -> str:
    """Renders the page.

    Args:
        comparison: The comparison.
        max_groups: Most groups in the browser of trajectories, at least 1.

    Returns:
        The whole document. It loads nothing, and its content security policy lets no script
        run but its own.

    Raises:
        ReportError: if a file of the comparison cannot be read.
    """
    groups, tally = select_groups(comparison, max_groups=max_groups)
    summary = summarise(comparison)
    panels = make_panels(comparison)
    colours = arm_colours(comparison.arms, comparison.baseline)
    script, style = _asset("report.js"), _asset("report.css")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    headline, *others = [markupsafe.Markup(html_table(table)) for table in all_tables(summary)]
    return environment.from_string(_asset("report.html")).render(
        title=" against ".join(comparison.arms[:2])
        if len(comparison.arms) == 2
        else ", ".join(comparison.arms),
        script=markupsafe.Markup(script),
        style=markupsafe.Markup(style),
        script_hash=content_hash(script),
        style_hash=content_hash(style),
        headline_table=headline,
        other_tables=others,
        sentences=summary_sentences(tally),
        tally=tally,
        num_groups=len(groups),
        full_colour=FULL_COLOUR,
        settings=settings_rows(comparison),
        num_panels=len(panels),
        data=embed_json(page_data(groups, panels, colours)),
    )


def write_report(comparison_dir: Path | str, *, max_groups: int = 40) -> Path:
    """Writes ``report.html`` into a comparison directory.

    Args:
        comparison_dir: The comparison directory.
        max_groups: Most groups in the browser of trajectories, at least 1.

    Returns:
        The path of the page.

    Raises:
        ReportError: if the directory is incomplete or a file cannot be read.
    """
    comparison = read_comparison(comparison_dir)
    path = comparison.directory / REPORT_FILE
    text = render_page(comparison, max_groups=max_groups)
    path.write_bytes(text.encode("utf-8", "replace"))
    return path
