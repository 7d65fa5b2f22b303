"""Updates that others measured, against which the formulas are held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from calibadv_algo.experiments.planning.devices import DEVICES
from calibadv_algo.experiments.planning.plan import Plan, make_plan
from calibadv_algo.experiments.planning.shapes import SHAPES
from calibadv_algo.experiments.planning.workload import Workload

_NEMO: Final = "NVIDIA-NeMo/RL docs/about/performance-summary.md@06beed9"
_EASYR1: Final = "hiyouga/EasyR1 assets/baselines.md@46c6c21"
_SEARCH_R1: Final = "PeterGriffinJin/Search-R1 issue 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A measured update.

    Attributes:
        system: Who measured.
        model: A name of `shapes.SHAPES`.
        device: A name of `devices.DEVICES`.
        num_devices: Accelerators.
        seconds: Seconds of an update, lowest and highest where several are given.
        work: The update; lengths are those that its tokens a second imply.
        source: Where it stands.
        is_overlapped: True if sampling ran beside the update of the batch before.
        remark: What the formulas do not know of it.
    """

    system: str
    model: str
    device: str
    num_devices: int
    seconds: tuple[float, float]
    work: Workload
    source: str
    is_overlapped: bool = False
    remark: str = ""

    def plan(self) -> Plan:
        """The same update on paper."""
        return make_plan(
            SHAPES[self.model], DEVICES[self.device], self.work, num_devices=self.num_devices
        )

    def planned(self) -> tuple[float, float]:
        """Seconds on paper, fast and slow end."""
        plan = self.plan()
        return plan.overlapped if self.is_overlapped else (plan.fast.total, plan.slow.total)


def _answers(
    *, prompt: int, sampled: int, most: int, questions: int = 512, group_size: int = 5
) -> Workload:
    """An update of answers without searches, with a reference model and four steps."""
    return Workload(
        questions=questions,
        group_size=group_size,
        searches=0.0,
        max_searches=0.0,
        prompt_tokens=prompt,
        observation_tokens=0,
        action_tokens=sampled,
        max_action_tokens=most,
        minibatches=4,
        reference=True,
    )


_NEMO_8B: Final = _answers(prompt=132, sampled=1060, most=4096, questions=64, group_size=32)
_NEMO_32B: Final = _answers(prompt=110, sampled=3206, most=4096, questions=64, group_size=32)
_IMAGES: Final = "questions with images: its encoder is not counted"

CASES: Final = (
    Case(
        system="NeMo RL 0.4",
        model="meta-llama/Llama-3.1-8B",
        device="h100",
        num_devices=16,
        seconds=(97.7, 97.7),
        work=_NEMO_8B,
        source=_NEMO,
    ),
    Case(
        system="NeMo RL 0.4, one step off",
        model="meta-llama/Llama-3.1-8B",
        device="h100",
        num_devices=16,
        seconds=(74.6, 74.6),
        work=_NEMO_8B,
        source=_NEMO,
        is_overlapped=True,
    ),
    Case(
        system="NeMo RL 0.4",
        model="Qwen/Qwen3-32B",
        device="h100",
        num_devices=32,
        seconds=(393.0, 393.0),
        work=_NEMO_32B,
        source=_NEMO,
    ),
    Case(
        system="EasyR1 0.3",
        model="Qwen/Qwen2.5-3B",
        device="h100",
        num_devices=8,
        seconds=(180.0, 180.0),
        work=_answers(prompt=375, sampled=300, most=2048),
        source=_EASYR1,
        remark=_IMAGES,
    ),
    Case(
        system="EasyR1 0.3",
        model="Qwen/Qwen2.5-7B",
        device="h100",
        num_devices=8,
        seconds=(170.0, 190.0),
        work=_answers(prompt=375, sampled=340, most=2048),
        source=_EASYR1,
        remark=_IMAGES,
    ),
    Case(
        system="EasyR1 0.3",
        model="Qwen/Qwen2.5-7B",
        device="l20",
        num_devices=8,
        seconds=(580.0, 580.0),
        work=_answers(prompt=375, sampled=368, most=2048),
        source=_EASYR1,
        remark=_IMAGES,
    ),
    Case(
        system="Search-R1",
        model="Qwen/Qwen2.5-3B",
        device="h100",
        num_devices=8,
        seconds=(36.0, 126.0),
        work=Workload(group_size=1, max_action_tokens=500, minibatches=2, reference=True),
        source=_SEARCH_R1,
        remark="from memory, 200 steps in 2 to 3 hours by its author, 6 to 7 by a user; group size "
        "not said",
    ),
)
"""Measured updates; docs/scaling.md has them as a table."""
