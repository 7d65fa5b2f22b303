"""Datasets that other packages bring, by entry points of the group ``calibadv_env.datasets``.

In the ``pyproject.toml`` of such a package::

    [project.entry-points."calibadv_env.datasets"]
    my-trivia = "my_package.trivia:load"

``load`` takes nothing and gives a :class:`calibadv_env.Dataset`, or the path of a folder with tasks
and corpus. It is called at the first use. ``docs/datasets.md`` has an example.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from calibadv_env.data.dataset import Dataset
from calibadv_env.data.names import NAME
from calibadv_env.errors import DataError

GROUP: Final = "calibadv_env.datasets"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A dataset of another package.

    Attributes:
        name: Its name.
        origin: The package and the function.
        entry: The entry point.
    """

    name: str
    origin: str
    entry: importlib.metadata.EntryPoint

    def load(self) -> Dataset | Path:
        """Imports the package and calls its function.

        Returns:
            The dataset, or the folder that it lies in.

        Raises:
            DataError: if that fails or gives something else.
        """
        try:
            function: Callable[[], Any] = self.entry.load()
        except (ImportError, AttributeError) as error:
            raise DataError(
                f"dataset {self.name!r} of {self.origin} cannot be imported: {error}"
            ) from error
        made = function()
        if isinstance(made, Dataset) and made.name == self.name:
            return made
        if isinstance(made, (str, Path)):
            return Path(made)
        got = f"one named {made.name!r}" if isinstance(made, Dataset) else type(made).__name__
        raise DataError(
            f"{self.origin} must give a Dataset named {self.name!r} or the path of a folder, got "
            f"{got}"
        )


def plugin_datasets() -> dict[str, Plugin]:
    """The datasets of all installed packages by name; none of them is imported.

    Of several that bring one name the first in the order of ``sys.path`` counts. A name that an
    environment cannot have is warned about and left out.
    """
    found: dict[str, Plugin] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        if not NAME.fullmatch(entry.name):
            warnings.warn(
                f"entry point {entry.name!r} of {GROUP} is no name of a dataset", stacklevel=2
            )
            continue
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "?"
        plugin = Plugin(entry.name, f"package {package} ({entry.value})", entry)
        found.setdefault(entry.name, plugin)
    return found
