"""Photograph files in, files without noise or with the missing filled in out."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from score_embedding import denoising, figures, files, limits, photograph
from score_embedding.denoising import Mode
from score_embedding.errors import DataError, RunFolderError
from score_embedding.limits import Need

log = logging.getLogger(__name__)

DENOISED, INPAINTED, BESIDE = "_denoised", "_inpainted", "_before_after.png"
_COPIES = 8  # of a photograph in float32 that are in memory at once, at the most
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Options:
    """How to denoise: sigma (None: estimated), model and mode as of denoising.denoise."""

    sigma: float | None
    model: str
    mode: Mode
    device: torch.device


def denoise(
    paths: list[Path], options: Options, out: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Each photograph without its noise, beside it or in the folder `out`, under its name and
    DENOISED, with a picture of before and after; returns the files written.

    Nothing is written before all of them were found good.

    Raises
    ------
    DataError : files that cannot be read, all of them named; a sigma or model that cannot be.
    RunFolderError : a file that is there already, without `overwrite`.
    LimitError : a photograph that does not fit into memory.
    """
    if options.sigma is not None:
        _checked(options.sigma)
    targets = [_target(path, DENOISED, out) for path in paths]
    _check_free([*targets, *map(_beside, targets)], overwrite)
    problems = []
    for path in paths:
        try:
            found = photograph.read(path)
            _check_fits(path, found.pixels.numel(), options.device)
            if options.sigma is None:
                denoising.estimate_sigma(found.pixels)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    for number, (path, target) in enumerate(zip(paths, targets, strict=True), start=1):
        of = f" ({number} of {len(paths)})" if len(paths) > 1 else ""
        _denoise_one(path, target, options, of)
    return targets


def inpaint(
    path: Path,
    mask: Path,
    model: str,
    device: torch.device,
    out: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """The photograph with what is not black in the mask filled in, under its name and INPAINTED;
    returns the file written, in a format that loses nothing. All other pixels stay to the bit; with
    a mask that is all black the file is a copy.

    Raises
    ------
    DataError : files that cannot be read, a mask of another size or without a black pixel.
    RunFolderError, LimitError : as `denoise`.
    """
    target = _target(path, INPAINTED, out)
    found, drawn = photograph.read(path), photograph.read(mask)
    missing = (drawn.pixels > 0).any(dim=0)
    if not missing.any():
        target = target.with_suffix(path.suffix)
    elif target.suffix.lower() in _LOSSY:
        target = target.with_suffix(".png")
    _check_free([target, _beside(target)], overwrite)
    _check_fits(path, found.pixels.numel(), device)
    x = found.pixels.to(device)
    share = float(missing.float().mean())
    log.info("%s: %s, %.1f %% of it missing; model %s", path, _size(found), 100 * share, model)
    try:
        known = denoising.denoiser(model, x, denoising.LEAST)
        result = denoising.filled(x, missing.to(device), known)
    except ValueError as error:
        raise DataError(f"{mask}: {error}") from None
    if missing.any():
        photograph.write(found, result.cpu(), target)
    else:
        log.info("%s: all black, nothing is missing", mask)
        _copy(path, target)
    hidden = torch.where(missing, torch.tensor(0.5), found.pixels)
    _picture(hidden, result.cpu(), target, ("missing", "filled in"))
    return target


def _denoise_one(path: Path, target: Path, options: Options, of: str) -> None:
    found = photograph.read(path)
    x = found.pixels.to(options.device)
    sigma = denoising.estimate_sigma(x) if options.sigma is None else options.sigma
    how = "estimated" if options.sigma is None else "given"
    log.info(
        "%s%s: %s; noise %.4f (%.1f of 255), %s, taken as Gaussian; model %s",
        path,
        of,
        _size(found),
        sigma,
        255 * sigma,
        how,
        options.model,
    )
    try:
        model = denoising.denoiser(options.model, x, sigma)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    result = denoising.clean(x, sigma, model, options.mode).cpu()
    if sigma == 0:
        _copy(path, target)
    else:
        photograph.write(found, result, target)
    labels = (f"{path.name}, noise {sigma:.3f} ({how})", f"model {options.model}, {options.mode}")
    _picture(found.pixels, result, target, labels)


def _picture(
    before: torch.Tensor, after: torch.Tensor, target: Path, labels: tuple[str, str]
) -> None:
    with files.replacing(_beside(target)) as partial:
        figures.save(figures.before_after(before.numpy(), after.numpy(), labels), partial)


def _beside(target: Path) -> Path:
    return target.with_name(target.stem + BESIDE)


def _target(path: Path, suffix: str, out: Path | None) -> Path:
    target = photograph.output_path(path, suffix)
    return target if out is None else out / target.name


def _check_free(targets: list[Path], overwrite: bool) -> None:
    twice = sorted({str(target) for target in targets if targets.count(target) > 1})
    if twice:
        raise DataError(f"{', '.join(twice)}: two photographs would be written to it")
    there = [str(target) for target in targets if target.exists()]
    if there and not overwrite:
        raise RunFolderError(
            f"{', '.join(there)}: already there; --overwrite replaces, --out DIR writes elsewhere"
        )
    for folder in {target.parent for target in targets}:
        if not folder.is_dir():
            raise RunFolderError(f"{folder}: no such folder")


def _check_fits(path: Path, values: int, device: torch.device) -> None:
    need = Need({"copies of the photograph": 4 * _COPIES * values}, {})
    limits.check_fits(str(path), need, device, path.parent)


def _checked(sigma: float) -> None:
    try:
        denoising.checked_sigma(sigma)
    except ValueError as error:
        raise DataError(str(error)) from None


def _copy(path: Path, target: Path) -> None:
    with files.replacing(target) as partial:
        shutil.copyfile(path, partial)


def _size(found: photograph.Photograph) -> str:
    c, h, w = found.pixels.shape
    alpha = ", with alpha" if found.alpha is not None else ""
    return f"{w} x {h} pixels, {'colour' if c == 3 else 'grey'}{alpha}, {found.depth} bit"
