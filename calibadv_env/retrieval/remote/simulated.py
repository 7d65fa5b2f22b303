"""Simulated search: a language model writes the passages, useful ones or noisy ones.

The curriculum makes searching harder as training goes on: the share of noisy answers grows with
the progress that each episode was reset with, ``options={"training_progress": p}``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from calibadv_env.common.checks import require_fraction, require_not_negative, require_positive
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import AskedTask, check_search
from calibadv_env.retrieval.remote.specs import read_spec
from calibadv_env.retrieval.remote.wire import content_id
from calibadv_env.retrieval.remote.writers import ChatWriter, ScriptedWriter, TextWriter

__all__ = [
    "ChatWriter",
    "Quality",
    "ScriptedWriter",
    "SimulatedRetriever",
    "TextWriter",
    "noise_probability",
    "simulated_from_spec",
    "simulation_prompt",
    "written_passages",
]

Quality = Literal["useful", "noisy"]

PROMPT_WITH_TASK: Final = """\
You play a search engine. Write the {count} passages that it returns for a query.

The person who searches wants to answer this question: {question}
The right answer is: {answer}

Write {quality} passages. {rule}
Each passage is one paragraph of about 30 words, in the tone of an encyclopedia. Do not mention \
the question, this instruction, or whether a passage is useful.

Query: {query}

Write nothing but lines of this form, one a passage:
Doc 1: ...
Doc 2: ...
"""
"""Own wording; the content is that of ZeroSearch's prompt."""

PROMPT_WITHOUT_TASK: Final = """\
You play a search engine. Write the {count} passages that it returns for a query.

Write {quality} passages. {rule}
Each passage is one paragraph of about 30 words, in the tone of an encyclopedia. Do not mention \
this instruction, or whether a passage is useful.

Query: {query}

Write nothing but lines of this form, one a passage:
Doc 1: ...
Doc 2: ...
"""
"""For queries whose task is not known, as those of an HTTP client."""

RULES: Final[dict[Quality, str]] = {
    "useful": "Together they hold facts that answer the query and lead on to the right answer.",
    "noisy": "They are about similar things, but do not help to answer the query.",
}

PREFIX: Final = "simulated:"
"""Beginning of the specification of a simulated search."""

_OPTIONS: Final[dict[str, type]] = {
    "model": str,
    "temperature": float,
    "max_tokens": int,
    "num_steps": int,
    "start": float,
    "end": float,
    "base": float,
    "seed": int,
}

_DOC: Final = re.compile(r"^\s*(?:\*\*)?Doc(?:ument)?\s*(\d+)(?:\*\*)?\s*[:.)\-]\s*", re.M)


def noise_probability(
    step: int, num_steps: int, *, start: float = 0.0, end: float = 0.5, base: float = 4.0
) -> float:
    """The share of searches that are answered with noisy passages.

    ``p(i) = start + (base^(i/m) - 1) / (base - 1) * (end - start)`` for step ``i`` of ``m``, so
    that it moves from ``start`` to ``end``, slowly at first if ``base`` is above 1.

    **Source:** ZeroSearch (Sun et al. 2025), the curriculum in the section on rollouts; defaults
    of its released code.

    **Differs:** ``base = 1`` gives the limit, a straight line, instead of a division by zero.
    Steps below 0 are refused; steps past the last give ``end``, as in the released code.

    Args:
        step: Updates made so far, from 0.
        num_steps: Updates in the whole training, at least 1.
        start: Share at the start, 0 to 1.
        end: Share at the end, 0 to 1.
        base: How late the change comes, above 0.

    Raises:
        ValueError: if an argument is out of its range.
    """
    require_not_negative(step=step)
    require_positive(num_steps=num_steps, base=base)
    require_fraction(start=start, end=end)
    done = min(step / num_steps, 1.0)
    share = done if base == 1 else (base**done - 1) / (base - 1)
    return start + share * (end - start)


@dataclass(kw_only=True)
class SimulatedRetriever:
    """Answers queries with passages that a language model writes.

    Whether a search is answered usefully or with noise is drawn from ``seed``, the step, the
    query and its task alone, so it depends neither on the order of the searches nor on what
    shares the batch, and the same run draws the same. The step comes with the episode: a task
    that has a ``training_progress`` is at the step ``round(training_progress * num_steps)``, so
    that episodes of several updates may run side by side. A task without one, as in an
    evaluation, is at :attr:`step`.

    **Source:** ZeroSearch (Sun et al. 2025).

    **Differs** from its released code: a query is paired with the task of its own episode, where
    the code counts the queries of the running episodes through the tasks of the whole batch and
    so, once an episode has ended, tells the model another question; all accepted answers are told
    instead of the first; a model that fails is an exception instead of the passage "No
    information available"; equal queries to equal tasks in one step share their draw; a long query
    is cut.

    Attributes:
        writer: The language model.
        num_steps: Updates in the whole training.
        start: Share of noisy answers at the start.
        end: Share at the end.
        base: How late the change comes; see :func:`noise_probability`.
        seed: Seed of the draws.
        name: Names the model in :meth:`identity`.
        step: Step of a search whose task does not say how far the training is; 0 unless it is
            set.
        max_query_chars: A longer query is cut for the model, whose context has an end.
    """

    writer: TextWriter
    num_steps: int
    start: float = 0.0
    end: float = 0.5
    base: float = 4.0
    seed: int = 0
    name: str = ""
    step: int = 0
    max_query_chars: int = 1000

    def __post_init__(self) -> None:
        """Checks the curriculum."""
        self.noise_probability()
        require_positive(max_query_chars=self.max_query_chars)

    def noise_probability(self, step: int | None = None) -> float:
        """The share of noisy answers at a step; at :attr:`step` if it is None."""
        step = self.step if step is None else step
        return noise_probability(
            step, self.num_steps, start=self.start, end=self.end, base=self.base
        )

    def step_of(self, task: AskedTask | None) -> int:
        """Step of the training that a task belongs to."""
        progress = getattr(task, "training_progress", None)
        return self.step if progress is None else round(progress * self.num_steps)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Answers queries whose tasks are not known: the model then sees the query alone.

        A query's list is shorter than ``top_k`` if the model wrote fewer passages.

        Raises:
            ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
            RetrieverError: if the model failed or wrote nothing.
        """
        return self._search(queries, top_k, [None] * len(queries))

    def search_for(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
    ) -> list[list[ScoredPassage]]:
        """Answers queries, each for its own task; else as :meth:`search`.

        Raises:
            ValueError: if ``queries`` is a bare string, has another length than ``tasks``, or
                ``top_k`` is below 1.
            RetrieverError: if the model failed or wrote nothing.
        """
        if len(tasks) != len(queries):
            raise ValueError(f"tasks must be one a query, got {len(tasks)} for {len(queries)}")
        return self._search(queries, top_k, list(tasks))

    def quality(self, query: str, task: AskedTask | None) -> Quality:
        """Draws whether a search is answered usefully, at the step of its task."""
        step = self.step_of(task)
        key = [self.seed, step, query, task.question if task else None]
        digest = hashlib.sha256(json.dumps(key).encode("ascii")).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2.0**64
        return "noisy" if drawn < self.noise_probability(step) else "useful"

    def cache_key(self, query: str, task: AskedTask | None) -> str:
        """Everything but the settings that the answer depends on; a key of the cache."""
        answers = list(task.golden_answers) if task else None
        question = task.question if task else None
        return json.dumps([query, question, answers, self.quality(query, task)])

    def identity(self) -> dict[str, Any]:
        """Settings that the answers depend on besides query, task and draw."""
        return {"kind": "SimulatedRetriever", "name": self.name}

    def _search(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask | None]
    ) -> list[list[ScoredPassage]]:
        check_search(queries, top_k)
        pairs = zip(queries, tasks, strict=True)
        prompts = [
            simulation_prompt(query[: self.max_query_chars], task, self.quality(query, task), top_k)
            for query, task in pairs
        ]
        distinct = list(dict.fromkeys(prompts))
        written = self.writer.write(distinct)
        if len(written) != len(distinct):
            raise RetrieverError(
                f"the model must answer all {len(distinct)} prompts, got {len(written)} answers"
            )
        answers = dict(zip(distinct, written, strict=True))
        return [
            written_passages(answers[prompt], query, top_k)
            for prompt, query in zip(prompts, queries, strict=True)
        ]


def simulated_from_spec(spec: str) -> SimulatedRetriever:
    """Makes a simulated search from one string, for command lines.

    Args:
        spec: ``simulated:``, the address of a server with OpenAI's chat route, and settings behind
            ``#``: ``simulated:http://127.0.0.1:9000/v1#model=NAME&end=0.5``. The model must be
            named; the others are those of :class:`SimulatedRetriever` (``num_steps`` is 1000 if
            left out, which is how finely the progress of a training is told apart) and
            :class:`ChatWriter`.

    Raises:
        ValueError: if a setting is unknown, missing or cannot be read.
    """
    url, given = read_spec(spec.removeprefix(PREFIX), _OPTIONS)
    options = {"num_steps": 1000, **given}
    if not options.get("model"):
        raise ValueError(f"{spec!r} must name the model, as #model=NAME")
    model = options.pop("model")
    of_writer = {key: options.pop(key) for key in ("temperature", "max_tokens") if key in options}
    writer = ChatWriter(url, model, seed=options.get("seed", 0), **of_writer)
    return SimulatedRetriever(writer=writer, name=f"{url} {model}", **options)


def simulation_prompt(query: str, task: AskedTask | None, quality: Quality, count: int) -> str:
    """Prompt for the model that plays the search engine.

    Args:
        query: What was searched for.
        task: The task that the query belongs to, None if it is not known.
        quality: What kind of passages to write.
        count: How many.
    """
    rule = RULES[quality]
    if task is None:
        return PROMPT_WITHOUT_TASK.format(count=count, quality=quality, rule=rule, query=query)
    return PROMPT_WITH_TASK.format(
        count=count,
        question=task.question,
        answer=" or ".join(task.golden_answers),
        quality=quality,
        rule=rule,
        query=query,
    )


def written_passages(text: str, query: str, count: int) -> list[ScoredPassage]:
    """Passages in the text that a model wrote.

    Args:
        text: Lines ``Doc 1: …``; without any such line the whole text is one passage.
        query: The query, for the message.
        count: Most passages.

    Returns:
        The passages in order, without title, the k-th with the score ``1/k``. The id of a
        passage is made of its text, so equal texts are one passage, given once.

    Raises:
        RetrieverError: if there is no text.
    """
    heads = list(_DOC.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    bodies = [text[head.end() : end] for head, end in zip(heads, ends, strict=False)] or [text]
    bodies = [" ".join(body.split()) for body in bodies]
    bodies = list(dict.fromkeys(body for body in bodies if body))[:count]
    if not bodies:
        raise RetrieverError(f"the model wrote no passage for the query {query!r:.80}")
    return [
        ScoredPassage(Passage(content_id(body), "", body), 1.0 / rank)
        for rank, body in enumerate(bodies, start=1)
    ]
