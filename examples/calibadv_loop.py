"""A whole CalibAdv training loop on one page: a small policy learns to search the atlas.

Run ``python examples/calibadv_loop.py [UPDATES QUESTIONS GROUP_SIZE]``. `calibadv train` runs the
same loop, with evaluation, checkpoints, metrics and the rest that a long run needs.
"""

import sys

import numpy as np
import torch

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.batching import build_token_batch, split_by_tokens, split_minibatches
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.learner.policy import Policy
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.learner.tokens import loss_tokens
from calibadv_algo.losses.clipped import ClippedSurrogate
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import DriverConfig, EpisodeSpec, regroup
from calibadv_algo.rollout.slots import make_slots
from calibadv_env.info import STOP_STRINGS

num_updates, num_questions, group_size = [int(each) for each in sys.argv[1:]] or (25, 16, 8)

# The policy, the environment that it acts in, and the engine that samples its turns.
model, tokenizer = load_policy("atlas-tiny")
slots = make_slots("calibadv_env:DeepSearch-v1", 64, {"dataset": "atlas", "prompt": "question"})
engine = HfEngine(model, tokenizer, max_slots=64, max_context=1024)
sampling = SamplingParams(temperature=1.0, max_tokens=40, stop=STOP_STRINGS)
player = Player(slots, engine, tokenizer, sampling, DriverConfig(max_context_tokens=1024))

# The algorithm: which searches were right, what a turn is worth, and the loss.
credit, advantage, objective = SilverCredit(), CalibAdv(), ClippedSurrogate()
policy = Policy(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.99), weight_decay=0.0)
rng = np.random.default_rng(0)

for update in range(num_updates):
    # Collect: several episodes of each question, which are compared with each other.
    specs = [
        EpisodeSpec(task_index=int(task), group_id=f"{update}-{task}", seed=int(seed))
        for task in rng.choice(2000, num_questions, replace=False)
        for seed in rng.integers(2**62, size=group_size)
    ]
    groups = regroup(player.play(specs, policy_version=update).trajectories)

    # Credit and advantages: one number a turn, then the same number for each of its tokens.
    advantages = [row for group in groups for row in advantage(group, credit(group))]
    trajectories = [each for group in groups for each in group.trajectories]
    batch = build_token_batch(trajectories, advantages)

    # Learn: two steps of the optimiser; micro-batches bound the memory and change nothing else.
    for minibatch in split_minibatches(batch, 2, rng):
        for micro in split_by_tokens(minibatch, 1200):
            logprobs, _ = policy.logprobs(micro)
            losses = objective(loss_tokens(micro, logprobs))
            (losses.sum() / minibatch.num_action_tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    engine.sync_weights(model, update + 1)

    reward = np.mean([each.reward for each in trajectories])
    searches = np.mean([each.final_info["num_searches"] for each in trajectories])
    print(f"update {update + 1}: reward {reward:.3f}, searches {searches:.2f}", flush=True)
