"""Commands on many runs: compare, reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from score_embedding.cli.options import Device, Overrides, Overwrite, Slurm
from score_embedding.errors import ConfigError, IncompleteError

if TYPE_CHECKING:
    from score_embedding.comparison.spec import Comparison

Number = TypeVar("Number", int, float)


def compare(
    config: Annotated[
        str | None,
        typer.Option(help="A bundled name or a YAML file: images, network, steps; or a sweep."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="samples (default), or denoising of held-out photographs."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated; --list-methods prints their names.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="section.key=value,value",
            help="Compare values of a key instead of methods; repeatable.",
        ),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="All combinations of the --sweep values.")
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(help="Comma-separated; default 0,1,2, or those of the sweep's file."),
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="Comma-separated SSIM; default 0.90,0.95,0.98,0.99.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The comparison's folder; saves/compare_<name>.")
    ] = None,
    again: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Continue the comparison in FOLDER.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    slurm: Slurm = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    overrides: Overrides = None,
    list_methods: Annotated[bool, typer.Option("--list-methods", help="Print them.")] = False,
) -> None:
    """Compare methods on the same images: time to quality under both priors, over seeds; or, for a
    config with held_out, denoising of photographs that no method was trained on; or, with --sweep,
    values of keys of the config.

    Of several --sweep options each changes one key, the others keep the config's values; --grid
    makes all combinations. A file or a bundled name (cifar1_sweep_dh) can describe a sweep, too.

    --set section.key=value changes the config that the methods are made from, --set
    method.section.key=value one of them (such as the published training of ddpm and ddim). Runs
    that are already in the folder are kept: the same command again continues an interrupted
    comparison.
    """
    from score_embedding.comparison import spec, variants

    if list_methods:
        for name, variant in variants.VARIANTS.items():
            typer.echo(f"{name:<22}{variant.summary}")
        return
    if again is not None:
        taken = (config, task, methods, sweep, grid, seeds, targets, out, overrides)
        if any(option not in (None, False, []) for option in taken):
            raise ConfigError(
                "--again takes all from its folder; only --processes, --slurm, --device and "
                "--overwrite can be given"
            )
        comparison, folder = spec.read(again), again
    else:
        asked = _Asked(config, task, methods, sweep or [], grid, seeds, targets, overrides or [])
        comparison = _comparison(asked)
        folder = out or Path("saves") / f"compare_{comparison.name}"

    from score_embedding.comparison import compare as comparing
    from score_embedding.comparison import tables
    from score_embedding.runs import environment

    result = comparing.compare(
        comparison,
        folder,
        environment.select_device(device),
        processes,
        _parameters(slurm),
        overwrite,
    )
    for table in result.short:
        Console().print(tables.terminal(table))
    typer.echo(f"comparison: {folder}, with {comparing.MARKDOWN} and {result.picture} in it")
    if result.missing:
        raise IncompleteError(f"{len(result.missing)} runs are missing: {result.reasons}")


@dataclass(frozen=True)
class _Asked:
    """The options of `compare` that say what to compare, as they were typed."""

    config: str | None
    task: str | None
    methods: str | None
    sweep: list[str]
    grid: bool
    seeds: str | None
    targets: str | None
    overrides: list[str]


def _comparison(asked: _Asked) -> Comparison:
    from score_embedding.comparison import spec
    from score_embedding.comparison.sweeps import settings

    if asked.task not in (None, *spec.TASKS):
        raise ConfigError(f"--task {asked.task!r}: must be {' or '.join(spec.TASKS)}")
    config = asked.config or (spec.DENOISING_CONFIG if asked.task == "denoising" else None)
    if config is None:
        raise ConfigError("--config or --again is needed: which images to compare the methods on")
    given = None if asked.seeds is None else _numbers(int, asked.seeds, "--seeds")
    targets = None if asked.targets is None else _numbers(float, asked.targets, "--targets")
    if asked.sweep or settings.is_file(config):
        unfit = {
            "--methods": asked.methods is not None,
            "--task denoising": asked.task == "denoising",
        }
        for option, is_given in unfit.items():
            if is_given:
                raise ConfigError(f"{option}: not of a sweep, which compares values of a key")
        factors = settings.parsed(asked.sweep)
        return settings.read(config, factors, asked.grid, given, targets, asked.overrides)
    if asked.grid:
        raise ConfigError("--grid: of the values of --sweep, which is not given")
    methods = None if asked.methods is None else _listed(asked.methods)
    seeds = [0, 1, 2] if given is None else given
    task = asked.task or "samples"
    return spec.build(config, methods, seeds, targets, asked.overrides, task)


def reproduce(
    scale: Annotated[
        str, typer.Option(help="small (a smoke run), laptop (two cores), or full (as published).")
    ] = "small",
    cases: Annotated[
        str | None,
        typer.Option(help="Comma-separated; only these are run and shown. Default: all."),
    ] = None,
    main: Annotated[bool, typer.Option("--main", help="Only score embedding and timings.")] = False,
    baselines: Annotated[bool, typer.Option("--baselines", help="Only DDPM and DDIM.")] = False,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Only the ablations of cifar1.")
    ] = False,
    data: Annotated[
        str,
        typer.Option(help="published, or sample: pictures of installed packages instead."),
    ] = "published",
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "9,42,123",
    out: Annotated[Path | None, typer.Option(help="Folder; saves/reproduce_<scale>.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the runs and their expected time; write nothing."),
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    slurm: Slurm = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    overrides: Overrides = None,
) -> None:
    """Run the published experiments again: a verdict for each claim.

    --main, --baselines and --ablations choose groups of runs (default: the first two). Runs of
    another group that are in the folder count as well. --set section.key=value changes all
    configs, --set method.section.key=value one method. Runs that are already in the folder are
    kept. The exit status is 0 only when every claim of the cases was run and reproduced.
    """
    from score_embedding.comparison import tables
    from score_embedding.comparison.reproduction import claims, findings, published, scales
    from score_embedding.runs import environment

    chosen = {published.MAIN: main, published.BASELINES: baselines, published.ABLATION: ablations}
    request = claims.Request(
        scale,
        tuple(_numbers(int, seeds, "--seeds")),
        tuple(_listed(cases)) if cases is not None else None,
        tuple(group for group, on in chosen.items() if on) or published.DEFAULT_GROUPS,
        data,
        tuple(overrides or ()),
    )
    console, where = Console(), environment.select_device(device)
    if dry_run:
        plan = claims.planned(request, where, processes)
        console.print(tables.terminal(plan))
        console.print(plan.note, markup=False, highlight=False)
        return
    ending = "" if data == scales.PUBLISHED else f"_{data}"
    folder = out or Path("saves") / f"reproduce_{scale}{ending}"
    judged = claims.reproduce(folder, request, where, processes, _parameters(slurm), overwrite)
    for table in (judged.brief, *judged.others):
        console.print(tables.terminal(table))
    for line in (*findings.reasons(judged.findings), request.note):
        console.print(line, markup=False, highlight=False)
    counts = findings.counts(judged.findings)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    typer.echo(f"claims: {folder / claims.MARKDOWN}: {summary}")
    if not findings.all_reproduced(judged.findings):
        raise IncompleteError(f"not every claim is reproduced: {summary}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(kind: type[Number], text: str, option: str) -> list[Number]:
    return [_parsed(kind, part, option) for part in _listed(text)]


def _parsed(kind: type[Number], text: str, option: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{option}: {text!r} is not a number ({kind.__name__})") from None


def _parameters(given: list[str] | None) -> dict[str, Any] | None:
    """key=value options as a dictionary, the values as YAML reads them."""
    if not given:
        return None
    from score_embedding.config import loading

    values: dict[str, Any] = {}
    for text in given:
        loading.change(values, text, option="--slurm")
    return values
