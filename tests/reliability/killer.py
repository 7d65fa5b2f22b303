"""Kills every command that writes at its n-th file event, and runs it again.

A command runs in a process forked from one that has everything imported. An audit hook counts its
file events (a file opened for writing, a folder opened to be synced, a rename, a removal, a new
folder, a truncation) and kills it with SIGKILL just before the n-th. What is there then must be
whole: the old result, the new one, or none. The same command is run again, undisturbed, and must
leave the same files with the same bytes as a run that was never killed, and no other.

    python tests/reliability/killer.py --log kills.jsonl --output kills.md

With ``--log`` what was tried is kept, a line a sequence of kills: the same call goes on where it
was cut off, and tries again what failed.
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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cases import CASES, Case, write_inputs, write_models

EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
TIMES = re.compile(r"time|seconds|_s$|per_s|wall")
WALL_TIME = re.compile(rb"\d+ min \d+ s")
"""As the page of a comparison says it."""
TIMEOUT_S = 600
COUNT = 1 << 40
"""Limit that no command reaches: its events are counted."""
KINDS = ("other bytes", "leftovers", "half or refused")
"""Kinds of what may be wrong after a kill."""


class Failure(Exception):
    """Something that must not be after a kill."""


def arm(folder: Path, limit: int, report: int, is_meant: Callable[[], bool]) -> None:
    """Kills this process before its n-th file event below a folder, or reports all of them."""
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
            if limit == COUNT:
                os.write(report, b".")  # also from the processes that the command starts
            elif count == limit:
                os.write(report, f"{event} {args[0]!r}"[:200].encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(
    command: str, folder: Path, limit: int = 0, kills_runs: bool = False
) -> tuple[int, str, str]:
    """Runs a command in a forked process.

    Returns:
        Its exit code (negative for a signal), the event that it was killed at, its output.
    """
    arguments = shlex.split(command)

    def carry_out(report: int) -> int:
        os.chdir(folder)
        me = os.getpid()
        sys.argv = ["calibadv", *arguments]
        if limit:
            arm(folder, limit, report, lambda: (os.getpid() == me) != kills_runs)
        from calibadv_algo.cli.main import main

        return main(arguments)

    return in_a_fork(carry_out, folder)


def in_a_fork(work: Callable[[int], int | None], folder: Path) -> tuple[int, str, str]:
    """Lets a forked process do some work; its exit code, what it reported, its output.

    Args:
        work: Is given a pipe for its report.
        folder: Its output goes beside this.
    """
    reader, writer = os.pipe()
    log = folder.parent / f"{folder.name}.log"
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            signal.alarm(TIMEOUT_S)
            code = work(writer) or 0
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
        report = os.read(reader, 1 << 16).decode()
    except BlockingIOError:
        report = ""
    os.close(reader)
    return os.waitstatus_to_exitcode(status), report, log.read_text(errors="replace")


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


def differences(
    got: dict[str, str], wanted: dict[str, str], loose: set[str]
) -> list[tuple[str, str]]:
    """Files that are missing, too many, or other than wanted: kind and name of each."""
    found = [(KINDS[2], f"missing {name}") for name in wanted if name not in got]
    found += [(KINDS[1], f"left over {name}") for name in got if name not in wanted]
    return found + [
        (KINDS[0], f"other bytes in {name}")
        for name in wanted
        if name in got and name not in loose and got[name] != wanted[name]
    ]


def torn(folder: Path) -> list[str]:
    """Files under their own names that are not whole: JSON, pages and pictures."""
    found = []
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_hidden or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            if path.suffix == ".json":
                json.loads(data)
            is_torn = (path.suffix == ".html" and b"</html>" not in data[-64:]) or (
                path.suffix == ".png" and b"IEND" not in data[-16:]
            )
        except ValueError:
            is_torn = True
        if is_torn:
            found.append(f"torn: {path.relative_to(folder)}")
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of some kills one after the other.

    Attributes:
        kills: How many there were; fewer than asked for where a run had fewer events left.
        events: At what, if something was wrong.
        problems: Kind and words of what was wrong.
    """

    kills: int
    events: list[str]
    problems: list[tuple[str, str]]


class Killer:
    """Kills one command.

    Args:
        case: The command.
        scratch: An empty folder.
        models: Folder of a tiny policy and a tiny encoder.
    """

    def __init__(self, case: Case, scratch: Path, models: Path) -> None:
        self.case = case
        self.scratch = scratch
        self.template = scratch / "template"
        self.template.mkdir()
        write_inputs(self.template)
        for name in case.needs:
            shutil.copytree(models / name, self.template / name)
        for each in case.before:
            self._must(run(each, self.template))
        (first, _), (second, self.num_events) = self._undisturbed(), self._undisturbed(COUNT)
        self.wanted = first
        self.loose = {name for name in first if second.get(name) != first[name]}
        # Names that are drawn anew each time, such as those of tantivy's files.
        self.is_named_anew = set(second) != set(first)
        if self.is_named_anew:
            self.loose |= set(first) ^ set(second)

    def _must(self, done: tuple[int, str, str]) -> None:
        if done[0] != 0:
            raise Failure(f"exit code {done[0]} undisturbed:\n{done[2][-3000:]}")

    def _copy(self) -> Path:
        # The same path each time, since some files hold it.
        folder = self.scratch / "work"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.template, folder)
        return folder

    def _undisturbed(self, limit: int = 0) -> tuple[dict[str, str], int]:
        """What a run leaves that is not killed, and its file events if they are counted."""
        folder = self._copy()
        done = run(self.case.command, folder, limit, self.case.kills_runs)
        self._must(done)
        return snapshot(folder), len(done[1])

    def kill(self, limits: Sequence[int]) -> Outcome:
        """Kills at one event after the other, each time going on, then runs undisturbed."""
        case, folder = self.case, self._copy()
        events: list[str] = []
        problems: list[tuple[str, str]] = []
        for limit in limits:
            code, event, log = run(case.command, folder, limit, case.kills_runs)
            if event:
                events.append(f"{limit} ({event})")
                problems += [(KINDS[2], each) for each in (*self._half(folder), *torn(folder))]
            elif code != 0 and not self._is_done(log):
                said = f"after {len(events)} kills: exit code {code}: {log[-1500:]}"
                problems.append((KINDS[2], said))
        code, _, log = run(case.command, folder)
        if code != 0 and not self._is_done(log):
            problems.append((KINDS[2], f"again: exit code {code}: {log[-1500:]}"))
        problems += self._compare(folder)
        return Outcome(len(events), events if problems else [], problems)

    def _is_done(self, log: str) -> bool:
        """Tells whether the command refused since its result stands already."""
        return self.case.is_refused_when_done and "is there already" in log

    def _half(self, folder: Path) -> list[str]:
        """Finds what is half after a kill."""
        case = self.case
        if not case.is_replaced_whole:
            from calibadv_algo.learner.checkpoint import find_checkpoint

            try:
                for checkpoints in folder.rglob("checkpoints"):
                    find_checkpoint(checkpoints)
            except (OSError, ValueError, RuntimeError) as error:
                return [f"checkpoint: {error}"]
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

    def _compare(self, folder: Path) -> list[tuple[str, str]]:
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
    """Imports what the commands need, and what they make once a process."""
    import torch

    torch.set_num_threads(1)
    import calibadv_algo.cli.compare
    import calibadv_algo.cli.diagnose
    import calibadv_algo.cli.evaluate_suite
    import calibadv_algo.experiments.jobs as jobs
    import calibadv_algo.report.curves
    import calibadv_algo.report.page
    import calibadv_algo.report.sweep_picture
    import calibadv_algo.rollout.engines.hf.engine
    import calibadv_algo.training.trainer  # noqa: F401
    from calibadv_algo.cli.main import parse
    from calibadv_env.data.registry import get_dataset

    for name in ("atlas", "toy"):
        dataset = get_dataset(name)
        dataset.retriever("bm25")
    for case in CASES:
        name, *arguments = shlex.split(case.command)
        parse(name, arguments)
    jobs.POLL_INTERVAL_S = 0.05
    # Drawing takes seconds and touches no file before the picture is written.
    from matplotlib.figure import Figure

    Figure.savefig = lambda self, stream, **settings: stream.write(b"IEND")  # type: ignore[method-assign]
    # Runs of a comparison are forked too: importing torch anew would take most of the time.
    fork = multiprocessing.get_context("fork")
    jobs.multiprocessing.get_context = lambda kind: fork  # type: ignore[attr-defined]


def load_once(models: Path) -> None:
    """Loads the tiny policy: transformers makes tables then that the commands need not make."""
    from calibadv_algo.learner.pretrained import load_policy

    load_policy(str(models / "start"))


@dataclass
class Row:
    """Outcome of one command.

    Attributes:
        name: Its name.
        events: File events of a run of it.
        kills: Kills that it went through.
        wrong: How many of the sequences of kills left what is wrong, by kind.
        failures: What was wrong.
        loose: Files whose bytes differ between two undisturbed runs.
        dates: When it was tried.
        commits: What was tried.
    """

    name: str
    events: int
    loose: list[str]
    kills: int = 0
    wrong: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    failures: list[str] = field(default_factory=list)
    dates: set[str] = field(default_factory=set)
    commits: set[str] = field(default_factory=set)

    def add(self, line: Mapping[str, Any]) -> None:
        """Adds what came of a sequence of kills."""
        self.kills += line["kills"]
        for kind in {kind for kind, _ in line["problems"]}:
            self.wrong[kind] += 1
        if line["problems"]:
            words = "; ".join(said for _, said in line["problems"])
            self.failures.append(f"killed at {', '.join(line['events'])}: {words}")
        self.dates.add(line["date"])
        self.commits.add(line["commit"])


@dataclass(frozen=True)
class Plan:
    """How commands are killed.

    Attributes:
        most: Kills of one command at most, spread over its events by chance.
        chain: Kills before it runs undisturbed.
        log: File of what was tried, if there is one.
        commit: What is tried.
    """

    most: int
    chain: int
    log: Path | None
    commit: str


def attack(case: Case, scratch: Path, models: Path, plan: Plan) -> Row:
    """Kills a command at so many of its events; at all of them where there are fewer."""
    scratch.mkdir()
    killer = Killer(case, scratch, models)
    chosen = list(range(1, killer.num_events + 1))
    if len(chosen) > plan.most:
        chosen = sorted(random.Random(0).sample(chosen, plan.most))
    row = Row(case.name, killer.num_events, sorted(killer.loose))
    known = tried(plan.log, case)
    for first in range(0, len(chosen), plan.chain):
        limits = chosen[first : first + plan.chain]
        line = known.get(tuple(limits))
        if line is None:
            outcome = killer.kill(limits)
            line = {
                "command": case.name,
                "arguments": case.command,
                "limits": limits,
                "kills": outcome.kills,
                "events": outcome.events,
                "problems": outcome.problems,
                "date": time.strftime("%Y-%m-%d", time.gmtime()),
                "commit": plan.commit,
            }
            if plan.log is not None:
                with plan.log.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")
        row.add(line)
    shutil.rmtree(scratch)
    return row


def tried(log: Path | None, case: Case) -> dict[tuple[int, ...], Mapping[str, Any]]:
    """What came of the kills of a command before, without what failed."""
    if log is None or not log.exists():
        return {}
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").split("\n") if line]
    return {
        tuple(line["limits"]): line
        for line in lines
        if line["command"] == case.name
        and line["arguments"] == case.command
        and not line["problems"]
    }


def table(rows: Sequence[Row]) -> str:
    """The outcome as Markdown."""
    lines = [
        f"| command | file events | kills | {' | '.join(KINDS)} | date | commit |",
        f"| --- | --- | --- | {'--- | ' * len(KINDS)}--- | --- |",
    ]
    for row in rows:
        shown = [row.name, row.events, row.kills, *(row.wrong[kind] for kind in KINDS)]
        shown += [", ".join(sorted(row.dates)), ", ".join(sorted(row.commits))]
        lines.append(f"| {' | '.join(map(str, shown))} |")
    total = [sum(row.events for row in rows), sum(row.kills for row in rows)]
    total += [sum(row.wrong[kind] for row in rows) for kind in KINDS]
    lines.append(f"| all | {' | '.join(map(str, total))} | | |")
    return "\n".join(lines) + "\n"


def attack_all(cases: Sequence[Case], plan: Plan, num_jobs: int) -> Iterator[Row]:
    """Kills commands, so many at a time; each outcome when it is there."""
    warm_up()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        models = folder / "models"
        code, _, log = in_a_fork(lambda _: write_models(models), models)
        if code != 0:
            raise Failure(f"models: {log[-3000:]}")
        load_once(models)
        if num_jobs == 1:
            for number, case in enumerate(cases):
                yield attack(case, folder / str(number), models, plan)
            return
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(num_jobs, mp_context=fork) as pool:
            futures = [
                pool.submit(attack, case, folder / str(number), models, plan)
                for number, case in enumerate(cases)
            ]
            for future in as_completed(futures):
                yield future.result()


def commit() -> str:
    """The commit that is tried; with a plus if files differ from it."""
    git = ("git", "-C", str(Path(__file__).parent))
    done = subprocess.run(
        [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() + ("+" if changed.stdout.strip() else "")


def main() -> int:
    """Runs the whole and writes a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1000, help="kills of one command at most")
    parser.add_argument("--chain", type=int, default=1, help="kills before it runs undisturbed")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time")
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--log", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    cases = [by_name[name] for name in options.only or by_name]
    plan = Plan(options.most, options.chain, options.log, commit())
    rows: list[Row] = []
    began = time.monotonic()
    for row in attack_all(cases, plan, options.jobs):
        rows.append(row)
        shown = json.dumps(asdict(row), default=sorted)
        sys.stdout.write(f"{time.monotonic() - began:.0f} s {shown}\n")
        sys.stdout.flush()
        if options.output is not None:
            order = [each.name for each in cases]
            rows.sort(key=lambda each: order.index(each.name))
            options.output.write_text(table(rows))
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
