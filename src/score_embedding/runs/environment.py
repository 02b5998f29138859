"""Where a run was made: versions, device, threads, commit."""

from __future__ import annotations

import hashlib
import logging
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from score_embedding.errors import ConfigError, RunFolderError

log = logging.getLogger(__name__)

_PACKAGES = ("score-embedding", "torch", "diffusers", "numpy", "scipy", "scikit-image")


def describe(device: torch.device, seed: int, images: Tensor) -> dict[str, Any]:
    """The content of environment.json. Nothing that names the user or the machine is in it."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": str(device),
        "processor": processor_of(device),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git_commit": _git_commit(),
        "images_sha256": digest(images),
    }


def digest(images: Tensor) -> str:
    """SHA-256 of the pixels of images (n, c, h, w)."""
    return hashlib.sha256(images.cpu().contiguous().numpy().data).hexdigest()


def check_same(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Check that the run of folder `path` can be resumed here and now; what has changed since it
    began is named in the log.

    Raises
    ------
    RunFolderError : it began with other images.
    """
    changed = [name for name, value in now.items() if before.get(name) != value]
    if "images_sha256" in changed:
        raise RunFolderError(
            f"{path}: its run began with other images than are there now; bring those back, or "
            f"--overwrite runs it again on these"
        )
    if changed:
        log.warning(
            "changed since the run began: %s; it continues, but not bit for bit as it would have",
            ", ".join(name.replace("_", " ") for name in changed),
        )


def determinism(device: str, by_clock: bool) -> str:
    """What is promised of a second run of the same config, seed and images on the device. With
    `by_clock` seconds decide when training stops (training.seconds, training.target_ssim) or where
    it goes back to after a divergence."""
    if by_clock:
        return (
            "Seconds decided how many steps were made: a second run makes about as many, not "
            "exactly as many, and its weights and samples differ."
        )
    if device != "cpu":
        return (
            f"On {device} the order of sums is not fixed: a second run is similar, but not equal "
            f"bit for bit, and training amplifies the difference."
        )
    return (
        "A second run with the same versions, processor and number of threads ends with the same "
        "weights and samples, bit for bit. With others it differs by round-off, which training "
        "amplifies."
    )


def select_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises ConfigError for a device that is
    not available."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, usable in available.items() if usable)
    if not available.get(name, False):
        usable = ", ".join(device for device, ok in available.items() if ok)
        raise ConfigError(f"--device {name}: not available here; auto or one of: {usable}")
    return torch.device(name)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def processor_of(device: torch.device) -> str:
    """The name of the GPU or of the CPU. A virtual machine may give processors of several
    generations, which add in different orders, one name: family and model tell them apart."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    first, _, _ = text.partition("\n\n")
    pairs = [line.partition(":") for line in first.splitlines()]
    values = {key.strip(): value.strip() for key, _, value in pairs}
    name = values.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in values or "model" not in values:
        return name
    return f"{name} (family {values['cpu family']}, model {values['model']})"


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
