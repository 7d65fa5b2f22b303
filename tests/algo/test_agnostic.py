"""The library learns on an environment that it knows nothing about, and only if it should.

Nothing here imports the search environments, and a subprocess makes sure of it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.errors import MissingInfoKeyError
from calibadv_algo.rollout.engines.scripted import ScriptedEngine
from calibadv_algo.types import Group

HERE = Path(__file__).parent


def load_letters() -> ModuleType:
    """The helper beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("letters", HERE / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


letters = load_letters()


class Flipped(AdvantageEstimator):
    """GRPO with the sign of its advantages turned round."""

    def __call__(self, group: Group, correctness: np.ndarray) -> np.ndarray:
        flipped: np.ndarray = -Grpo()(group, correctness)
        return flipped


def rewards(config: Any) -> list[float]:
    """Mean sampled reward of every update."""
    seen: list[float] = []

    def note(update: int, metrics: Mapping[str, float]) -> None:
        seen.append(metrics["reward_mean"])

    letters.make_trainer(config).train(on_update=note)
    return seen


@pytest.mark.parametrize("seed", [0, 1])
def test_grpo_learns_and_the_flipped_sign_does_not(tmp_path: Path, seed: int) -> None:
    learned = rewards(letters.make_config(tmp_path / "grpo", seed=seed))
    flipped = rewards(letters.make_config(tmp_path / "flip", seed=seed, advantage=Flipped()))
    start = float(np.mean(learned[:3]))
    assert float(np.mean(learned[-5:])) > start + 0.3
    assert float(np.mean(flipped[-5:])) < start


def test_a_missing_info_key_is_named_before_the_first_rollout(tmp_path: Path) -> None:
    config = letters.make_config(tmp_path, advantage=CalibAdv(), credit=SilverCredit())
    calls: list[str] = []

    def script(context: str, seed: int) -> str:
        calls.append(context)
        return "a"

    engine = ScriptedEngine(script, letters.make_tokenizer())
    trainer = letters.make_trainer(config, engine=engine)
    with pytest.raises(MissingInfoKeyError, match=r"SilverCredit.*passage_ids"):
        trainer.train()
    assert calls == []


def test_an_environment_without_a_number_of_tasks_is_told_so(tmp_path: Path) -> None:
    class Nameless(letters.LetterEnv):  # type: ignore[name-defined, misc]
        def reset(self, **options: Any) -> tuple[str, dict[str, Any]]:
            return super().reset(**options)[0], {}

    slots = letters.ListSlots([Nameless() for _ in range(32)])
    config = letters.make_config(tmp_path, optim=letters.OptimConfig(num_updates=1))
    with pytest.raises(MissingInfoKeyError, match="num_tasks"):
        letters.make_trainer(config, slots=slots).train()
    letters.make_trainer(config, slots=slots, num_tasks=4).train()


def test_the_search_environments_are_not_imported() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import letters; "
        "print(*(m for m in sys.modules if m.startswith('calibadv_env.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=HERE.parents[1],
    )
    found = set(done.stdout.split())
    # The package's own initialiser may bring in what registers ids and data, nothing that plays.
    assert not found & {"calibadv_env.env", "calibadv_env.vector", "calibadv_env.dynamics"}
