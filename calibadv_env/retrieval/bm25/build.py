"""Builds a BM25 index on disk from a corpus of any size, in bounded memory.

1. The corpus is brought into the form of :class:`DiskCorpus`.
2. *Runs*: passages are split into words; every few million words, the postings (word, passage,
   count) are sorted and written out.
3. *Merge*: for one range of words after the other, the runs' postings are put together, scored
   and appended to the index, so that every file is written from start to end.

In memory are one run or one range of postings, the vocabulary, and 12 bytes a passage.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.bm25.settings import STOP_WORDS, Bm25Settings
from calibadv_env.retrieval.bm25.words import splitter
from calibadv_env.retrieval.corpus import indexed_text
from calibadv_env.retrieval.disk_corpus import (
    FOLDER,
    CorpusSource,
    DiskCorpus,
    batched,
    write_corpus,
)
from calibadv_env.retrieval.disk_index import finish_index
from calibadv_env.retrieval.index_files import (
    FileFacts,
    HashedFile,
    Progress,
    building,
    map_array,
    no_progress,
    write_array,
)

SCORES: Final = "scores.f32"
POSITIONS: Final = "positions.i32"
STARTS: Final = "starts.i64"
WORDS: Final = "words.utf8"
WORD_STARTS: Final = "word_starts.i64"
WORD_IDS: Final = "word_ids.i32"
_PASSAGES_PER_BATCH: Final = 1024


def build_bm25_index(
    source: CorpusSource,
    out: str | Path,
    settings: Bm25Settings | None = None,
    *,
    overwrite: bool = False,
    words_per_run: int = 4_000_000,
    postings_per_range: int = 2_000_000,
    progress: Progress = no_progress,
) -> Path:
    """Builds the index that :class:`Bm25Index` opens.

    Args:
        source: A corpus or where it is; see :func:`write_corpus`.
        out: The folder to make.
        settings: k1, b and the rules for words; None takes the usual ones.
        overwrite: If true, an index in this place gives way.
        words_per_run: Words that are sorted at a time; about 40 bytes of memory each.
        postings_per_range: Postings that are merged at a time; about 80 bytes each.
        progress: Is told how far it is.

    Raises:
        DataError: if the corpus is faulty, the place is taken, or the disk is full; nothing is
            left behind.
    """
    settings = settings or Bm25Settings()
    with building(out, overwrite=overwrite) as folder:
        corpus = write_corpus(source, folder / FOLDER, progress)
        settings = settings.for_corpus(corpus.passages)
        vocabulary, lengths, num_runs = _write_runs(
            corpus, folder / "runs", words_per_run, splitter(settings.rules), progress
        )
        files = _write_vocabulary(folder, list(vocabulary))
        merge = _Merge(folder, num_runs, len(vocabulary), lengths, settings)
        files.update(merge.write(postings_per_range, progress))
        shutil.rmtree(folder / "runs")
        finish_index(folder, "bm25", corpus, settings.as_record(), files)
    return Path(out)


def inverse_document_frequency(
    document_frequencies: npt.NDArray[np.int64], num_passages: int
) -> npt.NDArray[np.float32]:
    """``log(1 + (N - df + 0.5) / (df + 0.5))``.

    **Source:** Kamphuis et al. (2020), "Which BM25 do you mean?", Lucene (accurate); rounded to
    single precision, as bm25s does.

    Args:
        document_frequencies: For each word the number of passages that hold it.
        num_passages: N.
    """
    values, where = np.unique(document_frequencies, return_inverse=True)
    logs = [math.log(1 + (num_passages - df + 0.5) / (df + 0.5)) for df in values.tolist()]
    return np.array(logs, dtype=np.float32)[where]


def bm25_scores(
    idf: npt.NDArray[np.float32],
    counts: npt.NDArray[Any],
    lengths: npt.NDArray[Any],
    mean_length: float,
    settings: Bm25Settings,
) -> npt.NDArray[np.float32]:
    """``idf * tf / (tf + k1 * (1 - b + b * length / mean_length))``.

    **Source:** Robertson and Zaragoza (2009), in Lucene's variant without the factor ``k1 + 1``.
    The order of operations and the precision are those of bm25s, so the bits are too.

    Args:
        idf: For each posting that of its word.
        counts: For each posting how often the word stands in the passage.
        lengths: For each posting the number of words of the passage.
        mean_length: Mean over all passages.
        settings: k1 and b.
    """
    k1, b = settings.k1, settings.b
    tf = counts.astype(np.float64)
    saturation = tf / (k1 * ((1 - b) + b * lengths / mean_length) + tf)
    return (idf * saturation).astype(np.float32)


class _Vocabulary(dict[str, int]):
    """Numbers of words; a new word gets the next one."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number


def _write_runs(
    corpus: DiskCorpus,
    folder: Path,
    words_per_run: int,
    split: Callable[[str], list[str]],
    progress: Progress,
) -> tuple[dict[str, int], npt.NDArray[np.int32], int]:
    """The vocabulary, the number of words of each passage, and the number of runs."""
    folder.mkdir()
    numbers = _Vocabulary({word: i for i, word in enumerate(STOP_WORDS)})
    lengths = np.zeros(len(corpus), dtype=np.int32)
    words: list[npt.NDArray[np.int64]] = []
    num_runs = num_words = done = first = 0
    for batch in batched(corpus, _PASSAGES_PER_BATCH):
        for numbered in _numbered_words(batch, numbers, split):
            words.append(numbered)
            lengths[done] = len(numbered)
            num_words += len(numbered)
            done += 1
        if num_words >= words_per_run:
            _write_run(folder / str(num_runs), words, first)
            words, num_words, first, num_runs = [], 0, done, num_runs + 1
        progress("split into words", done, len(corpus))
    _write_run(folder / str(num_runs), words, first)
    first_number = len(STOP_WORDS)
    vocabulary = {w: n - first_number for w, n in numbers.items() if n >= first_number}
    return vocabulary, lengths, num_runs + 1


def _numbered_words(
    passages: list[Passage], numbers: _Vocabulary, split: Callable[[str], list[str]]
) -> Iterator[npt.NDArray[np.int64]]:
    for passage in passages:
        found = split(indexed_text(passage))
        ids = np.fromiter(map(numbers.__getitem__, found), dtype=np.int64, count=len(found))
        yield ids[ids >= len(STOP_WORDS)] - len(STOP_WORDS)


def _write_run(path: Path, words: list[npt.NDArray[np.int64]], first: int) -> None:
    """Sorts the words of passages ``first``, ``first + 1``… and writes word, passage, count."""
    lengths = [len(numbered) for numbered in words]
    keys = np.concatenate([*words, np.empty(0, np.int64)])
    keys <<= 32
    keys += np.repeat(np.arange(first, first + len(words)), lengths)
    keys.sort()
    is_new = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.diff(is_new, append=len(keys))
    keys = keys[is_new]
    path.mkdir()
    write_array(path / "words", (keys >> 32).astype(np.int32))
    write_array(path / "passages", (keys & 0xFFFFFFFF).astype(np.int32))
    write_array(path / "counts", counts.astype(np.int32))


class _Merge:
    """Puts the runs together."""

    def __init__(
        self,
        folder: Path,
        num_runs: int,
        num_words: int,
        lengths: npt.NDArray[np.int32],
        settings: Bm25Settings,
    ) -> None:
        self.folder = folder
        self.runs = [folder / "runs" / str(i) for i in range(num_runs)]
        self.lengths = lengths
        self.settings = settings
        self.mean_length = float(lengths.sum(dtype=np.int64)) / len(lengths)
        frequencies = np.zeros(num_words, dtype=np.int64)
        for run in self.runs:
            words = map_array(run / "words", "<i4")
            counts = np.bincount(words, minlength=num_words)
            frequencies += counts
        self.starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(frequencies)))
        self.idf = inverse_document_frequency(frequencies, len(lengths))

    def write(self, postings_per_range: int, progress: Progress) -> dict[str, FileFacts]:
        """Writes scores and passages of all words, word after word."""
        num_words, total = len(self.idf), int(self.starts[-1])
        with (
            HashedFile(self.folder / SCORES) as scores,
            HashedFile(self.folder / POSITIONS) as positions,
        ):
            first = 0
            while first < num_words:
                wanted = self.starts[first] + postings_per_range
                last = int(np.searchsorted(self.starts, wanted, side="right")) - 1
                last = min(max(last, first + 1), num_words)
                words, passages, counts = self._read_range(first, last)
                scores.write(
                    bm25_scores(
                        self.idf[words],
                        counts,
                        self.lengths[passages],
                        self.mean_length,
                        self.settings,
                    )
                )
                positions.write(passages)
                first = last
                progress("merge", int(self.starts[first]), total)
            files = {SCORES: scores.close(), POSITIONS: positions.close()}
        files[STARTS] = write_array(self.folder / STARTS, self.starts)
        return files

    def _read_range(self, first: int, last: int) -> list[npt.NDArray[np.int32]]:
        """Word, passage and count of every posting of a range, by word, then by passage."""
        columns: list[list[npt.NDArray[np.int32]]] = [[], [], []]
        for run in self.runs:
            words = map_array(run / "words", "<i4")
            low, high = np.searchsorted(words, [first, last]).tolist()
            for column, name in zip(columns, ("words", "passages", "counts"), strict=True):
                column.append(np.array(map_array(run / name, "<i4")[low:high]))
        joined = [np.concatenate(column) for column in columns]
        order = np.argsort(joined[0], kind="stable")
        return [column[order] for column in joined]


def _write_vocabulary(folder: Path, words: list[str]) -> dict[str, FileFacts]:
    """Writes the words in the order of their bytes, for a binary search, with their numbers."""
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    order = sorted(range(len(encoded)), key=encoded.__getitem__)
    ends = np.cumsum([len(encoded[i]) for i in order], dtype=np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), ends))
    blob = np.frombuffer(b"".join(encoded[i] for i in order), dtype=np.uint8)
    return {
        WORDS: write_array(folder / WORDS, blob),
        WORD_STARTS: write_array(folder / WORD_STARTS, starts),
        WORD_IDS: write_array(folder / WORD_IDS, np.array(order, dtype=np.int32)),
    }
