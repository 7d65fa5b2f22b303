"""Settings of the whole test run."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

# Shapes in this module's signatures are checked at every call. Tests of the other formulas pass
# wrong types on purpose, to see the modules' own errors.
install_import_hook(["calibadv_algo.learner.policy"], "beartype.beartype")

pytest_plugins = ["tests.comparisons"]
