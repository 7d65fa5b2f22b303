"""Builds sdist and wheel into dist/, and tries the wheel in empty environments.

    python .ci/release.py [--train]

The wheel is built from the sdist, so what the sdist lacks is missed here and not by users.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
EPISODE = """
import calibadv, gymnasium
env = gymnasium.make("DeepSearch-Toy-v1")
text, info = env.reset(seed=0)
env.step("<think>x</think><search>capital</search>")
print(calibadv.__version__, len(calibadv.list_datasets()), "datasets")
"""


def run(*words: str | Path, **options: object) -> None:
    """Runs a program; a failure ends this one."""
    subprocess.run([str(word) for word in words], check=True, **options)  # type: ignore[call-overload]


def build(dist: Path) -> Path:
    """Makes both files; returns the wheel."""
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    make = f"import setuptools.build_meta as b; print(b.build_sdist({str(dist)!r}))"
    run(sys.executable, "-c", make, cwd=ROOT, stdout=subprocess.DEVNULL)
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        print(f"{sdist.name}: {len(archive.getnames())} files, {sdist.stat().st_size / 1e6:.1f} MB")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", dist, sdist)
    [wheel] = dist.glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    return wheel


def interpreter(version: str) -> str | None:
    """A Python of a version: on the path, or among those of pyenv."""
    homes = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for name in (f"python{version}", *map(str, homes)):
        found = shutil.which(name)
        code = f"import sys; sys.exit(sys.version_info[:2] != ({version.replace('.', ', ')}))"
        if found and subprocess.run([found, "-c", code], capture_output=True).returncode == 0:
            return found
    return None


def attempt(python: str, wheel: Path, *, train: bool) -> None:
    """Installs the wheel in an empty environment and uses it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(python, "-m", "venv", folder / "env")
        own = folder / "env" / "bin"
        given = f"{wheel}[train]" if train else str(wheel)
        pip = (own / "python", "-m", "pip", "install", "--quiet")
        run(*pip, "--constraint", ROOT / "constraints.txt", given)
        environment = {**os.environ, "PATH": f"{own}:{os.environ['PATH']}"}
        run(own / "python", "-m", "pip", "check", stdout=subprocess.DEVNULL)
        run(own / "python", "-c", EPISODE, cwd=folder, env=environment)
        for words in (["--version"], ["list", "datasets"], ["data", "inspect", "toy"]):
            run(own / "calibadv", *words, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        if train:
            smoke = ("compare", "--preset", "smoke", "--seeds", "0", "--output-dir", folder / "out")
            run(own / "calibadv", *smoke, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def main() -> int:
    """Builds and tries; the number of versions of Python that could not be tried is said."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", action="store_true", help="with torch, and two updates")
    arguments = parser.parse_args()
    wheel = build(ROOT / "dist")
    missing = []
    for version in VERSIONS:
        python = interpreter(version)
        if python is None:
            missing.append(version)
            continue
        attempt(python, wheel, train=arguments.train)
        print(f"Python {version}: tried{' with [train]' if arguments.train else ''}")
    if missing:
        print(f"not on this machine, so not tried: Python {', '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
