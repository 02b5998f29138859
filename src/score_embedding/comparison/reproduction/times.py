"""Seconds to an SSIM, and their ratio to those of a baseline.

An SSIM is reached at some time after the last evaluation below it and at the latest at the first
one at or above it. Over the seeds, the medians of both bound the median run's time, and a ratio is
known between the bounds that follow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from score_embedding.comparison.reproduction import findings
from score_embedding.comparison.reproduction.findings import Finding, seconds_text
from score_embedding.comparison.reproduction.published import CASES, OWN, Claim
from score_embedding.comparison.spec import Job
from score_embedding.comparison.summary import prefix_of
from score_embedding.config import loading
from score_embedding.runs import artifacts
from score_embedding.runs import folder as run_folder


@dataclass(frozen=True)
class Reached:
    """When an SSIM was reached: after `after` seconds of the training clock, at the latest at
    `seconds`, with this MSE. Where it was not: after the end of the run, infinite and NaN."""

    after: float
    seconds: float
    mse: float


def reached(job: Job, target: float) -> Reached:
    """In one finished run, sampled from the paper's own start. Raises RunFolderError where its
    files are damaged."""
    folder, config = run_folder.open_existing(job.path, (run_folder.METRICS,))
    prefix = prefix_of(config, "unit")
    after = 0.0
    for row in artifacts.read_metrics(folder):
        if f"{prefix}ssim_minmax" in row:
            seconds = row["training_seconds"]
            if row[f"{prefix}ssim_minmax"] >= target:
                return Reached(after, seconds, row[f"{prefix}mse_minmax"])
            after = seconds
    return Reached(after, math.inf, math.nan)


def median_of(runs: list[Reached]) -> Reached:
    """Of the runs of one method; the MSE is that of the runs that reached the SSIM."""
    seconds = median(run.seconds for run in runs)
    mse = [run.mse for run in runs if math.isfinite(run.seconds)]
    return Reached(
        median(run.after for run in runs),
        seconds,
        median(mse) if math.isfinite(seconds) else math.nan,
    )


def judged(claim: Claim, jobs: list[Job], missing: Mapping[str, str]) -> Finding:
    """The verdict from the runs of a case; `missing`: the reasons of those that are not finished,
    by the run's name. A claim of which a run is missing counts as not run; what score embedding
    reached is shown all the same."""

    def runs(method: str | None) -> list[Job]:
        return [job for job in jobs if job.method == method]

    def reached_by(method: str) -> Reached:
        return median_of([reached(job, claim.target) for job in runs(method)])

    names = [job.path.name for job in (*runs(OWN), *runs(claim.baseline))]
    lacking = [f"{name} ({missing[name]})" for name in names if name in missing]
    if not lacking:
        return judge(claim, reached_by(OWN), reached_by(claim.baseline) if claim.baseline else None)
    own = None
    if not any(job.path.name in missing for job in runs(OWN)):
        own = reached_by(OWN)
    return not_run(claim, ", ".join(lacking), own)


def not_run(claim: Claim, reason: str, own: Reached | None = None) -> Finding:
    name, published, figure = name_of(claim), published_text(claim), _published_brief(claim)
    if own is None:
        return Finding(claim.case, name, published, reason=reason, brief=(figure, "-"))
    values = {"seconds": own.seconds, "seconds_after": own.after, "mse": own.mse}
    here, mse = (f"- / {text}" for text in (_alone(own), _mse(own)))
    return Finding(
        *(claim.case, name, published, here, mse),
        reason=reason,
        brief=(figure, "-"),
        values=values,
    )


def judge(claim: Claim, own: Reached, baseline: Reached | None) -> Finding:
    """Reproduced: the median run of score embedding reaches the SSIM and, where there is a
    baseline, the ratio of the medians is at least the published one over TOLERANCE wherever the
    times lie between the evaluations."""
    reason, figure = "", seconds_text(own.seconds)
    values = {"seconds": own.seconds, "seconds_after": own.after, "mse": own.mse}
    if baseline is None:
        here, mse = _alone(own), _mse(own)
        verdict = findings.REPRODUCED
    else:
        low, high = _bounds(own, baseline)
        enough = claim.ratio / findings.TOLERANCE
        here, mse = _beside(own, baseline, low, high), f"{_mse(baseline)} / {_mse(own)}"
        figure = _ratio(own, baseline, low, high) or "not reached"
        values |= {
            "baseline_seconds": baseline.seconds,
            "baseline_seconds_after": baseline.after,
            "baseline_mse": baseline.mse,
            "ratio_low": low,
            "ratio_high": high,
        }
        verdict = findings.decided(low, high, enough)
        if verdict == findings.NOT_RESOLVED:
            reason = _unresolved(claim, baseline, low, high, enough)
    if not math.isfinite(own.seconds):
        verdict = findings.NOT_REPRODUCED
        reason = f"score_embedding ended at {own.after:.1f} s without this SSIM"
    if not claim.has_figure:
        verdict, reason = findings.NO_FIGURE, ""
    brief = _published_brief(claim), figure
    name, published = name_of(claim), published_text(claim)
    return Finding(claim.case, name, published, here, mse, verdict, reason, brief, values)


def name_of(claim: Claim) -> str:
    """cifar1 0.99 (2024), ddpm; without the year where no figure is published."""
    year = f" ({claim.year})" if claim.has_figure else ""
    baseline = f", {claim.baseline}" if claim.baseline else ""
    return f"{claim.case} {claim.target:.2f}{year}{baseline}"


def published_text(claim: Claim) -> str:
    """The published seconds and their ratio, with its resolution where the interval between the
    published evaluations is known."""
    if not claim.baseline:
        return f"{claim.seconds:.2f} s" if claim.has_figure else "-"
    own = f"{claim.seconds:.2f} s"
    if not claim.has_figure:
        return f"- / {own}" if math.isfinite(claim.seconds) else "-"
    shown = f"{claim.baseline_seconds:.2f} s / {own} = {claim.ratio:.1f}"
    low, high = published_bounds(claim)
    return f"{shown} ({low:.1f} to {high:.1f})" if math.isfinite(high) else shown


def _published_brief(claim: Claim) -> str:
    """The published ratio, or the seconds where there is no baseline."""
    if not claim.has_figure:
        return "-"
    return f"{claim.ratio:.1f}" if claim.baseline else f"{claim.seconds:.1f} s"


def published_bounds(claim: Claim) -> tuple[float, float]:
    """The ratios that the published times allow, given the intervals of the published configs;
    NaN for 2025, whose intervals are not known."""
    if claim.year != 2024 or claim.baseline is None:
        return math.nan, math.nan
    configs = CASES[claim.case].configs
    own, other = (
        loading.load(configs[method]).misc.profile_freq for method in (OWN, claim.baseline)
    )
    return (
        (claim.baseline_seconds - other) / claim.seconds,
        claim.baseline_seconds / (claim.seconds - own),
    )


def _bounds(own: Reached, baseline: Reached) -> tuple[float, float]:
    if not math.isfinite(own.seconds):
        return 0.0, math.inf
    high = baseline.seconds / own.after if own.after > 0 else math.inf
    return baseline.after / own.seconds, high


def _unresolved(claim: Claim, baseline: Reached, low: float, high: float, enough: float) -> str:
    needed = f"{enough:.2f} is needed"
    if not math.isfinite(baseline.seconds):
        return (
            f"{claim.baseline} ended at {baseline.after:.1f} s without this SSIM: the ratio is "
            f"at least {low:.2f}, and {needed}; more of --set {claim.baseline}.training.epochs "
            f"and training.seconds resolve it"
        )
    return (
        f"between the evaluations the ratio is {low:.2f} to {high:.2f}, and {needed}; a smaller "
        f"--set {OWN}.misc.profile_freq or {claim.baseline}.misc.profile_freq resolves it"
    )


def _alone(run: Reached) -> str:
    if not math.isfinite(run.seconds):
        return f"not reached in {seconds_text(run.after)}"
    return f"{seconds_text(run.seconds)} (after {seconds_text(run.after)})"


def _beside(own: Reached, baseline: Reached, low: float, high: float) -> str:
    shown = [
        seconds_text(run.seconds) if math.isfinite(run.seconds) else _alone(run)
        for run in (baseline, own)
    ]
    ratio = _ratio(own, baseline, low, high)
    equals = "" if ratio.startswith(">") else "= "
    return " / ".join(shown) + (f" {equals}{ratio}" if ratio else "")


def _ratio(own: Reached, baseline: Reached, low: float, high: float) -> str:
    """The ratio of the times with its bounds; "" where score embedding did not get there."""
    if not math.isfinite(own.seconds):
        return ""
    if not math.isfinite(baseline.seconds):
        return f"> {low:.2f}"
    most = f"{high:.2f}" if math.isfinite(high) else "∞"
    return f"{baseline.seconds / own.seconds:.2f} ({low:.2f} to {most})"


def _mse(run: Reached) -> str:
    return f"{run.mse:.1e}" if math.isfinite(run.mse) else "-"
