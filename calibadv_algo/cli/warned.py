"""Warnings of a run on the standard error stream, and a first Ctrl-C that lets it save."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console

from calibadv_algo.rollout.conversation import EarlierThoughts, Observations, thoughts_notice
from calibadv_algo.training.config import TrainConfig
from calibadv_algo.training.warnings import StrictError, TrainingSigns, small_split


def say(text: str, style: str = "") -> None:
    """Prints a sentence on the standard error stream."""
    console = Console(stderr=True, highlight=False)
    console.print(text, style=style, markup=False, soft_wrap=True)


def warn(text: str, *, is_strict: bool = False) -> None:
    """Says what is wrong, as an error where that was asked for.

    Raises:
        StrictError: with the text, if it is strict.
    """
    if is_strict:
        raise StrictError(f"{text} (--strict)")
    say(f"warning: {text}", style="yellow")


def warn_of_thoughts(
    tokenizer: Any, settings: Mapping[str, Any], observations: Observations, kept: EarlierThoughts
) -> None:
    """Says that a policy goes on seeing thoughts which its own template would leave out."""
    notice = thoughts_notice(tokenizer, settings, observations, kept)
    if notice is not None:
        warn(notice)


class Warned:
    """Says what the metrics of a run give away, once each."""

    def __init__(self, config: TrainConfig) -> None:
        """Knows nothing yet."""
        self._signs = TrainingSigns(config)
        self._config = config
        self._is_main = int(os.environ.get("RANK", "0")) == 0

    def look(self, update: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of an update.

        Raises:
            StrictError: if something is wrong and the settings are strict.
        """
        for text in self._signs.look(metrics):
            self._say(f"update {update}: {text}")

    def look_at_split(self, num_tasks: int) -> None:
        """Takes the number of questions of the evaluation's split.

        Raises:
            StrictError: if they are too few and the settings are strict.
        """
        text = small_split(self._config.evaluation.split, num_tasks)
        if text:
            self._say(text)

    def _say(self, text: str) -> None:
        if self._is_main or self._config.strict:
            warn(text, is_strict=self._config.strict)


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Lets a first Ctrl-C finish the update that runs; a second one ends at once.

    Yields:
        A function that tells whether there was one.
    """
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say("interrupted: the update that runs is finished and saved; Ctrl-C again ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
