"""The YAML config of a run: its sections, how they fit together, how a file becomes one."""

from score_embedding._deprecated import moved

__getattr__ = moved(__name__, Config="config.schema", BaselineConfig="config.schema")
