"""Settings that a run may go on with after it was interrupted: which of them change its numbers.

Three kinds. Some settings change no number of the training: places, logging, how often something
is saved or evaluated. Some leave the mathematics as it is and may move the last bits, since sums
are taken in another order: the size of micro-batches, slots, how work is divided. All others
change numbers, so a run that was begun without them is another run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from calibadv_algo.errors import CheckpointError
from calibadv_algo.training.config import TrainConfig, config_to_dict, reward_sha256

Effect = Literal["none", "last bits", "numbers"]

FREE: Final = frozenset(
    {
        "output_dir",
        "checkpoint_every",
        "keep_checkpoints",
        "save_trajectories",
        "tensorboard",
        "trackers",
        "track_episodes_every",
        "track_episodes",
        "quiet",
        "strict",
        "evaluation.every",
    }
)
"""Settings that change no number of the training."""

LAST_BITS: Final = frozenset(
    {
        "rollout.num_slots",
        "rollout.driver",
        "optim.micro_batch_tokens",
        "optim.gradient_checkpointing",
        "optim.prefixes",
        "optim.parallel",
    }
)
"""Settings that leave the mathematics as it is, and may move last bits; so do engine settings."""

_ENGINE_NUMBERS: Final = frozenset({"engine.type", "engine.dtype"})
_MICRO_BATCHES: Final = ("optim.micro_batch_tokens", "optim.prefixes")
_ADDED: Final = {
    "optim.prefixes": "separate",
    "track_episodes_every": 10,
    "track_episodes": 4,
    "rollout.observations": "continue",
    "rollout.earlier_thoughts": "keep",
}
"""Settings that earlier runs did not record, with what they did."""
_LENGTH: Final = "optim.num_updates"
_REWARD_NAME: Final = "env.reward"
_REWARD_CONTENT: Final = "env.reward_sha256"
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that differs from the one that a run was begun with.

    Attributes:
        name: Its name with dots.
        found: Its value so far.
        wanted: Its value from now on.
        effect: Its effect on the numbers of the training.
        reason: What to know about it, "" for nothing.
    """

    name: str
    found: Any
    wanted: Any
    effect: Effect
    reason: str = ""

    def __str__(self) -> str:
        text = f"{self.name}: {shown_value(self.found)} there, {shown_value(self.wanted)} here"
        return f"{text} ({self.reason})" if self.reason else text


def changed_settings(found: Mapping[str, Any], config: TrainConfig) -> list[Change]:
    """Differences between recorded settings and those of a run that wants to go on, by name.

    Args:
        found: What :func:`~calibadv_algo.training.config.config_to_dict` gave when it was begun.
        config: The settings from now on.
    """
    wanted = json.loads(json.dumps(config_to_dict(config)))
    old, new = _ADDED | dict(flat_settings(found)), dict(flat_settings(wanted))
    changes = [
        _judged(name, old.get(name), new.get(name), old, config)
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    # The length of the schedule in effect is judged with the number of updates.
    return [each for each in changes if each.name != "optim.schedule_updates" or _matters(each)]


def refuse_other_run(folder: object, changes: Sequence[Change]) -> None:
    """Refuses settings that change numbers, each by name with both values.

    Raises:
        CheckpointError: if there is one.
    """
    bad = [str(each) for each in changes if each.effect == "numbers"]
    if bad:
        raise CheckpointError(
            f"{folder} holds a run with other settings: {'; '.join(bad)}. Give the settings that "
            "it was begun with to go on with it, or choose another output_dir"
        )


def noted(changes: Sequence[Change]) -> dict[str, Any]:
    """Changes that belong into the record of a run: all but places, logging and intervals."""
    return {
        each.name: {"from": each.found, "to": each.wanted, "effect": each.effect}
        for each in changes
        if each.name not in FREE
    }


def _judged(
    name: str, found: Any, wanted: Any, old: Mapping[str, Any], config: TrainConfig
) -> Change:
    """A change with its effect."""
    if name in FREE or name.startswith(tuple(f"{each}." for each in FREE)):
        return Change(name, found, wanted, "none")
    if name == "rollout.questions.type" and found is None and wanted == "Uniform":
        return Change(name, found, wanted, "none", "what runs did before there was a choice")
    if name in _MICRO_BATCHES and config.optim.objective.depends_on_micro_batches:
        return Change(name, found, wanted, "numbers", "the objective is defined on micro-batches")
    if name in LAST_BITS or (name.startswith("engine.") and name not in _ENGINE_NUMBERS):
        return Change(name, found, wanted, "last bits")
    if name == "env.retriever" and _is_address(found) and _is_address(wanted):
        return Change(name, found, wanted, "none", "if the server has the same index")
    if name in (_REWARD_NAME, _REWARD_CONTENT):
        return _judged_reward(name, found, wanted, old, config)
    if name in (_LENGTH, "optim.schedule_updates"):
        return _judged_length(name, found, wanted, old, config)
    return Change(name, found, wanted, "numbers")


def _judged_reward(
    name: str, found: Any, wanted: Any, old: Mapping[str, Any], config: TrainConfig
) -> Change:
    """A change of the reward's name, or of what its file holds."""
    before, now = old.get(_REWARD_CONTENT), reward_sha256(config.env.reward)
    if name == _REWARD_CONTENT:
        if old.get(_REWARD_NAME) != config.env.reward:
            return Change(name, found, wanted, "none")  # the name is judged
        effect: Effect = "none" if before is None else "numbers"
        return Change(name, found, wanted, effect, "the reward's file holds something else")
    if before is not None and before == now:
        return Change(name, found, wanted, "none", "the file holds the same")
    return Change(name, found, wanted, "numbers")


def _judged_length(
    name: str, found: Any, wanted: Any, old: Mapping[str, Any], config: TrainConfig
) -> Change:
    """A change of the number of updates, or of what the schedule is laid out for."""
    optim = config.optim
    if name == _LENGTH and str(config.env.retriever).startswith("simulated:"):
        reason = "the simulated search grows with the share of the training that is over"
        return Change(name, found, wanted, "numbers", reason)
    is_flat = optim.schedule == "constant" and not optim.warmup_fraction
    before = old.get("optim.schedule_updates") or old.get(_LENGTH)
    now = optim.schedule_updates or optim.num_updates
    if (is_flat and not optim.critic.warmup_fraction) or before == now:
        return Change(name, found, wanted, "none")
    reason = f"the learning rate was laid out for {before} updates: schedule_updates keeps that"
    return Change(name, found, wanted, "numbers", reason)


def _matters(change: Change) -> bool:
    return change.effect == "numbers"


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def flat_settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under dotted names; lists are leaves."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat_settings(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def shown_value(value: Any) -> str:
    """A setting's value as a message prints it, cut where it is long."""
    text = "not set" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
