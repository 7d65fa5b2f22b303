# A researcher: an advantage estimator of her own in one file, compared with GRPO.
set -euo pipefail

cat > mine.py <<'END'
from dataclasses import dataclass

from calibadv_algo.advantages.base import AdvantageEstimator, spread
from calibadv_algo.types import group_rewards, token_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Mine(AdvantageEstimator):
    """Reward less the median of the group."""

    def __call__(self, group, correctness):
        rewards = group_rewards(group)
        return spread(rewards - sorted(rewards)[len(rewards) // 2], token_counts(group))
END

calibadv compare --preset smoke --arms grpo ./mine.py:Mine --seeds 0 --output-dir runs/mine
grep -q "mine − grpo" runs/mine/table.md
grep -q '"methods":\["GRPO","mine"\]' runs/mine/report.html
ls runs/mine/report_groups/mine-seed0 > /dev/null
