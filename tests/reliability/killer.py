"""Kills every command that writes at its n-th file event, and runs it again.

A command runs in a process forked from one that has everything imported. An audit hook counts its
file events (a file opened for writing, a folder opened to be synced, a rename, a removal, a new
folder, a truncation) and kills it with SIGKILL just before the n-th. What is there then must be
whole: the old result, the new one, or none. The same command is run again, undisturbed, and must
leave the same files with the same bytes as a run that was never killed, and no other.

    python tests/reliability/killer.py --output kills.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import CASES, Case, write_encoder, write_inputs

EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
TIMES = re.compile(r"time|seconds|_s$|per_s|wall")
WALL_TIME = re.compile(rb"\d+ min \d+ s")
"""As the page of a comparison says it."""
TIMEOUT_S = 600
COUNT = 1 << 40
"""Limit that no command reaches: its events are counted."""


class Failure(Exception):
    """Something that must not be after a kill."""


def arm(folder: Path, limit: int, report: int, is_meant: Callable[[], bool]) -> Callable[[], int]:
    """Kills this process before its n-th file event below a folder; gives the count so far."""
    count = 0
    below = f"{folder}{os.sep}"

    def concerns(event: str, args: tuple[Any, ...]) -> bool:
        path = args[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.fsdecode(os.fspath(path))
        is_in_open_folder = event != "open" and isinstance(args[-1], int) and args[-1] >= 0
        if not is_in_open_folder and not os.path.abspath(text).startswith(below):  # noqa: PTH100
            return False
        if event != "open":
            return True
        flags = args[2] if isinstance(args[2], int) else 0
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) or Path(text).is_dir()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in ("open", *EVENTS) or not args or not is_meant():
            return
        if concerns(event, args):
            count += 1
            if count == limit:
                os.write(report, f"{event} {args[0]!r}"[:200].encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return lambda: count


def run(
    command: str, folder: Path, limit: int = 0, kills_runs: bool = False
) -> tuple[int, str, str]:
    """Runs a command in a forked process.

    Returns:
        Its exit code (negative for a signal), the event that it was killed at, its output.
    """
    arguments = shlex.split(command)
    reader, writer = os.pipe()
    log = folder.parent / f"{folder.name}.log"
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.chdir(folder)
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            signal.alarm(TIMEOUT_S)
            me = os.getpid()
            sys.argv = ["calibadv", *arguments]
            if limit:
                counted = arm(folder, limit, writer, lambda: (os.getpid() == me) != kills_runs)
            from calibadv_algo.cli.main import main

            code = main(arguments)
            if limit == COUNT:
                os.write(writer, str(counted()).encode())
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    os.set_blocking(reader, False)
    try:
        event = os.read(reader, 4096).decode()
    except BlockingIOError:
        event = ""
    os.close(reader)
    return os.waitstatus_to_exitcode(status), event, log.read_text(errors="replace")


def digest(path: Path) -> str:
    """Hash of a file without what times leave in it."""
    data = path.read_bytes()
    try:
        if path.suffix == ".jsonl":
            values: Any = [json.loads(line) for line in data.split(b"\n") if line.strip()]
            data = json.dumps(without_times(values), sort_keys=True).encode()
        elif path.suffix == ".json":
            data = json.dumps(without_times(json.loads(data)), sort_keys=True).encode()
        elif path.suffix == ".html":
            data = WALL_TIME.sub(b"", data)
    except ValueError:
        pass
    return hashlib.sha256(data).hexdigest()


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if not TIMES.search(key)}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def snapshot(folder: Path, only: str = "") -> dict[str, str]:
    """Every file and folder below a folder with its hash, hidden ones too."""
    found = {}
    for path in sorted((folder / only).rglob("*")) if (folder / only).is_dir() else [folder / only]:
        if path.exists() and path.name != "log.txt":  # what each process said, one after the other
            name = str(path.relative_to(folder))
            found[name] = digest(path) if path.is_file() else "folder"
    return found


def differences(got: dict[str, str], wanted: dict[str, str], loose: set[str]) -> list[str]:
    """Files that are missing, too many, or other than wanted."""
    lines = [f"missing {name}" for name in wanted if name not in got]
    lines += [f"left over {name}" for name in got if name not in wanted]
    return lines + [
        f"other bytes in {name}"
        for name in wanted
        if name in got and name not in loose and got[name] != wanted[name]
    ]


class Killer:
    """Kills one command.

    Args:
        case: The command.
        scratch: An empty folder.
        encoder: Folder of a tiny encoder.
    """

    def __init__(self, case: Case, scratch: Path, encoder: Path) -> None:
        self.case = case
        self.scratch = scratch
        self.template = scratch / "template"
        self.template.mkdir()
        write_inputs(self.template)
        if "encoder" in case.command.split():
            shutil.copytree(encoder, self.template / "encoder")
        for each in case.before:
            self._must(run(each, self.template))
        first, second = self._undisturbed(), self._undisturbed()
        self.wanted = first
        self.loose = {name for name in first if second.get(name) != first[name]}
        if set(second) != set(first):
            # Names that are drawn anew each time, such as those of tantivy's files.
            self.loose |= set(first) ^ set(second)
            self.is_named_anew = True
        else:
            self.is_named_anew = False

    def _must(self, done: tuple[int, str, str]) -> None:
        if done[0] != 0:
            raise Failure(f"exit code {done[0]} undisturbed:\n{done[2][-3000:]}")

    def _copy(self) -> Path:
        # The same path each time, since some files hold it.
        folder = self.scratch / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        return folder

    def _undisturbed(self) -> dict[str, str]:
        folder = self._copy()
        self._must(run(self.case.command, folder))
        return snapshot(folder)

    def kill(self, limits: Sequence[int]) -> int:
        """Kills at one event after the other, each time going on, then runs undisturbed.

        Returns:
            Number of kills; fewer than limits where a run had fewer events left.

        Raises:
            Failure: if something is half, lost, left over or different.
        """
        case, folder = self.case, self._copy()
        events, problems = [], []
        for limit in limits:
            code, event, log = run(case.command, folder, limit, case.kills_runs)
            if event:
                events.append(f"{limit} ({event})")
                problems += self._half(folder)
            elif code != 0 and not self._is_done(log):
                problems.append(f"after {len(events)} kills: exit code {code}: {log[-1500:]}")
        code, _, log = run(case.command, folder)
        if code != 0 and not self._is_done(log):
            problems.append(f"again: exit code {code}: {log[-1500:]}")
        problems += self._compare(folder)
        if problems:
            raise Failure(f"{case.name}, killed at {', '.join(events)}: {'; '.join(problems)}")
        return len(events)

    def _is_done(self, log: str) -> bool:
        """Tells whether the command refused since its result stands already."""
        return self.case.is_refused_when_done and "is there already" in log

    def _half(self, folder: Path) -> list[str]:
        """Finds what is half after a kill."""
        case = self.case
        if not case.is_replaced_whole:
            from calibadv_algo.learner.checkpoint import find_checkpoint

            for checkpoints in folder.rglob("checkpoints"):
                find_checkpoint(checkpoints)
            return []
        now = snapshot(folder, case.place)
        after = {
            name: digest
            for name, digest in self.wanted.items()
            if self._is_inside(name) and (name, digest) != (case.place, "folder")
        }
        states = (snapshot(self.template, case.place), {}, after)
        if self.is_named_anew or any(not differences(now, each, self.loose) for each in states):
            return []
        return [f"half after the kill: {sorted(now)}"]

    def _is_inside(self, name: str) -> bool:
        return name == self.case.place or name.startswith(f"{self.case.place}/")

    def _compare(self, folder: Path) -> list[str]:
        """Differences from a run that was never killed."""
        got = snapshot(folder)
        if not self.is_named_anew:
            return differences(got, self.wanted, self.loose)
        from calibadv_env.retrieval.opening import verify_index

        verify_index(folder / self.case.place)
        outside = [
            {name: digest for name, digest in each.items() if not self._is_inside(name)}
            for each in (got, self.wanted)
        ]
        return differences(*outside, self.loose)


def warm_up() -> None:
    """Imports what the commands need, once for all processes."""
    import torch

    torch.set_num_threads(1)
    import calibadv_algo.cli.compare
    import calibadv_algo.cli.data
    import calibadv_algo.cli.diagnose
    import calibadv_algo.cli.evaluate_suite
    import calibadv_algo.cli.index
    import calibadv_algo.cli.trace
    import calibadv_algo.cli.train
    import calibadv_algo.cli.warmstart
    import calibadv_algo.experiments.jobs as jobs
    import calibadv_algo.training.trainer  # noqa: F401
    from calibadv_env.data.registry import get_dataset

    for name in ("atlas", "toy"):
        dataset = get_dataset(name)
        dataset.retriever("bm25")
    # Runs of a comparison are forked too: importing torch anew would take most of the time.
    fork = multiprocessing.get_context("fork")
    jobs.multiprocessing.get_context = lambda kind: fork  # type: ignore[attr-defined]


@dataclass
class Row:
    """Outcome of one command."""

    name: str
    events: int
    kills: int
    failures: list[str]
    loose: list[str]


def attack(case: Case, scratch: Path, encoder: Path, most: int, chain: int) -> Row:
    """Kills a command at so many of its events; at all of them where there are fewer."""
    killer = Killer(case, scratch, encoder)
    total = killer_events(killer)
    chosen = list(range(1, total + 1))
    if len(chosen) > most:
        chosen = sorted(random.Random(0).sample(chosen, most))
    row = Row(case.name, total, 0, [], sorted(killer.loose))
    for first in range(0, len(chosen), chain):
        limits = chosen[first : first + chain]
        try:
            row.kills += killer.kill(limits)
        except Failure as failure:
            row.failures.append(str(failure))
            row.kills += len(limits)
    return row


def killer_events(killer: Killer) -> int:
    """Number of file events of a command; those of its runs are found by halving."""
    if not killer.case.kills_runs:
        return int(run(killer.case.command, killer._copy(), COUNT)[1])
    low, high = 0, 1
    while is_reached(killer, high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_reached(killer, middle) else (low, middle)
    return low


def is_reached(killer: Killer, limit: int) -> bool:
    folder = killer._copy()
    return bool(run(killer.case.command, folder, limit, killer.case.kills_runs)[1])


def table(rows: Sequence[Row]) -> str:
    """The outcome as Markdown."""
    lines = [
        "| command | file events | kills | other bytes, leftovers, halves |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {row.name} | {row.events} | {row.kills} | {len(row.failures)} |" for row in rows]
    total = [sum(getattr(row, name) for row in rows) for name in ("events", "kills")]
    lines.append(f"| all | {total[0]} | {total[1]} | {sum(len(row.failures) for row in rows)} |")
    return "\n".join(lines) + "\n"


def attack_all(cases: Sequence[Case], most: int, chain: int) -> Iterator[Row]:
    """Kills commands one after the other."""
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder) / "encoder"
        write_encoder(encoder)
        for number, case in enumerate(cases):
            scratch = Path(folder).resolve() / str(number)
            scratch.mkdir()
            yield attack(case, scratch, encoder, most, chain)


def main() -> int:
    """Runs the whole and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1000, help="kills of one command at most")
    parser.add_argument("--chain", type=int, default=1, help="kills before it runs undisturbed")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    cases = [by_name[name] for name in options.only or by_name]
    rows = []
    began = time.monotonic()
    for row in attack_all(cases, options.most, options.chain):
        rows.append(row)
        sys.stdout.write(f"{time.monotonic() - began:.0f} s {row}\n")
        sys.stdout.flush()
        if options.output is not None:
            options.output.write_text(table(rows))
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
