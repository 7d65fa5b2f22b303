"""A generation engine as a plain writer of texts, such as a simulated search engine asks for.

The environment package knows no engines and this one knows no retrievers. They meet in one method,
``write(prompts) -> texts``::

    SimulatedRetriever(writer=EngineWriter(engine, tokenizer), num_steps=200)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from calibadv_algo.errors import EngineError
from calibadv_algo.rollout.chat import encode_prompt
from calibadv_algo.rollout.engines.base import (
    GenerationEngine,
    GenerationRequest,
    SamplingParams,
    Tokenizer,
)
from calibadv_env.common.checks import require_not_negative, require_positive

PARAMS = SamplingParams(temperature=0.8, max_tokens=600)
"""Default sampling of texts; the temperature is that of ZeroSearch."""


class EngineWriter:
    """Completes prompts with an engine.

    A text depends on its prompt, the seed and the weights alone, not on what else is written with
    it (up to the engine's rounding). Give it an engine of its own: one that a driver uses is
    busy with the policy's episodes.
    """

    def __init__(
        self,
        engine: GenerationEngine,
        tokenizer: Tokenizer,
        *,
        params: SamplingParams = PARAMS,
        chat_template: bool = False,
        seed: int = 0,
        max_batch: int = 64,
    ) -> None:
        """Nothing is sampled yet.

        Args:
            engine: Samples the texts.
            tokenizer: The engine's own.
            params: How to sample.
            chat_template: If true, a prompt becomes a user message in the tokenizer's template.
            seed: Seed of the sampling, not negative.
            max_batch: Most prompts in one call of the engine.

        Raises:
            ValueError: if a setting is out of its range.
        """
        require_not_negative(seed=seed)
        require_positive(max_batch=max_batch)
        self._engine = engine
        self._tokenizer = tokenizer
        self._params = params
        self._chat_template = chat_template
        self._seed = seed
        self._max_batch = max_batch
        self._num_written = 0

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt.

        Args:
            prompts: Any texts.

        Returns:
            The completions, in order, without the prompts.

        Raises:
            EngineError: if a prompt is too long for the model, or the engine failed.
            ValueError: if there is no chat template where one is wanted.
        """
        texts: list[str] = []
        for start in range(0, len(prompts), self._max_batch):
            texts += self._write(prompts[start : start + self._max_batch])
        return texts

    def _write(self, prompts: Sequence[str]) -> list[str]:
        requests = [self._request(prompt) for prompt in prompts]
        try:
            generations = self._engine.generate(requests, self._params)
        finally:
            self._engine.release([request.episode_id for request in requests])
        if len(generations) != len(requests):
            raise EngineError(
                f"engine must answer {len(requests)} requests, got {len(generations)} answers"
            )
        return [generation.text for generation in generations]

    def _request(self, prompt: str) -> GenerationRequest:
        self._num_written += 1
        ids = encode_prompt(self._tokenizer, prompt, self._chat_template)
        return GenerationRequest(f"written:{self._num_written}", ids, self._seed_of(prompt))

    def _seed_of(self, prompt: str) -> int:
        """63 bits of seed and prompt."""
        key = f"{self._seed}:{prompt}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1
