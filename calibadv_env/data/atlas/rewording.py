"""``atlas-reworded``: passages that say a relation in other words than the questions do.

The questions are those that any atlas would ask ("the capital of Kenya"); the passages speak of the
chief city, or of where the state has its official centre. A search that repeats the words of the
question finds the subject's passages at best; what a passage calls the thing has to be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from calibadv_env.data.atlas.balanced import (
    balanced_records,
    balanced_splits,
    choose_balanced,
)
from calibadv_env.data.atlas.chains import Hop
from calibadv_env.data.atlas.compiling import Searches, base_world, files_of
from calibadv_env.data.atlas.selection import stable_hash
from calibadv_env.data.atlas.walks import all_walks
from calibadv_env.data.atlas.world import AtlasFact, AtlasWorld, render_facts
from calibadv_env.data.compiled import Files
from calibadv_env.protocol.passages import Passage


class Form(NamedTuple):
    """A way to state a relation.

    Attributes:
        words: What a searcher types in place of the relation.
        sentence: The sentence.
    """

    words: str
    sentence: str


FORMS: Final[Mapping[tuple[str, str], tuple[Form, ...]]] = MappingProxyType(
    {
        ("country", "capital"): (
            Form("chief city", "The chief city of {subject} is {object}."),
            Form("official centre", "{object} is where {subject} has its official centre."),
        ),
        ("country", "currency"): (
            Form("legal tender", "The legal tender of {subject} is the {object}."),
            Form("prices quoted", "In {subject} prices are quoted in the {object}."),
        ),
        ("country", "highest point"): (
            Form("tallest summit", "The tallest summit of {subject} is {object}."),
            Form("ground rises", "Nowhere does the ground of {subject} rise above {object}."),
        ),
        ("country", "lowest point"): (
            Form("deepest spot", "The deepest spot of {subject} is {object}."),
            Form("bottom land", "{object} is the bottom of the land of {subject}."),
        ),
        ("country", "national anthem"): (
            Form("patriotic hymn", 'The patriotic hymn of {subject} is "{object}".'),
            Form("state ceremonies sung", 'At state ceremonies of {subject} "{object}" is sung.'),
        ),
        ("country", "national holiday"): (
            Form("day celebration", "The great day of celebration in {subject} is {object}."),
            Form("offices shut", "In {subject} offices shut on {object}."),
        ),
        ("country", "independence date"): (
            Form("became sovereign", "{subject} became sovereign on {object}."),
            Form("ruled itself since", "{subject} has ruled itself since {object}."),
        ),
        ("country", "independence from"): (
            Form("formerly governed", "{subject} was formerly governed by {object}."),
            Form("broke away", "{subject} broke away from {object}."),
        ),
        ("country", "internet domain"): (
            Form("web addresses", "Web addresses of {subject} end in {object}."),
            Form("sites suffix", "Sites of {subject} carry the suffix {object}."),
        ),
        ("country", "land neighbor"): (
            Form("sole border", "The sole border of {subject} is that with {object}."),
            Form("frontier alone", "{subject} shares a frontier with {object} alone."),
        ),
        ("country", "land neighbors"): (
            Form("frontiers", "The frontiers of {subject} are those with {object}."),
        ),
        ("airport", "city"): (
            Form("flights land", "Flights for {object} land at {subject}."),
            Form("passengers bound", "Passengers bound for {object} arrive at {subject}."),
        ),
        ("airport", "IATA code"): (
            Form("luggage tags", "Luggage tags for {subject} read {object}."),
            Form("tickets letters", "On tickets the letters {object} stand for {subject}."),
        ),
        ("airport", "ICAO code"): (
            Form("flight plans", "In flight plans {subject} is {object}."),
            Form("pilots radio", "Pilots call {subject} {object} on the radio."),
        ),
        ("city", "country"): (
            Form("territory", "{subject} belongs to the territory of {object}."),
            Form("map", "{subject} is found on the map of {object}."),
        ),
        ("site", "country"): (
            Form("soil", "{subject}, a treasure of mankind, stands on the soil of {object}."),
            Form("looks after", "{object} looks after {subject}, a treasure of mankind."),
        ),
        ("element", "country"): (
            Form("first identified", "{subject} was first identified in {object}."),
            Form("known science", "{subject} became known to science in {object}."),
        ),
        ("element", "year"): (
            Form("first described", "{subject} was first described in {object}."),
            Form("came light", "{subject} came to light in {object}."),
        ),
        ("element", "chemical symbol"): (
            Form("chemists write", "Chemists write {object} for {subject}."),
            Form("formulas stands", "In formulas {object} stands for {subject}."),
        ),
        ("element", "atomic number"): (
            Form("protons", "A nucleus of {subject} holds {object} protons."),
            Form("periodic table place", "{subject} has place {object} of the periodic table."),
        ),
    }
)
"""Forms of each kind of subject and relation. None holds the relation's own words."""


def compile_reworded() -> Files:
    """The files of ``atlas-reworded``."""
    world = base_world()
    passages = reworded_passages(world)
    chains = (chain for chain in all_walks(world) if len(chain) <= 4)
    find = Searches(passages, lambda hop: f"{hop.subject} {words_of(hop)}").find
    chosen = choose_balanced(chains, balanced_splits(world), find)
    records = balanced_records(chosen, "reworded", words_of)
    return files_of(world, records, passages)


def reworded_passages(world: AtlasWorld) -> list[Passage]:
    """The passages of a world, each in one of the forms of its relation, in their order."""
    kinds: dict[tuple[str, str, str], list[AtlasFact]] = {}
    for fact in world.facts:
        form = _form(fact.subject_kind, fact.relation, fact.subject)
        kinds.setdefault((fact.subject_kind, fact.relation, form.sentence), []).append(fact)
    rendered: dict[str, Passage] = {}
    for (kind, relation, sentence), facts in kinds.items():
        for passage in render_facts(facts, {(kind, relation): sentence}):
            rendered[passage.id] = passage
    return [rendered[passage.id] for passage in world.passages]


def words_of(hop: Hop) -> str:
    """What the passage of a hop calls its relation."""
    kind = hop.gold[0].split(":")[0]
    subject = hop.object if hop.is_inverse else hop.subject
    relation = "city" if hop.relation == "airport" else hop.relation
    return _form(kind, relation, subject).words


def _form(kind: str, relation: str, subject: str) -> Form:
    """The form in which a relation of a subject is stated: by hash, the same in every passage."""
    forms: Sequence[Form] = FORMS[kind, relation]
    return forms[stable_hash("form", f"{relation}|{subject}") % len(forms)]
