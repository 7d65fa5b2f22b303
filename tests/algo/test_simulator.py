import gymnasium
import pytest

from calibadv_algo.errors import EngineError
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.base import Generation, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.simulator import EngineWriter
from calibadv_env.retrieval.remote.simulated import SimulatedRetriever


class Letters:
    """A tokenizer of code points."""

    chat_template = None

    def encode(self, text, *, add_special_tokens=True):
        return [1] * add_special_tokens + [ord(letter) for letter in text]

    def decode(self, token_ids, *, skip_special_tokens=True):
        return "".join(map(chr, token_ids))


class Echo:
    """Gives the seed and the prompt back, and notes what it is asked."""

    def __init__(self, num_lost=0):
        self.batches, self.open, self.num_lost = [], set(), num_lost

    def generate(self, requests, params):
        self.batches.append((len(requests), params))
        ids = [request.episode_id for request in requests]
        assert len(set(ids)) == len(ids)
        self.open |= set(ids)
        found = [
            Generation((), (), f"{request.seed}:{Letters().decode(request.token_ids[1:])}", "stop")
            for request in requests
        ]
        return found[self.num_lost :]

    def release(self, episode_ids):
        self.open -= set(episode_ids)

    def sync_weights(self, model, version):
        raise AssertionError("a writer has weights of its own")


def test_texts_come_in_order_in_batches_and_nothing_is_kept():
    engine = Echo()
    params = SamplingParams(temperature=0.5, max_tokens=9)
    writer = EngineWriter(engine, Letters(), params=params, max_batch=2)
    prompts = ["a", "b", "a", "c", "d"]
    texts = writer.write(prompts)
    assert [text.partition(":")[2] for text in texts] == prompts
    assert engine.batches == [(2, params), (2, params), (1, params)]
    assert engine.open == set()
    assert writer.write([]) == []


def test_the_seed_depends_on_prompt_and_seed_alone():
    def seeds(prompts, **options):
        texts = EngineWriter(Echo(), Letters(), **options).write(prompts)
        return [int(text.partition(":")[0]) for text in texts]

    first = seeds(["a", "b", "a"])
    assert first[0] == first[2] != first[1]
    assert seeds(["b"]) == seeds(["x", "b"], max_batch=1)[1:] == first[1:2]
    assert seeds(["a"], seed=1) != first[:1]
    assert all(0 <= seed < 2**63 for seed in first)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="max_batch must be positive, got 0"):
        EngineWriter(Echo(), Letters(), max_batch=0)
    with pytest.raises(ValueError, match="seed must not be negative"):
        EngineWriter(Echo(), Letters(), seed=-1)
    with pytest.raises(ValueError, match="chat template"):
        EngineWriter(Echo(), Letters(), chat_template=True).write(["a"])
    engine = Echo(num_lost=1)
    with pytest.raises(EngineError, match="must answer 2 requests, got 1"):
        EngineWriter(engine, Letters()).write(["a", "b"])
    assert engine.open == set()


@pytest.fixture(scope="module")
def shipped():
    return load_policy("atlas-tiny")


def test_a_real_model_writes_passages_for_an_environment(shipped):
    model, tokenizer = shipped
    engine = HfEngine(model, tokenizer, max_slots=4)
    params = SamplingParams(temperature=0.8, max_tokens=24)
    retriever = SimulatedRetriever(
        writer=EngineWriter(engine, tokenizer, params=params, max_batch=4), num_steps=10, end=0.9
    )
    env = gymnasium.make_vec(
        "calibadv_env:DeepSearch-v1", num_envs=3, dataset="toy", retriever=retriever, top_k=2
    )
    env.reset(seed=0, options={"training_progress": 1.0})
    actions = [f"<think>x</think><search>capital {i}</search>" for i in range(3)]
    observations, _, _, _, infos = env.step(actions)
    assert all(text.strip().startswith("<information>") for text in observations)
    assert all(1 <= len(ids) <= 2 for ids in infos["passage_ids"])
    again = retriever.search([f"capital {i}" for i in range(3)], 2)
    assert retriever.search(["capital 1"], 2)[0] == again[1]


def test_a_prompt_that_is_too_long_is_an_error_and_a_long_query_is_cut(shipped):
    model, tokenizer = shipped
    engine = HfEngine(model, tokenizer, max_slots=2)
    writer = EngineWriter(engine, tokenizer, params=SamplingParams(max_tokens=4))
    with pytest.raises(EngineError):
        writer.write(["x " * engine.max_context])
    retriever = SimulatedRetriever(writer=writer, num_steps=1, max_query_chars=100)
    assert retriever.search(["Nile " * 200_000], 1)
