"""The environment in TorchRL, whose GymEnv takes it unchanged.

    python torchrl_loop.py        # needs: pip install torchrl

prints

    str Find the answer to the question below. B
    reward 0.0 done True
"""

from tensordict import NonTensorData
from torchrl.envs import GymEnv

import calibadv  # registers the ids

env = GymEnv("DeepSearch-v1", split="train")
state = env.reset()
print(type(state["observation"]).__name__, state["observation"][:40])
state["action"] = NonTensorData("<think>?</think><answer>no idea</answer>")
state = env.step(state)
print("reward", state["next", "reward"].item(), "done", state["next", "done"].item())
