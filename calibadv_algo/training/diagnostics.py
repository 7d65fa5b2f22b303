"""Numbers to watch while training: who is pushed, how far, and whether the policy falls apart.

Pure functions on numpy arrays and plain values; each returns a float or a typed dictionary of
floats. A share of nothing is 0; a ratio whose denominator is 0 is NaN.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int

from calibadv_algo.credit.base import SCORED_BAD

HIGH_PERPLEXITY: Final = 50.0
"""Perplexity above which CalibAdv's paper counts a segment as collapsed."""

MAX_LOOP_PERIOD: Final = 4
"""Longest unit, in tokens, whose immediate repetition counts as a loop."""

MAX_SYMBOL_SHARE: Final = 0.3
"""Share of symbols among the visible characters above which a text counts as garbled."""

_MAX_LOG_RATIO: Final = 20.0
_PLAIN_PUNCTUATION: Final = frozenset(".,;:!?'\"()[]<>/-–—’‘“”&%$°+=*#_")
_BROKEN_CATEGORIES: Final = frozenset({"Cc", "Cn", "Co", "Cs"})
_SCRIPTS: Final = {
    "LATIN": "latin",
    "GREEK": "greek",
    "CYRILLIC": "cyrillic",
    "ARABIC": "arabic",
    "HEBREW": "hebrew",
    "DEVANAGARI": "devanagari",
    "THAI": "thai",
    "CJK": "east asian",
    "HIRAGANA": "east asian",
    "KATAKANA": "east asian",
    "HANGUL": "east asian",
}


class AdvantageMass(TypedDict):
    """Advantage summed over tokens.

    Attributes:
        positive_mass: Sum of the positive advantages, one term a token.
        negative_mass: Sum of the negative ones, as a magnitude.
        negative_to_positive_ratio: Their ratio; NaN without positive mass.
    """

    positive_mass: float
    negative_mass: float
    negative_to_positive_ratio: float


class MisPenalised(TypedDict):
    """Punishment of correct searches.

    Attributes:
        num_punished_searches: Search turns with a negative advantage under GRPO.
        mispenalized_share: Share of them that were correct, 0 to 1.
        own_mispenalized_share: The same share among the search turns that are negative under
            the estimator in use.
        kept_penalty: Negative mass that the correct ones have under the estimator in use,
            divided by what they have under GRPO; NaN if there are none.
    """

    num_punished_searches: float
    mispenalized_share: float
    own_mispenalized_share: float
    kept_penalty: float


class PerplexityStats(TypedDict):
    """Perplexity of segments (the sampled tokens of one turn).

    Attributes:
        mean_perplexity: Geometric mean over segments: the exponential of their mean
            negative log-likelihood a token.
        max_perplexity: Largest.
        high_perplexity_share: Share of segments above the limit.
    """

    mean_perplexity: float
    max_perplexity: float
    high_perplexity_share: float


class ActionStats(TypedDict):
    """Kinds of the turns of episodes.

    Attributes:
        malformed_share: Share of turns that are malformed actions.
        mean_searches: Mean number of searches in an episode.
        answered_share: Share of episodes whose last turn is an answer.
    """

    malformed_share: float
    mean_searches: float
    answered_share: float


@dataclass(frozen=True, slots=True)
class CollapseAlarm:
    """Verdict on a collapse of training, with its signs.

    Attributes:
        is_collapsed: Whether the alarm is raised.
        reasons: What was seen, in words; empty if nothing was.
    """

    is_collapsed: bool
    reasons: tuple[str, ...]


def advantage_mass(
    advantages: Float[np.ndarray, "..."], token_counts: Float[np.ndarray, "..."]
) -> AdvantageMass:
    """Sums advantages over tokens, positive and negative ones apart.

    **Source:** CalibAdv (arXiv 2604.18235): the ratio drifts to the negative before collapse.
    **Differs:** nothing.

    Args:
        advantages: Advantages of turns, of any shape.
        token_counts: Number of sampled tokens of each, of the same shape.

    Returns:
        The masses and their ratio.
    """
    masses = advantages * token_counts
    positive = float(np.maximum(masses, 0.0).sum())
    negative = -float(np.minimum(masses, 0.0).sum()) + 0.0
    return {
        "positive_mass": positive,
        "negative_mass": negative,
        "negative_to_positive_ratio": negative / positive if positive > 0 else math.nan,
    }


def mispenalized(
    advantages: Float[np.ndarray, "..."],
    grpo_advantages: Float[np.ndarray, "..."],
    correctness: Float[np.ndarray, "..."],
    is_search: Bool[np.ndarray, "..."],
    token_counts: Float[np.ndarray, "..."],
) -> MisPenalised:
    """Measures the punishment of correct searches.

    A search is correct if its correctness is above ``SCORED_BAD``; one without a score is not.
    With gold correctness this is the truth of the task, with silver the method's own view.

    **Source:** CalibAdv (arXiv 2604.18235): share of punished intermediate steps that were
    right, up to 0.6 there. **Differs:** the kept penalty is ours.

    Args:
        advantages: Of the estimator in use.
        grpo_advantages: Of GRPO on the same trajectories.
        correctness: In [0, 1], NaN without a score.
        is_search: Marks searches that something followed.
        token_counts: Number of sampled tokens of each turn.

    Returns:
        Shares and the kept penalty.
    """
    is_correct = is_search & (correctness > SCORED_BAD)
    punished = is_search & (grpo_advantages < 0)
    own_punished = is_search & (advantages < 0)
    wronged = punished & is_correct
    before = float((-grpo_advantages * token_counts)[wronged].sum())
    after = float((np.maximum(-advantages, 0.0) * token_counts)[wronged].sum())
    return {
        "num_punished_searches": float(punished.sum()),
        "mispenalized_share": _share(int(wronged.sum()), int(punished.sum())),
        "own_mispenalized_share": _share(
            int((own_punished & is_correct).sum()), int(own_punished.sum())
        ),
        "kept_penalty": after / before if before > 0 else math.nan,
    }


def approximate_kl(
    logprobs: Float[np.ndarray, " token"], old_logprobs: Float[np.ndarray, " token"]
) -> float:
    """Estimates how far the policy has moved from the one that sampled.

    Mean of ``exp(d) - 1 - d`` with ``d = logprob - old_logprob``, clamped to +-20: Schulman's
    k3 for KL(old || new), as the tokens were sampled from the old policy.

    **Source:** Schulman, "Approximating KL divergence" (2020). **Differs:** the clamp.

    Args:
        logprobs: Under the policy that is trained.
        old_logprobs: Under the policy that sampled.

    Returns:
        Nats a token, not negative; 0 without tokens.
    """
    if logprobs.size == 0:
        return 0.0
    difference = np.clip(logprobs - old_logprobs, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return float(np.mean(np.exp(difference) - 1.0 - difference))


def segment_perplexities(
    logprobs: Float[np.ndarray, " token"], segment: Int[np.ndarray, " token"]
) -> Float[np.ndarray, " segment"]:
    """Computes the perplexity of every segment: ``exp(-mean logprob)``.

    **Source:** CalibAdv's garbled-output check. **Differs:** overflow gives infinity quietly.

    Args:
        logprobs: Under the policy that sampled, or any other.
        segment: Number of the segment that each token belongs to, not negative.

    Returns:
        One value for each segment that has a token, by ascending number.
    """
    if logprobs.size == 0:
        return np.zeros(0)
    counts = np.bincount(segment)
    sums = np.bincount(segment, weights=logprobs.astype(np.float64))
    present = counts > 0
    with np.errstate(over="ignore"):
        perplexities: Float[np.ndarray, " segment"] = np.exp(-sums[present] / counts[present])
    return perplexities


def perplexity_stats(
    logprobs: Float[np.ndarray, " token"],
    segment: Int[np.ndarray, " token"],
    limit: float = HIGH_PERPLEXITY,
) -> PerplexityStats:
    """Summarises the perplexities of segments.

    **Source:** CalibAdv (arXiv 2604.18235), share of outputs above 50.
    **Differs:** per turn, not per output.

    Args:
        logprobs: Log-probability of each sampled token.
        segment: Number of the segment that each token belongs to.
        limit: Perplexity above which a segment counts as high.

    Returns:
        Mean, maximum and share; zeros without tokens.
    """
    perplexities = segment_perplexities(logprobs, segment)
    if perplexities.size == 0:
        return {"mean_perplexity": 0.0, "max_perplexity": 0.0, "high_perplexity_share": 0.0}
    with np.errstate(over="ignore"):
        mean = float(np.exp(np.mean(np.log(perplexities))))
    return {
        "mean_perplexity": mean,
        "max_perplexity": float(perplexities.max()),
        "high_perplexity_share": _share(int((perplexities > limit).sum()), perplexities.size),
    }


def repeated_token_share(
    token_ids: Int[np.ndarray, " token"],
    segment: Int[np.ndarray, " token"],
    max_period: int = MAX_LOOP_PERIOD,
) -> float:
    """Computes the share of tokens that end an immediate repetition.

    A token counts if, for some period ``p`` up to ``max_period``, the ``p`` tokens up to and
    including it are the ``p`` tokens before those, in the same segment: a token said twice in
    a row, or the second and later rounds of a loop.

    **Source:** ours; CalibAdv describes collapse as one token, or the pieces of one tag, for
    ever. **Differs:** nothing to differ from.

    Args:
        token_ids: Sampled tokens.
        segment: Number of the segment that each token belongs to; segments are contiguous.
        max_period: Longest unit, positive.

    Returns:
        A share, 0 without tokens.
    """
    is_repeated = np.zeros(token_ids.shape, dtype=np.bool_)
    for period in range(1, max_period + 1):
        equal = (token_ids[period:] == token_ids[:-period]) & (
            segment[period:] == segment[:-period]
        )
        if equal.size < period:
            break
        # A round is complete where `period` comparisons in a row hold.
        runs = np.concatenate(([0], np.cumsum(equal)))
        complete = runs[period:] - runs[:-period] == period
        is_repeated[2 * period - 1 :] |= complete
    return _share(int(is_repeated.sum()), is_repeated.size)


def is_garbled(text: str) -> bool:
    """Tells whether a text looks like debris rather than language.

    It does if it holds a replacement, control, private-use or unassigned character; if more
    than 30 % of its visible characters are neither letters, marks, digits nor common
    punctuation; or if its letters come from three or more writing systems.

    **Source:** ours; CalibAdv calls an output garbled by its perplexity, which
    :func:`perplexity_stats` reports. **Differs:** this looks at the text alone.

    Args:
        text: An action's text.

    Returns:
        The verdict; False for empty text.
    """
    visible = symbols = 0
    scripts: set[str] = set()
    for character in text:
        if character.isspace():
            continue
        visible += 1
        if character.isascii():
            if character.isalpha():
                scripts.add("latin")
            elif not (character.isdigit() or character in _PLAIN_PUNCTUATION):
                if not character.isprintable():
                    return True
                symbols += 1
            continue
        category = unicodedata.category(character)
        if category in _BROKEN_CATEGORIES or character == "\N{REPLACEMENT CHARACTER}":
            return True
        if category.startswith("L"):
            name = unicodedata.name(character, "").split(" ")[0].split("-")[0]
            scripts.add(_SCRIPTS.get(name, name))
        elif category[0] not in "MN" and character not in _PLAIN_PUNCTUATION:
            symbols += 1
    return len(scripts) >= 3 or symbols > MAX_SYMBOL_SHARE * visible


def garbled_share(texts: Iterable[str]) -> float:
    """Computes the share of texts that are garbled.

    Args:
        texts: Texts of actions.

    Returns:
        A share, 0 without texts.
    """
    verdicts = [is_garbled(text) for text in texts]
    return _share(sum(verdicts), len(verdicts))


def action_stats(actions: Sequence[Sequence[str]]) -> ActionStats:
    """Summarises what the turns turned out to be.

    Args:
        actions: For each episode the kinds of its turns: search, answer or malformed.

    Returns:
        Shares and means; zeros without episodes.
    """
    turns = [kind for episode in actions for kind in episode]
    num_episodes = len(actions)
    return {
        "malformed_share": _share(turns.count("malformed"), len(turns)),
        "mean_searches": turns.count("search") / num_episodes if num_episodes else 0.0,
        "answered_share": _share(
            sum(bool(episode) and episode[-1] == "answer" for episode in actions), num_episodes
        ),
    }


def collapse_alarm(
    history: Sequence[Mapping[str, float]],
    *,
    window: int = 5,
    reward_drop: float = 0.5,
    least_best_reward: float = 0.05,
    high_perplexity_limit: float = 0.05,
    malformed_limit: float = 0.5,
    repeated_limit: float = 0.3,
) -> CollapseAlarm:
    """Tells from the metrics so far whether training has collapsed.

    All metrics are averaged over the last ``window`` updates. The alarm is raised if the
    reward has fallen below ``reward_drop`` times its best average over any earlier window
    (which must reach ``least_best_reward``) and a second sign is seen: high-perplexity share,
    malformed share or repeated-token share above its limit. It is also raised by two of these
    signs without the fall. Metrics that are missing or NaN are left out.

    **Source:** ours, after CalibAdv's description of collapse: reward falls, perplexity
    soars, text is garbled, then one token is repeated. **Differs:** nothing to differ from.

    Args:
        history: Metrics of each update in order; the keys ``reward_mean``,
            ``high_perplexity_share``, ``malformed_share``, ``repeated_token_share`` are read.
        window: Updates that are averaged, positive.
        reward_drop: Part of the best reward below which it has fallen, 0 to 1.
        least_best_reward: Best reward below which a fall means nothing.
        high_perplexity_limit: Share of high-perplexity segments that is a sign.
        malformed_limit: Share of malformed actions that is a sign.
        repeated_limit: Share of repeated tokens that is a sign.

    Returns:
        The verdict with reasons. Never an alarm with fewer than ``window`` updates.

    Raises:
        ValueError: if the window is not positive.
    """
    if window < 1:
        raise ValueError(f"window must be positive, got {window}")
    if len(history) < window:
        return CollapseAlarm(is_collapsed=False, reasons=())
    falls = _reward_fall(history, window, reward_drop, least_best_reward)
    limits = {
        "high_perplexity_share": high_perplexity_limit,
        "malformed_share": malformed_limit,
        "repeated_token_share": repeated_limit,
    }
    signs = []
    for key, limit in limits.items():
        value = _window_mean(history, key, len(history), window)
        if value > limit:
            signs.append(f"{key} {value:.3g} is above {limit:g}")
    is_collapsed = bool(falls and signs) or len(signs) >= 2
    return CollapseAlarm(is_collapsed=is_collapsed, reasons=(*falls, *signs))


def _reward_fall(
    history: Sequence[Mapping[str, float]], window: int, drop: float, least_best: float
) -> list[str]:
    """Words the fall of the reward, if there is one."""
    means = [
        _window_mean(history, "reward_mean", end, window) for end in range(window, len(history) + 1)
    ]
    best = max((mean for mean in means[:-1] if not math.isnan(mean)), default=0.0)
    if best >= least_best and means[-1] < drop * best:
        return [f"reward {means[-1]:.3g} is below {drop:g} of its best {best:.3g}"]
    return []


def _window_mean(history: Sequence[Mapping[str, float]], key: str, end: int, window: int) -> float:
    """Averages a metric over the window that ends before ``end``; NaN if it is never given."""
    values = [entry[key] for entry in history[end - window : end] if key in entry]
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _share(part: int, whole: int) -> float:
    """Divides, a share of nothing being 0."""
    return part / whole if whole else 0.0
