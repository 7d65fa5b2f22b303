"""Gymnasium environments in which a language model learns to search.

Importing the package registers ``DeepSearch-v1`` and one id a built-in dataset, such as
``DeepSearch-Atlas-v1``, and the same with ``v0``, which behave as they did, and
``DeepSearch-Pages-v0``; no data is read and no torch is imported before an environment is made.
"""

from __future__ import annotations

from gymnasium.envs.registration import registry as _gymnasium_registry

from calibadv_env.data.registry import (
    Dataset,
    built_in_datasets,
    env_id_of,
    get_dataset,
    list_datasets,
    plugin_datasets,
    register_dataset,
    register_versions,
)
from calibadv_env.errors import (
    CalibadvEnvError,
    DataError,
    MissingDependencyError,
    RetrieverError,
)
from calibadv_env.info import STOP_STRINGS, ResetInfo, StepInfo

__all__ = [
    "STOP_STRINGS",
    "CalibadvEnvError",
    "DataError",
    "Dataset",
    "MissingDependencyError",
    "ResetInfo",
    "RetrieverError",
    "StepInfo",
    "get_dataset",
    "list_datasets",
    "register_dataset",
    "register_envs",
]


def register_envs() -> None:
    """Registers the ids of the known datasets with Gymnasium; harmless when repeated.

    Known are the built-in ones and those of installed packages, none of which is imported.
    """
    names = (*plugin_datasets(), *built_in_datasets())
    ids = {"DeepSearch-v1": None} | {env_id_of(name): name for name in names}
    for env_id, dataset in ids.items():
        if env_id not in _gymnasium_registry:
            register_versions(dataset)


register_envs()
