"""The wheel of this checkout, in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PIP = (sys.executable, "-m", "pip")


def environment_with_wheel(folder: Path, *, extras: str = "", dependencies: bool = True) -> Path:
    """Builds the wheel from a copy of the sources and installs it where nothing else is.

    Args:
        folder: Where copy, wheel and environment go.
        extras: Extras of the wheel, such as "[train]".
        dependencies: If false, the wheel is installed without what it needs.

    Returns:
        The folder of the environment's programs.
    """
    source = folder / "source"
    for name in ("calibadv", "calibadv_env", "calibadv_algo", "baselines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "DATA_LICENSES.md"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*_PIP, *build, str(source)], check=True)
    [wheel] = folder.glob("*.whl")
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    programs = environment / "bin"
    install = ["--python", str(programs / "python"), "install", "--quiet"]
    install += ["--constraint", str(ROOT / "constraints.txt")] if dependencies else ["--no-deps"]
    subprocess.run([*_PIP, *install, f"{wheel}{extras}"], check=True)
    return programs
