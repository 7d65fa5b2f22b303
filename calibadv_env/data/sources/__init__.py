"""Readers of the formats in which datasets are published."""
