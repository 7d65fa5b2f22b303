"""Import of optional packages."""

from __future__ import annotations

import importlib
from typing import Any

from calibadv_env.errors import MissingDependencyError


def import_extra(name: str, extra: str, purpose: str) -> Any:
    """Imports a package that an extra of this distribution brings.

    Args:
        name: The module.
        extra: The extra.
        purpose: The subject of the message, such as "serving".

    Raises:
        MissingDependencyError: if it is not installed; the message names purpose and extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs the package {name}: pip install 'calibadv[{extra}]'"
        ) from error
