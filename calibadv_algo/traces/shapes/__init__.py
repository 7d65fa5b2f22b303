"""Shapes in which systems log rollouts; each module declares its readers in ``READERS``."""
