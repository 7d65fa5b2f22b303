"""The parts of the atlas that clean, chain, word and select, on small inputs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_env.data.atlas.chains import (
    Chain,
    FactIndex,
    all_chains,
    is_mentioned,
    is_sound,
    kind_of,
)
from calibadv_env.data.atlas.currencies import currency_names
from calibadv_env.data.atlas.elements import chemical_elements
from calibadv_env.data.atlas.lexical import ExactBm25
from calibadv_env.data.atlas.records import (
    clean_places,
    country_record,
    date_forms,
    fold,
    is_clean_name,
)
from calibadv_env.data.atlas.selection import (
    country_clusters,
    select_chains,
    split_of_chain,
    task_records,
)
from calibadv_env.data.atlas.states import find_state, sovereign_states, states_by_code
from calibadv_env.data.atlas.wording import paraphrases
from calibadv_env.data.atlas.world import AtlasWorld, compile_world
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.corpus import Corpus


def entry(**fields: str) -> dict[str, Any]:
    """A Factbook entry with some fields."""
    places = {
        "capital": ("Government", "Capital", "name"),
        "anthem": ("Government", "National anthem(s)", "title"),
        "holiday": ("Government", "National holiday"),
        "independence": ("Government", "Independence"),
        "heritage": ("Government", "National heritage", "selected World Heritage Site locales"),
        "highest": ("Geography", "Elevation", "highest point"),
        "lowest": ("Geography", "Elevation", "lowest point"),
        "borders": ("Geography", "Land boundaries", "border countries"),
        "currency": ("Economy", "Exchange rates", "Currency"),
        "domain": ("Communications", "Internet country code"),
    }
    made: dict[str, Any] = {}
    for name, text in fields.items():
        node = made
        for key in places[name]:
            node = node.setdefault(key, {})
        node["text"] = text
    return made


def value(code: str, relation: str, **fields: str) -> tuple[str, ...]:
    return country_record(states_by_code()[code], entry(**fields)).values.get(relation, ())


def row(iata: str, name: str, city: str, country: str) -> dict[str, str]:
    return {"iata": iata, "name": name, "city": city, "country": country, "subd": ""}


def small_world() -> AtlasWorld:
    """Two states that border each other alone, one that shares an anthem, and some places."""
    factbook: dict[str, dict[str, Any]] = {s.factbook_code: {} for s in sovereign_states()}
    factbook["pt"] = factbook["po"] = entry(
        capital="Lisbon", borders="Spain 1,224 km", domain=".pt", heritage="Convent of Tomar (c)"
    )
    factbook["sp"] = entry(capital="Madrid", currency="euros (EUR) per US dollar -")
    factbook["ke"] = entry(capital="Nairobi", anthem='"Our Song"', independence="1 May 1960")
    factbook["ug"] = entry(capital="Kampala", anthem='"Our Song"')
    rows = [
        row("AAA", "Jomo Airport", "Mombasa", "KE"),
        row("BBB", "Porto Airport", "Porto", "PT"),
        row("CCC", "Costa Airport", "Faro", "PT"),
        row("DDD", "Other Airport", "Faro", "US"),
        row("EEE", "Humberto Airport", "Lisbon", "PT"),
    ]
    return compile_world(factbook, rows)


def chains_by_kind(world: AtlasWorld) -> dict[str, list[Chain]]:
    found: dict[str, list[Chain]] = {}
    for chain in all_chains(world):
        found.setdefault(kind_of(chain), []).append(chain)
    return found


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("KE", "Nairobi", ("Nairobi",)),
        ("VN", "Hanoi (Ha Noi)", ("Hanoi", "Ha Noi")),
        ("CL", "Santiago; note - Valparaiso is the seat of the legislature", ("Santiago",)),
        ("ZA", "Pretoria (administrative capital); Cape Town", ()),
        ("NR", "no official capital; government offices in Yaren", ()),
    ],
)
def test_capitals(code: str, text: str, expected: tuple[str, ...]) -> None:
    assert value(code, "capital", capital=text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mount Kenya 5,199 m", "Mount Kenya"),
        ("Kilimanjaro (highest point in Africa) 5,895 m", "Kilimanjaro"),
        ("Fako on Mont Cameroun 4,045 m", "Fako"),
        ("Mt. Fogo (a volcano on Fogo Island) 2,829 m", "Mount Fogo"),
        ("unnamed elevation 63 m; 3 km southeast of Sabi", None),
        ("3.6 km W. of Al-Salmi Border Post 300 m", None),
    ],
)
def test_highest_points(text: str, expected: str | None) -> None:
    assert (value("KE", "highest point", highest=text) or (None,))[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Death Valley (lowest point in North America) -86 m", "Death Valley"),
        ("Labe (Elbe) River 115 m", "Labe River"),
        ("Indian Ocean 0 m", None),
        ("Gulf of Guinea 0 m", None),
        ("junction of the Orange and Makhaleng Rivers 1,400 m", None),
    ],
)
def test_lowest_points_are_not_seas(text: str, expected: str | None) -> None:
    assert (value("KE", "lowest point", lowest=text) or (None,))[0] == expected


def test_anthems_keep_the_translation_as_an_answer_unless_it_names_the_state() -> None:
    assert value("KE", "national anthem", anthem='"Ee Mungu" (O God)') == ("Ee Mungu", "O God")
    assert value("ML", "national anthem", anthem='"Le Mali" (Mali)') == ("Le Mali",)
    assert value("PK", "national anthem", anthem='"Tarana" (National Anthem)') == ("Tarana",)
    assert value("CA", "national anthem", anthem='"God Save the King"') == ()
    assert value("KE", "national anthem", anthem='"National Anthem of Kenya"') == ()


def test_an_independence_day_on_another_date_makes_the_date_doubtful() -> None:
    text = "16 December 1971 (from Pakistan)"
    clear = country_record(states_by_code()["BD"], entry(independence=text))
    assert clear.values["independence date"] == ("16 December 1971", "December 16, 1971")
    assert clear.ruler == "Pakistan"
    doubtful = entry(independence=text, holiday="Independence Day, 26 March (1971)")
    record = country_record(states_by_code()["BD"], doubtful)
    assert "independence date" not in record.values
    assert record.ruler == ""


def test_several_declarations_of_independence_are_dropped() -> None:
    text = "3 November 1903 (from Colombia); 28 November 1821 (from Spain)"
    assert value("PA", "independence date", independence=text) == ()


def test_currencies_go_by_code() -> None:
    assert value("KE", "currency", currency="shillings (KES) per US dollar -")[0] == (
        "Kenyan shilling"
    )
    assert value("ZM", "currency", currency="Zambian kwacha (ZMK) per US dollar")[0] == (
        "Zambian kwacha"
    )
    assert value("ZW", "currency", currency="Zimbabwean dollars (ZWD) per US dollar") == ()
    assert value("TH", "currency", currency="baht per US dollar -")[0] == "Thai baht"


def test_the_only_neighbor_is_counted_on_the_raw_list() -> None:
    canada = country_record(
        states_by_code()["CA"],
        entry(borders="US 8,891 km (includes 2,475 km with Alaska); Denmark (Greenland) 1.3 km"),
    )
    assert canada.neighbors == ("Denmark", "United States")
    cuba = country_record(
        states_by_code()["CU"], entry(borders="US Naval Base at Guantanamo Bay 28.5 km")
    )
    assert not cuba.has_all_neighbors
    congo = country_record(
        states_by_code()["CF"],
        entry(borders="Democratic Republic of the Congo 1,747 km, Republic of the Congo 487 km"),
    )
    assert congo.neighbors == ("Democratic Republic of the Congo", "Republic of the Congo")


def test_heritage_sites_that_several_states_share_are_dropped() -> None:
    text = "Kairouan (c); Struve Geodetic Arc (c); Western Tien-Shan (n); Cliff (Land) (m); Turkey"
    assert country_record(states_by_code()["TN"], entry(heritage=text)).heritage == ("Kairouan",)


def test_places_keep_track_of_homonyms() -> None:
    places = clean_places(
        [
            row("AAA", "Faro Airport", "Faro", "PT"),
            row("", "Faro Field", "Faro", "CA"),
            row("BBB", "Nuuk Airport", "Nuuk", "GL"),
            row("CCC", "Secret (closed) Airport", "Lagos", "PT"),
        ]
    )
    assert [airport.iata for airport in places.airports] == ["AAA"]
    assert places.city_countries["faro"] == ("CA", "PT")
    assert places.airports_per_city["faro", "PT"] == 1


def test_tables_are_complete() -> None:
    assert len(sovereign_states()) == 196
    assert len({state.factbook_code for state in sovereign_states()}) == 196
    assert len({element.symbol for element in chemical_elements()}) == 118
    assert all(
        element.country_code in states_by_code()
        for element in chemical_elements()
        if element.country_code
    )
    assert currency_names()["CHF"] == ("Swiss franc",)
    assert find_state("the Netherlands") is find_state("Holland")


@pytest.mark.parametrize("name", ["", "a", "lower", "A/B", "Base (old)", "Way Too " * 6, "R2"])
def test_names_that_are_not_clean(name: str) -> None:
    assert not is_clean_name(name)


def test_date_forms() -> None:
    assert date_forms("12 December 1963") == ("12 December 1963", "December 12, 1963")


@given(st.text(max_size=30))
def test_folding_twice_changes_nothing(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_values_of_two_countries_are_no_way_back() -> None:
    index = FactIndex(small_world())
    assert index.inverse("Our Song", "national anthem") is None
    back = index.inverse("Nairobi", "capital")
    assert back is not None
    assert (back.subject, back.object, back.gold) == (
        "Nairobi",
        "Kenya",
        ("country:KE:capital",),
    )


def test_homonymous_cities_and_the_names_of_states_are_not_asked_about() -> None:
    index = FactIndex(small_world())
    assert index.forward("Faro", "country", "city") is None
    assert index.forward("Porto", "country", "city") is not None


def test_chains_go_through_cities_and_only_neighbors() -> None:
    found = chains_by_kind(small_world())
    assert "airport:city > country" in found
    (chain,) = found["site:country > land neighbor > capital"]
    assert [hop.object for hop in chain] == ["Portugal", "Spain", "Madrid"]
    assert paraphrases(chain)[1] == (
        "Which city is the capital of the only land neighbor of the country that is home to the "
        "World Heritage Site Convent of Tomar?"
    )
    starts = {chain[0].subject for chain in found["airport:city > country"]}
    assert starts == {"Humberto Airport", "Jomo Airport"}, (
        "an airport that names its city leaves nothing to find"
    )


def test_every_chain_is_sound_and_has_a_wording() -> None:
    world = small_world()
    for chain in all_chains(world):
        assert is_sound(chain)
        wordings = paraphrases(chain)
        assert len(wordings) >= 2
        assert all(chain[0].subject in wording for wording in wordings)
    twice = next(chain for chain in all_chains(world) if len(chain) == 1)
    assert not is_sound((*twice, *twice))


@pytest.mark.parametrize(
    ("answer", "text", "expected"),
    [("Niger", "Nigeria", True), ("ke", "Kenya", False), ("ke", "the .ke domain", True)],
)
def test_answers_inside_words_count_unless_tiny(answer: str, text: str, expected: bool) -> None:
    assert is_mentioned(answer, text) is expected


def test_only_neighbors_share_a_split() -> None:
    world = small_world()
    clusters = country_clusters(world)
    assert clusters == {"ES": "ES", "PT": "ES"}
    for chain in all_chains(world):
        if {hop.country_code for hop in chain} == {"ES", "PT"}:
            assert split_of_chain(chain, clusters) is not None


def test_the_choice_does_not_depend_on_the_order_of_the_chains() -> None:
    world = small_world()
    chains = list(all_chains(world))
    forwards = select_chains(world, chains)
    assert forwards == select_chains(world, chains[::-1])
    records = task_records(forwards)
    assert sum(map(len, records.values())) == len(forwards) > 30


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_exact_bm25_agrees_with_the_library(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from(["the", "red", "fox", "ran", "to", "mill"]), min_size=1)
    texts = data.draw(st.lists(words.map(" ".join), min_size=4, max_size=8))
    query = " ".join(data.draw(words))
    passages = [Passage(str(i), "", text) for i, text in enumerate(texts)]
    exact = ExactBm25(passages)
    scores = exact.scores(query)
    ranked = Bm25Retriever(Corpus(passages)).search([query], len(passages))[0]
    for scored in ranked:
        assert scored.score == pytest.approx(scores[int(scored.passage.id)], abs=1e-4)


def test_ties_count_against_a_passage() -> None:
    same = [Passage(str(i), "Nairobi", "a town") for i in range(4)]
    assert not ExactBm25(same).is_within("Nairobi", ["0"], 3)
    assert ExactBm25(same[:3]).is_within("Nairobi", ["0"], 3)
    assert not ExactBm25(same[:3]).is_within("Kampala", ["0"], 3)
