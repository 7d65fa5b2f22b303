"""Evidence that a record of a question names, hop by hop, in the forms of public datasets. Pure.

HotpotQA and 2WikiMultihopQA name sentences of articles, MuSiQue steps with paragraphs, SQuAD its
one paragraph, KILT pages, StrategyQA paragraphs by title and number, FRAMES and WebWalkerQA
addresses, BrowseComp-Plus documents. What is named and cannot be read is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from calibadv_env.common.records.keys import is_missing
from calibadv_env.common.records.values import parsed_literal
from calibadv_env.data.evidence import Evidence, sentences_stating
from calibadv_env.data.questions.paragraphs import Paragraph, joined, paragraphs_of

NAMES: Final = (
    "supporting_facts",
    "question_decomposition",
    "is_supporting",
    "provenance",
    "wiki_links",
    "source_website",
    "gold_docs",
    "evidence_docs",
    "positive_ctxs",
    "evidence_list",
)
"""Names of evidence that this module reads; for messages."""

LOST: Final = (
    "supporting facts with the number of a sentence that their paragraph does not have; where a "
    "title has no other, the whole paragraph is gold"
)
"""What :func:`lost_sentences` counts, in words."""

_LAYERS: Final = ("metadata", "extra_info", "info")


def layers_of(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The record and the objects in it that may name its evidence, the outermost first."""
    yield record
    for name in _LAYERS:
        inner = record.get(name)
        if isinstance(inner, str):
            inner = parsed_literal(inner)
        if isinstance(inner, Mapping):
            yield from layers_of(inner)


def evidence_in(record: Mapping[str, Any], answers: Sequence[str]) -> tuple[list[Evidence], int]:
    """The evidence of a record, one piece a hop, and how many pieces it names that are unreadable.

    Args:
        record: A record as its file has it.
        answers: The accepted answers, by which a sentence of a paragraph is chosen.
    """
    num_unread = 0
    for layer in layers_of(record):
        paragraphs = paragraphs_of(layer)
        for read in _FORMS:
            named, found = read(layer, paragraphs, answers)
            if found:
                return found, max(0, named - len(found))
            num_unread += named
    return [], num_unread


def _list_of(value: Any) -> list[Any]:
    """A list, also one that is written as text; [] for anything else."""
    if isinstance(value, str):
        value = parsed_literal(value)
    return value if isinstance(value, list) else []


_Found = tuple[int, list[Evidence]]
"""How many pieces a record names, and those that could be read."""


def _steps(layer: Mapping[str, Any], paragraphs: list[Paragraph], _: Sequence[str]) -> _Found:
    """MuSiQue: each step has its paragraph, or the number of one."""
    steps = [s for s in _list_of(layer.get("question_decomposition")) if isinstance(s, Mapping)]
    by_index = {p.index: p for p in paragraphs}
    found = []
    for step in steps:
        held = step.get("support_paragraph")
        number = step.get("paragraph_support_idx")
        piece = None
        if isinstance(held, Mapping):
            text = held.get("paragraph_text", "")
            title = held.get("title")
            if isinstance(title, str) and isinstance(text, str):
                piece = _stated(title, text, step.get("answer"), ())
        elif isinstance(number, int) and number in by_index:
            passage = by_index[number].passage
            piece = _stated(passage.title, passage.text, step.get("answer"), (passage.id,))
        if piece is not None:
            found.append(piece)
    return sum(bool(s) for s in steps), found


def _stated(title: str, text: str, answer: Any, ids: tuple[str, ...]) -> Evidence:
    answer = answer if isinstance(answer, str) else ""
    return Evidence(title=title, sentences=sentences_stating(text, answer), ids=ids)


def _facts(layer: Mapping[str, Any], paragraphs: list[Paragraph], _: Sequence[str]) -> _Found:
    """HotpotQA and 2WikiMultihopQA: pairs of title and number of a sentence; one piece a title."""
    num_unread, pairs = _pairs(layer)
    articles = _articles(paragraphs)
    by_title: dict[str, list[str]] = {}
    for title, number in pairs:
        kept = by_title.setdefault(title, [])
        sentence = _sentence(articles.get(title), number)
        if sentence:
            kept.append(sentence)
    found = [
        Evidence(
            title=title,
            sentences=tuple(dict.fromkeys(kept)),
            ids=(articles[title].passage.id,) if title in articles else (),
        )
        for title, kept in by_title.items()
        if title.strip()
    ]
    return num_unread + len(by_title), found


def lost_sentences(record: Mapping[str, Any]) -> int:
    """Supporting facts whose number no sentence of their own paragraph has.

    Where a title has no other fact its evidence names no sentence, so that whatever stands under
    the title counts as gold. Facts on paragraphs that the record does not carry are not counted.
    """
    for layer in layers_of(record):
        _, pairs = _pairs(layer)
        if pairs:
            articles = _articles(paragraphs_of(layer))
            return sum(
                title in articles
                and bool(articles[title].sentences)
                and number is not None
                and not _sentence(articles[title], number)
                for title, number in pairs
            )
    return 0


def _pairs(layer: Mapping[str, Any]) -> tuple[int, list[tuple[str, Any]]]:
    """How many supporting facts cannot be read, and the title and number of the others."""
    facts = layer.get("supporting_facts")
    if isinstance(facts, str):
        facts = parsed_literal(facts)
    if isinstance(facts, Mapping):
        titles, numbers = facts.get("title"), facts.get("sent_id")
        if not isinstance(titles, list) or not isinstance(numbers, list):
            return (1, []) if facts else (0, [])
        facts = list(zip(titles, numbers, strict=False))
    num_unread, pairs = 0, []
    for fact in facts if isinstance(facts, list) else ():
        if isinstance(fact, Mapping):
            fact = [fact.get("title"), fact.get("sent_id", fact.get("sentence_id"))]
        if isinstance(fact, str):
            fact = [fact, None]
        if isinstance(fact, (list, tuple)) and len(fact) == 2 and isinstance(fact[0], str):
            pairs.append((fact[0], fact[1]))
        else:
            num_unread += 1
    return num_unread, pairs


def _articles(paragraphs: list[Paragraph]) -> dict[str, Paragraph]:
    articles: dict[str, Paragraph] = {}
    for paragraph in paragraphs:
        articles.setdefault(paragraph.passage.title, paragraph)
    return articles


def _sentence(article: Paragraph | None, number: Any) -> str:
    """The sentence of a number, which tables write as a text or with a point; "" if none."""
    if article is None or isinstance(number, bool):
        return ""
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    is_whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    if not is_whole or not 0 <= number < len(article.sentences):
        return ""
    return article.sentences[int(number)].strip()


def _marked(
    layer: Mapping[str, Any], paragraphs: list[Paragraph], answers: Sequence[str]
) -> _Found:
    """Paragraphs that are marked as supporting, such as HippoRAG's; each is a hop."""
    found = [
        _of_paragraph(p, answers)
        for p in paragraphs
        if p.is_supporting and p.key not in ("negative_ctxs", "hard_negative_ctxs", "negative_docs")
    ]
    return len(found), found


def _of_paragraph(paragraph: Paragraph, answers: Sequence[str]) -> Evidence:
    passage = paragraph.passage
    stating: tuple[str, ...] = ()
    for answer in answers:
        stating = sentences_stating(passage.text, answer)
        if stating != sentences_stating(passage.text, ""):
            break
    return Evidence(title=passage.title, sentences=stating, ids=(passage.id,))


def _documents(layer: Mapping[str, Any], paragraphs: list[Paragraph], _: Sequence[str]) -> _Found:
    """BrowseComp-Plus: a document of the evidence is a hop, any with the answer the last."""
    gold = {p.passage.id: p for p in paragraphs if p.key == "gold_docs"}
    evidence = {p.passage.id: p for p in paragraphs if p.key == "evidence_docs"}
    found = [
        Evidence(title=p.passage.title, ids=(doc,))
        for doc, p in evidence.items()
        if doc not in gold
    ]
    if gold:
        first = next(iter(gold.values())).passage
        found.append(Evidence(title=first.title, ids=tuple(gold)))
    named = [key for key in ("gold_docs", "evidence_docs") if not is_missing(layer.get(key))]
    return len(found) or sum(bool(layer[key]) for key in named), found


def _squad(layer: Mapping[str, Any], paragraphs: list[Paragraph], answers: Sequence[str]) -> _Found:
    """SQuAD: a record that was written for the one paragraph that it carries."""
    if not isinstance(layer.get("context"), str) or len(paragraphs) != 1:
        return 0, []
    return 1, [_of_paragraph(paragraphs[0], answers)]


def _kilt(layer: Mapping[str, Any], _: list[Paragraph], __: Sequence[str]) -> _Found:
    """KILT: the pages of one output are hops; where each output has one page, any will do."""
    outputs = [o for o in _list_of(layer.get("output")) if isinstance(o, Mapping)]
    pages: list[list[tuple[str, str]]] = []
    num_named = 0
    for output in outputs:
        of_output = []
        for source in _list_of(output.get("provenance")):
            num_named += 1
            if isinstance(source, Mapping) and isinstance(source.get("title"), str):
                of_output.append((source["title"], str(source.get("wikipedia_id", ""))))
        if of_output:
            pages.append(list(dict.fromkeys(of_output)))
    if not pages:
        return num_named, []
    if all(len(of_output) == 1 for of_output in pages):
        either = list(dict.fromkeys(page for of_output in pages for page in of_output))
        titles = tuple(title for title, _ in either)
        ids = tuple(number for _, number in either if number)
        return 1, [Evidence(title=titles[0], titles=titles[1:], ids=ids)]
    longest = max(pages, key=len)
    return len(longest), [
        Evidence(title=title, ids=(number,) if number else ()) for title, number in longest
    ]


def _strategy(layer: Mapping[str, Any], _: list[Paragraph], __: Sequence[str]) -> _Found:
    """StrategyQA: of the first annotator, for each step its paragraphs, called ``title-number``."""
    notes = _list_of(layer.get("evidence"))
    if not notes or not isinstance(notes[0], list):
        return 0, []
    found = []
    for step in notes[0]:
        names = [n for n in _flat(step) if n not in ("no_evidence", "operation") and "-" in n]
        titles = list(dict.fromkeys(name.rpartition("-")[0] for name in names))
        if titles:
            found.append(
                Evidence(title=titles[0], titles=tuple(titles[1:]), ids=tuple(dict.fromkeys(names)))
            )
    return len(found), found


def _flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for item in value for text in _flat(item)] if isinstance(value, list) else []


def _links(layer: Mapping[str, Any], _: list[Paragraph], __: Sequence[str]) -> _Found:
    """FRAMES, WebWalkerQA: addresses of pages, which are also the ids of some corpora."""
    links = _list_of(layer.get("wiki_links")) or _list_of(layer.get("source_website"))
    if not links:
        links = [v for k, v in layer.items() if str(k).startswith("wikipedia_link")]
    found = []
    for link in links:
        if isinstance(link, str) and link.startswith(("http://", "https://")):
            path = urlsplit(link.strip()).path
            name = unquote(path.rpartition("/wiki/")[2] if "/wiki/" in path else link.strip())
            found.append(Evidence(title=name.replace("_", " "), ids=(link.strip(),)))
    return sum(not is_missing(link) for link in links), found


def _positive(
    layer: Mapping[str, Any], paragraphs: list[Paragraph], answers: Sequence[str]
) -> _Found:
    """DPR: passages any of which answers the question."""
    positive = [p for p in paragraphs if p.key == "positive_ctxs"]
    if not positive:
        return len(_list_of(layer.get("positive_ctxs"))), []
    titles = list(dict.fromkeys(p.passage.title for p in positive))
    ids = tuple(dict.fromkeys(p.passage.id for p in positive))
    stated = _of_paragraph(positive[0], answers).sentences if len(positive) == 1 else ()
    return 1, [Evidence(title=titles[0], sentences=stated, titles=tuple(titles[1:]), ids=ids)]


def _listed(layer: Mapping[str, Any], _: list[Paragraph], __: Sequence[str]) -> _Found:
    """MultiHop-RAG: a list of articles, each with the sentence that matters."""
    listed = _list_of(layer.get("evidence_list"))
    found = [
        Evidence(title=item["title"], sentences=(item["fact"],) if item.get("fact") else ())
        for item in listed
        if isinstance(item, Mapping) and isinstance(item.get("title"), str)
    ]
    return len(listed), found


_FORMS: Final = (
    _steps, _facts, _marked, _documents, _positive, _listed, _squad, _kilt, _strategy, _links,
)  # fmt: skip


def _triple(value: Any) -> list[Any]:
    """Subject, relation and object, also of an object that names them; [] for anything else."""
    if isinstance(value, Mapping):
        first = next(
            (value[k] for k in ("fact", "subject", "head", "entity1") if value.get(k)), None
        )
        relation = value.get("relation", value.get("predicate"))
        return [] if first is None or relation is None else [first, relation]
    return list(value) if isinstance(value, (list, tuple)) else []


def queries_in(record: Mapping[str, Any]) -> list[str]:
    """Queries that a record gives for its hops: 2WikiMultihopQA's triples, StrategyQA's steps."""
    for layer in layers_of(record):
        triples = [_triple(t) for t in _list_of(layer.get("evidences"))]
        columns = layer.get("evidences")
        if isinstance(columns, Mapping) and isinstance(columns.get("fact"), list):
            names = (columns["fact"], columns.get("relation") or [])
            triples = [list(pair) for pair in zip(*names, strict=False)]
        said = [triple[:2] for triple in triples if len(triple) > 1]
        queries = [joined([str(part) for part in pair]) for pair in said]
        steps = _list_of(layer.get("decomposition"))
        if not queries and steps and all(isinstance(step, str) for step in steps):
            queries = steps
        if queries:
            return queries
    return []
