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
from typing import Protocol

import numpy as np
from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from calibadv_algo.advantages.base import ValueAdvantage
from calibadv_algo.checkpoint import (
    SavableTokenizer,
    TrainerState,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from calibadv_algo.collection import Collector, PlayEpisodes
from calibadv_algo.config import TrainConfig, config_hash, config_to_dict
from calibadv_algo.credit import check_info_keys
from calibadv_algo.errors import CheckpointError, MissingInfoKeyError
from calibadv_algo.evaluation import (
    EvalResult,
    append_records,
    eval_task_indices,
    evaluate,
    summarize,
)
from calibadv_algo.judging import Estimate, Judged, draft_batch, estimate, judge
from calibadv_algo.learner import Learner, UpdateResult
from calibadv_algo.metrics import UpdateFacts, alarm, update_metrics
from calibadv_algo.rollout.base import GenerationEngine, SamplingParams, Tokenizer
from calibadv_algo.rollout.driver import DriverConfig, collect
from calibadv_algo.rollout.slots import EnvSlots, SlotReset, SlotStart, SlotStep
from calibadv_algo.rollout.tree import PlayTrees
from calibadv_algo.rollout.tree_config import TreeSearch
from calibadv_algo.run_records import (
    training_records,
    trajectory_record,
    write_atomically,
    write_records,
)
from calibadv_algo.tracking import (
    JsonlTracker,
    ProgressTracker,
    TensorBoardTracker,
    Tracker,
    TrackerGroup,
    read_metrics,
    truncate_lines,
)
from calibadv_env.info import STOP_STRINGS

MAX_PROBE_TURNS = 64
"""Empty actions after which the look at an environment's info keys gives up."""


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
        """
        self.config = config
        self.learner = Learner(
            model,
            config.optim,
            temperature=config.rollout.temperature,
            ref_model=ref_model,
            has_critic=isinstance(config.advantage, ValueAdvantage),
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
        self._collector = Collector(
            config=config,
            slots=slots,
            engine=engine,
            tokenizer=tokenizer,
            params=SamplingParams(
                temperature=config.rollout.temperature,
                top_p=config.rollout.top_p,
                max_tokens=config.rollout.max_tokens,
                stop=self._stop,
            ),
            driver=self._driver,
            play=play or _player(config),
        )
        self._before_update = before_update
        self._num_tasks = num_tasks
        self._extra_trackers = tuple(trackers)
        self._num_questions_seen = 0
        self._rng = np.random.Generator(np.random.PCG64([config.seed, 0]))
        self._hash = config_hash(config)
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
        with self._open_trackers() as trackers:
            if not has_checkpoint:
                trackers.log(0, self._evaluate())
            while self.num_updates_done < self.config.optim.num_updates:
                metrics = self._run_update()
                trackers.log(self.num_updates_done, metrics)
                if self._is_checkpoint_due():
                    self._save()
                if on_update is not None:
                    on_update(self.num_updates_done, metrics)
        rows = read_metrics(self.config.output_dir / "metrics.jsonl")
        policy_dir = self._checkpoint_dir / f"update_{self.num_updates_done:06d}" / "policy"
        return TrainResult(self.num_updates_done, rows[-1] if rows else {}, policy_dir)

    def _run_update(self) -> dict[str, float]:
        """One turn of the loop, evaluation included."""
        began = time.perf_counter()
        done, num_updates = self.num_updates_done, self.config.optim.num_updates
        if self._before_update is not None:
            self._before_update(done, num_updates)
        self._engine.sync_weights(self.learner.policy.model, done)
        collection = self._collector.collect(done, self._num_questions_seen, self._known_tasks)
        judged = [judge(group, self.config) for group in collection.groups]
        rollout_s = time.perf_counter() - began
        estimated = self._estimate(judged)
        if self.config.save_trajectories:
            turns = () if estimated is None else estimated.turns
            records = training_records(judged, turns, collection.left_out)
            write_records(self.config.output_dir / "trajectories", done, records)
        result = self._learn(estimated)
        metrics = update_metrics(
            UpdateFacts(
                config=self.config,
                collection=collection,
                judged=judged,
                estimate=estimated,
                result=result,
                lr=self.learner.lr,
                rollout_s=rollout_s,
                total_s=time.perf_counter() - began,
            )
        )
        self._history.append(metrics)
        metrics["collapse_alarm"] = float(alarm(self._history))
        self.num_updates_done += 1
        self._num_questions_seen += collection.num_questions
        if self._is_eval_due():
            metrics |= self._evaluate()
        return metrics

    def _estimate(self, judged: Sequence[Judged]) -> Estimate | None:
        """Advantages of all groups; None if there is no group."""
        if not judged:
            return None
        batch = self.learner.prepare(draft_batch(judged))
        return estimate(judged, batch, self.config, self.num_updates_done)

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
        self._engine.sync_weights(self.learner.policy.model, self.num_updates_done)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=evaluation.max_tokens or self.config.rollout.max_tokens,
            stop=self._stop,
        )
        num_tasks = count_tasks(self._eval_slots)
        result: EvalResult = evaluate(
            self._eval_slots,
            self._engine,
            self._tokenizer,
            eval_task_indices(num_tasks, evaluation.episodes),
            params,
            update=self.num_updates_done,
            split=evaluation.split,
            driver=self._driver,
        )
        append_records(self.config.output_dir / "evals.jsonl", result.records)
        if self.config.save_trajectories:
            folder = self.config.output_dir / "eval_trajectories"
            records = map(trajectory_record, result.trajectories)
            write_records(folder, self.num_updates_done, records)
        metrics = {f"eval_{name}": value for name, value in summarize(result.records).items()}
        metrics["eval_dropped"] = float(result.num_dropped)
        metrics["time_eval_s"] = time.perf_counter() - began
        return metrics

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
            who = " and ".join(type(each).__name__ for each in self.config.judges)
            keys, is_over = probe_info_keys(self._slots)
            if is_over:
                check_info_keys(required, keys, who)
        if self._known_tasks < 1:
            raise ValueError(f"num_tasks must be positive, got {self._known_tasks}")

    def _prepare_output(self, *, resume: bool, allow_older: bool) -> bool:
        """Makes the output folder fit the state; says whether a checkpoint was loaded."""
        output_dir = self.config.output_dir
        output_dir.mkdir(parents=True, exist_ok=True)
        self._check_same_run(output_dir / "config.json")
        path = find_checkpoint(self._checkpoint_dir, allow_older=allow_older)
        if path is not None and not resume:
            raise CheckpointError(
                f"{output_dir} holds checkpoints of an earlier run; resume it, or choose another "
                "output_dir"
            )
        if path is not None:
            self._load(path)
        truncate_lines(output_dir / "evals.jsonl", self.num_updates_done if path else None)
        return path is not None

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
            model=self.learner.policy.model,
            optimizer=self.learner.optimizer,
            config_hash=self._hash,
            critic=self._critic_parts,
        )
        self.learner.load_state(state.extra.get("learner", {}))
        self.num_updates_done = state.update
        self._num_questions_seen = state.num_questions_seen
        self._rng.bit_generator.state = state.generators["minibatches"]
        rows = read_metrics(self.config.output_dir / "metrics.jsonl")
        self._history = [row for row in rows if 0 < row["update"] <= state.update]

    def _save(self) -> None:
        """Writes a checkpoint."""
        save_checkpoint(
            self._checkpoint_dir,
            TrainerState(
                update=self.num_updates_done,
                num_questions_seen=self._num_questions_seen,
                config_hash=self._hash,
                generators={"minibatches": self._rng.bit_generator.state},
                extra={"learner": self.learner.state()},
            ),
            model=self.learner.policy.model,
            optimizer=self.learner.optimizer,
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
        """The trackers that the settings ask for."""
        output_dir = self.config.output_dir
        after = self.num_updates_done or None
        trackers: list[Tracker] = [
            JsonlTracker(output_dir / "metrics.jsonl", after_update=after),
            *self._extra_trackers,
        ]
        if self.config.tensorboard:
            trackers.append(TensorBoardTracker(output_dir / "tensorboard", after_update=after))
        if not self.config.quiet:
            trackers.append(ProgressTracker(self.config.optim.num_updates))
        return TrackerGroup(trackers)


def _player(config: TrainConfig) -> PlayEpisodes:
    """What plays the episodes of the settings' kind of collection."""
    kind = config.rollout.collection
    return PlayTrees(kind) if isinstance(kind, TreeSearch) else collect


def count_tasks(slots: EnvSlots) -> int:
    """Asks an environment for the number of its tasks.

    Args:
        slots: Where to ask; the first slot is reset.

    Returns:
        The info key ``num_tasks``.

    Raises:
        MissingInfoKeyError: if ``reset`` does not report it.
    """
    info = _reset_first(slots).info
    if "num_tasks" not in info:
        raise MissingInfoKeyError(
            "the trainer needs the info key 'num_tasks' from reset, or the argument num_tasks; "
            f"the environment gives {sorted(info)}"
        )
    return int(info["num_tasks"])


def probe_info_keys(slots: EnvSlots) -> tuple[set[str], bool]:
    """Plays empty actions to see which facts an environment reports.

    Args:
        slots: The first slot is used.

    Returns:
        The keys of all infos of the steps, and whether the episode came to its end: some
        keys appear only there.
    """
    _reset_first(slots)
    keys: set[str] = set()
    for _ in range(MAX_PROBE_TURNS):
        step = slots.step({0: ""}, ())[0]
        if not isinstance(step, SlotStep):
            raise TypeError(f"step must give a SlotStep, got {type(step).__name__}")
        keys |= set(step.info)
        if step.is_terminated or step.is_truncated:
            return keys, True
    return keys, False


def _reset_first(slots: EnvSlots) -> SlotReset:
    """Resets the first slot to the first task."""
    reset = slots.reset({0: SlotStart(0, 0)}, ())[0]
    if not isinstance(reset, SlotReset):
        raise TypeError(f"reset must give a SlotReset, got {type(reset).__name__}")
    return reset
