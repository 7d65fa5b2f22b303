"""VLLM against the Hugging Face engine and a plain ``model.generate`` loop; and its weight sync.

    python benchmarks/vllm_rollouts.py [--policy atlas-tiny|smollm2|PATH] [--dtype fp32]
    python benchmarks/vllm_rollouts.py --mismatch [--policy ...]
    python benchmarks/vllm_rollouts.py --training

All sides play the same scripted episodes: equal prompts within a group of 8, observations of a
fixed length, turns that all have the same number of tokens (no token ends a turn early). Equal
lengths favour the plain loop, which would otherwise wait for the longest turn. The plain loop
pads on the left, feeds the whole context again at every turn and is not asked for
log-probabilities, which both engines do give. One thread, one process, sides in turns, processor
time (so that other processes count little); the first round of each side warms up and is not
counted; the median of the others is printed.

``--mismatch`` prints how far the log-probabilities that vLLM samples with lie from the trainer's,
in each precision. ``--training`` prints how much of a training step the weight sync takes.

Needs the environment of ``make test-vllm``; the policy smollm2 needs the extra smol.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.engines.base import GenerationRequest, SamplingParams
from calibadv_algo.rollout.engines.config import VllmEngineConfig
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.engines.making import make_engine

TARGETS = {"smollm2": 1.5}
SYNC_TARGET = 0.02
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Workload:
    """Scripted episodes.

    Attributes:
        prompts: One an episode.
        observation: What follows every turn.
        num_turns: Turns of each episode.
        turn_tokens: Tokens of each turn.
    """

    prompts: list[tuple[int, ...]]
    observation: tuple[int, ...]
    num_turns: int
    turn_tokens: int

    @property
    def max_context(self) -> int:
        """Longest context, the last turn included."""
        turn = self.turn_tokens + len(self.observation)
        return max(map(len, self.prompts)) + self.num_turns * turn


def make_workload(tokenizer: Any, arguments: argparse.Namespace) -> Workload:
    rng = np.random.default_rng(0)
    special = set(tokenizer.all_special_ids)
    ordinary = [i for i in range(len(tokenizer)) if i not in special]

    def piece(size: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.choice(ordinary, size))

    start = piece(arguments.prompt // 2)
    groups = [start + piece(arguments.prompt - len(start)) for _ in range(arguments.episodes)]
    prompts = [groups[i // 8] for i in range(arguments.episodes)]
    return Workload(prompts, piece(arguments.observation), arguments.turns, arguments.tokens)


def play_engine(engine: Any, work: Workload) -> int:
    """Plays the episodes with an engine; returns the number of tokens sampled."""
    params = SamplingParams(max_tokens=work.turn_tokens)
    contexts = dict(enumerate(work.prompts))
    count = 0
    for turn in range(work.num_turns):
        requests = [
            GenerationRequest(str(name), ids, 1000 * turn + name) for name, ids in contexts.items()
        ]
        for request, generation in zip(requests, engine.generate(requests, params), strict=True):
            count += len(generation.token_ids)
            contexts[int(request.episode_id)] = (
                *request.token_ids,
                *generation.token_ids,
                *work.observation,
            )
    engine.release([str(name) for name in contexts])
    return count


def play_plain(model: Any, work: Workload) -> int:
    """Plays the episodes with ``model.generate``."""
    contexts = [list(prompt) for prompt in work.prompts]
    count = 0
    for _ in range(work.num_turns):
        ids = torch.tensor(contexts, device=model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=work.turn_tokens,
                pad_token_id=0,
            )
        new = output[:, ids.shape[1] :].tolist()
        count += sum(map(len, new))
        contexts = [
            [*context, *turn, *work.observation]
            for context, turn in zip(contexts, new, strict=True)
        ]
    return count


def compare(arguments: argparse.Namespace) -> int:
    """Measures the three sides and the sync; returns the exit code."""
    model, tokenizer = load(arguments.policy)
    model = model.to(DTYPES[arguments.dtype])
    for config in (model.generation_config, model.config):
        config.eos_token_id = None
    tokenizer.eos_token = None
    work = make_workload(tokenizer, arguments)
    size, context = len(work.prompts), work.max_context
    ours = make_engine(
        VllmEngineConfig(dtype=arguments.dtype),
        model,
        tokenizer,
        max_slots=size,
        max_context=context,
    )
    theirs = HfEngine(model, tokenizer, max_slots=size, max_context=context)
    version = [0]

    def sync() -> None:
        version[0] += 1
        ours.sync_weights(model, version[0])

    def round_of(play: Callable[[Any, Workload], int], engine: Any) -> int:
        if engine is ours:
            sync()
        elif engine is theirs:
            theirs.sync_weights(model, version[0])
        return play(engine, work)

    sides: dict[str, tuple[Callable[[Any, Workload], int], Any]] = {
        "vLLM": (play_engine, ours),
        "Hugging Face engine": (play_engine, theirs),
        "model.generate": (play_plain, model),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, int] = {}
    for repeat in range(arguments.repeats + 1):
        for name, (play, engine) in sides.items():
            began = time.process_time()
            tokens[name] = round_of(play, engine)
            if repeat:
                times[name].append(time.process_time() - began)
    wall, processor = [], []
    for _ in range(5):
        began, began_processor = time.perf_counter(), time.process_time()
        sync()
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
    ours.close()
    if len(set(tokens.values())) != 1:
        raise RuntimeError(f"the sides sampled different numbers of tokens: {tokens}")
    median = {name: statistics.median(values) for name, values in times.items()}
    count = tokens["vLLM"]
    print(
        f"{arguments.policy}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
        f"{arguments.dtype}: {size} episodes of {work.num_turns} turns of {work.turn_tokens} "
        f"tokens, prompts of {arguments.prompt}, observations of {arguments.observation}"
    )
    for name, seconds in median.items():
        print(f"{name + ':':21} {count / seconds:8.0f} tokens/s ({seconds:.2f} s)")
    ratio = median["model.generate"] / median["vLLM"]
    target = TARGETS.get(arguments.policy)
    print(f"vLLM / model.generate      {ratio:6.2f}" + (f" (target {target})" if target else ""))
    print(f"vLLM / Hugging Face engine {median['Hugging Face engine'] / median['vLLM']:6.2f}")
    print(f"sync: {statistics.median(wall):.3f} s, {statistics.median(processor):.3f} s processor")
    share = statistics.median(processor) / median["vLLM"]
    print(f"sync / rollouts of these episodes: {share:.2%}")
    return 0 if target is None or ratio >= target else 1


def mismatch(arguments: argparse.Namespace) -> int:
    """Prints how engine and trainer differ on the same tokens, by precision."""
    model, tokenizer = load(arguments.policy)
    model = model.float().eval()
    other = {name: copy.deepcopy(model).to(dtype) for name, dtype in DTYPES.items()}
    texts = ["Which country is Paris in?", "What is the capital of Peru?"]
    prompts = [tuple(tokenizer.encode(f"Question: {texts[i % 2]} {i}\n")) for i in range(64)]
    requests = [GenerationRequest(str(i), ids, i) for i, ids in enumerate(prompts)]
    print(f"{arguments.policy}: |log p(vLLM) - log p(trainer)| of the sampled tokens, T = 1")
    print("| vLLM | trainer | tokens | mean | p99 | max | K3 | ratio p1 to p99 |")
    print("|---|---|---|---|---|---|---|---|")
    for engine_dtype in DTYPES:
        config = VllmEngineConfig(dtype=engine_dtype)  # type: ignore[arg-type]
        engine = make_engine(config, model, tokenizer, max_slots=64, max_context=512)
        turns: Any = engine.generate(requests, SamplingParams(max_tokens=arguments.tokens))
        engine.close()  # type: ignore[attr-defined]
        for trainer_dtype in dict.fromkeys(("fp32", engine_dtype)):
            sampled, trained = score(other[trainer_dtype], prompts, turns)
            gap, ratio = np.abs(sampled - trained), np.exp(trained - sampled)
            k3 = float(np.mean(ratio - 1 - np.log(ratio)))
            low, high = np.quantile(ratio, [0.01, 0.99])
            print(
                f"| {engine_dtype} | {trainer_dtype} | {len(gap)} | {gap.mean():.1e} | "
                f"{np.quantile(gap, 0.99):.1e} | {gap.max():.1e} | {k3:.1e} | "
                f"{low:.4f} to {high:.4f} |"
            )
    return 0


def score(model: Any, prompts: list[tuple[int, ...]], turns: Any) -> tuple[Any, Any]:
    """Log-probabilities as sampled, and as the trainer's forward pass gives them."""
    ours: list[float] = []
    theirs: list[float] = []
    for prompt, turn in zip(prompts, turns, strict=True):
        ids = torch.tensor([[*prompt, *turn.token_ids]])
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0].float().log_softmax(-1)
        new = ids[0, len(prompt) :]
        theirs += logprobs[len(prompt) - 1 : -1].gather(1, new[:, None])[:, 0].tolist()
        ours += turn.logprobs
    return np.array(ours), np.array(theirs)


def training() -> int:
    """Trains the shipped policy for some updates and prints the share of the weight sync."""
    import calibadv_env  # noqa: F401 (registers the environments)
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import make_player
    from calibadv_algo.training.presets import ATLAS_TINY
    from calibadv_algo.training.trainer import Trainer

    model, tokenizer = load_policy(ATLAS_TINY.model)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            ATLAS_TINY,
            rollout=replace(ATLAS_TINY.rollout, num_slots=64),
            output_dir=Path(folder),
            quiet=True,
            optim=replace(ATLAS_TINY.optim, num_updates=4),
            evaluation=replace(ATLAS_TINY.evaluation, every=0),
        )
        slots = make_slots(config.env.env_id, config.rollout.num_slots, config.env.kwargs())
        engine: Any = make_engine(
            VllmEngineConfig(),
            model,
            tokenizer,
            max_slots=config.rollout.num_slots,
            max_context=config.rollout.max_context,
        )
        spent, steps = [], []
        sync = engine.sync_weights

        def timed(*given: Any) -> None:
            began = time.process_time()
            sync(*given)
            spent.append(time.process_time() - began)
            steps.append(began)

        engine.sync_weights = timed
        player = make_player(config, slots, engine, tokenizer)
        trainer = Trainer(config, model=model, player=player)
        trainer.train()
        end = time.process_time()
        slots.close()
        engine.close()
    whole = [b - a for a, b in zip(steps, [*steps[1:], end], strict=True)][1:]
    share = sum(spent[1:]) / sum(whole)
    print(
        f"training steps of {statistics.median(whole):.2f} s, "
        f"sync {statistics.median(spent):.3f} s "
        f"of processor time: {share:.2%} of a step (target below {SYNC_TARGET:.0%})"
    )
    return 0 if share < SYNC_TARGET else 1


def load(policy: str) -> tuple[Any, Any]:
    if policy == "smollm2":
        from calibadv_algo.learner.smollm2 import smollm2_folder

        return load_policy(str(smollm2_folder()))
    return load_policy(policy)


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="atlas-tiny")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--observation", type=int, default=70)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mismatch", action="store_true")
    parser.add_argument("--training", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    try:
        import vllm  # noqa: F401
    except ImportError:
        print("vLLM is not installed: nothing measured; see `make test-vllm`")
        return 0
    if arguments.mismatch:
        return mismatch(arguments)
    return training() if arguments.training else compare(arguments)


if __name__ == "__main__":
    sys.exit(main())
