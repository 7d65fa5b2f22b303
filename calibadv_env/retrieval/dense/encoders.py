"""Models that turn text into vectors or scores; torch is imported when one is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from calibadv_env.common.checks import require_positive
from calibadv_env.common.extras import import_extra
from calibadv_env.errors import DataError
from calibadv_env.protocol.passages import Passage
from calibadv_env.retrieval.corpus import indexed_text
from calibadv_env.retrieval.dense.families import FAMILIES, family_of

_FINGERPRINT_FILES: Final = ("config.json", "tokenizer.json", "vocab.txt")
_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")
_TOKEN_STEP: Final = 8
_LEAST_TOKENS: Final = 16
"""From so many rows on, a matrix product of MKL gives each row the same bits in any company."""
_QUERIES_PER_BATCH: Final = 64
_THREADS: Final = threading.Lock()


@runtime_checkable
class Encoder(Protocol):
    """Turns queries and passages into vectors whose inner product ranks."""

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Equal for encoders that give equal vectors; written into the index."""
        ...

    def encode_queries(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """One vector a query, which does not depend on the other queries."""
        ...

    def encode_passages(self, passages: Sequence[Passage]) -> npt.NDArray[np.float32]:
        """One vector a passage."""
        ...


class TransformerEncoder:
    """An encoder from a folder or from the hub.

    Queries are padded to a length that depends on the query alone (the next multiple of 8 tokens,
    at least 16), and those of equal length are encoded together, on one thread of the CPU. The
    matrix products of MKL, which torch has on x86, then work row by row, so a query's vector does
    not depend on which queries share the batch, to the last bit. Other libraries, and a GPU, may
    round differently in another company. The families that pool by the model's own pooler (DPR),
    which sees one row a query, are encoded one query at a time. Passages are encoded in batches of
    similar length, on all threads.

    Args:
        model: Folder with a Hugging Face model, or its name on the hub.
        family: A key of :data:`FAMILIES`; None guesses it from the name.
        query_model: The encoder of queries where it is another one (DPR); None: the same.
        device: "cpu", "cuda", …; None takes a GPU if there is one.
        batch_size: Passages that are encoded at a time.

    Raises:
        ValueError: if the family is unknown, or DPR lacks its second model.
        DataError: if the model cannot be loaded.
        MissingDependencyError: if torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str,
        family: str | None = None,
        *,
        query_model: str | None = None,
        device: str | None = None,
        batch_size: int = 32,
    ) -> None:
        self.family_name = family_of(model) if family is None else family
        if self.family_name not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise ValueError(f"family must be one of {known}, got {self.family_name!r}")
        self.family = FAMILIES[self.family_name]
        if self.family.passage_class and query_model is None:
            raise ValueError(f"query_model must be named for the family {self.family_name!r}")
        require_positive(batch_size=batch_size)
        self.model = model
        self.query_model = query_model
        self.device = _checked_device(device)
        self.batch_size = batch_size
        self._tokenizer = _load(model, "AutoTokenizer")
        self._passages = _load_model(model, self.family.passage_class, self.device)
        self._queries, self._query_tokenizer = self._passages, self._tokenizer
        if query_model is not None:
            self._queries = _load_model(query_model, "", self.device)
            self._query_tokenizer = _load(query_model, "AutoTokenizer")
        self.fingerprint = self._make_fingerprint()

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return int(self._passages.config.hidden_size)

    def encode_queries(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        """One vector a query, ``[query, dimension]``, independent of the others; see the class."""
        vectors = np.empty((len(queries), self.dimension), np.float32)
        if not queries:
            return vectors
        texts = _valid([self.family.query_prefix + query for query in queries])
        tokens = self._query_tokenizer(
            texts, truncation="longest_first", max_length=self.family.max_tokens
        )
        rows = tokens["input_ids"]
        size = 1 if self.family.pooling == "pooler" else _QUERIES_PER_BATCH
        with _one_thread():
            for length, group in _by_length([len(row) for row in rows], self.family.max_tokens):
                for start in range(0, len(group), size):
                    chosen = group[start : start + size]
                    inputs = self._query_tokenizer.pad(
                        {name: [values[i] for i in chosen] for name, values in tokens.items()},
                        padding="max_length",
                        max_length=length,
                        return_tensors="pt",
                    )
                    vectors[chosen] = self._pooled(self._queries, inputs)
        return vectors

    def encode_passages(self, passages: Sequence[Passage]) -> npt.NDArray[np.float32]:
        """One vector a passage, ``[passage, dimension]``."""
        vectors = np.empty((len(passages), self.dimension), np.float32)
        lengths = [len(p.title) + len(p.text) for p in passages]
        order = sorted(range(len(passages)), key=lengths.__getitem__)
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            texts, pairs = self._passage_texts([passages[i] for i in chosen])
            inputs = self._tokenizer(
                _valid(texts),
                None if pairs is None else _valid(pairs),
                padding=True,
                truncation="longest_first",
                max_length=self.family.max_tokens,
                return_tensors="pt",
            )
            vectors[chosen] = self._pooled(self._passages, inputs)
        return vectors

    def _passage_texts(self, passages: list[Passage]) -> tuple[list[str], list[str] | None]:
        if self.family.has_title_pair:
            return [p.title for p in passages], [p.text for p in passages]
        return [self.family.passage_prefix + indexed_text(p) for p in passages], None

    def _pooled(self, model: Any, inputs: Any) -> npt.NDArray[np.float32]:
        torch = _import("torch")
        inputs = inputs.to(self.device)
        with torch.inference_mode():
            outputs = model(**inputs)
            if self.family.pooling == "pooler":
                vectors = outputs.pooler_output
            elif self.family.pooling == "cls":
                vectors = outputs.last_hidden_state[:, 0]
            else:
                mask = inputs["attention_mask"].unsqueeze(-1)
                vectors = (outputs.last_hidden_state * mask).sum(1) / mask.sum(1)
            if self.family.is_normalized:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
        found: npt.NDArray[np.float32] = vectors.float().cpu().numpy()
        return found

    def _make_fingerprint(self) -> str:
        parts = [self.family_name, _model_fingerprint(self.model, self._passages)]
        if self.query_model is not None:
            parts.append(_model_fingerprint(self.query_model, self._queries))
        return ":".join(parts)


class TransformerCrossEncoder:
    """Scores a query and a passage together: a model with one output, such as ms-marco-MiniLM.

    Args:
        model: Folder with a Hugging Face model for sequence classification, or its hub name.
        device: "cpu", "cuda", …; None takes a GPU if there is one.
        batch_size: Passages that are scored at a time.
        max_tokens: Longer pairs are cut.

    Raises:
        ValueError: if the model has more than one output.
        DataError: if the model cannot be loaded.
        MissingDependencyError: if torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        batch_size: int = 32,
        max_tokens: int = 512,
    ) -> None:
        self.device = _checked_device(device)
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self._tokenizer = _load(model, "AutoTokenizer")
        self._model = _load_model(model, "AutoModelForSequenceClassification", self.device)
        if self._model.config.num_labels != 1:
            raise ValueError(
                f"a cross-encoder must have one output, got {self._model.config.num_labels} from "
                f"{model!r}"
            )
        self.fingerprint = f"cross:{max_tokens}:{_model_fingerprint(model, self._model)}"

    def score(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """One score for each passage of a query; higher is better."""
        torch = _import("torch")
        scores: list[float] = []
        for start in range(0, len(passages), self.batch_size):
            texts = _valid([indexed_text(p) for p in passages[start : start + self.batch_size]])
            inputs = self._tokenizer(
                _valid([query]) * len(texts),
                texts,
                padding=True,
                truncation="longest_first",
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                scores += self._model(**inputs).logits[:, 0].float().cpu().tolist()
        return scores


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Lets torch work on one thread; the setting is the process's, so one call at a time."""
    torch = _import("torch")
    with _THREADS:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)


def _by_length(lengths: Sequence[int], most: int) -> list[tuple[int, list[int]]]:
    """The positions of texts by the length that each is padded to."""
    groups: dict[int, list[int]] = {}
    for position, length in enumerate(lengths):
        padded = min(most, max(_LEAST_TOKENS, -(-length // _TOKEN_STEP) * _TOKEN_STEP))
        groups.setdefault(padded, []).append(position)
    return sorted(groups.items())


def _valid(texts: Sequence[str]) -> list[str]:
    """Lone surrogates, which no tokenizer takes, become question marks."""
    return [text.encode("utf-8", "replace").decode() for text in texts]


def _import(name: str) -> Any:
    return import_extra(name, "dense", "dense retrieval")


def _checked_device(device: str | None) -> str:
    """The device of a model, by default a GPU if there is one.

    Raises:
        ValueError: if it is a GPU and there is none.
    """
    has_gpu = _import("torch").cuda.is_available()
    if device is not None and device.startswith("cuda") and not has_gpu:
        raise ValueError(f"device {device!r} needs a GPU that torch can use, and there is none")
    return device or ("cuda" if has_gpu else "cpu")


def _load(model: str, class_name: str) -> Any:
    loader = getattr(_import("transformers"), class_name)
    try:
        return loader.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise DataError(
            f"the model must be a folder with a Hugging Face model or a name on the hub that can "
            f"be reached or is in the cache; {model!r} could not be loaded: {error}"
        ) from error


def _load_model(model: str, class_name: str, device: str) -> Any:
    return _load(model, class_name or "AutoModel").to(device).eval()


def _model_fingerprint(model: str, loaded: Any) -> str:
    """The hash of a folder's files; for a model of the hub its name and commit."""
    folder = Path(model)
    if not folder.is_dir():
        return f"{model}@{getattr(loaded.config, '_commit_hash', None)}"
    names = {folder / name for name in _FINGERPRINT_FILES}
    for pattern in _WEIGHTS:
        names.update(folder.glob(pattern))
    digest = hashlib.sha256()
    for path in sorted(names):
        if path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
