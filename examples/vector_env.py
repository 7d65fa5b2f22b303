"""A group of 64 episodes of one question, played side by side with one search call a step.

    python vector_env.py

prints

    Which country did the country with Sariqamish Kuli as its lowest point gain independence from?
    3 turns; gold recall 1.0
    reward 0.48 ± 0.50 over 64 episodes
"""

import gymnasium
import numpy as np

import calibadv  # registers the ids

env = gymnasium.make_vec(
    "DeepSearch-v1", num_envs=64, vectorization_mode="vector_entry_point", split="dev"
)
texts, infos = env.reset(options={"task_index": [7] * 64})
rng = np.random.default_rng(0)


def policy(turn: int) -> list[str]:
    """Stands for your model: half of the episodes search for the right thing, half guess."""
    queries, answers = infos["gold_queries"], infos["golden_answers"]
    if turn < len(queries[0]):
        return [f"<think>?</think><search>{each[turn][0]}</search>" for each in queries]
    right = rng.random(64) < 0.5
    return [
        f"<think>!</think><answer>{each[0] if is_right else 'no idea'}</answer>"
        for each, is_right in zip(answers, right, strict=True)
    ]


rewards, done, turn = np.zeros(64), np.zeros(64, dtype=bool), 0
start = infos
while not done.all():
    texts, reward, terminated, truncated, step_infos = env.step(policy(turn))
    rewards += reward
    done |= terminated | truncated  # a slot whose episode has ended idles until the next reset
    turn += 1
print(f"{start['question'][0]}")
print(f"{turn} turns; gold recall {step_infos['gold_recall'][0]}")
print(f"reward {rewards.mean():.2f} ± {rewards.std():.2f} over {len(rewards)} episodes")
