from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from calibadv_env.common import files
from calibadv_env.common.files import atomic_file, is_path, new_folder, replace_folder, write_text


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old\n")
    with pytest.raises(TypeError), atomic_file(path) as file:
        file.writelines(["half", None])
    assert path.read_text() == "old\n"
    assert names(tmp_path) == ["a.txt"]
    with atomic_file(path, "wb") as file:
        file.write(b"new\r\n")
        assert path.read_text() == "old\n"
    assert path.read_bytes() == b"new\r\n"
    assert names(tmp_path) == ["a.txt"]


def test_the_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "")
    (tmp_path / "theirs").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "theirs").stat().st_mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    place = tmp_path / "place"
    for content in ("first", "second"):
        new = tmp_path / ".new"
        new.mkdir()
        (new / "file").write_text(content)
        replace_folder(new, place)
        assert (place / "file").read_text() == content
        assert names(tmp_path) == ["place"]


def test_there_is_always_a_folder_while_it_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "place"
    watch = (
        "import sys, os\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    assert os.path.isfile(sys.argv[1])\n"
    )
    (tmp_path / ".0").mkdir()
    (tmp_path / ".0" / "file").write_text("0")
    replace_folder(tmp_path / ".0", place)
    arguments = [sys.executable, "-c", watch, str(place / "file"), str(tmp_path / "stop")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for number in range(200):
        new = tmp_path / f".{number + 1}"
        new.mkdir()
        (new / "file").write_text(str(number))
        replace_folder(new, place)
    (tmp_path / "stop").write_text("")
    assert process.wait(timeout=30) == 0
    process.stdout.close()


def test_a_new_folder_takes_the_place_of_the_old_one_at_the_end_or_not_at_all(
    tmp_path: Path,
) -> None:
    place = tmp_path / "above" / "data"
    for text in ("old", "new"):
        with new_folder(place) as folder:
            (folder / "a").write_text(text)
            assert not place.exists() or (place / "a").read_text() == "old"
    assert (place / "a").read_text() == "new"
    with pytest.raises(FileNotFoundError), new_folder(place) as folder:
        (folder / "none" / "a").write_text("half")
    assert (place / "a").read_text() == "new"
    assert names(place.parent) == ["data"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("atlas", False),
        ("./quiz.csv", True),
        ("data/quiz", True),
        ("C:\\data\\quiz.csv", True),
        ("hf:owner/name", False),
        ("http://127.0.0.1:8000", False),
        ("simulated:http://127.0.0.1", False),
        ("./hf:owner/name", True),
        ("nq+./quiz", True),
    ],
)
def test_a_path_has_a_separator_and_no_scheme(text, expected):
    assert is_path(text) is expected


KILLED = """
import os, sys
from pathlib import Path
from calibadv_env.common import files
place = Path(sys.argv[1])
if sys.argv[2] == "file":
    with files.atomic_file(place) as stream:
        stream.write("half")
        os.kill(os.getpid(), 9)
with files.new_folder(place) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


def kill_a_writer(place: Path, kind: str) -> None:
    """Leaves what a killed writer leaves."""
    subprocess.run([sys.executable, "-c", KILLED, str(place), kind], check=False)
    assert len([name for name in names(place.parent) if name.endswith(".partial")]) == 1


def test_who_writes_next_sweeps_what_a_killed_writer_left(tmp_path: Path) -> None:
    write_text(tmp_path / "other", "mine")
    kill_a_writer(tmp_path / "a", "file")
    write_text(tmp_path / "a", "whole")
    kill_a_writer(tmp_path / "b", "folder")
    with new_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("whole")
    assert sorted(names(tmp_path)) == ["a", "b", "other"]
    assert names(tmp_path / "b") == ["c"]


def test_files_of_living_writers_are_not_swept(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as slow:
        slow.write("slow")
        write_text(tmp_path / "a", "quick")
        files.sweep_files(tmp_path)
    assert (tmp_path / "a").read_text() == "slow"
    assert names(tmp_path) == ["a"]


def test_sweeping_goes_below_and_keeps_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / ".mine.partial").write_text("")
    (tmp_path / "deep" / ".x.partial").write_text("")
    (tmp_path / "deep" / ".a.0123abcd.partial").write_text("half")
    files.sweep_files(tmp_path)
    assert names(tmp_path / "deep") == [".x.partial"]
    assert (tmp_path / ".mine.partial").exists()


def test_a_folder_that_gave_way_to_none_comes_back(tmp_path: Path) -> None:
    old = tmp_path / ".data.0123abcd.old"
    old.mkdir()
    (old / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "data"):
        raise ZeroDivisionError
    assert (tmp_path / "data" / "file").read_text() == "old"
    assert names(tmp_path) == ["data"]


def test_contents_are_on_the_disk_before_their_name_and_names_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace, rename = files.os.fsync, Path.replace, Path.rename

    def synced(descriptor: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name[:2]}")
        fsync(descriptor)

    def named(act: object, path: Path, target: Path) -> object:
        events.append(f"name {target.name}")
        return act(path, target)  # type: ignore[operator]

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", lambda path, target: named(replace, path, target))
    monkeypatch.setattr(Path, "rename", lambda path, target: named(rename, path, target))
    above = tmp_path / "up"
    above.mkdir()
    write_text(above / "a", "x")
    assert events == ["sync .a", "name a", "sync up"]
    events.clear()
    with new_folder(above / "b") as folder:
        (folder / "c").write_text("x")
    assert events == ["sync c", "sync .b", "name b", "sync up"]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        fill_the_disk(tmp_path / "a.txt")


def fill_the_disk(path: Path) -> None:
    """What a full disk says while a file is written."""
    with atomic_file(path):
        raise OSError(28, "No space left on device")
