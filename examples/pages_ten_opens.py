"""An episode of ten opens on pages inside 1,024 tokens: run it to read it.

    python examples/pages_ten_opens.py [tokenizer.json or a folder with one]

A turn is an action and what came back. Tokens are counted by the shipped policy's tokenizer, or by
another one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium
from tokenizers import Tokenizer

from calibadv_algo.learner.pretrained import policy_path
from calibadv_env import get_dataset

QUESTION = (
    "What is the capital of whichever of the countries that border Slovenia by land has the "
    "smallest total area?"
)
PLACES = (
    "slovenia",
    "slovenia#geography",
    "slovenia#land-boundaries",
    "slovenia#land-boundaries@42",
    "austria#area",
    "croatia#area",
    "hungary#area",
    "italy#area",
    "croatia#government",
    "croatia#capital",
)


def main() -> None:
    """Plays the episode and counts its tokens."""
    name = sys.argv[1] if len(sys.argv) > 1 else policy_path("atlas-tiny")
    place = Path(name)
    tokenizer = Tokenizer.from_file(str(place / "tokenizer.json" if place.is_dir() else place))
    options = {"split": "test", "prompt": "question", "max_observation_chars": 110}
    env = gymnasium.make("DeepSearch-Pages-v0", **options)
    tasks = get_dataset("pages").tasks("test")
    [task] = [each for each in tasks if each.question == QUESTION]
    text, _ = env.reset(options={"task_id": task.id})
    texts = [text]
    for opened in PLACES:
        action = f"<think> read</think><open> {opened}</open>"
        observation, *_ = env.step(action)
        texts += [action, observation]
    texts.append("<think> found</think><answer> Zagreb</answer>")
    _, reward, *_, info = env.step(texts[-1])
    print("\n".join(texts))
    count = len(tokenizer.encode("".join(texts), add_special_tokens=False).ids)
    print(f"{info['num_calls']} calls, {count} tokens, reward {reward}")


if __name__ == "__main__":
    main()
