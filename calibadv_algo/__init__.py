"""Algorithms that train search agents: credit, advantages, losses, rollouts, a trainer.

Nothing here knows the search environments but through Gymnasium and the typed ``info`` keys of
``calibadv_env.info``. Importing the package loads neither torch nor transformers.
"""
