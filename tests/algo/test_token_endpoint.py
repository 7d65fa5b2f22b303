"""An endpoint that takes and gives token ids: what is sent, what is read, and every fault."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from calibadv_algo.cli.policies import TokenEndpointPolicy, settle
from calibadv_algo.cli.policy_flags import PolicyFlags
from calibadv_algo.errors import EngineError
from calibadv_algo.learner.pretrained import load_tokenizer
from calibadv_algo.rollout.engines.base import Generation, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.openai.engine import EndpointConfig
from calibadv_algo.rollout.engines.openai.tokens import TokenEndpointEngine, served_context
from calibadv_env.common.http import HttpSettings

STOP = ("</search>", "</answer>")
SEARCH = "<think> t</think><search> where</search>"
CALLS = HttpSettings(timeout_s=2.0, max_retries=0)


def load_endpoint() -> ModuleType:
    """The module beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("endpoint", Path(__file__).parent / "endpoint.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["endpoint"] = module
    spec.loader.exec_module(module)
    return module


server = load_endpoint()
tokenizer: Any = load_tokenizer("atlas-tiny")


def config_of(endpoint: Any, model: str = "m") -> EndpointConfig:
    return EndpointConfig(url=endpoint.url, model=model, route="completions", calls=CALLS)


def ask(endpoint: Any, *, temperature: float = 1.0, length: int = 5) -> Generation:
    engine = TokenEndpointEngine(config_of(endpoint), tokenizer, 64)
    params = SamplingParams(temperature=temperature, max_tokens=60, stop=STOP)
    request = GenerationRequest("e", tuple(range(5, 5 + length)), 7 + (1 << 40))
    [turn] = engine.generate([request], params)
    engine.close()
    return turn


def test_tokens_go_both_ways_and_nothing_is_left_to_the_servers_settings() -> None:
    with server.serve(lambda body: SEARCH, encode=tokenizer.encode) as endpoint:
        turn = ask(endpoint)
    [body] = endpoint.bodies
    assert endpoint.paths == ["/v1/completions"]
    assert body["prompt"] == [5, 6, 7, 8, 9]
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, -1, 0)
    assert body["repetition_penalty"] == 1.0
    assert body["seed"] == 7 + (1 << 40)
    assert body["max_tokens"] == 59, "no further than the context"
    assert (turn.text, turn.finish_reason) == (SEARCH, "stop")
    assert turn.token_ids == tuple(tokenizer.encode(SEARCH))
    assert set(turn.logprobs) == {-0.5}


def test_a_turn_that_runs_past_its_stop_string_keeps_its_tokens() -> None:
    ids = [*tokenizer.encode(SEARCH), *tokenizer.encode(" more")]
    with server.serve(lambda body: SEARCH, encode=lambda text: ids) as endpoint:
        turn = ask(endpoint)
    assert (turn.text, turn.finish_reason, list(turn.token_ids)) == (SEARCH, "stop", ids)


def test_a_token_that_ends_a_turn_is_no_part_of_its_text() -> None:
    ids = [*tokenizer.encode("Oslo"), tokenizer.eos_token_id]
    with server.serve(lambda body: "Oslo", encode=lambda text: ids) as endpoint:
        turn = ask(endpoint, temperature=0.0)
    assert (turn.text.strip(), turn.finish_reason, list(turn.token_ids)) == ("Oslo", "eos", ids)
    assert "seed" not in endpoint.bodies[0]


def test_a_server_without_token_ids_is_refused() -> None:
    with (
        server.serve(lambda body: SEARCH) as endpoint,
        pytest.raises(EngineError, match=r"gave no token ids .* return_token_ids"),
    ):
        ask(endpoint)


def test_tokens_of_another_tokenizer_are_refused() -> None:
    with (
        server.serve(lambda body: SEARCH, encode=lambda text: [9, 10, 11]) as endpoint,
        pytest.raises(EngineError, match="not those of this tokenizer"),
    ):
        ask(endpoint)


def test_a_context_that_is_too_long_is_not_sent() -> None:
    with server.serve(lambda body: SEARCH, encode=tokenizer.encode) as endpoint:
        with pytest.raises(EngineError, match="1 to 63 tokens"):
            ask(endpoint, length=64)
        assert endpoint.bodies == []


def test_the_server_says_how_much_its_model_reads() -> None:
    with server.serve(lambda body: "", max_model_len=300) as endpoint:
        assert served_context(config_of(endpoint)) == 300
        with pytest.raises(EngineError, match="serves m, not 'other'"):
            served_context(config_of(endpoint, "other"))
        policy = TokenEndpointPolicy(config=config_of(endpoint), tokenizer="atlas-tiny")
        play = settle(policy, PolicyFlags().env, max_tokens=None, max_context=None)
        assert play.env.prompt == "question", "as the tokenizer's folder says"
        assert policy.open(play).max_context == 300
        longer = settle(policy, PolicyFlags().env, max_tokens=None, max_context=400)
        with pytest.raises(ValueError, match="at most the endpoint's 300"):
            policy.open(longer)
    with server.serve(lambda body: "", max_model_len=None) as endpoint:
        assert served_context(config_of(endpoint)) is None
    with pytest.raises(EngineError):
        served_context(EndpointConfig(url="http://127.0.0.1:9/v1", model="m", calls=CALLS))


def test_it_takes_no_weights() -> None:
    config = EndpointConfig(url="http://127.0.0.1:9/v1", model="m", calls=CALLS)
    engine = TokenEndpointEngine(config, tokenizer, 64)
    with pytest.raises(EngineError, match="takes no weights"):
        engine.sync_weights(torch.nn.Linear(1, 1), 1)


def test_what_it_is_called_tells_tokenizers_apart(tmp_path: Path) -> None:
    config = EndpointConfig(url="http://h/v1", model="m", calls=CALLS)
    one = TokenEndpointPolicy(config=config, tokenizer="atlas-tiny").identity()
    tokenizer.save_pretrained(tmp_path)
    two = TokenEndpointPolicy(config=config, tokenizer=str(tmp_path)).identity()
    assert one["route"] == "tokens"
    assert json.dumps(one) != json.dumps(two)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"endpoint_route": "tokens"}, "needs an endpoint"),
        ({"endpoint": "http://h/v1", "endpoint_route": "tokens"}, "endpoint_tokenizer must name"),
        (
            {"endpoint": "http://h/v1", "endpoint_tokenizer": "atlas-tiny"},
            "needs endpoint_route tokens",
        ),
    ],
)
def test_flags_that_need_each_other(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolicyFlags(**flags)
