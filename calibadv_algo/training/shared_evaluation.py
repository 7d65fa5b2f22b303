"""The evaluation before the first update, played once for all runs that begin alike."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from calibadv_algo.rollout.records import trajectory_from_json, trajectory_to_json
from calibadv_algo.training.config import TrainConfig, config_to_dict
from calibadv_algo.training.evaluation import EvalResult, to_record
from calibadv_env.common.files import sweep_files, write_text
from calibadv_env.common.locks import hold_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FORMAT: Final = 1
_LEARNING: Final = (
    *("output_dir", "seed", "model", "advantage", "credit", "filters", "shaping", "loss_masks"),
    *("optim", "checkpoint_every", "keep_checkpoints", "save_trajectories", "tensorboard"),
    *("trackers", "quiet"),
)
"""Settings that no greedy evaluation of the starting weights depends on."""


@dataclass(frozen=True, slots=True)
class SharedEvaluation:
    """An evaluation at update 0 that several runs need, in a folder that they share.

    The first run that asks plays it while the others wait; a run that is killed meanwhile lets go
    of the folder, and the next one plays. What is read back is equal to what was played: the
    episodes are stored whole, and their records made of them anew.

    Attributes:
        folder: Where the episodes are kept.
        key: Name of everything that the evaluation depends on.
    """

    folder: Path
    key: str

    def get(self, split: str, play: Callable[[], EvalResult]) -> EvalResult:
        """The evaluation: read if a run has played it, else played and kept.

        Args:
            split: Split that is evaluated, for the records.
            play: Plays it.
        """
        with hold_folder(self.folder, wait_s=math.inf):
            sweep_files(self.folder)
            file = self.folder / f"update_000000-{self.key}.jsonl"
            found = _read(file, split)
            if found is None:
                found = play()
                header = json.dumps({"format": _FORMAT, "num_dropped": found.num_dropped})
                lines = [header, *map(trajectory_to_json, found.trajectories)]
                write_text(file, "".join(line + "\n" for line in lines))
            return found


def _read(file: Path, split: str) -> EvalResult | None:
    """What an earlier run kept; None if there is nothing, or nothing that can be read."""
    if not file.is_file():
        return None
    try:
        header, *lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
        facts = json.loads(header)
        if facts["format"] != _FORMAT:
            return None
        trajectories = tuple(map(trajectory_from_json, lines))
        records = tuple(to_record(each, update=0, split=split) for each in trajectories)
        return EvalResult(records, trajectories, int(facts["num_dropped"]))
    except (ValueError, KeyError, TypeError):
        return None


def evaluation_key(
    config: TrainConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
) -> str:
    """Names everything that the evaluation of the starting weights depends on.

    Args:
        config: The run's settings; those that only learning depends on do not count.
        model: The starting weights, which count to the bit.
        tokenizer: Counts with its vocabulary and its template.
        facts: Code, data and machine.
    """
    values = config_to_dict(config)
    for name in _LEARNING:
        del values[name]
    for part, name in (("rollout", "num_slots"), ("rollout", "driver"), ("evaluation", "every")):
        del values[part][name]
    digest = hashlib.sha256(json.dumps([values, facts], sort_keys=True, default=str).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    digest.update(b"" if backend is None else backend.to_str().encode())
    digest.update(repr((tokenizer.special_tokens_map, tokenizer.chat_template)).encode())
    _add_weights(digest, model)
    return digest.hexdigest()[:16]


def _add_weights(digest: Any, model: PreTrainedModel) -> None:
    """Adds every bit of a model's weights to a hash."""
    import torch

    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1).cpu().contiguous()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
