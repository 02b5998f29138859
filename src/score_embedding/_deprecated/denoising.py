"""Deprecated: score_embedding.restoration.denoising."""

from score_embedding._deprecated import moved

__getattr__ = moved("score_embedding.denoising", "restoration.denoising")
