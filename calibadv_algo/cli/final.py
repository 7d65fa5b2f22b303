"""Final scores of a comparison: held-out questions that the last policy of a run answers, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calibadv_algo.report.reading import FINAL_FILE
from calibadv_algo.training.config import TrainConfig
from calibadv_env.common.files import write_text

if TYPE_CHECKING:
    from calibadv_algo.learner.ranks import Ranks
    from calibadv_algo.rollout.driver import Player
    from calibadv_algo.training.evaluation import EvalRecord, EvalResult
    from calibadv_algo.training.shared_evaluation import SharedEvaluation
    from calibadv_algo.training.trainer import Trainer


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalScores:
    """Which questions give the final scores.

    Attributes:
        split: Their split.
        questions: How many, at most: the first of a fixed shuffle.
    """

    split: str
    questions: int


def play_start(
    config: TrainConfig,
    final: FinalScores,
    player: Player,
    trainer: Trainer,
    ranks: Ranks,
    shared: SharedEvaluation | None,
) -> Sequence[EvalRecord] | None:
    """Lets the starting policy answer the final questions, once for all runs that share it.

    Returns:
        Its records, none where nothing is shared; None if the run has its final scores already.
    """
    from calibadv_algo.learner.ranks import on_main

    if on_main(ranks, (config.output_dir / FINAL_FILE).exists):
        return None
    if shared is None or ranks.world_size > 1:
        return ()
    name = f"{shared.key}-{final.split}-{final.questions}"
    place = replace(shared, key=name)
    return place.get(final.split, lambda: _play(config, final, player, trainer, ranks)).records


def write_final(
    config: TrainConfig,
    final: FinalScores,
    player: Player,
    trainer: Trainer,
    ranks: Ranks,
    start: Sequence[EvalRecord],
) -> None:
    """Lets the last policy answer the final questions, and writes a record of each.

    What has been played is kept: a run that is started again answers nothing twice.
    """
    from calibadv_algo.learner.ranks import on_main
    from calibadv_algo.training.evaluation import record_to_json

    records = [*start, *_play(config, final, player, trainer, ranks).records]
    text = "".join(map(record_to_json, records))
    on_main(ranks, lambda: write_text(config.output_dir / FINAL_FILE, text))


def _play(
    config: TrainConfig, final: FinalScores, player: Player, trainer: Trainer, ranks: Ranks
) -> EvalResult:
    """Plays the final questions greedily with the policy as it is."""
    from calibadv_algo.rollout.slots import make_slots
    from calibadv_algo.training.collection import count_tasks, make_eval_player
    from calibadv_algo.training.evaluation import eval_task_indices, evaluate

    num_slots = max(1, min(final.questions, player.slots.num_slots))
    slots = make_slots(config.env.env_id, num_slots, config.env.kwargs(final.split))
    try:
        update = trainer.num_updates_done
        player.engine.sync_weights(trainer.learner.whole_model(), update)
        return evaluate(
            make_eval_player(config, player, slots),
            eval_task_indices(count_tasks(slots), final.questions),
            update=update,
            split=final.split,
            ranks=ranks,
        )
    finally:
        slots.close()


def final_split(config: TrainConfig, wanted: str) -> str:
    """The split of the final scores: what is wanted, or for ``auto`` test where there is one.

    Where there is none, that of the learning curves stands in.

    Raises:
        ValueError: if the environment does not have the split that was asked for.
    """
    import gymnasium

    from calibadv_algo.experiments.design import SPLIT_AUTO
    from calibadv_env.errors import DataError

    split = "test" if wanted == SPLIT_AUTO else wanted
    if split == config.env.split:
        raise ValueError(f"design.split must not be the split of the training, got {split!r}")
    try:
        gymnasium.make(config.env.env_id, **config.env.kwargs(split)).close()
    except (DataError, ValueError) as error:
        if wanted != SPLIT_AUTO:
            raise ValueError(f"design.split: {error}") from error
        return config.evaluation.split
    return split
