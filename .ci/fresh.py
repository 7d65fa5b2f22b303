"""What three new users do in their first minutes, from the wheel in an empty environment, timed.

    python .ci/fresh.py [--install]

With ``--install`` the wheel's dependencies are installed as a user would; without it the packages
of this environment are lent to the empty one, which takes seconds in place of minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

from wheels import ROOT, environment_with_wheel

SCRIPTS = ("rl_engineer", "researcher", "notes")
LIMIT_S = 600.0
"""The ten minutes in which each is to succeed."""


def make_environment(folder: Path, *, install: bool) -> Path:
    """An environment with the wheel; returns the folder of its programs."""
    if install:
        return environment_with_wheel(folder, extras="[train]")
    programs = environment_with_wheel(folder, dependencies=False)
    [packages] = (programs.parent / "lib").glob("python3.*/site-packages")
    lent = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (packages / "lent.pth").write_text(lent, encoding="utf-8")
    return programs


def attempt(name: str, programs: Path, place: Path) -> tuple[float, float]:
    """Runs a script in an empty folder; returns the seconds that it took, and those of the CPU.

    Raises:
        SystemExit: showing what it printed, if it failed.
    """
    place.mkdir()
    own = {
        "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "HOME": str(place),
        "CALIBADV_DATA": str(place / "data"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    where = "import calibadv; print(calibadv.__file__)"
    found = subprocess.run(
        [programs / "python", "-c", where], cwd=place, env=own, capture_output=True, text=True
    )
    if str(programs.parent) not in found.stdout:
        raise SystemExit(f"the wheel is not what is imported: {found.stdout}{found.stderr}")
    began, before = time.monotonic(), os.times()
    done = subprocess.run(
        ["bash", str(ROOT / ".ci" / "fresh" / f"{name}.sh")],
        cwd=place,
        env=own,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    after = os.times()
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    return time.monotonic() - began, cpu_s


def main() -> None:
    """Runs all three and prints how long each took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--install", action="store_true", help="install all dependencies")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        programs = make_environment(Path(name), install=arguments.install)
        print(f"environment: {time.monotonic() - began:.0f} s", flush=True)
        for script in SCRIPTS:
            took_s, cpu_s = attempt(script, programs, Path(name, script))
            print(f"{script}: {took_s:.0f} s ({cpu_s:.0f} s of CPU)", flush=True)


if __name__ == "__main__":
    main()
