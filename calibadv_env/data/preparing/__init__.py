"""Preparation of datasets: gold evidence, audits, coverage, folders."""
