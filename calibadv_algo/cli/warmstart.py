"""`calibadv warmstart`: makes the small policy that the main job starts from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from annotated_types import Interval
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from calibadv_algo.cli.evaluate import Eval, evaluate_split
from calibadv_algo.cli.warmstart_pages import (
    MAX_TOKENS,
    READER,
    is_of_pages,
    page_episodes,
    pages_env,
    phrases,
)
from calibadv_algo.learner.checkpoint import non_finite_weight
from calibadv_algo.learner.pretrained import silence_transformers
from calibadv_algo.learner.warmstart import (
    CloningConfig,
    PolicyShape,
    Segment,
    build_policy,
    clone,
    train_tokenizer,
)
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.training.evaluation import summarize
from calibadv_env.common.files import new_folder, write_text
from calibadv_env.data.atlas import AtlasWorld, load_world
from calibadv_env.data.base import TaskSet
from calibadv_env.data.registry import Dataset, get_dataset
from calibadv_env.demonstrations import (
    ChainNames,
    Demonstrator,
    NameSource,
    SearcherConfig,
    chain_of,
)
from calibadv_env.page_demonstrations import ReaderConfig
from calibadv_env.pages.dynamics import MIN_OBSERVATION_CHARS
from calibadv_env.protocol.passages import ScoredPassage, format_passages, passage_head
from calibadv_env.vector import DeepSearchVectorEnv

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RECIPE: Final = "recipe.json"
"""File that says how a policy was made."""

NUM_SLOTS = 96
"""Scripted episodes that are played side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """Clone scripted, imperfect searchers into a small language model."""

    output_dir: Path = Path("runs/warmstart")
    """Where the policy and its recipe are written."""
    dataset: str = "atlas"
    """Dataset whose training split is demonstrated."""
    top_k: int = 3
    """Passages that a search returns."""
    max_turns: int = 5
    """Searches that an episode allows."""
    shape: PolicyShape = field(default_factory=PolicyShape)
    """Size of the policy."""
    cloning: CloningConfig = field(default_factory=CloningConfig)
    """Settings of the cloning."""
    searcher: SearcherConfig = field(default_factory=SearcherConfig)
    """Errors of the scripted searcher."""
    reader: ReaderConfig = READER
    """Errors of the scripted reader, in its place on the datasets of pages."""
    max_observation_chars: Annotated[int, Interval(ge=MIN_OBSERVATION_CHARS)] = 160
    """Characters of an observation, on the datasets of pages."""

    def run(self) -> int:
        """Trains the tokenizer, plays and clones demonstrations, saves the policy."""
        silence_transformers()
        _refuse_foreign_folder(self.output_dir)
        dataset = get_dataset(self.dataset)
        tasks = dataset.tasks("train")
        demonstrations: Callable[[int | None], Iterator[Sequence[Segment]]]
        if is_of_pages(self.dataset):
            episodes = page_episodes(dataset, self._env("train"), self.reader, self.cloning.seed)
            texts, fixed, demonstrations = episodes.texts(), phrases(tasks), episodes
        else:
            names = name_source(dataset, tasks)
            texts, fixed = tokenizer_texts(dataset, tasks, names), passage_heads(self.top_k)
            demonstrations = self._demonstrations(tasks, names)
        tokenizer = train_tokenizer(texts, self.shape.vocab_size, fixed)
        model = build_policy(self.shape, tokenizer, self.cloning.seed)
        started = time.monotonic()
        with new_folder(self.output_dir) as folder:
            seen = self._clone(model, tokenizer, demonstrations, started)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            facts = self._facts(dataset, folder)
            costs = {"num_tokens": seen, "seconds": round(time.monotonic() - started, 1)}
            recipe = {**facts, "num_parameters": model.num_parameters(), **costs}
            write_text(folder / RECIPE, json.dumps(recipe, indent=2, sort_keys=True) + "\n")
        text = f"wrote {self.output_dir} ({model.num_parameters():,} parameters)"
        Console(highlight=False).print(text, markup=False, soft_wrap=True)
        return 0

    def _clone(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        demonstrations: Callable[[int | None], Iterator[Sequence[Segment]]],
        started: float,
    ) -> int:
        """Clones with a bar of progress; the number of tokens seen."""
        with _progress() as progress:
            bar = progress.add_task("cloning", total=self.cloning.num_steps, loss=0.0, speed=0.0)
            seen = 0

            def on_step(step: int, loss: float, num_tokens: int) -> None:
                nonlocal seen
                seen += num_tokens
                speed = seen / (time.monotonic() - started)
                progress.update(bar, completed=step + 1, loss=loss, speed=speed)

            clone(model, tokenizer, demonstrations, self.cloning, on_step)
        broken = non_finite_weight(model)
        if broken is not None:
            raise ValueError(
                f"cloning.lr must be smaller, got {self.cloning.lr}: cloning diverged ({broken} "
                "holds NaN or infinity), and nothing was saved"
            )
        return seen

    def _demonstrations(
        self, tasks: TaskSet, names: NameSource
    ) -> Callable[[int | None], Iterator[Sequence[Segment]]]:
        env = DeepSearchVectorEnv(
            num_envs=NUM_SLOTS,
            dataset=self.dataset,
            split="train",
            top_k=self.top_k,
            max_turns=self.max_turns,
            prompt="question",
        )
        demonstrator = Demonstrator(
            tasks,
            names=names,
            config=self.searcher,
            env=env,
            rng=np.random.default_rng([self.cloning.seed, 1]),
        )
        return lambda max_hops: demonstrator.stream(max_hops=max_hops)

    def _env(self, split: str) -> EnvConfig:
        """The environment of a split."""
        if is_of_pages(self.dataset):
            chars = self.max_observation_chars
            return pages_env(self.dataset, split, self.top_k, self.max_turns, chars)
        return EnvConfig(
            dataset=self.dataset,
            split=split,
            prompt="question",
            top_k=self.top_k,
            max_turns=self.max_turns,
        )

    def _scores(self, folder: Path, temperature: float) -> dict[str, float]:
        """Scores of the policy in a folder on the whole dev split."""
        command = Eval(
            model=str(folder),
            env=self._env("dev"),
            temperature=temperature,
            max_tokens=MAX_TOKENS if is_of_pages(self.dataset) else None,
            max_context=self.shape.max_context,
        )
        policy = command.source()
        result = evaluate_split(
            policy, command.settled(policy), episodes=len(get_dataset(self.dataset).tasks("dev"))
        )
        scores = summarize(result.records)
        return {name: round(value, 4) for name, value in scores.items()}

    def _facts(self, dataset: Dataset, folder: Path) -> dict[str, Any]:
        """Settings and scores of the policy in a folder."""
        script: dict[str, Any] = {"searcher": asdict(self.searcher)}
        if is_of_pages(self.dataset):
            script = {
                "reader": asdict(self.reader),
                "max_observation_chars": self.max_observation_chars,
                "max_tokens": MAX_TOKENS,
            }
        return {
            "dataset": self.dataset,
            "corpus_sha256": dataset.corpus().sha256,
            "top_k": self.top_k,
            "max_turns": self.max_turns,
            "shape": asdict(self.shape),
            "cloning": asdict(self.cloning),
            **script,
            "scores": {
                "greedy": self._scores(folder, 0.0),
                "sampled": self._scores(folder, 1.0),
            },
        }


def _refuse_foreign_folder(folder: Path) -> None:
    """Refuses to write over files that are not a policy of this command.

    Raises:
        ValueError: if something else lies there.
    """
    is_ours = (folder / RECIPE).is_file()
    is_empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_ours and not is_empty:
        raise ValueError(
            f"output_dir {folder} holds files that calibadv warmstart did not write; move them "
            "away, or choose another folder"
        )


class KindNames:
    """The names of the atlas; those of rare kinds are repeated, so that all kinds get drawn.

    Args:
        world: The atlas.
        at_least: Least number of entries of each kind.
    """

    def __init__(self, world: AtlasWorld, at_least: int = 600) -> None:
        self._world = world
        kinds = [world.names_by_kind[kind] for kind in sorted(world.names_by_kind)]
        self.names = tuple(
            name for names in kinds for name in list(names) * max(1, at_least // len(names))
        )
        """Every name, rare kinds several times."""

    def entities_of(self, passage_id: str) -> Sequence[str]:
        """Names that stand in a passage."""
        return self._world.entities_of(passage_id)


def name_source(dataset: Dataset, tasks: TaskSet) -> NameSource:
    """Names to rename entities with: the atlas knows all of its own."""
    if dataset.name in ("atlas", "atlas-fair"):
        return KindNames(load_world(dataset.name))
    return ChainNames(tasks)


def passage_heads(top_k: int) -> list[str]:
    """Beginnings of the passages of an observation, up to the title."""
    return [passage_head(rank) for rank in range(1, top_k + 1)]


def tokenizer_texts(dataset: Dataset, tasks: TaskSet, names: NameSource) -> list[str]:
    """Texts that the policy will read and write, without tags."""
    heads = passage_heads(1)
    passages = [
        format_passages([ScoredPassage(passage, 0.0)]).replace(heads[0], "")
        for passage in dataset.corpus().passages
    ]
    questions = [f"Question: {task.question}\n" for task in tasks]
    relations = sorted({hop["relation"] for task in tasks for hop in chain_of(task)})
    wanted = [f" need {relation} of {names.names[0]}" for relation in relations]
    return [*passages, *questions, *[f" found {name}" for name in names.names], *wanted * 200]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description} {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.0f} tokens/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
