"""verl's synchronous trainer with turn facts in reach of the estimators.

Importing this module registers the estimator ``calibadv``, the agent loop ``calibadv_search`` and
the trainer ``calibadv_sync``: name it in ``VERL_USE_EXTERNAL_MODULES``.
"""

from __future__ import annotations

from typing import Any

from calibadv_algo.integrations.verl import FACTS, turn_facts
from calibadv_algo.integrations.versions import part_of

_BASE = "verl.trainer.ppo.v1.trainer_base"
PPOTrainerSync: Any = part_of("verl.trainer.ppo.v1.trainer_sync", "PPOTrainerSync")
_register_trainer: Any = part_of(_BASE, "register_trainer")


class TurnFactsTrainer:
    """Mixed into one of verl's trainers, before it: fetches the facts and changes nothing else."""

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Fetches ``extra_fields``, which verl leaves in its store, round verl's own method."""
        store = part_of(_BASE, "tq")
        data = store.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"]
        )
        rows = [getattr(row, "data", row) for row in data.pop("extra_fields").tolist()]
        with turn_facts([row.get(FACTS) for row in rows]):
            return super()._compute_advantage(batch, metrics)  # type: ignore[misc]


@_register_trainer("calibadv_sync")
class CalibAdvTrainerSync(TurnFactsTrainer, PPOTrainerSync):  # type: ignore[misc]
    """``trainer.v1.trainer_mode=calibadv_sync``."""
