"""Identity of the state before a turn, so that equal states of a group can be compared."""

from __future__ import annotations

from typing import Literal

from calibadv_algo.credit.facts import check_info_keys
from calibadv_algo.types import Trajectory

AnchorKind = Literal["history", "observation", "passages"]
"""Common ground of two turns at the same state: everything that the environment
has said so far (``history``), the last thing that it said (``observation``), or the set of
passages retrieved so far (``passages``)."""


def anchor_states(trajectory: Trajectory, kind: AnchorKind = "history") -> tuple[str, ...]:
    """Names the state before each turn of a trajectory.

    **Source:** GiGPO (arXiv 2505.10978): steps of a group are compared where their anchor
    observations are equal.

    **Differs:** for search the released code takes the question with the history of observations,
    or the last observation, compared exactly or by similarity; ``passages`` is ours and calls two
    searches in another order the same state.

    Args:
        trajectory: An episode.
        kind: Source of the name. ``passages`` needs the info key ``passage_ids``.

    Returns:
        One string a turn; the first is the same for all trajectories of a group.

    Raises:
        ValueError: if the kind is unknown.
        MissingInfoKeyError: if a turn lacks ``passage_ids``.
    """
    if kind not in ("history", "observation", "passages"):
        raise ValueError(f"kind must be history, observation or passages, got {kind!r}")
    if kind == "passages":
        return _passage_states(trajectory)
    heard = [trajectory.prompt_text, *(turn.observation_text for turn in trajectory.turns[:-1])]
    if kind == "observation":
        return tuple(heard)
    # Lengths stand between the parts, so that no two histories give the same string.
    parts = [f"{len(text)}:{text}" for text in heard]
    return tuple("".join(parts[: count + 1]) for count in range(len(parts)))


def _passage_states(trajectory: Trajectory) -> tuple[str, ...]:
    """The set of passages before each turn."""
    seen: set[str] = set()
    states = []
    for turn in trajectory.turns:
        check_info_keys(("passage_ids",), turn.info, "anchor_states")
        states.append("\n".join(repr(passage) for passage in sorted(seen)))
        seen.update(turn.info["passage_ids"])
    return tuple(states)
