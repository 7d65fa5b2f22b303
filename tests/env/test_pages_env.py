"""Environments of pages: rules, facts, budgets, and both shells."""

import math
import pickle

import gymnasium
import numpy as np
import pytest

from calibadv_env.data.base import QATask, TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.info import CALL_KINDS, PagesResetInfo, PagesStepInfo
from calibadv_env.pages.env import DeepSearchPagesEnv
from calibadv_env.pages.vector import DeepSearchPagesVectorEnv
from calibadv_env.protocol.page_tools import INVALID_PAGE_CALL_TEXT, PageToolGrammar
from calibadv_env.protocol.passages import Passage
from calibadv_env.protocol.prompts import INVALID_PAGE_TEXT
from calibadv_env.retrieval.bm25.memory import Bm25Retriever
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.pages import PageStore
from calibadv_env.wrappers import ChatObservation, ToolCalls

CORPUS = Corpus(
    [
        Passage("norway", "Norway", "A kingdom that borders [Sweden](sweden)."),
        Passage("norway#area", "Norway: Area", "total: 323,802 sq km; " + "land and water " * 20),
        Passage("sweden", "Sweden", "A kingdom in the north."),
        Passage("sweden#area", "Sweden: Area", "total: 450,295 sq km"),
    ]
)
TASK = QATask(
    id="t",
    question="How large is the country that Norway borders?",
    golden_answers=("450,295 sq km", "450,295"),
    gold_passages=(("norway",), ("sweden#area",)),
    hops=2,
    metadata={"answer_kind": "number"},
)
DATA = Dataset(
    name="two-pages",
    splits=("train",),
    load_tasks=lambda split: TaskSet([TASK], name="two-pages", split=split),
    load_corpus=lambda: CORPUS,
)


def turn(*calls: tuple[str, str]) -> str:
    return "<think>t</think>" + "".join(f"<{kind}>{text}</{kind}>" for kind, text in calls)


def play(*turns: str, **options):
    env = DeepSearchPagesEnv(dataset=DATA, **options)
    env.reset(seed=0)
    return [env.step(each) for each in turns]


def test_an_episode_from_search_to_answer():
    steps = play(
        turn(("search", "Norway kingdom")),
        turn(("open", "norway")),
        turn(("open", "sweden#area")),
        turn(("find", "total")),
        turn(("answer", "450,295 sq km")),
        max_observation_chars=200,
    )
    infos = [step[-1] for step in steps]
    assert [info["action"] for info in infos] == ["search", "open", "open", "find", "answer"]
    assert infos[0]["passage_ids"][0] == "norway"
    assert [info["opened_ids"] for info in infos[1:3]] == [("norway",), ("sweden#area",)]
    assert [info["gold_recall"] for info in infos] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert [info["hops_read"] for info in infos[:3]] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert [info["gold_opened"] for info in infos[1:3]] == [("norway",), ("sweden#area",)]
    assert infos[1]["links"] == ("sweden",)
    assert [info["answer_in_passages"] for info in infos] == [False, False, True, True, False]
    assert steps[1][0].strip() == (
        "<information>norway (Norway)\nA kingdom that borders Sweden.\nLinks: sweden\n"
        "More at norway#area</information>"
    )
    assert steps[3][0].strip() == "<information>sweden#area: total: 450,295 sq km</information>"
    assert steps[-1][1:4] == (1.0, True, False)
    assert infos[-1]["is_format_valid"]


def test_a_search_that_finds_and_an_open_that_reads_each_count_as_new_gold():
    steps = play(turn(("search", "kingdom")), turn(("open", "norway")), turn(("open", "norway")))
    assert [step[-1]["gold_new"] for step in steps] == [("norway",), ("norway",), ()]
    assert [step[-1]["num_repeats"] for step in steps] == [0, 0, 1]


def test_what_is_not_there_is_an_observation():
    steps = play(
        turn(("find", "x")), turn(("open", "norwai")), turn(("open", "sweden")), turn(("find", "x"))
    )
    texts = [step[0] for step in steps]
    assert "No page is open" in texts[0]
    assert "There is no page 'norwai'. Near: norway" in texts[1]
    assert "No sentence of sweden has these words: x" in texts[3]
    assert [step[-1]["num_missing"] for step in steps] == [1, 1, 0, 1]
    assert [step[-1]["page"] for step in steps] == ["", "", "sweden", "sweden"]
    assert [step[-1]["num_calls"] for step in steps] == [0, 1, 2, 3]


def test_several_calls_of_a_turn_share_the_room():
    both = turn(("open", "norway#area"), ("find", "land"))
    [(text, *_, info)] = play(both, max_calls=2, max_observation_chars=200)
    assert info["calls"] == ("open", "find")
    assert info["arguments"] == ("norway#area", "land")
    assert all(len(result) <= 100 for result in info["results"])
    assert text.strip() == f"<information>{info['results'][0]}\n{info['results'][1]}</information>"
    [(text, *_, info)] = play(both + "<find>x</find>", max_calls=2)
    assert "Not carried out: more than 2 calls in a turn." in text
    assert info["num_calls"] == 2


def test_budgets_end_calls_but_not_the_episode():
    opened = turn(("open", "norway#area"))
    steps = play(opened, opened, turn(("answer", "450,295")), call_budget=1)
    assert "no calls left" in steps[1][0]
    assert [step[-1]["calls_left"] for step in steps] == [0, 0, 0]
    assert [step[-1]["turns_left"] for step in steps] == [11, 10, 9]
    assert steps[-1][1] == 1.0
    steps = play(opened, opened, char_budget=30)
    assert steps[0][-1]["chars_left"] == 0
    assert "no calls left" in steps[1][0]
    assert steps[1][-1]["opened_ids"] == ()


@pytest.mark.parametrize("max_chars", [100, 150, 1000])
def test_observations_keep_to_their_room(max_chars):
    calls = [("search", "kingdom area"), ("open", "norway#area"), ("find", "land water")]
    for step in play(*[turn(call) for call in calls], max_observation_chars=max_chars):
        body = step[0].strip().removeprefix("<information>").removesuffix("</information>")
        assert 0 < len(body) <= max_chars


def test_a_call_in_the_last_turn_is_not_carried_out():
    steps = play(turn(("open", "norway")), turn(("open", "sweden")), max_turns=1)
    text, reward, terminated, truncated, info = steps[1]
    assert (text, reward, terminated, truncated) == ("", 0.0, False, True)
    assert (info["stop_reason"], info["opened_ids"], info["calls"]) == ("no_answer", (), ("open",))


def test_malformed_actions_follow_the_rule():
    [(text, *_, info)] = play("norway")
    assert (text, info["stop_reason"]) == (INVALID_PAGE_TEXT, "malformed")
    [(text, *_, info)] = play("norway", invalid_action="continue")
    assert (text, info["stop_reason"]) == (INVALID_PAGE_TEXT, None)


def test_an_answer_without_a_call_has_no_valid_format():
    [(_, reward, *_, info)] = play(turn(("answer", "450,295")))
    assert (reward, info["is_format_valid"]) == (0.0, False)


def test_infos_hold_the_documented_keys():
    env = DeepSearchPagesEnv(dataset=DATA)
    _, info = env.reset(seed=0)
    assert set(info) == set(PagesResetInfo.__annotations__)
    final = {"em", "f1", "cover_em", "is_format_valid"}
    usual = set(PagesStepInfo.__annotations__) - {"gold_similarity"}
    assert set(env.step(turn(("open", "norway")))[-1]) == usual - final
    assert set(env.step(turn(("answer", "x")))[-1]) == usual
    assert set(CALL_KINDS) == {"search", "open", "find"}


def test_the_prompt_says_how_many_calls_a_turn_has():
    for max_calls, words in ((1, "make one call or"), (3, "make up to 3 calls or")):
        text, info = DeepSearchPagesEnv(dataset=DATA, max_calls=max_calls).reset(seed=0)
        assert words in text
        assert info["max_calls"] == max_calls
    text, _ = DeepSearchPagesEnv(dataset=DATA, prompt="{calls}? {question}").reset(seed=0)
    assert text == f"{{calls}}? {TASK.question}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_calls": 0}, "max_calls"),
        ({"call_budget": 0}, "call_budget"),
        ({"char_budget": -1}, "char_budget"),
        ({"max_observation_chars": 10}, "max_observation_chars"),
        ({"max_observation_chars": None}, "max_observation_chars"),
        ({"prompt": "r1_searcher"}, "markers"),
        ({"prompt": "no slot"}, "prompt"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeepSearchPagesEnv(dataset=DATA, **options)


class Counting(PageStore):
    """A store that counts the batches that it is asked for."""

    def __init__(self) -> None:
        super().__init__(CORPUS, Bm25Retriever(CORPUS))
        self.batches: list[tuple[str, int]] = []

    def search_for(self, queries, top_k, tasks):
        self.batches.append(("search", len(queries)))
        return super().search_for(queries, top_k, tasks)

    def open(self, places, max_chars=1000):
        self.batches.append(("open", len(places)))
        return super().open(places, max_chars)

    def find(self, requests, max_chars=1000):
        self.batches.append(("find", len(requests)))
        return super().find(requests, max_chars)


def test_the_pages_are_asked_once_a_step_for_each_kind():
    store = Counting()
    env = DeepSearchPagesVectorEnv(3, dataset=DATA, retriever=store, max_calls=2)
    env.reset(seed=0)
    opened = turn(("open", "norway"), ("search", "x"))
    env.step([opened, opened, turn(("open", "sweden"), ("find", "x"))])
    assert store.batches == [("search", 2), ("open", 3), ("find", 1)]


SCRIPTS = [
    [turn(("search", "kingdom")), turn(("open", "norway")), turn(("answer", "450,295"))],
    [turn(("open", "sweden#area")), turn(("find", "km")), turn(("answer", "1"))],
    [turn(("find", "a")), "nonsense", ""],
]


@pytest.mark.parametrize("options", [{}, {"max_calls": 2}, {"prepend_think": True}])
def test_single_and_vector_agree(options):
    vector = DeepSearchPagesVectorEnv(3, dataset=DATA, **options)
    singles = [DeepSearchPagesEnv(dataset=DATA, **options) for _ in SCRIPTS]
    texts, _ = vector.reset(seed=5)
    assert list(texts) == [env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]
    running = [True] * 3
    for actions in zip(*SCRIPTS, strict=True):
        texts, rewards, terminated, truncated, infos = vector.step(actions)
        for slot, (env, action) in enumerate(zip(singles, actions, strict=True)):
            if not running[slot]:
                continue
            text, reward, end, cut, info = env.step(action)
            assert (texts[slot], rewards[slot]) == (text, reward)
            assert (terminated[slot], truncated[slot]) == (end, cut)
            assert {key: infos[key][slot] for key in info} == info
            running[slot] = not (end or cut)
    assert infos["num_calls"].dtype == np.int64


def test_an_episode_can_be_copied_and_pickled():
    env = gymnasium.make("DeepSearch-Pages-v0", dataset="toy").unwrapped
    env.reset(seed=0)
    env.step(turn(("search", "who")))
    saved, copy = env.clone_state(), pickle.loads(pickle.dumps(env))
    after = [each.step(turn(("search", "who"))) for each in (env, copy)]
    assert after[0] == after[1]
    assert after[0][-1]["num_repeats"] == 1
    env.restore_state(saved)
    assert env.step(turn(("search", "who"))) == after[0]


def test_calls_and_their_results_become_messages():
    env = ChatObservation(
        ToolCalls(
            DeepSearchPagesEnv(dataset=DATA, max_calls=2), grammar=PageToolGrammar(max_calls=2)
        )
    )
    env.reset(seed=0)
    names = (("open", '{"page": "norway"}'), ("find", '{"words": "kingdom"}'))
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(names)
    ]
    messages, *_, info = env.step({"role": "assistant", "content": "hm", "tool_calls": calls})
    results = [(each["tool_call_id"], each["content"]) for each in messages[-2:]]
    assert results == [("c0", info["results"][0]), ("c1", info["results"][1])]
    env = ToolCalls(DeepSearchPagesEnv(dataset=DATA), grammar=PageToolGrammar())
    env.reset(seed=0)
    assert env.step("<tool_call>{</tool_call>")[0] == INVALID_PAGE_CALL_TEXT


def test_tasks_without_gold_have_no_recall():
    bare = QATask(id="b", question="?", golden_answers=("x",))
    data = Dataset(
        name="bare-pages",
        splits=("train",),
        load_tasks=lambda split: TaskSet([bare], name="bare-pages", split=split),
        load_corpus=lambda: CORPUS,
    )
    env = DeepSearchPagesEnv(dataset=data)
    _, info = env.reset(seed=0)
    assert info["answer_kind"] == ""
    info = env.step(turn(("open", "norway")))[-1]
    assert math.isnan(info["gold_recall"])
    assert info["hops_read"] == ()


def test_a_reward_of_words_alone_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="answers of pages are made for 'typed'"):
        DeepSearchPagesEnv(reward="f1")
