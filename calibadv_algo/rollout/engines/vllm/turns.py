"""Reading and checking of turns, common to vLLM engines of this process and vLLM servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.engines.base import FinishReason, GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.decoding import StopMatcher, TurnDecoder, eos_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MIN_TEMPERATURE: Final = 0.01
"""The lowest temperature but 0: vLLM raises lower ones to it."""

MAX_TEMPERATURE: Final = 2.0
"""The highest that vLLM takes."""


@dataclass(slots=True)
class VllmCounters:
    """Counts of an engine since it was made.

    Attributes:
        num_sampled: Tokens sampled.
        num_prompt: Context tokens of all turns.
        num_reused: Those of them that the prefix cache held.
        num_syncs: Times that weights were taken over.
        num_rebuilds: Times that the engine was built anew.
    """

    num_sampled: int = 0
    num_prompt: int = 0
    num_reused: int = 0
    num_syncs: int = 0
    num_rebuilds: int = 0


class TurnReader:
    """Reads turns as the Hugging Face engine does, so that both report the same text.

    Attributes:
        eos_ids: Tokens that end a turn and are not part of its text.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Reads turns of a policy, whose settings name tokens that end a turn."""
        self._decoder = TurnDecoder(tokenizer, eos_token_ids(model, tokenizer))
        self._matchers: dict[tuple[str, ...], StopMatcher] = {}
        self.eos_ids = self._decoder.eos_ids

    def read(
        self, token_ids: Sequence[int], stop: tuple[str, ...], text: str, reason: str | None
    ) -> tuple[str, FinishReason]:
        """Text and end of a turn.

        Args:
            token_ids: As sampled.
            stop: Strings that end a turn.
            text: What vLLM decoded, used where it saw a stop string that we do not.
            reason: Why vLLM ended the turn.

        Raises:
            EngineError: if vLLM did not end the turn but gave it up.
        """
        if token_ids and token_ids[-1] in self.eos_ids:
            return self._decoder.decode(token_ids), "eos"
        if stop not in self._matchers:
            self._matchers[stop] = StopMatcher(self._decoder, stop, 0)
        ours = self._matchers[stop].find_end(token_ids) if stop and token_ids else None
        if ours is not None:
            return ours, "stop"
        if reason == "length":
            return self._decoder.decode(token_ids), "length"
        if reason == "stop":
            return text, "stop"
        raise EngineError(f"vLLM gave up a turn after {len(token_ids)} tokens: {reason}")


def check_sampling(temperature: float, top_p: float) -> None:
    """Refuses sampling for which vLLM cannot report the log-probabilities that are promised.

    Raises:
        ValueError: if both settings differ from 1 in a sampled turn, or the temperature is one
            that vLLM changes or refuses.
    """
    if temperature and not MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
        raise ValueError(
            f"temperature must be 0 or in [{MIN_TEMPERATURE}, {MAX_TEMPERATURE}] with vLLM, "
            f"got {temperature}"
        )
    if temperature not in (0.0, 1.0) and top_p < 1:
        raise ValueError(
            "top_p must be 1 with vLLM if temperature is not 1, because vLLM renormalises over "
            f"the nucleus; got top_p {top_p} and temperature {temperature}"
        )


def reports_raw_logprobs(temperature: float, top_p: float) -> bool:
    """Tells if vLLM is to report log-probabilities from before temperature and top-p.

    With ``top_p`` below 1 those after them are renormalised over the nucleus, and the ones before
    are right at temperature 1.
    """
    return top_p < 1 and temperature in (0.0, 1.0)


def check_reported(is_raw: bool, params: SamplingParams) -> None:
    """Refuses turns whose log-probabilities the engine was not set up for.

    Raises:
        EngineError: naming what does not fit.
    """
    if params.temperature == 0:
        return
    if not MIN_TEMPERATURE <= params.temperature <= MAX_TEMPERATURE:
        raise EngineError(
            f"vLLM samples at temperatures of {MIN_TEMPERATURE} to {MAX_TEMPERATURE}, "
            f"got {params.temperature}"
        )
    if is_raw and params.temperature != 1:
        raise EngineError(
            f"the engine was set up for temperature 1 with top_p, got {params.temperature}"
        )
    if not is_raw and params.top_p < 1:
        raise EngineError(f"the engine was set up for top_p 1, got {params.top_p}")


def check_tokens(requests: Sequence[GenerationRequest], vocab_size: int) -> None:
    """Refuses contexts with tokens that the model does not have; vLLM would fail as a whole.

    Raises:
        EngineError: naming the episode and the token.
    """
    for request in requests:
        if min(request.token_ids) < 0 or max(request.token_ids) >= vocab_size:
            raise EngineError(
                f"context of episode {request.episode_id!r} holds the token "
                f"{max(request.token_ids)}, the model has 0 to {vocab_size - 1}"
            )
