"""`calibadv trace`: brings the rollouts of other systems into the form of our records."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro
from rich.console import Console

from calibadv_algo.cli.env_rules import DEFAULT_TOKENIZER, make_rules
from calibadv_algo.report.understood import Understood
from calibadv_algo.rollout.records import trajectory_to_json
from calibadv_algo.traces.base import Rules
from calibadv_algo.traces.building import RewardSource, Validity, build_groups
from calibadv_algo.traces.grouping import LogFile, Skipped, read_log, read_logs
from calibadv_algo.types import Group
from calibadv_env.common.files import atomic_file

FIELDS: Final = ("question", "answers", "score", "messages", "prompt", "response")
"""What `--field` may name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Rules by which logs are read."""

    format: str = "auto"
    """Shape of the records; auto tells it by their fields."""
    group_by: str | None = None
    """Field that says which rollouts belong together, with dots for nested ones; or prompt, or
    question."""
    reward: RewardSource = "logged"
    """The logged score, or a metric of the answer, computed from the accepted ones."""
    validity: Validity = "turns"
    """Format rule: every turn is a thought and an action and nothing else; or merely answered."""
    tokenizer: str = DEFAULT_TOKENIZER
    """Counts tokens: a shipped policy, a tokenizer.json, its folder, or a name on the hub."""
    search_tools: tuple[str, ...] = ()
    """More names of tools that search."""
    answer_tools: tuple[str, ...] = ()
    """More names of tools that answer."""
    visit_tools: tuple[str, ...] = ()
    """More names of tools that open a document; they are counted apart from searches."""
    whole_results: bool = False
    """If true, a result that cannot be split is one passage by intention."""
    field: tuple[str, ...] = ()
    """Names of fields that are not found by themselves, such as score=metrics.f1: for question,
    answers, score, messages, prompt or response, with dots for nested ones."""

    def rules(self) -> Rules:
        """Grammar and metrics that turns are read by.

        Raises:
            ValueError: if there is no such tokenizer.
        """
        return make_rules(
            self.tokenizer,
            search_tools=self.search_tools,
            answer_tools=self.answer_tools,
            visit_tools=self.visit_tools,
            whole_results=self.whole_results,
        )

    def logs(self, source: Path, skipped: Skipped | None = None) -> Iterator[LogFile]:
        """Reads a file, or the files of a folder.

        Raises:
            TraceError: naming file and line, if one cannot be read.
            ValueError: if there is no such format, or ``field`` names something else.
        """
        name = None if self.format == "auto" else self.format
        return read_logs(
            source, name, group_by=self.group_by, fields=self._fields(), skipped=skipped
        )

    def log(self, path: Path) -> LogFile:
        """Reads a file.

        Raises:
            TraceError: naming file and line, if it cannot be read.
        """
        name = None if self.format == "auto" else self.format
        return read_log(path, name, group_by=self.group_by, fields=self._fields())

    def _fields(self) -> dict[str, str]:
        pairs = [each.partition("=") for each in self.field]
        for name, sign, value in pairs:
            if name not in FIELDS or not sign or not value:
                raise ValueError(
                    f"field must be one of {', '.join(FIELDS)}, an equal sign and the name of a "
                    f"field, got {name + sign + value!r}"
                )
        return {name: value for name, _, value in pairs}

    def groups(self, log: LogFile, rules: Rules) -> list[Group]:
        """Makes trajectories of a file.

        Raises:
            TraceError: naming file and line, if rewards are missing.
        """
        return build_groups(log, rules, reward=self.reward, validity=self.validity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Read logged rollouts of other systems and write them as trajectories, one line each."""

    action: Annotated[Literal["import"], tyro.conf.Positional]
    """The action."""
    sources: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files (JSON lines, JSON, an .eval of Inspect, each also as .gz), or folders of them."""
    output: Path
    """File to write."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Reading)
    """Rules by which logs are read."""
    overwrite: bool = False
    """If true, a file in this place gives way, once the new one is complete."""

    def run(self) -> int:
        """Imports and says what was found; writes nothing if a line cannot be read."""
        if not self.sources:
            raise ValueError("sources must name at least one file or folder, got none")
        if self.output.exists() and not self.overwrite:
            raise ValueError(f"output {self.output} is there already; see --overwrite")
        console, rules = Console(highlight=False), self.reading.rules()
        lines: list[str] = []
        for source in self.sources:
            skipped = Skipped()
            for log in self.reading.logs(source, skipped):
                groups = self.reading.groups(log, rules)
                lines += [
                    trajectory_to_json(each) for group in groups for each in group.trajectories
                ]
                say(console, describe(log, groups))
            say(console, describe_skipped(skipped))
        write_lines(self.output, lines)
        console.print(f"wrote {len(lines)} trajectories to {self.output}", markup=False)
        return 0


def say(console: Console, sentences: Iterable[str]) -> None:
    """Prints sentences, each on a line."""
    for sentence in sentences:
        console.print(sentence, markup=False, soft_wrap=True)


def describe(log: LogFile, groups: Sequence[Group]) -> list[str]:
    """Sentences about the contents of a log, and about what was not understood of them."""
    members = [each for group in groups for each in group.trajectories]
    num_invalid = sum(not each.final_info["is_format_valid"] for each in members)
    files = f" ({log.num_files:,} files, joined)" if log.num_files > 1 else ""
    text = (
        f"{log.path}{files}: {log.format}, {len(members)} rollouts in {len(groups)} groups by "
        f"{log.grouped_by}, {num_invalid} of invalid format"
    )
    steps = len({each.step for each in log.episodes})
    if log.steps_are_rounds:
        text += "; their steps are taken for rounds over the same questions"
    elif steps > 1 and len(members) == len(groups):
        text += f"; rollouts of different steps ({steps:,}) are not compared with each other"
    left = log.num_left_out
    first = f"{text}, {left} failed before anything was written" if left else text
    understood = Understood()
    for group in groups:
        understood.add(group)
    return [first, *(f"  {sentence}" for sentence in understood.sentences())]


def describe_skipped(skipped: Skipped) -> list[str]:
    """A sentence about the files of a folder that hold no rollouts."""
    names = [path.name for path, _ in skipped.files]
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"passed over, as they hold no rollouts: {', '.join(names[:5])}{more}"]


def write_lines(output: Path, lines: Sequence[str]) -> None:
    """Writes a file and its folder; it is there as a whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output, "wb") as stream:
        # Logs of other systems may hold halves of surrogate pairs, which UTF-8 cannot.
        stream.writelines(f"{line}\n".encode("utf-8", "replace") for line in lines)
