"""Datasets by name: built-in ones, those of other packages, and those of a user.

A process holds each dataset, corpus and index once, however many environments use it. A process
started by *fork* inherits what was registered. One started by *spawn* begins empty: there the
registration has to run again. ``gymnasium.make("my_module:DeepSearch-MyTrivia-v1")``, called in the
worker, imports the module that calls :func:`register_dataset`. No registration is needed for a
folder or file that is named by its path, for what ``calibadv data prepare`` has made, and for
datasets that an installed package brings. Such a package has in its ``pyproject.toml``::

    [project.entry-points."calibadv_env.datasets"]
    my-trivia = "my_package.trivia:load"

``load`` takes nothing and gives a :class:`Dataset`, or the path of a folder with tasks and
corpus. It is called at the first use. ``docs/datasets.md`` has an example.
"""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from gymnasium.envs.registration import register
from gymnasium.envs.registration import registry as gymnasium_registry

from calibadv_env.common.files import is_path
from calibadv_env.common.plugins import Plugin, plugins
from calibadv_env.data.cutting import Cutting
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.folders import corpus_file
from calibadv_env.data.loading import (
    OWN,
    Options,
    corpus_loader,
    dataset_of,
    fetched_dataset,
    no_corpus,
)
from calibadv_env.data.merged import MARK, merge
from calibadv_env.data.names import EVAL, NAME, PAGES, SPLITS, env_id_of
from calibadv_env.data.prepared import own_corpus, own_folder, own_names, read_prepared
from calibadv_env.data.reading import (
    CorpusSource,
    TaskSource,
    find_reader,
    is_fetched,
)
from calibadv_env.errors import DataError

__all__ = [
    "EVAL",
    "SPLITS",
    "CorpusSource",
    "Dataset",
    "Listing",
    "TaskSource",
    "built_in_datasets",
    "describe_datasets",
    "env_id_of",
    "get_dataset",
    "list_datasets",
    "register_dataset",
    "register_versions",
]

GROUP: Final = "calibadv_env.datasets"
"""Group of the entry points by which other packages bring datasets."""

RULES: Final[tuple[dict[str, str], ...]] = (
    {"no_hits": "first", "cover_em": "substring", "normalizer": "squad"},
    {},
)
"""For each version of the environments the arguments in which it differs from the present one."""

_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "atlas-long": {"max_turns": 8},
    "atlas-open": {"reward": "abstain"},
}
"""Arguments of the environments of a dataset in which its ids differ from the others."""

_BUILT_IN: Final[Mapping[str, tuple[str, ...]]] = {
    "atlas": ("calibadv_env.data.atlas", "load_dataset"),
    "atlas-fair": ("calibadv_env.data.atlas", "load_balanced", "atlas-fair"),
    "atlas-noisy": ("calibadv_env.data.atlas", "load_balanced", "atlas-noisy"),
    "atlas-homonyms": ("calibadv_env.data.atlas", "load_balanced", "atlas-homonyms"),
    "atlas-reworded": ("calibadv_env.data.atlas", "load_balanced", "atlas-reworded"),
    "atlas-long": ("calibadv_env.data.atlas", "load_balanced", "atlas-long"),
    "atlas-open": ("calibadv_env.data.atlas", "load_balanced", "atlas-open"),
    "atlas-wiki": ("calibadv_env.data.atlas", "load_wiki_dataset"),
    "pages": ("calibadv_env.data.factbook", "load_dataset"),
    "pages-reworded": ("calibadv_env.data.factbook", "load_dataset", "pages-reworded"),
    "pages-linked": ("calibadv_env.data.factbook", "load_dataset", "pages-linked"),
    "toy": ("calibadv_env.data.toy", "load_dataset"),
    "NQ": ("calibadv_env.data.sources.benchmarks", "load_nq"),
    "TriviaQA": ("calibadv_env.data.sources.benchmarks", "load_triviaqa"),
    "PopQA": ("calibadv_env.data.sources.benchmarks", "load_popqa"),
    "HotpotQA": ("calibadv_env.data.sources.benchmarks", "load_hotpotqa"),
    "2WikiMultihopQA": ("calibadv_env.data.sources.benchmarks", "load_2wikimultihopqa"),
    "MuSiQue": ("calibadv_env.data.sources.benchmarks", "load_musique"),
    "Bamboogle": ("calibadv_env.data.sources.benchmarks", "load_bamboogle"),
}
"""Name -> module and function that makes the dataset, and its arguments. Upper and lower case are
told apart only where a user has registered a name that differs from one of these by nothing else.
"""
_BUILT_IN_BY_LOWER: Final = {name.lower(): name for name in _BUILT_IN}

_datasets: dict[str, Dataset] = {}
_loaders: dict[str, Callable[[], Dataset]] = {}
"""Registered, but not loaded yet."""
_origins: dict[str, str] = {}
_folders: dict[Path, Dataset] = {}
_unnamed: dict[str, Dataset] = {}
"""Merged datasets and those of the hub."""
_registry_lock: Final = threading.RLock()


@dataclass(frozen=True, slots=True)
class Listing:
    """A dataset that is known.

    Attributes:
        name: Its name.
        origin: Where it comes from, in words.
        description: One line, may be empty.
    """

    name: str
    origin: str
    description: str


def get_dataset(name: str) -> Dataset:
    """The dataset of a name, the same object at every call.

    Args:
        name: A built-in dataset (in any case: "hotpotqa" is "HotpotQA"), one given to
            :func:`register_dataset`, one of an installed package, or one that ``calibadv data
            prepare`` has made; a folder in the form that :func:`register_dataset` takes, or a
            file of tasks, whose corpus lies beside it (a text with a path separator in it);
            ``hf:owner/name`` on the hub; or several of these joined by ``+``, whose tasks
            follow one another (:mod:`calibadv_env.data.merged`).

    Raises:
        ValueError: if nothing has this name.
        DataError: if a folder or file, or the data behind a name, is missing or faulty.
    """
    with _registry_lock:
        # The very name first: a user may have registered one that differs by case alone.
        found = _known(name) or _known(_BUILT_IN_BY_LOWER.get(name.lower(), name))
        if found is not None:
            return found
        reader = find_reader(name)
        place = name.removeprefix(reader.prefix)
        if MARK in name and not (is_path(place) and Path(place).exists()):
            return _merged(name)
        if reader.prefix:
            reader.check(name)
            return _unnamed_once(name, lambda: fetched_dataset(name, name, None))
        if is_path(name):
            return _at_path(name)
        folder = {own.lower(): path for own, path in own_names().items()}.get(name.lower())
        if folder is not None:
            return _folder_once(folder)
    known = ", ".join(repr(known) for known in list_datasets())
    raise ValueError(
        f"dataset must be one of {known} or the path of a folder or file, got {name!r}"
    )


def list_datasets() -> tuple[str, ...]:
    """The names that are known, in alphabetical order; nothing is loaded."""
    return tuple(sorted({*_BUILT_IN, *_datasets, *_loaders, *plugin_datasets(), *own_names()}))


def describe_datasets() -> tuple[Listing, ...]:
    """The datasets that are known and where each comes from, in alphabetical order.

    Nothing is loaded, and no other package is imported.
    """
    origins = {name: f"prepared in {folder}" for name, folder in own_names().items()}
    origins |= {name: plugin.origin for name, plugin in plugin_datasets().items()}
    origins |= {**_origins, **dict.fromkeys(_BUILT_IN, "built in")}
    listings = []
    for name in list_datasets():
        dataset = get_dataset(name) if name in _BUILT_IN else _datasets.get(name)
        listings.append(Listing(name, origins[name], dataset.description if dataset else ""))
    return tuple(listings)


def register_dataset(
    name: str,
    path_or_tasks: TaskSource | Mapping[str, TaskSource],
    corpus: CorpusSource | None = None,
    *,
    overwrite: bool = False,
    columns: Mapping[str, str] | None = None,
    corpus_columns: Mapping[str, str] | None = None,
    answer_separator: str = "",
    passage_words: int | None = None,
    passage_overlap: int = 0,
) -> str:
    """Makes ``DeepSearch-<Name>-v1`` from tasks and a corpus.

    Files and sequences are read and checked at once, so a dataset that is registered from them is
    a sound one; if anything is wrong, nothing is registered. Any other iterable, such as a
    generator, is used up at the first use and checked then; a dataset of the hub is fetched then.

    Args:
        name: Letters and digits in words joined by ``-`` or ``_``. In the id each word begins
            with a capital: "my-trivia" and "MyTrivia" both give ``DeepSearch-MyTrivia-v1``.
        path_or_tasks: One file in any form that ``docs/datasets.md`` lists (JSON, a table, parquet,
            Arrow; plain or gzip), several files, a data frame, or one iterable of tasks (of
            :class:`QATask` or of dicts), which becomes the split "test" and is also given when
            "train" or "dev" is asked for; or a folder whose files hold the splits; or a mapping
            from split to one of these; or ``hf:owner/name`` or ``hf:owner/name:configuration``.
        corpus: A file or folder of documents in any form that ``docs/datasets.md`` lists, the
            folder of an index, a :class:`Corpus`, an iterable of :class:`Passage` or of dicts, or
            ``hf:owner/name``; or "own" for the paragraphs that the questions carry. May be left
            out for those, and for a folder with a file ``corpus`` or ``documents``.
        overwrite: If true, a dataset already registered under this name gives way.
        columns: Keys of ``question``, ``answers``, ``id`` and ``split``, where guessing fails;
            a key may be a path with dots, such as "meta.answer".
        corpus_columns: Keys of ``id``, ``title`` and ``text`` of the documents.
        answer_separator: Stands between answers in one text, such as "|"; by default a text is
            one answer.
        passage_words: Longer documents are cut into passages of so many words; None leaves them
            whole, but for the files of a folder (:class:`calibadv_env.data.cutting.Cutting`).
        passage_overlap: Words that a passage repeats of the one before.

    Returns:
        The id of the environment.

    Raises:
        ValueError: if the name is malformed or taken, or an argument has the wrong form.
        DataError: if a file is missing or malformed (with file and line), or a task names a
            gold passage that the corpus does not hold (with the task).
    """
    env_id = env_id_of(name)
    options = Options(
        columns=columns or {},
        corpus_columns=corpus_columns or {},
        answer_separator=answer_separator,
        cutting=Cutting(words=passage_words, overlap=passage_overlap),
    )
    _register(name, path_or_tasks, corpus, options, overwrite=overwrite)
    return env_id


def _register(
    name: str,
    source: TaskSource | Mapping[str, TaskSource],
    corpus: CorpusSource | None,
    options: Options,
    *,
    overwrite: bool,
) -> None:
    """Takes a dataset on once it has been read; one that is fetched, as it is named."""
    with _registry_lock:
        _refuse_taken_name(name, env_id_of(name), overwrite=overwrite)
        if isinstance(source, str) and is_fetched(source):
            fetched = source
            find_reader(fetched).check(fetched)
            is_own = isinstance(corpus, str) and corpus == OWN
            load_corpus = None if is_own else corpus_loader(name, corpus, options)
            _datasets.pop(name, None)
            _loaders[name] = lambda: fetched_dataset(name, fetched, load_corpus, options)
        else:
            made = dataset_of(name, source, corpus, options=options)
            _datasets[name] = made.found_by(get_dataset)
            _loaders.pop(name, None)
        _origins[name] = f"registered by this process from {_origin_of(source)}"
        register_versions(name)


def built_in_datasets() -> tuple[str, ...]:
    """The names that are known without registration, in alphabetical order."""
    return tuple(sorted(_BUILT_IN))


def plugin_datasets() -> dict[str, Plugin]:
    """The datasets of all installed packages by name; none of them is imported.

    A name that an environment cannot have is warned about and left out.
    """
    found = plugins(GROUP)
    for name in [name for name in found if not NAME.fullmatch(name)]:
        del found[name]
        warnings.warn(f"entry point {name!r} of {GROUP} is no name of a dataset", stacklevel=2)
    return found


def refuse_built_in_name(name: str) -> None:
    """Refuses a new dataset whose environment would have the id of a built-in one.

    A path of a dataset may be any.

    Raises:
        ValueError: if the name is malformed or, in any case, that of a built-in dataset.
    """
    taken = {env_id_of(built_in).lower() for built_in in _BUILT_IN}
    if not is_path(name) and env_id_of(name).lower() in taken:
        raise ValueError(f"name must not be that of a built-in dataset, got {name!r}")


def register_versions(dataset: str | None = None) -> None:
    """Registers the ids of a dataset with Gymnasium, one a version, in place of earlier ones.

    Args:
        dataset: The dataset that the ids stand for; None for the ids ``DeepSearch-v1`` and the
            like, which leave the choice to the environment's own default.
    """
    if dataset in PAGES:
        _register_pages(dataset)
        return
    own = _DEFAULTS.get(dataset or "", {})
    for version, rules in enumerate(RULES):
        env_id = f"DeepSearch-v{version}" if dataset is None else env_id_of(dataset, version)
        gymnasium_registry.pop(env_id, None)
        register(
            id=env_id,
            entry_point="calibadv_env.env:DeepSearchEnv",
            vector_entry_point="calibadv_env.vector:DeepSearchVectorEnv",
            kwargs=rules if dataset is None else {"dataset": dataset, **own, **rules},
        )


def _register_pages(dataset: str) -> None:
    """Registers the id of the environment of built-in pages."""
    register(
        id=env_id_of(dataset),
        entry_point="calibadv_env.pages.env:DeepSearchPagesEnv",
        vector_entry_point="calibadv_env.pages.vector:DeepSearchPagesVectorEnv",
        kwargs={} if dataset == PAGES[0] else {"dataset": dataset},
    )


def _refuse_taken_name(name: str, env_id: str, *, overwrite: bool) -> None:
    for taken in sorted({*_BUILT_IN, *_datasets, *_loaders, *plugin_datasets()}):
        if env_id_of(taken) != env_id:
            continue
        if taken in _BUILT_IN:
            raise ValueError(f"name must not be that of a built-in dataset, got {name!r}")
        if taken != name:
            raise ValueError(f"name {name!r} gives the id {env_id} of the dataset {taken!r}")
        if not overwrite:
            raise ValueError(f"dataset {name!r} is already registered; pass overwrite=True")


def _known(name: str) -> Dataset | None:
    """The dataset of a name that is registered, built in, or brought by a package."""
    if name in _datasets:
        return _datasets[name]
    if name in _loaders:
        made: Dataset | Path = _loaders[name]()
        del _loaders[name]
    elif name in _BUILT_IN:
        module, function, *arguments = _BUILT_IN[name]
        made = getattr(importlib.import_module(module), function)(*arguments)
    elif name in plugin_datasets():
        made = _load_plugin(plugin_datasets()[name])
    else:
        return None
    dataset = made if isinstance(made, Dataset) else dataset_of(name, made, None)
    _datasets[name] = dataset.found_by(get_dataset)
    return dataset


def _load_plugin(plugin: Plugin) -> Dataset | Path:
    """Calls the function of another package."""
    made = plugin.load()()
    if isinstance(made, Dataset) and made.name == plugin.name:
        return made
    if isinstance(made, (str, Path)):
        return Path(made)
    got = f"one named {made.name!r}" if isinstance(made, Dataset) else type(made).__name__
    raise DataError(
        f"{plugin.origin} must give a Dataset named {plugin.name!r} or the path of a folder, got "
        f"{got}"
    )


def _unnamed_once(name: str, make: Callable[[], Dataset]) -> Dataset:
    if name not in _unnamed:
        _unnamed[name] = make().found_by(get_dataset)
    return _unnamed[name]


def _merged(name: str) -> Dataset:
    parts = [get_dataset(part.strip()) for part in name.split(MARK)]
    return _unnamed_once(MARK.join(part.name for part in parts), lambda: merge(parts))


def _at_path(name: str) -> Dataset:
    path = Path(name).resolve()
    if not path.exists():
        raise DataError(f"{path}: there is no such folder or file")
    return _folder_once(path)


def _folder_once(path: Path) -> Dataset:
    """The dataset of a folder, or of a file with its corpus beside it."""
    path = path.resolve()
    if path not in _folders:
        note = (read_prepared(path) if path.is_dir() else None) or {}
        name = str(note.get("dataset", path))
        if own_folder(name).resolve() != path:
            name = str(path)
        if note.get("corpus") and "dataset" in note:
            _folders[path] = dataset_of(
                name, path, None, partial(own_corpus, path, note), is_gold_checked=False
            )
        else:
            folder = path if path.is_dir() else path.parent
            # Without a corpus near by, the paragraphs that the questions carry are the corpus.
            fallback = no_corpus(str(path), folder)
            _folders[path] = dataset_of(name, path, corpus_file(folder), fallback=fallback)
        _folders[path].found_by(get_dataset)
    return _folders[path]


def _origin_of(source: TaskSource | Mapping[str, TaskSource]) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    if isinstance(source, Mapping):
        return ", ".join(f"{split}: {_origin_of(of)}" for split, of in source.items())
    return f"a {type(source).__name__}" if isinstance(source, Iterable) else "?"
