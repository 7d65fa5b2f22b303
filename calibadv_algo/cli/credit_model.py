"""What the model of a measured policy adds: its beliefs, and directions of its gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calibadv_algo.cli.policies import LocalPolicy, Policy
from calibadv_algo.experiments.truth.measuring import Measurement

if TYPE_CHECKING:
    from calibadv_algo.experiments.truth.audit import Audit
    from calibadv_algo.experiments.truth.candidates import Field


def with_beliefs(measured: Measurement, candidates: Field, policy: Policy) -> Measurement:
    """The groups with what the policy finds likely, where a candidate reads it.

    That is its belief in the accepted answers, asked in its own words, whoever the candidates'
    settings are for (it stands for the starting policy too), and the turns in hindsight.

    Nothing is added for a policy that is no model on this machine, or tasks without accepted
    answers: such candidates are then left out with their reason.
    """
    from calibadv_algo.credit.beliefs import belief_of
    from calibadv_algo.learner.answers import scores_of, with_answer_logprobs, with_hindsight
    from calibadv_algo.learner.policy import Policy as Model
    from calibadv_algo.learner.pretrained import load_policy

    configs = [each.config for each in candidates.candidates]
    groups = [each.group for each in measured.groups]
    answers = [each.reset_info.get("golden_answers") for g in groups for each in g.trajectories]
    reads = any(each.answer_belief is not None for each in configs) and all(answers)
    wanted = {each.advantage.wanted_hindsight for each in configs} - {None}
    if len(wanted) > 1:
        raise ValueError("estimators that tell the outcome must tell it in the same words")
    told = next(iter(wanted), None)
    if not (reads or told) or not isinstance(policy, LocalPolicy):
        return measured
    model, tokenizer = load_policy(policy.model)
    score = scores_of(Model(model))
    if reads:
        groups = with_answer_logprobs(groups, belief_of(str(policy.model)), tokenizer, score)
    if told:
        groups = with_hindsight(groups, told, tokenizer, score)
    pairs = zip(measured.groups, groups, strict=True)
    return replace(measured, groups=tuple(replace(each, group=group) for each, group in pairs))


def with_gradients(
    result: Audit, measured: Measurement, policy: Policy, temperature: float
) -> Audit:
    """The audit with the directions of the policy gradient.

    Raises:
        ValueError: if the policy is no model on this machine.
    """
    from calibadv_algo.experiments.truth.gradient import gradient_cosines, sketch_turns
    from calibadv_algo.learner.pretrained import load_policy

    if not isinstance(policy, LocalPolicy):
        raise ValueError("gradient must not be set with an endpoint, which gives none")
    model, _ = load_policy(policy.model)
    trajectories = [each for group in measured.groups for each in group.group.trajectories]
    sketches = sketch_turns(model, trajectories, temperature=temperature or 1.0)
    cosines, ceiling = gradient_cosines(result.advantages, result.turns, sketches, result.weights)
    return replace(result, cosines=cosines, cosine_ceiling=ceiling)
