"""Rollouts of R1-Searcher: the text between its markers in ``gen_text_store``."""

from __future__ import annotations

from typing import ClassVar

from calibadv_algo.traces.responses import ResponseReader


class R1Searcher(ResponseReader):
    """A question and the text that was generated, with queries and documents between markers."""

    name: ClassVar[str] = "r1-searcher"
    needs: ClassVar[str] = "gen_text_store"
    prompts = ("prompt", "question")
    responses = ("gen_text_store", "gen_text")


READERS = (R1Searcher(),)
