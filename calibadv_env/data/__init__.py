"""Tasks, datasets and the registry that turns them into environment ids.

The package file imports nothing, so that :mod:`calibadv_env.retrieval` can read files through
:mod:`calibadv_env.data.files` without a circle; import the modules by name.
"""
