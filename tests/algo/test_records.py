"""What is written to a trace comes back equal."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibadv_algo.errors import EnvironmentFaultError
from calibadv_algo.rollout.records import trajectory_from_json, trajectory_to_json
from calibadv_algo.types import Trajectory, Turn

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.just("__tuple__"), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=8,
)


def trajectory(info: dict[str, object]) -> Trajectory:
    turn = Turn(
        action_ids=(3, 4),
        action_text="<search>Zürich\u2028\n</search>",
        logprobs=(-0.1, -1e-17),
        observation_ids=(5,),
        observation_text='"quoted" \ud7ff',
        reward=1 / 3,
        info=info,
        is_cut=True,
    )
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(1, 2),
        prompt_text="Question?",
        turns=(turn, Turn(action_ids=(1,), action_text="", logprobs=(0.0,))),
        is_terminated=False,
        is_truncated=True,
        reset_info=info,
        policy_version=4,
        seed=2**63,
    )


@settings(max_examples=60, deadline=None)
@given(info=st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_a_round_trip_is_exact(info: dict[str, object]) -> None:
    line = trajectory_to_json(trajectory(info))
    assert "\n" not in line
    back = trajectory_from_json(line)
    assert back == trajectory(info)
    assert repr(back) == repr(trajectory(info))


TEXTS = st.text(alphabet="ab [1]é\n", max_size=5)


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4).map(tuple), st.booleans(), st.integers(0, 60))
def test_passages_come_back_and_stand_once(passages: Any, is_shown: bool, cut: int) -> None:
    shown = "".join(f"({title})({text})" for title, text in passages)[:cut]
    observation = shown if is_shown else "something else"
    turn = Turn(
        action_ids=(1,),
        action_text="a",
        logprobs=(0.0,),
        observation_text=observation,
        info={"passages": passages},
    )
    whole = replace(trajectory({}), turns=(turn,))
    line = trajectory_to_json(whole)
    assert repr(trajectory_from_json(line)) == repr(whole)
    long = "a passage that is not written twice"
    found = replace(turn, observation_text=f"<{long}>", info={"passages": (("", long),)})
    assert trajectory_to_json(replace(whole, turns=(found,))).count(long) == 1


@pytest.mark.parametrize(
    "odd", [[("a", "b")], (("a",),), (["a", "b"],), ("ab",), None, {"a": [[[0, 1], "b"]]}]
)
def test_a_key_of_that_name_may_hold_anything(odd: Any) -> None:
    whole = trajectory({"passages": odd})
    assert repr(trajectory_from_json(trajectory_to_json(whole))) == repr(whole)


def test_nan_and_numpy_values_are_kept() -> None:
    info = {"recall": math.nan, "score": np.float32(0.5), "ids": np.array([1, 2]), "far": math.inf}
    back = trajectory_from_json(trajectory_to_json(trajectory(info))).turns[0].info
    assert math.isnan(back["recall"])
    assert (back["score"], back["ids"], back["far"]) == (0.5, [1, 2], math.inf)


def test_what_others_added_is_left_out() -> None:
    record = json.loads(trajectory_to_json(trajectory({"a": (1,)})))
    record["advantages"] = [0.5, -0.25]
    record["turns"][0]["advantages"] = 0.5
    assert trajectory_from_json(json.dumps(record)) == trajectory({"a": (1,)})
    del record["turns"][0]["logprobs"]
    with pytest.raises(ValueError, match=r"must be a recorded trajectory: .*logprobs"):
        trajectory_from_json(json.dumps(record))


@pytest.mark.parametrize("line", ["{}", "[]", '{"turns":[{"x":1}]}', "{", '{"turns":3}'])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"line must be|Expecting"):
        trajectory_from_json(line)


def test_what_json_has_no_form_for_is_refused() -> None:
    for odd, words in (({1, 2}, "a set"), (b"x", "a bytes"), ((1, object()), "a object")):
        with pytest.raises(
            EnvironmentFaultError, match=f"info 'odd' holds {words} .*leave the key"
        ):
            trajectory_to_json(trajectory({"fine": 1, "odd": odd}))
