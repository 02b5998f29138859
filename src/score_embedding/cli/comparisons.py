"""Commands on many runs: compare, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from score_embedding.cli.options import Device, Overrides, Overwrite, Slurm
from score_embedding.errors import ConfigError, IncompleteError

Number = TypeVar("Number", int, float)


def compare(
    config: Annotated[
        str | None, typer.Option(help="A bundled name or a YAML file: images, network, steps.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="samples (default), or denoising of held-out photographs."),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated; --list-methods prints their names.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated; default 0,1,2.")] = None,
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
    config with held_out, denoising of photographs that no method was trained on.

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
    if task not in (None, *spec.TASKS):
        raise ConfigError(f"--task {task!r}: must be {' or '.join(spec.TASKS)}")
    if again is not None:
        if any((config, task, methods, seeds, targets, out, overrides)):
            raise ConfigError(
                "--again takes all from its folder; only --processes, --slurm, --device and "
                "--overwrite can be given"
            )
        comparison, folder = spec.read(again), again
    elif config is None and task != "denoising":
        raise ConfigError("--config or --again is needed: which images to compare the methods on")
    else:
        comparison = spec.build(
            config or spec.DENOISING_CONFIG,
            _listed(methods) if methods is not None else None,
            [_parsed(int, seed, "--seeds") for seed in _listed(seeds or "0,1,2")],
            [_parsed(float, target, "--targets") for target in _listed(targets)]
            if targets
            else None,
            list(overrides or []),
            task or "samples",
        )
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


def reproduce(
    scale: Annotated[
        str, typer.Option(help="small (a smoke run, minutes) or full (as published).")
    ] = "small",
    cases: Annotated[
        str, typer.Option(help="Comma-separated.")
    ] = "cifar1,celeb1,cifar3,inet3,celeb3",
    seeds: Annotated[str, typer.Option(help="Comma-separated.")] = "9,42,123",
    out: Annotated[Path | None, typer.Option(help="Folder; saves/reproduce_<scale>.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    slurm: Slurm = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    overrides: Overrides = None,
) -> None:
    """Run the published experiments again: a verdict for each claim.

    The exit status is 0 only when every claim was run and reproduced. Runs that are already in the
    folder are kept.
    """
    from score_embedding.comparison import claims, tables
    from score_embedding.runs import environment

    folder = out or Path("saves") / f"reproduce_{scale}"
    findings = claims.reproduce(
        folder,
        scale,
        _listed(cases),
        [_parsed(int, seed, "--seeds") for seed in _listed(seeds)],
        environment.select_device(device),
        processes,
        _parameters(slurm),
        overrides,
        overwrite,
    )
    table = claims.claims_table(findings, scale)
    console = Console()
    console.print(tables.terminal(table))
    console.print(table.note, markup=False, highlight=False)
    counts = claims.counts(findings)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    typer.echo(f"claims: {folder / claims.MARKDOWN}: {summary}")
    if counts[claims.REPRODUCED] < len(findings):
        raise IncompleteError(f"not every claim is reproduced: {summary}")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


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
