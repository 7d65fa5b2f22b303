"""How a world of balanced splits is compiled, kept and checked."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from calibadv_env.data.atlas import build
from calibadv_env.data.atlas.chains import Chain, Hop
from calibadv_env.data.atlas.lexical import ExactBm25
from calibadv_env.data.atlas.selection import TOP_K, oracle_query
from calibadv_env.data.atlas.sources import read_airports, read_factbook
from calibadv_env.data.atlas.world import AtlasWorld, compile_world
from calibadv_env.data.compiled import Files, jsonl
from calibadv_env.data.names import SPLITS
from calibadv_env.protocol.passages import Passage


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A world with its files.

    Attributes:
        name: Name of the dataset.
        description: One line for people.
        sha256: Hash over all files.
        corpus_sha256: Hash of the passages.
        recipe: Where the function stands that gives the content of the files, ``module:function``
            in this package: whoever finds the files in the cache needs none of it.
        miss_rate: Share of the queries that miss.
        least_turns: Searches that the longest question takes, where that is more than the default
            of the environments.
        reward: Grader that its answers are made for, "" for any metric of strings.
    """

    name: str
    description: str
    sha256: str
    corpus_sha256: str
    recipe: str
    miss_rate: float = 0.0
    least_turns: int = 0
    reward: str = ""

    @property
    def folder(self) -> Path:
        """Where the files are kept."""
        return build.folder_of(self.name, self.sha256)

    def compile(self) -> Files:
        """The content of ``build.FILES``, compiled from the two data packages."""
        recipe: Callable[[], Files] = pkgutil.resolve_name(f"calibadv_env.data.atlas.{self.recipe}")
        return recipe()

    def files(self) -> Files:
        """The content of ``build.FILES``: from the cache if it is sound, else compiled and cached.

        Raises:
            DataError: as :func:`calibadv_env.data.atlas.build.load_files`.
        """
        return build.load_compiled(self.name, self.sha256, self.folder, self.compile)


class Searches:
    """Tells if the searches of a perfect searcher find the hops of chains.

    Args:
        passages: The corpus.
        query: The query for a hop.
    """

    def __init__(
        self, passages: Sequence[Passage], query: Callable[[Hop], str] = oracle_query
    ) -> None:
        self._passages = passages
        self._query = query
        self._found: dict[tuple[str, tuple[str, ...]], bool] = {}

    @cached_property
    def _search(self) -> ExactBm25:
        return ExactBm25(self._passages)

    def find(self, chain: Chain) -> bool:
        """True if each hop's query has a gold passage of it among the first few."""
        return all(map(self._finds, chain))

    def _finds(self, hop: Hop) -> bool:
        key = (self._query(hop), hop.gold)
        if key not in self._found:
            self._found[key] = self._search.is_within(*key, TOP_K)
        return self._found[key]


def base_world() -> AtlasWorld:
    """The world of the data packages, with the codes of airports."""
    from calibadv_env.data.atlas.codes import with_codes

    rows = read_airports()
    return with_codes(compile_world(read_factbook(), rows), rows)


def files_of(
    world: AtlasWorld,
    records: Mapping[str, Iterable[Mapping[str, object]]],
    passages: Sequence[Passage] | None = None,
) -> Files:
    """The files of a world.

    Args:
        world: Its facts, and its passages unless others are given.
        records: The tasks of each split.
        passages: The corpus, where it is not that of the world.
    """
    corpus = world.passages if passages is None else passages
    return {
        "corpus.jsonl": jsonl({"id": p.id, "title": p.title, "text": p.text} for p in corpus),
        "facts.jsonl": jsonl(map(asdict, world.facts)),
        **{f"tasks-{split}.jsonl": jsonl(records[split]) for split in SPLITS},
    }
