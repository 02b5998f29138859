"""Reading pickles of numpy arrays, and of nothing else.

Loading a pickle can run any code its author chose. The unpickler here resolves only the few names
that numpy's own arrays need, so that anything else is refused before it is called.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from score_embedding.errors import DataError

_RECONSTRUCT = np.empty(0).__reduce__()[0]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 2 wrote array bytes; no other codec is needed."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return codecs.encode(text, "latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def read(source: bytes, name: str | Path, encoding: str = "ASCII") -> Any:
    """The object of a pickle made of numpy arrays, lists, dicts, strings and numbers.

    `name` stands for the file in errors; `encoding` is pickle's, "bytes" for files of Python 2.

    Raises
    ------
    DataError : the pickle is truncated, or asks for anything but numpy arrays.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(source), encoding=encoding).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(
            f"{name}: not a pickle of plain numpy arrays ({error}); only those are read, because "
            f"other pickles can run code"
        ) from error
