"""Published forms whose records are not yet one question with its answers, made so. Pure.

Articles and paragraphs with questions in them (SQuAD, MRQA, CMRC, DROP, Qasper, CoQA), questions in
several languages (QALD, MKQA), answers inside parses or pairs (WebQSP, ASQA), and rows whose
question and answers stand in objects of their own (LangSmith, NeMo-Gym).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from calibadv_env.common.records.keys import is_missing, number_text

JOINT: Final = "questions whose answer is a list, of which each item is taken as right"
"""Counted: the public metric asks for the whole list."""
TALK: Final = "questions of a conversation, which may refer to those before them"
LANGUAGES: Final = "questions in several languages, of which one is taken"

_CONTEXTS: Final = ("context", "context_text", "passage", "story")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(?:[_-][A-Za-z]{2,4})?")
_DESCRIPTION: Final = re.compile(r'\(description (?:"((?:[^"\\]|\\.)*)"|([^()"]+))\)')

Records = list[tuple[str, dict[str, Any]]]
"""Questions, each with its place inside the record, "" for the record itself."""


def unfolded(
    place: str, record: Mapping[str, Any], counts: Counter[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The questions of a record, each with its place; the record itself if it is one.

    Args:
        place: Where the record stands.
        record: A record as its file has it.
        counts: Is told what a reader may not expect.
    """
    for form in _FORMS:
        found = form(record, counts)
        if found is not None:
            for where, inner in found:
                yield (f"{place}: {where}" if where else place), inner
            return
    yield place, record


def in_articles(
    place: str, record: Mapping[str, Any], counts: Counter[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The questions of an article or a paragraph alone, for readers who name their own keys."""
    found = _articles(record, counts) or _paragraph(record, counts)
    if found is None:
        yield place, record
        return
    for where, inner in found:
        yield f"{place}: {where}", inner


def _articles(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """SQuAD: articles of paragraphs of questions."""
    paragraphs = record.get("paragraphs")
    paragraphs = paragraphs if isinstance(paragraphs, list) else []
    is_article = all(isinstance(p, Mapping) and isinstance(p.get("qas"), list) for p in paragraphs)
    if not paragraphs or not is_article:
        return None
    found: Records = []
    for i, paragraph in enumerate(paragraphs):
        outer = {"title": record.get("title"), "context": paragraph.get("context")}
        for j, one in enumerate(paragraph["qas"]):
            inner = {**outer, **one} if isinstance(one, Mapping) else {}
            found.append((f"paragraphs[{i}].qas[{j}]", inner))
    return found


def _paragraph(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """One paragraph with its questions: MRQA, CMRC, Qasper's papers. A heading of MRQA is none."""
    if set(record) == {"header"}:
        return []
    questions = record.get("qas")
    if isinstance(questions, Mapping) and isinstance(questions.get("question"), list):
        names = list(questions)
        rows = zip(*(questions[name] for name in names), strict=False)
        questions = [dict(zip(names, row, strict=True)) for row in rows]
    if not isinstance(questions, list) or not all(isinstance(q, Mapping) for q in questions):
        return None
    context = next((record[key] for key in _CONTEXTS if record.get(key)), None)
    outer = {"title": record.get("title"), "context": context}
    return [(f"qas[{i}]", {**outer, **_annotators(q)}) for i, q in enumerate(questions)]


def _annotators(question: Mapping[str, Any]) -> dict[str, Any]:
    """A question of Qasper with the answers of its annotators as texts."""
    notes = question.get("answers")
    if isinstance(notes, Mapping) and isinstance(notes.get("answer"), list):
        notes = [{"answer": answer} for answer in notes["answer"]]
    held = [n.get("answer") for n in notes or () if isinstance(n, Mapping)]
    inner = [answer for answer in held if isinstance(answer, Mapping)]
    if not inner or not all("extractive_spans" in answer for answer in inner):
        return dict(question)
    texts: list[str] = []
    for answer in inner:
        if answer.get("yes_no") is not None:
            texts.append("yes" if answer["yes_no"] else "no")
        texts += [answer["free_form_answer"]] if answer.get("free_form_answer") else []
        texts += answer.get("extractive_spans") or []
    return {**question, "answers": list(dict.fromkeys(texts))}


def _drop(record: Mapping[str, Any], counts: Counter[str]) -> Records | None:
    """DROP: a passage with pairs, whose answer is a number, a date or spans; all annotators'."""
    pairs, context = record.get("qa_pairs"), record.get("passage")
    if not isinstance(pairs, list) or not isinstance(context, str):
        return None
    found: Records = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, Mapping):
            return None
        notes = [pair.get("answer"), *(pair.get("validated_answers") or ())]
        texts = [text for note in notes if isinstance(note, Mapping) for text in _drop_texts(note)]
        first = pair.get("answer")
        if isinstance(first, Mapping) and len(first.get("spans") or ()) > 1:
            counts[JOINT] += 1
        inner = {k: v for k, v in pair.items() if k not in ("answer", "validated_answers")}
        inner["answers"] = list(dict.fromkeys(texts))
        found.append((f"qa_pairs[{i}]", {"context": context, **inner}))
    return found


def _drop_texts(note: Mapping[str, Any]) -> list[str]:
    if not is_missing(note.get("number")):
        number = note["number"]
        return [number if isinstance(number, str) else number_text(number)]
    spans = [span for span in note.get("spans") or () if isinstance(span, str) and span.strip()]
    date = note.get("date")
    if spans or not isinstance(date, Mapping):
        return spans
    parts = [str(date.get(k) or "").strip() for k in ("day", "month", "year")]
    return [" ".join(part for part in parts if part)] if any(parts) else []


def _spans(record: Mapping[str, Any], counts: Counter[str]) -> Records | None:
    """DROP on the hub: the spans of one question."""
    spans = record.get("answers_spans")
    if not isinstance(spans, Mapping) or not isinstance(spans.get("spans"), list):
        return None
    counts[JOINT] += len(set(spans["spans"])) > 1
    rest = {k: v for k, v in record.items() if k not in ("answers_spans", "passage")}
    return [("", {**rest, "answers": spans["spans"], "context": record.get("passage")})]


def _talk(record: Mapping[str, Any], counts: Counter[str]) -> Records | None:
    """CoQA: a story, and lists of questions and of answers side by side."""
    questions, answers = record.get("questions"), record.get("answers")
    if not isinstance(record.get("story"), str) or not isinstance(questions, list):
        return None
    if not isinstance(answers, list) or len(answers) != len(questions):
        return None
    found: Records = []
    for i, (asked, said) in enumerate(zip(questions, answers, strict=True)):
        if not isinstance(asked, Mapping) or not isinstance(said, Mapping):
            return None
        inner = {
            "question": asked.get("input_text"),
            "answers": [said.get("input_text")],
            "context": record["story"],
        }
        if not is_missing(record.get("id")):
            inner["id"] = f"{record['id']}_{asked.get('turn_id', i + 1)}"
        counts[TALK] += 1
        found.append((f"questions[{i}]", inner))
    return found


def _qald(record: Mapping[str, Any], counts: Counter[str]) -> Records | None:
    """QALD: a question in several languages, and the results of a query; English is taken."""
    texts = record.get("question")
    if not isinstance(texts, list) or not texts:
        return None
    if not all(isinstance(t, Mapping) and isinstance(t.get("string"), str) for t in texts):
        return None
    chosen = next((t for t in texts if t.get("language") == "en"), texts[0])
    counts[LANGUAGES] += len(texts) > 1
    answers = [a for found in _listed(record.get("answers")) for a in _of_results(found)]
    answers = list(dict.fromkeys(answers))
    counts[JOINT] += len(answers) > 1
    return [("", {**record, "question": chosen["string"], "answers": answers})]


def _of_results(found: Any) -> Iterator[str]:
    """Answers in SPARQL's results: names of resources, literals, or a truth value."""
    if not isinstance(found, Mapping):
        return
    if isinstance(found.get("boolean"), bool):
        yield "yes" if found["boolean"] else "no"
    results = found.get("results")
    bindings = results.get("bindings") if isinstance(results, Mapping) else None
    for binding in _listed(bindings):
        for value in binding.values() if isinstance(binding, Mapping) else ():
            text = value.get("value") if isinstance(value, Mapping) else None
            if isinstance(text, str) and text.strip():
                yield _resource(text) if value.get("type") == "uri" else text


def _resource(address: str) -> str:
    """The name of a resource of DBpedia or Wikipedia; other addresses as they are."""
    path = urlsplit(address).path
    for part in ("/resource/", "/wiki/"):
        _, mark, name = path.partition(part)
        if mark and not re.fullmatch(r"Q\d+", name):
            return unquote(name).replace("_", " ")
    return address


def _webqsp(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """WebQSP: the answers of all parses, each by the name of its entity."""
    parses = record.get("Parses")
    if not isinstance(parses, list):
        return None
    answers: list[str] = []
    for parse in parses:
        for answer in _listed(parse.get("Answers")) if isinstance(parse, Mapping) else ():
            if isinstance(answer, Mapping):
                named = answer.get("EntityName") or answer.get("AnswerArgument")
                answers += [named] if isinstance(named, str) else []
    rest = {k: v for k, v in record.items() if k != "Parses"}
    return [("", {**rest, "answers": list(dict.fromkeys(answers))})]


def _asqa(record: Mapping[str, Any], counts: Counter[str]) -> Records | None:
    """ASQA, also as ALCE has it: the short answers of all readings of an ambiguous question."""
    pairs = record.get("qa_pairs")
    if not isinstance(pairs, list) or not pairs:
        return None
    if not all(isinstance(p, Mapping) and isinstance(p.get("short_answers"), list) for p in pairs):
        return None
    answers = list(dict.fromkeys(text for pair in pairs for text in pair["short_answers"]))
    counts[JOINT] += len(pairs) > 1
    rest = {k: v for k, v in record.items() if k not in ("qa_pairs", "answer", "annotations")}
    question = record.get("ambiguous_question") or record.get("question")
    return [("", {**rest, "question": question, "answers": answers})]


def _languages(record: Mapping[str, Any], counts: Counter[str]) -> Records | None:
    """MKQA: answers by language; those in the language of the question, else in English."""
    answers = record.get("answers")
    if not isinstance(answers, Mapping) or not answers:
        return None
    if not all(_LANGUAGE.fullmatch(str(k)) and isinstance(v, list) for k, v in answers.items()):
        return None
    asked = record.get("queries")
    queries = asked if isinstance(asked, Mapping) else {}
    query = record.get("query", record.get("question"))
    language = next((k for k, text in queries.items() if text == query and k in answers), "en")
    language = language if language in answers else next(iter(answers))
    counts[LANGUAGES] += len(answers) > 1
    rest = {k: v for k, v in record.items() if k != "queries"}
    question = query if isinstance(query, str) else queries.get(language)
    return [("", {**rest, "question": question, "answers": answers[language]})]


def _web_questions(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """WebQuestions: the answers as a list in Lisp."""
    text = record.get("targetValue")
    if not isinstance(text, str):
        return None
    answers = [
        re.sub(r"\\(.)", r"\1", quoted) if quoted else bare.strip()
        for quoted, bare in _DESCRIPTION.findall(text)
    ]
    rest = {k: v for k, v in record.items() if k not in ("targetValue", "utterance")}
    return [("", {**rest, "question": record.get("utterance"), "answers": answers})]


def _holders(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """LangSmith's examples, NeMo-Gym's tasks: question and answers in objects of their own."""
    inputs = record.get("inputs")
    outputs = next((record[k] for k in ("outputs", "reference_outputs") if record.get(k)), None)
    if isinstance(inputs, Mapping) and isinstance(outputs, Mapping):
        names = ("inputs", "outputs", "reference_outputs")
        rest = {k: v for k, v in record.items() if k not in names}
        return [("", {**rest, **outputs, **inputs})]
    asked = record.get("responses_create_params")
    if isinstance(asked, Mapping) and "input" in asked and "question" not in record:
        rest = {k: v for k, v in record.items() if k != "responses_create_params"}
        given = asked["input"]
        return [("", {**rest, ("prompt" if isinstance(given, list) else "question"): given})]
    return None


def _choices(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """MMLU without a header: a question, its choices, and the letter of the right one."""
    cells = [record.get(str(i)) for i in range(len(record))]
    if len(cells) < 4 or not all(isinstance(cell, str) for cell in cells):
        return None
    if not re.fullmatch(r"[A-J]", cells[-1].strip()):  # type: ignore[union-attr]
        return None
    return [("", {"question": cells[0], "choices": cells[1:-1], "answer": cells[-1]})]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _parallel(record: Mapping[str, Any], _: Counter[str]) -> Records | None:
    """A text with a list of questions, and a list with the answers of each (NewsQA)."""
    questions, answers = record.get("questions"), record.get("answers")
    is_parallel = (
        isinstance(questions, list)
        and isinstance(answers, list)
        and len(questions) == len(answers) > 0
        and all(isinstance(question, str) for question in questions)
    )
    if not is_parallel:
        return None
    rest = {k: v for k, v in record.items() if k not in ("questions", "answers", "labels", "id")}
    return [
        (f"questions[{i}]", {**rest, "question": question, "answers": answer})
        for i, (question, answer) in enumerate(zip(questions, answers, strict=True))  # type: ignore[arg-type]
    ]


_FORMS: Final[tuple[Callable[[Mapping[str, Any], Counter[str]], Records | None], ...]] = (
    _articles, _paragraph, _drop, _spans, _asqa, _talk, _qald, _webqsp, _languages,
    _web_questions, _holders, _choices, _parallel,
)  # fmt: skip
