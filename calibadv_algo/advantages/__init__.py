"""Advantage estimators: a file an algorithm, found by its base class in ``base.py``."""
