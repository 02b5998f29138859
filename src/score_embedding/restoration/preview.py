"""A picture of one detail of a photograph at several strengths, from which to choose --strength.

Only the detail is denoised; the noise is estimated from the whole photograph. A model that adapts
to the image adapts to the detail here, so that the result in full may differ slightly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from score_embedding import atomic_files, progress
from score_embedding.errors import DivergenceError
from score_embedding.restoration import before_after, denoising, file_pages
from score_embedding.restoration.denoising_batch import Batch, Job, Options
from score_embedding.restoration.models import Denoiser
from score_embedding.restoration.noise import Noise
from score_embedding.restoration.photographs.photograph import Mask
from score_embedding.restoration.photographs.scale import Scale

if TYPE_CHECKING:
    from score_embedding.report.preview_figure import Curve

log = logging.getLogger(__name__)

STRENGTHS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0)
SIDE = 160  # pixels along the detail
MARGIN = 16  # pixels around it that are denoised too: at its edges a model sees less
TILE = 16  # pixels along the tiles whose contrast is compared
STEP = 2  # tiles between the windows among which the detail is chosen
DARK = 0.06  # brightness within which of black and white noise may be cut off
ENOUGH = 0.08  # standard deviation of texture from which more shows no more of denoising
CENTRE = 0.02  # what the distance from the centre to a corner counts, as such a deviation


def preview(
    paths: Sequence[Path],
    options: Options,
    out: Path | None = None,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> Iterator[Path]:
    """For each photograph, and those in each folder, a picture of one detail of its first page at
    several strengths and of its noise curve, under the name of the result of `denoise` with
    places.PREVIEW appended; gives each file when it is written.

    Errors as of `denoise`, also where a picture cannot be written: it is the result here.
    """
    batch = Batch.checked(paths, options, out, skip_existing, preview=True)
    batch.claim((job.target for job in batch.jobs), overwrite)
    with progress.stage("preview", total=len(STRENGTHS) * len(batch.jobs), least=2) as stage:
        for job in batch.jobs:
            with batch.guarded(job):
                _draw(job, options, batch, stage)
                batch.done += 1
                yield job.target
    if batch.done:
        log.info(
            "choose a strength in the picture, and denoise with --strength S without --preview"
        )
    batch.end()


def strengths(now: float) -> tuple[float, ...]:
    """STRENGTHS with `now` among them, in the place of the nearest other than 0 and 1."""
    if now in STRENGTHS:
        return STRENGTHS
    nearest = min((s for s in STRENGTHS if s not in (0, 1)), key=lambda s: abs(s - now))
    return tuple(sorted(now if s == nearest else s for s in STRENGTHS))


def detail(x: Tensor, known: Mask | None = None) -> tuple[slice, slice]:
    """The rows and columns of an image x (c, h, w) that show best what denoising does: SIDE pixels
    along each, or as many as there are, with texture in some places and little in others, neither
    black nor white, made of `known` (h, w) pixels and not far from the centre."""
    size = [min(SIDE, length) for length in x.shape[1:]]
    if size == list(x.shape[1:]):
        return slice(0, size[0]), slice(0, size[1])
    grey = x.mean(dim=0)[None]
    tile = [min(TILE, length) for length in size]
    mean = avg_pool2d(grey, tile)
    deviation = (avg_pool2d(grey.square(), tile) - mean.square()).clamp_min(0).sqrt()
    usable = ((mean > DARK) & (mean < 1 - DARK)).float()
    if known is not None:
        usable *= avg_pool2d(torch.from_numpy(known)[None].to(x), tile)
    across = [length // own for length, own in zip(size, tile, strict=True)]

    def windows(values: Tensor) -> Tensor:
        found = values[0].unfold(0, across[0], STEP).unfold(1, across[1], STEP)
        return found.flatten(2)  # (windows down, windows across, tiles of one)

    quiet, busy = windows(deviation).quantile(torch.tensor([0.2, 0.8]).to(x), dim=2)
    score = (busy - quiet).clamp_max(ENOUGH) - quiet - (1 - windows(usable).mean(dim=2))
    down, right = (torch.linspace(-1, 1, n).to(x) if n > 1 else x.new_zeros(1) for n in score.shape)
    score -= CENTRE * (down[:, None] ** 2 + right**2).sqrt() / 2**0.5
    best = divmod(int(score.argmax()), score.shape[1])
    first = [STEP * place * own for place, own in zip(best, tile, strict=True)]
    rows, columns = (slice(low, low + n) for low, n in zip(first, size, strict=True))
    return rows, columns


def _draw(job: Job, options: Options, batch: Batch, stage: progress.Stage) -> None:
    path = job.given.path
    with file_pages.opened(path) as source:
        found = file_pages.read(source, job.pages[0], options.model, options.device)
        page = file_pages.suffix(source, options.page).replace("_", ", ")
    known, part = options.noise.known(found), found.parts[0]
    x, scale = found.unit(part, known), found.scale(part, known)
    noise = options.noise.of(x, scale)
    log.info(
        "%s%s: %s; noise %s; model %s; only a detail is denoised",
        path,
        batch.position(job),
        file_pages.size(found),
        replace(options.noise, strength=1.0).described(noise, scale),
        options.model,
    )
    # Here, since an MPLBACKEND that matplotlib does not know makes its import fail.
    from score_embedding.report import figures, preview_figure

    place = detail(x, known)
    panels = []
    for strength in strengths(options.noise.strength):
        shown = _denoised(x, place, noise.times(strength), options, batch.model)
        if shown.isnan().any():
            raise DivergenceError(f"{path}: not drawn, the result holds pixels that are NaN")
        now = strength == options.noise.strength
        title = f"strength {strength:g}{', unchanged' if strength == 0 else ''}"
        title += ", as --strength is now" if now else ""
        panels.append(preview_figure.Panel(shown.numpy(), title, now))
        stage.update()
    name = f"{before_after.printable(path.name)}{page}"
    heading = f"{name}: a detail at several strengths (model {options.model}, {options.mode})"
    whole = preview_figure.Whole(x.numpy(), *place)
    curve = _curve(noise, scale, options)
    with atomic_files.replacing(job.target) as partial:
        figures.save(preview_figure.preview(heading, panels, whole, curve), partial)


def _denoised(
    x: Tensor, place: tuple[slice, slice], noise: Noise, options: Options, model: Denoiser
) -> Tensor:
    """The detail of x at this place, denoised with MARGIN pixels around it."""
    wide = [slice(max(0, own.start - MARGIN), own.stop + MARGIN) for own in place]
    if noise.scale is not None:
        noise = replace(noise, scale=noise.scale[wide[0], wide[1]])
    inside = [
        slice(own.start - around.start, own.stop - around.start)
        for own, around in zip(place, wide, strict=True)
    ]
    around = x[:, wide[0], wide[1]].to(options.device)
    return denoising.clean(around, noise, model, options.mode)[:, inside[0], inside[1]].cpu()


def _curve(noise: Noise, scale: Scale, options: Options) -> Curve:
    from score_embedding.report import preview_figure

    brightness = np.linspace(0, 1, 256)
    axis = "brightness (black is 0, white 255)"
    if (scale.low, scale.high) != (0, scale.white):
        axis = f"brightness (0 is {scale.low:.4g} in the file, 255 is {scale.high:.4g})"
    if noise.level == 0:
        words = f"no noise is {'found' if options.noise.sigma is None else 'given'}"
        words += ": the photograph stays unchanged at any strength"
    else:
        words = f"noise, {options.noise.source}: {noise.described()}"
    deviations = 255 * noise.at(np.tile(brightness, (noise.channels, 1)))
    return preview_figure.Curve(255 * brightness, deviations, words, axis)
