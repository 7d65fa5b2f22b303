"""Number of episodes in play at a time, where the settings leave it open."""

from __future__ import annotations

import os
from typing import Final

import torch
from transformers import PreTrainedModel

MAX_SLOTS: Final = 512
"""Most slots that are chosen; more make a step no cheaper per row."""
MEMORY_SHARE: Final = 0.125
"""Share of the free memory that keys and values may take: runs often stand side by side."""


def choose_num_slots(
    model: PreTrainedModel, max_context: int, num_episodes: int, free_bytes: int | None = None
) -> int:
    """Chooses how many episodes are played at a time.

    All of them, if keys and values of as many of the longest contexts fit into an eighth of the
    free memory: then no episode waits for another, and decoding steps are as full as they can be.

    Args:
        model: The policy that samples.
        max_context: Most tokens of an episode.
        num_episodes: Episodes of the largest collection, at least 1.
        free_bytes: Free memory where the model stands; None asks the machine.

    Returns:
        At least 1, at most 512 and ``num_episodes``.
    """
    free = free_memory(model.device) if free_bytes is None else free_bytes
    fitting = int(MEMORY_SHARE * free) // (token_bytes(model) * max_context)
    return max(1, min(num_episodes, MAX_SLOTS, fitting))


def token_bytes(model: PreTrainedModel) -> int:
    """Memory that keys and values of one token take."""
    config = model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 1))
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * int(config.num_hidden_layers) * kv_heads * size * int(model.dtype.itemsize)


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; 4 GiB where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**32
