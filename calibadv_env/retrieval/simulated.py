"""Simulated search: a language model writes the passages, useful ones or noisy ones.

The curriculum makes searching harder as training goes on: the share of noisy answers grows with
:attr:`SimulatedRetriever.step`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Protocol

from calibadv_env.errors import RetrieverError
from calibadv_env.retrieval.asking import AskedTask
from calibadv_env.retrieval.base import Passage, ScoredPassage
from calibadv_env.retrieval.http_session import HttpSession, HttpSettings, UnusableReplyError
from calibadv_env.retrieval.wire import content_id

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

    Returns:
        A probability between ``start`` and ``end``.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    for name, value in (("start", start), ("end", end)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {value}")
    if not base > 0:
        raise ValueError(f"base must be above 0, got {base}")
    done = min(step / num_steps, 1.0)
    share = done if base == 1 else (base**done - 1) / (base - 1)
    return start + share * (end - start)


class TextWriter(Protocol):
    """A language model, text in and text out."""

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt.

        Raises:
            RetrieverError: if it could not.
        """
        ...


class ScriptedWriter:
    """Writes with a function, for tests and as the adapter for a model in this process.

    Args:
        function: Gives the text for one prompt.
    """

    def __init__(self, function: Callable[[str], str]) -> None:
        self._function = function

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt."""
        return [self._function(prompt) for prompt in prompts]


class ChatWriter:
    """Writes with any server that has OpenAI's route ``/chat/completions``.

    Args:
        base_url: Such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model there.
        temperature: Sampling temperature.
        max_tokens: Most tokens of an answer.
        api_key_variable: Name of the environment variable that holds the key. It is read at each
            call and never stored; without the variable none is sent.
        seed: Sent along, for servers that sample by it.
        settings: Timeouts, retries, concurrency.

    Raises:
        ValueError: if an argument is out of its range.
        MissingDependencyError: if httpx is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        temperature: float = 0.8,
        max_tokens: int = 600,
        api_key_variable: str = "OPENAI_API_KEY",
        seed: int = 0,
        settings: HttpSettings | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url must begin with http:// or https://, got {base_url!r}")
        if temperature < 0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._fixed = {
            "model": model,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        self._api_key_variable = api_key_variable
        self._session = HttpSession(settings or HttpSettings(timeout_s=120.0))

    def write(self, prompts: Sequence[str]) -> list[str]:
        """Completes each prompt, several at a time.

        Args:
            prompts: Each is sent as one user message.

        Returns:
            The answers, in order.

        Raises:
            RetrieverError: if the server could not be reached or its reply has no text.
        """
        return self._session.map(self._write_one, prompts) if prompts else []

    def _write_one(self, prompt: str) -> str:
        body = {**self._fixed, "messages": [{"role": "user", "content": prompt}]}
        headers = {"content-type": "application/json"}
        key = os.environ.get(self._api_key_variable)
        if key:
            headers["authorization"] = f"Bearer {key}"
        raw = json.dumps(body).encode("ascii")
        return self._session.post(self._url, raw, headers, partial(_read_completion, self._url))


@dataclass(kw_only=True)
class SimulatedRetriever:
    """Answers queries with passages that a language model writes.

    Whether a search is answered usefully or with noise is drawn from ``seed``, ``step``, the
    query and its task alone, so it depends neither on the order of the searches nor on what
    shares the batch, and the same run draws the same.

    **Source:** ZeroSearch (Sun et al. 2025).

    **Differs** from its released code: a query is paired with the task of its own episode, where
    the code counts the queries of the running episodes through the tasks of the whole batch and
    so, once an episode has ended, tells the model another question; all accepted answers are told
    instead of the first; a model that fails is an exception instead of the passage "No
    information available"; equal queries to equal tasks in one step share their draw.

    Attributes:
        writer: The language model.
        num_steps: Updates in the whole training.
        start: Share of noisy answers at the start.
        end: Share at the end.
        base: How late the change comes; see :func:`noise_probability`.
        seed: Seed of the draws.
        name: Names the model in :meth:`identity`.
        step: Updates made so far; whoever trains sets it.
    """

    writer: TextWriter
    num_steps: int
    start: float = 0.0
    end: float = 0.5
    base: float = 4.0
    seed: int = 0
    name: str = ""
    step: int = field(default=0)

    def __post_init__(self) -> None:
        """Checks the curriculum."""
        self.noise_probability()

    def noise_probability(self) -> float:
        """The share of noisy answers at the present step."""
        return noise_probability(
            self.step, self.num_steps, start=self.start, end=self.end, base=self.base
        )

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Answers queries whose tasks are not known: the model then sees the query alone.

        Args:
            queries: Any text.
            top_k: Number of passages wanted, at least 1.

        Returns:
            One list a query. It is shorter than ``top_k`` if the model wrote fewer.

        Raises:
            ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
            RetrieverError: if the model failed or wrote nothing.
        """
        return self._search(queries, top_k, [None] * len(queries))

    def search_for(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
    ) -> list[list[ScoredPassage]]:
        """Answers queries, each for its own task.

        Args:
            queries: Any text.
            top_k: Number of passages wanted, at least 1.
            tasks: The task of each query.

        Returns:
            One list a query. It is shorter than ``top_k`` if the model wrote fewer.

        Raises:
            ValueError: if ``queries`` is a bare string, has another length than ``tasks``, or
                ``top_k`` is below 1.
            RetrieverError: if the model failed or wrote nothing.
        """
        if len(tasks) != len(queries):
            raise ValueError(f"tasks must be one a query, got {len(tasks)} for {len(queries)}")
        return self._search(queries, top_k, list(tasks))

    def quality(self, query: str, task: AskedTask | None) -> Quality:
        """Draws whether a search is answered usefully, at the present step."""
        key = [self.seed, self.step, query, task.question if task else None]
        digest = hashlib.sha256(json.dumps(key).encode("ascii")).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2.0**64
        return "noisy" if drawn < self.noise_probability() else "useful"

    def cache_key(self, query: str, task: AskedTask | None) -> str:
        """What the answer depends on besides the settings: for :class:`CachedRetriever`."""
        answers = list(task.golden_answers) if task else None
        question = task.question if task else None
        return json.dumps([query, question, answers, self.quality(query, task)])

    def identity(self) -> dict[str, Any]:
        """What the answers depend on besides query, task and draw."""
        return {"kind": "SimulatedRetriever", "name": self.name}

    def _search(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask | None]
    ) -> list[list[ScoredPassage]]:
        if isinstance(queries, str):
            raise ValueError(f"queries must be a sequence of strings, got {queries[:40]!r}")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        pairs = zip(queries, tasks, strict=True)
        prompts = [
            simulation_prompt(query, task, self.quality(query, task), top_k)
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


def simulation_prompt(query: str, task: AskedTask | None, quality: Quality, count: int) -> str:
    """What the model is told.

    Args:
        query: What was searched for.
        task: The task that the query belongs to, None if it is not known.
        quality: What kind of passages to write.
        count: How many.

    Returns:
        The prompt.
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
    """Takes what a model wrote apart.

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


def _read_completion(url: str, body: bytes) -> str:
    try:
        record = json.loads(body)
    except ValueError as error:
        raise UnusableReplyError(f"the reply must be JSON: {error}; got {body[:80]!r}") from error
    try:
        text = record["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise RetrieverError(f"{url}: the reply has no message: {body[:200]!r}") from error
    if not isinstance(text, str):
        raise RetrieverError(f"{url}: the message must be text, got {type(text).__name__}")
    return text
