"""The published claims (published.py), run again: a comparison for each case that is trained, two
measurements in this process, and a verdict for each claim.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from score_embedding import atomic_files
from score_embedding.arrays import torch_defaults
from score_embedding.comparison import spec, tables
from score_embedding.comparison.compare import compare, finite
from score_embedding.comparison.reproduction import (
    density_times,
    exact_score,
    findings,
    plan,
    scales,
    solve_times,
    times,
)
from score_embedding.comparison.reproduction.findings import Finding
from score_embedding.comparison.reproduction.published import (
    ABLATION,
    ABLATIONS,
    ALL_CASES,
    BASELINES,
    CASES,
    DEFAULT_GROUPS,
    DENSITIES,
    GROUPS,
    KRYLOV,
    MAIN,
    OWN,
)
from score_embedding.comparison.reproduction.scales import DATA, PUBLISHED, SAMPLE, SCALES
from score_embedding.comparison.spec import Comparison
from score_embedding.errors import ConfigError, DataError, LimitError
from score_embedding.report.parts import Table
from score_embedding.runs import environment
from score_embedding.runs import folder as run_folder

log = logging.getLogger(__name__)

MARKDOWN, JSON = "claims.md", "claims.json"


@dataclass(frozen=True)
class Request:
    """What to reproduce.

    Attributes
    ----------
    scale, data : names of SCALES and DATA.
    seeds : of the runs.
    cases : names of ALL_CASES; None for those that the scale does not leave out.
    groups : names of GROUPS: which of the runs are made. Those of the others count where the folder
        has them.
    overrides : `section.key=value` of all configs, `method.section.key=value` of one method's.

    Raises
    ------
    ConfigError : an unknown name.
    """

    scale: str
    seeds: tuple[int, ...]
    cases: tuple[str, ...] | None = None
    groups: tuple[str, ...] = DEFAULT_GROUPS
    data: str = PUBLISHED
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for given, allowed in (
            (self.cases or (), ALL_CASES),
            ((self.scale,), SCALES),
            (self.groups, GROUPS),
            ((self.data,), DATA),
        ):
            unknown = [name for name in given if name not in allowed]
            if unknown:
                raise ConfigError(f"{', '.join(unknown)}: unknown; allowed: {', '.join(allowed)}")
        scales.check_overrides(list(self.overrides), list(self.asked))

    @property
    def asked(self) -> tuple[str, ...]:
        """The cases that are run and shown: none where only the ablations are."""
        if set(self.groups) <= {ABLATION}:
            return ()
        return self.cases or tuple(case for case in ALL_CASES if case not in self.left_out)

    @property
    def left_out(self) -> dict[str, str]:
        """The cases that the scale leaves out, where none are asked for by name."""
        left_out = not self.cases and set(self.groups) & {MAIN, BASELINES}
        return dict(SCALES[self.scale].left_out) if left_out else {}

    @property
    def note(self) -> str:
        """What makes the verdicts differ from verdicts on the published claims; "" for nothing."""
        notes = [SCALES[self.scale].note]
        if self.data == SAMPLE:
            notes.append(
                f"OTHER PICTURES: {', '.join(scales.PICTURES)}, which scikit-image ships, instead "
                f"of the published ones. A verdict on other pictures is a verdict on other "
                f"pictures."
            )
        if self.overrides:
            notes.append(f"CHANGED: {', '.join(self.overrides)}.")
        return " ".join(note for note in notes if note)

    def comparisons(self) -> dict[str, Comparison]:
        """Of the cases that are trained. Raises ConfigError."""
        return {
            case: scales.comparison_of(
                case, self.scale, self.seeds, self.data, list(self.overrides)
            )
            for case in self.asked
            if case in CASES
        }

    def ablations(self) -> dict[str, Comparison]:
        """Where they are asked for. Raises ConfigError."""
        return {
            name: scales.sweep_of(name, self.scale, self.seeds, self.data, list(self.overrides))
            for name in (ABLATIONS if ABLATION in self.groups else ())
        }

    def methods(self, comparison: Comparison) -> list[str]:
        """Those whose runs are made."""
        return [
            method
            for method in comparison.configs
            if (MAIN if method == OWN else BASELINES) in self.groups
        ]


@dataclass(frozen=True)
class Judged:
    """The verdicts; the same as a table, narrow for a terminal; other tables; what each case was
    run on, a line each."""

    findings: list[Finding]
    brief: Table
    table: Table
    others: list[Table]
    captions: list[str]


@torch_defaults()
def planned(request: Request, device: torch.device, processes: int = 1) -> Table:
    """The runs and the time that each will take. Nothing is written."""
    runs = [
        run
        for comparison in request.comparisons().values()
        for run in plan.plan(comparison, request.methods(comparison), device)
    ]
    for sweep in request.ablations().values():
        runs += plan.plan(sweep, list(sweep.configs), device)
    return plan.table(runs, processes)


@torch_defaults()
def reproduce(
    folder: Path,
    request: Request,
    device: torch.device,
    processes: int = 1,
    slurm: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Judged:
    """Make the runs that are not in the folder yet, each case a comparison of its own, and judge
    the claims of these cases.

    Raises
    ------
    ConfigError : seeds or overrides that cannot be used. Nothing was created.
    RunFolderError : the folder holds other files, or runs of other configs without `overwrite`.
    """
    run_folder.check_place(folder)
    run_folder.check_own(folder, JSON)
    comparisons, ablations = request.comparisons(), request.ablations()
    folder.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(folder / JSON, dataclasses.asdict(request))  # until all is judged
    found: list[Finding] = []
    lines: list[str] = []
    for case, comparison in comparisons.items():
        claims = scales.claims_of(case, request.scale)
        methods = request.methods(comparison)
        log.info("case %s", case)
        try:
            result = compare(
                comparison, folder / case, device, processes, slurm, overwrite, methods
            )
        except (DataError, LimitError) as error:
            log.warning("%s: not run, %s", case, error)
            found += [times.not_run(claim, str(error)) for claim in claims]
            continue
        jobs = spec.jobs(comparison, folder / case)
        found += [times.judged(claim, jobs, result.missing) for claim in claims]
        lines.append(f"{case}: {result.description}; {_intervals(comparison)}")
        if MAIN in request.groups:
            lines.append(f"{case}: {exact_score.described(comparison, device)}")
    shown: list[Table] = []
    for name, sweep in ablations.items():
        log.info("ablation %s", name)
        try:
            result = compare(sweep, folder / name, device, processes, slurm, overwrite)
        except (DataError, LimitError) as error:
            log.warning("%s: not run, %s", name, error)
            lines.append(f"{name}: not run here: {error}")
            continue
        shown += result.short
        missing = f"; missing: {result.reasons}" if result.missing else ""
        lines.append(f"{name}: {result.description}{missing}")
    others, measured = _in_process(request, device)
    found += others
    if {KRYLOV, DENSITIES} & set(request.asked) and MAIN in request.groups:
        lines.append(f"{KRYLOV}, {DENSITIES}: {_processor(device)}")
    lines += [f"{case}: left out, {reason}" for case, reason in request.left_out.items()]
    table = _table(found, request)
    brief = findings.brief_table(found, table.title)
    judged = Judged(found, brief, table, [*measured, *shown], lines)
    _write(folder, judged, request)
    return judged


def _in_process(request: Request, device: torch.device) -> tuple[list[Finding], list[Table]]:
    """The cases that are timed in this process, as a part of the main group."""
    scale = SCALES[request.scale]
    asked = [case for case in (KRYLOV, DENSITIES) if case in request.asked]
    if MAIN not in request.groups:
        reason = f"timed with the group {MAIN}"
        not_run = {KRYLOV: solve_times.not_run, DENSITIES: density_times.not_run}
        return [finding for case in asked for finding in not_run[case](reason)], []
    found: list[Finding] = []
    shown: list[Table] = []
    if KRYLOV in asked:
        log.info("case %s", KRYLOV)
        solves = solve_times.seconds(scale, device)
        found += solve_times.judge(solves, scale.images, scale.grid)
    if DENSITIES in asked:
        log.info("case %s", DENSITIES)
        densities = density_times.seconds(scale, device)
        found += density_times.judge(densities)
        shown.append(density_times.table(densities))
    return found, shown


def _table(found: list[Finding], request: Request) -> Table:
    title = f"Claims, {request.scale} scale"
    if request.data == SAMPLE:
        title += ", OTHER PICTURES"
    note = (
        "Seconds of the baseline / of score embedding to the SSIM (scikit-image's, 7 x 7 windows) "
        "of the min-max scaled sample from the paper's start, pre-computation included, and the "
        "MSE reached with it. Published: on one GPU of the P100 or V100 class; in 2025 with an "
        "SSIM of one global window. In brackets: what the intervals between evaluations allow. "
        "Reproduced: the median run reaches the SSIM, and the ratio is at least the published one "
        f"over {findings.TOLERANCE:g}, anywhere within these brackets; not resolved: only in a "
        "part of them."
    )
    return findings.table(found, title, f"{note} {request.note}".strip())


def _intervals(comparison: Comparison) -> str:
    each = (f"{name} {c.misc.profile_freq:g} s" for name, c in comparison.configs.items())
    return f"evaluated every {', '.join(each)} of training"


def _processor(device: torch.device) -> str:
    threads = f", {torch.get_num_threads()} thread(s)" if device.type == "cpu" else ""
    return environment.processor_of(device) + threads


def _write(folder: Path, judged: Judged, request: Request) -> None:
    text = "\n".join(map(tables.markdown, [judged.table, *judged.others]))
    lines = [*findings.reasons(judged.findings), *judged.captions]
    text += "\n" + "\n".join(f"- {line}" for line in lines) + "\n"
    atomic_files.write_text(folder / MARKDOWN, text)
    values = {
        **dataclasses.asdict(request),
        "note": request.note,
        "counts": findings.counts(judged.findings),
        "captions": judged.captions,
        "findings": [dataclasses.asdict(finding) for finding in judged.findings],
    }
    atomic_files.write_json(folder / JSON, finite(values))
