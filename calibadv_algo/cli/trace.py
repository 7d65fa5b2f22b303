"""`calibadv trace`: brings the rollouts of other systems into the form of our records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from calibadv_algo.cli.env_rules import DEFAULT_TOKENIZER, make_rules
from calibadv_algo.rollout.records import trajectory_to_json
from calibadv_algo.traces.base import Rules
from calibadv_algo.traces.building import RewardSource, Validity, build_groups
from calibadv_algo.traces.files import LogFile, log_files, read_log
from calibadv_algo.types import Group
from calibadv_env.common.files import atomic_file

FormatName = Literal["auto", "search-r1", "messages", "verifiers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Rules by which logs are read."""

    format: FormatName = "auto"
    """Form of the logs; auto tells it by the first record of each file."""
    group_by: str | None = None
    """Field that says which rollouts belong together, with dots for nested ones, or prompt."""
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

    def rules(self) -> Rules:
        """Grammar and metrics that turns are read by.

        Raises:
            ValueError: if there is no such tokenizer.
        """
        return make_rules(
            self.tokenizer, search_tools=self.search_tools, answer_tools=self.answer_tools
        )

    def log(self, path: Path) -> LogFile:
        """Reads a file.

        Raises:
            TraceError: naming file and line, if it cannot be read.
        """
        name = None if self.format == "auto" else self.format
        return read_log(path, name, group_by=self.group_by)

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
    """Files (JSON lines, or a list in a .json), or folders of them."""
    output: Path
    """File to write."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default_factory=Reading)
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
            for path in log_files(source):
                log = self.reading.log(path)
                groups = self.reading.groups(log, rules)
                lines += [
                    trajectory_to_json(each) for group in groups for each in group.trajectories
                ]
                console.print(describe(log, groups), markup=False, soft_wrap=True)
        write_lines(self.output, lines)
        console.print(f"wrote {len(lines)} trajectories to {self.output}", markup=False)
        return 0


def describe(log: LogFile, groups: Sequence[Group]) -> str:
    """One line about the contents of a file."""
    members = [each for group in groups for each in group.trajectories]
    num_invalid = sum(not each.final_info["is_format_valid"] for each in members)
    text = (
        f"{log.path}: {log.format}, {len(members)} rollouts in {len(groups)} groups by "
        f"{log.grouped_by}, {num_invalid} of invalid format"
    )
    left = log.num_left_out
    return f"{text}, {left} failed before anything was written" if left else text


def write_lines(output: Path, lines: Sequence[str]) -> None:
    """Writes a file and its folder; it is there as a whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output, "wb") as stream:
        # Logs of other systems may hold halves of surrogate pairs, which UTF-8 cannot.
        stream.writelines(f"{line}\n".encode("utf-8", "replace") for line in lines)
