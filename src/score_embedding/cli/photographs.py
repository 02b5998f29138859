"""The commands on photographs: denoise, inpaint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from score_embedding.cli.options import Device, Overwrite
from score_embedding.errors import DataError

Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder to write into; default: beside it.")
]


def denoise(
    photographs: Annotated[list[Path], typer.Argument(metavar="PHOTO")],
    sigma: Annotated[
        str,
        typer.Option(
            metavar="auto|VALUE",
            help="Standard deviation of the noise, white being 1 (25 of 255: 0.098); or estimated.",
        ),
    ] = "auto",
    model: Annotated[
        str,
        typer.Option(
            metavar="fit|bundled|RUN_FOLDER",
            help="Learnt from the photograph; the bundled patch mixture; or a trained model, then "
            "refined by what is learnt from the photograph.",
        ),
    ] = "fit",
    mode: Annotated[
        str, typer.Option(help="mean (least error) or sample (keeps texture).")
    ] = "mean",
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Take the noise out of photographs: PHOTO_denoised beside each, with a before/after picture.

    Any size, colour or grey, 8 or 16 bit; EXIF, colour profile and alpha are kept. The noise is
    assumed Gaussian, equally strong everywhere and independent between pixels; noise that a camera
    or JPEG has processed is partly kept, as if it were detail.
    """
    level = _level(sigma)
    if mode not in ("mean", "sample"):
        raise DataError(f"--mode {mode}: mean or sample is needed")

    from score_embedding import arrays
    from score_embedding.restoration import files as restoration
    from score_embedding.runs import environment

    chosen = environment.select_device(device)
    if model != "bundled":  # what is learnt takes float64 where there is little noise
        chosen = arrays.with_float64(chosen)
    options = restoration.Options(level, model, "mean" if mode == "mean" else "sample", chosen)
    for written in restoration.denoise(photographs, options, out, overwrite):
        typer.echo(f"denoised: {written}")


def inpaint(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    mask: Annotated[Path, typer.Argument(metavar="MASK")],
    model: Annotated[
        str, typer.Option(metavar="bundled|RUN_FOLDER", help="The patch mixture, or a trained one.")
    ] = "bundled",
    out: Out = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fill in what is light in MASK, a picture of the same size: PHOTO_inpainted beside PHOTO.

    All other pixels are kept as they are, to the bit (of floating point to 16 bits); the result is
    in a format that loses nothing, and a before/after picture lies beside it.
    """
    if model == "fit":
        raise DataError("--model fit: would learn from what is missing; bundled does not")

    from score_embedding.restoration import files as restoration
    from score_embedding.runs import environment

    written = restoration.inpaint(
        photo, mask, model, environment.select_device(device), out, overwrite
    )
    typer.echo(f"inpainted: {written}")


def _level(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise DataError(f"--sigma {text}: auto, or a number, is needed") from None
