"""Where a run was made: versions, device, threads, commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from score_embedding.errors import ConfigError

_PACKAGES = ("score-embedding", "torch", "diffusers", "numpy", "scipy", "scikit-image")


def describe(device: torch.device, seed: int) -> dict[str, Any]:
    """The content of environment.json. Nothing that names the user or the machine is in it."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "processor": _processor(device),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git_commit": _git_commit(),
    }


def select_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises ConfigError for a device not at hand."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, at_hand in available.items() if at_hand)
    if not available.get(name, False):
        at_hand = ", ".join(device for device, ok in available.items() if ok)
        raise ConfigError(f"--device {name}: not at hand here; auto or one of: {at_hand}")
    return torch.device(name)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of the source tree; None for an installed package."""
    source = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
        tracked = subprocess.run(
            ["git", "-C", str(source), "ls-files", "--error-unmatch", __file__],
            capture_output=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 and tracked.returncode == 0 else None
