"""The worlds of balanced splits: which there are, and what each shall give.

Each is compiled at first use, kept beside the first atlas in the user's cache, and checked by its
hash in the same way. ``docs/worlds.md`` says what is asked in each.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from calibadv_env.data.atlas.compiling import Compiled

_WORLDS: Final = (
    Compiled(
        name="atlas-fair",
        description="Real facts in balanced splits: many countries of equal weight, long chains.",
        sha256="c70102fe58843fe93d554e9c61770abac2719926112c5c49b03e51bf00c1cefb",
        corpus_sha256="fdd36a5bdbea647f85e18e292c092f810d7e43447a6493280cc1dbd95befd57c",
        recipe="recipes:compile_fair",
    ),
    Compiled(
        name="atlas-noisy",
        description="atlas-fair with stale and false passages, and 30 % of the queries miss.",
        sha256="d86a0424cecda204097d2cb1acf03b9f5342f2a9284cf2a7878cfa42478250f6",
        corpus_sha256="839c01faee1acbbb4c6bf20ac479bb8f58faac0b04649832cbe1255d3310dd99",
        recipe="recipes:compile_noisy",
        miss_rate=0.3,
    ),
    Compiled(
        name="atlas-homonyms",
        description="Places that share their name with places in other countries.",
        sha256="7ade52caeecef77e77ff943784d15206335ff8c5d3f78ff15cb72441c1a1df05",
        corpus_sha256="de65fb5e1e44db985a2657d1798ece990514cb546e5972af18b5815f3fb5dfdc",
        recipe="homonyms:compile_homonyms",
    ),
    Compiled(
        name="atlas-reworded",
        description="atlas-fair with passages that word relations otherwise than questions.",
        sha256="24b26c81630325167fd3162ca9cdcd849006c19212eddafbec9a276ec08d2f87",
        corpus_sha256="a800dbce8daf7f090376c85fea3762eb9a8694e6d1aed54f4a39c7856d855ce5",
        recipe="rewording:compile_reworded",
    ),
    Compiled(
        name="atlas-long",
        description="Chains of five and six facts; needs max_turns of at least 6.",
        sha256="8a3ee33de61002e31996ecada1fb794f08dfe67e836df64b34311addd50312fc",
        corpus_sha256="fdd36a5bdbea647f85e18e292c092f810d7e43447a6493280cc1dbd95befd57c",
        recipe="recipes:compile_long",
        least_turns=6,
    ),
    Compiled(
        name="atlas-open",
        description="atlas-fair without some passages: some questions have no answer.",
        sha256="5626c8f4d18299784cdeaddc39f22179f7eae61b008386dc4a55a36b9c0df66d",
        corpus_sha256="981696c879356f878856d5b50d5c60e21705b3c36576c2515e42232ee72d4415",
        recipe="recipes:compile_open",
        reward="abstain",
    ),
)

WORLDS: Final[Mapping[str, Compiled]] = MappingProxyType({world.name: world for world in _WORLDS})
"""The worlds of balanced splits by name."""
