"""The memory and disk that a run needs, estimated before it starts.

The network is evaluated once without values (torch's meta device), which counts the bytes that are
alive at once; the rest is arithmetic on shapes. benchmarks/limits.py compares the estimates with
what runs used.
"""

from __future__ import annotations

import functools
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from score_embedding.config.schema import AnyConfig, Config
from score_embedding.config.sections import Model
from score_embedding.errors import ConfigError, LimitError
from score_embedding.methods import precomputation, samplers, tiles
from score_embedding.methods.base import method_of
from score_embedding.methods.network import create

WORK_SPACE = 1.5  # peak memory of a network over its live tensors: the convolutions' own
REPORTS = 8 * 2**20  # bytes of pictures and reports
_FLOAT = 4  # bytes
_REMEDY = (
    "fewer or smaller images or times (num_timesteps), a smaller data_loader.batch_size or "
    "model.ch need less"
)


@dataclass(frozen=True)
class Need:
    """Bytes of memory on the device, at the peak, and of disk, by what takes them."""

    memory: dict[str, int]
    disk: dict[str, int]


@dataclass(frozen=True)
class Cost:
    """Of a network: its parameters; the live bytes of a step of training, and of one evaluation of
    all images that are sampled at once."""

    parameters: int
    step_bytes: int
    evaluation_bytes: int


def check(config: AnyConfig, num_images: int, device: torch.device, path: Path) -> None:
    """Refuse a run that cannot fit.

    Raises
    ------
    LimitError : the run needs more memory or disk than is free; the figures are in it.
    ConfigError : the images are too small for the network.
    """
    check_fits(config.name, need(config, num_images), device, path)


def check_sampling(
    config: AnyConfig, num_images: int, count: int | None, device: torch.device, path: Path
) -> None:
    """Refuse `count` samples of a model of N images that cannot fit. Raises LimitError."""
    number = count or config.sample.count or num_images
    samples = _sample_bytes(config, number)
    memory = {"samples": samples}
    if method_of(config).trained:
        cost = _cost(config, num_images, number)
        memory["weights"] = _FLOAT * cost.parameters
        memory["sampling"] = int(WORK_SPACE * cost.evaluation_bytes)
    h, w = config.data_loader.image_size
    many = number > samplers.batch_size((h, w))
    needed = Need(memory, {"samples": samples, "finished batches": samples if many else 0})
    check_fits(f"{number} samples", needed, device, path, "fewer samples need less")


def check_fits(
    name: str, needed: Need, device: torch.device, path: Path, remedy: str = _REMEDY
) -> None:
    """Raise LimitError where the memory of the device, or the disk of `path`, has less free."""
    for what, parts, free in (
        (f"memory ({device})", needed.memory, free_memory(device)),
        (f"disk ({path})", needed.disk, free_disk(path)),
    ):
        total = sum(parts.values())
        if total > free:
            listed = ", ".join(f"{part} {readable(size)}" for part, size in parts.items() if size)
            raise LimitError(
                f"{name}: needs about {readable(total)} of {what} ({listed}), and "
                f"{readable(free)} are free; {remedy}"
            )


def need(config: AnyConfig, num_images: int) -> Need:
    """What a run of the config on N images needs, at the most."""
    images = num_images * _image_bytes(config)
    method = method_of(config)
    fields, scores = method.field_bytes(num_images)
    number = config.sample.count or (0 if config.held_out else num_images)
    samples = _sample_bytes(config, number)
    disk = {"samples": samples, "reports": REPORTS}
    if not method.trained:
        pairs = _FLOAT * num_images * number
        return Need({"images": 2 * images, "sampling": samples + 2 * pairs}, disk)
    cost = _cost(config, num_images, number)
    weights = _FLOAT * cost.parameters
    state = weights * (3 if config.training.ema is None else 4)  # Adam has two moments
    memory = {
        "images": 2 * images,
        "scores": fields,
        "weights and optimiser": state + weights,
        "training or sampling": max(
            int(WORK_SPACE * cost.step_bytes),
            int(WORK_SPACE * cost.evaluation_bytes) + samples,
        ),
        "a checkpoint on its way to the disk": 2 * state,
    }
    return Need(memory, {"checkpoints": 3 * state, "model": weights, "scores": scores, **disk})


def need_of_solve(config: Config, num_images: int) -> Need:
    """What the pre-computation alone of N images needs, at the most."""
    data = config.data_loader
    shape = (data.channels, *data.image_size)
    N = config.diffusion.num_timesteps
    fields, scores = precomputation.field_bytes(shape, N, num_images)
    images = num_images * _image_bytes(config)
    if num_images > precomputation.SHOWN:
        scores += images * config.diffusion.num_timesteps
    return Need({"images": 2 * images, "scores": fields}, {"scores": scores})


def together(needs: list[Need], at_a_time: int) -> Need:
    """Of several runs, `at_a_time` of them together: the memory of the largest, the disk of all;
    checkpoints are gone when a run is finished."""
    memory = max((each.memory for each in needs), key=lambda parts: sum(parts.values()))
    checkpoints = [each.disk.get("checkpoints", 0) for each in needs]
    disk = {
        "checkpoints": at_a_time * max(checkpoints),
        "finished runs": sum(sum(each.disk.values()) for each in needs) - sum(checkpoints),
    }
    return Need({part: at_a_time * size for part, size in memory.items()}, disk)


def _sample_bytes(config: AnyConfig, number: int) -> int:
    """Of samples, and of the first batch the states that are shown on its way, from every prior."""
    h, w = config.data_loader.image_size
    first = min(number, samplers.batch_size((h, w)))
    states = samplers.SNAPSHOTS * first + 3 * number
    return states * (1 + len(config.misc.profile_priors)) * _image_bytes(config)


def _cost(config: AnyConfig, num_images: int, number: int) -> Cost:
    """Of the network for N images, of which `number` samples are drawn."""
    data = config.data_loader
    h, w = data.image_size
    together, held_out = samplers.batch_size((h, w)), config.held_out
    at_once = min(number, together)
    if held_out and held_out.of_dataset:
        at_once = together
    elif held_out:  # a tile at a time is evaluated, counted in images of as many pixels
        tile = min(held_out.crop or tiles.SIDE, tiles.SIDE) ** 2
        at_once = max(at_once, -(-tile // (h * w)))
    method = method_of(config)
    model, indices = method.model(), method.num_indices(num_images)
    return cost_of(model, data.image_size, data.batch_size, indices, at_once)


@functools.cache
def cost_of(
    model: Model, size: tuple[int, int], batch_size: int, indices: int, at_once: int
) -> Cost:
    """Of the model's network on images of this size, from shapes alone. It tells `indices` images
    apart, and is evaluated on `at_once` images together. Raises ConfigError where the images are
    too small for it."""
    with torch.device("meta"):
        network = create(model, size, indices, 1.0)

    def evaluate(count: int) -> torch.Tensor:
        x = torch.empty(count, model.in_channels, *size, device="meta")
        index = torch.zeros(count, dtype=torch.long, device="meta")
        answer: torch.Tensor = network(x, torch.empty(count, device="meta"), index)
        return answer

    try:
        with _LiveBytes() as step:
            answer = evaluate(batch_size)
        del answer
        with torch.no_grad(), _LiveBytes() as evaluation:
            evaluate(at_once)
    except ValueError as error:  # a normalisation of one number
        raise ConfigError(
            f"data_loader.image_size: {size[0]}x{size[1]} is too small for the network ({error}); "
            f"larger sides or fewer levels (model.ch_mult) are needed"
        ) from None
    return Cost(
        parameters=network.num_parameters,
        step_bytes=step.peak,
        evaluation_bytes=evaluation.peak,
    )


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on the device; on the CPU, what the system and the control group of
    this process (a container's) leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _free_in_group(Path("/sys/fs/cgroup")))


def free_disk(path: Path) -> int:
    """Bytes free where `path` is, or will be made."""
    existing = next(
        place for place in (path.absolute(), *path.absolute().parents) if place.exists()
    )
    return shutil.disk_usage(existing).free


def _image_bytes(config: AnyConfig) -> int:
    h, w = config.data_loader.image_size
    return _FLOAT * config.data_loader.channels * h * w


def _free_in_group(group: Path) -> int:
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
        statistics = dict(
            line.split()
            for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
        return int(limit) - used + int(statistics.get("inactive_file", 0))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return 2**63


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The largest number of bytes of tensors, made inside, that were alive at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._seen:
            self._seen.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size


def readable(count: int) -> str:
    """A number of bytes in MiB or GiB."""
    value, unit = (count / 2**30, "GiB") if count >= 2**30 else (count / 2**20, "MiB")
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
