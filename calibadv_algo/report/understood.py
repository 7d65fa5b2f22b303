"""What was understood of imported rollouts, summed up and said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from calibadv_algo.types import Group
from calibadv_env.protocol.search_results import NOTHING, WHOLE


@dataclass(slots=True)
class Understood:
    """Counts of what was understood of logged rollouts; all zero for records of our own.

    Attributes:
        num_rollouts: Rollouts that were imported.
        num_single: Those of them whose group has no other member.
        searches: Calls (or turns in tags) that search, by the name of the tool.
        visits: Calls that open a document.
        answers: Calls or texts that answer.
        not_understood: Calls that are none of these.
        results: Results of searches, by the form in which they were split.
        num_answers_were_text: Rollouts whose list of accepted answers was written as a text.
        taken_from: How often which field gave what, as ``score: reward``.
        num_shared: Groups of several in which two rollouts found the same passage.
        num_groups: Imported groups of several.
    """

    num_rollouts: int = 0
    num_single: int = 0
    searches: Counter[str] = field(default_factory=Counter)
    visits: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    not_understood: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    num_answers_were_text: int = 0
    taken_from: Counter[str] = field(default_factory=Counter)
    num_shared: int = 0
    num_groups: int = 0

    def add(self, group: Group) -> None:
        """Counts a group."""
        accounts = [each.reset_info.get("understood") for each in group.trajectories]
        found = [each for each in accounts if isinstance(each, Mapping)]
        if not found:
            return
        self.num_rollouts += len(found)
        self.num_single += len(group) == 1
        for account in found:
            for name in ("searches", "visits", "answers", "not_understood", "results"):
                getattr(self, name).update(account.get(name) or {})
            self.num_answers_were_text += bool(account.get("answers_were_text"))
            self.taken_from.update(
                f"{k}: {v}" for k, v in (account.get("taken_from") or {}).items()
            )
        if len(group) > 1:
            self.num_groups += 1
            self.num_shared += _shares(group)

    def merge(self, other: Understood) -> None:
        """Adds the counts of others."""
        for name in ("searches", "visits", "answers", "not_understood", "results", "taken_from"):
            getattr(self, name).update(getattr(other, name))
        for name in (
            "num_rollouts",
            "num_single",
            "num_answers_were_text",
            "num_shared",
            "num_groups",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def num_results(self) -> int:
        """Results of searches in which something was found."""
        return sum(self.results.values()) - self.results[NOTHING]

    def sentences(self) -> list[str]:
        """What was understood, and what was not; nothing about records of our own."""
        if not self.num_rollouts:
            return []
        said = [
            f"Calls: {self.searches.total():,} searches ({_listed(self.searches)}), "
            f"{self.visits.total():,} visits ({_listed(self.visits)}), {self.answers.total():,} "
            f"answers; {self.not_understood.total():,} calls were not understood"
            f"{_named(self.not_understood)}."
        ]
        if self.not_understood:
            said[0] += " Name tools with --search-tools, --visit-tools or --answer-tools."
        split = Counter({k: v for k, v in self.results.items() if k not in (WHOLE, NOTHING)})
        said.append(
            f"Results: {self.results[WHOLE]:,} of {self.num_results:,} were not split into passages"
            f"{_named(split, 'split by ')}; {self.results[NOTHING]:,} held no hit."
        )
        said.append(
            f"{self.num_single:,} groups have one member. The accepted answers of "
            f"{self.num_answers_were_text:,} rollouts were a list written as text."
        )
        if self.taken_from:
            said.append(f"Fields taken: {_listed(self.taken_from)}.")
        return said

    def doubts(self) -> list[str]:
        """Reasons why the data cannot support a count of punished correct searches."""
        if not self.num_rollouts:
            return []
        if not self.searches:
            return [
                "No call was understood as a search"
                f"{_named(self.not_understood, 'calls: ')}: name the tool with --search-tools."
            ]
        if not self.num_results:
            return ["No search has a result in the log."]
        reasons = []
        if self.results[WHOLE] * 2 > self.num_results:
            reasons.append(
                f"{self.results[WHOLE]:,} of {self.num_results:,} results could not be split into "
                "passages, so it cannot be seen what rollouts found in common; if every result is "
                "one passage, say --whole-results."
            )
        if self.num_groups and not self.num_shared:
            reasons.append(
                "No two rollouts of any group found the same passage, so no search of an "
                "unsuccessful one can be shown to be correct: either they found nothing in common, "
                "or results were not split as they should be."
            )
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_rollouts": self.num_rollouts,
            "num_groups_of_one": self.num_single,
            "searches": dict(self.searches),
            "visits": dict(self.visits),
            "answers": dict(self.answers),
            "calls_not_understood": dict(self.not_understood),
            "results": dict(self.results),
            "num_results_not_split": self.results[WHOLE],
            "num_answers_were_text": self.num_answers_were_text,
            "fields_taken": dict(self.taken_from),
            "num_groups_with_shared_passages": self.num_shared,
        }


def _shares(group: Group) -> bool:
    """True if two rollouts of a group found the same passage."""
    seen: set[str] = set()
    for trajectory in group.trajectories:
        own = {str(name) for turn in trajectory.turns for name in turn.info.get("passage_ids", ())}
        if own & seen:
            return True
        seen |= own
    return False


def _listed(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {number:,}" for name, number in ordered[:8])
    return (f"{shown}, and {len(ordered) - 8} more" if len(ordered) > 8 else shown) or "none"


def _named(counts: Mapping[str, int], before: str = "") -> str:
    return f" ({before}{_listed(counts)})" if counts else ""


def sum_up(parts: Iterable[Understood]) -> Understood:
    """The sum of several counts."""
    total = Understood()
    for part in parts:
        total.merge(part)
    return total
