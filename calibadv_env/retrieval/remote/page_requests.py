"""Requests that open pages and find words in them, beside the searches of `remote.requests`.

``POST /open`` takes ``{"pages": ["norway", "norway#area"], "max_chars": 2000}``, ``POST /find``
``{"requests": [{"page": "norway", "words": "coastline"}], "max_chars": 2000}``; both take one page
by itself too, ``{"page": …}`` and ``{"page": …, "words": …}``. The reply is ``{"results": […]}``,
one for each in order: ``page``, ``text`` as a policy reads it, ``sections`` (``id``, ``title``,
``text``, ``links`` as pairs of words and place), ``problem`` in words where something is not there,
and for ``/open`` ``more`` and ``start``, the characters of the first section before what is shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from calibadv_env.protocol.pages import Shown, found_within, opened_within
from calibadv_env.retrieval.pages import DEFAULT_MAX_CHARS, Pages
from calibadv_env.retrieval.remote.requests import BadRequestError, RequestLimits

PageRoute: TypeAlias = Literal["/open", "/find"]
PAGE_ROUTES: Final[tuple[PageRoute, ...]] = get_args(PageRoute)
MAX_CHARS: Final = 1_000_000
"""Most characters of a result that a request may ask for."""


def answer_page_request(
    body: bytes, route: PageRoute, pages: Pages, limits: RequestLimits
) -> dict[str, Any]:
    """The reply to a request.

    Args:
        body: The request as JSON.
        route: ``/open`` or ``/find``.
        pages: What is opened.
        limits: What a request may ask for.

    Raises:
        BadRequestError: if it is not of the form above, or asks for more than the limits allow.
        RetrieverError: if the pages could not be read.
    """
    try:
        request = json.loads(body)
    except ValueError as error:
        raise BadRequestError(f"the body must be JSON: {error}", 400) from error
    if not isinstance(request, dict):
        raise BadRequestError(f"the body must be an object, got {type(request).__name__}")
    max_chars = request.get("max_chars", DEFAULT_MAX_CHARS)
    if type(max_chars) is not int or not 1 <= max_chars <= MAX_CHARS:
        raise BadRequestError(f"max_chars must be from 1 to {MAX_CHARS:,}, got {max_chars!r:.40}")
    if route == "/open":
        places: Any = [request["page"]] if "page" in request else request.get("pages")
        _check_texts(places, "pages", limits)
        return {"results": [_open(pages, place, max_chars) for place in places]}
    asked = [request] if "page" in request else request.get("requests")
    if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
        raise BadRequestError('/find takes {"requests": [{"page": …, "words": …}]}')
    texts = [(each.get("page"), each.get("words")) for each in asked]
    _check_texts([each for pair in texts for each in pair], "page and words", limits)
    return {"results": [_find(pages, page, words, max_chars) for page, words in texts]}


def _check_texts(texts: Any, name: str, limits: RequestLimits) -> None:
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise BadRequestError(f"{name} must be given as text, got {texts!r:.80}")
    if not 0 < len(texts) <= limits.max_queries:
        raise BadRequestError(f"{name} must be 1 to {limits.max_queries:,}, got {len(texts):,}")
    if any(len(each) > limits.max_query_chars for each in texts):
        raise BadRequestError(f"{name} must have at most {limits.max_query_chars:,} characters")


def _open(pages: Pages, place: str, max_chars: int) -> dict[str, Any]:
    (opened,) = pages.open([place], max_chars)
    part, text = opened_within(opened, max_chars)
    record = {"page": part.page, "text": text, "sections": _sections(part.sections)}
    return record | {"more": part.more, "problem": part.problem, "start": part.start}


def _find(pages: Pages, page: str, words: str, max_chars: int) -> dict[str, Any]:
    (found,) = pages.find([(page, words)], max_chars)
    part, text = found_within(found, max_chars)
    record = {"page": part.page, "text": text, "sections": _sections(part.sentences)}
    return record | {"problem": part.problem}


def _sections(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    return [
        {"id": each.id, "title": each.title, "text": each.text, "links": [*map(list, each.links)]}
        for each in shown
    ]
