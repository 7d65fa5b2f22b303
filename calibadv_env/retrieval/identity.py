"""What the answers of a retriever depend on, as a record that can be compared and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from calibadv_env.retrieval.base import Retriever


def retriever_identity(retriever: Retriever) -> dict[str, Any]:
    """Describes a retriever by its kind, its settings and the hash of its corpus.

    Args:
        retriever: Any. A method ``identity() -> dict`` is asked first; else the manifest of an
            index, else the attributes that our retrievers keep their settings, parts and corpus in.

    Returns:
        A record that JSON can hold. Equal records mean equal answers, as far as is known.

    Raises:
        RetrieverError: if the retriever has to ask a server for it and cannot.
    """
    own = getattr(retriever, "identity", None)
    if callable(own):
        return dict(own())
    record: dict[str, Any] = {"kind": type(retriever).__name__}
    manifest = getattr(retriever, "manifest", None)
    settings = getattr(manifest or retriever, "settings", None)
    if isinstance(settings, Mapping):
        record["settings"] = dict(settings)
    elif is_dataclass(settings) and not isinstance(settings, type):
        record["settings"] = asdict(settings)
    for name in ("k1", "b", "depth", "constant"):
        value = getattr(retriever, name, None)
        if isinstance(value, int | float):
            record[name] = value
    parts = getattr(retriever, "retrievers", None) or getattr(retriever, "retriever", None)
    if parts is not None:
        chosen = parts if isinstance(parts, tuple | list) else (parts,)
        record["parts"] = [retriever_identity(part) for part in chosen]
    scorer = getattr(retriever, "scorer", None)
    if scorer is not None:
        record["scorer"] = repr(scorer)
    corpus = getattr(retriever, "corpus", None)
    corpus_sha256 = getattr(corpus, "sha256", None)
    if isinstance(corpus_sha256, str):
        record["corpus_sha256"] = corpus_sha256
        record["num_passages"] = len(corpus)  # type: ignore[arg-type]
    return record
