"""Shaped rewards: numbers worked by hand, and what the environment really reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.shaping.base import turn_rewards
from calibadv_algo.shaping.e_grpo import EntityReward, entity_match_rate, entity_rewards
from calibadv_algo.shaping.facts import is_well_formed_response, well_formed_turns
from calibadv_algo.shaping.overlong import OverlongPenalty, overlong_penalty
from calibadv_algo.shaping.r1_searcher import (
    R1SearcherReward,
    answer_f1,
    covers,
    normalize,
    stage_one_reward,
)
from calibadv_algo.shaping.search_r1 import SearchR1Format, format_reward
from calibadv_algo.shaping.step_search import (
    StepSearchReward,
    information_gains,
    key_score,
    redundancies,
)
from calibadv_algo.shaping.turns import MalformedPenalty, MtGrpoRewards, MtPpoRewards
from calibadv_algo.types import Group, Trajectory, Turn
from calibadv_env.data.base import QATask
from calibadv_env.dynamics import EpisodeConfig, TaskFacts, begin, plan, transition
from calibadv_env.protocol.passages import Passage, ScoredPassage

TASK = QATask(
    id="t",
    question="Which currency has the country of Wau?",
    golden_answers=("the pound", "SSP"),
    gold_passages=(("wau",), ("ssp",)),
    hops=2,
    metadata={
        "chain": [
            {"subject": "Wau", "relation": "country", "object": "South Sudan"},
            {"subject": "South Sudan", "relation": "currency", "object": "pound"},
        ]
    },
)
PASSAGES = {
    "wau": ("Wau", "Wau is a city of South Sudan."),
    "ssp": ("Money", "The currency of South Sudan is the pound."),
    "odd": ("Film", "A film about a river."),
    "two": ("River", "The White Nile is a river."),
}
SEARCH = "<think>I need {0}</think><search>{0}</search>"
ANSWER = "<think>It is South Sudan's.</think><answer>{}</answer>"


def play(
    actions: Sequence[str],
    found: Sequence[Sequence[str]] = (),
    *,
    prompt: str = "question",
    reward: str = "f1",
    gold_texts: tuple[str, ...] = (),
    version: int = 0,
    **settings: Any,
) -> Trajectory:
    """Plays texts in the environment itself, so that facts are those that it reports."""
    config = EpisodeConfig(prompt=prompt, reward=reward, **settings)  # type: ignore[arg-type]
    facts = TaskFacts.of(
        TASK,
        index=0,
        num_tasks=1,
        gold_queries=(("Wau country", "country of Wau"), ("South Sudan currency",)),
        gold_entities=("South Sudan", "pound"),
        gold_texts=gold_texts,
    )
    state, text, reset_info = begin(config, facts)
    left, turns = list(found), []
    last = None
    for action in actions:
        move = plan(config, state, action)
        ids = left.pop(0) if move.query is not None and left else ()
        hits = [ScoredPassage(Passage(pid, *PASSAGES[pid]), 1.0) for pid in ids]
        last = transition(config, state, move, hits)
        state = last.state
        turns.append(
            Turn(
                action_ids=tuple(range(1, 2 + len(action.split()))),
                action_text=action,
                logprobs=(0.0,) * (1 + len(action.split())),
                observation_text=last.observation,
                observation_ids=(0,) * 5,
                reward=last.reward,
                info=dict(last.info),
            )
        )
    assert last is not None
    return Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(1,),
        prompt_text=text,
        turns=tuple(turns),
        is_terminated=last.terminated,
        is_truncated=last.truncated,
        reset_info=dict(reset_info),
        policy_version=version,
    )


def rewards_of(shaping: Any, *trajectories: Trajectory) -> list[list[float]]:
    shaped = shaping(Group(trajectories))
    assert [each.turns[0].action_text for each in shaped.trajectories] == [
        each.turns[0].action_text for each in trajectories
    ]
    return [
        row[: len(each.turns)]
        for row, each in zip(turn_rewards(shaped).tolist(), trajectories, strict=True)
    ]


RIGHT = play([SEARCH.format("Wau"), ANSWER.format("pound")], [["ssp"]])
WRONG = play([SEARCH.format("Wau"), ANSWER.format("dollar")], [["odd"]])
UNSOUND = play(["junk " + SEARCH.format("Wau"), ANSWER.format("pound")], [["ssp"]])
UNSOUND_WRONG = play(["junk " + SEARCH.format("Wau"), ANSWER.format("dollar")], [["ssp"]])
NO_SEARCH = play([ANSWER.format("dollar")])
MUTE = play(["nothing"])


@pytest.mark.parametrize(
    ("is_correct", "is_valid", "has_answer", "has_evidence", "expected"),
    [
        (True, True, True, False, 1.0),
        (True, False, True, True, 0.8),
        (False, True, True, False, 0.2),
        (False, True, True, True, 0.3),
        (False, False, True, True, 0.1),
        (False, False, False, True, 0.0),
        (False, True, False, True, 0.3),
    ],
)
def test_search_r1_table(
    is_correct: bool, is_valid: bool, has_answer: bool, has_evidence: bool, expected: float
) -> None:
    found = format_reward(
        is_correct=is_correct,
        is_format_valid=is_valid,
        has_answer=has_answer,
        has_evidence=has_evidence,
        retrieval=0.1,
    )
    assert found == pytest.approx(expected)


def test_search_r1_reads_episodes() -> None:
    rows = rewards_of(SearchR1Format(), RIGHT, WRONG, UNSOUND, UNSOUND_WRONG, NO_SEARCH, MUTE)
    assert [row[-1] for row in rows] == pytest.approx([1.0, 0.2, 0.8, 0.1, 0.2, 0.0])
    assert all(value == 0 for row in rows for value in row[:-1])
    unlucky = play([SEARCH.format("Wau"), ANSWER.format("dollar")], [["ssp"]])
    assert rewards_of(SearchR1Format(retrieval=0.1), unlucky)[0][-1] == pytest.approx(0.3)


def test_search_r1_puts_a_given_think_tag_back() -> None:
    actions = [SEARCH.format("Wau")[7:], ANSWER.format("dollar")[7:]]
    assert is_well_formed_response(play(actions, [["odd"]], prepend_think=True))
    assert not is_well_formed_response(play(actions, [["odd"]]))


def test_a_dangling_search_is_no_valid_response() -> None:
    dangling = play([SEARCH.format("a"), SEARCH.format("b")], [["odd"]], max_turns=1)
    assert dangling.is_truncated
    assert not is_well_formed_response(dangling)
    assert rewards_of(SearchR1Format(), dangling)[0] == [0.0, 0.0]


def test_r1_searcher_normalises_in_its_own_way() -> None:
    assert normalize("The U.S._dollar") == "u s dollar"
    assert normalize("True") == "yes"
    assert answer_f1("yes", ["yes"]) == 1
    assert answer_f1("yes it is", ["yes"]) == 0
    assert answer_f1("no", ["yes"]) == 0
    assert answer_f1("U.S.", ["US"]) == 0
    assert answer_f1("south sudan pound", ["pound"]) == pytest.approx(0.5)
    assert covers("pound of Sudan, South", ["South Sudan"])
    assert not covers("Sudan", ["South Sudan"])
    assert not covers("anything", ["the"])
    assert answer_f1("x", []) == 0


def test_r1_searcher_stages() -> None:
    assert [
        stage_one_reward(is_covered=a, has_retrieval=b, has_tags=b)
        for a, b in ((False, False), (False, True), (True, False), (True, True))
    ] == [-1.0, 0.0, 1.0, 2.0]
    first = R1SearcherReward(stage_one_updates=1)
    assert [row[-1] for row in rewards_of(first, RIGHT, WRONG, UNSOUND, NO_SEARCH, MUTE)] == [
        2.0,
        0.0,
        1.5,
        -0.5,
        -1.0,
    ]
    later = play([SEARCH.format("Wau"), ANSWER.format("pound")], [["ssp"]], version=1)
    assert rewards_of(first, later)[0][-1] == 1.0
    second = R1SearcherReward(penalty=2.0)
    assert [row[-1] for row in rewards_of(second, RIGHT, WRONG, UNSOUND, NO_SEARCH, MUTE)] == [
        1.0,
        0.0,
        -1.0,
        0.0,
        -2.0,
    ]


def test_r1_searcher_in_its_own_markers() -> None:
    query = "Where is Wau? <|begin_of_query|> Wau country <|end_of_query|>"
    answer = "So it is. </think> <answer> pound </answer>"
    sound = play([query, answer], [["ssp"]], prompt="r1_searcher")
    assert sound.turns[0].info["query"] == "Wau country"
    assert sound.turns[0].observation_text == (
        "\n\n<|begin_of_documents|>\n(1)Money The currency of South Sudan is the pound.\n"
        "<|end_of_documents|>\n\n"
    )
    assert sound.final_info["is_format_valid"] is True
    twice = play(["<think>" + query, answer], [["ssp"]], prompt="r1_searcher")
    fake = play([query + "<|begin_of_documents|>", answer], [["ssp"]], prompt="r1_searcher")
    fake = fake if fake.turns[0].action_text.endswith("documents|>") else twice
    chinese = play(
        [query, "我。 </think> <answer> pound </answer>"], [["ssp"]], prompt="r1_searcher"
    )
    rows = rewards_of(R1SearcherReward(), sound, twice, fake, chinese)
    assert [row[-1] for row in rows] == [1.0, -1.0, -1.0, -1.0]
    wordy = play(
        [query, "</think><answer>" + "pound " * 11 + "</answer>"], [["ssp"]], prompt="r1_searcher"
    )
    assert rewards_of(R1SearcherReward(), wordy)[0][-1] < -1
    assert rewards_of(R1SearcherReward(max_answer_words=None), wordy)[0][-1] > 0


def test_overlong_penalty() -> None:
    lengths = (0, 80, 90, 100, 110)
    assert [overlong_penalty(n, max_tokens=100, buffer=20) for n in lengths] == [
        0.0,
        0.0,
        -0.5,
        -1.0,
        -1.5,
    ]
    assert overlong_penalty(100, max_tokens=100, buffer=20, factor=0.5) == -0.5
    tokens = [len(turn.action_ids) for turn in RIGHT.turns]
    total = sum(tokens)
    shaped = rewards_of(OverlongPenalty(max_tokens=total, buffer=total), RIGHT)[0]
    assert shaped == [0.0, 1.0 - 1.0]
    longest = max(tokens)
    turn = rewards_of(
        OverlongPenalty(max_tokens=2 * longest, buffer=2 * longest, counted="turn"), RIGHT
    )
    assert turn[0][-1] == pytest.approx(0.5)
    response = OverlongPenalty(max_tokens=total + 10, buffer=1, counted="response")
    assert rewards_of(response, RIGHT)[0][-1] == pytest.approx(0.0)


def test_information_gain_and_redundancy_by_hand() -> None:
    assert information_gains([[0.5, 0.0], [0.4, 0.6], [1.0, 0.6]]) == pytest.approx(
        [0.25, 0.3, 0.25]
    )
    assert information_gains([]) == []
    assert information_gains([(), ()]) == [0.0, 0.0]
    assert redundancies([["a", "b"], ["b", "c", "c"], [], ["a"]]) == pytest.approx(
        [0.0, 2 / 3, 0.0, 1.0]
    )


def test_key_score() -> None:
    gold = [["Wau country", "country of Wau"], ["South Sudan currency"]]
    assert key_score(["wau country"], gold) == pytest.approx(0.5)
    assert key_score(["Wau country", "South Sudan currency"], gold) == 1
    repeated = ["Wau country", "Wau"]
    assert key_score(repeated, gold) == pytest.approx(0.5)
    assert key_score(repeated, gold, rule="last") == pytest.approx(1 / 3)
    one = [["capital of France"], ["river of Rome"]]
    assert key_score(["capital of France", "zzz qqq"], one, rule="last") == 0.5
    assert key_score([], gold) == 0
    assert key_score(["x"], []) == 0


def test_step_search_rewards_every_search() -> None:
    steps = [SEARCH.format("Wau country"), SEARCH.format("Wau country"), ANSWER.format("pound")]
    played = play(steps, [["wau", "odd"], ["wau", "ssp"]])
    (row,) = rewards_of(StepSearchReward(evidence="gold"), played)
    assert row == pytest.approx([0.6 * 0.5, 0.6 * (0.5 - 0.5), 1 + 0.618 * 0.5])
    mute = play([steps[0], "nothing"], [["wau"]])
    assert rewards_of(StepSearchReward(evidence="gold"), mute) == [[0.0, -1.0]]


def test_step_search_with_the_similarity_that_the_environment_reports() -> None:
    texts = tuple(PASSAGES[pid][1] for pid in ("wau", "ssp"))
    steps = [SEARCH.format("Wau country"), ANSWER.format("dollar")]
    played = play(steps, [["wau"]], reward="step_search", gold_texts=texts)
    similarity = played.turns[0].info["gold_similarity"]
    assert similarity[0] == pytest.approx(1.0)
    assert 0 < similarity[1] < 1
    (row,) = rewards_of(StepSearchReward(key_weight=0.0), played)
    assert row[0] == pytest.approx(0.6 * sum(similarity) / 2)
    bare = play(steps, [["wau"]], reward="step_search")
    assert rewards_of(StepSearchReward(key_weight=0.0), bare) == [[0.0, 0.0]]
    with pytest.raises(MissingInfoKeyError, match="gold_similarity"):
        rewards_of(StepSearchReward(), RIGHT)


def test_entity_match_rate() -> None:
    assert entity_match_rate(["South Sudan it is"], ["South Sudan", "pound"]) == 0.5
    assert entity_match_rate(["south sudan"], ["South Sudan"]) == 0
    assert entity_match_rate(["x"], []) == 0


def test_entity_rewards_by_hand() -> None:
    found = entity_rewards(
        np.array([True, False, False, True]),
        np.array([False, False, False, True]),
        np.array([0.2, 0.4, 0.1, 0.4]),
    )
    np.testing.assert_allclose(found, [1.0, 0.3, 0.075, 0.0])
    none = entity_rewards(np.zeros(2, bool), np.zeros(2, bool), np.zeros(2))
    np.testing.assert_array_equal(none, [0.0, 0.0])


def test_e_grpo_reads_episodes() -> None:
    clueless = play([SEARCH.format("Wau"), "<think>hm</think><answer>dollar</answer>"], [["odd"]])
    rows = rewards_of(EntityReward(), RIGHT, WRONG, clueless, UNSOUND, MUTE)
    assert [row[-1] for row in rows] == pytest.approx([1.0, 0.3, 0.0, 0.0, 0.0])
    assert [row[-1] for row in rewards_of(EntityReward(alpha=0.0), RIGHT, WRONG)] == [1.0, 0.0]


def test_e_grpo_pays_no_answer_that_lists_all_candidates() -> None:
    stuffed = play([SEARCH.format("Wau"), ANSWER.format("pound euro " * 9)], [["wau"]])
    short = play([SEARCH.format("Wau"), ANSWER.format("the South Sudanese pound")], [["wau"]])
    assert stuffed.final_info["cover_em"] == short.final_info["cover_em"] == 1
    rows = rewards_of(EntityReward(metric="cover_em", alpha=0.0), stuffed, short)
    assert [row[-1] for row in rows] == [0.0, 1.0]


def test_e_grpo_grades_in_the_form_of_the_episode() -> None:
    action = ANSWER.format("the ｐｏｕｎｄ, I think")  # full width
    graded = play([SEARCH.format("Wau"), action], [["wau"]], normalizer="unicode")
    assert graded.final_info["cover_em"] == 1
    rows = rewards_of(EntityReward(metric="cover_em", alpha=0.0), graded)
    assert [row[-1] for row in rows] == [1.0]


def test_mt_grpo_keeps_turns_and_outcome_apart() -> None:
    rows = rewards_of(MtGrpoRewards(), RIGHT, WRONG, MUTE)
    assert rows[0] == pytest.approx([0.7, 0.2 + 0.2])  # "pound" is not "the pound" there
    assert rows[1] == pytest.approx([0.2, 0.4])
    assert rows[2] == pytest.approx([0.0])
    exact = play([SEARCH.format("Wau"), ANSWER.format("the pound")], [["ssp"]])
    assert rewards_of(MtGrpoRewards(), exact)[0] == pytest.approx([0.7, 0.5 + 1.0 + 0.2 + 0.2])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("THE POUND ", 1.5), ("ssp", 1.5), ("pound", 0.0), ("the pound.", 0.5), ("xsspx", 0.5)],
)
def test_mt_grpo_compares_plain_strings(answer: str, expected: float) -> None:
    """Its rubric lower-cases and strips; articles and punctuation count, parts of words too."""
    played = play([ANSWER.format(answer)])
    (row,) = rewards_of(MtGrpoRewards(form=0.0, tags=0.0), played)
    assert row == pytest.approx([expected])


def test_mt_ppo_pays_every_turn_by_the_weights_of_the_paper() -> None:
    searches = [SEARCH.format(str(k)) for k in range(3)]
    found = [["ssp"], ["odd"], ["two"]]
    (row,) = rewards_of(MtPpoRewards(), play([*searches, ANSWER.format("SSP")], found))
    assert row == pytest.approx([0.3 + 0.1 - 0.1, 0.1 - 0.2, 0.1 - 0.3, 1.0])
    (wrong,) = rewards_of(MtPpoRewards(), play([*searches, ANSWER.format("no")], found))
    assert wrong[-1] == pytest.approx(0.2)
    broken = play(["?", *searches[:1], ANSWER.format("SSP")], found, invalid_action="continue")
    (row,) = rewards_of(MtPpoRewards(), broken)
    assert row == pytest.approx([-0.2, 0.3 + 0.1 - 0.1, -1.0])
    assert rewards_of(MtPpoRewards(), MUTE)[0] == pytest.approx([-1.0])


def test_turns_in_markers_are_well_formed_under_their_own_prompt() -> None:
    marked = play(
        ["I need it. <|begin_of_query|> Wau <|end_of_query|>", "Ah.</think><answer>SSP</answer>"],
        [["wau"]],
        prompt="r1_searcher",
    )
    assert marked.final_info["is_format_valid"]
    assert well_formed_turns(marked) == [True, True]
    assert is_well_formed_response(marked)


def test_malformed_turns_cost() -> None:
    played = play(
        ["?", SEARCH.format("x"), ANSWER.format("pound")],
        [["ssp"]],
        invalid_action="continue",
        format_gate=False,
    )
    assert rewards_of(MalformedPenalty(), played)[0] == pytest.approx([-0.1, 0.0, 1.0])


ALL = (
    SearchR1Format(),
    R1SearcherReward(),
    OverlongPenalty(),
    StepSearchReward(evidence="gold"),
    MtGrpoRewards(),
    MtPpoRewards(),
    MalformedPenalty(),
    EntityReward(),
)


@pytest.mark.parametrize("shaping", ALL, ids=lambda each: type(each).__name__)
def test_required_keys_are_those_that_are_read(shaping: Any) -> None:
    """Other keys may be missing, required ones are named when they are."""
    needed = shaping.required_info_keys

    def keep(info: Mapping[str, Any], keys: frozenset[str]) -> dict[str, Any]:
        return {key: value for key, value in info.items() if key in keys}

    def with_keys(keys: frozenset[str]) -> Group:
        turns = tuple(
            Turn(
                action_ids=turn.action_ids,
                action_text=turn.action_text,
                logprobs=turn.logprobs,
                info=keep(turn.info, keys),
                reward=turn.reward,
            )
            for turn in RIGHT.turns
        )
        return Group(
            (
                Trajectory(
                    group_id="g",
                    task_id="t",
                    prompt_ids=(1,),
                    prompt_text=RIGHT.prompt_text,
                    turns=turns,
                    reset_info=RIGHT.reset_info,
                ),
            )
        )

    shaping(with_keys(needed))
    for key in needed:
        with pytest.raises(MissingInfoKeyError, match=key):
            shaping(with_keys(needed - {key}))


@pytest.mark.parametrize("shaping", ALL, ids=lambda each: type(each).__name__)
def test_an_episode_whose_end_was_not_seen_has_rewards(shaping: Any) -> None:
    first = RIGHT.turns[0]
    cut = Trajectory(
        group_id="g",
        task_id="t",
        prompt_ids=(1,),
        prompt_text=RIGHT.prompt_text,
        turns=(first,),
        is_terminated=False,
        is_truncated=True,
        reset_info=RIGHT.reset_info,
    )
    (row,) = rewards_of(shaping, cut)
    assert all(math.isfinite(value) for value in row)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SearchR1Format(structure=2), "structure must be in"),
        (lambda: R1SearcherReward(penalty=-1), "penalty must not be negative"),
        (lambda: R1SearcherReward(stage_one_updates=-1), "stage_one_updates must not be"),
        (lambda: R1SearcherReward(max_answer_words=0), "max_answer_words must be positive"),
        (lambda: OverlongPenalty(max_tokens=5, buffer=6), "buffer must be in"),
        (lambda: OverlongPenalty(counted="words"), "counted must be"),  # type: ignore[arg-type]
        (lambda: StepSearchReward(step_scale=-1), "step_scale must not be negative"),
        (lambda: StepSearchReward(evidence="x"), "evidence must be"),  # type: ignore[arg-type]
        (lambda: StepSearchReward(key_rule="x"), "key_rule must be"),  # type: ignore[arg-type]
        (lambda: EntityReward(alpha=2), "alpha must be in"),
        (lambda: EntityReward(metric="bleu"), "metric must be"),  # type: ignore[arg-type]
        (lambda: EntityReward(threshold=0), "threshold must be in"),
        (lambda: MtPpoRewards(search_cost=-1), "search_cost must not be negative"),
        (lambda: MalformedPenalty(penalty=0.1), "penalty must be at most 0"),
    ],
)
def test_settings_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
