"""One optimiser step of the network `unet`: forward, loss, backward, Adam.

The sizes are those of cifar1 (batch 20, 3x32x32). Compares variants with plain eager float32 in
NCHW memory and default Adam. There is no fixed target: the table says which variants are faster on
the CPU it was run on.

    python benchmarks/training_step.py                      # ch 128, as published: about 3 minutes
    python benchmarks/training_step.py --ch 64
    python benchmarks/training_step.py --ch 32 --rounds 7
    python benchmarks/training_step.py --compile            # adds torch.compile, minutes to compile

"NCHW" is the memory format of input and weights. Inside the network many activations become
channels_last in any case (at ch 64, as many group norms get it as with channels_last weights).

"output difference" is the relative difference between the outputs of the untrained network and of
the plain one, in eval mode: it shows that the variants compute the same. "cheap dropout" is an
experiment. nn.Dropout draws its mask with bernoulli_, one number after the other in double
precision unless the CPU is an Intel one; here one 64-bit draw gives the mask of four elements. The
share p is accurate to 1/65536.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from _common import environment, in_turns, photographs, ratios, spread, write
from score_embedding.config.loading import load
from score_embedding.methods.network import build

BATCH, SIZE = 20, 32
THREADS = torch.get_num_threads()


@dataclass(frozen=True)
class Variant:
    channels_last: bool = False
    fused: bool = False
    bfloat16: bool = False
    threads: int | None = None
    cheap_dropout: bool = False
    compiled: bool = False


VARIANTS = {
    "plain": Variant(),
    "channels_last": Variant(channels_last=True),
    "channels_last, fused Adam": Variant(channels_last=True, fused=True),
    "NCHW, fused Adam": Variant(fused=True),
    "bfloat16 autocast, channels_last": Variant(channels_last=True, bfloat16=True),
    "plain, 1 thread": Variant(threads=1),
    "plain, cheap dropout": Variant(cheap_dropout=True),
    "channels_last, fused Adam, cheap dropout": Variant(True, True, cheap_dropout=True),
}


class CheapDropout(nn.Module):
    def __init__(self, p: float):
        super().__init__()
        self.dropped = round(p * 2**16)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        # All 64 bits: random_() alone leaves the highest at 0, and a quarter of x never dropped.
        words = torch.empty(x.numel() // 4 + 1, dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: x.numel()] >= self.dropped - 2**15
        scale = kept.to(x.dtype).mul_(2**16 / (2**16 - self.dropped))
        return x * scale.as_strided(x.shape, x.stride())


def exchange_dropout(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout) and child.p > 0:
                setattr(module, name, CheapDropout(child.p))


def prepare(variant: Variant, ch: int) -> tuple[Callable[[], None], Tensor]:
    """A function that does one step, and the untrained network's output in eval mode."""
    config = load("cifar1", [f"model.ch={ch}", "model.network=unet"])
    network = build(config.model, (SIZE, SIZE), 1, 1.0, seed=0, device=torch.device("cpu"))
    memory = torch.channels_last if variant.channels_last else torch.contiguous_format
    network.to(memory_format=memory)
    if variant.cheap_dropout:
        exchange_dropout(network)
    # None is the default: not fused on the CPU.
    fused = True if variant.fused else None
    optimiser = torch.optim.Adam(network.parameters(), lr=config.training.lr, fused=fused)
    run = torch.compile(network) if variant.compiled else network
    x, t = batch()
    x = x.contiguous(memory_format=memory)
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    target = target.contiguous(memory_format=memory)

    def output() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.bfloat16):
            return run(x, t).float()

    def step() -> None:
        torch.set_num_threads(variant.threads or THREADS)
        optimiser.zero_grad(set_to_none=True)
        (output() - target).square().mean().backward()
        optimiser.step()
        torch.set_num_threads(THREADS)

    network.eval()
    with torch.no_grad():
        untrained = output().contiguous()
    network.train()
    return step, untrained


def batch() -> tuple[Tensor, Tensor]:
    images = photographs(SIZE).float()
    repeats = -(-BATCH // len(images))
    return images.repeat(repeats, 1, 1, 1)[:BATCH], torch.linspace(1e-3, 1, BATCH)


def compare(ch: int, rounds: int, variants: dict[str, Variant]) -> list[dict[str, Any]]:
    prepared = {name: prepare(variant, ch) for name, variant in variants.items()}
    reference = prepared["plain"][1]
    seconds = in_turns({name: step for name, (step, _) in prepared.items()}, rounds)
    rows = []
    for name, (_, untrained) in prepared.items():
        gain = spread(ratios(seconds[name], seconds["plain"]))
        difference = (untrained - reference).norm() / reference.norm()
        rows.append(
            {
                "variant": name,
                "ch": ch,
                "seconds": median(seconds[name]),
                "seconds / plain": gain["median"],
                "min": gain["min"],
                "max": gain["max"],
                "output difference": float(difference),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ch", type=int, default=128, help="model.ch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    arguments = parser.parse_args()
    variants = dict(VARIANTS)
    if arguments.compile:
        variants["torch.compile, channels_last"] = Variant(channels_last=True, compiled=True)
    machine = environment()
    rows = compare(arguments.ch, arguments.rounds, variants)
    write(f"training_step_ch{arguments.ch}", rows, machine)


if __name__ == "__main__":
    main()
