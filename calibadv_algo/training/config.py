"""Settings of a training run, as frozen dataclasses; no torch is imported here.

The published settings are constants at the end of the file. Each of them is a whole
`TrainConfig`: vary it with `dataclasses.replace`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from annotated_types import Interval

from calibadv_algo.advantages.base import AdvantageEstimator
from calibadv_algo.credit.base import CreditRule
from calibadv_algo.credit.beliefs import AnswerBelief
from calibadv_algo.learner.config import OptimConfig
from calibadv_algo.lora import Lora
from calibadv_algo.rollout.chat import parse_settings
from calibadv_algo.rollout.conversation import EarlierThoughts, Observations, check_messages
from calibadv_algo.rollout.engines.config import EngineConfig, HfEngineConfig
from calibadv_algo.rollout.greedy_config import GreedyBaseline
from calibadv_algo.rollout.tree_config import TreeSearch
from calibadv_algo.rollout.vine_config import VineSampling
from calibadv_algo.shaping.base import GroupFilter, LossMask, RewardShaping
from calibadv_algo.training.sampling import Questions, Uniform
from calibadv_env.common.checks import NOT_NEGATIVE, POSITIVE, Checked
from calibadv_env.info import PAGE_STOP_STRINGS
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.protocol.prompts import stop_strings

_PAGES: Final = re.compile(r"(^|:)DeepSearch-Pages(Reworded|Linked)?-v\d+$")
_PAGES_OF_ANY: Final = re.compile(r"(^|:)DeepSearch-Pages-v\d+$")
_ANY_DATASET: Final = re.compile(r"(^|:)DeepSearch-v\d+$")
"""Ids of environments that take the name of a dataset."""
_REWARD_FILE: Final = re.compile(r"[^\s*+]+\.py(?=:)")
"""The path in a reward such as ``0.5*rewards.py:function``."""


def _default_advantage() -> AdvantageEstimator:
    from calibadv_algo.advantages.calibadv import CalibAdv

    return CalibAdv()


def _default_credit() -> CreditRule:
    from calibadv_algo.credit.silver import SilverCredit

    return SilverCredit()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig(Checked):
    """Which environment, and how it is set up."""

    env_id: str = "calibadv_env:DeepSearch-v1"
    """Registered id of the environment, with the module that registers it."""
    dataset: str = "atlas"
    """Name of a dataset, several joined by +, or a path; for the ids DeepSearch-v1, -v0 alone. With
    DeepSearch-Pages-v0 any but atlas, which stands there for the built-in pages."""
    split: str = "train"
    """Split whose tasks are trained on."""
    retriever: str = "bm25"
    """Name of a retriever, path of an index, or address of a search server."""
    top_k: Annotated[int, POSITIVE] = 3
    """Passages that a search returns."""
    max_turns: Annotated[int, POSITIVE] = 4
    """Searches that an episode allows; one last turn for the answer follows."""
    prompt: str | None = None
    """Named prompt, or a template that holds {question}; None means the dataset's own."""
    reward: str = "f1"
    """Score that a final answer earns: a name of `calibadv list rewards`, a sum of them such as
    '0.8*f1 + 0.2*citations', or a function of yours, `module:function` or `file.py:function`."""
    cover_em: Literal["words", "substring"] | None = None
    """What the reward cover_em pays: whole words in a short answer, or the references' metric;
    None means the environment's default: words, in version 0 substring."""
    format_gate: bool = True
    """If true, an ill-formed episode earns 0."""
    invalid_action: Literal["end", "continue"] = "end"
    """Effect of a malformed action on the episode."""
    prepend_think: bool = False
    """If true, every observation ends with the opening think tag (the third part of CalibAdv)."""
    max_observation_chars: Annotated[int | None, POSITIVE] = None
    """Where the body of an observation is cut; None means the environment's default."""
    normalizer: Normalizer | None = None
    """Normal form in which answers are graded; None means that of the environment's version."""

    def kwargs(self, split: str | None = None) -> dict[str, Any]:
        """Keyword arguments for ``gymnasium.make``, for another split on request.

        An id of a single dataset, such as ``DeepSearch-HotpotQA-v1``, keeps its own.
        """
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        del given["env_id"]
        is_chosen = bool(_PAGES_OF_ANY.search(self.env_id)) and self.dataset != "atlas"
        if not _ANY_DATASET.search(self.env_id) and not is_chosen:
            del given["dataset"]
        given["split"] = split or self.split
        return {name: value for name, value in given.items() if value is not None}

    @property
    def is_pages(self) -> bool:
        """True for the environment of pages, whose turns may also open and find."""
        return bool(_PAGES.search(self.env_id))

    def stop_strings(self, prompt: str | None) -> tuple[str, ...]:
        """Strings that end a turn in this environment under a prompt; None is its own prompt."""
        return PAGE_STOP_STRINGS if self.is_pages else stop_strings(prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig(Checked):
    """How episodes are sampled."""

    num_questions: Annotated[int, POSITIVE] = 16
    """Questions of one update."""
    group_size: Annotated[int, POSITIVE] = 8
    """Episodes of each question."""
    temperature: Annotated[float, POSITIVE] = 1.0
    """Sampling temperature; the loss uses the same."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Nucleus mass; less than 1 makes sampled and recomputed log-probabilities differ."""
    max_tokens: Annotated[int, POSITIVE] = 40
    """Most tokens of one turn."""
    max_context: Annotated[int, POSITIVE] = 1024
    """Most tokens of an episode, prompt and observations included."""
    num_slots: Annotated[int, NOT_NEGATIVE] = 0
    """Environments that run side by side; 0 means all episodes of an update or evaluation, as far
    as memory allows (the number stands in provenance.json)."""
    trees: TreeSearch | None = None
    """Trees that the episodes of a group grow on; None plays them one by one."""
    vine: VineSampling | None = None
    """Continuations that measure what each state is worth; None plays none."""
    greedy: GreedyBaseline | None = None
    """A greedy episode of every question as its baseline; None plays none."""
    observations: Observations = "continue"
    """Place of later observations: in the policy's own message, or as a message of this role in
    its chat template."""
    earlier_thoughts: EarlierThoughts = "keep"
    """Thoughts of earlier turns where observations are messages: they stay, go, or do what the
    chat template does."""
    driver: Literal["lockstep", "async"] = "lockstep"
    """Pace of episodes: turns together, or each at its own; the episodes are the same."""
    overlap: Literal["none", "one-step"] = "none"
    """Collection of the next batch: after the update, or while the policy learns (one step off
    policy)."""
    questions: Questions = field(default_factory=Uniform)
    """Questions that an update asks: all alike (`uniform`), by their number of hops (`by-hops`), or
    from pools by their latest rewards (`reward-pools`)."""
    bad_numbers: Literal["raise", "drop"] = "raise"
    """Effect of NaN or infinity as reward, score or log-prob: an error, or the episode dropped."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        Checked.__post_init__(self)
        if self.trees is not None and self.vine is not None:
            raise ValueError("vine must be None where episodes grow on trees")
        if self.greedy is not None and (self.trees is not None or self.vine is not None):
            raise ValueError("greedy must be None where episodes grow on trees or vines")
        if self.trees is not None and self.group_size != self.trees.group_size:
            raise ValueError(
                f"group_size must be that of the trees ({self.trees.group_size}), "
                f"got {self.group_size}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig(Checked):
    """Evaluation on held-out tasks, greedy."""

    every: Annotated[int, NOT_NEGATIVE] = 5
    """Updates between evaluations; 0 means never. Update 0 and the last are always evaluated."""
    episodes: Annotated[int, POSITIVE] = 200
    """Tasks of each evaluation, the first ones of a fixed shuffle of the split."""
    split: str = "dev"
    """Split that is evaluated."""
    max_tokens: Annotated[int | None, POSITIVE] = None
    """Most tokens of one turn; None means as in training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Checked):
    """A whole training run."""

    model: str = "atlas-tiny"
    """The starting policy: a path, a hub name, or the name of the policy that is shipped."""
    output_dir: Path = Path("runs/train")
    """Folder of everything that the run writes."""
    seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the question order, the sampling and the minibatches."""
    advantage: AdvantageEstimator = field(default_factory=_default_advantage)
    """Estimator that turns rewards and correctness into advantages."""
    credit: CreditRule = field(default_factory=_default_credit)
    """Rule by which turns count as correct."""
    filters: Annotated[tuple[GroupFilter, ...], tyro.conf.arg(name="filter")] = ()
    """Filters of groups and trajectories before anything is compared, in order."""
    shaping: tuple[RewardShaping, ...] = ()
    """Changes of the rewards that are learnt from, in order."""
    loss_masks: Annotated[tuple[LossMask, ...], tyro.conf.arg(name="loss-mask")] = ()
    """Masks of trajectories that are compared and not trained on."""
    env: EnvConfig = field(default_factory=EnvConfig)
    """The environment."""
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampling."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Loss and optimiser."""
    evaluation: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    engine: EngineConfig = field(default_factory=HfEngineConfig)
    """Engine that samples, and its settings."""
    lora: Lora | None = None
    """Adapters that learn in place of all weights; None means that all learn."""
    prompt_style: Literal["raw", "chat"] = "raw"
    """Form of the prompt: the first observation as it is, or as a user's message in the
    tokenizer's chat template."""
    chat_template_kwargs: tuple[str, ...] = ()
    """Variables of the chat template, each NAME=VALUE, such as enable_thinking=false."""
    checkpoint_every: Annotated[int, NOT_NEGATIVE] = 10
    """Updates between checkpoints; 0 means only at the end."""
    keep_checkpoints: Annotated[int, POSITIVE] = 2
    """How many of the latest checkpoints stay."""
    save_trajectories: bool = True
    """If true, every training trajectory is written as a line of JSON."""
    tensorboard: bool = False
    """If true, TensorBoard files are written too."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio", "mlflow"], ...] = ()
    """Trackers that get the metrics too; each needs its extra."""
    track_episodes_every: Annotated[int, NOT_NEGATIVE] = 10
    """Updates between tables of sampled episodes that trackers get: the first update, then every
    so many; 0 for none."""
    track_episodes: Annotated[int, POSITIVE] = 4
    """Episodes of such a table."""
    quiet: bool = False
    """If true, there is no progress display (child processes)."""
    strict: bool = False
    """If true, a run that teaches nothing (full contexts, no signal, a policy that cannot follow
    the format) or cannot be judged (a handful of questions) ends with an error; else it is said."""

    def __post_init__(self) -> None:
        """Checks ranges, and what goes together: advantage and credit, template and prompt."""
        Checked.__post_init__(self)
        if parse_settings(self.chat_template_kwargs) and self.prompt_style != "chat":
            raise ValueError(
                "chat_template_kwargs needs prompt_style chat, got "
                f"{' '.join(self.chat_template_kwargs)} with {self.prompt_style}"
            )
        check_messages(
            self.prompt_style == "chat", self.rollout.observations, self.rollout.earlier_thoughts
        )
        if self.advantage.wanted_hindsight and self.rollout.earlier_thoughts != "keep":
            raise ValueError(
                f"rollout.earlier_thoughts must be keep for the advantage "
                f"{type(self.advantage).__name__}, which tells the outcome behind the prompt; got "
                f"{self.rollout.earlier_thoughts}"
            )
        if self.advantage.needs_correctness and not self.credit.scores_turns:
            raise ValueError(
                f"credit must score turns for the advantage {type(self.advantage).__name__}, "
                f"got {type(self.credit).__name__}"
            )
        if self.advantage.scales_clips and not self.optim.objective.scales_clip:
            raise ValueError(
                f"optim.objective must be one whose clip {type(self.advantage).__name__} can scale "
                f"(clipped-surrogate, turn-clipped), got {type(self.optim.objective).__name__}"
            )
        _ = self.answer_belief

    @property
    def answer_belief(self) -> AnswerBelief | None:
        """The belief in the accepted answers that a part asks the trainer for, if one does.

        Raises:
            ValueError: if two parts ask for it in two forms.
        """
        wanted = [part.answer_belief for part in self.parts]
        forms = {repr(each): each for each in wanted if each is not None}
        if len(forms) > 1:
            raise ValueError(
                f"belief must be the same in all parts of a run, got {' and '.join(forms)}"
            )
        return next(iter(forms.values()), None)

    @property
    def required_info_keys(self) -> frozenset[str]:
        """Keys that the environment's ``info`` must hold for what the run is made of."""
        return frozenset().union(*(part.required_info_keys for part in self.parts))

    @property
    def parts(
        self,
    ) -> tuple[GroupFilter | RewardShaping | LossMask | CreditRule | AdvantageEstimator, ...]:
        """Parts of the algorithm that look at the facts of an episode."""
        return (*self.filters, *self.shaping, *self.loss_masks, self.credit, self.advantage)


def reward_sha256(reward: str) -> str | None:
    """Names a reward by the content of its files; None without any, or where one is not there."""
    files = _REWARD_FILE.findall(reward)
    if not files or not all(Path(file).is_file() for file in files):
        return None
    hashes = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
    text = _REWARD_FILE.sub(lambda found: hashes[found[0]], reward)
    return hashlib.sha256(text.encode()).hexdigest()


def config_to_dict(config: object) -> Any:
    """A config as plain JSON values; the type of a chosen variant stands under ``type``.

    Where a reward is a function in a file, the environment's settings also have
    ``reward_sha256``, which names it by what the file holds now.
    """
    if is_dataclass(config) and not isinstance(config, type):
        values = {item.name: config_to_dict(getattr(config, item.name)) for item in fields(config)}
        content = reward_sha256(config.reward) if isinstance(config, EnvConfig) else None
        if content is not None:
            values["reward_sha256"] = content
        return {"type": type(config).__name__, **values}
    if isinstance(config, tuple | list):
        return [config_to_dict(item) for item in config]
    if isinstance(config, frozenset | set):
        return sorted(config_to_dict(item) for item in config)
    if isinstance(config, Path):
        return str(config)
    return config


def config_hash(config: TrainConfig) -> str:
    """Names what determines a run's numbers; equal for configs that may resume each other.

    Where files go and how progress is shown does not count, nor how often checkpoints are made,
    nor how the work is divided. Of the engine its kind counts: each draws tokens in its own way.
    A reward in a file counts by what the file holds.
    """
    values = config_to_dict(config)
    values["engine"] = values["engine"]["type"]
    if values["rollout"]["num_slots"] == 0:
        # The default before the number was chosen; it divides the work.
        values["rollout"]["num_slots"] = 64
    if values["rollout"]["greedy"] is None:
        # Runs that began before there was such a setting go on.
        del values["rollout"]["greedy"]
    if values["rollout"]["questions"]["type"] == "Uniform":
        # What all runs did before there was a choice.
        del values["rollout"]["questions"]
    for part, name in (("rollout", "driver"), ("optim", "parallel"), ("optim", "prefixes")):
        del values[part][name]
    for name in ("output_dir", "checkpoint_every", "keep_checkpoints", "quiet", "tensorboard"):
        del values[name]
    for name in ("save_trajectories", "trackers", "strict"):
        del values[name]
    for name in ("track_episodes_every", "track_episodes"):
        del values[name]
    values["env"]["reward"] = values["env"].pop("reward_sha256", config.env.reward)
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
