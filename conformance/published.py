"""Checks the formulas of other systems against what their own code gave.

A file holds ``inputs``, padded matrices of one batch, and ``outputs`` by name. A name tells the
formula and its settings, such as ``verl_gae_g.9_l.8_adv``. What a mask hides is no sampled
token and has no counterpart here, so matrices are compared where the mask shows them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
import torch
from jaxtyping import Bool, Float

from calibadv_algo.advantages.batch_scaled import gpg_scaled
from calibadv_algo.advantages.bilevel_gae import bilevel_gae
from calibadv_algo.advantages.gae import gae
from calibadv_algo.advantages.grpo import group_normalized
from calibadv_algo.advantages.reinforce import discounted_returns
from calibadv_algo.advantages.rloo import leave_one_out, length_weighted
from calibadv_algo.advantages.tree_grpo import TreeMode, tree_normalized
from calibadv_algo.advantages.whitening import whiten_tokens
from calibadv_algo.batching import TokenBatch
from calibadv_algo.losses.base import Aggregation, LossTokens, aggregate
from calibadv_algo.losses.cispo import Cispo
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.kl import KL_ESTIMATORS, KlEstimator
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.value import value_loss
from conformance.report import VectorResult

Curriculum = Callable[[int, int, float, float], float]
"""The share of noisy searches from step, number of steps, share at the start and at the end."""

_CLIPS: Final = {"sym": (0.2, 0.2), "cliphigher": (0.2, 0.28)}
_DUAL_CLIP: Final = 3.0
_NUMBER: Final = r"([0-9.]+(?:e-?[0-9]+)?)"

Rows = list[Float[np.ndarray, " token"]]


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of a file, read row by row without what the mask hides.

    Attributes:
        inputs: The file's inputs.
        outputs: Its outputs, for names whose settings stand in another name.
    """

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    @property
    def mask(self) -> Bool[np.ndarray, "row column"]:
        """Where tokens were sampled."""
        mask: np.ndarray = np.asarray(self.inputs["mask"]) > 0
        return mask

    def rows(self, name: str) -> Rows:
        """A padded matrix as one vector a row."""
        matrix = np.asarray(self.inputs[name], dtype=np.float64)
        return [row[shown] for row, shown in zip(matrix, self.mask, strict=True)]

    def flat(self, name: str) -> torch.Tensor:
        """A padded matrix as one vector."""
        return torch.from_numpy(np.asarray(self.inputs[name], dtype=np.float64)[self.mask])

    @property
    def sequence(self) -> torch.Tensor:
        """Row of each sampled token."""
        return torch.from_numpy(self.mask.nonzero()[0])

    @property
    def turn(self) -> torch.Tensor:
        """Number of each sampled token's turn: a run of the mask is a turn."""
        starts = self.mask & ~np.pad(self.mask, ((0, 0), (1, 0)))[:, :-1]
        return torch.from_numpy((np.cumsum(starts, axis=1) - 1)[self.mask])

    def token_batch(self) -> TokenBatch:
        """The sampled tokens as a batch without prompts and observations."""
        return TokenBatch(
            input_ids=torch.zeros(len(self.sequence), dtype=torch.int64),
            sequence_starts=torch.from_numpy(np.cumsum([0, *self.mask.sum(axis=1)])),
            action_mask=torch.ones(len(self.sequence), dtype=torch.bool),
            advantages=self.flat("loss_adv"),
            sampling_logprobs=self.flat("old_logp"),
            sequence=self.sequence,
            turn=self.turn,
        )

    def loss_tokens(self) -> LossTokens:
        """The sampled tokens as an objective sees them."""
        whole = self.token_batch()
        return LossTokens(
            logprobs=self.flat("logp"),
            old_logprobs=whole.sampling_logprobs,
            sampling_logprobs=whole.sampling_logprobs,
            advantages=whole.advantages,
            sequence=whole.sequence,
            turn=whole.turn,
            is_last_turn=whole.is_last_turn,
            sequence_reward=torch.zeros_like(whole.advantages),
        )

    def turn_lengths(self) -> list[list[int]]:
        """Number of tokens of each turn of each row."""
        turns, rows = self.turn.numpy(), self.sequence.numpy()
        return [
            np.bincount(turns[rows == row]).tolist() if (rows == row).any() else []
            for row in range(len(self.mask))
        ]

    def rewards(self) -> Float[np.ndarray, " row"]:
        """Sum of each row's token rewards."""
        rewards: np.ndarray = np.asarray(self.inputs["token_rewards"], dtype=np.float64)
        sums: np.ndarray = rewards.sum(axis=1)
        return sums

    def groups(self, name: str = "uid") -> list[np.ndarray]:
        """Rows of each group, in order of appearance."""
        labels = [str(label) for label in self.inputs[name]]
        return [
            np.array([row for row, label in enumerate(labels) if label == wanted])
            for wanted in dict.fromkeys(labels)
        ]

    def spread(self, values: Float[np.ndarray, " row"]) -> Rows:
        """Repeats each row's value for its sampled tokens."""
        return [
            np.full(int(shown.sum()), value) for value, shown in zip(values, self.mask, strict=True)
        ]


def check_output(
    name: str, content: Mapping[str, Any], curriculum: Curriculum | None = None
) -> VectorResult:
    """Computes one output of a file and compares it.

    Args:
        name: The output's name.
        content: The file: ``inputs`` and ``outputs``.
        curriculum: The environment's share of noisy searches, which this package does not
            know; None leaves ``zerosearch_p_*`` unsupported.

    Returns:
        The difference, or the reason why there is no formula of that name.
    """
    batch, expected = Batch(content["inputs"], content["outputs"]), content["outputs"][name]
    for family, pattern, formula in _FORMULAS:
        match = re.fullmatch(pattern, name)
        if match is not None:
            computed = formula(batch, *match.groups())
            difference = _difference(batch, expected, computed)
            return VectorResult(name=name, switches=family, differences={"value": difference})
    match = re.fullmatch(rf"zerosearch_p_(\d+)_(\d+)_{_NUMBER}_{_NUMBER}", name)
    if match is not None and curriculum is not None:
        step, total, start, end = match.groups()
        computed = curriculum(int(step), int(total), float(start), float(end))
        difference = _difference(batch, expected, computed)
        return VectorResult(
            name=name, switches="ZeroSearch curriculum", differences={"value": difference}
        )
    reason = (
        "the curriculum of the simulated search was not given"
        if match
        else "no formula of that name"
    )
    return VectorResult(name=name, switches="unsupported", differences={}, unsupported=reason)


def _gae(batch: Batch, gamma: str, lam: str, what: str) -> Rows:
    """PPO's advantages, whitened, or the critic's targets."""
    pairs = [
        gae(rewards, values, gamma=float(gamma), lam=float(lam))
        for rewards, values in zip(batch.rows("token_rewards"), batch.rows("values"), strict=True)
    ]
    return _advantages_or_returns(pairs, what)


def _bilevel(
    batch: Batch, gamma: str | None, lam: str | None, turn_gamma: str | None, what: str
) -> Rows:
    """Bi-level GAE; the reference takes tokens of nonzero reward for the ends of turns."""
    if gamma is None or lam is None or turn_gamma is None:
        names = [re.fullmatch(rf"ragen_bilevel{_BILEVEL}_adv", name) for name in batch.outputs]
        found = [match.groups() for match in names if match is not None]
        if len(found) != 1:
            raise ValueError("ragen_bilevel_* without settings needs one name that has them")
        gamma, lam, turn_gamma = found[0]
    pairs = []
    for rewards, values in zip(
        batch.rows("turn_rewards_bilevel"), batch.rows("values"), strict=True
    ):
        lengths = np.diff(np.nonzero(rewards)[0], prepend=-1).tolist()
        pairs.append(
            bilevel_gae(
                rewards,
                values,
                lengths,
                gamma=float(gamma),
                lam=float(lam),
                turn_gamma=float(turn_gamma),
            )
        )
    return _advantages_or_returns(pairs, what)


def _advantages_or_returns(pairs: Sequence[tuple[np.ndarray, np.ndarray]], what: str) -> Rows:
    """Whitens the advantages, or takes the targets."""
    if what == "ret":
        return [returns for _, returns in pairs]
    return whiten_tokens([advantages for advantages, _ in pairs])


def _per_group(
    formula: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Callable[[Batch], Rows]:
    """Makes a check of a formula on the rewards and lengths of one group."""

    def check(batch: Batch) -> Rows:
        rewards, lengths = batch.rewards(), batch.mask.sum(axis=1).astype(np.float64)
        values = np.zeros_like(rewards)
        for rows in batch.groups():
            values[rows] = formula(rewards[rows], lengths[rows])
        return batch.spread(values)

    return check


def _reinforce_plus_plus(batch: Batch, gamma: str) -> Rows:
    """Whitened returns that end at observations, as in verl."""
    returns = [
        discounted_returns(rewards, float(gamma), lengths)
        for rewards, lengths in zip(batch.rows("token_rewards"), batch.turn_lengths(), strict=True)
    ]
    return whiten_tokens(returns)


def _reinforce_plus_plus_baseline(batch: Batch) -> Rows:
    """Whitened rewards minus the group's mean."""
    centred = _per_group(lambda rewards, _: group_normalized(rewards, normalization="none"))
    return whiten_tokens(centred(batch))


def _gpg(batch: Batch) -> Rows:
    """GPG's scaled deviations."""
    rewards, groups = batch.rewards(), batch.groups()
    values = np.zeros_like(rewards)
    for rows, scaled in zip(groups, gpg_scaled([rewards[rows] for rows in groups]), strict=True):
        values[rows] = scaled
    return batch.spread(values)


def _tree(batch: Batch, name: str) -> Rows:
    """Tree-GRPO with lone leaves as in the original."""
    modes = {
        "default_sum": "sum",
        "tree": "sum",
        "tree_inner": "intra",
        "tree_2norm": "renormalized",
    }
    rewards = batch.rewards()
    trees = np.unique([str(label) for label in batch.inputs["tree_uid"]], return_inverse=True)[1]
    values = np.zeros_like(rewards)
    for rows in batch.groups("tree_question_uid"):
        values[rows] = tree_normalized(
            rewards[rows], trees[rows], mode=cast(TreeMode, modes[name]), lone_leaf="raw"
        )
    return batch.spread(values)


def _vanilla(batch: Batch, clip: str, mode: str) -> list[Any]:
    """The clipped surrogate with dual clip, and its three metrics."""
    low, high = _CLIPS[clip]
    tokens = batch.loss_tokens()
    surrogate = ClippedSurrogate(clip_low=low, clip_high=high)
    dual = replace(surrogate, dual_clip=_DUAL_CLIP)(tokens)
    width = batch.mask.shape[1] if mode == "seq-mean-token-sum-norm" else None
    value = aggregate(dual, batch.sequence, cast(Aggregation, mode), denominator=width)
    metrics = {
        "actor/pg_clipfrac": float(surrogate.is_clipped(tokens).double().mean()),
        "actor/ppo_kl": float((tokens.old_logprobs - tokens.logprobs).mean()),
        "actor/pg_clipfrac_lower": float((dual < surrogate(tokens)).double().mean()),
    }
    return [float(value), metrics]


def _cispo(batch: Batch, clip: str) -> float:
    """CISPO, averaged over tokens."""
    low, high = _CLIPS[clip]
    loss = Cispo(clip_low=low, clip_high=high)(batch.loss_tokens())
    return float(aggregate(loss, batch.sequence))


def _gspo(batch: Batch, low: str, high: str) -> float:
    """GSPO, averaged over sequences."""
    loss = Gspo(clip_low=float(low), clip_high=float(high))(batch.loss_tokens())
    return float(aggregate(loss, batch.sequence, "seq-mean-token-mean"))


def _value(batch: Batch, clip: str) -> float:
    """The critic's loss, averaged over tokens."""
    loss = value_loss(
        batch.flat("vpreds"), batch.flat("values"), batch.flat("returns"), clip=float(clip)
    )
    return float(aggregate(loss, batch.sequence))


def _kl(batch: Batch, name: str) -> float:
    """A KL estimator, averaged over tokens."""
    estimate = KL_ESTIMATORS[cast(KlEstimator, name)](batch.flat("logp"), batch.flat("ref_logp"))
    return float(aggregate(estimate, batch.sequence))


def _llds(batch: Batch, gate: str, coef: str, norm: str) -> float:
    """LLDS's penalty."""
    objective = Llds(coef=float(coef), gate=cast(Any, gate), norm=cast(Any, norm))
    tokens, whole = batch.loss_tokens(), batch.token_batch()
    return float(objective.penalty(tokens, whole).sum()) / objective.penalty_denominator(whole)


_BILEVEL: Final = rf"_g{_NUMBER}_l{_NUMBER}_gH{_NUMBER}"

_FORMULAS: Final[Sequence[tuple[str, str, Callable[..., Any]]]] = (
    ("PPO, GAE", rf"verl_gae_g{_NUMBER}_l{_NUMBER}_(adv|ret)", _gae),
    ("RAGEN, bi-level GAE", rf"ragen_bilevel(?:{_BILEVEL})?_(adv|ret)", _bilevel),
    ("GRPO", "adv_grpo", _per_group(lambda rewards, _: group_normalized(rewards))),
    (
        "Dr. GRPO",
        "adv_dr_grpo",
        _per_group(lambda rewards, _: group_normalized(rewards, normalization="none")),
    ),
    ("RLOO", "adv_rloo", _per_group(lambda rewards, _: leave_one_out(rewards))),
    ("OPO", "adv_opo", _per_group(length_weighted)),
    ("GPG", "adv_gpg", _gpg),
    ("REINFORCE++", rf"adv_reinforce_pp_g{_NUMBER}", _reinforce_plus_plus),
    ("REINFORCE++ with baseline", "adv_reinforce_pp_baseline", _reinforce_plus_plus_baseline),
    ("Tree-GRPO", "tree_grpo_(default_sum|tree|tree_inner|tree_2norm)", _tree),
    (
        "clipped surrogate",
        "vanilla_(sym|cliphigher)_"
        "(token-mean|seq-mean-token-sum|seq-mean-token-mean|seq-mean-token-sum-norm)",
        _vanilla,
    ),
    ("CISPO", "cispo_(sym|cliphigher)", _cispo),
    ("GSPO", rf"gspo_{_NUMBER}_{_NUMBER}", _gspo),
    ("critic", rf"value_loss_clip{_NUMBER}", _value),
    ("KL", r"kl_(k1\+|k3\+|k1|k2|k3|abs)", _kl),
    (
        "LLDS",
        rf"llds_(token|response|action)_gate_lambda{_NUMBER}_(code|paper)_norm",
        _llds,
    ),
)
"""Family, pattern of the name with its settings, formula."""


def _difference(batch: Batch, expected: Any, computed: Any) -> float:
    """The largest difference of two numbers, tables of metrics, or matrices under the mask."""
    if isinstance(computed, float):
        return _distance(float(expected), computed)
    if isinstance(computed, dict):
        if set(expected) != set(computed):
            return math.inf
        return max(_distance(float(expected[key]), computed[key]) for key in computed)
    if computed and isinstance(computed[0], float):
        return max(
            _difference(batch, want, got) for want, got in zip(expected, computed, strict=True)
        )
    matrix = np.asarray(expected, dtype=np.float64)
    if matrix.shape != batch.mask.shape:
        return math.inf
    return max(
        (
            _distance(float(want), float(got))
            for row, shown, values in zip(matrix, batch.mask, computed, strict=True)
            for want, got in zip(row[shown], values, strict=True)
        ),
        default=0.0,
    )


def _distance(want: float, got: float) -> float:
    """The absolute difference; infinite if one side alone is no number."""
    if math.isnan(want) or math.isnan(got):
        return 0.0 if math.isnan(want) and math.isnan(got) else math.inf
    return abs(want - got)
