"""Denoising and inpainting of photograph files: what the commands denoise and inpaint do."""

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
from score_embedding.restoration import denoising, inpainting, models, noise, photograph
from score_embedding.restoration.denoising import Mode
from score_embedding.restoration.models import Denoiser
from score_embedding.runs import folder as run_folder
from score_embedding.runs import resources

log = logging.getLogger(__name__)

DENOISED, INPAINTED, BEFORE_AFTER = "_denoised", "_inpainted", "_before_after.png"
HOLE_COLOUR = [1.0, 0.0, 1.0]  # of missing pixels in the before/after picture
# Upper bounds of the memory that a photograph takes:
_COPIES = 12  # of it in float32 at the same time
_PLANES = 18  # channels in addition, for the stationary density of a run folder
_WORK = 2**28  # bytes in addition, for a strip of windows and the fit
_LOSSY = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Options:
    """How to denoise: sigma (None: estimated), model, mode and device as in denoising.denoise."""

    sigma: float | None
    model: str
    mode: Mode
    device: torch.device


def denoise(
    paths: list[Path], options: Options, out: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Denoise each photograph into a file of its name with DENOISED appended, beside it or in the
    folder `out`, and draw a picture of before and after; returns the denoised files.

    Nothing is written, nor `out` created, before all photographs have been checked. A picture that
    cannot be drawn is logged as a warning: it never costs the result.

    Raises
    ------
    DataError : files that cannot be read, all of them named; a sigma or model that cannot be.
    RunFolderError : a file that exists already, without `overwrite`; a place without permission.
    LimitError : a photograph that does not fit into memory.
    """
    if options.sigma is not None:
        _check_sigma(options.sigma)
    model = models.resolve(options.model, options.device)
    targets, problems = [], []
    for path in paths:
        try:
            targets.append(_target(path, DENOISED, out))
            _check(path, options, model)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError("\n".join(problems))
    _check_free([*targets, *map(_before_after, targets)], paths, overwrite)
    _prepare(targets, model)
    for number, (path, target) in enumerate(zip(paths, targets, strict=True), start=1):
        position = f" ({number} of {len(paths)})" if len(paths) > 1 else ""
        _denoise_one(path, target, options, model, position)
    return targets


def inpaint(
    path: Path,
    mask: Path,
    model: str,
    device: torch.device,
    out: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Fill in the pixels of a photograph where the mask is light and not transparent, into a file
    of its name with INPAINTED appended, in a lossless format; returns that file. All other pixels
    stay bit for bit; with a mask that is dark everywhere the file is a copy.

    Raises
    ------
    DataError : files that cannot be read, a mask of another size or without a dark pixel.
    RunFolderError, LimitError : as in `denoise`.
    """
    target = _target(path, INPAINTED, out)
    known = models.resolve(model, device)
    found, drawn = (_read(each, model, device) for each in (path, mask))
    known.check_channels(len(found.pixels))
    missing = (drawn.pixels > drawn.pixels.max() / 2).any(dim=0)  # so that 0 and 1 are a mask, too
    if drawn.alpha is not None:
        missing &= torch.from_numpy(drawn.alpha > 0)
    if not missing.any():
        target = target.with_suffix(path.suffix)
    elif target.suffix.lower() in _LOSSY:
        target = target.with_suffix(".png")
    _check_free([target, _before_after(target)], [path, mask], overwrite)
    x = found.pixels.to(device)
    share = float(missing.float().mean())
    log.info("%s: %s, %.1f %% of it missing; model %s", path, _size(found), 100 * share, model)
    try:
        result = inpainting.filled(x, missing.to(device), model, known)
    except ValueError as error:
        raise DataError(f"{mask}: {error}") from None
    _prepare([target], known)
    if missing.any():
        photograph.write(found, result.cpu(), target)
    else:
        log.info("%s: all dark, nothing is missing", mask)
        _copy(path, target)
    colour = HOLE_COLOUR if len(x) == 3 else [0.5]
    hole = torch.tensor(colour, dtype=torch.float32, device="cpu")[:, None, None]
    hidden = torch.where(missing, hole, found.pixels)
    labels = (f"{path.name}, {100 * share:.1f} % missing", f"filled in, model {model}")
    _draw(hidden, result.cpu(), target, labels)
    return target


def _check(path: Path, options: Options, model: Denoiser) -> None:
    """Raise DataError where the photograph cannot be denoised with these options."""
    found = _read(path, options.model, options.device)
    try:
        model.check_channels(len(found.pixels))
        if options.sigma is None:
            noise.estimate_sigma(found.pixels)
    except DataError as error:
        raise DataError(f"{path}: {error} (--model NAME, --sigma VALUE)") from None


def _denoise_one(
    path: Path, target: Path, options: Options, model: Denoiser, position: str
) -> None:
    found = _read(path, options.model, options.device)
    x = found.pixels.to(options.device)
    sigma = noise.noise_level(options.sigma, x)
    how = "estimated" if options.sigma is None else "given"
    log.info(
        "%s%s: %s; noise %.4f (%.1f of 255), %s, taken as Gaussian; model %s",
        path,
        position,
        _size(found),
        sigma,
        255 * sigma,
        how,
        options.model,
    )
    if options.sigma is None and path.suffix.lower() in _LOSSY:
        log.info("%s: JPEG lowers the estimate of the noise; --sigma sets it", path)
    estimate = model.estimate(x, sigma, options.mode == "mean")
    result = denoising.clean(x, sigma, estimate, options.mode).cpu()
    if sigma == 0 and target.suffix == path.suffix:
        _copy(path, target)
    else:
        photograph.write(found, result, target)
    labels = (f"{path.name}, noise {sigma:.3f} ({how})", f"model {options.model}, {options.mode}")
    _draw(found.pixels, result, target, labels)


def _prepare(targets: list[Path], model: Denoiser) -> None:
    """Before the first file is written: the folder to write into, and a word on the model."""
    for folder in {target.parent for target in targets}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{folder}: cannot be created ({error.strerror})") from None
    if model.caution:
        log.warning("warning: %s", model.caution)


def _draw(before: torch.Tensor, after: torch.Tensor, target: Path, labels: tuple[str, str]) -> None:
    """The before/after picture of a result that is written already."""
    place = _before_after(target)
    try:
        # Here, since an MPLBACKEND that matplotlib does not know makes its import fail.
        from score_embedding.report import figures

        shown = (_printable(labels[0]), _printable(labels[1]))
        with atomic_files.replacing(place) as partial:
            figures.save(figures.before_after(before.numpy(), after.numpy(), shown), partial)
    except Exception as error:
        log.warning("warning: %s: the before/after picture could not be drawn (%s)", place, error)


def _printable(text: str) -> str:
    """Text that may hold bytes of a file name that are not UTF-8, for a figure."""
    return os.fsencode(text).decode("utf-8", "replace")


def _before_after(target: Path) -> Path:
    return target.with_name(target.stem + BEFORE_AFTER)


def _target(path: Path, suffix: str, out: Path | None) -> Path:
    if path.is_dir() or not path.name:
        raise DataError(f"{path}: a folder; name the photographs in it, such as {path}/*.png")
    target = photograph.output_path(path, suffix)
    return target if out is None else out / target.name


def _check_free(targets: list[Path], given: list[Path], overwrite: bool) -> None:
    """Raise DataError or RunFolderError where a target may not be written."""
    places, taken = ([os.path.realpath(path) for path in paths] for paths in (targets, given))
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise DataError(f"{', '.join(twice)}: of two photographs; give them one after the other")
    own = sorted(set(places) & set(taken))
    if own:
        raise DataError(f"{', '.join(own)}: would be written, and is itself given")
    existing = [str(target) for target in targets if target.exists()]
    if existing and not overwrite:
        raise RunFolderError(
            f"{', '.join(existing)}: already there; --overwrite replaces, --out DIR writes "
            f"elsewhere"
        )
    for folder in {target.parent for target in targets}:
        run_folder.check_place(folder)


def _read(path: Path, model: str, device: torch.device) -> photograph.Photograph:
    """The photograph, if by its header there is memory for it."""
    with image_files.of_any_size():
        c, h, w = photograph.shape_of(path)
        planes = _COPIES * c + (0 if model in (models.FIT, models.BUNDLED) else _PLANES)
        needed, free = _WORK + 4 * planes * h * w, resources.free_memory(device)
        if needed > free:
            raise LimitError(
                f"{path}: needs about {resources.readable(needed)} of memory ({device}), and "
                f"{resources.readable(free)} are free; a part of the photograph needs less"
            )
        return photograph.read(path)


def _check_sigma(sigma: float) -> None:
    try:
        noise.checked_sigma(sigma)
    except ValueError as error:
        raise DataError(str(error)) from None


def _copy(path: Path, target: Path) -> None:
    with atomic_files.replacing(target) as partial:
        shutil.copyfile(path, partial)


def _size(found: photograph.Photograph) -> str:
    c, h, w = found.pixels.shape
    alpha = ", with alpha" if found.alpha is not None else ""
    return f"{w} x {h} pixels, {'colour' if c == 3 else 'grey'}{alpha}, {found.depth} bit"
