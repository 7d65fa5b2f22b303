"""Documents: texts, Markdown, web pages and PDFs, alone or in a folder with files of records."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.common.packed import DAMAGED, open_binary, unpacked_name
from calibadv_env.common.records import kind_of, read_records, read_table
from calibadv_env.common.records.headerless import is_numbered
from calibadv_env.common.records.keys import KNOWN, squashed
from calibadv_env.data.folders import corpus_file
from calibadv_env.data.reading import Reader
from calibadv_env.errors import DataError

_TEXTS: Final = (".txt", ".text", ".md", ".markdown", ".rst")
_PAGES: Final = (".html", ".htm", ".xhtml")
_PDFS: Final = (".pdf",)
_RECORDS: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_NOT_DOCUMENTS: Final = ("manifest.json", "prepared.json", "dataset_info.json", "state.json")
_HEADING: Final = re.compile(r"^\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$")


class _UnreadableError(DataError):
    """A document is damaged, or in an encoding that nobody names."""


class FolderReader(Reader):
    """Every file below a folder as a document; in a file of records every record.

    A lone document is read as a folder with nothing else in it.

    A folder with a file called corpus or documents is that of a dataset: this file is read alone,
    since its questions are no documents.
    """

    name = "folder"

    def reads(self, source: str) -> bool:
        """True for a folder of documents, or one; indexes and corpora on disk are none."""
        return is_document_folder(Path(source)) or is_document(Path(source))

    def has_questions(self, source: str) -> bool:
        """False for texts, pages and PDFs."""
        return not is_text_folder(source)

    def records(self, source: str, split: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The documents, in the order of their paths, which are their ids.

        The title is the first heading of Markdown, the title of a page or PDF, else the name of
        the file. A document that cannot be read is left out, and a warning names it.

        Raises:
            DataError: if a file of records is faulty, or no document can be read, with its path.
            MissingDependencyError: if the package for pages or PDFs is not installed.
        """
        folder = Path(source)
        if folder.is_file():
            yield _record(folder, folder.parent)
            return
        corpus = _corpus(folder)
        if corpus is not None:
            _warn_of_texts(folder, corpus)
        broken: list[_UnreadableError] = []
        num_read = 0
        for path in _files(folder):
            if _suffix(path) in _RECORDS:
                num_read += 1
                yield from read_records(path)
                continue
            try:
                record = _record(path, folder)
            except _UnreadableError as error:
                broken.append(error)
                continue
            num_read += 1
            yield record
        if broken and not num_read:
            more = f" (nor can the {len(broken) - 1:,} others here)" if len(broken) > 1 else ""
            raise DataError(f"{broken[0]}{more}") from broken[0]
        if broken:
            _warn_of_broken(folder, broken)
        if corpus is None:
            _warn_of_others(folder)


READERS: Final = (FolderReader(),)


def is_document_folder(path: Path) -> bool:
    """True for a folder with files that :class:`FolderReader` takes, and no index."""
    is_index = any((path / name / "manifest.json").is_file() for name in (".", "corpus"))
    return path.is_dir() and not is_index and next(_files(path), None) is not None


def is_document(path: Path) -> bool:
    """True for a lone text, page or PDF; not for data that is called so, such as JSON in .txt."""
    end = _suffix(path)
    if end not in (*_TEXTS, *_PAGES, *_PDFS) or not path.is_file():
        return False
    return end not in _TEXTS or not _is_data(path)


def _is_data(path: Path) -> bool:
    """True for a text that is JSON, or a table with tabs or a known header."""
    try:
        if kind_of(path) != "table":
            return True
        _, row = next(read_table(path, keep_blank=True), (0, {}))
    except DataError:
        return False
    is_known = sum(squashed(name) in KNOWN for name in row) > 1
    return is_known or (is_numbered(row) and len(row) > 1 and _has_tab(path))


def _has_tab(path: Path) -> bool:
    with open_binary(path) as stream:
        return b"\t" in stream.readline()


def is_text_folder(source: object) -> bool:
    """True for documents themselves, in a folder or alone, which are long as a rule."""
    if not isinstance(source, (str, Path)):
        return False
    if is_document(Path(source)):
        return True
    if not is_document_folder(Path(source)):
        return False
    return any(_suffix(path) not in _RECORDS for path in _files(Path(source)))


def _files(folder: Path) -> Iterator[Path]:
    """The files of documents below a folder; in a folder of a dataset, its corpus alone."""
    corpus = _corpus(folder)
    yield from _found(folder) if corpus is None else [corpus]


def _corpus(folder: Path) -> Path | None:
    """The file that holds the corpus of a dataset, whose questions lie beside it."""
    path = corpus_file(folder) if folder.is_dir() else None
    return path if path is not None and _suffix(path) in _RECORDS else None


def _warn_of_broken(folder: Path, broken: Sequence[_UnreadableError]) -> None:
    shown = "; ".join(str(error).removeprefix(f"{folder}/") for error in broken[:3])
    more = f"; and {len(broken) - 3:,} more" if len(broken) > 3 else ""
    text = f"{folder}: {len(broken):,} documents cannot be read and were left out: {shown}{more}"
    warnings.warn(text, stacklevel=2)


def _warn_of_others(folder: Path) -> None:
    """Names the files that are no documents, by their ends."""
    ends = (*_TEXTS, *_PAGES, *_PDFS, *_RECORDS)
    others = [
        _suffix(path) or path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and _suffix(path) not in ends
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if others:
        shown = ", ".join(f"{end} ({count:,})" for end, count in Counter(others).most_common(5))
        text = (
            f"{folder}: {len(others):,} files of other kinds were passed over, {shown}; texts, "
            "Markdown, web pages, PDFs, JSON and tables are read"
        )
        warnings.warn(text, stacklevel=2)


def _warn_of_texts(folder: Path, corpus: Path) -> None:
    texts = [path for path in _found(folder) if _suffix(path) not in _RECORDS]
    if texts:
        text = (
            f"{corpus}: taken alone; not read are {len(texts):,} texts beside it, {texts[0].name}"
        )
        warnings.warn(text, stacklevel=2)


def _found(folder: Path) -> Iterator[Path]:
    ends = (*_TEXTS, *_PAGES, *_PDFS, *_RECORDS)
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        is_data = path.name not in _NOT_DOCUMENTS and _suffix(path) in ends
        if is_data and not is_hidden and path.is_file():
            yield path


def _suffix(path: Path) -> str:
    return Path(unpacked_name(path.name.lower())).suffix


def _record(path: Path, folder: Path) -> tuple[str, dict[str, Any]]:
    """A document as a record, with its place."""
    title, text = _document(path, _suffix(path))
    place = path.relative_to(folder).as_posix()
    return f"{path}:1", {"id": place, "title": title or Path(unpacked_name(place)).stem,
                         "text": text}  # fmt: skip


def _document(path: Path, end: str) -> tuple[str, str]:
    """Title and text of a file, plain or packed."""
    try:
        with open_binary(path) as stream:
            content = stream.read()
    except (OSError, *DAMAGED) as error:
        raise _UnreadableError(f"{path}: cannot read the file: {error}") from error
    if end in _PDFS:
        return _pdf(path, content)
    try:
        is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if end in _PAGES:  # a page says itself how it is encoded
            return _page(path, content)
        raise _UnreadableError(
            f"{path}: not valid UTF-8: {error.reason} at byte {error.start}; save it as UTF-8 "
            f"(`iconv -f WINDOWS-1252 -t UTF-8 {path.name} > NEW`, if it is Western European text)"
        ) from error
    if end in _PAGES:
        return _page(path, text)
    heading = next((m for line in text.splitlines() if (m := _HEADING.match(line))), None)
    return (heading.group(1) if heading and end in (".md", ".markdown") else ""), text.strip()


def _page(path: Path, page: str | bytes) -> tuple[str, str]:
    trafilatura = import_extra("trafilatura", "documents", "reading web pages")
    try:
        found = trafilatura.bare_extraction(page, with_metadata=True)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _UnreadableError(f"{path}: cannot read the page: {error}") from error
    if found is None:
        return "", ""
    record = found.as_dict() if hasattr(found, "as_dict") else found
    return str(record.get("title") or ""), str(record.get("text") or "").strip()


def _pdf(path: Path, content: bytes) -> tuple[str, str]:
    pypdf = import_extra("pypdf", "documents", "reading PDFs")
    try:
        reader = pypdf.PdfReader(io.BytesIO(content))
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        title = (reader.metadata or {}).get("/Title")
    except Exception as error:  # the parser meets a foreign file, and fails in any way there is
        raise _UnreadableError(f"{path}: cannot read the PDF: {error}") from error
    return str(title or "").strip(), text.strip()
