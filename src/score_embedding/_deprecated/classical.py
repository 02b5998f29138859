"""Deprecated: score_embedding.restoration.rivals."""

from score_embedding._deprecated import moved

__getattr__ = moved("score_embedding.classical", "restoration.rivals")
