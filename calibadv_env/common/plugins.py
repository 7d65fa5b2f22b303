"""Entry points: what other packages add, found by name and imported at the first use.

In the ``pyproject.toml`` of such a package::

    [project.entry-points."calibadv_env.retrievers"]
    mine = "my_package.search:MyRetriever"
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from calibadv_env.errors import DataError


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point of another package.

    Attributes:
        name: Its name.
        entry: The entry point.
    """

    name: str
    entry: EntryPoint

    @property
    def origin(self) -> str:
        """The package and the object, for messages."""
        package = self.entry.dist
        shown = f"{package.name} {package.version}" if package else "?"
        return f"package {shown} ({self.entry.value})"

    def load(self) -> Any:
        """Imports the package and gives the object that the entry point names.

        Raises:
            DataError: if it cannot be imported.
        """
        try:
            return self.entry.load()
        except (ImportError, AttributeError) as error:
            raise DataError(
                f"{self.name!r} of {self.origin} cannot be imported: {error}"
            ) from error


def plugins(group: str) -> dict[str, Plugin]:
    """The entry points of a group, such as ``calibadv_env.datasets``, by name.

    No package is imported. Of several with one name the first in the order of ``sys.path`` counts.
    """
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, Plugin(entry.name, entry))
    return found
