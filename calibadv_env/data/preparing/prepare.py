"""Writes benchmarks into the user's data folder, with the gold passages of the user's corpus.

Three passes, none of which holds more than one task and one passage: over the records for the
evidence that they name, over the corpus for the passages that hold it, over the records again to
write the tasks. Several benchmarks share the pass over the corpus. A folder appears whole or not
at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.files import new_folder
from calibadv_env.data.base import QATask, write_tasks
from calibadv_env.data.evidence import Evidence
from calibadv_env.data.gold import (
    GoldCounts,
    GoldFinder,
    GoldTally,
    evidence_of,
    gold_warning,
    with_gold,
)
from calibadv_env.data.prepared import (
    corpus_note,
    open_corpus,
    refuse_foreign_folder,
    write_note,
)
from calibadv_env.data.sources.benchmarks import Benchmark, benchmark_folder, size_warnings
from calibadv_env.data.sources.flashrag import OriginalFiles, Source, tasks_of
from calibadv_env.errors import DataError
from calibadv_env.retrieval.corpus import Corpus
from calibadv_env.retrieval.index_files import Progress, no_progress

_REPORT_EVERY: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSplit:
    """Facts about one split that was written.

    Attributes:
        tasks: Number of tasks.
        expected: Number that is published, None for a split that is not.
        blank_answers: Accepted answers that were blank and are left out.
        gold: Evidence that the corpus holds, None without a corpus.
        noted: What else was left out or not found, by what it is.
    """

    tasks: int
    expected: int | None
    blank_answers: int
    gold: GoldCounts | None
    noted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Facts about one benchmark that was written.

    Attributes:
        benchmark: The benchmark.
        folder: Where it lies.
        splits: Facts by split.
        warnings: Deviations from what is published.
    """

    benchmark: Benchmark
    folder: Path
    splits: Mapping[str, PreparedSplit]
    warnings: Sequence[str]


def prepare(
    sources: Mapping[str, tuple[Benchmark, Source]],
    corpus_path: Path | None = None,
    progress: Progress = no_progress,
) -> list[Prepared]:
    """Converts benchmarks and puts them where their environments look for them.

    Args:
        sources: For each name the benchmark and where its records come from.
        corpus_path: The corpus, as for :func:`calibadv_env.data.prepared.open_corpus`;
            None leaves the gold passages open.
        progress: Is told how far it is.

    Raises:
        DataError: if a record, the corpus or the folder of a benchmark is faulty; the message
            names file and line. Benchmarks that are complete by then stay.
    """
    for benchmark, _ in sources.values():
        refuse_foreign_folder(benchmark_folder(benchmark))
    corpus = None if corpus_path is None else open_corpus(corpus_path)
    finder = None
    if corpus is not None:
        finder = GoldFinder(_all_evidence(sources.values(), progress))
        _scan(corpus, finder, progress)
    note = None
    if corpus_path is not None and corpus is not None:
        note = corpus_note(corpus, corpus_path.absolute())
    return [
        _prepare_one(benchmark, source, finder, note, progress)
        for benchmark, source in sources.values()
    ]


def _all_evidence(
    sources: Iterable[tuple[Benchmark, Source]], progress: Progress
) -> Iterator[Evidence]:
    for benchmark, source in sources:
        done = 0
        for split in source.splits():
            for task, _ in tasks_of(source, split):
                done += 1
                if done % _REPORT_EVERY == 0:
                    progress(f"read {benchmark.name}", done, None)
                yield from evidence_of(task)


def _scan(corpus: Corpus, finder: GoldFinder, progress: Progress) -> None:
    for done, passage in enumerate(corpus):
        if done % _REPORT_EVERY == 0:
            progress("search the corpus for gold", done, len(corpus))
        finder.add(passage)


def _prepare_one(
    benchmark: Benchmark,
    source: Source,
    finder: GoldFinder | None,
    corpus: Mapping[str, Any] | None,
    progress: Progress,
) -> Prepared:
    folder = benchmark_folder(benchmark)
    with new_folder(folder) as partial:
        splits = {}
        for split in source.splits():
            progress(f"write {benchmark.name} {split}", 0, benchmark.sizes.get(split))
            splits[split] = _write_split(benchmark, source, split, finder, partial)
        note = {
            "benchmark": benchmark.name,
            "source": source.label,
            "eval_split": benchmark.eval_split,
            "corpus": corpus,
            "splits": {split: asdict(facts) for split, facts in splits.items()},
        }
        write_note(partial, note)
    sizes = {split: facts.tasks for split, facts in splits.items()}
    return Prepared(
        benchmark=benchmark,
        folder=folder,
        splits=splits,
        warnings=[
            *size_warnings(benchmark, sizes),
            *evidence_warnings(benchmark, splits),
            *(
                f"{benchmark.name} {split}: {count:,} {what}"
                for split, facts in splits.items()
                for what, count in facts.noted.items()
            ),
        ],
    )


def evidence_warnings(benchmark: Benchmark, splits: Mapping[str, PreparedSplit]) -> list[str]:
    """A sentence for each split that lacks evidence which the benchmark names.

    The records may not name it in a form that is known, or the corpus may not hold it.
    """
    found = []
    for split, facts in splits.items():
        if benchmark.gold == "none" or facts.gold is None:
            continue
        without = facts.gold.tasks - facts.gold.tasks_with_evidence
        if without:
            found.append(
                f"{benchmark.name} {split}: {without:,} of {facts.gold.tasks:,} records name no "
                f"evidence in a form that is known ({benchmark.gold} expected)"
            )
        lost = gold_warning(facts.gold)
        if lost and not facts.gold.tasks_complete:
            found.append(f"{benchmark.name} {split}: {lost}")
    return found


def write_own_corpus(benchmark: Benchmark, source: OriginalFiles) -> Path:
    """Writes the paragraphs that the records of a benchmark carry, beside its folder.

    Raises:
        DataError: if they carry none.
    """
    source.reading.wants_paragraphs = True
    for split in source.splits():
        for _ in source.records(split):
            pass
    source.reading.wants_paragraphs = False
    if not source.reading.paragraphs:
        raise DataError(f"{source.label}: the questions carry no paragraphs of their own")
    folder = benchmark_folder(benchmark)
    path = folder.with_name(f"{folder.name}-paragraphs.jsonl.gz")
    path.parent.mkdir(parents=True, exist_ok=True)
    Corpus(list(source.reading.paragraphs.values())).to_jsonl(path)
    return path


def _write_split(
    benchmark: Benchmark, source: Source, split: str, finder: GoldFinder | None, folder: Path
) -> PreparedSplit:
    tally = GoldTally()
    num_blank, noted = 0, Counter[str]()

    def finished() -> Iterator[QATask]:
        nonlocal num_blank
        for task, blank in tasks_of(source, split, noted):
            num_blank += blank
            matches = [finder.find(piece) for piece in evidence_of(task)] if finder else []
            tally.add(matches)
            yield with_gold(task, matches) if matches else task

    write_tasks(folder / f"{split}.jsonl", finished())
    counts = tally.counts()
    if not counts.tasks:
        raise DataError(f"{source.label}: split {split} holds no task")
    return PreparedSplit(
        tasks=counts.tasks,
        expected=benchmark.sizes.get(split),
        blank_answers=num_blank,
        gold=counts if finder else None,
        noted={what: count for what, count in noted.items() if count},
    )
