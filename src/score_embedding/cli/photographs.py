"""The commands for photograph files: denoise, inpaint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from score_embedding import progress
from score_embedding.cli.options import Device, Overwrite
from score_embedding.errors import DataError

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder to write into, created if needed; default: beside PHOTO."
    ),
]

Value = TypeVar("Value")

Page = Annotated[
    int | None,
    typer.Option(metavar="N", help="One page or frame of a file that has several, from 1."),
]


def denoise(
    photographs: Annotated[list[Path], typer.Argument(metavar="PHOTO|FOLDER")],
    sigma: Annotated[
        str,
        typer.Option(
            metavar="auto|VALUE",
            help="Standard deviation of the noise, white being 1 (25 of 255: 0.098); in "
            "floating-point files the unit of their values; auto: estimated.",
        ),
    ] = "auto",
    noise: Annotated[
        str,
        typer.Option(
            metavar="auto|white|camera|poisson",
            help="Kind of noise: independent between pixels; shared by neighbours, as of a "
            "camera; growing with brightness, as of counts; auto: what the estimate finds.",
        ),
    ] = "auto",
    strength: Annotated[
        float,
        typer.Option(
            metavar="FACTOR",
            help="More than 1 removes more noise, and detail with it; less keeps more of both.",
        ),
    ] = 1.0,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Less good, in a fraction of the time; in place of --model."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="fit|bundled|RUN_FOLDER",
            help="fit, the default: the bundled patch mixture adapted to the photograph; bundled: "
            "that mixture unchanged; or a trained model, refined by the photograph's own "
            "neighbourhoods.",
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="mean (least error) or sample (keeps texture).")
    ] = "mean",
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Only a picture of one detail at several strengths, from which to choose "
            "--strength.",
        ),
    ] = False,
    page: Page = None,
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave out photographs whose result exists, as after an interruption.",
        ),
    ] = False,
) -> None:
    """Denoise photographs, or all in a folder: PHOTO_denoised beside each, with a before/after
    picture.

    Any size, colour or grey; EXIF, colour profile and alpha are kept, and in TIFF depth, range and
    pages, too. Photographs in a folder that cannot be read are skipped. The noise is
    estimated from the photograph: its strength at each brightness, and how neighbouring pixels
    share it. Where what would be taken away is more than noise, it is kept.
    """
    level = _level(sigma)
    if fast and model is not None:
        raise DataError(
            f"--fast and --model {model}: --fast has a model of its own; leave out one of the two"
        )
    model = "fast" if fast else model or "fit"
    if overwrite and skip_existing:
        raise DataError("--overwrite and --skip-existing: leave out one of the two")
    if mode not in ("mean", "sample"):
        raise DataError(f"--mode {mode}: mean or sample is needed")

    from score_embedding import arrays
    from score_embedding.restoration import files as restoration
    from score_embedding.restoration import noise_given
    from score_embedding.runs import environment

    chosen = environment.select_device(device)
    if model != "bundled":  # the others need float64 at low noise levels
        chosen = arrays.with_float64(chosen)
    how: Literal["mean", "sample"] = "mean" if mode == "mean" else "sample"
    kind = _usable(noise_given.checked_kind, noise)
    factor = _usable(noise_given.checked_strength, strength)
    given = restoration.FileNoise(level, kind, factor)
    options = restoration.Options(given, model, how, chosen, page)
    work, what = restoration.denoise, "denoised"
    if preview:
        work, what = restoration.preview, "preview"
    for written in work(photographs, options, out, overwrite, skip_existing):
        _report(what, written)


def inpaint(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    mask: Annotated[Path, typer.Argument(metavar="MASK")],
    model: Annotated[
        str,
        typer.Option(
            metavar="fit|bundled|RUN_FOLDER",
            help="fit: the bundled patch mixture adapted to the photograph; bundled: that mixture "
            "unchanged; or a trained model.",
        ),
    ] = "fit",
    page: Page = None,
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fill in what is light in MASK, a picture of the same size: PHOTO_inpainted beside PHOTO.

    All other pixels are kept bit for bit; the result is in a lossless format, with a before/after
    picture beside it. MASK is for all pages of PHOTO, or has as many.
    """
    from score_embedding.restoration import files as restoration
    from score_embedding.runs import environment

    written = restoration.inpaint(
        photo, mask, model, environment.select_device(device), out, overwrite, page
    )
    _report("inpainted", written)


def _report(what: str, path: Path) -> None:
    """A line on standard output with the exact bytes of the file name, whatever they are."""
    with progress.bars_cleared():
        typer.echo(f"{what}: ".encode() + os.fsencode(path))


def _level(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise DataError(f"--sigma {text}: auto, or a number, is needed") from None


def _usable(check: Callable[[Any], Value], given: Any) -> Value:
    """The value of an option, its ValueError as one of the user's."""
    try:
        return check(given)
    except ValueError as error:
        raise DataError(f"--{error}") from None
