"""The Fokker-Planck solve of the pre-computation, in float64.

Targets, at N = 20 and sigma_base 5. The spectral solve is at least 500 times faster than the
implicit one (sparse LU, iterated to its tolerance) on one 32x32x3 photograph. It takes at most 10 s
and 4 times the memory of its output for 1,000 images.

    python benchmarks/precompute.py

Median, min and max are over rounds. Times and ratios meet a target by their median, memory by its
worst value.

The memory is the peak of a new process minus its memory just before the solve, read from
/proc/self/status: ru_maxrss would start at the peak of the parent process, which hides it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from _common import crops, environment, in_turns, photographs, ratios, resident, spread, write
from score_embedding.fokker_planck.pixel_density import log_density
from score_embedding.fokker_planck.solve import Solution, solve
from score_embedding.sde import VarianceExploding

SDE = VarianceExploding(sigma=5.0)
TIMES = torch.linspace(1e-3, 1.0, 20, dtype=torch.float64)
TOLERANCE = 2e-8

Row = dict[str, Any]


def row(measured: str, values: list[float], target: str = "", met: bool | None = None) -> Row:
    return {"measured": measured, **spread(values), "target": target, "met": met}


def one_image() -> list[Row]:
    m0 = log_density(photographs(32)[:1])
    check_converged(solve(m0, SDE, TIMES, scheme="implicit", tolerance=TOLERANCE, linear="direct"))
    seconds = in_turns(
        {
            "implicit": lambda: solve(
                m0, SDE, TIMES, scheme="implicit", tolerance=TOLERANCE, linear="direct"
            ),
            "spectral": lambda: solve(m0, SDE, TIMES, scheme="spectral"),
        },
        rounds=5,
        calls={"spectral": 200},
    )
    gain = spread(ratios(seconds["implicit"], seconds["spectral"]))
    return [
        row("implicit, one 32x32x3 image, s", seconds["implicit"]),
        row("spectral, one 32x32x3 image, s", seconds["spectral"]),
        {
            "measured": "implicit / spectral",
            **gain,
            "target": ">= 500",
            "met": gain["median"] >= 500,
        },
    ]


def check_converged(solution: Solution) -> None:
    """Check the residuals of a solve; the scheme itself raises ConvergenceError."""
    diagnostics = solution.diagnostics
    last = [step[-1] for step in diagnostics.residuals]
    if len(last) != len(TIMES) - 1 or not max(last) <= TOLERANCE:
        raise RuntimeError(f"the implicit solve has not converged, last residuals: {last}")
    if not bool(solution.log_density.isfinite().all()):
        raise RuntimeError("the implicit solve is not finite")
    print(diagnostics.summary())


def thousand_images() -> list[Row]:
    m0 = log_density(crops(1000, 32))
    seconds = in_turns({"spectral": lambda: solve(m0, SDE, TIMES)}, rounds=5)["spectral"]
    rows = [row("spectral, 1,000 images, s", seconds, "<= 10", median(seconds) <= 10)]
    if Path("/proc/self/status").exists():
        memory = [memory_in_fresh_process(m0) for _ in range(3)]
        label = "spectral, 1,000 images, peak memory / output"
        rows.append(row(label, memory, "<= 4", max(memory) <= 4))
    return rows


def memory_in_fresh_process(m0: Tensor) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m0.npy"
        np.save(path, m0.numpy())
        command = [sys.executable, __file__, "--memory-of", str(path)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_of_solve(path: str) -> float:
    """Peak additional memory of the solve, as a multiple of its output's."""
    m0 = torch.from_numpy(np.load(path))
    solve(m0[:2], SDE, TIMES)  # libraries and caches that the first call loads
    before = resident("VmRSS")
    output = solve(m0, SDE, TIMES).log_density
    return (resident("VmHWM") - before) / output.nbytes


def main() -> None:
    if sys.argv[1:2] == ["--memory-of"]:
        print(memory_of_solve(sys.argv[2]))
        return
    machine = environment()
    write("precompute", one_image() + thousand_images(), machine)


if __name__ == "__main__":
    main()
