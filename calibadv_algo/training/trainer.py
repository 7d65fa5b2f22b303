"""The training loop: collect, credit, advantage, update; and what keeps a run alive.

Nothing here depends on anything but the settings and the number of finished updates: the
questions of an update, the seeds of its episodes and the order of its minibatches are drawn from
generators that are either made anew for the update or stored in the checkpoint. A run that was
killed and goes on from its last checkpoint therefore repeats bit for bit what it would have done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from calibadv_algo.advantages.base import ValueAdvantage
from calibadv_algo.credit.facts import check_info_keys
from calibadv_algo.errors import CheckpointError
from calibadv_algo.learner.checkpoint import (
    SavableTokenizer,
    TrainerState,
    checkpoint_update,
    find_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    save_checkpoint,
)
from calibadv_algo.learner.learner import Learner, UpdateResult
from calibadv_algo.learner.ranks import Ranks, SingleRank, on_main
from calibadv_algo.rollout.async_driver import collect_async
from calibadv_algo.rollout.driver import DriverConfig, EpisodeSpec, collect
from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.journal import StepJournal
from calibadv_algo.rollout.slots import EnvSlots
from calibadv_algo.rollout.tree import PlayTrees
from calibadv_algo.rollout.tree_config import TreeSearch
from calibadv_algo.training.batch_source import BatchSource
from calibadv_algo.training.collection import Collector, PlayEpisodes, PlayWithJournal
from calibadv_algo.training.config import TrainConfig, config_hash, config_to_dict
from calibadv_algo.training.estimation import Estimate, ScoredGroup, draft_batch, estimate
from calibadv_algo.training.evaluation import (
    append_records,
    eval_task_indices,
    summarize,
    to_record,
)
from calibadv_algo.training.metrics import UpdateFacts, alarm, update_metrics
from calibadv_algo.training.playing import JournaledGroups, SharedPlay, score_shared
from calibadv_algo.training.probing import MAX_PROBE_TURNS, count_tasks, probe_info_keys
from calibadv_algo.training.run_records import (
    training_records,
    trajectory_record,
    write_atomically,
    write_records,
)
from calibadv_algo.training.tracking import (
    JsonlTracker,
    ProgressTracker,
    Tracker,
    TrackerGroup,
    read_metrics,
    truncate_lines,
)
from calibadv_algo.training.tracking_services import RunFacts, open_trackers
from calibadv_env.info import STOP_STRINGS

__all__ = [
    "MAX_PROBE_TURNS",
    "TrainResult",
    "Trainer",
    "TrainingTokenizer",
    "count_tasks",
    "probe_info_keys",
]


class TrainingTokenizer(Tokenizer, SavableTokenizer, Protocol):
    """What training needs of a tokenizer."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended.

    Attributes:
        num_updates: Finished updates, those before a resumption included.
        metrics: The last line of metrics.
        policy_dir: Folder of the final policy, as `transformers` loads it.
    """

    num_updates: int
    metrics: Mapping[str, float]
    policy_dir: Path


class Trainer:
    """Trains a policy in an environment that speaks text.

    The environment comes as slots and the policy's sampler as an engine, so nothing here knows
    what is searched, or that anything is.

    Attributes:
        config: The settings.
        learner: Holds the policy and the optimiser.
        num_updates_done: Finished updates.
    """

    def __init__(
        self,
        config: TrainConfig,
        *,
        model: PreTrainedModel,
        tokenizer: TrainingTokenizer,
        engine: GenerationEngine,
        slots: EnvSlots,
        eval_slots: EnvSlots | None = None,
        driver: DriverConfig | None = None,
        stop_strings: Sequence[str] = STOP_STRINGS,
        num_tasks: int | None = None,
        ref_model: PreTrainedModel | None = None,
        trackers: Sequence[Tracker] = (),
        play: PlayEpisodes | None = None,
        before_update: Callable[[int, int], None] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Takes over what a run needs; nothing is sampled yet.

        Args:
            config: The settings.
            model: The starting policy. On resumption, too: the reference policy is copied from
                it and the checkpoint's weights are loaded afterwards.
            tokenizer: The policy's.
            engine: Samples from the policy.
            slots: Environments of the training tasks.
            eval_slots: Environments of the held-out tasks; None means no evaluation.
            driver: How episodes are driven; the settings' longest context replaces its own.
            stop_strings: What ends a turn.
            num_tasks: Number of training tasks; None means the info key ``num_tasks`` of
                ``reset``.
            ref_model: Reference policy of the KL terms; None means the starting policy.
            trackers: Further receivers of the metrics; closed at the end of `train`.
            play: Plays the training episodes; None plays them as the settings say.
            before_update: Called before each collection with the number of finished updates and
                that of the whole run; for curricula in the environment.
            ranks: Processes that train together, each with a model, an engine and slots of its
                own that begin alike; None means this one alone. Rank 0 writes all files.
        """
        self.config = config
        self._ranks: Ranks = ranks or SingleRank()
        self.learner = Learner(
            model,
            config.optim,
            temperature=config.rollout.temperature,
            ref_model=ref_model,
            has_critic=isinstance(config.advantage, ValueAdvantage),
            ranks=ranks,
        )
        self.num_updates_done = 0
        self._tokenizer = tokenizer
        self._engine = engine
        self._slots = slots
        self._eval_slots = eval_slots
        self._driver = replace(
            driver or DriverConfig(), max_context_tokens=config.rollout.max_context
        )
        self._stop = tuple(stop_strings)
        self._play = _player(config) if play is None else JournaledGroups(play)
        self._hash = config_hash(config)
        self._journal = StepJournal(
            config.output_dir / "journal", config_hash=self._hash, rank=self._ranks.rank
        )
        self._before_update = before_update
        self._num_tasks = num_tasks
        self._extra_trackers = tuple(trackers)
        self._num_questions_seen = 0
        self._rng = np.random.Generator(np.random.PCG64([config.seed, 0]))
        self._history: list[Mapping[str, float | None]] = []

    def train(
        self,
        *,
        resume: bool = True,
        allow_older: bool = False,
        on_update: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> TrainResult:
        """Runs to the last update.

        Args:
            resume: Go on from the latest checkpoint in the output folder, if there is one.
            allow_older: Go back to an earlier checkpoint if the latest is damaged.
            on_update: Called with the number of finished updates and the metrics.

        Returns:
            The end of the run.

        Raises:
            MissingInfoKeyError: before the first rollout, if the environment lacks facts that
                the credit or the advantage needs.
            CheckpointError: if the checkpoint is damaged, or the folder holds another run.
            RolloutError: if every episode of an update failed.
        """
        self._check_env()
        has_checkpoint = self._prepare_output(resume=resume, allow_older=allow_older)
        with self._open_trackers() as trackers, self._batch_source() as source:
            if not has_checkpoint:
                trackers.log(0, self._evaluate())
            while self.num_updates_done < self.config.optim.num_updates:
                metrics = self._run_update(source)
                trackers.log(self.num_updates_done, metrics)
                if self._is_checkpoint_due():
                    source.wait()
                    self._save()
                if on_update is not None:
                    on_update(self.num_updates_done, metrics)
        rows = on_main(self._ranks, self._read_metrics)
        policy_dir = self._checkpoint_dir / f"update_{self.num_updates_done:06d}" / "policy"
        return TrainResult(self.num_updates_done, rows[-1] if rows else {}, policy_dir)

    def _run_update(self, source: BatchSource) -> dict[str, float]:
        """One turn of the loop, evaluation included."""
        began, synced = time.perf_counter(), source.sync_s
        waited = self._ranks.wait_s + source.wait_s
        done = self.num_updates_done
        collection = source.take(done, self._num_questions_seen)
        self._rest_engine()
        scored = score_shared(collection.groups, self.config, self._ranks)
        rollout_s = time.perf_counter() - began
        estimated = self._estimate(scored)
        if self.config.save_trajectories and self._ranks.is_main:
            turns = () if estimated is None else estimated.turns
            records = training_records(scored, turns, collection.left_out)
            write_records(self.config.output_dir / "trajectories", done, records)
        result = self._learn(estimated)
        metrics = update_metrics(
            UpdateFacts(
                config=self.config,
                collection=collection,
                scored=scored,
                estimate=estimated,
                result=result,
                lr=self.learner.lr,
                rollout_s=rollout_s,
                total_s=time.perf_counter() - began,
            )
        )
        waited = self._ranks.wait_s + source.wait_s - waited
        if not self._is_overlapped:
            waited += collection.stats.wait_s
        metrics["time_sync_s"] = source.sync_s - synced
        metrics["time_wait_share"] = waited / (time.perf_counter() - began)
        self._history.append(metrics)
        metrics["collapse_alarm"] = float(alarm(self._history))
        self.num_updates_done += 1
        self._num_questions_seen += collection.num_questions
        if self._is_eval_due():
            source.wait()
            metrics |= self._evaluate()
            self._rest_engine()
        return metrics

    def _estimate(self, scored: Sequence[ScoredGroup]) -> Estimate | None:
        """Advantages of all groups; None if there is no group."""
        if not scored:
            return None
        batch = self.learner.prepare(draft_batch(scored))
        return estimate(scored, batch, self.config, self.num_updates_done)

    def _learn(self, estimated: Estimate | None) -> UpdateResult | None:
        """Updates the policy; None if nothing was left to learn from."""
        if estimated is None or estimated.batch is None:
            return None
        return self.learner.update(estimated.batch, self.num_updates_done, self._rng)

    def _evaluate(self) -> dict[str, float]:
        """Evaluates, writes the records and returns the means; {} without environments."""
        if self._eval_slots is None or not self.config.evaluation.every:
            return {}
        evaluation = self.config.evaluation
        began = time.perf_counter()
        self._engine.sync_weights(self.learner.whole_model(), self.num_updates_done)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=evaluation.max_tokens or self.config.rollout.max_tokens,
            stop=self._stop,
        )
        update, split = self.num_updates_done, evaluation.split
        tasks = eval_task_indices(count_tasks(self._eval_slots), evaluation.episodes)
        batch = SharedPlay(_episode_player(self.config), self._ranks)(
            self._eval_slots,
            self._engine,
            self._tokenizer,
            [
                EpisodeSpec(task_index=task, group_id=f"{split}-{update}-{place}", seed=0)
                for place, task in enumerate(tasks)
            ],
            params,
            policy_version=update,
            config=self._driver,
        )
        results = [to_record(each, update=update, split=split) for each in batch.trajectories]
        if self._ranks.is_main:
            append_records(self.config.output_dir / "evals.jsonl", results)
        if self.config.save_trajectories and self._ranks.is_main:
            folder = self.config.output_dir / "eval_trajectories"
            write_records(folder, update, map(trajectory_record, batch.trajectories))
        metrics = {f"eval_{name}": value for name, value in summarize(results).items()}
        metrics["eval_dropped"] = float(len(tasks) - len(results))
        metrics["time_eval_s"] = time.perf_counter() - began
        return metrics

    @property
    def _is_overlapped(self) -> bool:
        """Whether the next batch is collected while the policy learns."""
        return self.config.rollout.overlap == "one-step"

    def _batch_source(self) -> BatchSource:
        """What collects the episodes of the updates that are left."""
        rollout = self.config.rollout
        # A thread of its own must not meet the exchanges of this one.
        ranks = self._ranks.fork() if self._is_overlapped else self._ranks
        params = SamplingParams(
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            max_tokens=rollout.max_tokens,
            stop=self._stop,
        )
        collector = Collector(
            config=self.config,
            slots=self._slots,
            engine=self._engine,
            tokenizer=self._tokenizer,
            params=params,
            driver=self._driver,
            play=SharedPlay(self._play, ranks),
            journal=self._journal,
            ranks=ranks,
        )
        return BatchSource(
            collector,
            engine=self._engine,
            weights=self.learner.whole_model,
            ranks=self._ranks,
            num_tasks=self._known_tasks,
            num_updates=self.config.optim.num_updates,
            overlap=self.config.rollout.overlap,
            first_update=self.num_updates_done,
            before_update=self._before_update,
        )

    def _rest_engine(self) -> None:
        """Lets an engine that shares the device give memory back until it is called again."""
        sleep = getattr(self._engine, "sleep", None)
        if sleep is not None and self.config.rollout.overlap == "none":
            sleep()

    def _is_eval_due(self) -> bool:
        """Whether this update is evaluated."""
        every, done = self.config.evaluation.every, self.num_updates_done
        return every > 0 and (done % every == 0 or done == self.config.optim.num_updates)

    def _is_checkpoint_due(self) -> bool:
        """Whether a checkpoint follows this update."""
        every, done = self.config.checkpoint_every, self.num_updates_done
        return done == self.config.optim.num_updates or (every > 0 and done % every == 0)

    @property
    def _checkpoint_dir(self) -> Path:
        return self.config.output_dir / "checkpoints"

    @property
    def _known_tasks(self) -> int:
        """Number of training tasks, asked for at the first need."""
        if self._num_tasks is None:
            self._num_tasks = count_tasks(self._slots)
        return self._num_tasks

    def _check_env(self) -> None:
        """Looks at the environment's info keys before anything is sampled."""
        required = self.config.required_info_keys
        if required:
            who = " and ".join(type(each).__name__ for each in self.config.parts)
            keys, is_over = probe_info_keys(self._slots)
            if is_over:
                check_info_keys(required, keys, who)
        if self._known_tasks < 1:
            raise ValueError(f"num_tasks must be positive, got {self._known_tasks}")

    def _prepare_output(self, *, resume: bool, allow_older: bool) -> bool:
        """Makes the output folder fit the state; says whether a checkpoint was loaded."""
        path = on_main(self._ranks, lambda: self._prepare_folder(resume, allow_older))
        if path is not None:
            self._load(path)
        return path is not None

    def _prepare_folder(self, resume: bool, allow_older: bool) -> Path | None:
        """Makes the output folder; gives the checkpoint to go on from, if there is one."""
        output_dir = self.config.output_dir
        output_dir.mkdir(parents=True, exist_ok=True)
        self._check_same_run(output_dir / "config.json")
        path = find_checkpoint(self._checkpoint_dir, allow_older=allow_older)
        if path is not None and not resume:
            raise CheckpointError(
                f"{output_dir} holds checkpoints of an earlier run; resume it, or choose another "
                "output_dir"
            )
        done = None if path is None else checkpoint_update(path)
        truncate_lines(output_dir / "evals.jsonl", done)
        return path

    def _check_same_run(self, file: Path) -> None:
        """Writes the settings, or makes sure that the folder's are the same."""
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8")).get("hash")
            if found != self._hash:
                raise CheckpointError(
                    f"{file.parent} holds a run with other settings (config hash {found}, this "
                    f"run has {self._hash}); choose another output_dir"
                )
        values = {"hash": self._hash, "config": config_to_dict(self.config)}
        write_atomically(file, json.dumps(values, indent=1, sort_keys=True) + "\n")

    def _load(self, path: Path) -> None:
        """Continues from a checkpoint."""
        state = load_checkpoint(
            path,
            model=self.learner.whole_model(),
            optimizer=self.learner.optimizer,
            config_hash=self._hash,
            critic=self._critic_parts,
            optimized=self.learner.policy.model,
        )
        self.learner.take_whole_model()
        self.learner.load_state(state.extra.get("learner", {}))
        self.num_updates_done = state.update
        self._num_questions_seen = state.num_questions_seen
        self._rng.bit_generator.state = state.generators["minibatches"]
        rows = on_main(self._ranks, self._read_metrics)
        self._history = [row for row in rows if 0 < row["update"] <= state.update]

    def _read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics so far."""
        return read_metrics(self.config.output_dir / "metrics.jsonl")

    def _save(self) -> None:
        """Writes a checkpoint; afterwards nobody needs the episodes that it covers."""
        model = self.learner.whole_model()
        moments = optimizer_tensors(self.learner.policy.model, self.learner.optimizer)
        on_main(self._ranks, lambda: self._save_on_main(model, moments))
        self._journal.discard_before(self.num_updates_done)

    def _save_on_main(self, model: PreTrainedModel, moments: Mapping[str, Tensor]) -> None:
        """Writes the files of a checkpoint."""
        save_checkpoint(
            self._checkpoint_dir,
            TrainerState(
                update=self.num_updates_done,
                num_questions_seen=self._num_questions_seen,
                config_hash=self._hash,
                generators={"minibatches": self._rng.bit_generator.state},
                extra={"learner": self.learner.state()},
            ),
            model=model,
            optimizer=moments,
            critic=self._critic_parts,
            tokenizer=self._tokenizer,
            keep=self.config.keep_checkpoints,
        )

    @property
    def _critic_parts(self) -> tuple[nn.Module, Optimizer] | None:
        """What a checkpoint holds of the critic, if there is one."""
        critic = self.learner.critic
        return None if critic is None else (critic.module, critic.stepper.optimizer)

    def _open_trackers(self) -> TrackerGroup:
        """The trackers that the settings ask for; rank 0 alone has any."""
        if not self._ranks.is_main:
            return TrackerGroup([])
        output_dir = self.config.output_dir
        after = self.num_updates_done or None
        names = dict.fromkeys(self.config.trackers)
        if self.config.tensorboard:
            names["tensorboard"] = None
        facts = RunFacts(
            output_dir=output_dir, config=config_to_dict(self.config), after_update=after
        )
        trackers: list[Tracker] = [
            *open_trackers(tuple(names), facts),
            JsonlTracker(output_dir / "metrics.jsonl", after_update=after),
            *self._extra_trackers,
        ]
        if not self.config.quiet:
            trackers.append(ProgressTracker(self.config.optim.num_updates))
        return TrackerGroup(trackers)


def _player(config: TrainConfig) -> PlayWithJournal:
    """What plays the episodes of the settings' kind of collection."""
    kind = config.rollout.collection
    if isinstance(kind, TreeSearch):
        return JournaledGroups(PlayTrees(kind))
    return _episode_player(config)


def _episode_player(config: TrainConfig) -> PlayWithJournal:
    """What plays episodes one by one: in lock-step or each at its own pace."""
    return collect_async if config.rollout.driver == "async" else collect
