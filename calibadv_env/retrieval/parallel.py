"""Splits a batch of queries over processes, for retrievers that keep one core busy."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from calibadv_env.common.checks import require_positive
from calibadv_env.errors import RetrieverError
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import Retriever, retriever_identity
from calibadv_env.retrieval.filled import with_fillers

_LEAST_PER_PROCESS: Final = 4
_LEAST_OWN: Final = 0.25
_MOST_OWN: Final = 2.0
_STEP: Final = 1.1
_MAIN: Final = f"import sys; from {__name__} import help_out; help_out(sys.stdin, sys.stdout)"


class ParallelRetriever:
    """Searches each part of a batch in a process of its own, the first part in this one.

    The answers are those of the retriever. A few queries are searched here alone. A helper that
    dies is started again, and what it was asked is searched here, so nothing is lost. Helpers end
    with this process, however it ends. Threads may share it; one search runs at a time.

    This process may have other work, such as a server's. Its part begins as large as the others and
    grows or shrinks from batch to batch, until it is done when they are.

    It pickles with its retriever. The helpers start with the first batch that is large enough.

    Args:
        retriever: Answers; must pickle, as indexes on disk do, by their paths.
        num_processes: How many processes share a batch, this one included.

    Raises:
        ValueError: if ``num_processes`` is below 1.
    """

    def __init__(self, retriever: Retriever, num_processes: int) -> None:
        require_positive(num_processes=num_processes)
        self.retriever = retriever
        self.num_processes = num_processes
        corpus = getattr(retriever, "corpus", None)
        if corpus is not None:
            self.corpus = corpus
        self._own = 1.0
        self._helpers: list[_Helper] = []
        self._lock = threading.Lock()

    def identity(self) -> dict[str, Any]:
        """That of the retriever: how many processes there are changes no answer."""
        return retriever_identity(self.retriever)

    def with_fillers(self) -> ParallelRetriever:
        """This retriever as environments of version 0 know it."""
        return ParallelRetriever(with_fillers(self.retriever), self.num_processes)

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        Raises:
            RetrieverError: if the retriever fails, here or in a helper.
        """
        num_parts = min(self.num_processes, len(queries) // _LEAST_PER_PROCESS)
        if num_parts < 2 or isinstance(queries, str):
            return self.retriever.search(queries, top_k)
        with self._lock:
            parts = self._split(queries, num_parts)
            helpers = self._started(len(parts) - 1)
            asked = zip(helpers, parts[1:], strict=True)
            is_asked = [helper.ask((list(part), top_k)) for helper, part in asked]
            started = time.perf_counter()
            try:
                answers = [self.retriever.search(parts[0], top_k)]
            finally:
                # Also after an error: an answer left in a pipe would be taken for the next one.
                searched = time.perf_counter()
                replies = [
                    helper.reply() if is_sent else None
                    for helper, is_sent in zip(helpers, is_asked, strict=True)
                ]
                self._balance(searched - started, time.perf_counter() - searched)
        for part, reply in zip(parts[1:], replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            answers.append(self.retriever.search(part, top_k) if reply is None else reply)
        return [row for answer in answers for row in answer]

    def close(self) -> None:
        """Ends the helpers; a later search starts new ones."""
        with self._lock:
            while self._helpers:
                self._helpers.pop().close()

    def _split(self, queries: Sequence[str], num_parts: int) -> list[Sequence[str]]:
        """The part of this process, and as large a part for each helper as for the others."""
        least = _LEAST_PER_PROCESS
        most_own = len(queries) - least * (num_parts - 1)
        own = max(1, min(round(len(queries) / num_parts * self._own), most_own))
        edges = np.linspace(own, len(queries), num_parts).round().astype(int).tolist()
        return [queries[:own], *(queries[i:j] for i, j in itertools.pairwise(edges))]

    def _balance(self, own_s: float, wait_s: float) -> None:
        """Has this process take more next time if it waited for the others, else less."""
        factor = _STEP if wait_s > 0.1 * own_s else 1 / _STEP
        self._own = min(max(self._own * factor, _LEAST_OWN), _MOST_OWN)

    def _started(self, count: int) -> list[_Helper]:
        for place, helper in enumerate(self._helpers):
            if not helper.is_alive:
                helper.close()
                self._helpers[place] = _Helper(self.retriever)
        while len(self._helpers) < count:
            self._helpers.append(_Helper(self.retriever))
        return self._helpers[:count]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without the helpers."""
        return ParallelRetriever, (self.retriever, self.num_processes)


class _Helper:
    """Another process that holds the retriever."""

    def __init__(self, retriever: Retriever) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.is_alive = True
        self.ask((sys.path, pickle.dumps(retriever)))

    def ask(self, message: Any) -> bool:
        """Sends something; false if nobody is there to read it."""
        try:
            pickle.dump(message, self._process.stdin)  # type: ignore[arg-type]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            self.is_alive = False
        return self.is_alive

    def reply(self) -> list[list[ScoredPassage]] | Exception | None:
        """The passages, or what the retriever raised; None if the process died."""
        try:
            found: list[list[ScoredPassage]] | Exception
            found = pickle.load(self._process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, pickle.UnpicklingError):
            self.is_alive = False
            return None
        return found

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self._process.kill()
        self._process.wait()


def help_out(asked: Any, answers: Any) -> None:
    """Main function of a helper: answers until there is nobody who asks.

    Args:
        asked: Where the paths of modules, the retriever and then the requests come from.
        answers: Where the answers go.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = asked.buffer, answers.buffer
    with contextlib.suppress(EOFError, OSError):
        paths, packed = pickle.load(asked)
        sys.path[:] = paths
        retriever = pickle.loads(packed)
        while True:
            queries, top_k = pickle.load(asked)
            answer: Any
            try:
                answer = retriever.search(queries, top_k)
            except Exception as error:  # noqa: BLE001
                answer = RetrieverError(f"{type(error).__name__}: {error}")
            pickle.dump(answer, answers)
            answers.flush()
