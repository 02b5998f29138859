"""The part of a report on images that were held out and denoised."""

from __future__ import annotations

import json
from typing import Any

from score_embedding import atomic_files
from score_embedding.config.schema import AnyConfig
from score_embedding.report import figures
from score_embedding.report.parts import Result, Table, picture_of, size_of
from score_embedding.runs import folder as run_folder
from score_embedding.runs.folder import RunFolder


def of_denoising(folder: RunFolder, config: AnyConfig, rows: list[dict[str, float]]) -> Result:
    """The denoised photographs, or images of a data set."""
    arrays = atomic_files.read_arrays(folder / run_folder.DENOISED, "description")
    description = json.loads(str(arrays["description"]))
    names, levels = description["names"], description["levels"]
    lines = [
        (name, *(f"{p:.2f} / {s:.3f}" for p, s in zip(psnr, ssim, strict=True)))
        for name, psnr, ssim in zip(names, description["psnr"], description["ssim"], strict=True)
    ]
    of_set = description.get("set")
    header = ("image" if of_set else "photograph", *(f"noise {level:g}" for level in levels))
    note = "PSNR in dB / SSIM of the answer clipped to [0, 1]; training has not seen them."
    tables = [Table("Denoising", header, lines, note)]
    tables = ([_of_set(of_set, header)] if of_set else []) + tables
    what = "Images" if of_set else "Photographs"
    pictures = [picture_of("Denoised", f"{what} held out.", figures.denoised(arrays))]
    if "loss" in rows[0]:
        caption = f"Means over the {what.lower()}. Evaluation stops the clock."
        pictures.append(picture_of("Training", caption, figures.denoising_curves(rows, levels)))
    data = config.data_loader
    what = f"crops of {size_of(config)}" if data.crops else f"images of {size_of(config)}"
    of = f"{what} ({', '.join([data.dataset, *(data.image or [])])})"
    return Result(config, tables, pictures, of)


def _of_set(means: dict[str, Any], header: tuple[str, ...]) -> Table:
    """The means over all images of a data set that are held out."""
    rows = [
        ("mean squared error x 1000", *(f"{1000 * value:.3g}" for value in means["mse"])),
        ("PSNR (dB)", *(f"{value:.2f}" for value in means["psnr"])),
    ]
    note = (
        f"Of {means['count']} images that training has not seen. The error is that of the answer "
        "without clipping, the PSNR that of the answer clipped to [0, 1], the mean over the images."
    )
    return Table("Denoising of held-out images", ("", *header[1:]), rows, note)
