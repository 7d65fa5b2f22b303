"""Finding the end of a turn: stop strings and end-of-sequence tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"


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
