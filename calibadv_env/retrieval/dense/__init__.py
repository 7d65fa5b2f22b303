"""Dense retrieval: encoders, and vectors in a faiss index."""

from __future__ import annotations

from typing import Final

from calibadv_env.retrieval.backends import Backend, lazily

BACKENDS: Final = (
    Backend(name="dense", open=lazily("calibadv_env.retrieval.dense.index:DenseIndex")),
)
