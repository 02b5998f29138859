"""The commands on one run: run, solve, sample, report, configs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from score_embedding import kinds
from score_embedding.cli.options import Device, Overrides, Overwrite, Seed
from score_embedding.errors import ConfigError

if TYPE_CHECKING:
    from score_embedding.config.schema import AnyConfig

log = logging.getLogger(__name__)


def run(
    config: Annotated[str, typer.Option(help="A bundled name (see configs) or a YAML file.")],
    no_train: Annotated[
        bool, typer.Option("--no-train", help="Sample and report from the trained model.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Evaluate every misc.profile_freq training seconds.")
    ] = False,
    seed: Seed = None,
    folder_ext: Annotated[
        str | None, typer.Option(metavar="X", help="Add _X to the folder's name.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders are made.")] = Path("saves"),
    device: Device = "auto",
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was interrupted.")
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Train by the config's method, sample, and write a run folder with a report.

    Score embedding pre-computes the score and embeds it first; a config with sample_method ddpm or
    ddim trains a baseline, closed_form needs no training.
    """
    from score_embedding.config import loading
    from score_embedding.runs import folder as run_folder

    changes = list(overrides or [])
    if seed is not None:
        changes.append(f"training.seed={seed}")
    settings = loading.load(config, changes)
    _warn_of_unread(settings, overrides or [])
    path = run_folder.path_of(out, settings, seed is not None, folder_ext)
    if no_train + overwrite + resume > 1:
        raise ConfigError("--no-train, --overwrite and --resume: only one of them can be given")
    if no_train:  # all three before the heavy imports
        run_folder.check_same(path, settings)
    elif resume:
        run_folder.check_resumable(path, settings)
    else:
        run_folder.check_free(path, settings, overwrite)

    from score_embedding import pipeline
    from score_embedding.runs import environment

    selected = environment.select_device(device)
    if no_train:
        pipeline.sample_again(
            path, selected, settings.sample, settings.training.seed, overwrite=True
        )
    else:
        pipeline.run(settings, path, selected, profile, overwrite, resume)
    typer.echo(f"report: {path / run_folder.HTML} and {run_folder.PDF} beside it")


def _warn_of_unread(settings: AnyConfig, overrides: list[str]) -> None:
    """A line for each key of --set that has no effect in this config."""
    from score_embedding.config import unread

    for key in dict.fromkeys(override.partition("=")[0].strip() for override in overrides):
        if reason := unread.why_unread(settings, key):
            log.warning("warning: --set %s has no effect: %s", key, reason)


def solve(
    images: Annotated[list[Path], typer.Argument(help="Image files or folders of them.")],
    size: Annotated[int, typer.Option(help="Height and width to resize to.")] = 32,
    scheme: Annotated[
        str | None, typer.Option(help=f"{', '.join(kinds.SCHEMES)}; default spectral.")
    ] = None,
    boundary: Annotated[
        str | None, typer.Option(help="Beyond the edge: reflect (default), or zero.")
    ] = None,
    drift: Annotated[
        str | None,
        typer.Option(metavar="RATE", help="f = -RATE x on the grid, x from its middle; default 0."),
    ] = None,
    num_timesteps: Annotated[
        str | None,
        typer.Option("--num-timesteps", "-N", metavar="N", help="Times from eps to 1; default 20."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the result.")] = Path("saves/solve"),
    device: Device = "auto",
    overwrite: Overwrite = False,
    overrides: Overrides = None,
) -> None:
    """Only the pre-computation: log-density and score over time of one image or many.

    Writes scores.npz, scores.png and diagnostics.json. All parameters are those of a config's
    diffusion section: --set diffusion.sigma=2, for one. Of more images than fit into memory the
    scores go to scores.npy, which numpy.load(..., mmap_mode="r") opens.
    """
    from score_embedding.config import loading
    from score_embedding.runs import folder as run_folder

    given = {
        "scheme": scheme,
        "boundary": boundary,
        "drift": drift,
        "num_timesteps": num_timesteps,
    }
    changes = [f"diffusion.{key}={value}" for key, value in given.items() if value is not None]
    changes += overrides or []
    settings = loading.for_images([str(path) for path in images], size, changes)
    run_folder.check_place(out)
    run_folder.check_no_run(out)
    run_folder.check_not_there(run_folder.RunFolder(out), run_folder.SCORES, overwrite)

    from score_embedding import pipeline
    from score_embedding.runs import environment

    pipeline.solve(settings, out, environment.select_device(device), overwrite)
    everything = out / run_folder.ALL_SCORES
    if everything.exists():
        typer.echo(f"scores of all images: {everything}; those of the first in {out}")
    else:
        typer.echo(
            f"scores: {out / run_folder.SCORES}, with {run_folder.SCORES_PICTURE} and "
            f"{run_folder.DIAGNOSTICS} beside it"
        )


def sample(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER")],
    number: Annotated[
        int | None,
        typer.Option(
            "--number",
            "-n",
            min=1,
            max=10**12,
            help="How many samples; default sample.count, else one for each training image.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to write the samples into; default RUN_FOLDER."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Classes of the samples, in turn, or all; of a model that knows classes.",
        ),
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    overrides: Overrides = None,
) -> None:
    """Draw new samples from a trained model.

    They are written into the folder DIR, or with --overwrite into the run folder, whose report is
    then made anew. Everything else comes from the run folder; --set sample.prior=matched, for
    example, changes how to sample.
    """
    from score_embedding.config import loading
    from score_embedding.runs import folder as run_folder

    changes = list(overrides or [])
    stray = [change for change in changes if not change.startswith("sample.")]
    if stray:
        raise ConfigError(f"--set {stray[0]}: only keys of the sample section can change here")
    if classes is not None:
        changes.append(f"sample.classes=[{classes}]")
    if seed is not None:
        changes.append(f"training.seed={seed}")
    run_folder.open_existing(folder)
    settings = loading.load(str(folder / run_folder.CONFIG), changes)
    what, beside = run_folder.SAMPLES, run_folder.SAMPLE_PICTURE
    if not settings.draws_samples:
        what, beside = run_folder.DENOISED, run_folder.DENOISED_PICTURE
        if number is not None:
            raise ConfigError(
                "--number: this run denoises photographs and draws no samples (sample.count)"
            )
    _warn_of_unread(settings, overrides or [])
    target = run_folder.RunFolder(out or folder)
    run_folder.check_not_there(target, what, overwrite)

    from score_embedding import pipeline
    from score_embedding.runs import environment

    selected = environment.select_device(device)
    pipeline.sample_again(
        folder, selected, settings.sample, settings.training.seed, number, out, overwrite
    )
    typer.echo(f"{what.split('.')[0]}: {target / what} and {beside} beside it")


def report(folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER")]) -> None:
    """Make report.pdf and report.html of a run folder anew."""
    from score_embedding.report import render as reports
    from score_embedding.runs import folder as run_folder

    reports.write(run_folder.RunFolder(folder))
    typer.echo(f"report: {folder / run_folder.HTML} and {run_folder.PDF} beside it")


def fid(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER")],
    weights: Annotated[
        Path, typer.Option(help="TorchScript file of the feature network; none is shipped.")
    ],
    device: Device = "auto",
) -> None:
    """Fréchet inception distance of a run's samples; refused below 2048 images."""
    from score_embedding.evaluation import frechet
    from score_embedding.runs import artifacts, environment

    samples, images = artifacts.read_samples(folder)
    selected = environment.select_device(device)
    value = frechet.between(samples, images, weights, selected, str(folder))
    typer.echo(f"FID {value:.3f} ({weights.name})")


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER")],
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Network of the features: a classifier of benchmarks/train_features.py or a "
            "TorchScript file; default the package's classifier of the data set.",
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a run on a data set: quality of its samples, error of its denoiser.

    Fréchet distance, precision, recall and memorised share of the samples in the run folder, and
    the error at each noise level on the test part of the data set. Writes quality.json.
    """
    from score_embedding.runs import environment, quality
    from score_embedding.runs import folder as run_folder

    values = quality.evaluate(folder, features, environment.select_device(device))
    typer.echo("\n".join(quality.lines(values)))
    typer.echo(f"quality: {folder / run_folder.QUALITY}")


def configs() -> None:
    """List the bundled configs, and the sweeps of `compare`."""
    from score_embedding.config import loading

    for name, path in (loading.bundled() | loading.bundled_sweeps()).items():
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        typer.echo(f"{name:<30}{title}")
