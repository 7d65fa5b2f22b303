"""Names the packages; everything else is in pyproject.toml.

`baselines/` is installed as the package `calibadv_baselines`, so that an installed copy can train
the published systems too. pyproject.toml can map a folder's name or find packages, not both.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["calibadv_env*", "calibadv_algo*"]),
        "calibadv_baselines",
    ],
    package_dir={"calibadv_baselines": "baselines"},
)
