"""One update: cutting a minibatch differently must not change its gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from calibadv_algo.batching import TokenBatch, select_sequences
from calibadv_algo.learner.config import CriticConfig, OptimConfig
from calibadv_algo.learner.learner import Learner
from calibadv_algo.learner.policy import Policy
from calibadv_algo.losses.base import LossTokens, NoCorrection, PolicyObjective
from calibadv_algo.losses.cispo import Cispo
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.losses.gspo import Gspo
from calibadv_algo.losses.llds import Llds
from calibadv_algo.losses.mismatch import MaskedIs, SequenceTis, TokenTis

VOCAB = 40


def make_model(seed: int = 0) -> Qwen2ForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=VOCAB,
                hidden_size=24,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=64,
                tie_word_embeddings=True,
                initializer_range=0.2,
            )
        )


def make_batch(model: Qwen2ForCausalLM, seed: int = 0, silent: tuple[int, ...] = ()) -> TokenBatch:
    """Eight sequences of 4 to 20 tokens; the silent ones have no advantage."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(4, 21, 8)
    masks = [np.arange(length) >= rng.integers(1, 4) for length in lengths]
    counts = [int(mask.sum()) for mask in masks]
    sequence = np.repeat(np.arange(8), counts)
    advantages = rng.normal(size=len(sequence)).astype(np.float32)
    advantages[np.isin(sequence, silent)] = 0.0
    batch = TokenBatch(
        input_ids=torch.from_numpy(rng.integers(0, VOCAB, lengths.sum())),
        sequence_starts=torch.tensor([0, *np.cumsum(lengths)]),
        action_mask=torch.from_numpy(np.concatenate(masks)),
        advantages=torch.from_numpy(advantages),
        sampling_logprobs=torch.zeros(len(sequence)),
        sequence=torch.from_numpy(sequence),
        turn=torch.zeros(len(sequence), dtype=torch.int64),
    )
    with torch.no_grad():
        logprobs = Policy(model).logprobs(batch)[0]
    noise = torch.from_numpy(rng.normal(scale=0.3, size=len(sequence)).astype(np.float32))
    return replace(batch, sampling_logprobs=logprobs + noise)


def gradient(config: OptimConfig, batch: TokenBatch) -> torch.Tensor:
    """The gradient of one minibatch's loss."""
    model = make_model()
    learner = Learner(model, config, ref_model=make_model(seed=1))
    learner.accumulate_gradient(batch)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in model.parameters()
        ]
    )


AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum")

OBJECTIVES = (
    Gspo(clip_low=0.2, clip_high=0.2),
    Cispo(),
    *(Llds(gate=gate, norm="code") for gate in ("token", "response", "action")),
    *(Llds(norm=norm, answer="paper") for norm in ("paper", "preserved")),  # type: ignore[arg-type]
    Llds(base=Gspo(), answer="code", answer_lambda=0.1),
)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("terms", [{}, {"kl_coef": 0.3, "entropy_coef": 0.1}])
def test_micro_batches_add_up_to_the_minibatch(aggregation: Any, terms: dict[str, float]) -> None:
    config = OptimConfig(aggregation=aggregation, micro_batch_tokens=10_000, **terms)  # type: ignore[arg-type]
    batch = make_batch(make_model())
    whole = gradient(config, batch)
    for budget in (1, 25, 60):
        cut = gradient(replace(config, micro_batch_tokens=budget), batch)
        torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)
    assert float(whole.abs().max()) > 1e-3


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("mismatch", [NoCorrection(), SequenceTis(), MaskedIs()], ids=repr)
def test_every_objective_adds_up_too(objective: Any, mismatch: Any) -> None:
    config = OptimConfig(
        objective=objective,
        mismatch=mismatch,
        old_logprobs="recomputed",
        aggregation="seq-mean-token-sum-norm",
        length_norm=20,
        micro_batch_tokens=10_000,
    )
    model = make_model()
    batch = make_batch(model, silent=(2,))
    turn = torch.arange(batch.num_action_tokens) % 3
    # The policy has moved since the batch was scored, so that ratios are not 1.
    old = batch.sampling_logprobs + 0.3 * torch.sin(torch.arange(float(len(turn))))
    batch = replace(batch, turn=turn, old_logprobs=old)
    whole = gradient(config, batch)
    for budget in (1, 25):
        cut = gradient(replace(config, micro_batch_tokens=budget), batch)
        torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)
    assert float(whole.abs().max()) > 1e-4


class Reinforce(PolicyObjective):
    """An objective from outside the package, with the hooks' defaults."""

    def __call__(self, tokens: LossTokens) -> torch.Tensor:
        return -tokens.advantages * tokens.logprobs


def test_an_objective_of_ones_own_needs_its_loss_alone() -> None:
    batch = make_batch(make_model())
    config = OptimConfig(old_logprobs="recomputed")
    own = gradient(replace(config, objective=Reinforce()), batch)
    torch.testing.assert_close(own, gradient(config, batch), atol=1e-6, rtol=1e-4)
    learner = Learner(make_model(), replace(config, objective=Reinforce()))
    result = learner.update(batch, 0, np.random.default_rng(0))
    assert not result.scores.is_clipped.any()


def test_a_penalty_reaches_sequences_without_advantage() -> None:
    model = make_model()
    batch = make_batch(model, silent=tuple(range(8)))
    batch = replace(batch, old_logprobs=batch.sampling_logprobs + 1.0)
    assert float(gradient(OptimConfig(), batch).abs().max()) == 0
    assert float(gradient(OptimConfig(objective=Llds()), batch).abs().max()) > 1e-4


def test_a_constant_length_divides_the_sum() -> None:
    batch = make_batch(make_model())
    plain = gradient(OptimConfig(aggregation="seq-mean-token-sum"), batch)
    config = OptimConfig(aggregation="seq-mean-token-sum-norm", length_norm=50)
    torch.testing.assert_close(gradient(config, batch) * 50, plain, atol=1e-6, rtol=1e-5)


def test_weights_for_the_mismatch_multiply_the_loss() -> None:
    batch = make_batch(make_model())
    config = OptimConfig(old_logprobs="recomputed")
    plain = gradient(config, batch)
    doubled = replace(batch, sampling_logprobs=batch.sampling_logprobs - 10.0)
    weighed = gradient(replace(config, mismatch=TokenTis(cap=2.0)), doubled)
    torch.testing.assert_close(weighed, 2 * plain, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(gradient(config, doubled), plain)


def test_the_mismatch_is_measured_where_both_sides_are_known() -> None:
    model = make_model()
    batch = make_batch(model)
    rng = np.random.default_rng(0)
    assert Learner(model, OptimConfig(lr=1e-9)).update(batch, 0, rng).mismatch == {}
    config = OptimConfig(lr=1e-9, old_logprobs="recomputed", mismatch=TokenTis(cap=1.0))
    found = Learner(model, config).update(batch, 0, rng).mismatch
    with torch.no_grad():
        gap = Policy(model).logprobs(batch)[0] - batch.sampling_logprobs
    assert found["mismatch_mean_abs"] == pytest.approx(float(gap.abs().mean()), rel=1e-4)
    assert found["mismatch_truncated_share"] == pytest.approx(float((gap >= 0).float().mean()))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_gradient_is_that_of_the_formula(aggregation: Any) -> None:
    """An obvious loop over sequences and tokens, with the clip written out."""
    model = make_model()
    batch = make_batch(model)
    surrogate = ClippedSurrogate(clip_low=0.1, clip_high=0.3)
    config = OptimConfig(aggregation=aggregation, objective=surrogate)
    expected = torch.zeros(())
    for start, end, index in zip(
        batch.sequence_starts[:-1], batch.sequence_starts[1:], range(8), strict=True
    ):
        ids = batch.input_ids[start:end]
        table = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        tokens = (batch.sequence == index).nonzero().flatten().tolist()
        places = batch.action_mask[start:end].nonzero().flatten().tolist()
        total = torch.zeros(())
        for token, place in zip(tokens, places, strict=True):
            ratio = (table[place - 1, ids[place]] - batch.sampling_logprobs[token]).exp()
            advantage = batch.advantages[token]
            clipped = min(max(ratio, torch.tensor(0.9)), torch.tensor(1.3))
            total = total - torch.minimum(ratio * advantage, clipped * advantage)
        weight = {
            "token-mean": 1 / batch.num_action_tokens,
            "seq-mean-token-mean": 1 / (8 * len(tokens)),
            "seq-mean-token-sum": 1 / 8,
        }[aggregation]
        expected = expected + weight * total
    expected.backward()
    by_hand = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient(config, batch), by_hand, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_sequences_without_advantage_are_skipped_exactly(aggregation: Any) -> None:
    config = OptimConfig(aggregation=aggregation)
    batch = make_batch(make_model(), silent=(1, 4, 5))
    skipped = gradient(config, batch)
    # A vanishing entropy term forces every sequence through the model.
    full = gradient(replace(config, entropy_coef=1e-30), batch)
    torch.testing.assert_close(skipped, full, atol=1e-7, rtol=1e-5)
    without = gradient(config, select_sequences(batch, [0, 2, 3, 6, 7]))
    assert not torch.allclose(skipped, without, rtol=1e-2)


def test_skipped_sequences_cost_nothing() -> None:
    model = make_model()
    learner = Learner(model, OptimConfig(num_minibatches=1))
    batch = make_batch(model, silent=(0, 1, 2, 3, 4, 5))
    result = learner.update(batch, 0, np.random.default_rng(0))
    assert result.num_tokens == int(batch.lengths[6:].sum())
    silent = learner.update(make_batch(model, silent=tuple(range(8))), 1, np.random.default_rng(0))
    assert (silent.num_tokens, silent.num_steps, silent.loss) == (0, 1, 0.0)


def test_an_update_without_signal_leaves_the_weights() -> None:
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    learner = Learner(model, OptimConfig())
    learner.update(make_batch(model, silent=tuple(range(8))), 0, np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_positive_advantages_raise_the_probability() -> None:
    model = make_model()
    batch = replace(make_batch(model), advantages=torch.ones(make_batch(model).num_action_tokens))
    with torch.no_grad():
        batch = replace(batch, sampling_logprobs=Policy(model).logprobs(batch)[0])
    learner = Learner(model, OptimConfig(lr=1e-2, num_minibatches=1))
    learner.update(batch, 0, np.random.default_rng(0))
    with torch.no_grad():
        assert float((Policy(model).logprobs(batch)[0] - batch.sampling_logprobs).mean()) > 0.01


def test_recomputed_old_logprobs_make_the_first_ratio_one() -> None:
    model = make_model()
    batch = make_batch(model)
    config = OptimConfig(num_minibatches=1, micro_batch_tokens=30)
    rng = np.random.default_rng(0)
    sampled = Learner(model, replace(config, lr=1e-9)).update(batch, 0, rng).scores
    assert float((sampled.logprobs - sampled.old_logprobs).abs().max()) > 0.1
    config = replace(config, old_logprobs="recomputed")
    recomputed = Learner(model, config).update(batch, 0, rng).scores
    torch.testing.assert_close(recomputed.logprobs, recomputed.old_logprobs, atol=1e-5, rtol=0)


def test_what_is_scored_keeps_its_sampling_logprobs() -> None:
    model = make_model()
    batch = make_batch(model)
    batch = replace(batch, sampling_logprobs=-1.0 - torch.rand(batch.num_action_tokens))
    learner = Learner(model, OptimConfig(old_logprobs="recomputed", micro_batch_tokens=25))
    score, seen = learner.policy.logprobs, []

    def listen(micro: TokenBatch, *args: Any, **kwargs: Any) -> Any:
        seen.append(micro.sampling_logprobs)
        return score(micro, *args, **kwargs)

    learner.policy.logprobs = listen  # type: ignore[method-assign]
    prepared = learner.prepare(batch)
    assert torch.equal(torch.cat(seen).sort().values, batch.sampling_logprobs.sort().values)
    assert torch.equal(prepared.sampling_logprobs, batch.sampling_logprobs)
    assert prepared.places is None


def test_the_reference_policy_is_a_frozen_copy() -> None:
    model = make_model()
    learner = Learner(model, OptimConfig(kl_coef=0.1, lr=1e-2, num_minibatches=1))
    batch = make_batch(model)
    first = learner.update(batch, 0, np.random.default_rng(0)).scores
    assert first.ref_logprobs is not None
    torch.testing.assert_close(first.ref_logprobs, first.logprobs, atol=1e-5, rtol=0)
    second = learner.update(batch, 1, np.random.default_rng(0)).scores
    assert second.ref_logprobs is not None
    torch.testing.assert_close(second.ref_logprobs, first.ref_logprobs, atol=1e-5, rtol=0)
    assert float((second.logprobs - first.logprobs).abs().max()) > 1e-3


def test_a_gradient_that_is_not_finite_is_not_applied() -> None:
    model = make_model()
    batch = make_batch(model)
    bad = replace(batch, advantages=torch.full_like(batch.advantages, math.inf))
    before = [p.detach().clone() for p in model.parameters()]
    result = Learner(model, OptimConfig()).update(bad, 0, np.random.default_rng(0))
    assert (result.num_steps, result.num_skipped_steps) == (0, 2)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def never(model: Qwen2ForCausalLM, token: int) -> None:
    """Makes the model give a token the probability 0, as a mask on its logits would."""

    def forbid(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(logits.shape[-1])
        mask[token] = -math.inf
        return logits + mask

    model.get_output_embeddings().register_forward_hook(forbid)


@pytest.mark.parametrize("terms", [{}, {"kl_coef": 0.3, "entropy_coef": 0.1}])
def test_a_token_that_cannot_be_scored_is_left_out_and_counted(terms: dict[str, float]) -> None:
    """Its log-probability is -inf then and now, and their difference NaN: the step went with it."""
    model, batch = make_model(), make_batch(make_model())
    tokens = batch.input_ids[batch.action_mask]
    forbidden = int(tokens[0])
    is_bad = tokens == forbidden
    never(model, forbidden)
    sampling = batch.sampling_logprobs.masked_fill(is_bad, -math.inf)
    batch = replace(batch, sampling_logprobs=sampling)
    config = OptimConfig(num_minibatches=1, **terms)  # type: ignore[arg-type]
    learner = Learner(model, config, ref_model=make_model(seed=1))
    before = [p.detach().clone() for p in model.parameters()]
    result = learner.update(batch, 0, np.random.default_rng(0))
    assert (result.num_steps, result.num_skipped_steps) == (1, 0)
    assert result.num_unscorable == int(is_bad.sum()) > 0
    assert math.isfinite(result.loss)
    assert len(result.scores.logprobs) == len(tokens) - int(is_bad.sum())
    assert all(bool(each.isfinite().all()) for each in vars_of(result.scores))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def vars_of(scores: Any) -> list[torch.Tensor]:
    values = [getattr(scores, name) for name in ("logprobs", "old_logprobs", "entropies")]
    return values if scores.ref_logprobs is None else [*values, scores.ref_logprobs]


def test_without_such_tokens_nothing_is_counted() -> None:
    model = make_model()
    result = Learner(model, OptimConfig()).update(make_batch(model), 0, np.random.default_rng(0))
    assert result.num_unscorable == 0


def test_half_precision_is_close_to_fp32() -> None:
    batch = make_batch(make_model())
    exact = gradient(OptimConfig(), batch)
    cosines = {}
    for dtype in ("bf16", "fp16"):
        rough = gradient(OptimConfig(dtype=dtype), batch)  # type: ignore[arg-type]
        cosines[dtype] = float(torch.nn.functional.cosine_similarity(exact, rough, dim=0))
    assert 0.98 < cosines["bf16"] < cosines["fp16"] < 1 - 1e-9


def test_fp16_trains_with_a_scaled_loss() -> None:
    model = make_model()
    learner = Learner(model, OptimConfig(dtype="fp16", num_minibatches=1, grad_clip=100.0))
    batch = make_batch(model)
    result = learner.update(batch, 0, np.random.default_rng(0))
    assert result.loss_scale == 2.0**16
    assert (result.num_steps, result.num_skipped_steps) == (1, 0)
    assert result.grad_norm == pytest.approx(float(gradient(OptimConfig(), batch).norm()), rel=0.02)
    bad = replace(batch, advantages=torch.full_like(batch.advantages, 1e30))
    result = learner.update(bad, 1, np.random.default_rng(0))
    assert (result.num_steps, result.num_skipped_steps) == (0, 1)
    assert result.loss_scale == 2.0**15


def test_the_critic_learns_returns_and_leaves_the_policy_alone() -> None:
    model = make_model()
    config = OptimConfig(num_minibatches=1, lr=1e-9, critic=CriticConfig(lr=1e-2, value_clip=10.0))
    learner = Learner(model, config, has_critic=True)
    before = [p.detach().clone() for p in model.parameters()]
    batch = make_batch(model)
    returns = 0.5 + 0.1 * batch.sequence.float()
    losses = []
    for update in range(30):
        prepared = learner.prepare(replace(batch, old_logprobs=None, values=None))
        if update == 0:
            assert prepared.values is not None
            assert prepared.values.tolist() == [0.0] * batch.num_action_tokens
        result = learner.update(
            replace(prepared, returns=returns), update, np.random.default_rng(0)
        )
        assert result.critic is not None
        losses.append(result.critic.loss)
    assert losses[0] == pytest.approx(0.5 * float(returns.square().mean()), rel=1e-5)
    assert losses[-1] < 0.1 * losses[0]
    assert result.critic.explained_variance > 0.5
    for ours, theirs in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_the_critic_does_not_depend_on_the_cut() -> None:
    model = make_model()
    batch = make_batch(model)
    found = []
    for budget in (10_000, 25):
        config = OptimConfig(
            num_minibatches=1, micro_batch_tokens=budget, critic=CriticConfig(lr=3e-4)
        )
        critic = Learner(model, config, has_critic=True).critic
        assert critic is not None
        returns = torch.linspace(-1, 1, batch.num_action_tokens)
        ready = replace(batch, values=torch.zeros(len(returns)), returns=returns)
        found.append((critic.step(ready).loss, critic.step(ready).loss))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][1] < found[0][0]
    with pytest.raises(ValueError, match="must hold values and returns"):
        critic.step(batch)
