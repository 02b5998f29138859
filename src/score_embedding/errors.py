"""The exceptions of this package. The command line prints the text and exits with `exit_code`."""

from __future__ import annotations

import signal


class ScoreEmbeddingError(Exception):
    """Base of all errors a user can cause or cure; the message names the thing and the remedy."""

    exit_code = 2


class ConfigError(ScoreEmbeddingError):
    """A config name, key or value that is not allowed."""


class DataError(ScoreEmbeddingError):
    """An image or data set that cannot be read or used."""


class LimitError(ScoreEmbeddingError):
    """More memory or disk needed than there is."""


class RunFolderError(ScoreEmbeddingError):
    """A run folder that is missing, incomplete, or belongs to another config."""


class CheckpointError(ScoreEmbeddingError):
    """A checkpoint or model that is missing, damaged, or of another config."""


class ConvergenceError(ScoreEmbeddingError):
    """An iteration that did not reach its tolerance.

    Attributes
    ----------
    residuals : list[float]
        The relative changes of the iterations made, in order.
    """

    exit_code = 3

    def __init__(self, message: str, residuals: list[float]):
        super().__init__(message)
        self.residuals = residuals


class DivergenceError(ScoreEmbeddingError):
    """A loss, score or sample that is not finite."""

    exit_code = 3


class IncompleteError(ScoreEmbeddingError):
    """A set of runs of which some are missing or did not show what they should."""

    exit_code = 1


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived, and all files are complete. Not an Exception, so that nothing
    between the training loop and the entry point handles it as an error."""

    def __init__(self, number: signal.Signals):
        super().__init__(number)  # all of its state, so that it can pass between processes
        self.exit_code = 128 + number

    def __str__(self) -> str:
        return ": ".join([f"stopped by {self.args[0].name}", *getattr(self, "__notes__", [])[-1:]])
