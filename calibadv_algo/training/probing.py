"""A look at an environment before a run: how many tasks it has, which facts it reports."""

from __future__ import annotations

from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.rollout.slots import EnvSlots, SlotReset, SlotStart, SlotStep

MAX_PROBE_TURNS = 64
"""Empty actions after which the look at an environment's info keys gives up."""


def count_tasks(slots: EnvSlots) -> int:
    """Asks an environment for the number of its tasks.

    Args:
        slots: Where to ask; the first slot is reset.

    Returns:
        The info key ``num_tasks``.

    Raises:
        MissingInfoKeyError: if ``reset`` does not report it.
    """
    info = _reset_first(slots).info
    if "num_tasks" not in info:
        raise MissingInfoKeyError(
            "the trainer needs the info key 'num_tasks' from reset, or the argument num_tasks; "
            f"the environment gives {sorted(info)}"
        )
    return int(info["num_tasks"])


def probe_info_keys(slots: EnvSlots) -> tuple[set[str], bool]:
    """Plays empty actions to see which facts an environment reports.

    Args:
        slots: The first slot is used.

    Returns:
        The keys of all infos of the steps, and whether the episode came to its end: some
        keys appear only there.
    """
    _reset_first(slots)
    keys: set[str] = set()
    for _ in range(MAX_PROBE_TURNS):
        step = slots.step({0: ""}, ())[0]
        if not isinstance(step, SlotStep):
            raise TypeError(f"step must give a SlotStep, got {type(step).__name__}")
        keys |= set(step.info)
        if step.is_terminated or step.is_truncated:
            return keys, True
    return keys, False


def _reset_first(slots: EnvSlots) -> SlotReset:
    """Resets the first slot to the first task."""
    reset = slots.reset({0: SlotStart(0, 0)}, ())[0]
    if not isinstance(reset, SlotReset):
        raise TypeError(f"reset must give a SlotReset, got {type(reset).__name__}")
    return reset
