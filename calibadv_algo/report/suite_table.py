"""The tables of a suite's evaluation, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.suite.published import BENCHMARKS, PublishedRow
from calibadv_algo.experiments.suite.result import PartResult, SuiteResult
from calibadv_algo.experiments.suite.scores import SCORES
from calibadv_algo.report.shares import NOTHING, format_share
from calibadv_algo.report.tables import F1_NOTE, Table, format_interval, markdown_table

Style = Literal["intervals", "means"]
"""Form of the scores."""

SCORE_NAMES: Final[Mapping[str, str]] = {"em": "EM", "f1": "F1", "cover_em": "Cover EM"}
"""Score -> heading."""

FEW_QUESTIONS: Final = 30
"""Below this many questions a bootstrap understates how much they could have been others."""

_COVERAGE: Final = (
    ("answer_in_corpus", "num_telling", "An answer stands in the corpus"),
    ("gold_in_corpus", "num_with_gold", "Gold for all hops"),
    ("one_search_answer", "num_telling", "One search finds an answer"),
    ("chain_answer", "num_telling_with_chain", "The gold chain finds an answer"),
)
"""Figure, its denominator, heading."""


def score_table(result: SuiteResult, *, style: Style = "intervals") -> Table:
    """Scores, searches and tokens of every dataset, and the average of the seven.

    Skipped datasets stand in it with the reason. The style ``means`` is for narrow places.
    """
    number = _num_samples(result)
    suffix = f" mean@{number}" if number > 1 else ""
    show = format_interval if style == "intervals" else partial(_mean, style=".3f")
    rows = [_score_row(part, number, show) for part in result.parts]
    width = len(rows[0]) if rows else 6
    macro = result.macro
    emphasised: frozenset[int] = frozenset()
    if macro is not None:
        emphasised = frozenset({len(rows)})
        blank = (NOTHING,) * (width - 6)
        cells = tuple(show(macro[score]) for score in SCORES)
        rows.append(("Average of the seven", NOTHING, NOTHING, *cells, *blank))
    rows += [(name, "not evaluated", NOTHING, *(NOTHING,) * (width - 3)) for name in result.skipped]
    return Table(
        title=f"Scores of {result.model}",
        header=(
            "Dataset",
            "Split",
            "Questions",
            *(SCORE_NAMES[score] + suffix for score in SCORES),
            *((f"EM pass@{number}",) if number > 1 else ()),
            "Searches",
            "Tokens",
        ),
        rows=tuple(rows),
        emphasised=emphasised,
        note=_score_note(result, style),
    )


def play_table(result: SuiteResult) -> Table:
    """Course of the episodes: reasons for a low score other than the policy."""
    rows = []
    for part in result.parts:
        means = part.scores.means
        rows.append(
            (
                part.name,
                _mean(means["turns"], ".2f"),
                _mean(means["answered"], ".3f"),
                _mean(means["format_valid"], ".3f"),
                _mean(means["cut_turns"], ".3f"),
                f"{part.scores.num_unasked:,}",
            )
        )
    return Table(
        title="How the episodes went",
        header=(
            "Dataset",
            "Turns",
            "Gave an answer",
            "Format valid",
            "Turns cut by the token limit",
            "Too long to ask",
        ),
        rows=tuple(rows),
        note="Shares of episodes, and numbers an episode. Many cut turns mean that --max-tokens "
        "is too low for this policy.",
    )


def confidence_table(result: SuiteResult) -> Table:
    """Evidence that the searches found, and how well policies knew which answers were right."""
    rows = []
    for part in result.parts:
        means, known = part.scores.means, part.scores.num_known
        rows.append(
            (
                part.name,
                format_interval(means["gold_recall"]),
                _count(known["gold_recall"]),
                format_interval(means["answer_probability"]),
                format_interval(means["calibration_error"]),
                _count(known["answer_probability"]),
                format_interval(means["stated_confidence"]),
                format_interval(means["stated_calibration_error"]),
                _count(known["stated_confidence"]),
            )
        )
    return Table(
        title="Evidence and confidence",
        header=(
            "Dataset",
            "Gold recall",
            "Episodes with gold",
            "Probability of the answer",
            "Calibration error",
            "Answers",
            "Stated confidence",
            "Calibration error of it",
            "Stated",
        ),
        rows=tuple(rows),
        note="Gold recall: share of a question's hops whose evidence was found. Calibration error: "
        "expected calibration error over ten bins of the probability that the policy gave to its "
        "whole answer (or of the confidence that it stated) against the exact match; episodes "
        "without an answer are left out. A dash: no gold passages, no log-probabilities, nothing "
        "stated.",
    )


def coverage_table(result: SuiteResult) -> Table:
    """Evidence that the corpus holds and that searches reach, from the audits.

    Each share stands with the number of questions that it is a share of.
    """
    rows = []
    for part in result.parts:
        sha256 = str(part.retrieval.get("corpus_sha256") or "")[:12] or "unknown"
        audit = part.coverage
        if audit is None:
            rows.append((part.name, sha256, *(NOTHING,) * len(_COVERAGE), "not audited"))
            continue
        figures = audit["coverage"]
        pairs = ((figures.get(name), figures.get(of)) for name, of, _ in _COVERAGE)
        shares = tuple(format_share(share, of) for share, of in pairs)
        how = f"{audit['retriever']}, {audit['top_k']}"
        rows.append((part.name, sha256, *shares, how))
    headings = tuple(heading for _, _, heading in _COVERAGE)
    return Table(
        title="What the corpus allows",
        header=("Dataset", "Corpus", *headings, "Audited with"),
        rows=tuple(rows),
        note=_coverage_note(result),
    )


def published_table(result: SuiteResult, score: str) -> Table | None:
    """Our ``em``, ``f1`` or ``cover_em`` above the published ones; None if nothing is published.

    One column a benchmark that was evaluated.
    """
    rows = result.published().get(score)
    if not rows:
        return None
    names = [name for name in BENCHMARKS if name in result.benchmarks]
    ours = {part.name: part.scores.means[score] for part in result.parts}
    macro = (result.macro or {}).get(score)
    own = (f"this evaluation: {result.model}", *(_mean(ours[name], ".3f") for name in names))
    official: tuple[tuple[str, ...], ...] = ()
    if score == "f1":
        means = {part.name: part.scores.means.get("f1_official") for part in result.parts}
        if any(means.values()):
            cells = (_mean(means[name], ".3f") for name in names)
            official = (
                ("the same, official F1", *cells, NOTHING, "yes and no by HotpotQA's rule"),
            )
    return Table(
        title=f"{SCORE_NAMES[score]} beside published {SCORE_NAMES[score]}",
        header=("System", *names, "Average", "Setting"),
        rows=(
            (*own, _mean(macro, ".3f"), "as above"),
            *official,
            *(_published_row(row, names) for row in rows),
        ),
        emphasised=frozenset({0}),
    )


def suite_markdown(result: SuiteResult) -> str:
    """The whole result as Markdown: tables, what makes them incomparable, sources, settings."""
    tables = [
        score_table(result),
        play_table(result),
        confidence_table(result),
        coverage_table(result),
    ]
    parts = [f"# {result.model} on {result.suite}", *map(markdown_table, tables)]
    if result.skipped:
        parts += ["## Not evaluated", _bullets(_skips(result.skipped))]
    published = [table for score in SCORES if (table := published_table(result, score))]
    if published:
        parts += ["## Beside published figures", *map(markdown_table, published)]
        parts += ["**Why they cannot simply be compared**", _bullets(result.caveats())]
        parts += ["**Sources**", _bullets(_sources(result))]
    parts += ["## Settings", _bullets(_settings(result))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _score_row(
    part: PartResult, num_samples: int, show: Callable[[Interval | None], str]
) -> tuple[str, ...]:
    scores = part.scores
    count = f"{scores.num_questions:,}"
    if not part.is_whole:
        count += f" of {part.split_size:,}"
    passed = (show(scores.best.get("em")),) if num_samples > 1 else ()
    return (
        part.name,
        part.split,
        count,
        *(show(scores.means[score]) for score in SCORES),
        *passed,
        _mean(scores.means["searches"], ".2f"),
        _mean(scores.means["tokens"], ",.0f"),
    )


def _count(number: int) -> str:
    return f"{number:,}" if number else NOTHING


def _score_note(result: SuiteResult, style: Style) -> str:
    note = "Searches and tokens that the policy wrote: means an episode."
    if style == "intervals":
        note = f"In brackets: 95 % intervals by bootstrap over questions. {note}"
    if style == "intervals" and any(
        part.scores.num_questions < FEW_QUESTIONS for part in result.parts
    ):
        note += f" Those over fewer than {FEW_QUESTIONS} questions are too narrow."
    if result.macro is None and result.benchmarks:
        missing = [name for name in BENCHMARKS if name not in result.benchmarks]
        if missing:
            note += f" No average: {', '.join(missing)} of the seven are missing."
        else:
            note += " No average: other datasets stand among the seven."
    return f"{note} {F1_NOTE} {_f1_variants(result)}".strip()


def _f1_variants(result: SuiteResult) -> str:
    """Means of the other F1s, where they differ from the table's or the field uses them."""
    found = []
    for part in result.parts:
        means = part.scores.means
        official, characters = means.get("f1_official"), means.get("f1_characters")
        if official is not None and official != means["f1"]:
            found.append(f"{part.name}: official F1 (HotpotQA's yes and no) {official:.3f}.")
        if characters is not None:
            found.append(f"{part.name}: F1 of characters (DRCD, KorQuAD) {characters:.3f}.")
        if (run := means.get("f1_cmrc")) is not None:
            found.append(f"{part.name}: F1 of the longest common run (CMRC 2018) {run:.3f}.")
    return " ".join(found)


def _coverage_note(result: SuiteResult) -> str:
    note = "Shares of the questions that were audited, from `calibadv data audit`."
    unknown = [part.name for part in result.parts if part.coverage is None]
    if unknown:
        note += (
            f" Not audited with this corpus: {', '.join(unknown)}. Run `calibadv data audit "
            f"{' '.join(unknown)}`, then the same evaluation again: it plays nothing anew."
        )
    return note


def _published_row(row: PublishedRow, names: Sequence[str]) -> tuple[str, ...]:
    scores = [row.scores.get(name) for name in names]
    return (row.system, *map(_as_printed, scores), _as_printed(row.average), row.setting)


def _sources(result: SuiteResult) -> list[str]:
    """Each source once, with the systems that it is the source of."""
    systems: dict[str, list[str]] = {}
    for rows in result.published().values():
        for row in rows:
            known = systems.setdefault(row.source, [])
            if row.system not in known:
                known.append(row.system)
    return [f"{'; '.join(names)}: {source}." for source, names in systems.items()]


def _skips(skipped: Mapping[str, str]) -> list[str]:
    return [f"{name}: {' '.join(reason.split())}" for name, reason in skipped.items()]


def _settings(result: SuiteResult) -> list[str]:
    """Settings and versions, one a line, without what stands in the tables."""
    flat: list[str] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}" if name else str(key), inner)
        elif value not in (None, ""):
            flat.append(f"{name}: `{value}`")

    add("", result.settings)
    groups = _retrievals(result)
    for names, retrieval in groups:
        add(f"retrieval of {', '.join(names)}" if len(groups) > 1 else "retrieval", retrieval)
    add("code", result.code)
    return flat


def _retrievals(result: SuiteResult) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Each retrieval once, with the datasets that it was used on."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for part in result.parts:
        names = next((names for names, facts in found if facts == part.retrieval), None)
        if names is None:
            found.append(([part.name], part.retrieval))
        else:
            names.append(part.name)
    return found


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _num_samples(result: SuiteResult) -> int:
    return max((part.scores.num_samples for part in result.parts), default=1)


def _mean(interval: Interval | None, style: str) -> str:
    return NOTHING if interval is None else format(interval.estimate, style)


def _as_printed(score: float | None) -> str:
    """A published score with as many digits as it was printed with, three at least."""
    if score is None:
        return NOTHING
    return f"{score:.3f}" if round(score, 3) == score else f"{score:.4f}"
