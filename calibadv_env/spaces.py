"""A space of text that takes any text."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.error import CustomSpaceError
from gymnasium.spaces import Text
from gymnasium.spaces.utils import flatten_space
from gymnasium.vector.utils import create_shared_memory
from numpy.typing import NDArray

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?<>/äçéßøαж中日ا🙂"
_MAX_SAMPLE_CHARS = 256

TextMask = tuple[int | None, NDArray[np.int8] | None]
TextProbability = tuple[int | None, NDArray[np.float64] | None]


class UnicodeText(Text):
    """All strings of at most ``max_chars`` characters, the empty one included.

    The stock ``Text`` space accepts only the characters of a fixed list and, by default, no
    empty string, so text in natural language does not fit into it.

    Args:
        max_chars: Longest text in characters, at least 1.
        seed: Seed of the sampling.

    Raises:
        ValueError: if ``max_chars`` is below 1.
    """

    def __init__(self, max_chars: int, *, seed: int | np.random.Generator | None = None) -> None:
        if max_chars < 1:
            raise ValueError(f"max_chars must be at least 1, got {max_chars}")
        super().__init__(max_chars, min_length=0, charset=_ALPHABET, seed=seed)

    @property
    def max_chars(self) -> int:
        """Longest text in characters."""
        return self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """Text of arbitrary characters has no flat form of fixed size."""
        return False

    def contains(self, x: Any) -> bool:
        """Tells if ``x`` is a string that is not too long; any character will do."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(
        self, mask: TextMask | None = None, probability: TextProbability | None = None
    ) -> str:
        """Draws a short text from a small alphabet of several scripts.

        Args:
            mask: As in ``gymnasium.spaces.Text``.
            probability: As in ``gymnasium.spaces.Text``.

        Returns:
            A text of at most 256 characters, the same for the same seed; with a mask or
            probabilities whatever the stock space gives.
        """
        if mask is not None or probability is not None:
            return super().sample(mask=mask, probability=probability)
        length = int(self.np_random.integers(min(self.max_length, _MAX_SAMPLE_CHARS) + 1))
        picks = self.np_random.integers(len(_ALPHABET), size=length)
        return "".join(_ALPHABET[pick] for pick in picks)

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object, /) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length


@create_shared_memory.register(UnicodeText)
def _refuse_shared_memory(space: UnicodeText, n: int = 1, ctx: Any = None) -> None:
    """Says what to do instead, where the stock code would fail on the first accent."""
    raise CustomSpaceError(
        f"{space!r} cannot live in shared memory; make the AsyncVectorEnv with shared_memory=False"
    )


@flatten_space.register(UnicodeText)
def _refuse_flattening(space: UnicodeText) -> None:
    """Refuses at once; the stock code would make a space that the first ";" does not fit into."""
    raise CustomSpaceError(
        f"{space!r} cannot be flattened: its text has no fixed alphabet and no fixed length; "
        "encode observations with the policy's tokenizer instead"
    )
