"""One step of an episode: the whole decision process on a page, pure and frozen.

A step has three parts. :func:`plan` reads the action and says which query, if any, has to be
carried out. The caller, an environment with one episode or with many, asks its retriever.
:func:`transition` takes the passages and gives the next state, the observation, the reward and
the facts. Nothing changes before the last part, so a retriever that fails leaves no trace, and
neither does a grader that asks a model in vain. Nothing else does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge

from calibadv_env import rewards
from calibadv_env.common.checks import NOT_NEGATIVE, Checked
from calibadv_env.data.base import QATask
from calibadv_env.graders.base import Episode, Grader, grade
from calibadv_env.graders.naming import find_grader, load_grader
from calibadv_env.info import THINK_OPEN, PassageText, ResetInfo, StepInfo, StopReason
from calibadv_env.protocol import passages as printed
from calibadv_env.protocol import prompts
from calibadv_env.protocol.actions import (
    Action,
    Answer,
    Malformed,
    Search,
    is_turn_well_formed,
    parse_action,
)
from calibadv_env.protocol.answers import (
    AnswerScores,
    SearchableAnswers,
    contains_answer,
    grade_answer,
    searchable_answers,
)
from calibadv_env.protocol.normalizing import Normalizer
from calibadv_env.protocol.page_actions import PageAction
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.protocol.words import highest_similarity, split_words
from calibadv_env.rewards import CoverEm

InvalidAction = Literal["end", "continue"]
"""Effect of a malformed action on the episode."""

AnyAction = Action | PageAction
"""An action of an environment of passages, or of one of pages."""

NoHits = Literal["none", "first"]
"""Passages of a search that finds too little: none, or the first of the corpus (version 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeConfig(Checked):
    """The rules of an episode.

    Attributes:
        max_turns: Turns in which a search is carried out; one last turn for the answer follows.
        top_k: Passages a search, at least 1.
        reward: What an answer earns: a metric, a grader by name, import path or weighted sum, or a
            callable; see :mod:`calibadv_env.graders.naming`.
        format_gate: Whether an ill-formed response earns nothing.
        invalid_action: Whether a malformed action ends the episode, or only uses up its turn.
        prompt: A name in ``prompts.PROMPTS`` or a template that holds ``{question}``.
        prepend_think: Whether observations end with the opening think tag that the policy then
            does not write.
        max_observation_chars: Most characters of passages in an observation, None for all.
        no_hits: What a search gives that finds fewer passages than are wanted: nothing more, and
            a sentence where it finds none; or the first other passages of the corpus.
        cover_em: What the reward of that name pays: whole words in an answer of bounded length,
            or an accepted answer anywhere in its letters.
        normalizer: Normal form in which answers are graded and looked for in passages.
    """

    max_turns: Annotated[int, Ge(1)] = 4
    top_k: Annotated[int, Ge(1)] = 3
    reward: str | Grader = "f1"
    format_gate: bool = True
    invalid_action: InvalidAction = "end"
    prompt: str = "search_r1"
    prepend_think: bool = False
    max_observation_chars: Annotated[int, NOT_NEGATIVE] | None = None
    no_hits: NoHits = "none"
    cover_em: CoverEm = "words"
    normalizer: Normalizer = "auto"

    def __post_init__(self) -> None:
        """Checks every field, and that the prompt leaves the thought to the policy."""
        Checked.__post_init__(self)
        if self.prepend_think and prompts.grammar_of(self.prompt) == "markers":
            raise ValueError(
                "prepend_think must be False with a prompt that teaches markers, got True: such a "
                "prompt opens the one thought of an episode itself"
            )
        prompts.resolve_prompt(self.prompt)
        load_grader(self.reward)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """A task, with what the steps of an episode look up in it worked out once.

    Attributes:
        id: Id of the task.
        index: Its position in the split.
        num_tasks: Size of the split.
        split: Name of the split.
        question: The bare question.
        golden_answers: Accepted answers.
        hops: Number of reasoning steps, 0 if unknown.
        searchable_answers: The accepted answers as ``contains_answer`` takes them.
        hops_of: For each gold passage the hops whose fact it states.
        num_gold_hops: Number of hops that name gold passages.
        gold_queries: For each hop the wordings of a query that finds its evidence.
        gold_entities: Names that a correct chain of reasoning comes past.
        gold_texts: Texts of the gold evidence, for the reward "step_search".
        cluster: Name of what questions hang together by.
        answer_kind: Kind of the answer, for the reward "typed"; "" where the dataset does not say.
    """

    id: str
    index: int
    num_tasks: int
    split: str
    question: str
    golden_answers: tuple[str, ...]
    hops: int
    searchable_answers: SearchableAnswers
    hops_of: Mapping[str, tuple[int, ...]]
    num_gold_hops: int
    gold_queries: tuple[tuple[str, ...], ...] = ()
    gold_entities: tuple[str, ...] = ()
    gold_texts: tuple[str, ...] = ()
    cluster: str = ""
    answer_kind: str = ""

    @classmethod
    def of(
        cls,
        task: QATask,
        *,
        index: int,
        num_tasks: int,
        split: str = "",
        gold_queries: tuple[tuple[str, ...], ...] = (),
        gold_entities: tuple[str, ...] = (),
        gold_texts: tuple[str, ...] = (),
        cluster: str = "",
        normalizer: Normalizer = "auto",
    ) -> TaskFacts:
        """Works the facts out; what takes more than the task to know is given."""
        hops_of: dict[str, tuple[int, ...]] = {}
        for hop, passage_ids in enumerate(task.gold_passages):
            for passage_id in passage_ids:
                hops_of[passage_id] = (*hops_of.get(passage_id, ()), hop)
        return cls(
            id=task.id,
            index=index,
            num_tasks=num_tasks,
            split=split,
            question=task.question,
            golden_answers=tuple(task.golden_answers),
            hops=task.hops,
            searchable_answers=searchable_answers(task.golden_answers, normalizer),
            hops_of=hops_of,
            num_gold_hops=sum(bool(passage_ids) for passage_ids in task.gold_passages),
            gold_queries=gold_queries,
            gold_entities=gold_entities,
            gold_texts=gold_texts,
            cluster=cluster,
            answer_kind=str(task.metadata.get("answer_kind", "")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTask(TaskFacts):
    """A task that is asked at some point of a training: for retrievers with a curriculum.

    Attributes:
        training_progress: How much of the training is over, 0 to 1.
    """

    training_progress: float

    @classmethod
    def at(cls, facts: TaskFacts, progress: float) -> TrainingTask:
        """A task at a point of the training."""
        same = {each.name: getattr(facts, each.name) for each in fields(facts)}
        return cls(**same, training_progress=progress)


@dataclass(frozen=True, slots=True)
class EpisodeState:
    """Everything that the future of an episode depends on.

    Attributes:
        task: What is asked.
        turn: Actions taken so far.
        num_searches: Searches carried out so far.
        thinks: Words of the thought of each action so far.
        seen: Ids of the passages retrieved so far.
        found: Ids of the gold passages among them.
        shown: Those passages as id, title and text, in order, for graders; empty without one.
        is_format_valid: Whether every action so far was well-formed.
        stop_reason: Why the episode ended, None while it runs.
    """

    task: TaskFacts
    turn: int = 0
    num_searches: int = 0
    thinks: tuple[tuple[str, ...], ...] = ()
    seen: frozenset[str] = frozenset()
    found: frozenset[str] = frozenset()
    is_format_valid: bool = True
    shown: tuple[tuple[str, str, str], ...] = ()
    stop_reason: StopReason | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """An action that has been read but not yet carried out.

    Attributes:
        text: The whole turn, with a think tag that was given to the policy put back.
        action: What it means.
        query: The query to carry out; None if no search is due.
        is_well_formed: Whether the turn has the right format.
    """

    text: str
    action: AnyAction
    query: str | None
    is_well_formed: bool


@dataclass(frozen=True, slots=True)
class Transition:
    """Outcome of one step.

    Attributes:
        state: The state after it.
        observation: New text for the policy.
        reward: 0 until the episode ends.
        terminated: Whether the task came to its end.
        truncated: Whether the turns ran out; never together with ``terminated``.
        info: Facts about the step.
    """

    state: EpisodeState
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: StepInfo


def begin(config: EpisodeConfig, task: TaskFacts) -> tuple[EpisodeState, str, ResetInfo]:
    """Starts an episode: its state, the first observation and what ``reset`` reports."""
    template = prompts.resolve_prompt(config.prompt)
    observation = prompts.instruct(template, task.question)
    info = ResetInfo(
        task_id=task.id,
        task_index=task.index,
        num_tasks=task.num_tasks,
        split=task.split,
        question=task.question,
        golden_answers=task.golden_answers,
        max_turns=config.max_turns,
        has_gold=task.num_gold_hops > 0,
        hops=task.hops,
        gold_queries=task.gold_queries,
        gold_entities=task.gold_entities,
        cluster=task.cluster,
        normalizer=config.normalizer,
    )
    return EpisodeState(task), open_think(config, observation), info


def plan(config: EpisodeConfig, state: EpisodeState, text: str) -> Move:
    """Reads an action. A search in the last turn, which is for the answer, is not carried out."""
    whole = THINK_OPEN + text if config.prepend_think else text
    grammar = prompts.grammar_of(config.prompt)
    action = parse_action(whole, grammar)
    query = action.query if isinstance(action, Search) else None
    is_well_formed = is_turn_well_formed(whole, action.kind, grammar)
    return Move(whole, action, query if state.turn < config.max_turns else None, is_well_formed)


def transition(
    config: EpisodeConfig, state: EpisodeState, move: Move, passages: Sequence[ScoredPassage]
) -> Transition:
    """Carries a move out.

    Args:
        config: The rules.
        state: A state of a running episode.
        move: What :func:`plan` made of the action.
        passages: What the retriever gave for ``move.query``; empty if that is None.

    Returns:
        The next state, the observation and the facts. The arguments are left as they were.
    """
    stop_reason = stop_reason_of(config, state, move.action)
    after, facts = advance(config, state, move, passages, stop_reason)
    if config.reward == "step_search":
        bodies = [text for _, text in facts["passages"]]
        facts["gold_similarity"] = rewards.gold_similarity(bodies, state.task.gold_texts)
    reward = 0.0
    if stop_reason is not None:
        reward = settle(config, after, move.action, facts, has_asked=after.num_searches > 0)
    observation = _observe(config, move, passages, stop_reason)
    return transition_of(after, observation, reward, facts)


def transition_of(
    after: EpisodeState, observation: str, reward: float, facts: StepInfo
) -> Transition:
    """Puts the outcome of a step together."""
    return Transition(
        state=after,
        observation=observation,
        reward=reward,
        terminated=after.stop_reason is not None and after.stop_reason != "no_answer",
        truncated=after.stop_reason == "no_answer",
        info=facts,
    )


def settle(
    config: EpisodeConfig,
    after: EpisodeState,
    action: AnyAction,
    facts: StepInfo,
    *,
    has_asked: bool,
) -> float:
    """Grades an episode at its end.

    Args:
        config: The rules.
        after: Its last state.
        action: Its last action.
        facts: The facts of the last step; those of the end are added.
        has_asked: Whether the corpus was asked for anything, without which no format is right.

    Returns:
        The reward.
    """
    answer = action.answer if isinstance(action, Answer) else None
    scores = grade_answer(answer, after.task.golden_answers, config.normalizer)
    is_valid = after.is_format_valid and has_asked and answer is not None
    facts["em"], facts["f1"], facts["cover_em"] = scores.em, scores.f1, scores.cover_em
    facts["is_format_valid"] = is_valid
    score = _earned(config, after, answer, scores)
    return rewards.gated(score, is_format_valid=is_valid, format_gate=config.format_gate)


def _earned(
    config: EpisodeConfig, after: EpisodeState, answer: str | None, scores: AnswerScores
) -> float:
    """What an answer earns before the format gate."""
    task = after.task
    grader = find_grader(config.reward)
    if grader is None:
        return rewards.answer_reward(
            answer,
            task.golden_answers,
            scores,
            str(config.reward),
            config.cover_em,
            config.normalizer,
        )
    episode = Episode(
        shown=after.shown,
        thoughts=after.thinks,
        num_searches=after.num_searches,
        gold_recall=rewards.gold_recall(after.found, task.hops_of, task.num_gold_hops),
        is_format_valid=after.is_format_valid,
    )
    return grade(grader, task, answer, episode)


def stop_reason_of(
    config: EpisodeConfig, state: EpisodeState, action: AnyAction
) -> StopReason | None:
    """Why the episode ends with this action, None if it goes on."""
    if isinstance(action, Answer):
        return "answered"
    if isinstance(action, Malformed) and config.invalid_action == "end":
        return "malformed"
    return "no_answer" if state.turn >= config.max_turns else None


def _observe(
    config: EpisodeConfig,
    move: Move,
    passages: Sequence[ScoredPassage],
    stop_reason: StopReason | None,
) -> str:
    """The text that follows: passages, the corrective sentence, or nothing."""
    if move.query is not None and prompts.grammar_of(config.prompt) == "markers":
        return printed.marked_documents(passages, config.max_observation_chars)
    if move.query is not None:
        is_said = not passages and config.no_hits == "none"
        block = printed.information_block(
            printed.NO_PASSAGES if is_said else printed.format_passages(passages),
            compact=prompts.is_compact(config.prompt),
            max_chars=None if is_said else config.max_observation_chars,
        )
        return open_think(config, block)
    if stop_reason == "malformed":
        return prompts.invalid_action_text(config.prompt)
    if stop_reason is None:
        return open_think(config, prompts.invalid_action_text(config.prompt))
    return ""


def advance(
    config: EpisodeConfig,
    state: EpisodeState,
    move: Move,
    passages: Sequence[ScoredPassage],
    stop_reason: StopReason | None,
) -> tuple[EpisodeState, StepInfo]:
    """The state after a move, and the facts that hold at every step."""
    task = state.task
    ids = tuple([scored.passage.id for scored in passages])
    texts = tuple([(scored.passage.title, scored.passage.text) for scored in passages])
    gold_new = rewards.new_gold(ids, task.hops_of, state.found)
    words = split_words(move.action.think)
    after = EpisodeState(
        task,
        state.turn + 1,
        state.num_searches + (move.query is not None),
        (*state.thinks, words),
        state.seen.union(ids),
        state.found.union(gold_new) if gold_new else state.found,
        state.is_format_valid and move.is_well_formed,
        shown_so_far(config, state, ids, texts),
        stop_reason,
    )
    scores = tuple([float(scored.score) for scored in passages])
    facts = facts_of(state, after, move, Shown(ids, texts, scores))
    facts["gold_new"] = gold_new
    return after, facts


class Shown(NamedTuple):
    """What a turn showed.

    Attributes:
        ids: Ids of the passages, in order.
        texts: Their titles and texts.
        scores: Their scores.
    """

    ids: tuple[str, ...]
    texts: tuple[PassageText, ...]
    scores: tuple[float, ...]


def facts_of(state: EpisodeState, after: EpisodeState, move: Move, shown: Shown) -> StepInfo:
    """The facts that hold at every step; which gold is new is left to the caller."""
    task, action = state.task, move.action
    distinct = set(shown.ids)
    num_seen = len(distinct & state.seen)
    return {
        "task_id": task.id,
        "task_index": task.index,
        "turn": after.turn,
        "num_searches": after.num_searches,
        "action": action.kind,
        "think": action.think,
        "query": action.query if isinstance(action, Search) else None,
        "answer": action.answer if isinstance(action, Answer) else None,
        "passage_ids": shown.ids,
        "passages": shown.texts,
        "passage_scores": shown.scores,
        "gold_new": (),
        "gold_recall": rewards.gold_recall(after.found, task.hops_of, task.num_gold_hops),
        "answer_in_passages": contains_answer(shown.texts, task.searchable_answers),
        "num_passages_new": len(distinct) - num_seen,
        "num_passages_seen": num_seen,
        "think_similarity": highest_similarity(after.thinks[-1], state.thinks),
        "stop_reason": after.stop_reason,
    }


def open_think(config: EpisodeConfig, text: str) -> str:
    """Ends a text that the policy continues."""
    return text + THINK_OPEN if config.prepend_think else text


def shown_so_far(
    config: EpisodeConfig,
    state: EpisodeState,
    ids: Sequence[str],
    texts: Sequence[PassageText],
) -> tuple[tuple[str, str, str], ...]:
    """The passages shown so far, each once; none where no grader reads them."""
    if not ids or find_grader(config.reward) is None:
        return state.shown
    new = {
        each: (each, *text) for each, text in zip(ids, texts, strict=True) if each not in state.seen
    }
    return (*state.shown, *new.values())
