"""The sovereign states of the atlas: the 193 members of the United Nations and three more.

The table, tables/states.csv, is ours. It joins the two data packages, which name states by
different codes, and fixes the names that passages use. Kosovo, Taiwan and Vatican City are the
three that are no members.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from calibadv_env.data.atlas.sources import names_in, read_table


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A sovereign state.

    Attributes:
        code: ISO 3166 alpha-2 code (XK for Kosovo).
        factbook_code: Name of its file in the World Factbook.
        name: As it stands in passages, without an article.
        phrase: The name as it stands inside a sentence, "the" included where it is usual.
        aliases: Further names that count as answers.
    """

    code: str
    factbook_code: str
    name: str
    phrase: str
    aliases: tuple[str, ...]


@cache
def sovereign_states() -> tuple[State, ...]:
    """All states, sorted by ISO code."""
    states = [
        State(
            code=row["code"],
            factbook_code=row["factbook_code"],
            name=row["name"],
            phrase=f"{row['article']} {row['name']}".strip(),
            aliases=names_in(row["aliases"]),
        )
        for row in read_table("states")
    ]
    return tuple(sorted(states, key=lambda state: state.code))


@cache
def states_by_code() -> dict[str, State]:
    """The states by ISO code."""
    return {state.code: state for state in sovereign_states()}


@cache
def states_by_name() -> dict[str, State]:
    """The states by every name they go by, in lower case and without a leading "the"."""
    return {
        name.lower(): state for state in sovereign_states() for name in (state.name, *state.aliases)
    }


def find_state(name: str) -> State | None:
    """Looks a state up by any of its names, with or without "the"; None if it is none."""
    return states_by_name().get(name.lower().removeprefix("the ").strip())
