import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import calibadv_env  # noqa: F401
from calibadv_env.common.http import HttpSettings
from calibadv_env.data.registry import get_dataset
from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval import Retriever, make_retriever
from calibadv_env.retrieval.base import TaskRetriever, search_with_tasks
from calibadv_env.retrieval.cache import CachedRetriever
from calibadv_env.retrieval.remote.simulated import (
    RULES,
    ChatWriter,
    ScriptedWriter,
    SimulatedRetriever,
    noise_probability,
    simulated_from_spec,
    simulation_prompt,
    written_passages,
)

VECTORS = json.loads(
    (Path(__file__).parents[2] / "conformance" / "data" / "misc_vectors.json").read_text(
        encoding="utf-8"
    )
)["outputs"]
CURRICULUM = {name: value for name, value in VECTORS.items() if name.startswith("zerosearch_p_")}
TASKS = [
    SimpleNamespace(question=f"question {i}?", golden_answers=(f"answer {i}", f"other {i}"))
    for i in range(3)
]


def echo(prompt):
    """Passages that show what the model was told."""
    lines = prompt.splitlines()
    kind = "useful" if RULES["useful"] in prompt else "noisy"
    told = [line for line in lines if line.startswith(("Query:", "The person", "The right"))]
    return "".join(f"Doc {k}: {kind} {k} | {' | '.join(told)}\n" for k in range(1, 6))


def simulator(**options):
    return SimulatedRetriever(**{"writer": ScriptedWriter(echo), "num_steps": 100, **options})


# The curriculum ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURRICULUM)
def test_the_curriculum_is_that_of_the_reference(name):
    step, num_steps, start, end = (float(part) for part in name.split("_")[2:])
    ours = noise_probability(int(step), int(num_steps), start=start, end=end)
    assert ours == pytest.approx(CURRICULUM[name], abs=6e-8)


def test_there_are_vectors():
    assert len(CURRICULUM) >= 5


def test_the_curriculum_by_hand():
    assert noise_probability(1, 2, start=0.25, end=1.0) == pytest.approx(0.25 + 0.75 / 3)
    assert noise_probability(1, 2, base=1.0) == 0.25
    assert noise_probability(300, 203) == 0.5


@given(
    steps=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    ends=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    base=st.floats(0.1, 50),
)
def test_the_curriculum_goes_from_start_to_end_and_never_back(steps, ends, base):
    start, end = sorted(ends)
    early, late = (
        noise_probability(step, 250, start=start, end=end, base=base) for step in sorted(steps)
    )
    assert start - 1e-9 <= early <= late + 1e-9 <= end + 2e-9
    assert noise_probability(0, 250, start=start, end=end, base=base) == start
    assert noise_probability(250, 250, start=start, end=end, base=base) == pytest.approx(end)


@pytest.mark.parametrize(
    "settings",
    [{"step": -1}, {"num_steps": 0}, {"start": -0.1}, {"end": 1.1}, {"base": 0}],
)
def test_a_curriculum_out_of_range_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        noise_probability(**{"step": 0, "num_steps": 1, **settings})
    with pytest.raises(ValueError, match=next(iter(settings))):
        simulator(**settings)


# The retriever ----------------------------------------------------------------------------


def texts(found):
    return [[hit.passage.text for hit in one] for one in found]


def test_each_query_is_answered_for_its_own_task():
    retriever = simulator()
    assert isinstance(retriever, Retriever)
    assert isinstance(retriever, TaskRetriever)
    queries = ["q2", "q0", "q0"]
    found = retriever.search_for(queries, 2, [TASKS[2], TASKS[0], TASKS[1]])
    for one, query, number in zip(found, queries, (2, 0, 1), strict=True):
        assert len(one) == 2
        for hit in one:
            assert f"question {number}?" in hit.passage.text
            assert f"answer {number} or other {number}" in hit.passage.text
            assert f"Query: {query}" in hit.passage.text
    assert [hit.score for hit in found[0]] == [1.0, 0.5]


def test_without_tasks_the_model_sees_the_query_alone():
    found = simulator().search(["what"], 5)[0]
    assert len(found) == 5
    assert found[0].passage.text == "useful 1 | Query: what"


def test_noise_comes_as_often_as_the_curriculum_says():
    queries = [f"query {i}" for i in range(2000)]
    retriever = simulator(start=0.0, end=0.5)
    for step, share in ((0, 0.0), (50, 1 / 6), (100, 0.5)):
        retriever.step = step
        noisy = sum(text[0].startswith("noisy") for text in texts(retriever.search(queries, 1)))
        assert noisy / 2000 == pytest.approx(share, abs=0.04)


def test_the_draw_depends_on_nothing_but_seed_step_query_and_task():
    queries = [f"query {i}" for i in range(40)]
    tasks = [TASKS[i % 3] for i in range(40)]
    retriever = simulator(start=0.5)
    whole = retriever.search_for(queries, 3, tasks)
    alone = [
        retriever.search_for([query], 3, [task])[0]
        for query, task in zip(reversed(queries), reversed(tasks), strict=True)
    ]
    assert whole == alone[::-1]
    assert pickle.loads(pickle.dumps(simulator(writer=None, start=0.5))).quality(
        "q", TASKS[0]
    ) == retriever.quality("q", TASKS[0])
    drawn = [retriever.quality(query, None) for query in queries]
    assert drawn != [simulator(start=0.5, seed=1).quality(query, None) for query in queries]
    assert drawn != [simulator(start=0.5, step=1).quality(query, None) for query in queries]


def test_equal_prompts_are_written_once():
    prompts = []

    def write(prompt):
        prompts.append(prompt)
        return "Doc 1: x"

    simulator(writer=ScriptedWriter(write)).search_for(
        ["q", "q", "q"], 2, [TASKS[0]] * 2 + TASKS[:1]
    )
    assert len(prompts) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Doc 1: a\nDoc 2: b\nDoc 3: c", ["a", "b"]),
        ("Sure!\n\n**Doc 1**: a\n  more\nDocument 2. b", ["a more", "b"]),
        ("just a text\nof two lines", ["just a text of two lines"]),
        ("Doc 1: a\nDoc 2:   \nDoc 3: a\nDoc 4: d", ["a", "d"]),
        ("Doc 1: see Doc 2: here", ["see Doc 2: here"]),
    ],
)
def test_what_the_model_wrote_is_taken_apart(text, wanted):
    found = written_passages(text, "q", 2)
    assert [hit.passage.text for hit in found] == wanted
    assert len({hit.passage.id for hit in found}) == len(found)


@pytest.mark.parametrize("text", ["", " \n", "Doc 1:\nDoc 2: "])
def test_nothing_written_is_an_error(text):
    with pytest.raises(RetrieverError, match="wrote no passage for the query 'q'"):
        written_passages(text, "q", 2)


def test_a_query_with_braces_is_taken_as_it_is():
    assert "Query: {count} {x}" in simulation_prompt("{count} {x}", TASKS[0], "noisy", 3)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="sequence of strings"):
        simulator().search("text", 3)
    with pytest.raises(ValueError, match="top_k"):
        simulator().search(["a"], 0)
    with pytest.raises(ValueError, match="one a query, got 1 for 2"):
        simulator().search_for(["a", "b"], 1, TASKS[:1])
    silent = SimpleNamespace(write=lambda prompts: [])
    with pytest.raises(RetrieverError, match="all 1 prompts, got 0"):
        simulator(writer=silent).search(["a"], 1)


# In environments --------------------------------------------------------------------------


def test_other_retrievers_are_not_told_the_task():
    plain = SimpleNamespace(search=lambda queries, top_k: [queries, top_k])
    assert search_with_tasks(plain, ["a"], 2, TASKS[:1]) == [["a"], 2]


def test_environments_tell_the_question_of_the_episode_even_when_others_have_ended():
    num_envs = 6
    env = gymnasium.make_vec(
        "calibadv_env:DeepSearch-v1", num_envs=num_envs, dataset="toy", retriever=simulator()
    )
    _, infos = env.reset(seed=0)
    questions = list(infos["question"])
    assert len(set(questions)) > 3
    search, answer = "<think>x</think><search>q</search>", "<think>x</think><answer>a</answer>"
    running = {0, 1, 2, 3, 4, 5}
    for ends in ({0, 2}, {3}, set()):
        actions = [answer if slot in ends else search for slot in range(num_envs)]
        observations, *_ = env.step(actions)
        running -= ends
        for slot in range(num_envs):
            assert (questions[slot] in observations[slot]) == (slot in running)
    single = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=simulator())
    _, info = single.reset(seed=5)
    observation, *_ = single.step(search)
    assert info["question"] in observation
    assert info["golden_answers"][0] in observation


def test_a_simulated_run_is_replayed_without_its_model(tmp_path):
    path = tmp_path / "answers"
    recorded = CachedRetriever(simulator(start=0.5, name="m"), path, "record")
    queries = [f"q{i}" for i in range(9)]
    tasks = [TASKS[i % 3] for i in range(9)]
    wanted = []
    for step in range(3):
        recorded.inner.step = step
        wanted.append(recorded.search_for(queries, 2, tasks))
    assert any(one != other for one, other in zip(wanted[0], wanted[2], strict=True))

    def write(prompt):
        raise RetrieverError("the model is not there")

    absent = simulator(writer=ScriptedWriter(write), start=0.5, name="m")
    replayed = CachedRetriever(absent, path, "replay")
    for step in range(3):
        absent.step = step
        assert replayed.search_for(queries, 2, tasks) == wanted[step]
    with pytest.raises(RetrieverError, match="the first is 'q0'"):
        replayed.search_for(["q0"], 2, [TASKS[1]])


class Probe:
    """Notes how far the training was for each search."""

    def __init__(self):
        self.seen = []

    def search(self, queries, top_k):
        raise AssertionError("environments tell the task")

    def search_for(self, queries, top_k, tasks):
        self.seen.append([getattr(task, "training_progress", None) for task in tasks])
        return [[] for _ in queries]


SEARCH = "<think>x</think><search>q</search>"


def test_a_training_tells_each_episode_how_far_it_is():
    probe = Probe()
    env = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy", retriever=probe)
    for progress in (0.25, None, 1):
        env.reset(seed=0, options={"training_progress": progress})
        env.step(SEARCH)
        env.step(SEARCH)
    env.reset(seed=0, options={"task_index": 1})
    env.step(SEARCH)
    assert probe.seen == [[0.25]] * 2 + [[None]] * 2 + [[1.0]] * 2 + [[None]]


def test_episodes_of_several_updates_run_side_by_side():
    probe = Probe()
    env = gymnasium.make_vec(
        "calibadv_env:DeepSearch-v1", num_envs=3, dataset="toy", retriever=probe
    )
    env.reset(seed=0, options={"training_progress": 0.1})
    mask = np.array([False, True, False])
    env.reset(options={"training_progress": [None, 0.2, None], "reset_mask": mask})
    env.step([SEARCH] * 3)
    env.restore_state(2, env.clone_state(1))
    env.step([SEARCH] * 3)
    assert probe.seen == [[0.1, 0.2, 0.1], [0.1, 0.2, 0.2]]
    copy = pickle.loads(pickle.dumps(env))
    copy.step([SEARCH] * 3)
    assert copy._world.retriever.seen[-1] == [0.1, 0.2, 0.2]


def test_the_option_is_advertised_and_checked():
    single = gymnasium.make("calibadv_env:DeepSearch-v1", dataset="toy")
    vector = gymnasium.make_vec("calibadv_env:DeepSearch-v1", num_envs=2, dataset="toy")
    for env in (single, vector):
        assert "training_progress" in env.metadata["reset_options"]
        for wrong in (-0.1, 1.1, float("nan"), True, "half"):
            with pytest.raises(ValueError, match="training_progress"):
                env.reset(options={"training_progress": wrong})
    with pytest.raises(ValueError, match="must be one value or 2, got"):
        vector.reset(options={"training_progress": [0.1]})


def test_the_curriculum_follows_the_training():
    queries = [f"query {i}" for i in range(400)]
    retriever = simulator(start=0.0, end=1.0, base=1)
    shares = []
    for progress in (0.0, 0.5, 1.0):
        tasks = [SimpleNamespace(**vars(TASKS[0]), training_progress=progress)] * len(queries)
        found = retriever.search_for(queries, 1, tasks)
        shares.append(sum(text[0].startswith("noisy") for text in texts(found)) / len(queries))
        assert retriever.step_of(tasks[0]) == progress * 100
    assert shares[0] == 0.0
    assert shares[1] == pytest.approx(0.5, abs=0.08)
    assert shares[2] == 1.0
    assert retriever.step == 0


def test_the_progress_is_part_of_what_is_recorded(tmp_path):
    asked = []

    def write(prompt):
        asked.append(prompt)
        return "Doc 1: x"

    inner = simulator(writer=ScriptedWriter(write), start=0.0, end=1.0, base=1)
    recorded = CachedRetriever(inner, tmp_path / "answers")
    for progress in (0.0, 1.0, 1.0):
        task = SimpleNamespace(**vars(TASKS[0]), training_progress=progress)
        recorded.search_for(["q"], 1, [task])
    assert [RULES["useful"] in prompt for prompt in asked] == [True, False]


def test_a_long_query_is_cut_for_the_model():
    asked = []

    def write(prompt):
        asked.append(prompt)
        return "Doc 1: x"

    simulator(writer=ScriptedWriter(write), max_query_chars=10).search(["ab" * 500_000], 1)
    assert "Query: ababababab\n" in asked[0]
    with pytest.raises(ValueError, match="max_query_chars must be positive, got 0"):
        simulator(max_query_chars=0)


# A model behind HTTP ----------------------------------------------------------------------


@pytest.fixture
def chat_server():
    """An OpenAI-compatible server in small; `server.replies` overrides what it says."""
    pytest.importorskip("httpx")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            record = json.loads(self.rfile.read(int(self.headers["content-length"])))
            server.asked.append((self.path, dict(self.headers), record))
            text = echo(record["messages"][0]["content"])
            reply = {"choices": [{"message": {"role": "assistant", "content": text}}]}
            status, body = 200, json.dumps(reply).encode()
            if server.replies:
                status, body = server.replies.pop(0)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked, server.replies = [], []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def writer(server, **options):
    settings = HttpSettings(backoff_s=0.01, max_retries=2, timeout_s=5)
    return ChatWriter(server.url, "some-model", settings=settings, **options)


def test_a_model_behind_http_writes(chat_server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "k123")
    retriever = simulator(writer=writer(chat_server, api_key_variable="SOME_KEY"))
    queries = [f"q{i}" for i in range(6)]
    tasks = [TASKS[i % 3] for i in range(6)]
    assert retriever.search_for(queries, 3, tasks) == simulator().search_for(queries, 3, tasks)
    path, headers, record = chat_server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == "Bearer k123"
    assert (record["model"], record["temperature"], record["max_tokens"]) == (
        "some-model",
        0.8,
        600,
    )
    assert b"k123" not in pickle.dumps(retriever)
    assert writer(chat_server).write([]) == []


def test_no_key_is_sent_where_there_is_none(chat_server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    writer(chat_server).write(["a"])
    assert "authorization" not in {name.lower() for name in chat_server.asked[0][1]}


def test_a_busy_model_is_asked_again_and_a_broken_one_is_an_error(chat_server):
    chat_server.replies = [(429, b"busy"), (200, b"garbage")]
    assert writer(chat_server).write(["a"])[0].startswith("Doc 1")
    assert len(chat_server.asked) == 3
    chat_server.replies = [(500, b"broken")] * 3
    with pytest.raises(RetrieverError, match="status 500: broken"):
        writer(chat_server).write(["a"])
    for body in (b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}'):
        chat_server.replies = [(200, body)]
        with pytest.raises(RetrieverError, match="message"):
            writer(chat_server).write(["a"])


def test_settings_of_a_model_are_checked():
    pytest.importorskip("httpx")
    for settings, message in (
        ({"base_url": "h"}, "base_url"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            ChatWriter(**{"base_url": "http://h", "model": "m", **settings})


def test_a_simulated_search_is_made_from_one_string(chat_server):
    retriever = make_retriever(
        f"simulated:{chat_server.url}#model=a%2Fb&end=0.7&num_steps=20&temperature=0.1&seed=5",
        get_dataset("toy").corpus(),
    )
    assert (retriever.num_steps, retriever.start, retriever.end) == (20, 0.0, 0.7)
    assert retriever.identity()["name"] == f"{chat_server.url} a/b"
    assert retriever.search_for(["q"], 1, TASKS[:1])
    record = chat_server.asked[0][2]
    assert (record["model"], record["temperature"], record["seed"]) == ("a/b", 0.1, 5)
    for spec, message in (
        ("simulated:http://h/v1", "must name the model"),
        ("simulated:http://h/v1#model=m&color=red", "must be among model, .*got 'color'"),
        ("simulated:http://h/v1#model=m&end=high", "end in .* must be a float, got 'high'"),
        ("simulated:h#model=m", "base_url must begin with http"),
        ("simulated:http://h/v1#model=m&end=2", r"end must be in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            simulated_from_spec(spec)
