"""CalibAdv in TRL: a rollout function for environments in text, and a trainer.

`SearchRollout` plays episodes with this package's driver, so what the policy sampled reaches
TRL's loss token by token. `CalibAdvTrainer` is `GRPOTrainer` with other advantages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.integrations.advantages import TurnAdvantages, with_total_reward
from calibadv_algo.integrations.completions import Completion, completion_of, spread_turns
from calibadv_algo.integrations.versions import (
    MACHINE_FAILURES,
    TRL,
    errors_named,
    part_of,
)
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import GenerationEngine, SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import DriverConfig, EpisodeSpec
from calibadv_algo.rollout.slots import EnvSlots, SlotReset, SlotStart, make_slots
from calibadv_algo.training.collection import close_overflow
from calibadv_algo.training.config import EnvConfig
from calibadv_algo.types import Trajectory
from calibadv_env.common.peers import require

require(TRL)
GRPOTrainer: Any = part_of("trl", "GRPOTrainer")
_gather_object: Callable[[list[Any]], list[Any]] = part_of("accelerate.utils", "gather_object")

MakeEngine = Callable[[Any], GenerationEngine]
"""Makes the engine of a trainer; it is asked once, before the first episode."""


@dataclass(kw_only=True, eq=False)
class SearchRollout:
    """A ``rollout_func``: plays one episode for each prompt that TRL hands over.

    TRL hands over texts and no rows of the data set, so the tasks are found again by their
    prompts: make the data set of :meth:`rows`.

    Attributes:
        env_id: A registered environment, as in ``gymnasium.make``.
        env_kwargs: Its arguments.
        num_slots: Episodes that are played at a time.
        max_turn_tokens: Most tokens of one turn.
        max_context: Most tokens of an episode; None leaves it to the model.
        stop_strings: Strings that end a turn; None means those of the environment, which in one of
            pages close opens and finds too.
        driver: How episodes are driven, and which errors are a machine's failure.
        make_engine: Makes the engine; None samples from the trainer's own model.
    """

    env_id: str
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_slots: int = 16
    max_turn_tokens: int = 512
    max_context: int | None = None
    stop_strings: tuple[str, ...] | None = None
    driver: DriverConfig = field(
        default_factory=lambda: DriverConfig(retry_on=errors_named(MACHINE_FAILURES))
    )
    make_engine: MakeEngine | None = None
    _tasks: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    _slots: EnvSlots | None = field(default=None, init=False, repr=False)
    _engine: GenerationEngine | None = field(default=None, init=False, repr=False)
    _call: tuple[int, int] = field(default=(-1, 0), init=False, repr=False)

    def _stop_strings(self) -> tuple[str, ...]:
        if self.stop_strings is not None:
            return self.stop_strings
        return EnvConfig(env_id=self.env_id).stop_strings(self.env_kwargs.get("prompt"))

    def rows(self, task_indices: Iterable[int]) -> list[dict[str, Any]]:
        """Rows of a data set, one a task of the split, with the keys ``prompt`` and ``task_index``.

        The prompt is the first observation of the task.
        """
        rows = []
        for index in task_indices:
            reset = self._environments().reset({0: SlotStart(index, index)}, ())[0]
            if not isinstance(reset, SlotReset):
                raise TypeError(f"reset must give a SlotReset, got {type(reset).__name__}")
            self._tasks.setdefault(reset.text, index)
            rows.append({"prompt": reset.text, "task_index": index})
        return rows

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Plays one episode a prompt.

        Args:
            prompts: This process's prompts, each as often as it is to be played.
            trainer: A ``GRPOTrainer``.

        Returns:
            What TRL wants (``prompt_ids``, ``completion_ids``, ``logprobs``, ``env_mask``) and
            ``trajectory`` for the reward functions; None where an episode was lost.

        Raises:
            ValueError: if a prompt is not of :meth:`rows`, or the trainer's settings ask for
                something that would not be done.
            RolloutError: if every episode was lost.
        """
        check_settings(trainer)
        specs = self._specs(prompts, trainer)
        if self._engine is None:
            self._engine = (self.make_engine or self._own_engine)(trainer)
        step = int(trainer.state.global_step)
        self._engine.sync_weights(trainer.accelerator.unwrap_model(trainer.model), step)
        args = trainer.args
        player = Player(
            self._environments(),
            self._engine,
            trainer.processing_class,
            SamplingParams(
                temperature=args.temperature,
                top_p=args.top_p,
                max_tokens=self.max_turn_tokens,
                stop=self._stop_strings(),
            ),
            replace(self.driver, max_context_tokens=self._context(trainer)),
        )
        batch = player.play(specs, policy_version=step)
        found = {(each.group_id, each.seed): close_overflow(each) for each in batch.trajectories}
        episodes = [found.get((spec.group_id, spec.seed)) for spec in specs]
        return as_trl(episodes, filler=int(trainer.processing_class.eos_token_id))

    def _specs(self, prompts: Sequence[Any], trainer: Any) -> list[EpisodeSpec]:
        """The episodes, each with a seed of its own."""
        step = int(trainer.state.global_step)
        self._call = (step, self._call[1] + 1 if self._call[0] == step else 0)
        key = [trainer.args.seed, trainer.accelerator.process_index, *self._call]
        seeds = np.random.SeedSequence(key).generate_state(len(prompts), np.uint64)
        specs = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            if not isinstance(prompt, str) or prompt not in self._tasks:
                raise ValueError(f"prompts must be texts of SearchRollout.rows, got {prompt!r}")
            index = self._tasks[prompt]
            specs.append(
                EpisodeSpec(
                    task_index=index, group_id=f"task {index}", seed=int(seed >> np.uint64(1))
                )
            )
        return specs

    def _context(self, trainer: Any) -> int | None:
        """Most tokens of an episode."""
        limit = getattr(trainer.model.config, "max_position_embeddings", None)
        return self.max_context or limit

    def _own_engine(self, trainer: Any) -> GenerationEngine:
        """Samples from the model that is trained."""
        model = trainer.accelerator.unwrap_model(trainer.model)
        return HfEngine(
            model,
            trainer.processing_class,
            max_slots=self.num_slots,
            max_context=self._context(trainer),
        )

    def _environments(self) -> EnvSlots:
        """The environments, made at the first need."""
        if self._slots is None:
            self._slots = make_slots(self.env_id, self.num_slots, self.env_kwargs)
        return self._slots


def as_trl(episodes: Sequence[Trajectory | None], filler: int) -> dict[str, Any]:
    """Columns that a ``rollout_func`` returns: lists by TRL's names.

    An observation after the last action is left out, because nothing is predicted from it;
    observed tokens have log-probability 0 and mask 0. A lost episode is the ``filler`` token,
    masked out.
    """
    rows = [
        Completion(ids=[filler], logprobs=[0.0], mask=[0], spans=[])
        if episode is None
        else completion_of(episode)
        for episode in episodes
    ]
    return {
        "prompt_ids": [[filler] if each is None else list(each.prompt_ids) for each in episodes],
        "completion_ids": [row.ids for row in rows],
        "logprobs": [row.logprobs for row in rows],
        "env_mask": [row.mask for row in rows],
        "trajectory": list(episodes),
    }


def episode_reward(trajectory: Sequence[Trajectory | None], **_: Any) -> list[float | None]:
    """A reward function: what the environment paid; None for lost episodes."""
    return [None if each is None else each.reward for each in trajectory]


class CalibAdvTrainer(GRPOTrainer):  # type: ignore[misc]
    """``GRPOTrainer`` with another advantage; loss, generation and rewards stay TRL's.

    It needs a ``rollout_func`` that returns the column ``trajectory``, as `SearchRollout` does.
    TRL's rewards, weighted and summed, are what the estimator compares; its settings
    ``scale_rewards`` is the estimator's business (``normalization``) and is not read.
    """

    def __init__(
        self,
        *args: Any,
        estimator: AdvantageEstimator | None = None,
        credit: CreditRule | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the source of the advantages to the arguments of ``GRPOTrainer``.

        Args:
            *args: For ``GRPOTrainer``.
            estimator: Maps groups to advantages; CalibAdv if None.
            credit: Scores the turns; silver passages, as in CalibAdv, if None.
            **kwargs: For ``GRPOTrainer``.

        Raises:
            ValueError: if the estimator needs a critic, or the whole batch with several
                processes, or a setting of TRL contradicts it.
        """
        super().__init__(*args, **kwargs)
        given = {"estimator": estimator, "credit": credit}
        self.turn_advantages = TurnAdvantages(
            **{name: value for name, value in given.items() if value is not None}  # type: ignore[arg-type]
        )
        self._rewards: Float[Tensor, "row function"] | None = None
        if self.args.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "multi_objective_aggregation must be 'sum_then_normalize', got "
                f"{self.args.multi_objective_aggregation!r}"
            )
        if self.turn_advantages.looks_at_whole_batch and self.accelerator.num_processes > 1:
            name = type(self.turn_advantages.estimator).__name__
            raise ValueError(f"{name} looks at the whole batch and needs a single process")

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Float[Tensor, "row function"]:
        """Remembers the rewards of all processes, which TRL keeps to itself."""
        rewards: Tensor = super()._calculate_rewards(*args, **kwargs)
        self._rewards = rewards
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Puts an advantage on every token in place of one for each row."""
        is_training = self.model.training
        size = self.num_generations if is_training else self.num_generations_eval
        if len(inputs) % size:
            raise ValueError(
                f"a process's {len(inputs)} rows must hold whole groups of {size}; choose a "
                "per_device_train_batch_size times steps_per_generation that it divides"
            )
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if any("trajectory" not in row for row in inputs):
            raise ValueError(
                "CalibAdvTrainer needs a rollout_func that returns the column 'trajectory', such "
                "as SearchRollout"
            )
        rows = self._rewarded([row["trajectory"] for row in inputs])
        turns = self.turn_advantages(rows, [place // size for place in range(len(rows))])
        spans = [[] if row is None else completion_of(row).spans for row in rows]
        like = output["advantages"].new_empty(output["completion_ids"].shape)
        tokens = spread_turns(spans, turns, like)
        output["advantages"] = tokens
        self._log_means(tokens, output)
        return output

    def _rewarded(self, rows: Sequence[Trajectory | None]) -> list[Trajectory | None]:
        """This process's trajectories with TRL's rewards; None where none was given."""
        if self._rewards is None:
            raise ValueError("rewards must be calculated before advantages")
        start = self.accelerator.process_index * len(rows)
        mine = self._rewards[start : start + len(rows)]
        weights = self.reward_weights.to(mine.device)
        totals = (mine * weights).nansum(dim=1).tolist()
        is_lost = torch.isnan(mine).all(dim=1).tolist()
        return [
            None if row is None or lost else with_total_reward(row, total)
            for row, total, lost in zip(rows, totals, is_lost, strict=True)
        ]

    def _log_means(self, tokens: Float[Tensor, "row token"], output: Mapping[str, Any]) -> None:
        """Puts each row's mean advantage into TRL's table of completions, in place of GRPO's."""
        mask = output["completion_mask"] * output.get("tool_mask", output["completion_mask"])
        means = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
        gathered = _gather_object(means.tolist())
        logged = self._logs["advantages"]
        for _ in range(min(len(gathered), len(logged))):
            logged.pop()
        logged.extend(gathered)


def check_settings(trainer: Any) -> None:
    """Refuses settings of TRL that a rollout of this module would not follow.

    Raises:
        ValueError: naming the setting.
    """
    args = trainer.args
    wanted = {
        "top_k": (args.top_k, (0, -1, None)),
        "min_p": (args.min_p, (None, 0.0)),
        "repetition_penalty": (args.repetition_penalty, (1.0,)),
        # A turn ends with a stop string and not with EOS, so TRL would take all for cut off.
        "mask_truncated_completions": (args.mask_truncated_completions, (False,)),
    }
    for name, (value, allowed) in wanted.items():
        if value not in allowed:
            raise ValueError(f"{name} must be {allowed[0]!r} with SearchRollout, got {value!r}")
