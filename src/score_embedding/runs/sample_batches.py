"""Finished batches of samples on disk, so that drawing many of them can be interrupted and resumed.

A batch is always of the same images of the same size, whatever the number of samples: those that
are there are what an uninterrupted call would have drawn.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from score_embedding import atomic_files
from score_embedding.errors import RunFolderError
from score_embedding.methods.model import TrainedModel
from score_embedding.methods.samplers import Samples
from score_embedding.runs import environment
from score_embedding.runs import folder as run_folder

log = logging.getLogger(__name__)

FOLDER = "samples_batches"  # in the folder of the samples, until all of them are drawn
_ABOUT = "about.json"


@dataclass(frozen=True)
class SampleBatches:
    """The batches of the samples from one prior, in a folder of finished batches."""

    folder: Path
    device: torch.device
    prior: str

    def read(self, first: int, last: int) -> Samples | None:
        """The samples first to last - 1; None where they are not there, or damaged."""
        try:
            arrays = atomic_files.read_arrays(self._path(first), "x", "path", "path_times", "nfe")
        except RunFolderError:
            return None
        if len(arrays["x"]) != last - first:  # the last batch of fewer samples
            return None
        x, path, times = (torch.from_numpy(arrays[name]) for name in ("x", "path", "path_times"))
        return Samples(x.to(self.device), path.to(self.device), times, int(arrays["nfe"]))

    def write(self, first: int, part: Samples) -> None:
        """Keep the samples of a batch."""
        arrays = {
            "x": part.x.cpu().numpy(),
            "path": part.path.cpu().numpy() if first == 0 else part.path[:, :0].cpu().numpy(),
            "path_times": part.path_times.cpu().numpy(),
            "nfe": torch.tensor(part.nfe).numpy(),
        }
        atomic_files.write_arrays(self._path(first), arrays)

    def _path(self, first: int) -> Path:
        return self.folder / f"{self.prior or 'samples'}_{first}.npz"


def kept_in(
    target: Path, source: Path, model: TrainedModel, images: Tensor, overwrite: bool
) -> Path:
    """The folder, in `target`, for the batches of samples that a model of the run folder `source`
    draws for images (n, c, h, w). Raises RunFolderError where batches of
    other samples are there, which `overwrite` removes."""
    folder, about = target / FOLDER, {"sha256": _digest(source, model, images)}
    if (folder / _ABOUT).is_file():
        if atomic_files.read_json(folder / _ABOUT) == about:
            log.info("%s: sampling continues with the batches that are there", folder)
            return folder
        if not overwrite:
            raise RunFolderError(
                f"{folder}: finished batches of other samples, of an interrupted call with another "
                f"seed, options or model; repeat that call to finish them, give --overwrite to "
                f"remove them, or another --out"
            )
        log.info("%s: batches of other samples, removed", folder)
        remove(target)
    folder.mkdir(exist_ok=True)
    atomic_files.write_json(folder / _ABOUT, about)
    return folder


def remove(target: Path) -> None:
    """Remove the batches in `target`, and nothing else."""
    folder = target / FOLDER
    for file in (*folder.glob("*_*.npz"), *folder.glob(f".*{atomic_files.PARTIAL}")):
        file.unlink()
    (folder / _ABOUT).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or with files of others
        folder.rmdir()


def _digest(source: Path, model: TrainedModel, images: Tensor) -> str:
    """Of all that the samples depend on but their number."""
    config = model.config.model_dump(mode="json")
    del config["sample"]["count"]
    files = [run_folder.WEIGHTS] if model.method.trained else []
    files += model.method.kind.files
    values = {
        "config": config,
        "device": str(images.device),
        "images": environment.digest(images),
        **{name: atomic_files.sha256_of(source / name) for name in files},
    }
    return atomic_files.digest_of(values)
