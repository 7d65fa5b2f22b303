"""Plays the questions of several datasets, so that it can be stopped and gone on with at any time.

The order of episodes is fixed: dataset by dataset, question by question, sample by sample. They
are played and recorded a chunk at a time, each chunk with a fresh batch of episodes, so that a
run that was interrupted plays the same chunks as one that was not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibadv_algo.errors import EngineError, RolloutError
from calibadv_algo.experiments.suite.files import (
    RECORDS,
    append_chunk,
    check_settings,
    read_records,
)
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.episodes import EpisodeSpec
from calibadv_algo.training.confidence import AnswerScorer
from calibadv_algo.training.evaluation import EvalRecord, TokenCounter, to_record
from calibadv_env.common.checks import require_positive
from calibadv_env.common.files import sweep_files
from calibadv_env.common.locks import hold_folder

OnProgress = Callable[[str, int, int], None]
"""Told the name of a part, its finished episodes and all its episodes."""


@dataclass(frozen=True, slots=True)
class SuiteTask:
    """A question of a part.

    Attributes:
        index: Its position in the split.
        task_id: Its id.
        hops: Reasoning steps that it takes, 0 where unknown.
        has_gold: Whether it names gold passages.
    """

    index: int
    task_id: str
    hops: int = 0
    has_gold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SuitePart:
    """A dataset of a suite.

    Attributes:
        name: Name in tables.
        file_name: Name of its records, without an ending.
        split: The split that is evaluated, by its own name.
        tasks: The questions that are asked, in order.
        split_size: Number of questions in the split.
        open_player: Opens environments and policy for it; called if there is something to play.
        settings: What determines its numbers, as plain JSON.
    """

    name: str
    file_name: str
    split: str
    tasks: tuple[SuiteTask, ...]
    split_size: int
    open_player: Callable[[], SuitePlayer]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SuitePlayer:
    """Plays the episodes of one part.

    Attributes:
        player: Environments of the part, which are closed at its end, and the policy.
        count_tokens: Counts what the policy wrote; None counts token ids.
        score_answer: Probability of an answer; None where the engine knows none.
    """

    player: Player
    count_tokens: TokenCounter | None = None
    score_answer: AnswerScorer | None = None


def choose_tasks(num_tasks: int, subset: int | None, seed: int) -> list[int]:
    """Indices of the questions of a split, in its order: all, or a seeded sample of ``subset``.

    The sample is without repetition, the same that ``calibadv data audit --max-tasks`` asks about
    with this seed.

    Raises:
        ValueError: if the subset is not positive.
    """
    require_positive(subset=subset)
    if subset is None or subset >= num_tasks:
        return list(range(num_tasks))
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(num_tasks)[:subset]
    return sorted(int(index) for index in chosen)


def episode_seed(seed: int, task_id: str, sample: int) -> int:
    """Seed of an episode's sampling: 63 bits, of the seed, the task and the sample alone."""
    digest = hashlib.sha256(f"{seed}\n{task_id}\n{sample}".encode("utf-8", "surrogatepass"))
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def run_suite(
    parts: Sequence[SuitePart],
    *,
    folder: Path,
    settings: Mapping[str, Any],
    num_samples: int = 1,
    seed: int = 0,
    chunk: int = 256,
    on_progress: OnProgress = lambda name, done, total: None,
) -> dict[str, list[EvalRecord]]:
    """Plays what is not yet recorded, and gives everything that is.

    Args:
        parts: The datasets, each with a name of its own.
        folder: Where records are, or will be.
        settings: What determines the numbers beside the settings of the parts.
        num_samples: Episodes of each question.
        seed: Seed of the sampling; without effect when greedy.
        chunk: Episodes that are played and recorded at a time. A crash costs at most one chunk.
        on_progress: Told after each chunk.

    Returns:
        Part -> records: the samples of the first question, those of the second, and so on.

    Raises:
        ValueError: if a number is out of range or two parts share a name.
        InUseError: naming the process, if another one writes into the folder.
        SuiteError: if the folder holds another evaluation.
        RolloutError: if an episode could not be played because of a machine's failure.
        EngineError: if the engine failed. In both cases finished chunks stay.
    """
    require_positive(num_samples=num_samples, chunk=chunk)
    for name in ("name", "file_name"):
        if len({getattr(part, name) for part in parts}) != len(parts):
            raise ValueError(f"parts must each have a {name} of its own")
    all_settings = {
        **settings,
        "num_samples": num_samples,
        "seed": seed,
        "parts": {part.name: dict(part.settings) for part in parts},
    }
    with hold_folder(folder):
        sweep_files(folder)
        check_settings(folder, all_settings)
        done: dict[str, list[EvalRecord]] = {}
        for part in parts:
            play = _PartRun(part, folder, num_samples, seed, chunk, on_progress)
            done[part.name] = play.finish()
    return done


@dataclass(slots=True)
class _PartRun:
    """One part of one call of :func:`run_suite`."""

    part: SuitePart
    folder: Path
    num_samples: int
    seed: int
    chunk: int
    on_progress: OnProgress

    def finish(self) -> list[EvalRecord]:
        """Plays the chunks that are missing."""
        path = self.folder / RECORDS / f"{self.part.file_name}.jsonl"
        episodes = [(task, n) for task in self.part.tasks for n in range(self.num_samples)]
        records = read_records(path, [task.task_id for task, _ in episodes], self.chunk)
        self.on_progress(self.part.name, len(records), len(episodes))
        if len(records) == len(episodes):
            return records
        player = self.part.open_player()
        try:
            for begin in range(len(records), len(episodes), self.chunk):
                played = self._play(player, episodes[begin : begin + self.chunk])
                append_chunk(path, played)
                records += played
                self.on_progress(self.part.name, len(records), len(episodes))
        except (RolloutError, EngineError) as error:
            raise type(error)(
                f"{self.part.name}: {error}. The {len(records)} episodes before are kept in "
                f"{self.folder}: the same command goes on from there"
            ) from error
        finally:
            player.player.slots.close()
        return records

    def _play(
        self, player: SuitePlayer, episodes: Sequence[tuple[SuiteTask, int]]
    ) -> list[EvalRecord]:
        """Plays a chunk; every episode gives a record, in order."""
        specs = {
            f"{self.part.file_name}:{task.index}:{sample}": EpisodeSpec(
                task_index=task.index,
                group_id=f"{self.part.file_name}:{task.index}:{sample}",
                seed=episode_seed(self.seed, task.task_id, sample),
            )
            for task, sample in episodes
        }
        batch = player.player.play(list(specs.values()))
        failed = [each for each in batch.dropped if each.reason != "prompt_too_long"]
        if failed:
            raise RolloutError(
                f"{len(failed)} of {len(episodes)} episodes failed, {failed[0].reason}: "
                f"{failed[0].message}"
            )
        played = {each.group_id: each for each in batch.trajectories}
        return [
            to_record(
                played[group_id],
                update=0,
                split=self.part.split,
                count_tokens=player.count_tokens,
                score_answer=player.score_answer,
            )
            if group_id in played
            else self._unasked(task, spec.seed)
            for (group_id, spec), (task, _) in zip(specs.items(), episodes, strict=True)
        ]

    def _unasked(self, task: SuiteTask, seed: int) -> EvalRecord:
        """The record of a question that did not fit into the context: it scores nothing."""
        return EvalRecord(
            update=0,
            split=self.part.split,
            task_id=task.task_id,
            hops=task.hops,
            reward=0.0,
            em=0.0,
            f1=0.0,
            cover_em=0.0,
            num_searches=0,
            is_format_valid=False,
            num_turns=0,
            num_action_tokens=0,
            is_truncated=True,
            answer=None,
            seed=seed,
            gold_recall=0.0 if task.has_gold else None,
        )
