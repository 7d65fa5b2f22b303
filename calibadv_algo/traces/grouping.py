"""Finds out which logged rollouts belong together, in a file and across those of a folder."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from calibadv_algo.traces.base import LoggedEpisode, Place, TraceError
from calibadv_algo.traces.fields import GROUP_KEYS
from calibadv_algo.traces.files import UnknownShapeError, iterate_episodes, log_files, stem_of
from calibadv_algo.traces.reader import reader_named

PROMPT: Final = "prompt"
"""Groups by identical prompts."""

QUESTION: Final = "question"
"""Groups by identical questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """The rollouts of one file, or of several files that hold one rollout of each question.

    Attributes:
        path: The file, or the folder of the files.
        format: Names of the shapes of its records.
        groups: Rollouts that belong together, by the id of their group, in order.
        grouped_by: The field that says so, ``prompt`` or ``question``.
        num_left_out: Records without a rollout: failed before the policy wrote anything.
        num_files: Number of files.
        steps_are_rounds: True if the steps that the records name count rounds over the same
            questions, and rollouts of different steps were joined.
    """

    path: Path
    format: str
    groups: Mapping[str, tuple[LoggedEpisode, ...]]
    grouped_by: str
    num_left_out: int
    num_files: int = 1
    steps_are_rounds: bool = False

    @property
    def episodes(self) -> list[LoggedEpisode]:
        """All rollouts, group by group."""
        return [episode for members in self.groups.values() for episode in members]


@dataclass(slots=True)
class Skipped:
    """Files of a folder that hold no rollouts.

    Attributes:
        files: Their paths, and why.
    """

    files: list[tuple[Path, str]] = field(default_factory=list)


def read_log(
    path: Path,
    format: str | None = None,
    *,
    group_by: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> LogFile:
    """The rollouts of one file, in groups.

    Args:
        path: The file.
        format: Name of its shape; None tells it by every record.
        group_by: Field that names the group of a rollout, with dots for fields within fields, or
            ``prompt``, or ``question``. None takes the first of the usual fields that all records
            have, that joins at least two of them and never two questions; else the prompt; else
            the question, where prompts differ. Rollouts of different steps are never joined.
        fields: Names of fields, see :class:`calibadv_algo.traces.base.Place`.

    Raises:
        TraceError: naming file and line, if a line cannot be read; if there is no rollout; if
            ``group_by`` is missing somewhere.
        ValueError: if there is no such format.
    """
    stem = stem_of(path)
    step = int(stem) if stem.isdigit() and len(stem) < 10 else 0
    place = Place(where=str(path), step=step, group_by=group_by, fields=fields or {})
    wanted = None if format is None else reader_named(format)
    episodes: list[LoggedEpisode] = []
    num_left_out = 0
    for found in iterate_episodes(path, place, wanted):
        num_left_out += not found
        episodes += found
    if not episodes:
        raise TraceError(f"{path}: holds no rollout")
    log = _grouped(path, stem, episodes, group_by, num_left_out)
    if _is_single(log) and _are_rounds(episodes):
        return _grouped(
            path, stem, _of_one_step(episodes), group_by, num_left_out, steps_are_rounds=True
        )
    return log


def read_logs(
    source: Path,
    format: str | None = None,
    *,
    group_by: str | None = None,
    fields: Mapping[str, str] | None = None,
    skipped: Skipped | None = None,
) -> Iterator[LogFile]:
    """The rollouts of a file, or of the files in a folder, one after the other.

    Files whose groups all have one member are joined: so lie the rollouts where every round over
    the questions is a file, or every rollout. Where their records name steps they are joined if
    these count rounds (0, 1, 2, … over the same questions), and never where they are updates.

    Args:
        source: The file or folder.
        format: As in :func:`read_log`.
        group_by: As in :func:`read_log`.
        fields: As in :func:`read_log`.
        skipped: Where the files of a folder that hold no rollouts are noted.

    Raises:
        TraceError: as :func:`read_log`; of a folder, if no file holds rollouts.
    """
    paths = log_files(source)
    alone: list[LogFile] = []
    num_read = 0
    for path in paths:
        try:
            log = read_log(path, format, group_by=group_by, fields=fields)
        except UnknownShapeError as error:
            if len(paths) == 1 or (num_read == 0 and path == paths[-1]):
                raise
            if skipped is not None:
                skipped.files.append((path, str(error)))
            continue
        num_read += 1
        if len(paths) > 1 and _is_single(log):
            alone.append(log)
        else:
            yield log
    yield from _joined(source, alone, group_by)


def _is_single(log: LogFile) -> bool:
    """True if all groups have one member."""
    return all(len(each) == 1 for each in log.groups.values())


def _are_rounds(episodes: Sequence[LoggedEpisode]) -> bool:
    """True if the steps that all records name count rounds over the same questions.

    They count up by one from 0 or 1, and each holds most questions that there are. Steps of
    training hold other questions each; evaluations between them are some updates apart.
    """
    if not all(each.has_step for each in episodes):
        return False
    asked: dict[int, set[str]] = {}
    for episode in episodes:
        asked.setdefault(episode.step, set()).add(_plain(episode.question))
    first = min(asked, default=-1)
    if len(asked) < 2 or first not in (0, 1) or max(asked) != first + len(asked) - 1:
        return False
    num_questions = len(set().union(*asked.values()))
    return all(2 * len(questions) > num_questions for questions in asked.values())


def _of_one_step(episodes: Sequence[LoggedEpisode]) -> list[LoggedEpisode]:
    return [replace(episode, step=0) for episode in episodes]


def _joined(source: Path, logs: Sequence[LogFile], group_by: str | None) -> Iterator[LogFile]:
    """The files as one, if that joins rollouts; else one by one."""
    if len(logs) < 2:
        yield from logs
        return
    episodes = [episode for log in logs for episode in log.episodes]
    has_steps = any(episode.has_step for episode in episodes)
    if has_steps and not _are_rounds(episodes):
        yield from logs
        return
    whole = _grouped(
        source,
        source.name,
        _of_one_step(episodes),  # a number for a name says the round here, not the update
        group_by,
        sum(log.num_left_out for log in logs),
        num_files=len(logs),
        steps_are_rounds=has_steps,
    )
    if len(whole.groups) < len(episodes):
        yield whole
    else:
        yield from logs


def _grouped(
    path: Path,
    name: str,
    episodes: Sequence[LoggedEpisode],
    group_by: str | None,
    num_left_out: int,
    *,
    num_files: int = 1,
    steps_are_rounds: bool = False,
) -> LogFile:
    key = group_by or _telling_key(episodes)
    groups: dict[str, list[LoggedEpisode]] = {}
    for episode in episodes:
        named = _name(episode, key)
        if named is None:
            raise TraceError(f"{episode.where}: has no field {key!r} to group by")
        groups.setdefault(f"{name}/{episode.step}/{named}", []).append(episode)
    formats = Counter(episode.format for episode in episodes)
    return LogFile(
        path=path,
        format=" and ".join(formats),
        groups={name: tuple(members) for name, members in groups.items()},
        grouped_by=key,
        num_left_out=num_left_out,
        num_files=num_files,
        steps_are_rounds=steps_are_rounds,
    )


def _name(episode: LoggedEpisode, key: str) -> str | None:
    if key == PROMPT:
        return _short(episode.prompt)
    if key == QUESTION and key not in episode.fields:
        return _short(_plain(episode.question))
    return episode.fields.get(key)


def _short(text: str) -> str:
    """A name for a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _plain(question: str) -> str:
    return " ".join(question.split()).casefold()


def _telling_key(episodes: Sequence[LoggedEpisode]) -> str:
    """The first field that all have, and that joins some of them but never two questions.

    Else the prompt; else the question, where that joins some, as prompts may hold a date.
    """
    for key in (*GROUP_KEYS, PROMPT, QUESTION):
        questions: dict[tuple[int, str], set[str]] = {}
        for episode in episodes:
            name = _name(episode, key)
            if name is None:
                break
            questions.setdefault((episode.step, name), set()).add(_plain(episode.question))
        else:
            joins = len(questions) < len(episodes)
            if joins and (key == PROMPT or all(len(each) == 1 for each in questions.values())):
                return key
    return PROMPT
