"""The training loop: collect, credit, advantage, update.

Nothing here depends on anything but the settings and the number of finished updates: the
questions of an update, the seeds of its episodes and the order of its minibatches are drawn from
generators that are either made anew for the update or stored in the checkpoint. A run that was
killed and goes on from its last checkpoint therefore repeats bit for bit what it would have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from transformers import PreTrainedModel

from calibadv_algo.advantages.base import TokenBaseline, ValueAdvantage
from calibadv_algo.credit.facts import check_info_keys
from calibadv_algo.learner.answers import with_answer_logprobs, with_hindsight
from calibadv_algo.learner.checkpoint import SavableTokenizer
from calibadv_algo.learner.learner import Learner, UpdateResult
from calibadv_algo.learner.ranks import Ranks, SingleRank
from calibadv_algo.rollout.driver import Player
from calibadv_algo.training.collection import Collector, count_tasks, probe_info_keys
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.estimation import (
    Estimate,
    ScoredGroup,
    draft_batch,
    estimate,
    score_groups,
)
from calibadv_algo.training.evaluation import (
    EvalResult,
    eval_task_indices,
    evaluate,
    summarize,
)
from calibadv_algo.training.metrics import UpdateFacts, alarm, update_metrics
from calibadv_algo.training.overlap import OverlappedCollector
from calibadv_algo.training.run_folder import RunFolder, held
from calibadv_algo.training.shared_evaluation import SharedEvaluation
from calibadv_algo.training.tracking import Tracker
from calibadv_algo.types import Group


@dataclass(frozen=True, slots=True)
class TrainResult:
    """End of a run.

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

    Environment and sampler come as a player, so nothing here knows what is searched, or that
    anything is.

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
        player: Player,
        eval_player: Player | None = None,
        num_tasks: int | None = None,
        ref_model: PreTrainedModel | None = None,
        trackers: Sequence[Tracker] = (),
        before_update: Callable[[int, int], None] | None = None,
        ranks: Ranks | None = None,
        shared_evaluation: SharedEvaluation | None = None,
    ) -> None:
        """Makes the learner; nothing is sampled yet.

        Args:
            config: The settings.
            model: The starting policy. On resumption, too: the reference policy is copied from
                it and the checkpoint's weights are loaded afterwards.
            player: Plays the training episodes; `collection.make_player` makes it as the
                settings say. Its tokenizer is saved beside the policy.
            eval_player: Plays held-out tasks (`collection.make_eval_player`), with the same
                engine; None means no evaluation.
            num_tasks: Number of training tasks; None means the info key ``num_tasks`` of
                ``reset``.
            ref_model: Reference policy of the KL terms; None means the starting policy.
            trackers: Further receivers of the metrics; closed at the end of `train`.
            before_update: Called before each collection with the number of finished updates and
                that of the whole run; for curricula in the environment.
            ranks: Processes that train together, each with a model, an engine and slots of its
                own that begin alike; None means this one alone.
            shared_evaluation: The evaluation before the first update, shared with other runs;
                None means that this run plays its own.
        """
        self.config = config
        self.learner = Learner(
            model,
            config.optim,
            temperature=config.rollout.temperature,
            ref_model=ref_model,
            has_critic=isinstance(config.advantage, ValueAdvantage),
            has_start=config.answer_belief is not None and config.answer_belief.scorer == "start",
            has_squared_probs=isinstance(config.advantage, TokenBaseline),
            ranks=ranks,
        )
        self.num_updates_done = 0
        self._player = player
        self._eval_player = eval_player
        self._num_tasks = num_tasks
        self._trackers = tuple(trackers)
        self._before_update = before_update
        self._ranks: Ranks = ranks or SingleRank()
        self._shared_evaluation = shared_evaluation
        self._folder = RunFolder(config, self._ranks)
        self._num_questions_seen = 0
        self._sampling: Mapping[str, Any] = {}
        self._rng = np.random.Generator(np.random.PCG64([config.seed, 0]))
        self._history: list[Mapping[str, float | None]] = []

    def train(
        self,
        *,
        resume: bool = True,
        allow_older: bool = False,
        on_update: Callable[[int, Mapping[str, float]], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> TrainResult:
        """Runs to the last update.

        Args:
            resume: Go on from the latest checkpoint in the output folder, if there is one.
            allow_older: Go back to an earlier checkpoint if the latest is damaged.
            on_update: Called with the number of finished updates and the metrics.
            stop: Asked after every update; true saves a checkpoint and ends the call early.

        Returns:
            The end of the run.

        Raises:
            MissingInfoKeyError: before the first rollout, if the environment lacks facts that
                the credit or the advantage needs.
            CheckpointError: if the checkpoint is damaged, or the folder holds another run.
            InUseError: naming the process, if another run writes into the folder.
            RolloutError: if every episode of an update failed.
        """
        num_tasks = self._check_env()
        with held(self.config.output_dir, self._ranks):
            return self._train(num_tasks, resume, allow_older, on_update, stop)

    def _train(
        self,
        num_tasks: int,
        resume: bool,
        allow_older: bool,
        on_update: Callable[[int, Mapping[str, float]], None] | None,
        stop: Callable[[], bool],
    ) -> TrainResult:
        """Runs to the last update in a folder that nobody else writes into."""
        checkpoint = self._folder.prepare(resume=resume, allow_older=allow_older)
        if checkpoint is not None:
            self._load(checkpoint)
        after = None if checkpoint is None else self.num_updates_done
        trackers = self._folder.open_trackers(after or None, self._trackers)
        with trackers, self._open_collector(num_tasks) as collector:
            if checkpoint is None:
                trackers.log(0, self._evaluate())
            while self.num_updates_done < self.config.optim.num_updates:
                metrics = self._run_update(collector)
                if self._is_due(self.config.evaluation.every):
                    collector.wait()
                    metrics |= self._evaluate()
                trackers.log(self.num_updates_done, metrics)
                is_stopped = stop()
                if is_stopped or self._is_due(self.config.checkpoint_every):
                    collector.wait()
                    self._save()
                if on_update is not None:
                    on_update(self.num_updates_done, metrics)
                if is_stopped:
                    break
        rows = self._folder.read_metrics()
        policy_dir = self._folder.policy_dir(self.num_updates_done)
        return TrainResult(self.num_updates_done, rows[-1] if rows else {}, policy_dir)

    def _run_update(self, collector: Collector) -> dict[str, float]:
        """Collects episodes, gives their turns credit and advantages, and learns from them."""
        began, synced = time.perf_counter(), collector.sync_s
        waited = self._ranks.wait_s + collector.wait_s
        collection = collector.take(self.num_updates_done, self._num_questions_seen)
        self._rest_engine()
        scored = score_groups(self._with_beliefs(collection.groups), self.config, self._ranks)
        rollout_s = time.perf_counter() - began
        estimated = self._estimate(scored)
        self._folder.write_trajectories(
            self.num_updates_done,
            scored,
            () if estimated is None else estimated.turns,
            collection.left_out,
        )
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
        waited = self._ranks.wait_s + collector.wait_s - waited
        if self.config.rollout.overlap == "none":
            waited += collection.stats.wait_s
        metrics["time_sync_s"] = collector.sync_s - synced
        metrics["time_wait_share"] = waited / (time.perf_counter() - began)
        self._history.append(metrics)
        metrics["collapse_alarm"] = float(alarm(self._history))
        self.num_updates_done += 1
        self._num_questions_seen += collection.num_questions
        self._sampling = collection.sampling
        return metrics

    def _with_beliefs(self, groups: Sequence[Group]) -> Sequence[Group]:
        """The groups, scored by the policy where a part asks how likely answers or turns were."""
        belief, hindsight = self.config.answer_belief, self.config.advantage.wanted_hindsight
        tokenizer = self._player.tokenizer
        if belief is not None:
            score = partial(self.learner.score, scorer=belief.scorer)
            groups = with_answer_logprobs(groups, belief, tokenizer, score)
        if hindsight is not None:
            groups = with_hindsight(groups, hindsight, tokenizer, self.learner.score)
        return groups

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
        """Plays the held-out tasks, writes their records, returns means; {} without a player."""
        config, update = self.config.evaluation, self.num_updates_done
        if self._eval_player is None or not config.every:
            return {}
        began = time.perf_counter()
        play = partial(self._play_evaluation, self._eval_player)
        if update == 0 and self._shared_evaluation is not None:
            result = self._shared_evaluation.get(config.split, play)
        else:
            result = play()
        self._folder.write_evaluation(update, result)
        metrics = {f"eval_{name}": value for name, value in summarize(result.records).items()}
        metrics["eval_dropped"] = float(result.num_dropped)
        metrics["time_eval_s"] = time.perf_counter() - began
        self._rest_engine()
        return metrics

    def _play_evaluation(self, player: Player) -> EvalResult:
        """Plays the held-out tasks with the weights of now."""
        config, update = self.config.evaluation, self.num_updates_done
        player.engine.sync_weights(self.learner.whole_model(), update)
        tasks = eval_task_indices(count_tasks(player.slots), config.episodes)
        return evaluate(player, tasks, update=update, split=config.split, ranks=self._ranks)

    def _open_collector(self, num_tasks: int) -> Collector:
        """The source of the episodes of all updates that are left."""
        kind = Collector if self.config.rollout.overlap == "none" else OverlappedCollector
        collector = kind(
            self.config,
            self._player,
            num_tasks=num_tasks,
            weights=self.learner.whole_model,
            journal=self._folder.journal,
            ranks=self._ranks,
            before_update=self._before_update,
        )
        collector.sampler.state = self._sampling
        return collector

    def _rest_engine(self) -> None:
        """Lets an engine that shares the device give memory back until it is called again."""
        sleep = getattr(self._player.engine, "sleep", None)
        if sleep is not None and self.config.rollout.overlap == "none":
            sleep()

    def _is_due(self, every: int) -> bool:
        """Tells whether something follows this update: every so many (0: none), and the last."""
        done = self.num_updates_done
        return done == self.config.optim.num_updates or (every > 0 and done % every == 0)

    def _check_env(self) -> int:
        """Looks at the environment's info keys before anything is sampled; counts its tasks."""
        required = self.config.required_info_keys
        if required:
            who = " and ".join(type(each).__name__ for each in self.config.parts)
            keys, is_over = probe_info_keys(self._player.slots)
            if is_over:
                check_info_keys(required, keys, who)
        found = count_tasks(self._player.slots) if self._num_tasks is None else self._num_tasks
        if found < 1:
            raise ValueError(f"num_tasks must be positive, got {found}")
        return found

    def _load(self, checkpoint: Path) -> None:
        """Goes on from a checkpoint."""
        state = self._folder.load(checkpoint, self.learner)
        self.num_updates_done = state.update
        self._num_questions_seen = state.num_questions_seen
        self._rng.bit_generator.state = state.generators["minibatches"]
        self._sampling = state.extra.get("questions", {})
        rows = self._folder.read_metrics()
        self._history = [row for row in rows if 0 < row["update"] <= state.update]

    def _save(self) -> None:
        """Writes a checkpoint."""
        self._folder.save(
            self.learner,
            cast(SavableTokenizer, self._player.tokenizer),
            update=self.num_updates_done,
            num_questions_seen=self._num_questions_seen,
            generators={"minibatches": self._rng.bit_generator.state},
            questions=self._sampling,
        )
