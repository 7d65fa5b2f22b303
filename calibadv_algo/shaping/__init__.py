"""Rewards that differ from the environment's: one kind a file, the protocol in ``base.py``.

Nothing here imports torch.
"""
