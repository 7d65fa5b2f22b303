"""Scores of words in passages, as bm25s computes them, and a folder to keep them in.

Building them over the atlas takes half a second of processor time, reading them some milliseconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from calibadv_env.common.files import new_folder
from calibadv_env.errors import DataError, InUseError
from calibadv_env.retrieval.bm25.settings import STOP_WORDS, Bm25Settings
from calibadv_env.retrieval.bm25.words import WordRules, split_unicode, words_record
from calibadv_env.retrieval.corpus import Corpus, indexed_text
from calibadv_env.retrieval.index_files import (
    HashedFile,
    Manifest,
    check_files,
    read_manifest,
    write_array,
    write_manifest,
)

_KIND: Final = "bm25-postings"
_MADE: Final = 1
"""Raised whenever the words of a passage are taken in another way."""
_WORDS: Final = "words.json"
_SCORES: Final = "scores.f4"
_POSITIONS: Final = "positions.i4"
_STARTS: Final = "starts.i8"


@dataclass(frozen=True, eq=False)
class Postings:
    """The scores of each word in the passages that hold it.

    Attributes:
        words: Number of each word.
        scores: Scores, word after word.
        positions: The passage of each score; ascending within a word.
        starts: Where the scores of each word begin; then where the last ones end.
        num_passages: How many passages there are.
    """

    words: dict[str, int]
    scores: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    num_passages: int

    def sums(self, words: Sequence[int]) -> npt.NDArray[np.float32]:
        """The sum of the scores of some words in each passage, added up in their order."""
        total = np.zeros(self.num_passages, dtype=np.float32)
        for word in words:
            start, end = self.starts[word : word + 2].tolist()
            total[self.positions[start:end]] += self.scores[start:end]
        return total


def postings_of(corpus: Corpus, settings: Bm25Settings) -> Postings:
    """The postings of a corpus: from where it keeps indexes of it, if it does, else computed."""
    place: Path | None = getattr(corpus, "index_cache", None)
    if place is None:
        return _compute(corpus, settings)
    facts = {
        "made": _MADE,
        "k1": settings.k1,
        "b": settings.b,
        "bm25s": version("bm25s"),
        "numpy": np.__version__,
        **words_record(settings.rules),
    }
    folder = place / f"bm25-{settings.k1}-{settings.b}-{settings.rules}"
    with suppress(DataError, OSError):
        return _read(folder, corpus, facts)
    postings = _compute(corpus, settings)
    with suppress(InUseError, OSError):  # another process is at it, or nothing can be written there
        _write(folder, corpus, facts, postings)
    return postings


def numbered_words(texts: Sequence[str], rules: WordRules) -> Any:
    """The words of texts as bm25s takes them: a list of numbers each, and the vocabulary."""
    import bm25s

    if rules == "plain":
        return bm25s.tokenize(texts, stopwords="english", show_progress=False)
    numbers = {word: i - len(STOP_WORDS) for i, word in enumerate(STOP_WORDS)}
    ids = []
    for text in texts:
        found = [
            numbers.setdefault(word, len(numbers) - len(STOP_WORDS)) for word in split_unicode(text)
        ]
        ids.append([number for number in found if number >= 0])
    vocabulary = {word: number for word, number in numbers.items() if number >= 0}
    return bm25s.tokenization.Tokenized(ids=ids, vocab=vocabulary)


def _compute(corpus: Corpus, settings: Bm25Settings) -> Postings:
    import bm25s

    words = numbered_words([indexed_text(passage) for passage in corpus], settings.rules)
    empty = np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(1, np.int64)
    if not words.vocab:
        return Postings({}, *empty, len(corpus))
    index: Any = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene", backend="numpy")
    index.index(words, create_empty_token=False, show_progress=False)
    found = index.scores
    return Postings(words.vocab, found["data"], found["indices"], found["indptr"], len(corpus))


def _write(folder: Path, corpus: Corpus, facts: dict[str, Any], postings: Postings) -> None:
    with new_folder(folder) as partial:
        files = {
            _SCORES: write_array(partial / _SCORES, postings.scores.astype("<f4", copy=False)),
            _POSITIONS: write_array(
                partial / _POSITIONS, postings.positions.astype("<i4", copy=False)
            ),
            _STARTS: write_array(partial / _STARTS, postings.starts.astype("<i8", copy=False)),
        }
        with HashedFile(partial / _WORDS) as words:
            words.write(json.dumps(postings.words).encode())
            files[_WORDS] = words.close()
        manifest = Manifest(
            kind=_KIND,
            corpus_sha256=corpus.sha256,
            num_passages=len(corpus),
            settings=facts,
            files=files,
        )
        write_manifest(partial, manifest)


def _read(folder: Path, corpus: Corpus, facts: dict[str, Any]) -> Postings:
    """Reads what :func:`_write` wrote.

    Raises:
        DataError: if it is not there, damaged, or of another corpus or other settings.
    """
    manifest = read_manifest(folder, _KIND)
    if manifest.corpus_sha256 != corpus.sha256 or dict(manifest.settings) != facts:
        raise DataError(f"{folder}: it was made by other versions, or of another corpus")
    if set(manifest.files) != {_WORDS, _SCORES, _POSITIONS, _STARTS}:
        raise DataError(f"{folder}: files are missing")
    check_files(folder, manifest, verify=True)
    return Postings(
        words=json.loads((folder / _WORDS).read_bytes()),
        scores=np.fromfile(folder / _SCORES, dtype="<f4"),
        positions=np.fromfile(folder / _POSITIONS, dtype="<i4"),
        starts=np.fromfile(folder / _STARTS, dtype="<i8"),
        num_passages=manifest.num_passages,
    )
