"""CalibAdv in verl: an agent loop over environments in text, an estimator, a trainer.

verl hands an estimator rewards, masks and group ids, and nothing that says what a turn found. So
the agent loop sends the facts of its turns along in the field ``calibadv_turns``, and they are
put in the estimator's reach round the call: by `TurnFactsTrainer` in verl's trainers, by
`compute_advantage` elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import uuid4

import numpy as np
from jaxtyping import Float
from torch import Tensor

from calibadv_algo.integrations.advantages import TurnAdvantages
from calibadv_algo.integrations.completions import (
    completion_of,
    spread_turns,
    trajectory_of,
)
from calibadv_algo.integrations.versions import (
    MACHINE_FAILURES,
    VERL,
    errors_named,
    part_of,
)
from calibadv_algo.rollout.engines.base import Generation, SamplingParams
from calibadv_algo.rollout.episodes import DriverConfig, Episode, EpisodeBook, EpisodeSpec
from calibadv_algo.rollout.slots import EnvSlots, SlotStart, make_slots
from calibadv_algo.training.collection import close_overflow
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.types import Trajectory
from calibadv_env.common.peers import require

require(VERL)
_AGENT_LOOP: Final = "verl.experimental.agent_loop.agent_loop"
AgentLoopBase: Any = part_of(_AGENT_LOOP, "AgentLoopBase")
AgentLoopOutput: Any = part_of(_AGENT_LOOP, "AgentLoopOutput")
AgentLoopMetrics: Any = part_of(_AGENT_LOOP, "AgentLoopMetrics")
_register_loop: Any = part_of(_AGENT_LOOP, "register")
_register_estimator: Any = part_of("verl.trainer.ppo.core_algos", "register_adv_est")

FACTS: Final = "calibadv_turns"
"""Field of verl's batches that holds, for each row, what `turns_of` wrote."""

Estimate = Callable[..., tuple[Tensor, Tensor]]
"""An estimator as verl calls it."""

_facts: ContextVar[Sequence[Sequence[Mapping[str, Any]] | None] | None] = ContextVar(
    FACTS, default=None
)


@contextmanager
def turn_facts(rows: Sequence[Sequence[Mapping[str, Any]] | None]) -> Iterator[None]:
    """Facts of a batch for the estimators called within the block.

    Args:
        rows: For each row of the batch what the agent loop sent as ``calibadv_turns``; None
            where it sent nothing, which takes no part in the comparison.
    """
    token = _facts.set(rows)
    try:
        yield
    finally:
        _facts.reset(token)


def make_estimator(advantages: TurnAdvantages) -> Estimate:
    """An estimator of verl's form, ``(token_level_rewards, response_mask, index)``.

    Advantages and returns are both the advantages, as with verl's GRPO, 0 on observed tokens.
    """

    def estimate(
        token_level_rewards: Float[Tensor, "row token"],
        response_mask: Float[Tensor, "row token"],
        index: Sequence[Any] | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        facts = _facts.get()
        if facts is None:
            raise ValueError(
                f"the estimator needs the field {FACTS!r} of the agent loop: use the trainer "
                "'calibadv_sync', or calibadv_algo.integrations.verl.compute_advantage"
            )
        if index is None or len(facts) != len(response_mask):
            raise ValueError(
                f"the batch needs a uid and turn facts for each of its {len(response_mask)} rows, "
                f"got facts for {len(facts)}"
            )
        rewards = token_level_rewards.detach().double().cpu().numpy()
        rows = [
            None if not turns else rebuild(turns, row)
            for turns, row in zip(facts, rewards, strict=True)
        ]
        values = advantages(rows, [str(name) for name in index])
        spans = [[_span(turn) for turn in turns or ()] for turns in facts]
        tokens = spread_turns(spans, values, token_level_rewards)
        tokens = tokens * response_mask
        return tokens, tokens.clone()

    return estimate


def register_estimator(name: str, advantages: TurnAdvantages) -> Estimate:
    """Registers an estimator with verl, for ``algorithm.adv_estimator=name``.

    Raises:
        ValueError: if the name is taken.
    """
    estimate: Estimate = _register_estimator(name)(make_estimator(advantages))
    return estimate


calibadv_advantage: Estimate = register_estimator("calibadv", TurnAdvantages())


def compute_advantage(data: Any, adv_estimator: str, **kwargs: Any) -> Any:
    """Verl's ``compute_advantage`` with the batch's own turn facts in reach.

    Args:
        data: A ``DataProto`` with the field ``calibadv_turns``.
        adv_estimator: Name of an estimator.
        **kwargs: As verl's function takes them.
    """
    compute = part_of("verl.trainer.ppo.ray_trainer", "compute_advantage")
    with turn_facts(list(data.non_tensor_batch[FACTS])):
        return compute(data, adv_estimator=adv_estimator, **kwargs)


def rebuild(turns: Sequence[Mapping[str, Any]], rewards: Float[np.ndarray, " token"]) -> Trajectory:
    """The trajectory of what an agent loop sent along: lengths, facts and rewards; token ids are 0.

    Args:
        turns: As `turns_of` wrote them.
        rewards: Reward of each token of the response, as verl has it after its own changes.
    """
    ends = [*(turn["start"] for turn in turns[1:]), len(rewards)]
    return trajectory_of(
        [_span(turn) for turn in turns],
        [turn["info"] for turn in turns],
        [float(rewards[turn["start"] : end].sum()) for turn, end in zip(turns, ends, strict=True)],
    )


def _span(turn: Mapping[str, Any]) -> tuple[int, int]:
    return turn["start"], turn["start"] + turn["length"]


def turns_of(trajectory: Trajectory) -> list[dict[str, Any]]:
    """Place of each turn in the response, and its facts: what is sent along with an episode."""
    return [
        {"start": start, "length": end - start, "info": dict(turn.info)}
        for (start, end), turn in zip(
            completion_of(trajectory).spans, trajectory.turns, strict=True
        )
    ]


@_register_loop("calibadv_search")
class SearchAgentLoop(AgentLoopBase):  # type: ignore[misc]
    """Plays one episode of an environment in text against verl's servers.

    The row of the data set names its task by ``extra_info["index"]``, its place in the split. The
    prompt is the environment's own, not that of the row. Tokens go to the server and come back as
    tokens; nothing that was sampled is encoded again. Configure it in the file that
    ``actor_rollout_ref.rollout.agent.agent_loop_config_path`` names.
    """

    _idle: Final[dict[str, list[EnvSlots]]] = {}

    def __init__(
        self,
        *args: Any,
        env_id: str = "calibadv_env:DeepSearch-Atlas-v1",
        env_kwargs: Mapping[str, Any] | None = None,
        max_turn_tokens: int = 512,
        chat_template: bool = False,
        stop_strings: Sequence[str] | None = None,
        retry_on: Sequence[str] = MACHINE_FAILURES,
        max_retries: int = 3,
        backoff_s: float = 0.25,
        **kwargs: Any,
    ) -> None:
        """Keeps the environment and how its episodes are played.

        Args:
            *args: For ``AgentLoopBase``.
            env_id: A registered environment, as in ``gymnasium.make``.
            env_kwargs: Its arguments.
            max_turn_tokens: Most tokens of one turn.
            chat_template: If true, the first observation becomes a user message.
            stop_strings: Strings that end a turn; None means those of the environment, which in
                one of pages close opens and finds too.
            retry_on: Errors of the environment that are a machine's failure, by full name.
            max_retries: Repetitions of a step that failed, before the episode fails.
            backoff_s: Seconds before the first repetition, doubled for each further one.
            **kwargs: For ``AgentLoopBase``.
        """
        super().__init__(*args, **kwargs)
        self._env = (env_id, dict(env_kwargs or {}))
        if stop_strings is None:
            stop_strings = EnvConfig(env_id=env_id).stop_strings(self._env[1].get("prompt"))
        self._params = SamplingParams(max_tokens=max_turn_tokens, stop=tuple(stop_strings))
        self._driver = DriverConfig(
            chat_template=chat_template,
            retry_on=errors_named(retry_on),
            max_retries=max_retries,
            backoff_s=backoff_s,
        )

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> Any:
        """Plays the episode.

        Args:
            sampling_params: verl's settings; the stop strings and the length of a turn are ours.
            **row: Fields of the data set.

        Returns:
            An ``AgentLoopOutput`` with the environment's reward and the field
            ``calibadv_turns``.

        Raises:
            ValueError: if the row names no task, or its prompt leaves no room.
            Exception: what the environment raised, once the repetitions are used up.
        """
        index = (row.get("extra_info") or {}).get("index")
        if index is None:
            raise ValueError("the row must name its task by extra_info['index']")
        spec = EpisodeSpec(task_index=int(index), group_id=str(row.get("uid", index)), seed=0)
        key = repr(self._env)
        idle = self._idle.setdefault(key, [])
        slots = (
            idle.pop()
            if idle
            else await self._call(lambda: make_slots(self._env[0], 1, self._env[1]))
        )
        try:
            return await self._play(slots, spec, dict(sampling_params))
        finally:
            idle.append(slots)

    async def _play(self, slots: EnvSlots, spec: EpisodeSpec, sampling: dict[str, Any]) -> Any:
        """Turn by turn, as this package's own drivers do."""
        times = {"generate_sequences": 0.0, "tool_calls": 0.0}
        start = SlotStart(spec.task_index, spec.task_index)
        reset = (await self._repeat(partial(slots.reset, {0: start}, ()), times))[0]
        book = self._book(spec)
        episode = book.begin(0, spec, reset)
        if episode is None or len(episode.prompt_ids) > self.rollout_config.prompt_length:
            raise ValueError(
                f"the prompt of task {spec.task_index} must fit rollout.prompt_length "
                f"({self.rollout_config.prompt_length})"
            )
        limit = len(episode.prompt_ids) + self.rollout_config.response_length
        book.config = replace(book.config, max_context_tokens=limit)
        request_id, is_over = uuid4().hex, False
        while not is_over:
            generation = await self._generate(request_id, episode, sampling, times)
            call = partial(slots.step, {0: book.action(episode, generation)}, ())
            is_over = book.advance(episode, generation, (await self._repeat(call, times))[0])
        finished = close_overflow(book.finished[0])
        return self._output(finished, times, has_logprobs=bool(sampling.get("logprobs")))

    def _book(self, spec: EpisodeSpec) -> EpisodeBook:
        """Keeps the record of the one episode."""
        if self.rollout_config.response_length < self._params.max_tokens:
            raise ValueError(
                f"max_turn_tokens must not exceed rollout.response_length "
                f"({self.rollout_config.response_length}), got {self._params.max_tokens}"
            )
        return EpisodeBook(
            tasks=[spec],
            tokenizer=self.tokenizer,
            params=self._params,
            policy_version=0,
            config=self._driver,
        )

    async def _generate(
        self, request_id: str, episode: Episode, sampling: dict[str, Any], times: dict[str, float]
    ) -> Generation:
        """One turn from verl's servers."""
        began = time.perf_counter()
        output = await self.server_manager.generate(
            request_id=request_id,
            prompt_ids=list(episode.context),
            sampling_params={
                **sampling,
                "max_tokens": self._params.max_tokens,
                "stop": list(self._params.stop),
            },
        )
        times["generate_sequences"] += time.perf_counter() - began
        ids = tuple(int(token) for token in output.token_ids)
        logprobs = output.log_probs or [0.0] * len(ids)
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        ends = [text.find(stop) + len(stop) for stop in self._params.stop if stop in text]
        reason = "stop" if ends else "length"
        return Generation(
            ids,
            tuple(logprobs),
            text[: min(ends)] if ends else text,
            reason,  # type: ignore[arg-type]
        )

    async def _repeat(self, call: Callable[[], Any], times: dict[str, float]) -> Any:
        """Calls the environment in a thread, again if a machine failed."""
        began = time.perf_counter()
        for attempt in range(self._driver.max_retries + 1):
            try:
                return await self._call(call)
            except self._driver.retry_on:
                if attempt == self._driver.max_retries:
                    raise
                await asyncio.sleep(self._driver.backoff_s * 2**attempt)
            finally:
                times["tool_calls"] += time.perf_counter() - began
                began = time.perf_counter()
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _call(self, call: Callable[[], Any]) -> Any:
        """Runs what blocks outside of the event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, call)

    def _output(
        self, trajectory: Trajectory, times: Mapping[str, float], *, has_logprobs: bool
    ) -> Any:
        """The episode in verl's form."""
        completion = completion_of(trajectory)
        final = trajectory.final_info
        scores = {key: float(final.get(key, 0.0)) for key in ("em", "f1", "num_searches")}
        return AgentLoopOutput(
            prompt_ids=list(trajectory.prompt_ids),
            response_ids=completion.ids,
            response_mask=completion.mask,
            response_logprobs=completion.logprobs if has_logprobs else None,
            reward_score=trajectory.reward,
            num_turns=2 * len(trajectory.turns),
            metrics=AgentLoopMetrics(**times),
            extra_fields={
                FACTS: turns_of(trajectory),
                "reward_extra_info": scores,
                "turn_scores": [turn.reward for turn in trajectory.turns],
                "tool_rewards": [],
            },
        )
