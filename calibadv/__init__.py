"""The public names of both packages in one place: environments, methods, comparisons.

Importing it registers the environments with Gymnasium and loads neither torch nor transformers;
each name is imported when it is first used. Names that train or sample need
``pip install 'calibadv[train]'`` and say so.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

import calibadv_env as _calibadv_env

if TYPE_CHECKING:
    from calibadv_algo.advantages.base import AdvantageEstimator
    from calibadv_algo.advantages.calibadv import CalibAdv
    from calibadv_algo.advantages.grpo import Grpo
    from calibadv_algo.cli.calls import credit, evaluate, train
    from calibadv_algo.cli.compare import compare
    from calibadv_algo.credit.base import CreditRule
    from calibadv_algo.credit.labels import GoldCredit
    from calibadv_algo.credit.silver import SilverCredit
    from calibadv_algo.errors import CalibadvAlgoError
    from calibadv_algo.training.config import EnvConfig, TrainConfig
    from calibadv_algo.training.presets import ATLAS_TINY
    from calibadv_algo.types import Group, Trajectory, Turn
    from calibadv_env.data.registry import (
        Dataset,
        get_dataset,
        list_datasets,
        register_dataset,
    )
    from calibadv_env.env import DeepSearchEnv
    from calibadv_env.errors import (
        CalibadvEnvError,
        DataError,
        MissingDependencyError,
        RetrieverError,
    )
    from calibadv_env.info import STOP_STRINGS, ResetInfo, StepInfo
    from calibadv_env.protocol.passages import Passage
    from calibadv_env.retrieval.base import Retriever
    from calibadv_env.vector import DeepSearchVectorEnv

__version__ = _version("calibadv")

__all__ = [
    "ATLAS_TINY",
    "STOP_STRINGS",
    "AdvantageEstimator",
    "CalibAdv",
    "CalibadvAlgoError",
    "CalibadvEnvError",
    "CreditRule",
    "DataError",
    "Dataset",
    "DeepSearchEnv",
    "DeepSearchVectorEnv",
    "EnvConfig",
    "GoldCredit",
    "Group",
    "Grpo",
    "MissingDependencyError",
    "Passage",
    "ResetInfo",
    "Retriever",
    "RetrieverError",
    "SilverCredit",
    "StepInfo",
    "TrainConfig",
    "Trajectory",
    "Turn",
    "__version__",
    "compare",
    "credit",
    "evaluate",
    "get_dataset",
    "list_datasets",
    "register_dataset",
    "train",
]

_PLACES = {
    "calibadv_algo.advantages.base": ("AdvantageEstimator",),
    "calibadv_algo.advantages.calibadv": ("CalibAdv",),
    "calibadv_algo.advantages.grpo": ("Grpo",),
    "calibadv_algo.cli.calls": ("credit", "evaluate", "train"),
    "calibadv_algo.cli.compare": ("compare",),
    "calibadv_algo.credit.base": ("CreditRule",),
    "calibadv_algo.credit.labels": ("GoldCredit",),
    "calibadv_algo.credit.silver": ("SilverCredit",),
    "calibadv_algo.errors": ("CalibadvAlgoError",),
    "calibadv_algo.training.config": ("EnvConfig", "TrainConfig"),
    "calibadv_algo.training.presets": ("ATLAS_TINY",),
    "calibadv_algo.types": ("Group", "Trajectory", "Turn"),
    "calibadv_env.env": ("DeepSearchEnv",),
    "calibadv_env.protocol.passages": ("Passage",),
    "calibadv_env.retrieval.base": ("Retriever",),
    "calibadv_env.vector": ("DeepSearchVectorEnv",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use."""
    if name in _MODULE_OF:
        value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    elif name in __all__:
        value = getattr(_calibadv_env, name)
    else:
        raise AttributeError(f"module 'calibadv' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
