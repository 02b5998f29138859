"""Shared by the benchmarks: photographs, paired timing, description of the machine, results.

Two functions that are compared are timed in turns within one process (A B A B ...). Their ratio is
computed turn by turn, so that other work on the machine affects both equally.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy
import skimage.data
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from score_embedding.runs.environment import processor_of

CPU = torch.device("cpu")
RESULTS = Path(__file__).parent / "results"
PHOTOGRAPHS = (
    *("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field"),
    *("immunohistochemistry", "camera", "moon", "brick", "grass", "gravel"),
)


def photographs(size: int) -> Tensor:
    """scikit-image's photographs, cropped to a square: float64 (n, 3, size, size) in [0, 1]."""
    return torch.cat([_photograph(name, size) for name in PHOTOGRAPHS])


def _photograph(name: str, size: int) -> Tensor:
    pixels = np.atleast_3d(getattr(skimage.data, name)())
    h, w, _ = pixels.shape
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = torch.from_numpy(pixels[top : top + side, left : left + side].copy())
    image = square.permute(2, 0, 1)[None].to(torch.float64) / 255
    image = interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return image.expand(1, 3, size, size)


def crops(n: int, size: int) -> Tensor:
    """n crops at random places of the photographs at four times the size, (n, 3, size, size)."""
    images = photographs(4 * size)
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(3 * size + 1, (n, 2), generator=generator).tolist()
    windows = [
        images[k % len(images), :, i : i + size, j : j + size] for k, (i, j) in enumerate(corners)
    ]
    return torch.stack(windows)


def in_turns(
    functions: dict[str, Callable[[], Any]],
    rounds: int,
    calls: dict[str, int] | None = None,
    device: torch.device = CPU,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each function in each round, after one call that is not counted.

    `calls`: the number of calls per measurement, for functions that take little time. `device`:
    a measurement ends when it has done its work. `clock`: time.process_time gives the seconds of
    this process alone, which other processes disturb less.
    """
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            repeats = (calls or {}).get(name, 1)
            wait_for(device)
            started = clock()
            for _ in range(repeats):
                function()
            wait_for(device)
            seconds[name].append((clock() - started) / repeats)
    return seconds


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratios(numerator: list[float], denominator: list[float]) -> list[float]:
    """The ratio in each round."""
    return [a / b for a, b in zip(numerator, denominator, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


def resident(key: str) -> int:
    """Resident memory in bytes: VmRSS is the current one, VmHWM the peak of the process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status")


def environment() -> dict[str, Any]:
    """The machine, to be read before the timing: a load near or above the number of cores makes
    times meaningless."""
    return {
        "cpu": processor_of(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def write(name: str, rows: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """Write results/<name>.json and a table of the same rows, results/<name>.md."""
    RESULTS.mkdir(exist_ok=True)
    document = json.dumps({"environment": environment, "rows": rows}, indent=2)
    (RESULTS / f"{name}.json").write_text(document + "\n", encoding="utf-8")
    text = table(name, rows, environment)
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def table(name: str, rows: list[dict[str, Any]], environment: dict[str, Any]) -> str:
    """A Markdown table of the rows under a title and a line about the environment."""
    described = ", ".join(f"{k} {v}" for k, v in environment.items())
    return "\n".join([f"# {name}", "", described, "", *table_lines(rows)]) + "\n"


def table_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table of the rows, whose keys are its columns."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [_table_line(columns), _table_line(["---"] * len(columns))]
    return lines + [_table_line([_cell(row.get(column)) for column in columns]) for row in rows]


def _table_line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else _rounded(value)


def _rounded(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)
