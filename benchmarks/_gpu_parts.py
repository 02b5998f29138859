"""The parts of benchmarks/gpu.py; each runs in a process of its own.

A part is a function of Options that yields the rows of its table. Each row is kept when it is
yielded: what a part has measured survives its end by an error or at the limit of its time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from skimage.transform import resize
from torch import Tensor

import _data_set
import _steps
import solvers
from _common import CPU, crops, in_turns, photographs, ratios, spread, wait_for
from score_embedding.config import loading
from score_embedding.methods.base import method_of
from score_embedding.methods.model import build_network
from score_embedding.restoration.denoising import denoise

ROOT = Path(__file__).parents[1]
CUDA_TESTS = ("neighbourhoods", "network", "scores_fitting", "spectral")
CUDA_NAMES = "gpu or device_of_m0"  # what the tests that need CUDA have in their names
NOISE = 0.1  # of the denoised picture, white being 1

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured: everything, or little of it, to try the program on a CPU."""

    ch: int = 128
    batch: int = 128
    cifar_batch: int = 20
    rounds: int = 7
    calls: int = 5  # steps of training in a measurement
    solved: tuple[int, ...] = (1, 10, 100, 1000, 10_000)  # images
    solved_by_steps: int = 24  # images, for the schemes that step through time
    sampled: int = 256
    denoised: int = 512  # side of the picture
    data: _data_set.Size = field(default_factory=_data_set.Size)


TINY = Size(8, 4, 2, 2, 1, (1, 3), 2, 4, 64, _data_set.TINY)


@dataclass(frozen=True)
class Options:
    """The device, the seconds that a part may take (from `started` on), and what else it needs."""

    device: torch.device
    seconds: float
    size: Size
    data: Path | None
    density: str
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.started)


def tests(options: Options) -> Iterator[Row]:
    """The tests that need CUDA."""
    files = [f"tests/test_{name}.py" for name in CUDA_TESTS]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", CUDA_NAMES, "-p", "no:cacheprovider"]
        # The first overrides the project's addopts, which share tests out to all cores.
        command += ["-o", "addopts=", f"--junitxml={report}", *files]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            raise RuntimeError(f"pytest: {(done.stdout + done.stderr)[-1500:]}")
        for case in ElementTree.parse(report).iter("testcase"):
            problem = case.find("failure")
            problem = case.find("error") if problem is None else problem
            outcome = "skipped" if case.find("skipped") is not None else "passed"
            row = {"test": f"{case.get('classname')}::{case.get('name')}", "outcome": outcome}
            if problem is not None:
                message = problem.get("message", "")[:300].replace("\n", " ").replace("|", "/")
                row |= {"outcome": "failed", "message": message}
            yield row | {"seconds": float(case.get("time", "nan"))}
    del options


def solve(options: Options) -> Iterator[Row]:
    """The Fokker-Planck schemes on the device and on the CPU, 3 x 32 x 32, N = 20."""
    size = options.size
    counts = dict.fromkeys(("implicit, iterative", "krylov"), (size.solved_by_steps,))
    counts = {"spectral, float32": size.solved, "spectral, float64": size.solved} | counts
    some = solvers.densities(min(100, max(size.solved)), 32)
    for name, numbers in counts.items():
        for n in numbers:
            output = n * len(solvers.TIMES) * 3 * 32**2 * (4 if "float32" in name else 8)
            if output > solvers.LARGEST:
                continue
            m0 = some.repeat(-(-n // len(some)), 1, 1, 1)[:n]
            calls = 10 if "spectral" in name and n <= 100 else 1
            yield {"scheme": name, "images": n} | _solved(solvers.SOLVERS[name], m0, calls, options)


def _solved(solver: solvers.Solver, m0: Tensor, calls: int, options: Options) -> Row:
    on_device = m0.to(options.device)
    here = _seconds(lambda: solver(on_device), 3, options.device, calls)
    there = _seconds(lambda: solver(m0), 2, CPU, 1)
    difference = solver(on_device).log_density.cpu() - solver(m0).log_density
    return {
        "device, ms": 1e3 * median(here),
        "device, ms an image": 1e3 * median(here) / len(m0),
        "CPU, ms": 1e3 * median(there),
        "CPU / device": median(there) / median(here),
        "largest difference of log p": float(difference.abs().max()),
    }


def training(options: Options) -> Iterator[Row]:
    """Steps of training, eager and then compiled, beside plain diffusers."""
    size, on_cuda = options.size, options.device.type == "cuda"
    image = photographs(32)[:1].float().to(options.device)
    cifar = [f"model.ch={size.ch}", f"data_loader.batch_size={size.cifar_batch}"]
    many = crops(size.batch, 32).float().to(options.device)
    changes = [f"model.ch={size.ch}", f"data_loader.batch_size={size.batch}"]
    of_package = {name: variant for name, variant in _steps.EAGER.items() if variant.package}
    plain = {_steps.PLAIN: _steps.EAGER[_steps.PLAIN]}
    eager = _steps.EAGER | (_steps.TF32 if on_cuda else {})
    settings = {
        "cifar1": (loading.load("cifar1", cifar), image, eager),
        "data set": (_data_set.config("white", 3, changes), many, eager),
        # A step with a density in it.
        "data set, patch_mixture": (
            _data_set.config("patch_mixture", 3, [*changes, "image_density.arrays=2000"]),
            many,
            plain | of_package,
        ),
    }
    for name, (config, images, variants) in settings.items():
        yield from _steps_of(name, config, images, variants, options)
    for variant in _steps.COMPILED.items() if on_cuda else ():
        for name in ("cifar1", "data set"):
            config, images, _ = settings[name]
            yield list(_steps_of(name, config, images, plain | dict([variant]), options))[-1]


def _steps_of(
    setting: str,
    config: Any,
    images: Tensor,
    variants: dict[str, _steps.Variant],
    options: Options,
) -> Iterator[Row]:
    """A row for each variant; all are timed in turns. A variant that cannot be run is named."""
    steps, first, batch = {}, {}, config.data_loader.batch_size
    for name, variant in variants.items():
        print(f"{setting}: {name}", flush=True)
        try:
            step = _steps.prepared(variant, config, images)
            before = time.perf_counter()
            for _ in range(3):
                step()
            wait_for(options.device)
            steps[name], first[name] = step, time.perf_counter() - before
        except Exception as error:
            yield {"setting": setting, "batch": batch, "step": name, "note": _message(error)}
    calls = dict.fromkeys(steps, options.size.calls)
    seconds = in_turns(steps, options.size.rounds, calls, options.device)
    for name, measured in seconds.items():
        milliseconds = spread([1e3 * s for s in measured])
        yield {
            "setting": setting,
            "batch": batch,
            "step": name,
            "ms": milliseconds["median"],
            "min": milliseconds["min"],
            "max": milliseconds["max"],
            "images/s": batch / median(measured),
            "time / plain": median(ratios(measured, seconds.get(_steps.PLAIN, measured))),
            "first 3 steps, s": first[name],
        }


def sampling(options: Options) -> Iterator[Row]:
    """Heun with 18 steps (36 evaluations) from an untrained network, which takes as long as a
    trained one."""
    size, device = options.size, options.device
    # Of another density than `white` the network is given its posterior mean, too.
    for kind in ("white", "patch_mixture"):
        config = _data_set.config(kind, 3, [f"model.ch={size.ch}", "image_density.arrays=2000"])
        images = crops(size.sampled, 32).float()
        method = method_of(config)
        known = method.precompute(images, device)
        network, images = build_network(method, len(images), device).eval(), images.to(device)
        index = torch.zeros(len(images), dtype=torch.long, device=device)
        half = torch.autocast(device.type, torch.bfloat16)(network)
        for precision, allowed in (
            ("float32", None),
            ("TF32 everywhere", True),
            ("bfloat16", None),
        ):
            forward = half if precision == "bfloat16" else network
            with _steps.tf32(allowed):
                seconds = _seconds(
                    lambda: method.sample(forward, images, index, known),  # noqa: B023 - called now
                    2,
                    device,
                    1,
                )
            row = {"skip path": kind, "ch": size.ch, "precision": precision, "batch": len(images)}
            yield row | {"s": median(seconds), "images/s": len(images) / median(seconds)}


def denoising(options: Options) -> Iterator[Row]:
    """`denoise` of a colour photograph on the device and on the CPU, white noise of level 0.1,
    estimated from the picture."""
    side = options.size.denoised
    clean = resize(skimage.data.astronaut(), (side, side), anti_aliasing=True)
    noise = np.random.default_rng(0).normal(size=clean.shape)
    noisy = (clean + NOISE * noise).astype(np.float32)
    answers: list[NDArray[np.float32]] = []

    def denoised(model: Any, device: torch.device) -> None:
        answers.append(denoise(noisy, model=model, device=device, data_range=(0, 1)))

    for model in ("bundled", "fast", "fit"):
        answers.clear()
        for device in dict.fromkeys((options.device, CPU)):
            seconds = _seconds(partial(denoised, model, device), 1, device, 1)
            error = float(np.square(answers[-1].clip(0, 1) - clean).mean())
            difference = float(np.abs(answers[-1] - answers[0]).max())
            row = {"model": model, "device": device.type, "side": side, "s": median(seconds)}
            row |= {"PSNR, dB": -10 * float(np.log10(error))}
            yield row | {"largest difference from the device": difference}


def data_set(options: Options) -> Iterator[Row]:
    """Fashion-MNIST: the residual of a density beside Karras' preconditioning (`white`)."""
    yield from _data_set.compared(
        ("white", options.density), options.size.data, options.data, options.device, options.left
    )


def _seconds(
    function: Callable[[], Any], rounds: int, device: torch.device, calls: int
) -> list[float]:
    """Of each round, per call, after one call that is not counted."""
    return in_turns({"": function}, rounds, {"": calls}, device)[""]


def _message(error: Exception) -> str:
    """In one line of a table."""
    return f"{type(error).__name__}: {error}"[:300].replace("\n", " ").replace("|", "/")


PARTS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "tests": tests,
    "training": training,
    "data_set": data_set,
    "sampling": sampling,
    "solvers": solve,
    "denoising": denoising,
}


def main() -> None:
    """One part, as gpu.py calls it: a line of JSON for each row, at the end of a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--device", type=torch.device)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--density")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    size = TINY if given.tiny else Size()
    options = Options(given.device, given.seconds, size, given.data, given.density)
    for row in PARTS[given.part](options):
        print(row, flush=True)
        with given.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
