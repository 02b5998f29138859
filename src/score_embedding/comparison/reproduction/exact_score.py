"""What the exact score of the images reaches: the bound of what a trained network can reach, if it
learns nothing but that score."""

from __future__ import annotations

from statistics import median

import torch

from score_embedding.comparison.reproduction.published import OWN
from score_embedding.comparison.spec import Comparison
from score_embedding.config import loading
from score_embedding.data.datasets import load_dataset
from score_embedding.evaluation import samples
from score_embedding.methods.base import method_of
from score_embedding.methods.model import TrainedModel


def described(comparison: Comparison, device: torch.device) -> str:
    """SSIM and MSE of the samples of score embedding's own sampler with the exact score in place of
    the network, the median over the seeds."""
    values = comparison.configs[OWN].model_dump() | {"sample_method": "closed_form"}
    images = load_dataset(comparison.configs[OWN].data_loader).to(device)
    measured = []
    for seed in comparison.seeds:
        values["training"]["seed"] = seed
        method = method_of(loading.validate(values, source="closed_form"))
        model = TrainedModel(method, None, method.precompute(images, device))
        measured.append(samples.evaluate(model, images, {}))
    ssim = median(row["ssim_minmax"] for row in measured)
    mse = median(row["mse_minmax"] for row in measured)
    return (
        f"the exact score of the images, without training, ends at SSIM {ssim:.4f} and MSE "
        f"{mse:.1e} with this sampler and start"
    )
