"""The design of a comparison, written down before it runs: what is asked, and how it is judged."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, cast, get_args

from annotated_types import Interval

from calibadv_algo.experiments.verdicts import Expected
from calibadv_env.common.checks import POSITIVE, Checked

SPLIT_AUTO: Final = "auto"

METRICS: Final[tuple[str, ...]] = ("em", "f1", "cover_em", "num_searches", "is_format_valid")
"""Scores of a question that can be averaged, and judged."""

CONTROLS: Final[Mapping[str, Expected]] = {
    "vine": "higher",
    "flipped-searches": "lower",
    "grpo-again": "same",
}
"""Methods that `--controls` adds, and what each must show against the baseline."""

KNOWN: Final[Mapping[str, Expected]] = {**CONTROLS, "gold-turns": "higher"}
"""Methods that are controls where they take part, and what each must show against the baseline."""

_PAIR: Final = re.compile(r"([\w.+-]+) - ([\w.+-]+)")
_CONTROL: Final = re.compile(r"([\w.+-]+) - ([\w.+-]+) = (\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A difference whose outcome is known, so that it tests the instrument.

    Attributes:
        ahead: Method that is looked at.
        behind: Method that it is compared with.
        expected: What the difference must show.
    """

    ahead: str
    behind: str
    expected: Expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Design(Checked):
    """What a comparison asks, on which questions, and when it is decided."""

    hypotheses: tuple[str, ...] = ()
    """What is expected, one sentence each; they are printed beside the verdicts."""
    contrasts: tuple[str, ...] = ()
    """Differences that are judged, AHEAD - BEHIND; by default every method but the controls against
    the baseline (grpo where it takes part, else the first)."""
    controls: tuple[str, ...] = ()
    """Differences whose outcome is known, AHEAD - BEHIND = higher|lower|same; by default vine and
    gold-turns must win, flipped-searches lose, grpo-again not differ, as far as they take part."""
    metric: str = "f1"
    """Score that decides."""
    split: str = SPLIT_AUTO
    """Split of the final scores, played once after the last update; auto means test where there is
    one, else the split of the curves."""
    questions: Annotated[int, POSITIVE] = 500
    """Questions of the final scores, at most."""
    margin: Annotated[float, POSITIVE] = 0.02
    """Difference that does not matter, either way: smaller ones are called equivalent."""
    alpha: Annotated[float, Interval(gt=0, lt=0.5)] = 0.05
    """Chance of any false verdict over all differences and looks."""
    power: Annotated[float, Interval(gt=0, lt=1)] = 0.8
    """Chance to show the detectable difference that is stated."""
    until_decided: bool = False
    """If true, seeds are added in blocks until every difference is decided or most_seeds ran."""
    block: Annotated[int, POSITIVE] = 2
    """Seeds that are added at a time."""
    most_seeds: Annotated[int, POSITIVE] = 10
    """Seeds of each method, at most."""

    def __post_init__(self) -> None:
        """Checks ranges and the form of differences and controls."""
        Checked.__post_init__(self)
        if self.metric not in METRICS:
            raise ValueError(f"metric must be among {', '.join(METRICS)}, got {self.metric!r}")
        for name, pattern, form in (
            ("contrasts", _PAIR, "AHEAD - BEHIND"),
            ("controls", _CONTROL, "AHEAD - BEHIND = higher|lower|same"),
        ):
            for text in getattr(self, name):
                found = pattern.fullmatch(text)
                if found is None or (
                    name == "controls" and found.group(3) not in get_args(Expected)
                ):
                    raise ValueError(f"{name} must have the form {form}, got {text!r}")
        if self.until_decided and (self.block < 2 or self.most_seeds < self.block):
            raise ValueError(
                "block must be at least 2 and at most most_seeds to add seeds until decided, got "
                f"{self.block} and {self.most_seeds}"
            )

    def require_methods(self, arms: Sequence[str]) -> None:
        """Makes sure that differences and controls name methods that take part.

        Raises:
            ValueError: naming the difference.
        """
        for name in ("contrasts", "controls"):
            for text in getattr(self, name):
                sides = text.partition(" = ")[0].split(" - ")
                missing = [side for side in sides if side not in arms]
                if missing:
                    raise ValueError(
                        f"{name} must be of methods that take part ({', '.join(arms)}), got "
                        f"{text!r} with {missing[0]!r}"
                    )

    @property
    def num_looks(self) -> int:
        """Looks at the results that the stopping rule allows."""
        return -(-self.most_seeds // self.block) if self.until_decided else 1

    def look_of(self, num_seeds: int) -> int:
        """Number of the look that so many seeds make, from 1."""
        return min(self.num_looks, max(1, -(-num_seeds // self.block)))

    def pairs(self, arms: Sequence[str], baseline: str) -> tuple[tuple[str, str], ...]:
        """The differences that are judged, as far as both methods took part."""
        if self.contrasts:
            named = [tuple(text.split(" - ", 1)) for text in self.contrasts]
            return tuple((a, b) for a, b in named if a in arms and b in arms)
        known = {control.ahead for control in self.known(arms, baseline)}
        return tuple((arm, baseline) for arm in arms if arm != baseline and arm not in known)

    def known(self, arms: Sequence[str], baseline: str) -> tuple[Control, ...]:
        """The controls, as far as both methods took part."""
        if self.controls:
            found = [_CONTROL.fullmatch(text) for text in self.controls]
            named = [
                Control(ahead=m.group(1), behind=m.group(2), expected=cast("Expected", m.group(3)))
                for m in found
                if m is not None
            ]
        else:
            named = [
                Control(ahead=arm, behind=baseline, expected=expected)
                for arm, expected in KNOWN.items()
                if arm != baseline
                and not any(text.startswith(f"{arm} - ") for text in self.contrasts)
            ]
        return tuple(each for each in named if each.ahead in arms and each.behind in arms)


def plan_record(
    design: Design, arms: Sequence[str], seeds: Sequence[int], settings: Any
) -> dict[str, Any]:
    """The plan as it stands in ``comparison.json``, with its hash.

    Args:
        design: Of the comparison; its split is known by now.
        arms: Names of the methods.
        seeds: Seeds that are planned; with a rule that adds seeds, those of its first look.
        settings: Settings of the runs, as plain values; they count by their hash.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    plan = {
        **{name: _plain(value) for name, value in asdict(design).items()},
        "arms": list(arms),
        "seeds": list(seeds),
        "settings_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return {**plan, "sha256": plan_hash(plan)}


def plan_hash(plan: Mapping[str, Any]) -> str:
    """Hash of everything in a plan but the hash itself."""
    rest = {name: value for name, value in plan.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def design_of(plan: Mapping[str, Any]) -> Design:
    """The design of a recorded plan; keys that it does not know are left out."""
    names = {each.name for each in fields(Design)}
    known: dict[str, Any] = {name: value for name, value in plan.items() if name in names}
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in known.items()}
    return Design(**given)


def departures(
    plan: Mapping[str, Any],
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    splits: Sequence[str],
    num_later_commits: int = 0,
) -> tuple[str, ...]:
    """What of a comparison is not as it was planned, one sentence each.

    Args:
        plan: What :func:`plan_record` made before the runs; empty if there was none.
        arms: Methods that are reported.
        seeds: Seeds that are reported.
        splits: Splits that were played.
        num_later_commits: Changes of the code between runs.
    """
    if not plan:
        return ("No plan was written before the runs: these verdicts are exploratory.",)
    found = []
    if plan_hash(plan) != plan.get("sha256"):
        found.append("The plan was changed after it was hashed.")
    missing = [arm for arm in plan.get("arms", ()) if arm not in arms]
    added = [arm for arm in arms if arm not in plan.get("arms", ())]
    if missing:
        found.append(f"Planned methods that are missing: {', '.join(missing)}.")
    if added:
        found.append(f"Methods that joined after the plan: {', '.join(added)}.")
    design, planned = design_of(plan), plan.get("seeds", ())
    if not design.until_decided and set(seeds) != set(planned):
        found.append(f"{len(planned)} seeds were planned, {len(seeds)} are reported.")
    if design.until_decided and (len(seeds) > design.most_seeds or len(seeds) % design.block):
        found.append(
            f"{len(seeds)} seeds are no whole look of the plan ({design.block} at a time, "
            f"{design.most_seeds} at most)."
        )
    if splits and design.split not in splits:
        found.append(
            f"Final scores were planned on the split {design.split!r}, which was not played; "
            f"{splits[0]!r} stands in."
        )
    if num_later_commits:
        found.append(f"The code changed between runs ({num_later_commits} later commits).")
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFile:
    """What a plan file says.

    Attributes:
        design: The design.
        arms: Methods, None where the file names none.
        seeds: Seeds, None where the file names none.
    """

    design: Design
    arms: tuple[str, ...] | None
    seeds: tuple[int, ...] | None


def read_plan(path: Path) -> PlanFile:
    """Reads a plan file: TOML with the keys of :class:`Design`, ``arms`` and ``seeds``.

    Raises:
        ValueError: if the file cannot be read, holds an unknown key or a value out of range; it
            names the file.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"plan {path} cannot be read: {error}") from error
    names = {each.name for each in fields(Design)}
    unknown = sorted(set(values) - names - {"arms", "seeds"})
    if unknown:
        raise ValueError(
            f"plan {path}: unknown key {unknown[0]!r}; it may hold "
            f"{', '.join(sorted(names | {'arms', 'seeds'}))}"
        )
    arms, seeds = values.pop("arms", None), values.pop("seeds", None)
    try:
        design = design_of(values)
        return PlanFile(
            design=design,
            arms=None if arms is None else tuple(str(arm) for arm in arms),
            seeds=None if seeds is None else tuple(int(seed) for seed in seeds),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"plan {path}: {error}") from error


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
