import json
import multiprocessing
import os
from pathlib import Path

import pytest

from calibadv_env.common import files
from calibadv_env.errors import DataError, InUseError
from calibadv_env.retrieval.index_files import (
    Manifest,
    building,
    check_corpus,
    check_files,
    file_facts,
    map_array,
    read_manifest,
    write_manifest,
)

MANIFEST = Manifest(kind="bm25", corpus_sha256="ab" * 32, num_passages=3)


def fail(out, name="half", **options):
    with building(out, **options) as folder:
        (folder / name).write_text("x")
        raise ZeroDivisionError


def fill_the_disk(out):
    with building(out):
        raise OSError(28, "No space left on device")


def build(out, text="x", **options):
    with building(out, **options) as folder:
        (folder / "data").write_text(text)
        files = {"data": file_facts(folder / "data")}
        write_manifest(folder, Manifest(kind="bm25", corpus_sha256="", num_passages=1, files=files))


def test_it_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
    build(tmp_path / "index")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == ["data", "manifest.json"]


def test_what_is_there_is_not_replaced_unasked(tmp_path):
    build(tmp_path / "index", "old")
    with pytest.raises(DataError, match="is there already"):
        build(tmp_path / "index", "new")
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "index", overwrite=True)
    assert (tmp_path / "index" / "data").read_text() == "old"
    build(tmp_path / "index", "new", overwrite=True)
    assert (tmp_path / "index" / "data").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["index"]


def test_only_an_index_is_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter").write_text("dear")
    with pytest.raises(DataError, match="no index here"):
        build(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "letter").read_text() == "dear"


def test_a_full_disk_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match=r"could not be written: .*No space left"):
        fill_the_disk(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_one_builder_at_a_time(tmp_path):
    def build_too(queue):
        try:
            build(tmp_path / "index")
        except InUseError as error:
            queue.put(str(error))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with building(tmp_path / "index") as folder:
        (folder / "mine").write_text("x")
        other = context.Process(target=build_too, args=(queue,))
        other.start()
        assert f"in use by process {os.getpid()} on" in queue.get(timeout=20)
        other.join()
        assert (folder / "mine").is_file()


def test_a_resumable_build_finds_what_it_left(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "i", "chunk", is_resumable=True)
    with building(tmp_path / "i", is_resumable=True) as folder:
        assert (folder / "chunk").read_text() == "x"
    assert (tmp_path / "i" / "chunk").is_file()


def test_there_is_no_moment_without_an_index_while_it_gives_way(tmp_path, monkeypatch):
    index = tmp_path / "index"
    rename = Path.rename
    build(index, "old")

    def watched(path, target):
        renamed = rename(path, target)
        assert (index / "data").is_file()
        return renamed

    monkeypatch.setattr(Path, "rename", watched)
    build(index, "new", overwrite=True)
    assert (index / "data").read_text() == "new"


@pytest.mark.parametrize("is_resumable", [False, True])
def test_a_build_that_is_killed_before_the_old_index_is_deleted_stands(
    tmp_path, monkeypatch, is_resumable
):
    def killed(path):
        raise KeyboardInterrupt

    build(tmp_path / "index", "old")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "index", "new", overwrite=True, is_resumable=True)
    assert (tmp_path / "index" / "data").read_text() == "new"
    assert [path.read_text() for path in tmp_path.glob(".index.*.partial/data")] == ["old"]
    with building(tmp_path / "index", overwrite=True, is_resumable=is_resumable) as folder:
        assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_half_deleted_old_index_is_not_taken_for_a_half_built_one(tmp_path, monkeypatch):
    def killed(path):
        (path / "manifest.json").unlink()
        raise KeyboardInterrupt

    build(tmp_path / "index", "old")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "index", "new", overwrite=True, is_resumable=True)
    with building(tmp_path / "index", overwrite=True, is_resumable=True) as folder:
        assert list(folder.iterdir()) == []


def test_a_manifest_reads_back(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path, "bm25") == MANIFEST


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "format version 99, this code reads 1"),
        ({"format": "other"}, "not the manifest"),
        ({"files": 3}, "damaged"),
        ({"files": {"../x": {"num_bytes": 1, "sha256": ""}}}, "'../x' must lie inside the folder"),
        ({"files": {"a/../../x": {"num_bytes": 1, "sha256": ""}}}, "must lie inside the folder"),
        ({"files": {"/etc/hosts": {"num_bytes": 1, "sha256": ""}}}, "must lie inside the folder"),
        ({"num_passages": -1}, "num_passages must be a number"),
        ({"num_passages": "9"}, "num_passages must be a number"),
        ({"settings": []}, "settings must be an object"),
        ({"kind": 3}, "must be strings"),
        ({"kind": "dense"}, "must be of kind 'bm25', got 'dense'"),
    ],
)
def test_a_wrong_manifest_is_refused(tmp_path, change, message):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path, "bm25")


def test_a_damaged_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"format": "calib')
    with pytest.raises(DataError, match="damaged"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="not the manifest"):
        read_manifest(tmp_path)


def test_files_and_corpus_are_compared(tmp_path):
    build(tmp_path / "index")
    manifest = read_manifest(tmp_path / "index")
    check_files(tmp_path / "index", manifest, verify=True)
    (tmp_path / "index" / "data").write_text("y")
    check_files(tmp_path / "index", manifest)
    with pytest.raises(DataError, match="not those that were written"):
        check_files(tmp_path / "index", manifest, verify=True)
    check_corpus("here", MANIFEST, "ab" * 32)
    with pytest.raises(DataError, match="here: the index was made from another corpus"):
        check_corpus("here", MANIFEST, "cd" * 32)


def test_an_empty_array_can_be_opened(tmp_path):
    (tmp_path / "none").write_bytes(b"")
    assert len(map_array(tmp_path / "none", "<i4")) == 0
