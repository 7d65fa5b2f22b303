"""Evaluation of a policy on the seven benchmarks."""
