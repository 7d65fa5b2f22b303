"""Construction of the engines from their settings. A new engine is its own file and an entry here.

This module alone knows every engine, and imports one only when it is built. A training loop takes
any object that is a :class:`~calibadv_algo.rollout.engines.base.GenerationEngine`, so an engine of
a user's own needs no entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from calibadv_algo.rollout.engines.config import (
    EngineConfig,
    HfEngineConfig,
    VllmEngineConfig,
    VllmServerEngineConfig,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from calibadv_algo.rollout.engines.base import GenerationEngine
    from calibadv_algo.rollout.engines.vllm.engine import VllmEngine

ENGINES: Final[dict[str, EngineConfig]] = {
    "hf": HfEngineConfig(),
    "vllm": VllmEngineConfig(),
    "vllm-server": VllmServerEngineConfig(),
}
"""Names of the engines, for command lines."""


def find_engine(name: str) -> EngineConfig:
    """The engine of a name; ``vllm-server=URL`` names a server's address along with it.

    Raises:
        ValueError: if there is no such engine.
    """
    kind, _, url = name.partition("=")
    if kind not in ENGINES or (url and kind != "vllm-server"):
        raise ValueError(
            f"engine must be one of {', '.join(ENGINES)} or vllm-server=URL, got {name!r}"
        )
    return VllmServerEngineConfig(url=url) if url else ENGINES[kind]


def make_engine(
    config: EngineConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_slots: int = 128,
    max_context: int | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> GenerationEngine:
    """Builds an engine that holds the policy's weights and can sample at once.

    Args:
        config: Which one.
        model: The policy; also a peft model with LoRA adapters.
        tokenizer: Its tokenizer.
        max_slots: Most episodes at one time.
        max_context: Longest context in tokens; the model's own limit if None.
        temperature: Of the sampling to come. Greedy turns are always possible too.
        top_p: Of the sampling to come.

    Returns:
        The engine. One of vLLM's is built anew when it fails.

    Raises:
        ValueError: if the settings do not fit each other or the model.
        ImportError: naming the extra, if a package is missing.
        EngineError: if the engine does not start.
    """
    sampling = {"temperature": temperature, "top_p": top_p}
    if isinstance(config, HfEngineConfig):
        from calibadv_algo.rollout.engines.hf.engine import HfEngine

        return HfEngine(
            model,
            tokenizer,
            max_slots=max_slots,
            max_context=max_context,
            max_prefill_tokens=config.max_prefill_tokens,
        )
    if isinstance(config, VllmServerEngineConfig):
        from calibadv_algo.rollout.engines.vllm.server import VllmServerEngine

        server = VllmServerEngine(model, tokenizer, config, max_context=max_context, **sampling)
        server.sync_weights(model, 0)
        return server
    from calibadv_algo.rollout.engines.vllm.engine import VllmEngine
    from calibadv_algo.rollout.engines.vllm.rebuilding import RebuildingEngine

    def build() -> VllmEngine:
        return VllmEngine(
            model, tokenizer, config, max_slots=max_slots, max_context=max_context, **sampling
        )

    engine = RebuildingEngine(build, max_rebuilds=config.max_rebuilds)
    engine.sync_weights(model, 0)
    return engine
