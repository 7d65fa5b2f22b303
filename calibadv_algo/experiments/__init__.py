"""Experiments: arms, published systems, comparisons and their statistics."""
