"""Photograph files in, files without noise or with the missing filled in out."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from score_embedding import atomic_files
from score_embedding.data import image_files
from score_embedding.errors import DataError, LimitError, RunFolderError
from score_embedding.report import figures
from score_embedding.restoration import denoising, photograph
from score_embedding.restoration.denoising import Mode
from score_embedding.runs import resources

log = logging.getLogger(__name__)

DENOISED, INPAINTED, BESIDE = "_denoised", "_inpainted", "_before_after.png"
HOLE = [1.0, 0.0, 1.0]  # the colour of what is missing, in the picture
# Memory, at the most: how often a photograph is there at once in float32; channels besides, for a
# run folder's stationary density; bytes besides, for a strip of windows and the fit.
_COPIES = 12
_PLANES = 18
_WORK = 2**28
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
    targets, problems = [], []
    for path in paths:
        try:
            targets.append(_target(path, DENOISED, out))
            _check(path, options)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    _check_free([*targets, *map(_beside, targets)], paths, overwrite)
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
    """The photograph with what is light and not transparent in the mask filled in, under its name
    and INPAINTED; returns the file written, in a format that loses nothing. All other pixels stay
    to the bit; with a mask that is all dark the file is a copy.

    Raises
    ------
    DataError : files that cannot be read, a mask of another size or without a dark pixel.
    RunFolderError, LimitError : as `denoise`.
    """
    target = _target(path, INPAINTED, out)
    found, drawn = (_read(each, model, device) for each in (path, mask))
    missing = (drawn.pixels > drawn.pixels.max() / 2).any(dim=0)  # a mask of 0 and 1 is one, too
    if drawn.alpha is not None:
        missing &= torch.from_numpy(drawn.alpha > 0)
    if not missing.any():
        target = target.with_suffix(path.suffix)
    elif target.suffix.lower() in _LOSSY:
        target = target.with_suffix(".png")
    _check_free([target, _beside(target)], [path, mask], overwrite)
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
        log.info("%s: all dark, nothing is missing", mask)
        _copy(path, target)
    hole = torch.tensor(HOLE if len(x) == 3 else [0.5])[:, None, None]
    hidden = torch.where(missing, hole, found.pixels)
    labels = (f"{path.name}, {100 * share:.1f} % missing", f"filled in, model {model}")
    _picture(hidden, result.cpu(), target, labels)
    return target


def _check(path: Path, options: Options) -> None:
    """Raise DataError where the photograph cannot be denoised as asked."""
    found = _read(path, options.model, options.device)
    try:
        denoising.check_model(options.model, len(found.pixels))
        if options.sigma is None:
            denoising.estimate_sigma(found.pixels)
    except DataError as error:
        raise DataError(f"{path}: {error} (--model NAME, --sigma VALUE)") from None


def _denoise_one(path: Path, target: Path, options: Options, of: str) -> None:
    found = _read(path, options.model, options.device)
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
    if options.sigma is None and path.suffix.lower() in _LOSSY:
        log.info("%s: JPEG hides noise from the estimate; --sigma gives it", path)
    model = denoising.denoiser(options.model, x, sigma, refine=options.mode == "mean")
    result = denoising.clean(x, sigma, model, options.mode).cpu()
    if sigma == 0 and target.suffix == path.suffix:
        _copy(path, target)
    else:
        photograph.write(found, result, target)
    labels = (f"{path.name}, noise {sigma:.3f} ({how})", f"model {options.model}, {options.mode}")
    _picture(found.pixels, result, target, labels)


def _picture(
    before: torch.Tensor, after: torch.Tensor, target: Path, labels: tuple[str, str]
) -> None:
    with atomic_files.replacing(_beside(target)) as partial:
        figures.save(figures.before_after(before.numpy(), after.numpy(), labels), partial)


def _beside(target: Path) -> Path:
    return target.with_name(target.stem + BESIDE)


def _target(path: Path, suffix: str, out: Path | None) -> Path:
    if path.is_dir() or not path.name:
        raise DataError(f"{path}: a folder; photographs are named one by one, PHOTOS/*.png for one")
    target = photograph.output_path(path, suffix)
    return target if out is None else out / target.name


def _check_free(targets: list[Path], given: list[Path], overwrite: bool) -> None:
    places, taken = ([os.path.realpath(path) for path in paths] for paths in (targets, given))
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise DataError(f"{', '.join(twice)}: of two photographs; give them one after the other")
    own = sorted(set(places) & set(taken))
    if own:
        raise DataError(f"{', '.join(own)}: would be written, and is itself given")
    there = [str(target) for target in targets if target.exists()]
    if there and not overwrite:
        raise RunFolderError(
            f"{', '.join(there)}: already there; --overwrite replaces, --out DIR writes elsewhere"
        )
    for folder in {target.parent for target in targets}:
        if not folder.is_dir():
            raise RunFolderError(f"{folder}: no such folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise RunFolderError(
                f"{folder}: no permission to write there; --out DIR does elsewhere"
            )


def _read(path: Path, model: str, device: torch.device) -> photograph.Photograph:
    """The photograph, once its head has told that there is memory for it."""
    with image_files.of_any_size():
        c, h, w = image_files.shape_of(path)
        planes = _COPIES * c + (0 if model in ("fit", "bundled") else _PLANES)
        needed, free = _WORK + 4 * planes * h * w, resources.free_memory(device)
        if needed > free:
            raise LimitError(
                f"{path}: needs about {resources.readable(needed)} of memory ({device}), and "
                f"{resources.readable(free)} are free; a part of the photograph needs less"
            )
        return photograph.read(path)


def _checked(sigma: float) -> None:
    try:
        denoising.checked_sigma(sigma)
    except ValueError as error:
        raise DataError(str(error)) from None


def _copy(path: Path, target: Path) -> None:
    with atomic_files.replacing(target) as partial:
        shutil.copyfile(path, partial)


def _size(found: photograph.Photograph) -> str:
    c, h, w = found.pixels.shape
    alpha = ", with alpha" if found.alpha is not None else ""
    return f"{w} x {h} pixels, {'colour' if c == 3 else 'grey'}{alpha}, {found.depth} bit"
