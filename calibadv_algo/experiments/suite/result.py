"""The result of a suite: scores, and everything that has to stand beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from calibadv_algo.experiments.statistics import Interval
from calibadv_algo.experiments.suite.published import (
    BENCHMARKS,
    CAVEATS,
    PublishedRow,
    published_rows,
)
from calibadv_algo.experiments.suite.scores import (
    CONFIDENCE,
    NUM_RESAMPLES,
    SCORES,
    PartScores,
    macro_average,
)

FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PartResult:
    """The result of one dataset.

    Attributes:
        name: Of the dataset.
        split: The split that was evaluated.
        split_size: Number of its questions here.
        published_size: Number of its questions as published, None for other datasets.
        scores: Means and intervals.
        retrieval: Retriever, passages a search, identity of a server or an index, corpus.
        coverage: What the audit of this split against this corpus found, None without one.
    """

    name: str
    split: str
    split_size: int
    published_size: int | None
    scores: PartScores
    retrieval: Mapping[str, Any]
    coverage: Mapping[str, Any] | None

    @property
    def is_whole(self) -> bool:
        """True if every question of the split was asked."""
        return self.scores.num_questions == self.split_size

    @property
    def is_published(self) -> bool:
        """True if the split has the published size, as far as one can tell."""
        return self.published_size == self.split_size


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteResult:
    """The result of a suite.

    Attributes:
        model: Name of the policy, or of the endpoint's model.
        suite: What was asked for.
        parts: What was evaluated, in order.
        skipped: What was not, and why.
        settings: Everything that determines the numbers.
        code: Versions of what computed them.
    """

    model: str
    suite: str
    parts: tuple[PartResult, ...]
    skipped: Mapping[str, str]
    settings: Mapping[str, Any]
    code: Mapping[str, Any] = field(default_factory=dict)

    @property
    def benchmarks(self) -> frozenset[str]:
        """Those of the seven that were evaluated."""
        return frozenset(part.name for part in self.parts) & frozenset(BENCHMARKS)

    @property
    def macro(self) -> dict[str, Interval | None] | None:
        """The average of the seven; None unless these seven, and no others, are there."""
        if len(self.parts) != len(BENCHMARKS) or self.benchmarks != frozenset(BENCHMARKS):
            return None
        return macro_average([part.scores for part in self.parts])

    def published(self) -> dict[str, tuple[PublishedRow, ...]]:
        """Score -> published rows on the benchmarks that were evaluated; empty without one."""
        found = {score: published_rows(score, self.benchmarks) for score in SCORES}
        return {score: rows for score, rows in found.items() if rows and self.benchmarks}

    def caveats(self) -> list[str]:
        """Reasons why the numbers are not comparable with the published ones, ours first."""
        if not self.benchmarks:
            return []
        chosen = [part for part in self.parts if part.name in self.benchmarks]
        return [*_own_caveats(chosen, self.settings), *CAVEATS]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        macro = self.macro
        return {
            "format": FORMAT,
            "model": self.model,
            "suite": self.suite,
            "intervals": {
                "confidence": CONFIDENCE,
                "kind": "percentile bootstrap over questions",
                "num_resamples": NUM_RESAMPLES,
            },
            "parts": [_part_to_json(part) for part in self.parts],
            "macro_average": None if macro is None else _intervals(macro),
            "skipped": dict(self.skipped),
            "published": {
                score: [asdict(row) for row in rows] for score, rows in self.published().items()
            },
            "caveats": self.caveats(),
            "settings": dict(self.settings),
            "code": dict(self.code),
        }


def _part_to_json(part: PartResult) -> dict[str, Any]:
    scores = part.scores
    return {
        "name": part.name,
        "split": part.split,
        "split_size": part.split_size,
        "published_size": part.published_size,
        "num_questions": scores.num_questions,
        "num_samples": scores.num_samples,
        "means": _intervals(scores.means),
        "num_known": dict(scores.num_known),
        "best_of_samples": _intervals(scores.best),
        "by_hops": {str(hops): dict(facts) for hops, facts in scores.by_hops.items()},
        "num_unasked": scores.num_unasked,
        "retrieval": dict(part.retrieval),
        "coverage": None if part.coverage is None else dict(part.coverage),
    }


def _intervals(values: Mapping[str, Interval | None]) -> dict[str, dict[str, float] | None]:
    return {name: None if one is None else asdict(one) for name, one in values.items()}


def _own_caveats(parts: Sequence[PartResult], settings: Mapping[str, Any]) -> list[str]:
    """Peculiarities of our own numbers."""
    notes = []
    other = [part for part in parts if not part.is_published]
    if other:
        sizes = "; ".join(
            f"{part.name} {part.split} {part.split_size:,} instead of {part.published_size:,}"
            for part in other
        )
        notes.append(f"Not the published questions, as their number shows: {sizes}.")
    partial = [part for part in parts if not part.is_whole]
    if partial:
        sizes = "; ".join(
            f"{part.name} {part.scores.num_questions:,} of {part.split_size:,}" for part in partial
        )
        seed = settings.get("subset_seed")
        notes.append(f"Ours are a sample of the questions (seed {seed}): {sizes}.")
    for text, names in _retrievals(parts).items():
        notes.append(f"{text} ({', '.join(names)}).")
    notes.append(_decoding(parts, settings))
    unknown = [part.name for part in parts if part.coverage is None]
    if unknown:
        notes.append(
            "How many questions this corpus can answer at all was not measured for "
            f"{', '.join(unknown)}."
        )
    return notes


def _retrievals(parts: Sequence[PartResult]) -> dict[str, list[str]]:
    """Sentence on the retrieval -> the benchmarks that it holds for."""
    found: dict[str, list[str]] = {}
    for part in parts:
        facts = part.retrieval
        sha256, size = facts.get("corpus_sha256") or "", facts.get("num_passages")
        corpus = f"{size:,} passages" if size else "a corpus of unknown size"
        known = f"sha256 {sha256[:12]}" if sha256 else "its hash is not known"
        text = (
            f"Our searches give {facts.get('top_k')} passages each, by {facts.get('retriever')} "
            f"({facts.get('identity', {}).get('kind', 'unknown')}) over {corpus}, {known}"
        )
        found.setdefault(text, []).append(part.name)
    return found


def _decoding(parts: Sequence[PartResult], settings: Mapping[str, Any]) -> str:
    """Sentence on the sampling of our answers."""
    temperature = settings.get("temperature", 0.0)
    number = parts[0].scores.num_samples
    how = "greedy" if not temperature else f"sampled at temperature {temperature:g}"
    if number > 1:
        how += f", the mean of {number} samples"
    env = settings.get("env", {})
    return (
        f"Our answers are {how}, after at most {env.get('max_turns')} searches, with the prompt "
        f'"{env.get("prompt")}".'
    )
