"""Better-known spellings of names that the World Factbook writes in its own way.

They count as answers beside the Factbook's; passages keep the Factbook's. The
table is tables/aliases.csv.
"""

from __future__ import annotations

from functools import cache

from calibadv_env.data.atlas.sources import names_in, read_table


@cache
def _spellings() -> dict[tuple[str, str], tuple[str, ...]]:
    return {
        (row["relation"], row["name"]): names_in(row["aliases"]) for row in read_table("aliases")
    }


def spellings_of(relation: str, name: str) -> tuple[str, ...]:
    """Further spellings of a name, () if there are none."""
    return _spellings().get((relation, name), ())
