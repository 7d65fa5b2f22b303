"""The wheel: four packages with their data; no tests, benchmarks or conformance."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "calibadv": ROOT,
    "calibadv_algo": ROOT,
    "calibadv_env": ROOT,
    "calibadv_baselines": ROOT / "baselines",
}
TOP = ("pyproject.toml", "README.md", "LICENSE", "DATA_LICENSES.md")


def files_of(package: str, parent: Path) -> set[str]:
    """Files of a package that are no leftovers of a run."""
    found = (path for path in (parent / package).rglob("*") if path.is_file())
    return {str(p.relative_to(parent)) for p in found if p.suffix != ".pyc"}


@pytest.mark.slow
def test_the_wheel_holds_the_packages_and_nothing_else(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for package, parent in PACKAGES.items():
        shutil.copytree(
            parent / package, source / parent.relative_to(ROOT) / package, ignore=ignored
        )
    for outside in ("tests", "benchmarks", "conformance"):
        shutil.copytree(ROOT / outside, source / outside, ignore=ignored)
    for name in TOP:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set().union(*(files_of(name, parent) for name, parent in PACKAGES.items()))
    for needed in (
        "calibadv_algo/learner/assets/atlas_policy/model.safetensors",
        "calibadv_algo/learner/assets/atlas_fair_policy/model.safetensors",
        "calibadv_algo/report/assets/base.html",
        "calibadv/py.typed",
        "calibadv_algo/py.typed",
        "calibadv_env/py.typed",
        "calibadv_baselines/gigpo.py",
    ):
        assert needed in names
