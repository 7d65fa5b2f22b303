"""The critic that lies beside a policy in a checkpoint, and what it learnt to foresee."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from calibadv_algo.cli.policies import LocalPolicy, Policy, run_settings
from calibadv_algo.learner.pretrained import policy_path
from calibadv_algo.training.config import EnvConfig, config_to_dict

if TYPE_CHECKING:
    from calibadv_algo.experiments.truth.critic import CriticValues
    from calibadv_algo.types import Trajectory

_REWARD_FLAGS: Final = ("reward", "format_gate", "invalid_action", "cover_em")


def critic_of(
    policy: Policy, trajectories: Sequence[Trajectory], env: EnvConfig
) -> tuple[CriticValues | None, dict[str, str]]:
    """Values of the critic that was trained with a policy, for episodes of that policy.

    Args:
        policy: Its critic is looked for in the checkpoint that it lies in.
        trajectories: The episodes.
        env: Environment of the measurement.

    Returns:
        The values, None if there is no critic; and facts for the results: whose critic it is, and
        how the rewards that it learnt differ from those that are measured.

    Raises:
        CheckpointError: if the critic cannot be read.
    """
    from calibadv_algo.experiments.truth.critic import critic_values
    from calibadv_algo.learner.checkpoint import CRITIC_FILE
    from calibadv_algo.learner.critic import load_critic

    if not isinstance(policy, LocalPolicy):
        return None, {}
    folder = Path(policy_path(policy.model))
    checkpoint = folder.absolute().parent
    if not (checkpoint / CRITIC_FILE).is_file():
        return None, {}
    run = run_settings(folder)
    shaping = run.get("shaping", [])
    values = critic_values(load_critic(checkpoint), trajectories, shaping)
    facts = {"critic": checkpoint.name}
    trained, measured = run.get("env", {}), config_to_dict(env)
    others = [
        f"{name} {trained[name]}"
        for name in _REWARD_FLAGS
        if name in trained and trained[name] != measured[name]
    ]
    others += [str(each["type"]) for each in shaping]
    return values, facts | ({"critic_rewards": ", ".join(others)} if others else {})
