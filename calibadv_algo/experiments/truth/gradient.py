"""Direction of the policy gradient under an estimator, against that under the true advantages.

The gradient is ``sum_t A_t grad log pi(turn t)``, linear in the advantages. So the gradient of each
turn is computed once and kept as a sketch, whose inner products are those of the gradients up to
one over the root of its size (CountSketch: every weight goes to one place with a random sign).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from calibadv_algo.experiments.truth.audit import Standing
from calibadv_algo.experiments.truth.intervals import Weights, interval_of
from calibadv_algo.experiments.truth.turns import Column, Turns
from calibadv_algo.types import Segment, Trajectory, segments

Sketches = Float[np.ndarray, "turn place"]
Vectors = Float[np.ndarray, "cluster place"]

SKETCH_SIZE: Final = 4096
NUM_RESAMPLES: Final = 500


def sketch_turns(
    model: nn.Module,
    trajectories: Sequence[Trajectory],
    *,
    temperature: float = 1.0,
    size: int = SKETCH_SIZE,
    seed: int = 0,
) -> Sketches:
    """Sketch of the gradient of every turn's log-probability, in order.

    Args:
        model: The policy, a causal language model.
        trajectories: Whose turns.
        temperature: Of the sampling.
        size: Places of a sketch.
        seed: Of the places and signs.
    """
    weights = [each for each in model.parameters() if each.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    total = sum(each.numel() for each in weights)
    places = torch.randint(size, (total,), generator=generator)
    signs = torch.randint(2, (total,), generator=generator, dtype=torch.int8) * 2 - 1
    rows = []
    model.eval()
    for trajectory in trajectories:
        for segment in segments(trajectory):
            ids, spans = _spans(segment)
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float() / temperature
            logprobs = torch.log_softmax(logits, dim=-1)
            taken = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            for start, end in spans:
                loss = taken[start - 1 : end - 1].sum()
                parts = torch.autograd.grad(loss, weights, retain_graph=True)
                flat = torch.cat([part.reshape(-1) for part in parts])
                rows.append(torch.zeros(size).index_add_(0, places, flat * signs).numpy())
    return np.stack(rows).astype(np.float64)


def gradient_cosines(
    advantages: Mapping[str, Column], turns: Turns, sketches: Sketches, weights: Weights
) -> tuple[dict[str, Standing], float]:
    """Cosine of every candidate's gradient with the true one, and the ceiling of the raw cosine.

    ``<g, T> / (|g| sqrt(<T1, T2>))`` with the gradients of the two halves of the truth, whose
    noise is independent: the cosine with the gradient of the true advantages themselves. The
    ceiling ``sqrt(<T1, T2> / <T, T>)`` is what a perfect estimator would reach without that.

    Args:
        advantages: By candidate.
        turns: The turns.
        sketches: Of their gradients.
        weights: Resamples of the clusters.
    """
    drawn = weights[:NUM_RESAMPLES]
    every = np.vstack((np.ones((1, weights.shape[1])), drawn))
    truth, first, second = (
        every @ _by_cluster(column, turns, sketches)
        for column in (turns.truth, turns.halves[0], turns.halves[1])
    )
    common = np.maximum((first * second).sum(axis=1), 0.0)
    ceiling = float(np.sqrt(common[0] / (truth[0] @ truth[0])))
    standings = {}
    for name, column in advantages.items():
        own = every @ _by_cluster(column, turns, sketches)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = (own * truth).sum(axis=1) / np.sqrt((own * own).sum(axis=1) * common)
        interval = interval_of(float(cosines[0]), cosines[1:])
        standings[name] = Standing(scores={"cosine": interval})
    return standings, ceiling


def _by_cluster(column: Column, turns: Turns, sketches: Sketches) -> Vectors:
    """Gradient of each cluster under some advantages."""
    result = np.zeros((len(turns.clusters), sketches.shape[1]))
    np.add.at(result, turns.cluster, column[:, None] * sketches)
    return result


def _spans(segment: Segment) -> tuple[list[int], list[tuple[int, int]]]:
    """Tokens of a segment of an episode and the places of its turns among them."""
    ids, spans = list(segment.context_ids), []
    for turn in segment.turns:
        spans.append((len(ids), len(ids) + len(turn.action_ids)))
        ids += [*turn.action_ids, *turn.observation_ids]
    return ids, spans
