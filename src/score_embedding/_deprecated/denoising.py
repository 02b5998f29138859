"""Deprecated: score_embedding.restoration, where each name has a module."""

from score_embedding._deprecated import moved

__getattr__ = moved(
    "score_embedding.denoising",
    denoise="restoration.denoising",
    inpaint="restoration.inpainting",
    bundled="restoration.models",
    estimate_sigma="restoration.noise_estimation",
)
