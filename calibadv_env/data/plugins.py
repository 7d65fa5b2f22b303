"""Datasets that other packages bring, by entry points of the group ``calibadv_env.datasets``.

In the ``pyproject.toml`` of such a package::

    [project.entry-points."calibadv_env.datasets"]
    my-trivia = "my_package.trivia:load"

``load`` takes nothing and gives a :class:`calibadv_env.Dataset`, or the path of a folder with tasks
and corpus. It is called at the first use. ``docs/datasets.md`` has an example.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

from calibadv_env.common.plugins import Plugin, plugins
from calibadv_env.data.dataset import Dataset
from calibadv_env.data.names import NAME
from calibadv_env.errors import DataError

GROUP: Final = "calibadv_env.datasets"


def plugin_datasets() -> dict[str, Plugin]:
    """The datasets of all installed packages by name; none of them is imported.

    A name that an environment cannot have is warned about and left out.
    """
    found = plugins(GROUP)
    for name in [name for name in found if not NAME.fullmatch(name)]:
        del found[name]
        warnings.warn(f"entry point {name!r} of {GROUP} is no name of a dataset", stacklevel=2)
    return found


def load_dataset(plugin: Plugin) -> Dataset | Path:
    """Calls the function of another package.

    Args:
        plugin: One of :func:`plugin_datasets`.

    Returns:
        The dataset, or the folder that it lies in.

    Raises:
        DataError: if the package cannot be imported, or its function gives something else.
    """
    made = plugin.load()()
    if isinstance(made, Dataset) and made.name == plugin.name:
        return made
    if isinstance(made, (str, Path)):
        return Path(made)
    got = f"one named {made.name!r}" if isinstance(made, Dataset) else type(made).__name__
    raise DataError(
        f"{plugin.origin} must give a Dataset named {plugin.name!r} or the path of a folder, got "
        f"{got}"
    )
