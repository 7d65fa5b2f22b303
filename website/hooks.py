"""Links out of the documentation lead to the repository; every page is kept as Markdown too."""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROLE = re.compile(r":(?:mod|func|class|meth|attr|data|exc):(?=<code>)")
LINK = re.compile(r"(?<=\]\()(\.\./[^)\s#]+)")


def repository() -> str:
    """Address of the project's files on its main branch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"{project['urls']['Repository']}/blob/main"


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page with links to files outside ``docs/`` as addresses of the repository.

    The text as it then stands is kept beside the page, with the ending ``.md``.
    """
    folder = posixpath.dirname(f"docs/{page.file.src_uri}")

    def elsewhere(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return match[1] if target.startswith("docs/") else f"{repository()}/{target}"

    text = LINK.sub(elsewhere, markdown)
    copy = Path(config["site_dir"], page.file.src_uri)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(text, encoding="utf-8")
    return text


def on_page_content(html: str, **_: Any) -> str:
    """The page without roles of cross-references, which Markdown does not know."""
    return ROLE.sub("", html)
