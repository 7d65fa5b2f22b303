from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calibadv_env.common import locks
from calibadv_env.common.files import new_folder
from calibadv_env.common.locks import hold_folder, hold_place
from calibadv_env.errors import InUseError

HOLD = """
import sys
from calibadv_env.common.locks import hold_folder
with hold_folder(sys.argv[1]):
    print("holds", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a folder until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), "--some-flag"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "holds\n"
    try:
        yield process
    finally:
        process.communicate()


def test_the_other_process_is_named(tmp_path: Path) -> None:
    with (
        holder(tmp_path) as other,
        pytest.raises(InUseError, match=rf"process {other.pid} on .*UTC: -c .*--some-flag\. W"),
        hold_folder(tmp_path, wait_s=0.1),
    ):
        pytest.fail("two processes hold the folder")
    with hold_folder(tmp_path, wait_s=0):
        assert names(tmp_path) == [".lock"]
    assert names(tmp_path) == []


def test_the_lock_of_a_killed_process_stops_nobody(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert names(tmp_path) == [".lock"]
        with hold_folder(tmp_path, wait_s=0):
            pass
        assert names(tmp_path) == []


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    script = HOLD.replace("sys.stdin.read()", "import os, time; os.fork() or time.sleep(60)")
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.wait(timeout=30) == 0
    with hold_folder(tmp_path, wait_s=1):
        pass


def test_who_waits_for_a_lock_gets_it(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert other.stdin is not None
        threading.Timer(0.3, other.stdin.close).start()
        with hold_folder(tmp_path, wait_s=20):
            assert names(tmp_path) == [".lock"]
        other.stdin = None


def test_a_thread_may_hold_a_folder_twice_and_two_threads_may_not(tmp_path: Path) -> None:
    refused: list[InUseError] = []

    def other() -> None:
        try:
            with hold_folder(tmp_path, wait_s=0):
                pass
        except InUseError as error:
            refused.append(error)

    with hold_folder(tmp_path):
        with hold_folder(tmp_path):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert f"process {os.getpid()}" in str(refused[0])


def test_the_lock_of_a_place_is_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "data"
    with hold_place(place):
        assert names(tmp_path) == [".data.lock"]
    with new_folder(place) as folder:
        assert set(names(tmp_path)) == {".data.lock", folder.name}
    assert names(tmp_path) == ["data"]
    assert names(place) == []


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with pytest.warns(RuntimeWarning, match="has no locks"), hold_folder(tmp_path):
        pass
    assert fcntl.flock is none


def test_a_folder_that_was_made_for_nothing_goes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), hold_folder(tmp_path / "new"):
        raise ValueError("refused")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with hold_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()
    with hold_folder(tmp_path / "full"):
        (tmp_path / "full" / "result").write_text("1")
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["result"]
