# An RL engineer: an episode by hand, a vector of them, a run of GRPO, its curves elsewhere.
set -euo pipefail

python - <<'END'
import gymnasium
import calibadv

env = gymnasium.make("DeepSearch-v1", split="train")
_, info = env.reset(options={"task_index": 3})
print(info["question"])
_, _, _, _, info = env.step("<think>?</think><search>Dekalb-Peachtree Airport city</search>")
assert info["gold_recall"] == 1.0, info
_, reward, terminated, _, _ = env.step("<think>There.</think><answer>Atlanta</answer>")
assert (reward, terminated) == (1.0, True)

envs = gymnasium.make_vec("DeepSearch-v1", num_envs=8, split="train")
texts, _ = envs.reset(seed=0)
texts, rewards, *_ = envs.step(["<think>?</think><search>capital of Norway</search>"] * 8)
assert len(texts) == len(rewards) == 8
END

calibadv train --arm grpo --output-dir runs/grpo --optim.num-updates 2 --rollout.num-questions 4 \
    --rollout.group-size 4 --evaluation.every 2 --evaluation.episodes 10
calibadv watch runs/grpo --once
calibadv export runs/grpo
grep -q advantage runs/grpo/export/csv/episodes.csv
