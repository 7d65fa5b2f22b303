"""The folder of a run: settings, metrics, evaluations, trajectories, checkpoints and journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from calibadv_algo.errors import CheckpointError
from calibadv_algo.learner.checkpoint import (
    SavableTokenizer,
    TrainerState,
    checkpoint_update,
    find_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    remove_leftovers,
    save_checkpoint,
)
from calibadv_algo.learner.learner import Learner
from calibadv_algo.learner.ranks import Ranks, on_main
from calibadv_algo.rollout.journal import StepJournal
from calibadv_algo.rollout.records import trajectory_to_json
from calibadv_algo.training.config import TrainConfig, config_hash, config_to_dict
from calibadv_algo.training.estimation import ScoredGroup
from calibadv_algo.training.evaluation import EvalResult, append_records
from calibadv_algo.training.resumption import changed_settings, noted, refuse_other_run
from calibadv_algo.training.tracked_episodes import episode_rows, sampled_episodes
from calibadv_algo.training.tracking import (
    JsonlTracker,
    ProgressTracker,
    Tracker,
    TrackerGroup,
    read_metrics,
    truncate_lines,
)
from calibadv_algo.training.tracking_services import RunFacts, open_trackers
from calibadv_algo.types import Group, Trajectory
from calibadv_env.common.files import sweep_files, write_text
from calibadv_env.common.locks import hold_folder

SETTINGS: Final = "config.json"


class RunFolder:
    """Everything that a run reads and writes on disk.

    Rank 0 writes all files but the journals, of which each rank has its own.

    Attributes:
        path: The folder.
        journal: Episodes that ended since the last checkpoint.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        """Touches nothing yet.

        Args:
            config: The run's settings.
            ranks: All processes of the run; they call the methods together.
        """
        self.path = config.output_dir
        self._config = config
        self._ranks = ranks
        self._trackers = TrackerGroup([])
        self._take_name(config_hash(config))

    def prepare(self, *, resume: bool, allow_older: bool) -> Path | None:
        """Makes the folder fit for the run; drops what was evaluated after its last checkpoint.

        Args:
            resume: Whether the run may go on from a checkpoint.
            allow_older: Whether an earlier checkpoint may replace a damaged one.

        Returns:
            The checkpoint to go on from; None if the run is a new one.

        Raises:
            CheckpointError: if the checkpoint is damaged or may not be used, or the folder holds
                a run with other settings.
        """
        checkpoint, name = on_main(self._ranks, lambda: self._prepare(resume, allow_older))
        self._take_name(name)
        if checkpoint is not None:  # a kill may have come between the checkpoint and this
            self.journal.discard_before(checkpoint_update(checkpoint))
        return checkpoint

    def load(self, checkpoint: Path, learner: Learner) -> TrainerState:
        """Puts a checkpoint into the learner; returns the rest of it."""
        state = load_checkpoint(
            checkpoint,
            model=learner.whole_model(),
            optimizer=learner.optimizer,
            config_hash=self._hash,
            critic=_critic_parts(learner),
            optimized=learner.policy.model,
        )
        learner.take_whole_model()
        learner.load_state(state.extra.get("learner", {}))
        return state

    def save(
        self,
        learner: Learner,
        tokenizer: SavableTokenizer,
        *,
        update: int,
        num_questions_seen: int,
        generators: Mapping[str, Any],
        questions: Mapping[str, Any],
    ) -> None:
        """Writes a checkpoint; afterwards nobody needs the journal of what it covers.

        Args:
            learner: Policy, critic, optimisers.
            tokenizer: Saved beside the policy.
            update: Number of finished updates.
            num_questions_seen: Position in the order of questions.
            generators: States of the random generators.
            questions: What the sampler of questions knows.
        """
        model = learner.whole_model()
        moments = optimizer_tensors(learner.policy.model, learner.optimizer)
        state = TrainerState(
            update=update,
            num_questions_seen=num_questions_seen,
            config_hash=self._hash,
            generators=generators,
            extra={"learner": learner.state(), **({"questions": questions} if questions else {})},
        )
        on_main(self._ranks, lambda: self._save(state, model, moments, learner, tokenizer))
        self.journal.discard_before(update)

    def policy_dir(self, update: int) -> Path:
        """Where a checkpoint's policy is, as `transformers` loads it."""
        return self._checkpoints / f"update_{update:06d}" / "policy"

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics so far, the same on every rank."""
        return on_main(self._ranks, lambda: read_metrics(self.path / "metrics.jsonl"))

    def open_trackers(self, after_update: int | None, extra: Sequence[Tracker]) -> TrackerGroup:
        """The trackers that the settings ask for; rank 0 alone has any.

        Args:
            after_update: Updates of an earlier part of the run; what was logged after them is
                dropped. None for a new run.
            extra: Further ones.
        """
        if not self._ranks.is_main:
            return TrackerGroup([])
        config = self._config
        names = dict.fromkeys(config.trackers)
        if config.tensorboard:
            names["tensorboard"] = None
        facts = RunFacts(
            output_dir=self.path, config=config_to_dict(config), after_update=after_update
        )
        trackers: list[Tracker] = [
            *open_trackers(tuple(names), facts),
            JsonlTracker(self.path / "metrics.jsonl", after_update=after_update),
            *extra,
        ]
        if not config.quiet:
            trackers.append(ProgressTracker(config.optim.num_updates))
        self._trackers = TrackerGroup(trackers)
        return self._trackers

    def write_trajectories(
        self,
        update: int,
        scored: Sequence[ScoredGroup],
        advantages: Sequence[Float[np.ndarray, "_ _"]],
        left_out: Sequence[Group],
    ) -> None:
        """Writes the episodes of an update, if the settings ask for it; see `training_records`.

        Trackers get a few of them at the first update and at every so many after it.

        Args:
            update: Updates that were finished before these episodes.
            scored: Groups that were learnt from.
            advantages: Advantages of their turns.
            left_out: What filters or a full update left out.
        """
        every = self._config.track_episodes_every
        is_shown = self._trackers.shows_episodes and every > 0 and update % every == 0
        if not (self._writes_trajectories or is_shown):
            return
        records = list(training_records(scored, advantages, left_out))
        if self._writes_trajectories:
            _write_records(self.path / "trajectories", update, records)
        if is_shown and records:
            picked = sampled_episodes(records, self._config.track_episodes, update + 1)
            self._trackers.log_episodes(update + 1, episode_rows(picked, update + 1))

    def write_evaluation(self, update: int, result: EvalResult) -> None:
        """Writes the records of an evaluation, and its episodes if the settings ask for them."""
        if self._ranks.is_main:
            append_records(self.path / "evals.jsonl", result.records)
        if self._writes_trajectories:
            records = map(_trajectory_record, result.trajectories)
            _write_records(self.path / "eval_trajectories", update, records)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def _writes_trajectories(self) -> bool:
        return self._config.save_trajectories and self._ranks.is_main

    def _take_name(self, name: str) -> None:
        """Takes the hash that checkpoints and journals of this run are marked with."""
        self._hash = name
        folder = self.path / "journal"
        self.journal = StepJournal(folder, config_hash=name, rank=self._ranks.rank)

    def _prepare(self, resume: bool, allow_older: bool) -> tuple[Path | None, str]:
        """The part of rank 0 in :meth:`prepare`; also the name of the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        sweep_files(self.path)
        remove_leftovers(self._checkpoints)
        found = read_settings(self.path)
        changes = [] if found is None else changed_settings(found["config"], self._config)
        refuse_other_run(self.path, changes)
        checkpoint = find_checkpoint(self._checkpoints, allow_older=allow_older)
        if checkpoint is not None and not resume:
            raise CheckpointError(
                f"{self.path} holds checkpoints of an earlier run; resume it, or choose another "
                "output_dir"
            )
        done = None if checkpoint is None else checkpoint_update(checkpoint)
        truncate_lines(self.path / "evals.jsonl", done)
        name = self._hash if found is None else str(found["hash"])
        self._write_settings(name, found, noted(changes), done or 0)
        return checkpoint, name

    def _write_settings(
        self, name: str, found: Mapping[str, Any] | None, changes: Mapping[str, Any], done: int
    ) -> None:
        """Writes the settings from now on, with all changes since the run was begun."""
        values = {"hash": name, "config": config_to_dict(self._config)}
        earlier = [] if found is None else list(found.get("changes", []))
        if changes:
            earlier.append({"after_update": done, "settings": dict(changes)})
        if earlier:
            values["changes"] = earlier
        text = json.dumps(values, indent=1, sort_keys=True) + "\n"
        write_text(self.path / SETTINGS, text)

    def _save(
        self,
        state: TrainerState,
        model: PreTrainedModel,
        moments: Mapping[str, Tensor],
        learner: Learner,
        tokenizer: SavableTokenizer,
    ) -> None:
        """The part of rank 0 in :meth:`save`."""
        save_checkpoint(
            self._checkpoints,
            state,
            model=model,
            optimizer=moments,
            critic=_critic_parts(learner),
            tokenizer=tokenizer,
            keep=self._config.keep_checkpoints,
        )


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The hash, the settings and their changes that a run's folder holds; None without any.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    file = folder / SETTINGS
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return {"hash": values["hash"], "config": values["config"], **values}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot read the settings of the run: {error!r}") from error


@contextmanager
def held(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Holds the folder of a run for its processes.

    Raises:
        InUseError: on every rank, naming the process, if another run writes into the folder.
    """
    with ExitStack() as stack:
        on_main(ranks, lambda: stack.enter_context(hold_folder(folder)))
        yield


def training_records(
    scored: Sequence[ScoredGroup],
    advantages: Sequence[Float[np.ndarray, "_ _"]],
    left_out: Sequence[Group],
) -> Iterator[dict[str, Any]]:
    """The episodes of an update: those that were learnt from, then those that were not.

    Args:
        scored: Groups that were learnt from.
        advantages: Advantages of their turns.
        left_out: What filters or a full update left out.

    Yields:
        The trajectory with its advantages; with ``shaped_rewards`` where they differ from the
        environment's; with ``is_trained`` false where a mask or a filter kept it out of the
        loss. A trajectory that was left out has advantages of 0.
    """
    for each, matrix in zip(scored, advantages, strict=True):
        rows = zip(
            each.played.trajectories, each.shaped.trajectories, matrix, each.is_trained, strict=True
        )
        for played, shaped, row, is_trained in rows:
            record = _trajectory_record(played)
            record["advantages"] = row[: len(played.turns)].tolist()
            rewards = [turn.reward for turn in shaped.turns]
            if rewards != [turn.reward for turn in played.turns]:
                record["shaped_rewards"] = rewards
            if not is_trained:
                record["is_trained"] = False
            yield record
    for group in left_out:
        for trajectory in group.trajectories:
            record = _trajectory_record(trajectory)
            yield record | {"advantages": [0.0] * len(trajectory.turns), "is_trained": False}


def _trajectory_record(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory as plain JSON values."""
    record: dict[str, Any] = json.loads(trajectory_to_json(trajectory))
    return record


def _write_records(folder: Path, update: int, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes records into the file of an update, in one step."""
    folder.mkdir(exist_ok=True)
    lines = (json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in records)
    write_text(folder / f"update_{update:06d}.jsonl", "".join(line + "\n" for line in lines))


def _critic_parts(learner: Learner) -> tuple[nn.Module, Optimizer] | None:
    """The critic and its optimiser, if there is one."""
    critic = learner.critic
    return None if critic is None else (critic.module, critic.stepper.optimizer)
