"""The README's table of a comparison, from the comparison.json of `score-embedding compare`.

python benchmarks/comparison_table.py benchmarks/results/comparison_one/comparison.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def table(document: dict[str, Any]) -> str:
    """Markdown: median seconds to the first two targets and final SSIM, under both priors."""
    targets = [f"{target:g}" for target in document["targets"][:2]]
    of = {(summary["method"], summary["prior"]): summary for summary in document["summaries"]}
    header = ["method"]
    header += [
        f"SSIM {target}, {prior} prior" for prior in ("unit", "matched") for target in targets
    ]
    header += ["final SSIM, unit", "final SSIM, matched", "trained"]
    lines = [_row(header), _row(["---"] * len(header))]
    for method in dict.fromkeys(summary["method"] for summary in document["summaries"]):
        unit, matched = of[method, "unit"], of[method, "matched"]
        cells = [f"`{method}`"]
        cells += [_time(summary, target) for summary in (unit, matched) for target in targets]
        cells += [f"{summary['final']['ssim_minmax']['median']:.3f}" for summary in (unit, matched)]
        cells.append(f"{unit['seconds']['median']:.0f} s, {unit['steps']} steps")
        lines.append(_row(cells))
    return "\n".join(lines)


def _time(summary: dict[str, Any], target: str) -> str:
    """Median seconds and steps, or the number of runs that reached the target."""
    median, runs = summary["time_to"][target]["median"], summary["runs"]
    if median is None:
        return f"not reached ({summary['reached'][target]} of {runs})"
    return f"{median:.0f} s ({summary['steps_to'][target]['median']:.0f})"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
