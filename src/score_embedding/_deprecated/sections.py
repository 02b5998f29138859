"""Deprecated: score_embedding.config.sections."""

from score_embedding._deprecated import moved

__getattr__ = moved("score_embedding.sections", "config.sections")
