"""Every exception that the algorithm library raises on purpose."""

from __future__ import annotations


class CalibadvAlgoError(Exception):
    """Base class of the failures that this package raises at its boundaries."""


class MissingInfoKeyError(CalibadvAlgoError, KeyError):
    """An algorithm needs an ``info`` key that the environment does not give."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class CheckpointError(CalibadvAlgoError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class RolloutError(CalibadvAlgoError):
    """Too many episodes of a batch failed for training to go on."""


class EngineError(CalibadvAlgoError):
    """A generation engine failed or was given a request that it cannot serve."""


class EnvironmentFaultError(CalibadvAlgoError):
    """An environment broke down, or gave something that cannot be used."""


class BadNumberError(CalibadvAlgoError):
    """An environment or an engine gave NaN or infinity where a number is needed."""
