"""Pages of one HTML file that loads nothing, with a browser of trajectories in them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Final

import jinja2
import markupsafe

from calibadv_algo.report.curves import Panel
from calibadv_algo.report.groups import GroupView, PassageView, TurnView
from calibadv_algo.report.methods import GRPO_AND_CALIBADV
from calibadv_algo.report.summary import without_nan

FULL_COLOUR: Final[float] = 2.0
"""Advantages of this size and beyond have the full colour."""


def embed_json(value: Any) -> markupsafe.Markup:
    """JSON that may stand inside a ``script`` element; ``JSON.parse`` reads it back.

    Everything outside ASCII and the characters ``<``, ``>`` and ``&`` are written as escapes,
    so the text can neither close the element nor open a comment, and U+2028 and U+2029, which
    old parsers take for line ends, do not occur. NaN and infinities become null.
    """
    text = json.dumps(without_nan(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markupsafe.Markup(text)


def content_hash(text: str) -> str:
    """Name, in a content security policy, of an inline script or style with exactly this text.

    It is ``sha256-`` and the digest in base 64.
    """
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


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
    data["reference"] = round(turn.reference, 4)
    data["other"] = round(turn.other, 4)
    return data


def _group_data(group: GroupView, store: _Passages) -> dict[str, Any]:
    data = asdict(group)
    for shown, trajectory in zip(data["trajectories"], group.trajectories, strict=True):
        shown["turns"] = [_turn_data(turn, store) for turn in trajectory.turns]
    return data


def page_data(
    groups: Sequence[GroupView],
    panels: Sequence[Panel],
    colours: Mapping[str, str],
    labels: tuple[str, str],
) -> dict[str, Any]:
    """Plain lists and dictionaries that the page's script draws."""
    store = _Passages()
    data = [_group_data(group, store) for group in groups]
    return {
        "groups": data,
        "passages": store.texts,
        "panels": [asdict(panel) for panel in panels],
        "colours": dict(colours),
        "methods": labels,
        "fullColour": FULL_COLOUR,
    }


@dataclass(frozen=True, slots=True)
class LivePage:
    """A page that is loaded again while runs go on.

    Attributes:
        refresh_s: Seconds after which it is loaded again.
        written_at: When it was written, in seconds since 1970.
    """

    refresh_s: float
    written_at: float


def render_template(
    name: str,
    groups: Sequence[GroupView],
    panels: Sequence[Panel],
    colours: Mapping[str, str],
    labels: tuple[str, str] = GRPO_AND_CALIBADV.labels,
    *,
    live: LivePage | None = None,
    **values: Any,
) -> str:
    """The whole document, with groups to browse and plots.

    It loads nothing, and its content security policy lets no script run but its own.

    Args:
        name: File of the template in ``assets``; it extends ``base.html``.
        groups: The groups to browse.
        panels: The plots.
        colours: Colour by arm.
        labels: The two methods whose advantages are shown.
        live: Set for a page that is loaded again; None for one that stays as it is.
        **values: Other values of the template; text is escaped.
    """
    data = page_data(groups, panels, colours, labels)
    if live is not None:
        data["live"] = {"refreshS": live.refresh_s, "writtenAt": live.written_at}
    script, style = _asset("report.js") + _asset("downloads.js"), _asset("report.css")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(name).render(
        script=markupsafe.Markup(script),
        style=markupsafe.Markup(style),
        script_hash=content_hash(script),
        style_hash=content_hash(style),
        num_groups=len(groups),
        full_labels=labels,
        full_colour=FULL_COLOUR,
        data=embed_json(data),
        **values,
    )


def _asset(name: str) -> str:
    return resources.files("calibadv_algo.report").joinpath("assets", name).read_text("utf-8")
