"""What is found of a claim: the verdict beside the published and the measured figures.

Seconds of another machine are shown and not judged; ratios are judged. A figure is known only up
to its resolution: a verdict is given where all values within it agree, else "not resolved".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from score_embedding.report.parts import Table

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
NOT_RESOLVED, NOT_RUN, NO_FIGURE = "not resolved", "not run here", "no published figure"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_RESOLVED, NOT_RUN, NO_FIGURE)
TOLERANCE = 2.0  # a ratio counts as reproduced when it is at least the published one over this


@dataclass(frozen=True)
class Finding:
    """A claim as rows of the tables show it. `here`: what was measured, with its resolution in
    brackets; `mse`: that of the samples that reached the SSIM; `reason`: of the verdict, where it
    needs one; `brief`: the published and the measured figure for a terminal; `values`: the figures,
    for the JSON file."""

    case: str
    claim: str
    published: str
    here: str = "-"
    mse: str = "-"
    verdict: str = NOT_RUN
    reason: str = ""
    brief: tuple[str, str] = ("-", "-")
    values: dict[str, float] = field(default_factory=dict)


def decided(low: float, high: float, needed: float) -> str:
    """The verdict on a figure known to be from `low` to `high`, of which `needed` is enough."""
    if low >= needed:
        return REPRODUCED
    return NOT_REPRODUCED if high < needed else NOT_RESOLVED


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many claims got each verdict."""
    verdicts = [finding.verdict for finding in findings]
    return {name: verdicts.count(name) for name in VERDICTS}


def all_reproduced(findings: Iterable[Finding]) -> bool:
    """Whether every claim with a published figure was run and reproduced."""
    return {finding.verdict for finding in findings} <= {REPRODUCED, NO_FIGURE}


def table(findings: Iterable[Finding], title: str, note: str) -> Table:
    """A row for each claim."""
    header = ("claim", "published", "here", "MSE", "verdict")
    rows = [(f.claim, f.published, f.here, f.mse, f.verdict) for f in findings]
    return Table(title, header, rows, note)


def reasons(findings: Iterable[Finding]) -> list[str]:
    """A line for each reason; claims of a case with the same reason share one."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for f in findings:
        if f.reason:
            lines.setdefault((f.case, f.verdict, f.reason), []).append(f.claim)
    return [
        f"{case if verdict == NOT_RUN else '; '.join(claims)}: {verdict}: {reason}"
        for (case, verdict, reason), claims in lines.items()
    ]


def brief_table(findings: Iterable[Finding], title: str) -> Table:
    """A row for each claim, narrow enough for a terminal."""
    header = ("claim", "published", "here", "verdict")
    return Table(title, header, [(f.claim, *f.brief, f.verdict) for f in findings])


def seconds_text(seconds: float) -> str:
    """12.3 s, 1.25 s, 0.0031 s."""
    if not math.isfinite(seconds):
        return "not reached"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.3g} s"
