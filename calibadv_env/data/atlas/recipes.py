"""Recipes of the worlds on balanced splits: what is asked, and what the corpus holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from calibadv_env.data.atlas.balanced import (
    Chosen,
    Quota,
    balanced_records,
    balanced_splits,
    choose_balanced,
)
from calibadv_env.data.atlas.compiling import Searches, base_world, files_of
from calibadv_env.data.atlas.selection import stable_hash
from calibadv_env.data.atlas.walks import all_walks
from calibadv_env.data.atlas.world import SENTENCES, AtlasFact, AtlasWorld, capitalised, phrase
from calibadv_env.data.compiled import Files
from calibadv_env.data.names import SPLITS
from calibadv_env.protocol.passages import Passage

UNKNOWN: Final = ("unknown", "not known", "I do not know")
"""Accepted answers to a question that the corpus does not answer."""

_LONG: Final = Quota(per_cluster={5: 6, 6: 6}, per_kind=2, per_start=4, start_share=1.0)
_LONG_TRAINED: Final = Quota(per_cluster={5: 60, 6: 60}, per_kind=20, per_start=6, start_share=1.0)

_STALE_SHARES: Final[Mapping[str, int]] = MappingProxyType({"country": 60})
_HEARSAY_SHARES: Final[Mapping[str, int]] = MappingProxyType({"country": 40})
_OTHER_STALE: Final = 25
_OTHER_HEARSAY: Final = 15
_STALE: Final = 'An almanac of {year} says: "{sentence}"'
_HEARSAY: Final = 'A traveller wrote home: "{sentence}"'
_FIRST_YEAR: Final = 1890
_NUM_YEARS: Final = 50
_REMOVED_PERCENT: Final = 12


def compile_fair() -> Files:
    """The files of ``atlas-fair``."""
    world = base_world()
    return files_of(world, balanced_records(_fair_chains(world, world.passages), "fair"))


def compile_long() -> Files:
    """The files of ``atlas-long``: chains of five and six hops over the passages of atlas-fair."""
    world = base_world()
    chains = (chain for chain in all_walks(world) if len(chain) > 4)
    find = Searches(world.passages).find
    quotas = {"train": _LONG_TRAINED, "dev": _LONG, "test": _LONG}
    chosen = choose_balanced(chains, balanced_splits(world), find, quotas)
    return files_of(world, balanced_records(chosen, "long"))


def compile_noisy() -> Files:
    """The files of ``atlas-noisy``: stale and contradicting passages beside the true ones."""
    world = base_world()
    passages = (*world.passages, *_false_passages(world))
    chosen = _fair_chains(world, passages)
    return files_of(world, balanced_records(chosen, "noisy"), passages)


def compile_open() -> Files:
    """The files of ``atlas-open``: some passages are gone, and with them some answers."""
    world = base_world()
    chosen = _fair_chains(world, world.passages)
    passages = [passage for passage in world.passages if not is_removed(passage.id)]
    records = balanced_records(chosen, "open")
    opened = {split: [_opened(record) for record in records[split]] for split in SPLITS}
    return files_of(world, opened, passages)


def is_removed(passage_id: str) -> bool:
    """True for a passage that ``atlas-open`` lacks."""
    return stable_hash("removed", passage_id) % 100 < _REMOVED_PERCENT


def _fair_chains(world: AtlasWorld, passages: Sequence[Passage]) -> list[Chosen]:
    chains = (chain for chain in all_walks(world) if len(chain) <= 4)
    return choose_balanced(chains, balanced_splits(world), Searches(passages).find)


def _opened(record: Mapping[str, Any]) -> dict[str, Any]:
    """A task as it stands where passages are gone: at the first hop that is lost, nobody knows on.

    Its gold passages and its chain end before that hop.
    """
    golds = [[gold for gold in hop if not is_removed(gold)] for hop in record["gold_passages"]]
    known = next((place for place, hop in enumerate(golds) if not hop), None)
    if known is None:
        metadata = {**record["metadata"], "is_answerable": True}
        return {**record, "gold_passages": golds, "metadata": metadata}
    metadata = {
        **record["metadata"],
        "chain": record["metadata"]["chain"][:known],
        "is_answerable": False,
    }
    return {
        **record,
        "golden_answers": list(UNKNOWN),
        "gold_passages": golds[:known],
        "metadata": metadata,
    }


def _false_passages(world: AtlasWorld) -> Iterator[Passage]:
    """What old almanacs and travellers say: sentences of the same form, with a wrong value."""
    for fact in world.facts:
        if fact.relation == "land neighbors":
            continue
        for salt, shares, other in (
            ("stale", _STALE_SHARES, _OTHER_STALE),
            ("hearsay", _HEARSAY_SHARES, _OTHER_HEARSAY),
        ):
            chance = stable_hash(salt, fact.passage_id) % 100
            if chance < shares.get(fact.subject_kind, other):
                yield Passage(f"{fact.passage_id}:{salt}", fact.subject, _claim(world, fact, salt))


def _claim(world: AtlasWorld, fact: AtlasFact, salt: str) -> str:
    """A wrong statement and who made it."""
    draw = stable_hash(f"{salt} value", fact.passage_id)
    names = world.names_by_kind[fact.object_kind]
    wrong = names[draw % len(names)]
    if wrong in (fact.object, fact.subject, *fact.object_aliases):
        wrong = names[(draw + 1) % len(names)]
    subject = phrase(fact.subject) if fact.subject_kind == "country" else fact.subject
    frame = SENTENCES[fact.subject_kind, fact.relation]
    sentence = capitalised(frame.format(subject=subject, object=phrase(wrong)))
    year = _FIRST_YEAR + stable_hash("year", fact.passage_id) % _NUM_YEARS
    template = _STALE if salt == "stale" else _HEARSAY
    return template.format(year=year, sentence=sentence)
