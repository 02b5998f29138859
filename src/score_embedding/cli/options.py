"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="section.key=value", help="Change one key; repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, noise and samples.")]
Slurm = Annotated[
    list[str] | None,
    typer.Option(
        metavar="key=value",
        help="Parameter of submitit, such as timeout_min or slurm_partition; repeatable.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
