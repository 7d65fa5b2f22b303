"""Device, versions, and the card's limits as measured: a matrix product and a copy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import Any

import torch

from benchmarks.gpu_stages.common import Stage, seconds_of

PACKAGES = (
    *("torch", "transformers", "vllm", "peft", "accelerate", "gymnasium", "bm25s", "numpy"),
    *("liger-kernel", "flash-attn", "triton"),
)


def versions() -> dict[str, str | None]:
    """Installed versions, None where a package is missing."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def device_facts(stage: Stage) -> dict[str, Any]:
    """Name, memory and driver of the device; the processor's name in a rehearsal."""
    facts: dict[str, Any] = {"cores": os.cpu_count(), "machine": platform.platform()}
    if stage.device.type != "cuda":
        return facts | {"device": platform.processor() or platform.machine(), "is_gpu": False}
    free, total = torch.cuda.mem_get_info()
    facts |= {
        "device": torch.cuda.get_device_name(),
        "is_gpu": True,
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "free_gib": round(free / 2**30, 2),
        "total_gib": round(total / 2**30, 2),
        "cuda": torch.version.cuda,
    }
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
        facts["driver"] = done.stdout.strip()
    return facts


def matmul_tflops(stage: Stage, dtype: torch.dtype) -> float:
    """Rate of a large square product on random data, in TFLOP/s."""
    size = 256 if stage.device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=stage.device, dtype=dtype) for _ in range(2))
    seconds = seconds_of(lambda: [a @ b for _ in range(10)], stage.device) / 10
    return round(2 * size**3 / seconds / 1e12, 3)


def copy_gb_per_s(stage: Stage) -> float:
    """Rate of a copy within the device's memory, bytes read plus bytes written, in GB/s."""
    size = 2**24 if stage.device.type == "cpu" else 2**32
    source = torch.randint(0, 255, (size,), device=stage.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return round(2 * size / seconds_of(lambda: target.copy_(source), stage.device) / 1e9, 1)


def main() -> None:
    stage = Stage.from_arguments("facts")
    stage.add("device", device_facts(stage))
    stage.add("versions", versions())
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        stage.attempt(f"matmul_{name}_tflops", lambda dtype=dtype: matmul_tflops(stage, dtype))
    stage.attempt("copy_gb_per_s", lambda: copy_gb_per_s(stage))


if __name__ == "__main__":
    main()
