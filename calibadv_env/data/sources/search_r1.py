"""Search-R1's parquet files, and those of verl and SkyRL that are made from them.

A row is ``{data_source, prompt, ability, reward_model, extra_info}``, as a rule with FlashRAG's
own columns beside it. One file may hold several benchmarks, told apart by ``data_source``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.data.names import SPLITS
from calibadv_env.data.questions.answers import find_answers
from calibadv_env.data.questions.unanswered import has_blank
from calibadv_env.data.sources.hub import row_of
from calibadv_env.errors import DataError

_PREFIX: Final = "searchr1_"
_BATCH: Final = 1024
_MARK: Final = "Question:"
_HUB_NAMES: Final = {"nq_open": "nq", "trivia_qa": "triviaqa", "hotpot_qa": "hotpotqa"}
_COLUMNS: Final = (
    "id",
    "question",
    "golden_answers",
    "metadata",
    "data_source",
    "prompt",
    "reward_model",
    "reward_spec",
    "extra_info",
)


@dataclass(frozen=True, slots=True)
class ParquetFiles:
    """One benchmark in one or several parquet files.

    Search-R1 calls every split that it evaluates on "test". Where the benchmark has no test
    split, those rows are what ``eval_split`` names.

    Attributes:
        paths: The files.
        name: FlashRAG's name of the benchmark; rows of others are passed over.
        eval_split: The split that the benchmark is evaluated on.
    """

    paths: tuple[Path, ...]
    name: str
    eval_split: str

    @property
    def label(self) -> str:
        """See :class:`calibadv_env.data.sources.flashrag.Source`."""
        return "parquet " + " ".join(str(path) for path in self.paths)

    def splits(self) -> tuple[str, ...]:
        """See :class:`calibadv_env.data.sources.flashrag.Source`."""
        found, sources = set(), Counter[str]()
        for path in self.paths:
            for place, row in _rows(path, ("data_source", "extra_info")):
                source = source_name(row)
                sources[source] += 1
                if source == self.name:
                    found.add(self._split_of(place, path, row))
        if not found:
            held = ", ".join(f"{source} ({count})" for source, count in sorted(sources.items()))
            raise DataError(f"{self.label}: no row has the data_source {self.name!r}, only {held}")
        return tuple(split for split in SPLITS if split in found)

    def records(self, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """See :class:`calibadv_env.data.sources.flashrag.Source`."""
        for path in self.paths:
            for place, row in _rows(path, _COLUMNS):
                if source_name(row) == self.name and self._split_of(place, path, row) == split:
                    try:
                        yield place, record_of(row)
                    except ValueError as error:
                        raise DataError(f"{place}: {error}") from error

    def _split_of(self, place: str, path: Path, row: Mapping[str, Any]) -> str:
        split = _mapping(row.get("extra_info")).get("split") or path.stem
        split = {"val": "dev", "validation": "dev"}.get(split, split)
        if split not in SPLITS:
            raise DataError(
                f"{place}: extra_info.split, or else the name of the file, must be one of "
                f"{', '.join(SPLITS)}, got {split!r}"
            )
        return self.eval_split if split == "test" else split


def has_data_source(paths: Sequence[Path]) -> bool:
    """True for files that say of every row which benchmark it is of."""
    parquet = import_extra("pyarrow.parquet", "data", "reading parquet")
    try:
        return all("data_source" in parquet.read_schema(path).names for path in paths)
    except (OSError, ValueError):
        return False


def source_name(row: Mapping[str, Any]) -> str:
    """Name of a row's benchmark: lower case, without the prefix that verl and SkyRL add.

    A name of the hub, such as ``google-research-datasets/nq_open``, is that of its benchmark.
    """
    name = str(row.get("data_source", "")).lower().removeprefix(_PREFIX).rpartition("/")[2]
    return _HUB_NAMES.get(name, name)


def record_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A FlashRAG record of a row, with the row's own ``id`` or else ``<split>_<index>``.

    Raises:
        ValueError: if the row has no question or no accepted answers.
    """
    extra = _mapping(row.get("extra_info"))
    record: dict[str, Any] = {
        "id": row.get("id", f"{extra.get('split', 'row')}_{extra.get('index', '')}"),
        "question": row.get("question") or extra.get("question") or _question(row.get("prompt")),
        "golden_answers": _answers(row),
    }
    if row.get("metadata"):
        record["metadata"] = row["metadata"]
    return record


def _answers(row: Mapping[str, Any]) -> list[Any]:
    """The accepted answers, from whichever of the usual places has them; [] where it is blank."""
    for value in (
        row.get("golden_answers"),
        _mapping(row.get("reward_model")).get("ground_truth"),
        _mapping(row.get("reward_spec")).get("ground_truth"),
    ):
        target = value.get("target") if isinstance(value, dict) else value
        if isinstance(target, str):
            # One text may be all answers joined, beside which extra_info keeps the list.
            return find_answers(row, None, "")[1] or [target]
        if target:
            return list(target)
    if has_blank(row):
        return []
    raise ValueError(
        "accepted answers must stand in golden_answers, reward_model.ground_truth.target or "
        "reward_spec.ground_truth.target"
    )


def _question(prompt: Any) -> str:
    """Text after the last "Question:" of the last message; the instruction is cut off."""
    messages: Sequence[Any] = prompt if isinstance(prompt, list) else ()
    content = _mapping(messages[-1]).get("content") if messages else None
    _, mark, question = str(content or "").rpartition(_MARK)
    if not mark or not question.strip():
        raise ValueError(
            f"the question must stand in question, extra_info.question or after {_MARK!r} in the "
            "last message of prompt"
        )
    return question.strip()


def _rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, a batch at a time, each with its place."""
    arrow = import_extra("pyarrow", "data", "reading parquet")
    parquet = import_extra("pyarrow.parquet", "data", "reading parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in wanted if name in file.schema_arrow.names]
            if "data_source" not in columns:
                raise DataError(f"{path}: the file has no column data_source")
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                for row in batch.to_pylist():
                    yield f"{path}: row {number}", row_of(row)
                    number += 1
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path}: cannot read the file near row {number}: {error}") from error


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
