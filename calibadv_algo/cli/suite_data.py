"""The datasets of a suite, all of them looked at before anything is played."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.files import is_path
from calibadv_env.data.base import TaskSet
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.names import DATA_VARIABLE, data_root
from calibadv_env.data.registry import get_dataset
from calibadv_env.data.sources.benchmarks import SEVEN, Benchmark, benchmark_folder
from calibadv_env.data.sources.flashrag import HUB, split_file
from calibadv_env.errors import DataError
from calibadv_env.retrieval import is_remote
from calibadv_env.retrieval.base import Retriever, retriever_identity

ALL_SEVEN: Final = "seven"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteData:
    """A dataset of a suite that is ready to be evaluated.

    Attributes:
        source: Name or path that the user gave.
        name: Name in tables.
        file_name: Name of its records.
        dataset: The dataset.
        tasks: The split that is evaluated.
        benchmark: What is published about it, None for other datasets.
        retriever: Answers its searches.
        retrieval: Facts about it that stand beside the result.
    """

    source: str
    name: str
    file_name: str
    dataset: Dataset
    tasks: TaskSet
    benchmark: Benchmark | None
    retriever: Retriever
    retrieval: Mapping[str, Any]


def suite_names(suite: str) -> list[str]:
    """The datasets of a suite, each once, for :func:`calibadv_env.data.registry.get_dataset`.

    Args:
        suite: "seven", or names and folders with commas between them.

    Raises:
        ValueError: if there is none, or one is named twice.
    """
    if not all(part.strip() for part in suite.split(",")):
        raise ValueError(f"suite must be {ALL_SEVEN} or names with commas, got {suite!r}")
    names: list[str] = []
    for part in (part.strip() for part in suite.split(",")):
        chosen = list(SEVEN) if part.lower() == ALL_SEVEN else [_canonical(part)]
        twice = sorted(set(chosen) & set(names))
        if twice:
            raise ValueError(f"suite must name a dataset once, got {twice[0]!r} twice")
        names += chosen
    return names


def open_suite(
    names: Sequence[str], *, split: str, retriever: str, top_k: int, skip_missing: bool
) -> tuple[list[SuiteData], dict[str, str]]:
    """Opens every dataset, its corpus and its retriever.

    Args:
        names: From :func:`suite_names`.
        split: The split to evaluate; "eval" stands for test, else dev, else train.
        retriever: Name, path or address of the retriever.
        top_k: Passages a search.
        skip_missing: If true, datasets whose files are missing are left out.

    Returns:
        The datasets, and those left out with the reason.

    Raises:
        ValueError: if a name, split or retriever is not known.
        DataError: if files are missing, with what to get and where to put it; or one is faulty.
        RetrieverError: if a search server does not answer.
    """
    missing = {name: reason for name in names if (reason := missing_files(name))}
    if missing and (not skip_missing or len(missing) == len(names)):
        raise DataError(_how_to_mend(missing, len(names)))
    opened: list[SuiteData] = []
    for name in names:
        if name in missing:
            continue
        dataset = get_dataset(name)
        tasks = dataset.tasks(split)
        found = dataset.retriever(retriever)
        label = _label(name, dataset, [each.name for each in opened])
        opened.append(
            SuiteData(
                source=name,
                name=label,
                file_name=re.sub(r"[^\w.-]+", "_", label),
                dataset=dataset,
                tasks=tasks,
                benchmark=SEVEN.get(dataset.name),
                retriever=found,
                retrieval=retrieval_facts(dataset, found, retriever, top_k),
            )
        )
    return opened, {_display(name): reason for name, reason in missing.items()}


def missing_files(name: str) -> str:
    """A sentence on the missing files of a dataset, given by name or folder.

    It is "" if the dataset is there, or if only opening it can tell.
    """
    benchmark = SEVEN.get(name)
    if benchmark is not None:
        folder = benchmark_folder(benchmark)
        if split_file(folder, benchmark.eval_split) is None:
            return f"there is no {benchmark.eval_split}.jsonl in {folder}"
    elif is_path(name) and not Path(name).exists():
        return f"there is no folder {Path(name).absolute()}"
    return ""


def retrieval_facts(
    dataset: Dataset, retriever: Retriever, spec: str, top_k: int
) -> dict[str, Any]:
    """Facts that the passages of an evaluation depend on, as plain JSON.

    Name, number of passages, identity of index or server, hash and size of the corpus, as far as
    they are known. ``spec`` is the name, path or address that the user gave for the retriever.

    Raises:
        RetrieverError: if a server does not answer.
    """
    identity = json.loads(json.dumps(retriever_identity(retriever), default=str))
    if is_remote(spec):
        corpus = {name: identity.get(name) for name in ("corpus_sha256", "num_passages")}
    else:
        held = dataset.corpus()
        corpus = {"corpus_sha256": held.sha256, "num_passages": len(held)}
    return {"retriever": spec, "top_k": top_k, **corpus, "identity": identity}


def tasks_sha256(tasks: TaskSet) -> str:
    """Hash of ids, questions and accepted answers of a split, in order."""
    digest = hashlib.sha256()
    for task in tasks:
        row = [task.id, task.question, list(task.golden_answers)]
        digest.update(json.dumps(row).encode("ascii") + b"\n")
    return digest.hexdigest()


def _canonical(name: str) -> str:
    """A benchmark's own spelling of its name."""
    return next((known for known in SEVEN if known.lower() == name.lower()), name)


def _display(name: str) -> str:
    return Path(name).name if is_path(name) else name


def _label(name: str, dataset: Dataset, taken: Sequence[str]) -> str:
    """A short name that no other part has."""
    if not is_path(name):
        return dataset.name
    path = Path(name).resolve()
    for depth in range(1, len(path.parts)):
        label = "/".join(path.parts[-depth:])
        if label not in taken:
            return label
    return str(path)


def _how_to_mend(missing: Mapping[str, str], num_names: int) -> str:
    """A message that names the files to get, and where to put them."""
    lines = [
        f"{len(missing)} of {num_names} datasets of the suite are missing, so nothing was "
        "evaluated (--skip-missing evaluates the others, if there are any):"
    ]
    lines += [f"  {_display(name)}: {reason}" for name, reason in missing.items()]
    folders = " ".join(SEVEN[name].folder_name for name in missing if name in SEVEN)
    if not folders:
        return "\n".join(lines)
    lines += [
        "On a machine with internet access, get the questions and the corpus:",
        f"  for name in {folders}; do",
        f'    hf download {HUB} --repo-type dataset --include "$name/*" '
        "--local-dir FlashRAG_datasets; done",
        "  hf download PeterJinGo/wiki-18-corpus wiki-18.jsonl.gz --repo-type dataset "
        "--local-dir wiki-18",
        "Copy both here and run (docs/benchmarks.md):",
        "  calibadv index bm25 wiki-18/wiki-18.jsonl.gz wiki-18-index",
        f"  calibadv data prepare {folders} --from flashrag FlashRAG_datasets "
        "--corpus wiki-18-index",
        f"That puts them into {data_root()} ({DATA_VARIABLE} names another folder).",
    ]
    return "\n".join(lines)
