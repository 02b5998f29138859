"""Everything that changes while training: what a checkpoint is made of, and restored from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, cast

import torch
from pydantic import Field, PlainValidator, TypeAdapter
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from score_embedding.config.sections import Training
from score_embedding.errors import CheckpointError
from score_embedding.methods.network import ScoreNetwork

Tensors = tuple[Tensor, ...] | list[Tensor]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return value


Number = Annotated[float, PlainValidator(_number)]  # a step stays an integer


@dataclass(frozen=True)
class Restart:
    """Training diverged in `step`, for the reason given, and continued after step `back_to` with
    half the learning rate."""

    step: int
    back_to: int
    reason: str


@dataclass
class History:
    """One row a step: step, training_seconds, loss, and the metrics where one was evaluated.

    `training_seconds` is the clock: what was computed before the first step, by stage in
    `precompute_seconds`, and all steps since, those that a restart has undone among them.
    """

    rows: list[dict[str, Number]] = field(default_factory=list)
    training_seconds: Seconds = 0.0
    evaluation_seconds: Seconds = 0.0
    precompute_seconds: dict[str, Seconds] = field(default_factory=dict)
    restarts: list[Restart] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.rows)

    def add_final(self, metrics: dict[str, float]) -> None:
        """The metrics at the end of training, or of a method that is not trained."""
        if not self.rows:
            self.rows.append({"step": 0, "training_seconds": self.training_seconds})
        self.rows[-1].update(metrics)


_HISTORY = TypeAdapter(History)
_SECONDS = TypeAdapter(Seconds)


@dataclass
class TrainingState:
    """The network, its optimiser and average, the generator of batches, the history, the clock time
    of the next evaluation, and whether training has ended."""

    network: ScoreNetwork
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    generator: torch.Generator
    history: History
    next_evaluation: float
    finished: bool = False

    @property
    def averaged(self) -> ScoreNetwork:
        """What is evaluated and kept: the averaged weights where there are any."""
        return cast(ScoreNetwork, self.average.module) if self.average else self.network

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """All tensors of the state, and the random states: of batches, and of dropout, which is
        torch's own on the CPU and on `device`."""
        found = {f"network/{name}": w for name, w in self.network.state_dict().items()}
        if self.average:
            found |= {f"average/{name}": w for name, w in self.average.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"optimizer/{i}/{name}": value for name, value in moments.items()}
        found["random/batches"] = self.generator.get_state()
        found["random/cpu"] = torch.get_rng_state()
        if device.type == "cuda":
            found["random/cuda"] = torch.cuda.get_rng_state(device)
        return found

    def values(self) -> dict[str, Any]:
        """All numbers of the state but the rows of metrics."""
        history = {item.name: getattr(self.history, item.name) for item in fields(History)}
        del history["rows"]
        return {
            "history": {**history, "restarts": [asdict(each) for each in self.history.restarts]},
            "next_evaluation": self.next_evaluation,
            "finished": self.finished,
        }

    def restore(
        self,
        tensors: dict[str, Tensor],
        values: dict[str, Any],
        rows: list[dict[str, Any]],
        device: torch.device,
    ) -> None:
        """Take the state of a checkpoint, in place. Raises CheckpointError where it is another
        network's, or no state at all."""
        try:
            self.network.load_state_dict(_part(tensors, "network/"))
            if self.average:
                self.average.load_state_dict(_part(tensors, "average/"))
            self._restore_optimizer(_part(tensors, "optimizer/"))
            self.generator.set_state(tensors["random/batches"])
            torch.set_rng_state(tensors["random/cpu"])
            if device.type == "cuda":
                torch.cuda.set_rng_state(tensors["random/cuda"], device)
            self.history = _HISTORY.validate_python({**values["history"], "rows": rows})
            if self.history.step != values["step"]:
                raise ValueError(f"{self.history.step} rows of metrics")
            self.next_evaluation = _SECONDS.validate_python(values["next_evaluation"])
            self.finished = bool(values["finished"])
        except (LookupError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint is not one of this config ({error})") from error

    def is_finite(self) -> bool:
        """Whether every weight is a finite number."""
        return all(bool(w.isfinite().all()) for w in self.network.parameters())

    def _restore_optimizer(self, tensors: dict[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            i, name = key.split("/")
            parameter = parameters[int(i)]
            if name != "step":  # in the parameter's own memory format, as the fused step needs it
                if value.shape != parameter.shape or value.dtype != parameter.dtype:
                    raise ValueError(f"{key} of {value.dtype}, shape {tuple(value.shape)}")
                value = torch.empty_like(parameter).copy_(value)
            elif value.shape != () or value.dtype != torch.float32:
                raise ValueError(f"{key} is not a number of steps")
            moments.setdefault(int(i), {})[name] = value
        kinds = {tuple(sorted(each)) for each in moments.values()}
        if not kinds <= {("exp_avg", "exp_avg_sq", "step")}:
            raise ValueError(f"the optimiser's state has {kinds}")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def start(
    network: ScoreNetwork,
    options: Training,
    device: torch.device,
    precompute_seconds: dict[str, float],
    first_evaluation: float,
) -> TrainingState:
    """The state before the first step."""
    before = sum(precompute_seconds.values())
    return TrainingState(
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=options.lr, fused=device.type != "mps"),
        average=_average(network, options),
        generator=torch.Generator().manual_seed(options.seed),  # on the CPU: the same everywhere
        history=History(training_seconds=before, precompute_seconds=dict(precompute_seconds)),
        next_evaluation=before + first_evaluation,
    )


def lr_factor(k: int, options: Training, restarts: int = 0) -> float:
    """The factor of lr in the step after k steps: it rises linearly over training.warmup, and each
    restart halves it."""
    risen = min(1.0, (k + 1) / options.warmup) if options.warmup else 1.0
    return float(risen / 2**restarts)


def ema_decay(k: int, decay: float) -> float:
    """The share of the average that stays at update k = 1, 2, ..."""
    return min(decay, (1 + k) / (10 + k))


def _average(network: ScoreNetwork, options: Training) -> AveragedModel | None:
    """The exponential moving average of the weights, which starts at the untrained ones."""
    if options.ema is None:
        return None
    decay = options.ema

    def update(average: Tensors, current: Tensors, k: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 - ema_decay(int(k), decay))

    average = AveragedModel(network, multi_avg_fn=update)
    average.n_averaged.fill_(1)  # at 0 the first update would copy the weights instead
    return average


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}
