"""An advantage estimator of one's own, compared with GRPO.

python own_algorithm.py
calibadv train --advantage own_algorithm:NearBest --advantage.margin 0.2
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from jaxtyping import Float

from calibadv_algo.advantages.base import AdvantageEstimator, spread
from calibadv_algo.cli.compare import compare
from calibadv_algo.experiments.compare import COMPARE_PRESETS
from calibadv_algo.types import Group, group_rewards, token_counts
from calibadv_env.common.checks import POSITIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class NearBest(AdvantageEstimator):
    """Reward less the group's best, lifted by a margin; 0 where all rewards are equal."""

    margin: Annotated[float, POSITIVE] = 0.5
    """Distance from the best reward at which an advantage is 0."""

    def __call__(
        self, group: Group, correctness: Float[np.ndarray, "group turn"]
    ) -> Float[np.ndarray, "group turn"]:
        """Advantages of the turns; the correctness is not used."""
        rewards = group_rewards(group)
        lifted = (rewards - rewards.max() + self.margin) * bool(np.ptp(rewards))
        return spread(lifted, token_counts(group))


if __name__ == "__main__":  # the runs are processes that import this file again
    compare(
        {"grpo": "grpo", "near-best": NearBest(margin=0.2)},
        seeds=(0,),
        train=COMPARE_PRESETS["smoke"].train,  # a trial; training.presets.ATLAS_TINY learns
        design=COMPARE_PRESETS["smoke"].design,
        output_dir="runs/own-algorithm",
    )
