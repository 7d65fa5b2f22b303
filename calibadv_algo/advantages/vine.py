"""VinePPO: measured values of states as the baseline, and as the target, of every turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from calibadv_algo.advantages.base import AdvantageEstimator, Matrix, fitting_counts
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.types import Group, group_rewards

VALUE_KEY: Final = "state_value"
"""Key of a turn's info: measured value of the state before the turn, past rewards included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vine(AdvantageEstimator):
    """Measured advantages: what a turn did to the value of the state (``--arm vine``).

    ``V(s_{t+1}) - V(s_t)``, where the state after the last turn is worth the return. The values
    are means of continuations from each state, which a player with ``rollout.vine`` plays. It
    costs many times the episodes of other estimators and is the bound that they are held to.

    **Source:** VinePPO (arXiv 2410.01679), section 4.

    **Differs:** a step is a turn, not a sentence; advantages are not whitened.
    """

    def __call__(self, group: Group, correctness: Matrix) -> Matrix:
        """The advantages; the correctness is not used.

        Raises:
            MissingInfoKeyError: if a turn has no measured value.
        """
        advantages = fitting_counts(group, correctness) * 0.0
        rewards = group_rewards(group)
        for row, trajectory in enumerate(group.trajectories):
            for turn in trajectory.turns:
                if VALUE_KEY not in turn.info:
                    raise MissingInfoKeyError(
                        f"Vine needs {VALUE_KEY!r} in the info of every turn: train with "
                        "--arm vine, or with --part rollout.vine=vine-sampling"
                    )
            values = [float(turn.info[VALUE_KEY]) for turn in trajectory.turns]
            for column, (value, after) in enumerate(
                zip(values, [*values[1:], float(rewards[row])], strict=True)
            ):
                advantages[row, column] = after - value
        return advantages
