"""An episode in a loop of your own: reset, step, and the facts in info.

    python own_loop.py

prints

    question: Name the city served by Dekalb-Peachtree Airport.
    searched 'Dekalb-Peachtree Airport city': gold recall 1.0
    answered Atlanta: reward 1.0, answered
"""

import gymnasium

import calibadv  # registers the ids

env = gymnasium.make("DeepSearch-v1", dataset="atlas", split="train", top_k=3, max_turns=4)


def policy(context: str, info: dict) -> str:
    """Stands for your model: it reads the context and writes one turn."""
    if "passages" not in info:
        return f"<think>I look it up.</think><search>{info['gold_queries'][0][0]}</search>"
    return f"<think>It stands there.</think><answer>{answer}</answer>"


text, info = env.reset(options={"task_index": 3})
answer = info["golden_answers"][0]  # a real policy has to find it
print("question:", info["question"])
context, is_done = text, False
while not is_done:
    action = policy(context, info)
    text, reward, terminated, truncated, info = env.step(action)
    context += action + text  # the observation is the new text only
    if info["action"] == "search":
        print(f"searched {info['query']!r}: gold recall {info['gold_recall']}")
    is_done = terminated or truncated
print(f"answered {info['answer']}: reward {reward}, {info['stop_reason']}")
