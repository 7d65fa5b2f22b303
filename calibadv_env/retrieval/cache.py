"""Answers on disk: a run that was recorded can be repeated bit for bit without its retriever.

The file is one SQLite database. What a search found is committed before it is given out, so a
process that is killed loses nothing that was used, and several processes may share a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, get_args

from calibadv_env.errors import CalibadvEnvError, DataError, RetrieverError
from calibadv_env.protocol.passages import Passage, ScoredPassage
from calibadv_env.retrieval.base import (
    AskedTask,
    Retriever,
    check_search,
    has_identity,
    retriever_identity,
    search_with_tasks,
)
from calibadv_env.retrieval.filled import with_fillers

CacheMode = Literal["record", "replay", "record_or_replay"]

_FORMAT: Final = 1
_BUSY_S: Final = 60.0
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS source (id INTEGER PRIMARY KEY, identity TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS passage (id INTEGER PRIMARY KEY, sha256 BLOB UNIQUE NOT NULL,
  content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answer (source INTEGER NOT NULL, top_k INTEGER NOT NULL,
  key BLOB NOT NULL, hits TEXT NOT NULL, PRIMARY KEY (source, top_k, key)) WITHOUT ROWID;
"""

Hits = list[ScoredPassage]


class CachedRetriever:
    """Keeps what another retriever finds, by corpus, settings, number of passages and query.

    ================ =======================================================================
    mode             a search
    ================ =======================================================================
    record           always asks; an answer that differs from one recorded earlier is an
                     error, because such a run could not be repeated
    record_or_replay asks for what was not recorded yet
    replay           never asks; a query that was not recorded is an error
    ================ =======================================================================

    What is given out is what the file holds, in every mode and in every run.

    A retriever whose answers depend on more than the query has a method ``cache_key(query, task)``
    that says on what; the simulated one does.

    It pickles by path, mode and inner retriever. Threads may share it, and so may processes.

    Args:
        inner: Answers what is not there, and has a method ``identity()``; may be None to replay.
        path: The file. It is made if it is not there, but not to replay.
        mode: See the table.

    Raises:
        ValueError: if the mode is unknown, or needs a retriever and there is none; or if the
            retriever has no identity.
        DataError: if the file is missing in mode replay, or is no such file.
    """

    def __init__(
        self,
        inner: Retriever | None,
        path: str | Path,
        mode: CacheMode = "record_or_replay",
    ) -> None:
        if mode not in get_args(CacheMode):
            allowed = ", ".join(get_args(CacheMode))
            raise ValueError(f"mode must be one of {allowed}, got {mode!r}")
        if inner is None and mode != "replay":
            raise ValueError(f"inner must be a retriever in mode {mode!r}, got None")
        if inner is not None and not isinstance(inner, Retriever):
            raise ValueError(f"inner must have a method search, got {type(inner).__name__}")
        if inner is not None and not has_identity(inner):
            retriever_identity(inner)  # raises and says what to define
        self.inner = inner
        self.path = Path(path).absolute()
        self.mode = mode
        self._connections: dict[tuple[int, int], sqlite3.Connection] = {}
        self._sources: dict[int, int] = {}
        if mode == "replay" and not self.path.is_file():
            raise DataError(f"{self.path}: there is no recording here")
        with self._opened() as database:
            self._check(database)

    def search(self, queries: Sequence[str], top_k: int) -> list[Hits]:
        """Ranks passages for each query; see :class:`calibadv_env.retrieval.base.Retriever`.

        Raises:
            ValueError: if ``queries`` is a bare string or ``top_k`` is below 1.
            RetrieverError: if a query was not recorded in mode replay, if the answer changed in
                mode record, or if the inner retriever failed.
        """
        return self._search(queries, top_k, None)

    def search_for(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask]
    ) -> list[Hits]:
        """Like :meth:`search`, and tells the tasks to a retriever that takes them.

        Raises:
            ValueError: as for :meth:`search`, or if there is not one task a query.
            RetrieverError: as for :meth:`search`.
        """
        if len(tasks) != len(queries):
            raise ValueError(f"tasks must be one a query, got {len(tasks)} for {len(queries)}")
        return self._search(queries, top_k, tasks)

    def identity(self) -> dict[str, Any]:
        """That of the inner retriever; without one, the one in the file."""
        if self.inner is not None:
            return retriever_identity(self.inner)
        with self._opened() as database:
            source = self._source(database)
            row = database.execute("SELECT identity FROM source WHERE id = ?", (source,)).fetchone()
        record: dict[str, Any] = json.loads(row[0])
        return record

    def with_fillers(self) -> CachedRetriever:
        """This retriever as environments of version 0 know it.

        Without an inner retriever it is this one: it replays whatever was recorded.
        """
        if self.inner is None:
            return self
        return CachedRetriever(with_fillers(self.inner), self.path, self.mode)

    def __len__(self) -> int:
        """Number of answers in the file."""
        with self._opened() as database:
            return int(database.execute("SELECT count(*) FROM answer").fetchone()[0])

    def close(self) -> None:
        """Closes the connection of this thread. A later search opens another."""
        connection = self._connections.pop((os.getpid(), threading.get_ident()), None)
        if connection is not None:
            connection.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leaves connections out."""
        return {"inner": self.inner, "path": self.path, "mode": self.mode}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _search(
        self, queries: Sequence[str], top_k: int, tasks: Sequence[AskedTask] | None
    ) -> list[Hits]:
        check_search(queries, top_k)
        keys = [self._key(query, tasks[i] if tasks else None) for i, query in enumerate(queries)]
        with self._opened(RetrieverError) as database:
            source = self._source(database)
            known = _read(database, source, top_k, keys)
            wanted: dict[bytes, int] = {}
            for i, key in enumerate(keys):
                if self.mode == "record" or key not in known:
                    wanted.setdefault(key, i)
            if wanted and self.mode == "replay":
                query = queries[min(wanted.values())]
                raise RetrieverError(
                    f"{self.path}: {len(wanted)} of {len(queries)} queries were not recorded with "
                    f"top_k {top_k}, the first is {query!r:.200}"
                )
            if wanted:
                places = sorted(wanted.values())
                chosen = tasks and [tasks[i] for i in places]
                fresh = self._ask([queries[i] for i in places], top_k, chosen)
                answers = {keys[i]: hits for i, hits in zip(places, fresh, strict=True)}
                _write(database, source, top_k, answers)
                # Read back: another process may have written first, and its answer stands.
                known = _read(database, source, top_k, keys)
                if self.mode == "record":
                    self._compare(answers, known, {keys[i]: queries[i] for i in places})
        return [list(known[key]) for key in keys]

    def _ask(self, queries: list[str], top_k: int, tasks: Sequence[AskedTask] | None) -> list[Hits]:
        if self.inner is None:
            raise AssertionError("unreachable: only replay has no inner retriever")
        if tasks is None:
            found = self.inner.search(queries, top_k)
        else:
            found = search_with_tasks(self.inner, queries, top_k, tasks)
        if len(found) != len(queries):
            raise RetrieverError(
                f"retriever must answer all {len(queries)} queries, got {len(found)} answers"
            )
        return found

    def _key(self, query: str, task: AskedTask | None) -> bytes:
        own = getattr(self.inner, "cache_key", None)
        key = own(query, task) if callable(own) else query
        return str(key).encode("utf-8", "surrogatepass")

    def _compare(
        self, fresh: Mapping[bytes, Hits], known: Mapping[bytes, Hits], texts: Mapping[bytes, str]
    ) -> None:
        """Scores may differ in rounding; passages and their order may not."""
        for key, hits in fresh.items():
            if [hit.passage for hit in hits] != [hit.passage for hit in known[key]]:
                raise RetrieverError(
                    f"{self.path}: the retriever now gives other passages than were recorded, for "
                    f"the query {texts[key]!r:.200}; use another file, or mode record_or_replay"
                )

    def _source(self, database: sqlite3.Connection) -> int:
        """The number of the retriever's identity in the file."""
        pid = os.getpid()
        if pid in self._sources:
            return self._sources[pid]
        if self.inner is None:
            rows = database.execute("SELECT id, identity FROM source").fetchall()
            if len(rows) != 1:
                raise DataError(
                    f"{self.path}: must hold the answers of one retriever to be replayed without "
                    f"it, got {len(rows)}; pass the retriever as inner"
                )
            return self._sources.setdefault(pid, int(rows[0][0]))
        identity = json.dumps(retriever_identity(self.inner), sort_keys=True)
        if self.mode != "replay":
            with database:
                database.execute("INSERT OR IGNORE INTO source (identity) VALUES (?)", (identity,))
        row = database.execute("SELECT id FROM source WHERE identity = ?", (identity,)).fetchone()
        if row is None:
            raise DataError(f"{self.path}: nothing was recorded from a retriever like {identity}")
        return self._sources.setdefault(pid, int(row[0]))

    def _check(self, database: sqlite3.Connection) -> None:
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        has_tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0
        if not has_tables and self.mode != "replay":
            with database:
                database.execute("BEGIN IMMEDIATE")
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_FORMAT}")
        elif version != _FORMAT:
            raise DataError(f"{self.path}: must be a recording of format {_FORMAT}, got {version}")

    @contextmanager
    def _opened(self, failure: type[CalibadvEnvError] = DataError) -> Iterator[sqlite3.Connection]:
        """The connection of this thread, never one from before a fork."""
        # SQLite connections must not cross a fork, so the process is part of the key.
        place = (os.getpid(), threading.get_ident())
        try:
            if place not in self._connections:
                self._connections[place] = self._connect()
            yield self._connections[place]
        except sqlite3.Error as error:
            raise failure(f"{self.path}: the recording cannot be used: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        if self.mode == "replay":
            uri = f"{self.path.as_uri()}?mode=ro"
            return sqlite3.connect(uri, uri=True, timeout=_BUSY_S, check_same_thread=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(
            self.path, timeout=_BUSY_S, check_same_thread=False, isolation_level="IMMEDIATE"
        )


def _read(
    database: sqlite3.Connection, source: int, top_k: int, keys: Sequence[bytes]
) -> dict[bytes, Hits]:
    """The answers to those keys that the file knows."""
    known: dict[bytes, Hits] = {}
    for key in dict.fromkeys(keys):
        row = database.execute(
            "SELECT hits FROM answer WHERE source = ? AND top_k = ? AND key = ?",
            (source, top_k, key),
        ).fetchone()
        if row is not None:
            known[key] = [
                ScoredPassage(_passage(database, number), score)
                for number, score in json.loads(row[0])
            ]
    return known


def _passage(database: sqlite3.Connection, number: int) -> Passage:
    row = database.execute("SELECT content FROM passage WHERE id = ?", (number,)).fetchone()
    return Passage(*json.loads(row[0]))


def _write(
    database: sqlite3.Connection, source: int, top_k: int, answers: Mapping[bytes, Hits]
) -> None:
    """Adds answers in one transaction. One that is there already stays as it is."""
    with database:
        for key, hits in answers.items():
            numbers = [(_number(database, hit.passage), float(hit.score)) for hit in hits]
            database.execute(
                "INSERT OR IGNORE INTO answer (source, top_k, key, hits) VALUES (?, ?, ?, ?)",
                (source, top_k, key, json.dumps(numbers)),
            )


def _number(database: sqlite3.Connection, passage: Passage) -> int:
    """The number of a passage in the file; equal passages are stored once."""
    content = json.dumps([passage.id, passage.title, passage.text])
    digest = hashlib.sha256(content.encode("ascii")).digest()
    database.execute(
        "INSERT OR IGNORE INTO passage (sha256, content) VALUES (?, ?)", (digest, content)
    )
    row = database.execute("SELECT id FROM passage WHERE sha256 = ?", (digest,)).fetchone()
    return int(row[0])
