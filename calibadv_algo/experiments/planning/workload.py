"""One update of a run: its episodes and their lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload(Checked):
    """One update. The defaults are CalibAdv's batch; the lengths are assumptions."""

    questions: Annotated[int, POSITIVE] = 512
    """Questions of an update."""
    group_size: Annotated[int, POSITIVE] = 5
    """Episodes of a question; they share its prompt."""
    searches: Annotated[float, NOT_NEGATIVE] = 3.0
    """Searches of an episode, on average."""
    max_searches: Annotated[float, NOT_NEGATIVE] = 4.0
    """Most searches of an episode."""
    prompt_tokens: Annotated[int, POSITIVE] = 250
    """Tokens of a prompt."""
    observation_tokens: Annotated[int, NOT_NEGATIVE] = 450
    """Tokens that a search brings."""
    action_tokens: Annotated[int, POSITIVE] = 120
    """Sampled tokens of a turn, on average."""
    max_action_tokens: Annotated[int, POSITIVE] = 1024
    """Most sampled tokens of a turn."""
    search_s: Annotated[float, NOT_NEGATIVE] = 1.0
    """Seconds of a search."""
    minibatches: Annotated[int, POSITIVE] = 10
    """Steps of the optimiser in an update."""
    old_logprobs: bool = True
    """The trainer computes log-probabilities before the update."""
    reference: bool = False
    """A reference model computes them too, for a KL term."""

    def __post_init__(self) -> None:
        """Checks the fields, and the limits against the means."""
        Checked.__post_init__(self)
        for mean, most in (("searches", "max_searches"), ("action_tokens", "max_action_tokens")):
            if getattr(self, most) < getattr(self, mean):
                raise ValueError(f"{most} must be at least {mean} ({getattr(self, mean)})")

    @property
    def num_episodes(self) -> int:
        """Episodes of an update."""
        return self.questions * self.group_size

    @property
    def sampled_per_episode(self) -> float:
        """Sampled tokens of an episode: its searches and the answer."""
        return (self.searches + 1) * self.action_tokens

    @property
    def tokens_per_episode(self) -> float:
        """Length of an episode, all tokens."""
        observed = self.searches * self.observation_tokens
        return self.prompt_tokens + observed + self.sampled_per_episode

    @property
    def num_tokens(self) -> float:
        """Tokens that the trainer sees in an update."""
        return self.num_episodes * self.tokens_per_episode

    def longest_sampled(self, tail: float) -> float:
        """Sampled tokens of the longest episode, at most what the limits allow."""
        most = (self.max_searches + 1) * self.max_action_tokens
        return min(tail * self.sampled_per_episode, most)
