"""One line on what was compared, for the captions of tables and pictures."""

from __future__ import annotations

import contextlib
import json

from score_embedding import atomic_files
from score_embedding.comparison.spec import Comparison, Job
from score_embedding.config.sections import HeldOut
from score_embedding.errors import RunFolderError
from score_embedding.methods.base import method_of
from score_embedding.runs import folder as run_folder


def describe(comparison: Comparison, done: list[Job]) -> str:
    """Data, network, seeds, samplers or held-out photographs, and machine, in one line."""
    first = next(iter(comparison.configs.values()))
    data, model, training = first.data_loader, first.model, first.training
    h, w = data.image_size
    if data.crops:
        what = "crops"
    else:
        n = (0 if first.held_out else _number_of_images(done)) or data.num_images or 1
        what = f"{n} image{'s' if n > 1 else ''}"
    parts = [
        f"{what} of {h} x {w} x {data.channels} ({', '.join([data.dataset, *(data.image or [])])})",
        *(_held_out(first.held_out, done) if first.held_out else []),
        f"network {model.network}, ch {model.ch}, ch_mult {list(model.ch_mult)}",
        training.precision,
        f"batch {data.batch_size}",
        f"seeds {', '.join(map(str, comparison.seeds))}",
        *([] if first.held_out else _samplers(comparison)),
        *_machines(done),
    ]
    return "; ".join(parts)


def _number_of_images(done: list[Job]) -> int:
    """How many images the first finished run with undamaged samples was trained on; 0 where there
    is none."""
    for job in done:
        with contextlib.suppress(RunFolderError):
            arrays = atomic_files.read_arrays(job.path / run_folder.SAMPLES, "images")
            return len(arrays["images"])
    return 0


def _held_out(options: HeldOut, done: list[Job]) -> list[str]:
    """Which photographs are denoised, their sizes, and the noise levels."""
    names = [*(options.image or []), *(options.path or [])]
    if done:
        arrays = atomic_files.read_arrays(done[0].path / run_folder.DENOISED, "description")
        description = json.loads(str(arrays["description"]))
        names = description["names"]
        sizes = [arrays[f"photograph_{i}"].shape[1:] for i in range(len(names))]
        names = [f"{name} {h} x {w}" for name, (h, w) in zip(names, sizes, strict=True)]
    if options.of_dataset:
        source = "the test part" if options.dataset_part else f"{options.share:g} of the data set"
        count = description["set"]["count"] if done else options.num_images
        names = [f"{count} images of {source}"]
    levels = ", ".join(f"{level:g}" for level in options.levels)
    return [f"held out: {', '.join(names)}", f"noise {levels}"]


def _samplers(comparison: Comparison) -> list[str]:
    """How the methods are sampled from, each sampler once."""
    samplers = (method_of(config).sampler for config in comparison.configs.values())
    return list(dict.fromkeys(samplers))


def _machines(done: list[Job]) -> list[str]:
    """Processor and threads of the runs; times of different ones are not comparable."""
    kinds = set()
    for job in done:
        described = atomic_files.read_json(
            job.path / run_folder.ENVIRONMENT, "processor", "device", "threads"
        )
        threads = f", {described['threads']} thread(s)" if described["device"] == "cpu" else ""
        kinds.add(f"{described['processor']}{threads}")
    if len(kinds) > 1:
        return [f"MIXED machines, times are not comparable: {' / '.join(sorted(kinds))}"]
    return list(kinds)
