"""Stages of benchmarks/gpu.py, each a program: `python -m benchmarks.gpu_stages.facts`."""
