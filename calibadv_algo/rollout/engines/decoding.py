"""Decoding of turns: sampling of tokens, their text, and the end of a turn.

One random number a token is drawn before the turn begins, from the request's own generator, and
each token is the inverse of the cumulative distribution at one of them. So what shares the batch
with a request cannot change its tokens, up to the rounding of the logits themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Uniforms = NDArray[np.float64]
REPLACEMENT: Final = "\ufffd"
"""Character in place of bytes that are no UTF-8."""


def draw_uniforms(seed: int, count: int) -> Uniforms:
    """Draws the random numbers of one turn.

    Args:
        seed: Seed of the turn, not negative.
        count: How many; a longer draw begins with the shorter one.

    Returns:
        ``[count]`` numbers in ``[0, 1)``.
    """
    return np.random.Generator(np.random.Philox(seed)).random(count)


def sample_tokens(
    logits: Tensor, uniforms: Tensor, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Picks one token for each row.

    The log-probability is that of the tempered distribution over the whole vocabulary, before
    top-p cuts it: this is what a trainer computes from logits, and with ``top_p=1`` it is the
    distribution that was sampled from. Greedy choice reports the untempered one.

    Args:
        logits: ``[row, vocabulary]``, any floating type; computed in float32.
        uniforms: ``[row]`` float64 in ``[0, 1)``; unused when greedy.
        temperature: 0 for greedy, else the divisor of the logits.
        top_p: Mass of the nucleus in ``(0, 1]``; 1 keeps everything.

    Returns:
        Tokens ``[row]`` int64 and their log-probabilities ``[row]`` float32.
    """
    scaled = logits.float()
    if temperature not in (0.0, 1.0):
        scaled = scaled / temperature
    logprobs = torch.log_softmax(scaled, dim=-1)
    if temperature == 0.0:
        tokens = logprobs.argmax(dim=-1)
    else:
        tokens = invert_cdf(keep_nucleus(logprobs.exp(), top_p), uniforms)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def keep_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Sets to zero what lies outside the smallest set of tokens with mass ``top_p``.

    Args:
        probabilities: ``[row, vocabulary]``.
        top_p: In ``(0, 1]``; the likeliest token always stays, ties go to the lower id.

    Returns:
        ``[row, vocabulary]``, not renormalised; the input itself for ``top_p=1``.
    """
    if top_p >= 1.0:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    mass_before = ordered.double().cumsum(dim=-1) - ordered
    kept = torch.where(mass_before < top_p, ordered, torch.zeros_like(ordered))
    return torch.zeros_like(probabilities).scatter(1, order, kept)


def invert_cdf(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Finds the first token whose cumulative weight exceeds ``uniform * total``.

    Args:
        weights: ``[row, vocabulary]``, not negative, positive somewhere in each row.
        uniforms: ``[row]`` float64 in ``[0, 1)``.

    Returns:
        ``[row]`` token ids; never one of weight zero.
    """
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    points = torch.minimum(uniforms * total, below_total)
    return torch.searchsorted(cumulative, points[:, None], right=True)[:, 0]


class TurnDecoder:
    """Decodes turns: every token is visible except end-of-sequence and padding.

    Attributes:
        eos_ids: Tokens that end a turn and are not part of its text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int]) -> None:
        """Hides ``eos_ids`` and padding from the text."""
        self._tokenizer = tokenizer
        self.eos_ids = frozenset(eos_ids)
        pad = tokenizer.pad_token_id
        self._hidden = self.eos_ids | ({int(pad)} if isinstance(pad, int) else frozenset())
        self._vocabulary: list[str] | None = None

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a piece of a turn; bytes that are no UTF-8 become replacement characters."""
        shown = [token for token in token_ids if token not in self._hidden]
        text = self._tokenizer.decode(
            shown, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return str(text)

    def vocabulary(self, size: int) -> list[str]:
        """Text of every token alone, computed once.

        Args:
            size: Number of ids that the model can produce; ids that the tokenizer does not
                know are empty.
        """
        if self._vocabulary is None or len(self._vocabulary) != size:
            known = min(size, len(self._tokenizer))
            texts = [self.decode((token,)) for token in range(known)]
            self._vocabulary = texts + [""] * (size - known)
        return self._vocabulary


class StopMatcher:
    """Detects the end of a turn, looking only when its last token could have ended it.

    A stop string is complete only after a token that holds (a byte of) its last character, so
    all other tokens are passed over by a table look-up.
    """

    def __init__(self, decoder: TurnDecoder, stop: Sequence[str], vocabulary_size: int) -> None:
        """Builds the table.

        Args:
            decoder: Decodes turns.
            stop: Strings that end a turn, none of them empty.
            vocabulary_size: Number of ids that the model can produce.

        Raises:
            ValueError: if a stop string is empty.
        """
        if any(not text for text in stop):
            raise ValueError(f"stop must not hold an empty string, got {tuple(stop)}")
        self._decoder = decoder
        self._stop = tuple(stop)
        self._tail = max((len(text.encode()) for text in stop), default=0) + 4
        self.may_end = self._table(vocabulary_size)

    def find_end(self, token_ids: Sequence[int]) -> str | None:
        """Text of the turn up to the end of its first stop string, None if it has none."""
        if self._first_end(self._decoder.decode(token_ids[-self._tail :])) is None:
            return None
        text = self._decoder.decode(token_ids)
        end = self._first_end(text)
        return None if end is None else text[:end]

    def _first_end(self, text: str) -> int | None:
        ends = [text.find(stop) + len(stop) for stop in self._stop if stop in text]
        return min(ends) if ends else None

    def _table(self, size: int) -> NDArray[np.bool_]:
        table = np.zeros(size, dtype=np.bool_)
        table[[token for token in self._decoder.eos_ids if token < size]] = True
        if not self._stop:
            return table
        finals = {text[-1] for text in self._stop}
        if any(final.isspace() for final in finals):
            return np.ones(size, dtype=np.bool_)
        if any(not final.isascii() for final in finals):
            finals.add(REPLACEMENT)
        for token, text in enumerate(self._decoder.vocabulary(size)):
            table[token] |= any(final in text for final in finals)
        return table


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens that end a turn: those of the model's generation config and the tokenizer's."""
    generation_config = getattr(model, "generation_config", None)
    found = [getattr(generation_config, "eos_token_id", None), tokenizer.eos_token_id]
    ids: set[int] = set()
    for value in found:
        if isinstance(value, int):
            ids.add(value)
        elif value is not None:
            ids.update(int(token) for token in value)
    return tuple(sorted(ids))
