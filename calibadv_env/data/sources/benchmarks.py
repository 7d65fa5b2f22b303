"""The seven open-domain benchmarks, from NQ to Bamboogle, as datasets.

Their tasks lie in a folder each under :func:`data_root`, either as ``calibadv data prepare`` has
written them, with their gold passages, or in FlashRAG's own form, without. Nothing is read before
tasks or corpus are asked for. ``docs/benchmarks.md`` says where to get them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from calibadv_env.data.base import TaskSet, read_tasks
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.names import CORPUS_VARIABLE, DATA_VARIABLE, data_root
from calibadv_env.data.prepared import PREPARED, open_corpus, read_prepared
from calibadv_env.data.sources.flashrag import (
    FlashragFolder,
    how_to_fetch,
    split_file,
    tasks_of,
)
from calibadv_env.errors import DataError
from calibadv_env.retrieval import make_retriever
from calibadv_env.retrieval.base import Retriever
from calibadv_env.retrieval.corpus import Corpus

_EVAL_ORDER: Final = ("test", "dev", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One of the seven.

    Attributes:
        name: Its name, which is also in the id of its environment.
        sizes: Number of tasks of each published split.
        num_hops: Reasoning steps of its questions, in words.
        gold: Evidence that it names, in words.
    """

    name: str
    sizes: Mapping[str, int]
    num_hops: str
    gold: str

    @property
    def folder_name(self) -> str:
        """FlashRAG's name for it, of its folder and of its configuration on the hub."""
        return self.name.lower()

    @property
    def eval_split(self) -> str:
        """The split to evaluate on: test, else dev, else train."""
        return next(split for split in _EVAL_ORDER if split in self.sizes)


SEVEN: Final[Mapping[str, Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="NQ",
            sizes={"train": 79_168, "dev": 8_757, "test": 3_610},
            num_hops="one hop",
            gold="none",
        ),
        Benchmark(
            name="TriviaQA",
            sizes={"train": 78_785, "dev": 8_837, "test": 11_313},
            num_hops="one hop",
            gold="none",
        ),
        Benchmark(name="PopQA", sizes={"test": 14_267}, num_hops="one hop", gold="none"),
        Benchmark(
            name="HotpotQA",
            sizes={"train": 90_447, "dev": 7_405},
            num_hops="2 hops",
            gold="supporting sentences",
        ),
        Benchmark(
            name="2WikiMultihopQA",
            sizes={"train": 15_000, "dev": 12_576},
            num_hops="2 to 4 hops",
            gold="supporting sentences",
        ),
        Benchmark(
            name="MuSiQue",
            sizes={"train": 19_938, "dev": 2_417},
            num_hops="2 to 4 hops",
            gold="supporting paragraphs and steps",
        ),
        Benchmark(name="Bamboogle", sizes={"test": 125}, num_hops="2 hops", gold="none"),
    )
}
"""The benchmarks by name, with the sizes that FlashRAG publishes."""


class BenchmarkDataset(Dataset):
    """A benchmark as a dataset.

    Benchmarks with one corpus share it, and its index, within a process. Asking for tasks alone
    reads no corpus, so a retriever elsewhere needs none on this machine. Gold passages were found
    in the corpus by its hash, which is what is checked.
    """

    def _make_retriever(self, spec: str) -> Retriever:
        return _shared_retriever(spec, self.corpus())


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of a name in any case, such as "hotpotqa".

    Raises:
        ValueError: if there is none.
    """
    for benchmark in SEVEN.values():
        if benchmark.folder_name == name.lower():
            return benchmark
    raise ValueError(f"benchmark must be one of {', '.join(SEVEN)}; got {name!r}")


def benchmark_folder(benchmark: Benchmark) -> Path:
    """Where one of them lies."""
    return data_root() / benchmark.folder_name


def size_warnings(benchmark: Benchmark, found: Mapping[str, int]) -> list[str]:
    """A sentence for each split whose number of tasks is not the published one.

    A split may also be missing, or not be a published one.
    """
    warnings = []
    for split, expected in benchmark.sizes.items():
        if split not in found:
            warnings.append(f"{benchmark.name} {split}: expected {expected} tasks, found no file")
        elif found[split] != expected:
            warnings.append(
                f"{benchmark.name} {split}: expected {expected} tasks, found {found[split]}"
            )
    for split in found:
        if split not in benchmark.sizes:
            warnings.append(
                f"{benchmark.name} {split}: expected no such split, found {found[split]} tasks"
            )
    return warnings


def load_benchmark(name: str) -> Dataset:
    """The dataset of a benchmark in :data:`SEVEN`, with the published splits.

    Loading from it raises :class:`DataError`, with what to do about it, where the tasks or the
    corpus are not on this machine.
    """
    benchmark = SEVEN[name]
    sizes = ", ".join(f"{split} {size:,}" for split, size in benchmark.sizes.items())
    return BenchmarkDataset(
        name=name,
        splits=tuple(benchmark.sizes),
        load_tasks=partial(_load_tasks, benchmark),
        load_corpus=partial(_load_corpus, benchmark),
        is_gold_checked=False,
        description=f"Benchmark, {benchmark.num_hops}; {sizes}; evaluated on "
        f"{benchmark.eval_split}; needs `calibadv data prepare`.",
    )


load_nq = partial(load_benchmark, "NQ")
load_triviaqa = partial(load_benchmark, "TriviaQA")
load_popqa = partial(load_benchmark, "PopQA")
load_hotpotqa = partial(load_benchmark, "HotpotQA")
load_2wikimultihopqa = partial(load_benchmark, "2WikiMultihopQA")
load_musique = partial(load_benchmark, "MuSiQue")
load_bamboogle = partial(load_benchmark, "Bamboogle")

_retrievers_lock: Final = threading.RLock()
_retrievers: dict[tuple[int, str], tuple[Corpus, Retriever]] = {}


def _shared_retriever(spec: str, corpus: Corpus) -> Retriever:
    """One retriever for each corpus object and name; the corpus is held so that its id stays."""
    key = (id(corpus), spec)
    with _retrievers_lock:
        if key not in _retrievers:
            _retrievers[key] = (corpus, _open_index(spec, corpus) or make_retriever(spec, corpus))
        return _retrievers[key][1]


def _open_index(spec: str, corpus: Corpus) -> Retriever | None:
    """The index that a corpus on disk is part of, if it is of the kind that is asked for."""
    from calibadv_env.retrieval.disk_corpus import DiskCorpus
    from calibadv_env.retrieval.index_files import MANIFEST, read_manifest
    from calibadv_env.retrieval.opening import open_index

    if not isinstance(corpus, DiskCorpus):
        return None
    folder = corpus.folder.parent
    is_index = (folder / MANIFEST).is_file() and read_manifest(folder).kind == spec
    return open_index(folder) if is_index else None


def _load_tasks(benchmark: Benchmark, split: str) -> TaskSet:
    folder = benchmark_folder(benchmark)
    path = split_file(folder, split)
    if path is None:
        raise DataError(
            f"{folder}: there is no {split}.jsonl of {benchmark.name} here ({DATA_VARIABLE} names "
            f"the folder above it).\n{how_to_fetch(benchmark.folder_name)}"
        )
    note = read_prepared(folder)
    if note is None:
        # FlashRAG's own form, which names no passages of any corpus.
        raw = [task for task, _ in tasks_of(FlashragFolder(folder), split)]
        if not raw:
            raise DataError(f"{path}: there is no question in it")
        return TaskSet(raw, name=benchmark.name, split=split)
    tasks = read_tasks(path)
    expected = note["splits"].get(split, {}).get("tasks")
    if len(tasks) != expected:
        raise DataError(
            f"{path}: {PREPARED} says {expected} tasks, the file holds {len(tasks)}; run calibadv "
            "data prepare again"
        )
    return TaskSet(tasks, name=benchmark.name, split=split)


def _load_corpus(benchmark: Benchmark) -> Corpus:
    noted = (read_prepared(benchmark_folder(benchmark)) or {}).get("corpus")
    path = os.environ.get(CORPUS_VARIABLE) or (noted and noted["path"])
    if not path:
        raise DataError(
            f"{benchmark.name} has no corpus: set {CORPUS_VARIABLE} to a JSONL file or to the "
            "folder of an index, or name it at `calibadv data prepare --corpus`, which finds the "
            "gold passages too. The usual one is wiki-18.jsonl.gz of "
            "https://huggingface.co/datasets/PeterJinGo/wiki-18-corpus"
        )
    corpus = open_corpus(path)
    if noted and corpus.sha256 != noted["sha256"]:
        raise DataError(
            f"{path}: the gold passages of {benchmark.name} were found in a corpus with sha256 "
            f"{noted['sha256']}, this one has {corpus.sha256}; run `calibadv data prepare` again "
            "with this corpus"
        )
    return corpus
