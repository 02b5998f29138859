"""Denoising of sets of photographs: `denoise` against tuned training-free rivals, with seconds.

    python benchmarks/image_sets.py camera FOLDER      # an hour for PolyU's 33 pairs, two cores
    python benchmarks/image_sets.py white FOLDER ...   # an hour for McMaster and 34 of BSD68
    python benchmarks/image_sets.py poisson FOLDER     # half an hour for 34 of BSD68
    python benchmarks/image_sets.py tune               # three minutes; prints OpenCV's strengths

`--step N` takes every N-th image and `--crop` the middle 256 x 256 pixels of each, for minutes
instead of hours. Their tables are printed; only full runs are written to results/.

camera : pairs NAME_real.* and NAME_mean.*, a photograph and the mean of many of the same scene, as
    in PolyU's real-world noisy images (Xu et al. 2018, github.com/csjunxu/PolyU-Real-World-Noisy-
    Images-Dataset, CroppedImages). `denoise` estimates the noise. Rivals are given what
    scikit-image's estimate_sigma finds, or 1 or 1.5 times the true root mean square (RMS) of the
    difference of the pair, which no user knows: camera noise is correlated, so that its level alone
    is too little for a method for independent noise. Writes results/camera_noise.md.
white : images without noise, such as McMaster (18 in colour) and BSD68 (68 in grey). Gaussian noise
    of 15, 25 and 50 of 255 is added, not clipped, and its level given; of `denoise` also estimated.
    Writes results/white_noise.md.
poisson : images as counts of a peak of 1, 5 and 30. `denoise` is given the peak, or the kind of
    noise only. Rivals are given the peak, and denoise Anscombe's root, which has an exact unbiased
    inverse (Makitalo and Foi 2011). Writes results/poisson_noise.md.

PSNR and SSIM of the result clipped to [0, 1], means over the images. All denoisers take an image in
turn, within one process, each with all cores. Seconds a megapixel are those of a whole set. The
strengths of rivals were tuned on other images (_rivals.py and restoration/rivals.py); rivals that
are not installed (bm3d, opencv-python-headless) are left out, and the table says so.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.restoration import estimate_sigma
from torch import Tensor

import _rivals
from _common import environment, table, write
from score_embedding.data import image_files
from score_embedding.evaluation import held_out, metrics
from score_embedding.restoration import denoising, models
from score_embedding.restoration.noise import Noise

WHITE = (15, 25, 50)  # of 255
PEAKS = (1, 5, 30)  # counts where the image is white
TIMES_TRUE = (1.0, 1.5)  # the RMS of camera noise that rivals are given, as a multiple of the true
CROP = 256  # pixels
ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """An image and its noisy version, (c, h, w) with white at 1, float32."""

    name: str
    truth: Tensor
    noisy: Tensor

    @property
    def level(self) -> float:
        """The true root mean square of the noise."""
        return float((self.noisy - self.truth).square().mean().sqrt())


@dataclass
class Score:
    """Of one denoiser: a value for each image, and seconds and pixels of all together."""

    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)  # of PSNR over the noisy image
    seconds: float = 0.0
    megapixels: float = 0.0

    def add(self, pair: Pair, answer: Tensor, seconds: float) -> None:
        psnr, ssim = metrics.clipped(answer, pair.truth)
        self.psnr.append(psnr)
        self.ssim.append(ssim)
        self.gain.append(psnr - metrics.clipped(pair.noisy, pair.truth)[0])
        self.seconds += seconds
        self.megapixels += pair.truth[0].numel() / 1e6

    def means(self) -> str:
        return f"{np.mean(self.psnr):.2f} / {np.mean(self.ssim):.3f}"


Denoise = Callable[[Pair], Tensor]


@dataclass(frozen=True)
class Options:
    """Which part of a set is taken: every `step`-th image, all of it or its middle CROP."""

    step: int
    crop: bool

    @property
    def full(self) -> bool:
        return self.step == 1 and not self.crop

    def chosen(self, paths: Iterable[Path]) -> list[Path]:
        found = sorted(path for path in paths if path.suffix.lower() in ENDINGS)
        if not found:
            raise SystemExit("the folder has no images, or for camera none named NAME_real.*")
        return found[:: self.step]

    def read(self, path: Path) -> Tensor:
        pixels = image_files.read(path, log_conversion=False)
        x = image_files.to_channels(pixels, path.name, 1 if pixels.ndim == 2 else 3).float()
        if not self.crop:
            return x
        top, left = (max(0, (size - CROP) // 2) for size in x.shape[1:])
        return x[:, top : top + CROP, left : left + CROP].contiguous()

    def described(self, count: int) -> str:
        cut = f", the middle {CROP} x {CROP} pixels of each" if self.crop else ""
        return f"{count} images{cut}"


def camera(folders: list[Path], options: Options) -> None:
    (folder,) = folders
    paths = options.chosen(folder.glob("*_real.*"))
    denoisers: dict[tuple[str, str], Denoise] = {
        ("noisy", ""): lambda pair: pair.noisy,
        ("`fit`", "estimated"): own("fit"),
        ("`fast`", "estimated"): own("fast"),
    }
    rivals = _rivals.tuned_rivals()
    if "bm3d" in rivals:
        rivals["bm3d"] = _rivals.bm3d
    for name, rival in rivals.items():
        denoisers[name, "estimate_sigma"] = partial(_with_estimated_level, rival)
        for factor in TIMES_TRUE:
            denoisers[name, f"{factor:g} times the true RMS"] = partial(
                _with_true_level, rival, factor
            )

    def pairs() -> Iterator[Pair]:
        for path in paths:
            (mean,) = folder.glob(path.name.replace("_real.", "_mean."))
            yield Pair(path.stem.removesuffix("_real"), options.read(mean), options.read(path))

    machine = environment()
    scores = in_turn(denoisers, pairs())
    rows = [
        {
            "denoiser": name,
            "noise level": how,
            "PSNR / SSIM": score.means(),
            "least gain, dB": f"{min(score.gain):+.2f}",
            "images made worse": sum(gain < 0 for gain in score.gain),
            "s a megapixel": f"{score.seconds / score.megapixels:.2f}",
        }
        for (name, how), score in scores.items()
    ]
    finish("camera_noise", rows, options, options.described(len(paths)), machine)


def white(folders: list[Path], options: Options) -> None:
    machine, rows, sets = environment(), [], []
    for folder in folders:
        paths = options.chosen(folder.iterdir())
        sets.append(f"{folder.name}: {options.described(len(paths))}")
        found = {
            f"noise {level}": in_turn(_of_white(level / 255), _white_pairs(paths, options, level))
            for level in WHITE
        }
        rows += rows_of({"set": folder.name}, found)
    finish("white_noise", rows, options, "; ".join(sets), machine)


def _of_white(level: float) -> dict[tuple[str, str], Denoise]:
    given = {(f"`{model}`", "given"): own(model, sigma=level) for model in ("fit", "fast")}
    estimated = {(f"`{model}`", "estimated"): own(model) for model in ("fit", "fast")}
    rivals = {
        (name, "given"): partial(_with_level, rival, level)
        for name, rival in _rivals.tuned_rivals().items()
    }
    return given | estimated | rivals


def _white_pairs(paths: list[Path], options: Options, level: float) -> Iterator[Pair]:
    for number, path in enumerate(paths):
        truth = options.read(path)
        yield Pair(path.stem, truth, held_out.with_noise(truth, level / 255, number))


def poisson(folders: list[Path], options: Options) -> None:
    (folder,) = folders
    machine, paths = environment(), options.chosen(folder.iterdir())
    found = {
        f"peak {peak}": in_turn(_of_counts(peak), _poisson_pairs(paths, options, peak))
        for peak in PEAKS
    }
    sets = f"{folder.name}: {options.described(len(paths))}"
    finish("poisson_noise", rows_of({}, found), options, sets, machine)


def _of_counts(peak: float) -> dict[tuple[str, str], Denoise]:
    def given(model: str) -> Denoise:
        return lambda pair: own(model, noise=Noise.poisson(1 / peak, 0.0, len(pair.truth)))(pair)

    denoisers = {(f"`{model}`", "given"): given(model) for model in ("fit", "fast")}
    denoisers |= {(f"`{m}`", "estimated"): own(m, noise="poisson") for m in ("fit", "fast")}
    for name, rival in _rivals.tuned_rivals().items():
        denoisers[f"Anscombe, {name}", "given"] = partial(_after_anscombe, rival, peak)
    return denoisers


def _poisson_pairs(paths: list[Path], options: Options, peak: float) -> Iterator[Pair]:
    for number, path in enumerate(paths):
        truth = options.read(path)
        generator = torch.Generator().manual_seed(number)
        yield Pair(path.stem, truth, torch.poisson(peak * truth, generator) / peak)


def own(model: str, **options: Any) -> Denoise:
    """`denoise` of this package as a user calls it, on arrays."""

    def denoised(pair: Pair) -> Tensor:
        pixels = pair.noisy.permute(1, 2, 0).numpy()
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        # With a range given, counts of many times the peak are taken, too.
        answer = denoising.denoise(pixels, model=model, data_range=(0.0, 1.0), **options)
        return torch.from_numpy(np.atleast_3d(answer)).permute(2, 0, 1)

    return denoised


def _with_level(rival: _rivals.Rival, level: float, pair: Pair) -> Tensor:
    return rival(pair.noisy, level)


def _with_true_level(rival: _rivals.Rival, factor: float, pair: Pair) -> Tensor:
    return rival(pair.noisy, factor * pair.level)


def _with_estimated_level(rival: _rivals.Rival, pair: Pair) -> Tensor:
    level = estimate_sigma(pair.noisy.numpy(), channel_axis=0, average_sigmas=True)
    return rival(pair.noisy, float(level)) if level > 0 else pair.noisy


def _after_anscombe(rival: _rivals.Rival, peak: float, pair: Pair) -> Tensor:
    return _rivals.with_anscombe(rival, pair.noisy, peak)


def in_turn(
    denoisers: dict[tuple[str, str], Denoise], pairs: Iterable[Pair]
) -> dict[tuple[str, str], Score]:
    """All denoisers on one image after the other."""
    for channels in (1, 3):
        models.bundled(channels)  # is read once
    scores = {name: Score() for name in denoisers}
    for pair in pairs:
        for name, denoise in denoisers.items():
            started = time.perf_counter()
            answer = denoise(pair)
            scores[name].add(pair, answer, time.perf_counter() - started)
        last = (f"{' '.join(name)} {score.psnr[-1]:.2f}" for name, score in scores.items())
        print(f"{pair.name}: {', '.join(last)}", flush=True)
    return scores


def rows_of(first: Row, found: dict[str, dict[tuple[str, str], Score]]) -> list[Row]:
    """A row for each denoiser, with a column for each setting."""
    rows = []
    for name, how in next(iter(found.values())):
        scores = {setting: of[name, how] for setting, of in found.items()}
        row = {**first, "denoiser": name, "noise": how}
        row |= {f"{setting}: PSNR / SSIM": score.means() for setting, score in scores.items()}
        seconds = sum(score.seconds for score in scores.values())
        megapixels = sum(score.megapixels for score in scores.values())
        rows.append({**row, "s a megapixel": f"{seconds / megapixels:.2f}"})
    return rows


def finish(name: str, rows: list[Row], options: Options, sets: str, machine: Row) -> None:
    """Write the table of a full run; print that of a part."""
    left_out = " and ".join(_rivals.missing())
    described = {"mean over": sets, **({"without": left_out} if left_out else {}), **machine}
    if options.full:
        write(name, rows, described)
    else:
        print(table(name, rows, described))


def tune() -> None:
    for channels in (1, 3):
        for level, best in zip(_rivals.TUNED_ON.levels, _rivals.tuned(channels), strict=True):
            print(f"{channels} channel(s), noise {level:g}: strength {best[0]}, {best[1]:.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {"camera": camera, "white": white, "poisson": poisson, "tune": tune}
    parser.add_argument("part", choices=parts)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--step", type=int, default=1, metavar="N", help="every N-th image")
    parser.add_argument("--crop", action="store_true", help=f"the middle {CROP} x {CROP} pixels")
    given = parser.parse_args()
    if given.part == "tune":
        tune()
        return
    if not given.folders or (given.part != "white" and len(given.folders) > 1):
        parser.error(f"{given.part}: {'a' if given.part == 'white' else 'one'} FOLDER is needed")
    parts[given.part](given.folders, Options(given.step, given.crop))


if __name__ == "__main__":
    main()
