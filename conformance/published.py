"""Checks the formulas of other systems against what their own code gave.

A file holds ``inputs``, padded matrices of one batch, and ``outputs`` by name. A name tells the
formula and its settings, such as ``verl_gae_g.9_l.8_adv``. What a mask hides is no sampled
token and has no counterpart here, so matrices are compared where the mask shows them.
"""

from __future__ import annotations

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
from calibadv_algo.losses.kl import KlEstimator, divergence
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.value import value_loss
from calibadv_env.retrieval.remote.simulated import noise_probability
from conformance.report import VectorResult, worst_difference

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
        return self.shown(self.inputs[name])

    def shown(self, rows: Sequence[Sequence[float]]) -> Rows:
        """Rows without what the mask hides; none if the shape is another."""
        matrix = np.asarray(rows, dtype=np.float64)
        if matrix.shape != self.mask.shape:
            return []
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

    def per_group(
        self, formula: Callable[[Float[np.ndarray, " member"]], np.ndarray], uid: str = "uid"
    ) -> Rows:
        """Advantages of a formula on the numbers of each group's rows, for the sampled tokens."""
        values = np.zeros(len(self.mask))
        for rows in self.groups(uid):
            values[rows] = formula(rows)
        return self.spread(values)


def check_output(name: str, content: Mapping[str, Any]) -> VectorResult:
    """Computes one output of a file and compares it.

    Args:
        name: The output's name.
        content: The file: ``inputs`` and ``outputs``.

    Returns:
        The difference, or the reason why there is no formula of that name.
    """
    batch, expected = Batch(content["inputs"], content["outputs"]), content["outputs"][name]
    for family, pattern, formula in _FORMULAS:
        match = re.fullmatch(pattern, name)
        if match is not None:
            computed = formula(batch, *match.groups())
            if isinstance(computed, list) and isinstance(computed[0], np.ndarray):
                expected = batch.shown(expected)
            difference = worst_difference(expected, computed)
            return VectorResult(name=name, switches=family, differences={"value": difference})
    return VectorResult(
        name=name,
        switches="unsupported",
        differences={},
        unsupported="no formula of that name",
    )


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


def _of_rewards(formula: Callable[..., np.ndarray], **settings: Any) -> Callable[[Batch], Rows]:
    """Makes a check of a formula on the rewards of one group."""
    return lambda batch: batch.per_group(lambda rows: formula(batch.rewards()[rows], **settings))


def _opo(batch: Batch) -> Rows:
    """OPO's deviations from the length-weighted mean."""
    lengths = batch.mask.sum(axis=1).astype(np.float64)
    return batch.per_group(lambda rows: length_weighted(batch.rewards()[rows], lengths[rows]))


def _reinforce_plus_plus(batch: Batch, gamma: str) -> Rows:
    """Whitened returns that end at observations, as in verl."""
    returns = [
        discounted_returns(rewards, float(gamma), lengths)
        for rewards, lengths in zip(batch.rows("token_rewards"), batch.turn_lengths(), strict=True)
    ]
    return whiten_tokens(returns)


def _gpg(batch: Batch) -> Rows:
    """GPG's scaled deviations."""
    scaled = iter(gpg_scaled([batch.rewards()[rows] for rows in batch.groups()]))
    return batch.per_group(lambda _: next(scaled))


def _tree(batch: Batch, name: str) -> Rows:
    """Tree-GRPO with lone leaves as in the original."""
    modes: dict[str, TreeMode] = {
        "default_sum": "sum",
        "tree": "sum",
        "tree_inner": "intra",
        "tree_2norm": "renormalized",
    }
    trees = np.unique([str(label) for label in batch.inputs["tree_uid"]], return_inverse=True)[1]
    return batch.per_group(
        lambda rows: tree_normalized(
            batch.rewards()[rows], trees[rows], mode=modes[name], lone_leaf="raw"
        ),
        "tree_question_uid",
    )


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
    logprobs, old = batch.flat("logp"), batch.flat("old_logp")
    estimate = divergence(cast(KlEstimator, name), logprobs, batch.flat("ref_logp"), old)
    return float(aggregate(estimate, batch.sequence))


def _llds(batch: Batch, gate: str, coef: str, norm: str) -> float:
    """LLDS's penalty."""
    objective = Llds(coef=float(coef), gate=cast(Any, gate), norm=cast(Any, norm))
    tokens, whole = batch.loss_tokens(), batch.token_batch()
    return float(objective.penalty(tokens, whole).sum()) / objective.penalty_denominator(whole)


def _curriculum(_: Batch, step: str, num_steps: str, start: str, end: str) -> float:
    """ZeroSearch's share of noisy searches."""
    return noise_probability(int(step), int(num_steps), start=float(start), end=float(end))


_BILEVEL: Final = rf"_g{_NUMBER}_l{_NUMBER}_gH{_NUMBER}"

_CENTRED: Final = _of_rewards(group_normalized, normalization="none")

_FORMULAS: Final[Sequence[tuple[str, str, Callable[..., Any]]]] = (
    ("PPO, GAE", rf"verl_gae_g{_NUMBER}_l{_NUMBER}_(adv|ret)", _gae),
    ("RAGEN, bi-level GAE", rf"ragen_bilevel(?:{_BILEVEL})?_(adv|ret)", _bilevel),
    ("GRPO", "adv_grpo", _of_rewards(group_normalized)),
    ("Dr. GRPO", "adv_dr_grpo", _CENTRED),
    ("RLOO", "adv_rloo", _of_rewards(leave_one_out)),
    ("OPO", "adv_opo", _opo),
    ("GPG", "adv_gpg", _gpg),
    ("REINFORCE++", rf"adv_reinforce_pp_g{_NUMBER}", _reinforce_plus_plus),
    (
        "REINFORCE++ with baseline",
        "adv_reinforce_pp_baseline",
        lambda batch: whiten_tokens(_CENTRED(batch)),
    ),
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
    (
        "ZeroSearch curriculum",
        rf"zerosearch_p_(\d+)_(\d+)_{_NUMBER}_{_NUMBER}",
        _curriculum,
    ),
)
"""Family, pattern of the name with its settings, formula."""
