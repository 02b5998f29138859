"""The published claims (published.py), run again: a comparison for each case, and a verdict for
each claim beside the published and the measured figures.

Seconds of another machine are shown and not judged; ratios are judged.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from score_embedding import atomic_files
from score_embedding.comparison import tables
from score_embedding.comparison.compare import compare, finite
from score_embedding.comparison.published import CASES, CLAIMS, SCALES, SMALL_CHAIN, Claim
from score_embedding.comparison.spec import Comparison
from score_embedding.comparison.summary import Summary, ratio
from score_embedding.config import loading
from score_embedding.data.datasets import load_dataset
from score_embedding.errors import ConfigError, DataError
from score_embedding.report.content import Table
from score_embedding.runs import folder as run_folder

log = logging.getLogger(__name__)

REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run here"
MARKDOWN, JSON = "claims.md", "claims.json"
TOLERANCE = 2.0  # a ratio counts as reproduced when it is at least the published one over this


@dataclass(frozen=True)
class Finding:
    """A claim, what was measured here (seconds, infinite where not reached; ratio with "=" or ">"),
    and the verdict with its reason."""

    claim: Claim
    seconds: float = math.nan
    baseline_seconds: float = math.nan
    sign: str = "-"
    ratio: float = math.nan
    verdict: str = NOT_RUN
    reason: str = ""


def reproduce(
    folder: Path,
    scale: str,
    cases: list[str],
    seeds: list[int],
    device: torch.device,
    processes: int = 1,
    slurm: dict[str, Any] | None = None,
    overrides: list[str] | None = None,
    overwrite: bool = False,
) -> list[Finding]:
    """Run the cases, each as a comparison of its own in the folder, and judge all claims.

    Raises
    ------
    ConfigError : an unknown case or scale.
    """
    for given, allowed in ((cases, CASES), ([scale], SCALES)):
        unknown = [name for name in given if name not in allowed]
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: unknown; allowed: {', '.join(allowed)}")
    run_folder.check_place(folder)
    run_folder.check_own(folder, JSON)
    planned = {case: comparison_of(case, scale, seeds, overrides or []) for case in cases}
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(folder / JSON, {"scale": scale, "cases": cases})  # until all is judged
    summaries: dict[str, list[Summary]] = {}
    reasons = {case: "left out by --cases" for case in CASES if case not in cases}
    captions = []
    for case, comparison in planned.items():
        try:
            load_dataset(comparison.configs["score_embedding"].data_loader)
        except DataError as error:
            log.warning("%s: not run, %s", case, error)
            reasons[case] = str(error)
            continue
        log.info("case %s", case)
        result = compare(comparison, folder / case, device, processes, slurm, overwrite)
        summaries[case] = result.summaries
        if result.missing:
            reasons[case] = result.reasons
        captions.append(f"{case}: {result.description}")
    findings = [judge(claim, summaries.get(claim.case), reasons) for claim in CLAIMS]
    _write(folder, findings, scale, captions)
    return findings


def comparison_of(case: str, scale: str, seeds: list[int], overrides: list[str]) -> Comparison:
    """The published configs of a case, at a scale; its targets are those of its claims."""
    configs = {}
    for method, name in CASES[case].items():
        chain = [SMALL_CHAIN] if scale == "small" and method != "score_embedding" else []
        configs[method] = loading.load(name, [*SCALES[scale], *chain, *overrides])
    targets = sorted({claim.target for claim in CLAIMS if claim.case == case})
    return Comparison(case, configs, tuple(seeds), tuple(targets))


def judge(claim: Claim, summaries: list[Summary] | None, reasons: dict[str, str]) -> Finding:
    """The verdict on a claim from the summaries of its case; None where the case was not run.

    Reproduced: the median run of score embedding reaches the SSIM and, where there is a baseline,
    the ratio of the medians is at least the published one over TOLERANCE. A case with a run that
    failed or is missing counts as not run.
    """
    if summaries is None or claim.case in reasons:
        return Finding(claim, reason=reasons.get(claim.case, "no runs"))
    own_start = [summary for summary in summaries if summary.prior != "matched"]
    of = {summary.method: summary for summary in own_start}
    own = of["score_embedding"]
    seconds = own.time_to[claim.target].median
    if claim.baseline is None:
        reached = math.isfinite(seconds)
        return Finding(claim, seconds, verdict=REPRODUCED if reached else NOT_REPRODUCED)
    baseline = of[claim.baseline]
    sign, value = ratio(own, baseline, claim.target)
    verdict = REPRODUCED if value >= claim.ratio / TOLERANCE else NOT_REPRODUCED
    return Finding(claim, seconds, baseline.time_to[claim.target].median, sign, value, verdict)


def claims_table(findings: list[Finding], scale: str) -> Table:
    """The published and the measured figure, and the verdict: a row for each claim."""
    rows = []
    for finding in findings:
        claim = finding.claim
        name = f"{claim.case} {claim.target:.2f} ({claim.year})"
        published = f"{claim.seconds:.1f} s"
        here = _seconds(finding.seconds)
        if claim.baseline:
            name += f", {claim.baseline} / score_embedding"
            published = f"{claim.baseline_seconds:.1f} / {published} = {claim.ratio:.1f}"
            if finding.sign != "-":
                equals = "=" if finding.sign == "=" else ">"
                baseline = _seconds(finding.baseline_seconds)
                here = f"{baseline} / {here} {equals} {finding.ratio:.2f}"
        rows.append((name, published, "-" if finding.verdict == NOT_RUN else here, finding.verdict))
    note = (
        "Seconds to the SSIM, of the baseline / of score embedding, pre-computation included; "
        "published on one GPU of the P100 or V100 class. Reproduced: the median run reaches the "
        f"SSIM and the ratio is at least the published one over {TOLERANCE:g}."
    )
    if scale == "small":
        note += (
            " SMALL SCALE: a narrow network and few epochs, to test the programs. "
            "These verdicts say nothing about the published claims."
        )
    header = ("SSIM of", "published", "here", "verdict")
    return Table(f"Claims, {scale} scale", header, rows, note)


def counts(findings: list[Finding]) -> dict[str, int]:
    """How many claims got each verdict."""
    verdicts = [finding.verdict for finding in findings]
    return {name: verdicts.count(name) for name in (REPRODUCED, NOT_REPRODUCED, NOT_RUN)}


def _write(folder: Path, findings: list[Finding], scale: str, captions: list[str]) -> None:
    text = tables.markdown(claims_table(findings, scale))
    not_run = dict.fromkeys((f.claim.case, f.reason) for f in findings if f.verdict == NOT_RUN)
    lines = [*captions, *(f"{case}: not run here: {reason}" for case, reason in not_run)]
    text += "\n" + "\n".join(f"- {line}" for line in lines) + "\n"
    atomic_files.write_text(folder / MARKDOWN, text)
    values = {
        "scale": scale,
        "counts": counts(findings),
        "cases": captions,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
    atomic_files.write_json(folder / JSON, finite(values))


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if math.isfinite(seconds) else tables.NOT_REACHED
