"""`calibadv data`: brings benchmarks into place, shows datasets, audits corpora."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from calibadv_algo.cli.documents import mapping_of
from calibadv_algo.cli.inspect_corpus import is_corpus, show_corpus
from calibadv_algo.cli.prepared_rows import refuse_known, say_next
from calibadv_algo.cli.progress import stage_bars
from calibadv_algo.cli.questions import Questions
from calibadv_algo.report.shares import format_share
from calibadv_env.common.records.headerless import Placed
from calibadv_env.data.cutting import Cutting
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.folders import corpus_file
from calibadv_env.data.loading import OWN, Options, dataset_of, no_corpus
from calibadv_env.data.names import CORPUS_VARIABLE
from calibadv_env.data.prepared import own_folder, read_prepared
from calibadv_env.data.preparing.balance import Balance
from calibadv_env.data.preparing.coverage import AuditResult, audit_dataset, audit_path, write_audit
from calibadv_env.data.preparing.own import prepare_own
from calibadv_env.data.preparing.prepare import Prepared, prepare, write_own_corpus
from calibadv_env.data.questions.parsing import QuestionReading
from calibadv_env.data.reading import reader_named
from calibadv_env.data.registry import get_dataset, refuse_built_in_name
from calibadv_env.data.sources import browsecomp_plus
from calibadv_env.data.sources.benchmarks import SEVEN, Benchmark, find_benchmark
from calibadv_env.data.sources.flashrag import (
    FlashragFolder,
    FlashragHub,
    OriginalFiles,
    Source,
)
from calibadv_env.data.sources.search_r1 import ParquetFiles, has_data_source
from calibadv_env.errors import DataError
from calibadv_env.protocol.normalizing import Normalizer

ALL: Final = "seven"
"""Name that stands for all benchmarks."""

_KINDS: Final = "flashrag FOLDER, hub, or parquet FILE [FILE ...], or the path of a file"
_BENCHMARK_NAMES: Final = frozenset({ALL, *(name.lower() for name in SEVEN)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare:
    """Make a dataset of your own questions, or bring benchmarks into place with their gold."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Benchmarks: NQ, TriviaQA, PopQA, HotpotQA, 2WikiMultihopQA, MuSiQue, Bamboogle, in any
    case; or "seven" for all; or browsecomp-plus, from the folder of a decrypted copy. For questions
    of your own a new name, or the path of a folder."""
    source: Annotated[tuple[str, ...], tyro.conf.arg(name="from", aliases=("--questions",))] = (
        "hub",
    )
    """Where from: `FILE [FILE ...]` in any form (JSON, CSV, TSV, parquet, Arrow, or a folder of
    splits), for questions of your own and for benchmarks as their authors publish them; `hf
    OWNER/NAME[:CONFIG]`, or a format that another package reads; for benchmarks also `flashrag
    FOLDER` (a copy of FlashRAG's data, or the folder of one benchmark), `hub`, or `parquet FILE
    [FILE ...]` (Search-R1's, verl's, SkyRL's)."""
    corpus: str | None = None
    """Documents: a file or a folder in any form, or the folder of an index; "own" for the
    paragraphs that the questions carry; for benchmarks by default what CALIBADV_CORPUS names."""
    columns: str = ""
    """Keys of your questions where guessing fails: question=KEY,answers=KEY,id=KEY,split=KEY; a
    key may be a path with dots."""
    corpus_columns: str = ""
    """Keys of your documents where guessing fails: text=KEY,title=KEY,id=KEY."""
    answer_separator: str = ""
    """Stands between the answers of one text, such as "|"; by default a text is one answer."""
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, dev and test among your own questions, if they do not say."""
    passage_words: int | None = None
    """Cut your own documents into passages of so many words; None leaves them whole, but for the
    files of a folder of texts, which become passages of 100 words."""
    passage_overlap: int = 0
    """Words that a passage repeats of the one before."""
    seed: int = 0
    """Seed of the deal."""
    force: bool = False
    """If true, a dataset of your own that has the name already is replaced."""

    def run(self) -> int:
        """Converts, and prints what was found."""
        console = Console(highlight=False)
        if [name.lower() for name in self.names] == [browsecomp_plus.NAME]:
            self._prepare_browsecomp_plus(console)
        elif self._is_own():
            self._prepare_own(console, list(self.source), self.corpus)
        else:
            self._prepare_benchmarks(console)
        return 0

    def _is_own(self) -> bool:
        """True for questions of one's own, by their name or by the form of the source."""
        first = self.source[0] if self.source else ""
        is_known = all(name.lower() in _BENCHMARK_NAMES for name in self.names)
        if is_known and (Path(first).exists() or first == "parquet"):
            return False
        return Path(first).exists() or reader_named(first) is not None

    def options(self) -> Options:
        """How files are read, and documents cut."""
        return Options(
            columns=mapping_of(self.columns),
            corpus_columns=mapping_of(self.corpus_columns),
            answer_separator=self.answer_separator,
            cutting=Cutting(words=self.passage_words, overlap=self.passage_overlap),
        )

    def _prepare_browsecomp_plus(self, console: Console) -> None:
        folder = Path(self.source[0])
        if len(self.source) != 1 or not folder.is_dir():
            raise ValueError(
                f"from must be the folder of a copy of BrowseComp-Plus, got {' '.join(self.source)}"
            )
        layout = browsecomp_plus.find_layout(folder, wants_corpus=self.corpus is None)
        corpus = self.corpus or layout.corpus or OWN
        if corpus == OWN:
            browsecomp_plus.warn_of_own_documents(layout)
        counts = Counter[str]()
        records = browsecomp_plus.read_rows(layout, counts, has_texts=corpus == OWN)
        self._prepare_own(console, [str(layout.rows)], corpus, records)
        if counts[browsecomp_plus.WITHOUT]:
            text = f"warning: {counts[browsecomp_plus.WITHOUT]:,} {browsecomp_plus.WITHOUT}"
            console.print(text, style="yellow", soft_wrap=True)

    def _prepare_own(
        self,
        console: Console,
        sources: list[str],
        corpus: str | Sequence[Path] | None,
        records: Iterable[Placed] | None = None,
    ) -> None:
        if len(self.names) != 1:
            raise ValueError(f"names must be one new name or path, got {' '.join(self.names)!r}")
        reader = reader_named(sources[0])
        if reader is not None and not Path(sources[0]).exists():
            sources = [reader.prefix + source for source in sources[1:]]
        refuse_built_in_name(self.names[0])
        refuse_known(self.names[0], force=self.force)
        done = prepare_own(
            self.names[0],
            sources,
            corpus,
            shares=self.shares,
            seed=self.seed,
            options=self.options(),
            records=records,
        )
        table = Table("split", "questions", title=escape(done.name))
        for split, size in done.sizes.items():
            table.add_row(split, _number(size))
        console.print(table)
        if done.num_documents is None:
            text = "No documents were named: --corpus names some; or search a server elsewhere."
            console.print(text, style="yellow", soft_wrap=True)
        else:
            text = f"{_number(done.num_documents)} documents, {_number(done.num_passages)} passages"
            console.print(f"{text}; {_number(done.num_with_gold)} questions name theirs")
        for what, value in done.notes.items():
            console.print(f"{what}: {value}", markup=False, soft_wrap=True)
        for warning in done.warnings:
            console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
        console.print(f"folder: {done.folder}", markup=False, soft_wrap=True)
        console.print(f"use it as: --env.dataset {done.name}", markup=False, soft_wrap=True)
        say_next(done.name, list(done.sizes), console, has_corpus=done.num_documents is not None)

    def _prepare_benchmarks(self, console: Console) -> None:
        chosen = _benchmarks(self.names)
        reading = self.options().questions()
        sources = {b.name: (b, _source_of(self.source, b, reading)) for b in chosen}
        named = self.corpus or os.environ.get(CORPUS_VARIABLE)
        corpus = Path(named) if named else None
        if self.corpus == OWN:
            corpus = self._own_corpus(*sources.values())
        with stage_bars(transient=True) as progress:
            prepared = prepare(sources, corpus, progress)
        console.print(_prepared_table(prepared))
        for done in prepared:
            console.print(f"{done.benchmark.name}: {done.folder}", markup=False, soft_wrap=True)
            for warning in done.warnings:
                console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
        for what, value in reading.notes().items():
            console.print(f"{what}: {value}", markup=False, soft_wrap=True)
        if corpus is None:
            console.print(
                "No corpus was named, so no gold passages were looked for: --corpus names one.",
                style="yellow",
                soft_wrap=True,
            )

    def _own_corpus(self, *sources: tuple[Benchmark, Source]) -> Path:
        [(benchmark, source)] = sources if len(sources) == 1 else [(None, None)]
        if benchmark is None or not isinstance(source, OriginalFiles):
            raise ValueError("corpus own is for one benchmark from its original files")
        return write_own_corpus(benchmark, source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspect:
    """Show a dataset: splits and sizes, corpus, gold passages, and some of its tasks.

    Of a file or folder of documents it shows how it is read, and the first of them.
    """

    name: Annotated[str, tyro.conf.Positional]
    """A dataset: a name, several joined by +, hf:owner/name, or a path (with a slash in it)."""
    split: str = "eval"
    """Split whose tasks are shown."""
    tasks: int = 3
    """Number of tasks shown."""
    columns: str = ""
    """Keys of the questions of a file: question=KEY,answers=KEY,id=KEY,split=KEY; of one of
    documents text=KEY,title=KEY,id=KEY."""
    answer_separator: str = ""
    """Stands between the answers of one text of a file."""
    json: bool = False
    """Print JSON in place of tables."""

    def run(self) -> int:
        """Prints what there is."""
        console = Console(highlight=False)
        path, columns = Path(self.name), mapping_of(self.columns)
        if path.exists() and ("text" in columns or is_corpus(path)):
            show_corpus(path, self.tasks, columns, as_json=self.json)
            return 0
        dataset = self._dataset()
        facts = dataset_facts(dataset)
        shown = [_task_record(task) for task in dataset.tasks(self.split)[: self.tasks]]
        if self.json:
            console.print_json(json.dumps({**facts, "tasks": shown}))
            return 0
        table = Table("split", "tasks", "published", "note", title=escape(dataset.name))
        for split, row in facts["splits"].items():
            table.add_row(split, _number(row["tasks"]), _number(row["published"]), row["note"])
        console.print(table)
        for key in ("eval_split", "source", "corpus", "gold"):
            if facts[key]:
                console.print(f"{key}: {facts[key]}", markup=False, soft_wrap=True)
        for what, value in facts["read"].items():
            console.print(f"{what}: {value}", markup=False, soft_wrap=True)
        for task in shown:
            console.print_json(json.dumps(task))
        return 0

    def _dataset(self) -> Dataset:
        if not self.columns and not self.answer_separator:
            return get_dataset(self.name)
        path = Path(self.name)
        if not path.exists():
            raise ValueError(f"columns and separators are for files, got {self.name!r}")
        options = Options(columns=mapping_of(self.columns), answer_separator=self.answer_separator)
        folder = path if path.is_dir() else path.parent
        fallback = no_corpus(self.name, folder)
        near = corpus_file(folder)
        return dataset_of(self.name, path, near, fallback=fallback, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Measure what the corpus holds of the questions, and what searches reach.

    The figures go into `audit.json` beside the data; evaluations carry them along.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Datasets, or "seven" for all benchmarks."""
    split: str = "eval"
    """Split to audit."""
    retriever: str = "bm25"
    """Retriever of the searches; "none" looks at the corpus alone."""
    top_k: int = 3
    """Passages a search."""
    max_tasks: int | None = None
    """Ask about a sample of this size; by default about all tasks."""
    seed: int = 0
    """Seed of the sample."""
    normalizer: Normalizer = "auto"
    """Normal form in which answers are looked for; auto chooses by the script of each."""
    json: bool = False
    """Print JSON in place of a table."""
    output: Path | None = None
    """Write the figures here in place of `audit.json` beside the data."""

    def run(self) -> int:
        """Audits each dataset, writes the figures and prints them."""
        console = Console(highlight=False)
        names = tuple(SEVEN) if self.names == (ALL,) else self.names
        results = []
        for name in names:
            with stage_bars(transient=True) as progress:
                result = audit_dataset(
                    name,
                    split=self.split,
                    retriever=self.retriever,
                    top_k=self.top_k,
                    max_tasks=self.max_tasks,
                    seed=self.seed,
                    normalizer=self.normalizer,
                    progress=progress,
                )
            write_audit(result, self.output or audit_path(name))
            results.append(result)
        if self.json:
            console.print_json(json.dumps([asdict(result) for result in results]))
        else:
            console.print(audit_table(results))
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Prepare, inspect and audit datasets; draft questions about documents."""

    action: Annotated[
        Annotated[Prepare, tyro.conf.subcommand("prepare")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Audit, tyro.conf.subcommand("audit")]
        | Annotated[Questions, tyro.conf.subcommand("questions")],
        tyro.conf.arg(name=""),
    ]
    """The action."""

    def run(self) -> int:
        """Does it."""
        return self.action.run()


def audit_table(results: Sequence[AuditResult]) -> Table:
    """The figures of audits as a table, one column a dataset; shares with their denominators."""
    table = Table("share of questions", title="What the corpus holds, and what searches reach")
    for result in results:
        table.add_column(escape(f"{result.dataset} {result.split}"), justify="right")
    for label, name, of in (
        ("an answer stands in the corpus", "answer_in_corpus", "num_telling"),
        ("gold passages for all hops", "gold_in_corpus", "num_with_gold"),
        ("one search finds an answer", "one_search_answer", "num_telling"),
        ("one search finds all hops", "one_search_gold", "num_with_gold"),
        ("the gold chain finds an answer", "chain_answer", "num_telling_with_chain"),
        ("the gold chain finds all hops", "chain_gold", "num_with_chain"),
    ):
        table.add_row(
            label,
            *(format_share(getattr(r.coverage, name), getattr(r.coverage, of)) for r in results),
        )
    for label, show in _BALANCE_ROWS:
        table.add_row(label, *(show(r.balance) for r in results))
    for hops in sorted({hops for r in results for hops in r.balance.hop_shares}, key=int):
        label = "number of hops unknown" if hops == "0" else f"{hops} hops"
        shares = [r.balance.hop_shares.get(hops, 0.0) for r in results]
        table.add_row(label, *(f"{share:.3f}" for share in shares))
    table.add_row("questions asked", *(f"{r.coverage.num_tasks:,}" for r in results))
    table.add_row("of a split of", *(f"{r.split_size:,}" for r in results))
    table.add_row("passages", *(f"{r.num_passages:,}" for r in results))
    table.add_row("retriever, top k", *(f"{r.retriever}, {r.top_k}" for r in results))
    table.add_row("corpus", *(r.corpus_sha256[:12] for r in results))
    return table


_BALANCE_ROWS: Final[tuple[tuple[str, Callable[[Balance], str]], ...]] = (
    ("clusters", lambda b: f"{b.num_clusters:,}"),
    ("effective number of clusters", lambda b: f"{b.effective_clusters:.1f}"),
    ("largest cluster", lambda b: f"{escape(b.largest_cluster)} {b.largest_share:.3f}"),
    ("best constant answer", lambda b: f"{b.majority_share:.3f}"),
    (
        "no name or passage of training",
        lambda b: "" if b.unseen_share is None else f"{b.unseen_share:.3f}",
    ),
)
"""Rows of an audit on the spread of the questions."""


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Name, splits with sizes, and origin of a dataset, parts of which may be missing."""
    benchmark = SEVEN.get(dataset.name)
    note = read_prepared(own_folder(dataset.name)) or {}
    splits = {}
    for split in dataset.splits:
        size, problem = _try(lambda split=split: len(dataset.tasks(split)))  # type: ignore[misc]
        published = benchmark.sizes.get(split) if benchmark else None
        splits[split] = {"tasks": size, "published": published, "note": problem}
    size, problem = _try(lambda: len(dataset.corpus()))
    return {
        "dataset": dataset.name,
        "eval_split": dataset.eval_split,
        "splits": splits,
        "source": note.get("source", ""),
        "corpus": problem or f"{size} passages, sha256 {dataset.corpus().sha256}",
        "gold": {s: f["gold"] for s, f in note.get("splits", {}).items() if f["gold"]},
        "read": dict(dataset.notes()),
    }


def _benchmarks(names: Iterable[str]) -> list[Benchmark]:
    found: dict[str, Benchmark] = {}
    for name in names:
        chosen = SEVEN.values() if name == ALL else [find_benchmark(name)]
        found.update((benchmark.name, benchmark) for benchmark in chosen)
    if not found:
        raise ValueError(f"names must hold at least one of {', '.join(SEVEN)} or {ALL!r}")
    return list(found.values())


def _source_of(source: Sequence[str], benchmark: Benchmark, reading: QuestionReading) -> Source:
    """The source that `--from` names, for one benchmark."""
    if source and Path(source[0]).exists() and source[0] not in ("hub", "parquet", "flashrag"):
        if len(source) == 1 and (folder := _flashrag_folder(Path(source[0]), benchmark)):
            return FlashragFolder(folder)
        files = tuple(Path(path) for path in source)
        if all(path.suffix == ".parquet" for path in files) and has_data_source(files):
            return ParquetFiles(files, benchmark.folder_name, benchmark.eval_split)
        return OriginalFiles(files, benchmark.eval_split, reading)
    kind, paths = source[0] if source else "", [Path(path) for path in source[1:]]
    if kind == "hub" and not paths:
        return FlashragHub(benchmark.folder_name)
    if kind == "parquet" and paths:
        return ParquetFiles(tuple(paths), benchmark.folder_name, benchmark.eval_split)
    if kind == "flashrag" and len(paths) == 1:
        below = paths[0] / benchmark.folder_name
        folder = below if below.is_dir() else paths[0]
        if folder.name.lower() != benchmark.folder_name:
            raise DataError(f"{paths[0]}: there is no folder {benchmark.folder_name} here")
        return FlashragFolder(folder)
    raise ValueError(f"from must be {_KINDS}; got {' '.join(source)!r}")


def _flashrag_folder(path: Path, benchmark: Benchmark) -> Path | None:
    """The folder of a benchmark, if a path is one or holds one."""
    below = path / benchmark.folder_name
    return below if below.is_dir() else path if path.is_dir() else None


def _prepared_table(prepared: Iterable[Prepared]) -> Table:
    table = Table(
        "benchmark",
        "split",
        "tasks",
        "published",
        "blank answers left out",
        "with evidence",
        "all gold found",
        "some",
        "none",
        "hops not found",
    )
    for done in prepared:
        for split, facts in done.splits.items():
            gold = facts.gold
            cells: Sequence[int | None] = (None,) * 4
            lost = ""
            if gold:
                outcomes = gold.by_outcome
                lost = f"{outcomes['no_title']:,} no title, {outcomes['no_sentence']:,} no sentence"
                cells = (
                    gold.tasks_with_evidence,
                    gold.tasks_complete,
                    gold.tasks_partial,
                    gold.tasks_missing,
                )
            mark = " (eval)" if split == done.benchmark.eval_split else ""
            numbers = [facts.tasks, facts.expected, facts.blank_answers, *cells]
            table.add_row(done.benchmark.name, split + mark, *map(_number, numbers), lost)
    return table


def _task_record(task: Any) -> dict[str, Any]:
    record = asdict(task)
    return {key: value for key, value in record.items() if value not in ((), {}, 0)}


def _try(count: Callable[[], int]) -> tuple[int | None, str]:
    """A number, or the first line of what stands in its way."""
    try:
        return count(), ""
    except DataError as error:
        return None, str(error).splitlines()[0]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
