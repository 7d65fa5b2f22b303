"""BM25 by tantivy, for corpora past what a scan of whole posting lists serves well (extra)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.errors import DataError, RetrieverError
from calibadv_env.protocol.passages import ScoredPassage
from calibadv_env.retrieval.base import ONLY_MATCHES, check_search, take, with_ties
from calibadv_env.retrieval.bm25.settings import STOP_WORDS
from calibadv_env.retrieval.bm25.words import (
    WordChoice,
    WordRules,
    manifest_words,
    rules_for,
    rules_of,
    splitter,
)
from calibadv_env.retrieval.corpus import indexed_text
from calibadv_env.retrieval.disk_corpus import FOLDER, CorpusSource, DiskCorpus, write_corpus
from calibadv_env.retrieval.disk_index import DiskIndex, finish_index
from calibadv_env.retrieval.filled import FilledUp
from calibadv_env.retrieval.index_files import (
    Progress,
    building,
    check_settings,
    file_facts,
    no_progress,
)

_POSTINGS: Final = "tantivy"
_TOKENIZER: Final = "whitespace"
_MAX_WORD_BYTES: Final = 60_000
_REPORT_EVERY: Final = 4096
_STOP_WORDS: Final = frozenset(STOP_WORDS)


def build_tantivy_index(
    source: CorpusSource,
    out: str | Path,
    *,
    overwrite: bool = False,
    heap_bytes: int = 128_000_000,
    words: WordChoice = "auto",
    progress: Progress = no_progress,
) -> Path:
    """Builds the index that :class:`TantivyIndex` opens.

    Args:
        source: A corpus or where it is; see :func:`write_corpus`.
        out: The folder to make.
        overwrite: If true, an index in this place gives way.
        heap_bytes: Memory of the writer, at least 15,000,000.
        words: Rules for words; "auto" chooses by the scripts of the corpus.
        progress: Is told how far it is.

    Raises:
        DataError: if the corpus is faulty, the place is taken, or the disk is full; nothing is
            left behind.
        MissingDependencyError: if tantivy is not installed.
    """
    tantivy = _import_tantivy()
    with building(out, overwrite=overwrite) as folder:
        corpus = write_corpus(source, folder / FOLDER, progress)
        rules = rules_for(corpus.passages, words)
        try:
            _write_postings(tantivy, corpus, folder / _POSTINGS, heap_bytes, rules, progress)
        except ValueError as error:
            raise DataError(f"{out}: tantivy could not write the index: {error}") from error
        names = sorted(p.name for p in (folder / _POSTINGS).iterdir() if p.suffix != ".lock")
        files = {f"{_POSTINGS}/{name}": file_facts(folder / _POSTINGS / name) for name in names}
        finish_index(folder, "tantivy", corpus, _settings(rules), files)
    return Path(out)


def _write_postings(
    tantivy: Any,
    corpus: DiskCorpus,
    folder: Path,
    heap_bytes: int,
    rules: WordRules,
    progress: Progress,
) -> None:
    split = splitter(rules)
    folder.mkdir()
    index = tantivy.Index(_schema(tantivy), path=str(folder))
    _register_tokenizer(tantivy, index)
    writer = index.writer(heap_size=heap_bytes, num_threads=1)
    for position, passage in enumerate(corpus):
        body = " ".join(_counted(split(indexed_text(passage))))
        writer.add_document(tantivy.Document(position=position, body=body))
        if position % _REPORT_EVERY == 0:
            progress("index", position, len(corpus))
    writer.commit()
    writer.wait_merging_threads()
    progress("index", len(corpus), len(corpus))


class TantivyIndex(DiskIndex):
    """Searches what :func:`build_tantivy_index` wrote.

    The words are those of :class:`calibadv_env.retrieval.bm25.memory.Bm25Retriever`, k1 and b are
    fixed at 1.2 and 0.75. Ties stand in corpus order.

    **Differs** from the other BM25 in this: tantivy keeps the length of a passage in one byte, so
    lengths above 40 words are rounded, and its scores carry the factor ``k1 + 1``. Orders differ
    where scores are close.

    It pickles by its path. Threads may share it.

    Args:
        folder: The index.
        verify: If true, every file is read and hashed first; else only sizes are compared.

    Raises:
        DataError: if there is no such index, or its files are not the ones that were written.
        MissingDependencyError: if tantivy is not installed.
    """

    kind = "tantivy"

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self._tantivy = _import_tantivy()
        super().__init__(folder, verify=verify)
        folder = self.folder
        rules = rules_of(self.manifest.settings)
        check_settings(folder, self.manifest.settings, _settings(rules))
        self._split = splitter(rules)
        try:
            index = self._tantivy.Index.open(str(folder / _POSTINGS))
            _register_tokenizer(self._tantivy, index)
            self._searcher = index.searcher()
        except (ValueError, OSError) as error:
            raise DataError(f"{folder}: tantivy cannot open the index: {error}") from error
        self._schema = index.schema

    def search(self, queries: Sequence[str], top_k: int) -> list[list[ScoredPassage]]:
        """Ranks passages for each query; see :meth:`Retriever.search`.

        Raises:
            RetrieverError: if tantivy fails.
        """
        count = check_search(queries, top_k, self.corpus)
        found = {query: self._search_one(query, count) for query in dict.fromkeys(queries)}
        return [list(found[query]) for query in queries]

    def _search_one(self, query: str, count: int) -> list[ScoredPassage]:
        words = Counter(_counted(self._split(query)))
        if not words:
            return []
        tantivy = self._tantivy
        clauses = []
        for word, times in words.items():
            clause = tantivy.Query.term_query(self._schema, "body", word, "freq")
            clause = clause if times == 1 else tantivy.Query.boost_query(clause, float(times))
            clauses.append((tantivy.Occur.Should, clause))
        any_word = tantivy.Query.boolean_query(clauses)

        def fetch(limit: int) -> list[tuple[int, float]]:
            hits = self._searcher.search(any_word, limit, count=False).hits
            positions = self._searcher.fast_field_values("position", [hit[1] for hit in hits])
            return [(int(i), float(hit[0])) for i, hit in zip(positions, hits, strict=True)]

        try:
            found = with_ties(fetch, count, len(self.corpus))
        except (ValueError, OSError) as error:
            raise RetrieverError(f"{self.folder}: tantivy could not search: {error}") from error
        return take(self.corpus.passages, found)

    def identity(self) -> dict[str, Any]:
        """Everything that answers depend on; see :class:`Retriever`."""
        return {**super().identity(), ONLY_MATCHES: True}

    def with_fillers(self) -> FilledUp:
        """This retriever as environments of version 0 know it."""
        return FilledUp(self)

    def __reduce__(self) -> tuple[type[TantivyIndex], tuple[Path]]:
        """Pickles by path."""
        return TantivyIndex, (self.folder,)


def _settings(rules: WordRules) -> dict[str, Any]:
    """The settings in the manifest."""
    return {"k1": 1.2, "b": 0.75, **manifest_words(rules), "stop_words": "english"}


def _counted(words: Iterable[str]) -> list[str]:
    """The words that count, without those that tantivy would refuse for their length."""
    return [word for word in words if word not in _STOP_WORDS and len(word) * 4 < _MAX_WORD_BYTES]


def _schema(tantivy: Any) -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("position", stored=False, indexed=False, fast=True)
    builder.add_text_field("body", stored=False, tokenizer_name=_TOKENIZER, index_option="freq")
    return builder.build()


def _register_tokenizer(tantivy: Any, index: Any) -> None:
    """The words come joined by blanks, so that both BM25 see the same ones."""
    tokenizer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
    index.register_tokenizer(_TOKENIZER, tokenizer)


def _import_tantivy() -> Any:
    return import_extra("tantivy", "tantivy", "a tantivy index")
