"""Every exception that the environment package raises on purpose.

A caller's mistake is a ``ValueError`` at construction; a policy's mistake is a normal
transition and never an exception; what is left are failures at a boundary, one class each.
"""

from __future__ import annotations


class CalibadvEnvError(Exception):
    """Base class of the failures that this package raises at its boundaries."""


class DataError(CalibadvEnvError):
    """A task or corpus file is missing, malformed or not the one that was expected."""


class InUseError(CalibadvEnvError):
    """Another process is writing into a folder; the message names it."""


class RetrieverError(CalibadvEnvError):
    """A retriever could not answer; the cause is chained. Never shown to a policy as text."""


class RewardError(CalibadvEnvError):
    """A grader could not say what an answer earns: its model is gone, or it gave no number."""


class MissingDependencyError(CalibadvEnvError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""
