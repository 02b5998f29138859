"""Sampling with a closed-form start: how near few steps come to many, with and without it.

    python benchmarks/gaussian_start.py      # ten minutes on one thread

A residual model of the density `combined` is trained on 6000 images of Fashion-MNIST for TRAINED
seconds, with a diffusion up to noise of 61, as wide as Karras et al.'s. The figures are the root
mean square difference of 16 samples to those of 60 steps of Heun's method from the same start.
Writes results/gaussian_start.json and .md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from _common import environment, write
from score_embedding.config import loading
from score_embedding.config.schema import Config
from score_embedding.data.datasets import load_dataset
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel, build_network
from score_embedding.training.loop import train

TRAINED, SAMPLES, MANY = 150, 16, 60
STEPS = (6, 8, 12, 18)
LEVELS = (None, 30, 20, 12, 8, 5)
CPU = torch.device("cpu")


def config_of(steps: int, level: float | None) -> Config:
    values: dict[str, Any] = {
        "name": "gaussian_start",
        "data_loader": {
            **{"dataset": "fashion_mnist", "num_images": 6000, "channels": 1},
            **{"contrast": "own", "image_size": 32, "batch_size": 16},
        },
        "diffusion": {"sigma": 200, "embedding": "residual"},
        "image_density": {"kind": "combined"},
        "training": {"epochs": 10**6, "seconds": TRAINED, "lr": 1e-3, "grad_clip": 1, "ema": 0.995},
        "model": {
            **{"network": "unet", "in_channels": 1, "out_channels": 1, "ch": 16},
            **{"ch_mult": [1, 2, 2], "num_res_blocks": 1, "attention_resolutions": []},
            **{"dropout": 0.0, "embedding_method": "fourier"},
        },
        "sample": {"solver": "heun", "steps": steps, "gaussian_above": level},
    }
    config = loading.validate(values, "gaussian_start")
    assert isinstance(config, Config)
    return config


def main() -> None:
    torch.set_num_threads(1)
    machine = environment()
    config = config_of(MANY, None)
    images = load_dataset(config.data_loader)
    method = method_of(config)
    known = method.precompute(images, CPU)
    network = build_network(method, len(images), CPU)
    history = train(network, method.objective(images, known), config)
    print(f"{len(history.rows)} steps", flush=True)

    def samples(steps: int, level: float | None) -> Tensor:
        network_method = method_of(config_of(steps, level))
        return TrainedModel(network_method, network, known).sample(images[:SAMPLES]).x

    exact = samples(MANY, None)
    rows = []
    for level in LEVELS:
        row: dict[str, Any] = {"closed form down to noise": "none" if level is None else level}
        for steps in STEPS:
            error = float((samples(steps, level) - exact).square().mean().sqrt())
            row[f"{2 * steps} evaluations"] = f"{error:.4f}"
        rows.append(row)
        print(row, flush=True)
    write("gaussian_start", rows, {"steps of training": len(history.rows), **machine})


if __name__ == "__main__":
    main()
