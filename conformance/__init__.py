"""Conformance: our numbers against recorded vectors of the reference implementations."""
