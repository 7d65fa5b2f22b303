"""The balanced splits of the atlas hold what their page promises."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from calibadv_env.data.atlas import build, load_world, recipes, worlds
from calibadv_env.data.atlas.balanced import (
    EVALUATED,
    NUM_COUNTRIES,
    Quota,
    balanced_splits,
    choose_balanced,
    cluster_of_chain,
)
from calibadv_env.data.atlas.chains import Hop
from calibadv_env.data.atlas.compiling import Compiled
from calibadv_env.data.atlas.states import sovereign_states
from calibadv_env.data.base import QATask
from calibadv_env.data.compiled import CACHE_VARIABLE
from calibadv_env.data.names import SPLITS
from calibadv_env.data.preparing import audit
from calibadv_env.data.preparing.balance import measure_balance
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import DataError


@pytest.fixture(scope="module")
def splits() -> dict[str, list[QATask]]:
    return {split: list(get_dataset("atlas-fair").tasks(split)) for split in SPLITS}


@pytest.mark.parametrize(("split", "least"), [("dev", 50), ("test", 80)])
def test_no_cluster_weighs_much_and_nothing_was_seen_in_training(
    split: str, least: int, splits: dict[str, list[QATask]]
) -> None:
    found = measure_balance(splits[split], splits["train"])
    assert found.effective_clusters >= least
    assert found.largest_share < 0.03
    assert found.majority_share < 0.02
    assert found.unseen_share == 1.0
    countries = {state.name for state in sovereign_states()}
    sizes = Counter(task.metadata["cluster"] for task in splits[split])
    assert sum(name in countries for name in sizes) >= least


@pytest.mark.parametrize("split", SPLITS)
def test_long_chains_are_common(split: str, splits: dict[str, list[QATask]]) -> None:
    shares = measure_balance(splits[split], None).hop_shares
    assert shares.keys() == {"1", "2", "3", "4"}
    assert min(shares["3"], shares["4"]) >= 1 / 3


def test_dev_and_test_share_nothing_either(splits: dict[str, list[QATask]]) -> None:
    assert measure_balance(splits["test"], splits["dev"]).unseen_share == 1.0
    assert audit.leaked_passages(splits) == set()


def test_every_hop_can_be_found_and_no_question_tells_its_answer(
    splits: dict[str, list[QATask]],
) -> None:
    tasks = [task for split in SPLITS for task in splits[split]]
    retriever = get_dataset("atlas-fair").retriever("bm25")
    assert audit.unreachable_tasks(tasks, retriever, top_k=3) == []
    assert audit.tasks_that_tell_their_answer(tasks) == []


def test_chains_hang_together(splits: dict[str, list[QATask]]) -> None:
    for task in (task for split in SPLITS for task in splits[split]):
        chain = task.metadata["chain"]
        assert task.hops == len(chain) == len(task.gold_passages)
        assert task.question in task.metadata["paraphrases"]
        assert chain[-1]["object"] == task.golden_answers[0]
        assert all(a["object"] == b["subject"] for a, b in pairwise(chain))


def test_no_code_leads_to_two_airports() -> None:
    facts = [f for f in load_world("atlas-fair").facts if f.relation.endswith(" code")]
    assert len(facts) > 10_000
    assert max(Counter((f.relation, f.object) for f in facts).values()) == 1
    assert max(Counter((f.relation, f.subject) for f in facts).values()) == 1


def test_large_countries_train_and_the_rest_are_dealt() -> None:
    splits = balanced_splits(load_world("atlas-fair"))
    assert {splits[code] for code in ("US", "CN", "CA", "BR", "RU")} == {"train"}
    counts = Counter(splits.values())
    assert {split: counts[split] for split in NUM_COUNTRIES} == dict(NUM_COUNTRIES)
    assert splits["PT"] == splits["ES"]


def hop(subject: str, value: str, code: str, relation: str = "capital") -> Hop:
    return Hop(
        subject=subject,
        relation=relation,
        object=value,
        is_inverse=False,
        subject_kind="country",
        answers=(value,),
        gold=(f"country:{code}:{relation}",),
        country_code=code,
    )


def test_what_training_holds_is_left_out_of_dev() -> None:
    own = (hop("Kenya", "Nairobi", "KE"),)
    same_value = (hop("Chad", "Nairobi", "TD"),)
    new = (hop("Mali", "Bamako", "ML"),)
    splits = {"KE": "train", "TD": "dev", "ML": "dev"}
    quotas = {"train": EVALUATED, "dev": EVALUATED}
    chosen = choose_balanced([own, same_value, new], splits, lambda chain: True, quotas)
    assert chosen == [("train", own), ("dev", new)]
    assert choose_balanced([own, new], splits, lambda chain: chain == own, quotas) == [
        ("train", own)
    ]


def test_a_cluster_has_no_more_than_its_quota() -> None:
    relations = ("capital", "currency", "internet domain", "national anthem")
    chains = [(hop("Kenya", f"value {r}", "KE", r),) for r in relations]
    quota = Quota(per_cluster={1: 2}, per_kind=1, per_start=9, start_share=1.0)
    chosen = choose_balanced(chains, {"KE": "dev"}, lambda chain: True, {"dev": quota})
    assert len(chosen) == 2
    one_start = Quota(per_cluster={1: 4}, per_kind=1, per_start=1, start_share=1.0)
    chosen = choose_balanced(chains, {"KE": "dev"}, lambda chain: True, {"dev": one_start})
    assert len(chosen) == 1
    assert cluster_of_chain(chosen[0][1]) == "Kenya"


def test_other_bytes_than_expected_are_refused(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    files = dict.fromkeys(build.FILES, b"{}\n")
    world = Compiled(
        name="w", description="", sha256="0" * 64, corpus_sha256="", recipe="recipes:compile_fair"
    )
    monkeypatch.setattr(recipes, "compile_fair", lambda: files)
    with pytest.raises(DataError, match=r"dataset 'w' compiled to sha256 \w+, expected 0000"):
        world.files()


@pytest.mark.slow
@pytest.mark.parametrize("name", worlds.WORLDS)
def test_a_compilation_gives_the_expected_bytes(name: str) -> None:
    world = worlds.WORLDS[name]
    files = world.compile()
    assert build.digest_of(files) == world.sha256
    assert get_dataset(name).corpus().sha256 == world.corpus_sha256
