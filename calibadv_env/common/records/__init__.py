"""Records of a file of whatever form: JSON, tables, parquet, Arrow; each plain or compressed.

What a file is, its first bytes say, not its name. The rules by which keys are understood stand in
:mod:`calibadv_env.common.records.keys` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

from calibadv_env.common.packed import DAMAGED, open_binary, unpacked_name
from calibadv_env.common.records.columnar import read_columnar
from calibadv_env.common.records.json_text import read_json
from calibadv_env.common.records.tables import read_table
from calibadv_env.errors import DataError

__all__ = ["Kind", "kind_of", "read_records", "read_table"]

Kind = Literal["json", "table", "columnar"]

_HEAD: Final = 1 << 16
_TABLE_ENDS: Final = (".csv", ".tsv", ".tab", ".psv")
_JSON_ENDS: Final = (".json", ".jsonl", ".ndjson", ".jsonlines")
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_FOREIGN: Final = (
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"SQLite format 3", "an SQLite database"),
    *(
        (b"\x80" + version, "a Python pickle, which is not opened because it can run code")
        for version in (b"\x02", b"\x03", b"\x04", b"\x05")
    ),
    (b"%PDF-", "a PDF; put it into a folder and name the folder as the corpus"),
)
"""First bytes of files that are something else, and what that is."""


def kind_of(path: str | Path) -> Kind:
    """The form of a file, by its first bytes and, where they leave it open, by its name.

    Raises:
        DataError: if it cannot be opened, or is no data; the message says what to do.
    """
    path = Path(path)
    head = _head(path)
    if head.startswith(_LFS):
        raise DataError(
            f"{path}: this is a Git LFS pointer, not the file itself; run `git lfs pull` in its "
            "repository, or download the file from the page that hosts it"
        )
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise DataError(f"{path}: this is {what}; unpack or export it to JSON, CSV or parquet")
    name = unpacked_name(path.name.lower())
    if head.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")) or name.endswith(".parquet"):
        return "columnar"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        if head[:64].decode("utf-16", "ignore").lstrip().startswith(("{", "[")):
            raise DataError(
                f"{path}: this is JSON in UTF-16; `iconv -f UTF-16 -t UTF-8 {path.name} > NEW` "
                "writes a file that can be read"
            )
        return "table"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\0" in text[:64]:
        raise DataError(
            f"{path}: this is no text in UTF-8: its beginning holds zero bytes, as UTF-16 without "
            f"its mark does (`iconv -f UTF-16LE -t UTF-8 {path.name} > NEW`), or a binary file"
        )
    if text[:15].lower().startswith((b"<!doctype", b"<html")):
        raise DataError(
            f"{path}: this is a web page, not data: a download has saved the page in place of the "
            "file; take the link to the raw file"
        )
    if name.endswith(_TABLE_ENDS):
        is_json = text.startswith((b"{", b"[{"))
        return "json" if is_json else "table"
    if name.endswith(_JSON_ENDS) or text.startswith((b"{", b"[")):
        return "json"
    first = text.split(b"\n", 1)[0]
    if any(mark in first for mark in (b"\t", b",", b";")):
        return "table"
    if text and not name.endswith(_JSON_ENDS):
        raise DataError(
            f"{path}: this is neither JSON, nor a table with columns, nor parquet or Arrow; its "
            f"first line is {first[:60].decode('utf-8', 'replace')!r}. Documents (.txt, .md, "
            ".html, .pdf) are read from a folder; other data has to be exported to one of those"
        )
    return "json"


def read_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The records of a file, one by one, each with its place, such as ``quiz.csv:7``.

    Raises:
        DataError: if the file cannot be read or is malformed, with its place.
    """
    kind = kind_of(path)
    if kind == "json":
        yield from read_json(Path(path))
    elif kind == "columnar":
        yield from read_columnar(Path(path))
    else:
        for number, row in read_table(path, keep_blank=True):
            yield f"{path}:{number}", dict(row)


def _head(path: Path) -> bytes:
    try:
        with open_binary(path) as stream:
            # Not more than one block, so that a file that is cut short is told where it is read.
            return stream.read1(_HEAD)  # type: ignore[attr-defined,no-any-return]
    except DAMAGED as error:
        raise DataError(f"{path}:1: cannot read the file: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot open the file: {error.strerror or error}") from error
