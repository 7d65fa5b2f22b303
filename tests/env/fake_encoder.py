"""An encoder without a model: vectors that a hash of the words decides."""

import hashlib

import numpy as np


class FakeEncoder:
    def __init__(self, dimension=16, fingerprint="fake"):
        self.dimension = dimension
        self.fingerprint = fingerprint
        self.num_encoded = 0

    def encode_queries(self, queries):
        return np.stack([self.vector(query) for query in queries])

    def encode_passages(self, passages):
        self.num_encoded += len(passages)
        return np.stack([self.vector(f"{p.title} {p.text}") for p in passages])

    def vector(self, text):
        total = np.zeros(self.dimension)
        for word in text.lower().split():
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
            total += np.random.default_rng(seed).standard_normal(self.dimension)
        return (total / max(np.linalg.norm(total), 1e-9)).astype(np.float32)
