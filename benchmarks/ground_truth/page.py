"""The page of docs/credit: a text whose numbers are filled in from the kept records.

Where the text says that one estimator is better than another, or that something is not decided, the
claim stands beside it as a condition on the records: the page is not written once they say
otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2

from benchmarks.ground_truth.records import Record
from benchmarks.ground_truth.study import LABELS, TEN, TRAININGS
from benchmarks.ground_truth.wording import (
    CLUSTERS,
    CRITIC_TITLES,
    GLANCE,
    WORTHS,
    enumerated,
    markdown_rows,
    three,
    title_of,
    two,
    with_ends,
)

TEMPLATE: Final = Path(__file__).parent / "page.md"
PAGE_FILE: Final = "README.md"

_OTHERS: Final = 4
"""Best and worst of all other estimators in the table of the whole library."""
_SHOWN: Final = 5
"""Most estimators that a command on the page names."""
_COUNTS: Final = (
    *("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
)


class ClaimError(Exception):
    """The text says something that the records do not."""


def render_page(records: Mapping[str, Record]) -> str:
    """The page.

    Raises:
        ClaimError: if a sentence of the text does not hold any more; it is named.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals.update(Writer(records).functions())
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render()


class Writer:
    """What the text can ask of the records."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        """Writes from these."""
        self._records = records

    def functions(self) -> dict[str, Any]:
        """Functions by the name that the text calls them by."""
        names = (
            *("board", "whole_board", "glance", "critics", "sizes", "told", "punished", "command"),
            *("correlation", "difference", "worth", "count", "showable", "needed", "verdict"),
            *("holds", "tally", "gradient", "ceiling", "by_kind", "answers", "share", "size"),
            *("trainings", "metric", "mass", "reliability", "others", "number_of", "listed"),
            *("require", "reversed", "values", "speed", "trained", "number"),
        )
        constants = {"WORTHS": WORTHS, "CRITIC_TITLES": CRITIC_TITLES}
        return {name: getattr(self, name) for name in names} | constants

    # Tables

    def board(self, name: str, estimators: Sequence[str] | None = None) -> str:
        """Estimators over searches, best first."""
        searches = self._records[name]["searches"]
        chosen = [each for each in searches if estimators is None or each in estimators]

        def rank(each: str) -> float:
            return -float(searches[each]["scores"]["correlation"]["estimate"])

        reference = title_of(self._records[name]["reference"])
        header = (
            "estimator and labels",
            *("correlation over searches", "rank in episode", "good punished", "bad rewarded"),
            f"− {reference}, joint 95 %",
        )
        rows = []
        for each in sorted(chosen, key=rank):
            scores = searches[each]["scores"]
            shares = [two(scores[m]["estimate"]) for m in ("rank", "good_punished", "bad_rewarded")]
            is_reference = each == self._records[name]["reference"]
            difference = "" if is_reference else self.difference(name, each)
            correlation = with_ends(scores["correlation"], two)
            rows.append((title_of(each), correlation, *shares, difference))
        return markdown_rows(header, rows)

    def whole_board(self, name: str) -> str:
        """The named estimators, and the best and worst of all others."""
        searches = self._records[name]["searches"]
        known = {
            each: one["scores"]["correlation"]["estimate"]
            for each, one in searches.items()
            if one["scores"]["correlation"]["estimate"] is not None
        }
        others = sorted((e for e in known if e not in (*TEN, "grpo")), key=lambda e: -known[e])
        return self.board(name, ("grpo", *TEN, *others[:_OTHERS], *others[-_OTHERS:]))

    def glance(self) -> str:
        """All policies and worlds."""
        header = ("measured on", "GRPO", *(f"{label} − GRPO" for label in _GLANCED))
        rows = []
        for name, title in GLANCE.items():
            grpo = self._records[name]["searches"]["grpo"]["scores"]["correlation"]["estimate"]
            cells = [self.difference(name, f"calibadv/{label}") for label in _GLANCED]
            rows.append((title, two(grpo), *cells))
        return markdown_rows(header, rows)

    def critics(self, names: Mapping[str, str]) -> str:
        """Values of critics against the measured ones."""
        header = (
            "critic",
            *("correlation with the measured values, at the start", "after the first turn"),
            *("… within a question", "variance accounted for", "by the other episodes"),
        )
        places = (
            ("critic, the start", "corrected"),
            ("critic, later states", "corrected"),
            ("critic, later states", "within"),
            ("critic, all states", "explained"),
            ("other episodes, all states", "explained"),
        )
        rows = []
        for name, title in names.items():
            values = {each["what"]: each for each in self._records[name]["values"]}
            # A critic that learnt rewards of its own stands on another scale.
            is_own = bool(self._records[name]["facts"].get("critic_rewards"))
            rows.append(
                (
                    title,
                    *(
                        "–"
                        if is_own and what == "critic, all states"
                        else with_ends(values[what][score], two)
                        for what, score in places
                    ),
                )
            )
        return markdown_rows(header, rows)

    # Sentences

    def sizes(self, name: str) -> str:
        """Sizes of a measurement."""
        record = self._records[name]
        facts = record["facts"]
        return (
            f"{facts['questions']} questions × {facts['group_size']} episodes, "
            f"{facts['states']:,} distinct states, {facts['continuations']:,} continuations, "
            f"{record['num_turns']['searches']:,} searches; {self.reliability(name)} of the "
            "variance of their measured advantages is no noise, and intervals resample "
            f"{record['num_clusters']} {CLUSTERS.get(facts['clusters'], facts['clusters'])}; "
            f"sampled at commit {facts['sampled_at'][:7]}"
        )

    def trained(self, name: str) -> str:
        """Commit at which a policy was trained."""
        return str(self._records[name]["trained_at"])[:7]

    def reliability(self, name: str) -> str:
        """Share of the measured advantages of searches that is no noise."""
        return f"{self._records[name]['reliability']['searches']['estimate']:.0%}".replace(
            "%", " %"
        )

    def told(self, name: str) -> str:
        """Which estimators are told from the reference."""
        record = self._records[name]
        reference = title_of(record["reference"])
        sides = []
        for side in ("better", "worse"):
            found = self._with(name, side)
            if found:
                are = "is" if len(found) == 1 else "are"
                names = enumerated([f"`{each}`" for each in found])
                sides.append(f"{names} {are} {side} than {reference}")
        if not sides:
            return f"Nothing is told from {reference}."
        others = len(self._with(name, "undecided"))
        rest = "" if not others else ", the rest is undecided"
        return f"**{'; '.join(sides)}**{rest}."

    def punished(self, name: str) -> str:
        """What the searches that GRPO punishes are worth."""
        return (
            f"GRPO punishes {self.count(name, 'searches that GRPO punishes')} searches: the "
            f"{self.count(name, '… of them correct by gold')} correct ones are worth "
            f"{self.worth(name, '… of them correct by gold')}, the "
            f"{self.count(name, '… of them wrong by gold')} wrong ones "
            f"{self.worth(name, '… of them wrong by gold')}"
        )

    def command(self, name: str) -> str:
        """The command that measured it, without a long list of estimators."""
        words = str(self._records[name]["command"])
        if words.count("--estimators ") > _SHOWN:
            words = f"{words.partition(' --estimators ')[0]} --estimators …"
        return f"`{words}`"

    def trainings(self) -> str:
        """The commands that trained."""
        return "\n".join(
            f"calibadv train --preset atlas-tiny {' '.join(each.flags)}" for each in TRAININGS
        )

    # Numbers

    def correlation(self, name: str, estimator: str) -> str:
        """Correlation with its interval."""
        return with_ends(self._scores(name, estimator)["correlation"], two)

    def metric(self, name: str, estimator: str, which: str) -> str:
        """Another metric over searches."""
        return two(self._scores(name, estimator)[which]["estimate"])

    def others(self, name: str) -> int:
        """Number of comparisons."""
        return len(self._records[name]["searches"]) - 1

    def number_of(self, name: str, which: str) -> int:
        """Number of estimators with a verdict."""
        return len(self._with(name, which))

    def listed(self, name: str, which: str) -> str:
        """Estimators with a verdict, by name."""
        found = self._with(name, which)
        return enumerated([f"`{each}`" for each in found]) if found else "none"

    def reversed(self, name: str, estimator: str) -> str:
        """The reference less an estimator, bold if it is decided."""
        against = self._records[name]["searches"][estimator]["against"]["correlation"]
        joint = against["joint"]
        turned = {"estimate": -joint["estimate"], "low": -joint["high"], "high": -joint["low"]}
        text = with_ends(turned, three)
        return text if against["verdict"] == "undecided" else f"**{text}**"

    def values(self, name: str, what: str, score: str) -> str:
        """A score of the values of states."""
        found = {each["what"]: each for each in self._records[name]["values"]}
        return with_ends(found[what][score], three if score == "bias" else two)

    def speed(self, which: str) -> str:
        """A number of the record of times."""
        value = self._records["speed"][which]
        return f"{value:.1f}" if isinstance(value, float) else str(value)

    def difference(self, name: str, estimator: str, *, alone: bool = False) -> str:
        """Difference from the reference, bold if it is decided; alone: of this comparison only."""
        against = self._records[name]["searches"][estimator]["against"].get("correlation")
        if against is None:
            return "–"
        text = with_ends(against["interval" if alone else "joint"], three)
        return text if alone or against["verdict"] == "undecided" else f"**{text}**"

    def mass(self, name: str, estimator: str) -> str:
        """Verdict on the wrong mass."""
        against = self._records[name]["searches"][estimator]["against"]
        return str(against["wrong_mass"]["verdict"])

    def verdict(self, name: str, estimator: str) -> str:
        """better, worse or undecided; "" of the reference itself."""
        against = self._records[name]["searches"][estimator]["against"].get("correlation")
        return "" if against is None else str(against["verdict"])

    def worth(self, name: str, what: str) -> str:
        """Mean true advantage of a kind of turns."""
        return with_ends(self._kind(name, what)["advantage"], three)

    def count(self, name: str, what: str, which: str = "count") -> str:
        """Number of turns of a kind; which: clear_good or clear_bad."""
        return f"{self._kind(name, what)[which]:,}"

    def size(self, name: str, which: str) -> int:
        """A number of the facts, or of turns."""
        record = self._records[name]
        counts = {"num_clusters": record["num_clusters"], **record["num_turns"], **record["facts"]}
        return int(counts[which])

    def share(self, name: str, what: str) -> str:
        """Share of all searches that are of a kind."""
        return f"{self._kind(name, what)['count'] / self.size(name, 'searches'):.0%}".replace(
            "%", " %"
        )

    def showable(self, name: str) -> str:
        """Smallest true difference of a label source that shows in four of five cases."""
        found = self._records[name]["searches"]
        return two(
            max(found[e]["against"]["correlation"]["showable"] for e in LABELS if e in found)
        )

    def needed(self, name: str, estimator: str) -> str:
        """Questions that it takes to tell an estimator, if its difference is as it looks."""
        against = self._records[name]["searches"][estimator]["against"]["correlation"]
        ratio = against["showable"] / abs(against["joint"]["estimate"])
        return f"{round(self.size(name, 'questions') * ratio**2, -1):,.0f}"

    def tally(self, estimator: str, which: str) -> str:
        """Number of the measurements of the glance with a verdict, in words."""
        return _COUNTS[sum(self.verdict(name, estimator) == which for name in GLANCE)]

    def gradient(self, name: str, estimator: str) -> str:
        """Cosine with the true gradient."""
        return with_ends(self._records[name]["gradient"][estimator], two)

    def ceiling(self, name: str) -> str:
        """Cosine that a perfect estimator would reach."""
        return two(self._records[name]["gradient_ceiling"])

    def by_kind(self, name: str, kind: str, estimator: str) -> str:
        """Correlation over a kind of turns."""
        return two(self._records[name]["by_kind"][kind][estimator]["estimate"])

    def answers(self, name: str, estimator: str) -> str:
        """Correlation over last turns."""
        return two(self._records[name]["answers"][estimator]["estimate"])

    # Claims

    def holds(self, name: str, estimator: str, *verdicts: str) -> str:
        """Nothing, if the verdict on an estimator is one of these.

        Raises:
            ClaimError: if it is not.
        """
        found = self.verdict(name, estimator)
        if found not in verdicts:
            raise ClaimError(
                f"the text says that {estimator} is {' or '.join(verdicts)} in {name}, "
                f"the record says {found}"
            )
        return ""

    def require(self, condition: bool, said: str) -> str:
        """Nothing, if what is said holds.

        Raises:
            ClaimError: if it does not.
        """
        if not condition:
            raise ClaimError(f"the records do not say that {said}")
        return ""

    def number(self, name: str, estimator: str, which: str) -> float:
        """A metric over searches, or the cosine ``gradient``, as a number for conditions."""
        if which == "gradient":
            return float(self._records[name]["gradient"][estimator]["estimate"])
        return float(self._scores(name, estimator)[which]["estimate"])

    def _with(self, name: str, which: str) -> list[str]:
        return [e for e in self._records[name]["searches"] if self.verdict(name, e) == which]

    def _scores(self, name: str, estimator: str) -> Mapping[str, Any]:
        scores: Mapping[str, Any] = self._records[name]["searches"][estimator]["scores"]
        return scores

    def _kind(self, name: str, what: str) -> Mapping[str, Any]:
        kinds = {each["what"]: each for each in self._records[name]["worth"]}
        return kinds[what]


_GLANCED: Final = ("gold", "silver", "inverted")
