"""A reward of your own: a function of the task, the answer and the episode.

    python own_reward.py

prints

    3 searches, F1 1.0, reward 0.8
"""

import gymnasium

import calibadv  # registers the ids


def brief_and_right(task, answer, episode) -> float:
    """1 for an accepted answer, less a tenth for each search after the first."""
    is_right = answer in task.golden_answers
    return is_right * max(0.0, 1 - 0.1 * max(0, episode.num_searches - 1))


env = gymnasium.make("DeepSearch-v1", split="train", reward=brief_and_right)
_, info = env.reset(options={"task_index": 3})
answer = info["golden_answers"][0]
query = info["gold_queries"][0][0]
for _ in range(3):
    env.step(f"<think>I look once more.</think><search>{query}</search>")
_, reward, *_, info = env.step(f"<think>Now I know.</think><answer>{answer}</answer>")
print(f"{info['num_searches']} searches, F1 {info['f1']}, reward {reward:.1f}")
