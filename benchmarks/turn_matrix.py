"""One question's turns under GRPO, under CalibAdv and as measured: the picture of the README.

    python -m benchmarks.turn_matrix --task 40 --output docs/turns.png

The shipped policy plays the question several times. What each turn was worth is measured by
continuations from every state (``calibadv credit`` does the same for many questions).
"""

from __future__ import annotations

import argparse
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibadv_algo.advantages.calibadv import CalibAdv
from calibadv_algo.advantages.grpo import Grpo
from calibadv_algo.credit.silver import SilverCredit
from calibadv_algo.experiments.truth.log import TruthLog
from calibadv_algo.experiments.truth.measuring import Plan, measure
from calibadv_algo.experiments.truth.turns import truths
from calibadv_algo.learner.pretrained import load_policy
from calibadv_algo.rollout.driver import Player
from calibadv_algo.rollout.engines.base import SamplingParams
from calibadv_algo.rollout.engines.hf.engine import HfEngine
from calibadv_algo.rollout.episodes import DriverConfig
from calibadv_algo.rollout.slots import make_slots
from calibadv_algo.types import Group
from calibadv_env.info import STOP_STRINGS

Matrix = Float[np.ndarray, "group turn"]


@dataclass(frozen=True)
class Arguments:
    """Size of the picture and where it goes."""

    task: int
    group_size: int
    continuations: int
    seed: int
    output: Path


def measured(arguments: Arguments) -> tuple[Group, Matrix]:
    """Episodes of one question and the true advantage of every turn."""
    model, tokenizer = load_policy("atlas-tiny")
    slots = make_slots("calibadv_env:DeepSearch-v1", 64, {"dataset": "atlas", "prompt": "question"})
    player = Player(
        slots,
        HfEngine(model, tokenizer, max_slots=64, max_context=1024),
        tokenizer,
        SamplingParams(max_tokens=40, stop=STOP_STRINGS),
        DriverConfig(max_context_tokens=1024),
    )
    plan = Plan(
        group_size=arguments.group_size,
        continuations=arguments.continuations,
        allocation="even",
        seed=arguments.seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        log = TruthLog(Path(folder), {})
        found = measure(player, [arguments.task], plan, log).groups
        log.close()
    (truth,) = truths(found)
    return found[0].group, truth.advantages


def draw(group: Group, matrices: dict[str, Matrix], output: Path) -> None:
    """A matrix an estimator: a row an episode, a column a turn, coloured by the advantage."""
    rows = len(group.trajectories)
    figure = Figure(figsize=(12, 0.62 * rows + 1.0), layout="constrained", dpi=110)
    panels = figure.subplots(1, len(matrices), sharey=True)
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
        _panel(axes, group, matrix, title)
    panels[0].set_yticks(
        range(rows), [f"F1 {each.reward:.1f}" for each in group.trajectories], fontsize=8
    )
    figure.suptitle(str(group.trajectories[0].reset_info["question"]), fontsize=10)
    figure.savefig(output)


def _panel(axes: Axes, group: Group, matrix: Matrix, title: str) -> None:
    # Each sign has its own scale: one good episode among bad ones would bleach the others.
    scales = {is_good: np.abs(matrix[(matrix > 0) == is_good]).max() for is_good in (True, False)}
    colours = mpl.colormaps["RdBu"]
    for row, trajectory in enumerate(group.trajectories):
        for column, turn in enumerate(trajectory.turns):
            value = matrix[row, column]
            strength = value / max(scales[bool(value > 0)], 1e-3)
            colour = colours(0.5 + 0.4 * strength)
            axes.add_patch(
                mpl.patches.Rectangle((column - 0.48, row - 0.44), 0.96, 0.88, fc=colour)
            )
            text = str(turn.info["query"] or turn.info["answer"] or "malformed")
            text = textwrap.shorten(text, 34, placeholder="…")
            kind = "search" if turn.info["query"] else "answer"
            lines = [f"{kind}:", *textwrap.wrap(text, 18), f"{value:+.2f}".replace("-", "−")]
            axes.text(
                column,
                row,
                "\n".join(lines),
                ha="center",
                va="center",
                fontsize=6,
                color="white" if abs(strength) > 0.75 else "black",
            )
    axes.set_title(title, fontsize=10, fontweight="bold")
    axes.set_xlim(-0.5, max(len(each.turns) for each in group.trajectories) - 0.5)
    axes.set_ylim(len(group.trajectories) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", type=int, default=40)
    parser.add_argument("--group-size", type=int, default=6)
    parser.add_argument("--continuations", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("docs/turns.png"))
    arguments = Arguments(**vars(parser.parse_args()))
    group, truth = measured(arguments)
    credit = SilverCredit()(group)
    matrices = {
        "GRPO": Grpo()(group, credit),
        "CalibAdv": CalibAdv()(group, credit),
        "Measured truth": truth,
    }
    draw(group, matrices, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
