"""Folders of documents: texts, Markdown, web pages and PDFs, and files of records among them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from calibadv_env.common.extras import import_extra
from calibadv_env.common.packed import unpacked_name
from calibadv_env.common.records import read_records
from calibadv_env.data.folders import corpus_file
from calibadv_env.data.reading import Reader
from calibadv_env.errors import DataError

_TEXTS: Final = (".txt", ".text", ".md", ".markdown", ".rst")
_PAGES: Final = (".html", ".htm", ".xhtml")
_PDFS: Final = (".pdf",)
_RECORDS: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_NOT_DOCUMENTS: Final = ("manifest.json", "prepared.json", "dataset_info.json", "state.json")
_HEADING: Final = re.compile(r"^\s{0,3}#{1,6}\s+(.+?)\s*#*\s*$")


class FolderReader(Reader):
    """Every file below a folder as a document; in a file of records every record.

    A folder with a file called corpus or documents is that of a dataset: this file is read alone,
    since its questions are no documents.
    """

    name = "folder"

    def reads(self, source: str) -> bool:
        """True for a folder of documents; indexes and corpora on disk are none."""
        return is_document_folder(Path(source))

    def records(self, source: str, split: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The documents, in the order of their paths, which are their ids.

        The title is the first heading of Markdown, the title of a page or PDF, else the name of
        the file.

        Raises:
            DataError: if a file cannot be read, with its path.
            MissingDependencyError: if the package for pages or PDFs is not installed.
        """
        folder = Path(source)
        corpus = _corpus(folder)
        if corpus is not None:
            _warn_of_texts(folder, corpus)
        for path in _files(folder):
            end = _suffix(path)
            if end in _RECORDS:
                yield from read_records(path)
                continue
            title, text = _document(path, end)
            place = path.relative_to(folder).as_posix()
            yield f"{path}:1", {"id": place, "title": title or path.stem, "text": text}


READERS: Final = (FolderReader(),)


def is_document_folder(path: Path) -> bool:
    """True for a folder with files that :class:`FolderReader` takes, and no index."""
    is_index = any((path / name / "manifest.json").is_file() for name in (".", "corpus"))
    return path.is_dir() and not is_index and next(_files(path), None) is not None


def is_text_folder(source: object) -> bool:
    """True for a folder whose files are documents themselves, which are long as a rule."""
    if not isinstance(source, (str, Path)) or not is_document_folder(Path(source)):
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


def _document(path: Path, end: str) -> tuple[str, str]:
    """Title and text of a file."""
    if end in _PDFS:
        return _pdf(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot open the file: {error.strerror}") from error
    except UnicodeDecodeError as error:
        if end in _PAGES:  # a page says itself how it is encoded
            return _page(path, path.read_bytes())
        raise DataError(
            f"{path}: not valid UTF-8: {error.reason} at byte {error.start}; save it as UTF-8"
        ) from error
    if end in _PAGES:
        return _page(path, text)
    heading = next((m for line in text.splitlines() if (m := _HEADING.match(line))), None)
    return (heading.group(1) if heading and end in (".md", ".markdown") else ""), text.strip()


def _page(path: Path, page: str | bytes) -> tuple[str, str]:
    trafilatura = import_extra("trafilatura", "documents", "reading web pages")
    found = trafilatura.bare_extraction(page, with_metadata=True)
    if found is None:
        return "", ""
    record = found.as_dict() if hasattr(found, "as_dict") else found
    return str(record.get("title") or ""), str(record.get("text") or "").strip()


def _pdf(path: Path) -> tuple[str, str]:
    pypdf = import_extra("pypdf", "documents", "reading PDFs")
    try:
        reader = pypdf.PdfReader(path)
        text = "\n\n".join(page.extract_text() for page in reader.pages)
        title = (reader.metadata or {}).get("/Title")
    except (OSError, ValueError, KeyError, pypdf.errors.PyPdfError) as error:
        raise DataError(f"{path}: cannot read the PDF: {error}") from error
    return str(title or "").strip(), text.strip()
