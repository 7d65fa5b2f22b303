"""Clusters, effective numbers and what training has not seen."""

import pytest

from calibadv_env.data.base import QATask
from calibadv_env.data.preparing.balance import effective_number, measure_balance


def task(name, *, subject, value, cluster, passage="p", hops=1):
    return QATask(
        id=name,
        question="?",
        golden_answers=(value,),
        gold_passages=((passage,),),
        hops=hops,
        metadata={
            "cluster": cluster,
            "chain": [{"subject": subject, "relation": "capital", "object": value}],
        },
    )


def test_effective_number_by_hand():
    assert effective_number([5, 5, 5]) == pytest.approx(3)
    # Shares .5, .25, .25: 1 / (.25 + .0625 + .0625).
    assert effective_number([2, 1, 1]) == pytest.approx(8 / 3)
    assert effective_number([7, 0]) == pytest.approx(1)


def test_a_split_by_hand():
    train = [task("t", subject="Kenya", value="Nairobi", cluster="Kenya", passage="k")]
    split = [
        task("a", subject="Chad", value="N'Djamena", cluster="Chad", passage="c"),
        task("b", subject="Chad", value="nairobi", cluster="Chad", passage="d"),
        task("c", subject="Mali", value="Bamako", cluster="Mali", passage="k", hops=2),
        task("d", subject="Peru", value="Lima", cluster="Peru", passage="l", hops=2),
    ]
    found = measure_balance(split, train)
    assert (found.num_tasks, found.num_clusters) == (4, 3)
    assert found.effective_clusters == pytest.approx(16 / 6)
    assert (found.largest_cluster, found.largest_share) == ("Chad", 0.5)
    assert found.hop_shares == {"1": 0.5, "2": 0.5}
    assert found.majority_share == 0.25
    # "b" has an answer of training in another spelling, "c" one of its passages.
    assert found.unseen_share == 0.5
    assert measure_balance(split, None).unseen_share is None


def test_tasks_that_name_no_evidence_are_not_called_unseen():
    bare = [QATask(id="x", question="?", golden_answers=("Oslo",))]
    found = measure_balance(bare, bare)
    assert found.unseen_share is None
    assert found.hop_shares == {"0": 1.0}
    assert found.largest_cluster == "oslo"
