"""Signs that a run teaches nothing, said in numbers with the flags that change them.

A run whose every episode overflows its context, whose groups never differ, or whose policy cannot
follow the format comes to its last update without an error. It is told so at its first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from calibadv_algo.errors import CalibadvAlgoError
from calibadv_algo.training.config import TrainConfig

MAX_OVERFLOW_SHARE: Final = 0.1
"""Share of episodes ended by a full context from which on it is said."""

MIN_FORMAT_SHARE: Final = 0.05
"""Share of well-formed episodes below which it is said."""

PATIENCE: Final = 3
"""Updates in a row without any signal after which it is said again."""

MIN_EVAL_TASKS: Final = 30
"""Questions below which a mean score says little."""


class StrictError(CalibadvAlgoError):
    """A run that was started with --strict teaches nothing, or cannot be judged."""


@dataclass(slots=True)
class TrainingSigns:
    """Looks at the metrics of every update; says each thing once.

    Attributes:
        config: Settings of the run.
    """

    config: TrainConfig
    _said: set[str] = field(default_factory=set)
    _num_silent: int = 0

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """What is wrong after an update and was not said before, in sentences."""
        share = metrics.get("groups_with_signal_share", 1.0)
        self._num_silent = self._num_silent + 1 if share == 0 else 0
        found = {
            "overflow": self._overflow(metrics),
            "format": self._format(metrics),
            "signal": self._no_signal(),
            "silence": self._silence(),
        }
        new = {name: text for name, text in found.items() if text and name not in self._said}
        self._said |= new.keys()
        return list(new.values())

    def _overflow(self, metrics: Mapping[str, float]) -> str:
        overflows, episodes = metrics.get("context_overflows", 0.0), metrics.get("episodes", 0.0)
        if not episodes or overflows < MAX_OVERFLOW_SHARE * episodes:
            return ""
        rollout, env = self.config.rollout, self.config.env
        return (
            f"{overflows:.0f} of {episodes:.0f} episodes ended because their context of "
            f"{rollout.max_context} tokens was full, and earned nothing after that. Raise "
            f"--rollout.max-context (the model sets its limit), or let an episode read less: "
            f"--env.top-k (now {env.top_k}), --env.max-turns (now {env.max_turns}), "
            "--env.max-observation-chars, shorter passages (--passage-words)"
        )

    def _format(self, metrics: Mapping[str, float]) -> str:
        share = metrics.get("format_valid_share", 1.0)
        if share >= MIN_FORMAT_SHARE:
            return ""
        gate = (
            "all others earn 0 while the format gate is on (--env.no-format-gate turns it off)"
            if self.config.env.format_gate
            else "the format gate is off, so the others may still earn something"
        )
        return (
            f"{share:.1%} of the episodes follow the format; {gate}. Take a policy that can "
            "(`calibadv eval MODEL` shows format_valid), another --env.prompt, --prompt-style chat "
            "for instruction-tuned models, --env.prepend-think, or more --rollout.max-tokens "
            f"(now {self.config.rollout.max_tokens})"
        )

    def _no_signal(self) -> str:
        if self._num_silent != 1:
            return ""
        rollout = self.config.rollout
        return (
            f"no advantage differs from 0 in any of the {rollout.num_questions} groups of "
            f"{rollout.group_size} episodes, so nothing was learnt: all episodes of a question "
            f"earn the same. {self._remedies()}"
        )

    def _silence(self) -> str:
        if self._num_silent < PATIENCE:
            return ""
        return (
            f"no group had a signal for {self._num_silent} updates in a row: the policy is what it "
            f"was. {self._remedies()}"
        )

    def _remedies(self) -> str:
        return (
            "Give larger groups (--rollout.group-size), a higher --rollout.temperature, a reward "
            f"with more steps (--env.reward, now {self.config.env.reward}), questions that the "
            "policy answers sometimes, or a stronger --model"
        )


def small_split(split: str, num_tasks: int) -> str:
    """A sentence on a split with too few questions to judge a policy by, "" if it has enough."""
    if num_tasks >= MIN_EVAL_TASKS:
        return ""
    half_width = min(1.0, 1.96 * 0.5 / max(1, num_tasks) ** 0.5)
    questions = f"{num_tasks} question{'' if num_tasks == 1 else 's'}"
    return (
        f"the split {split} has {questions}: a score of 0.5 on it is uncertain by "
        f"±{half_width:.2f}. Evaluate on another (--evaluation.split; --env.split with eval), or "
        "prepare the dataset with more questions or other --shares"
    )
