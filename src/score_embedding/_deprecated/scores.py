"""Deprecated: score_embedding.densities."""

from score_embedding._deprecated import moved

__getattr__ = moved("score_embedding.scores", "densities")
