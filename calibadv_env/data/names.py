"""Names of datasets and of their splits, and where their files lie."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import platformdirs

SPLITS: Final = ("train", "dev", "test")
"""The usual splits, and the names of their files in a folder."""

EVAL: Final = "eval"
"""Stands for the split that a dataset is evaluated on; see :attr:`Dataset.eval_split`."""

DATA_VARIABLE: Final = "CALIBADV_DATA"
"""Environment variable that names the folder of prepared datasets."""

CORPUS_VARIABLE: Final = "CALIBADV_CORPUS"
"""Environment variable that names the corpus of the benchmarks."""

NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
"""Form of the name of a registered dataset."""


VERSION: Final = 1
"""Version of the environments; ids of earlier ones go on to behave as they did."""


PAGES: Final = ("pages", "pages-reworded", "pages-linked")
"""The built-in datasets whose own environments are of pages, of version 0."""


def env_id_of(name: str, version: int = VERSION) -> str:
    """The id of the environment for a dataset: ``DeepSearch-<Name>-v1``; of pages, ``-v0``.

    Args:
        name: The dataset.
        version: Version of the environment.

    Raises:
        ValueError: if the name is malformed.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"name must be ASCII letters and digits in words joined by '-' or '_', got {name!r}"
        )
    version = 0 if name in PAGES else version
    camel = "".join(word[0].upper() + word[1:] for word in re.split("[-_]", name))
    return f"DeepSearch-{camel}-v{version}"


def data_root() -> Path:
    """The folder of prepared datasets: ``$CALIBADV_DATA``, else one of the user's own."""
    root = os.environ.get(DATA_VARIABLE)
    return Path(root) if root else Path(platformdirs.user_data_dir("calibadv"))
